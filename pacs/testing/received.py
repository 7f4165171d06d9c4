"""Everything a server received: associations and requests, in order of arrival."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pacs.support.suggestion import suggestion
from pacs.testing.keyword_check import check_keywords
from pacs.testing.message_log import MessageLog
from pacs.testing.records import ReceivedAssociation, ReceivedRequest

WAIT_SECONDS = 10.0
"""Default timeout in seconds."""


class Received:
    """Everything that one server received; lists are in order of arrival. Thread-safe."""

    def __init__(self, log: MessageLog) -> None:
        self._log = log

    def __repr__(self) -> str:
        return f"<Received: {counted(self)}; {_summary(self.requests)}>"

    # --- requests -------------------------------------------------------------------------------------------------

    @property
    def associations(self) -> list[ReceivedAssociation]:
        """Every requested association, including rejected ones."""
        return self._log.associations

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Every request."""
        return self._log.requests

    @property
    def c_echo(self) -> list[ReceivedRequest]:
        """Every C-ECHO."""
        return self.of("C-ECHO")

    @property
    def c_store(self) -> list[ReceivedRequest]:
        """Every C-STORE."""
        return self.of("C-STORE")

    @property
    def c_find(self) -> list[ReceivedRequest]:
        """Every C-FIND."""
        return self.of("C-FIND")

    @property
    def c_move(self) -> list[ReceivedRequest]:
        """Every C-MOVE."""
        return self.of("C-MOVE")

    @property
    def c_get(self) -> list[ReceivedRequest]:
        """Every C-GET."""
        return self.of("C-GET")

    @property
    def n_action(self) -> list[ReceivedRequest]:
        """Every N-ACTION."""
        return self.of("N-ACTION")

    @property
    def c_cancel(self) -> list[ReceivedRequest]:
        """Every request that was cancelled."""
        return [each for each in self.requests if each.cancelled]

    def of(self, operation: str) -> list[ReceivedRequest]:
        """Return every request of one operation, such as "C-FIND"."""
        return [each for each in self.requests if each.operation == operation]

    def clear(self) -> None:
        """Forget everything received so far."""
        self._log.clear()

    # --- expectations ---------------------------------------------------------------------------------------------

    def expect(self, operation: str, **keys: Any) -> ReceivedRequest:
        """Return the first request of an operation with these keys: keywords of the Identifier or attributes of the
        request.

        Raises AssertionError that lists the requests received and the keys that differ, and ValueError with a
        suggestion for an unknown key.
        """
        _check(keys)
        candidates = self.of(operation)
        for each in candidates:
            if not _differences(each, keys):
                return each
        raise AssertionError(_explain(operation, keys, candidates, self.requests))

    def expect_c_echo(self, **keys: Any) -> ReceivedRequest:
        """Call `expect("C-ECHO", ...)`."""
        return self.expect("C-ECHO", **keys)

    def expect_c_store(self, **keys: Any) -> ReceivedRequest:
        """Call `expect("C-STORE", ...)`, for example `expect_c_store(sop_instance_uid="1.2.3")`."""
        return self.expect("C-STORE", **keys)

    def expect_c_find(self, **keys: Any) -> ReceivedRequest:
        """Call `expect("C-FIND", ...)`, for example `expect_c_find(PatientID="P1")`."""
        return self.expect("C-FIND", **keys)

    def expect_c_move(self, **keys: Any) -> ReceivedRequest:
        """Call `expect("C-MOVE", ...)`, for example `expect_c_move(destination="STORAGE_SCP",
        StudyInstanceUID="1.2.3")`.
        """
        return self.expect("C-MOVE", **keys)

    def expect_c_get(self, **keys: Any) -> ReceivedRequest:
        """Call `expect("C-GET", ...)`."""
        return self.expect("C-GET", **keys)

    def wait_for(self, condition: Callable[["Received"], object], seconds: float = WAIT_SECONDS) -> None:
        """Wait until a condition holds, such as `lambda received: received.c_cancel`. Raises AssertionError."""
        if not self._log.wait_for(lambda: condition(self), seconds):
            raise AssertionError(f"the condition did not hold within {seconds:g} s; {_summary(self.requests)}")

    def wait_for_ends(self, seconds: float = WAIT_SECONDS) -> list[ReceivedAssociation]:
        """Return all associations when each of them has ended. Raises AssertionError."""
        self.wait_for(lambda received: all(each.ended_by for each in received.associations), seconds)
        return self.associations


# --- messages -----------------------------------------------------------------------------------------------------

_MISSING = "is missing"

_REQUEST_ATTRIBUTES = tuple(each for each in dir(ReceivedRequest) if not each.startswith("_"))
"""Attributes of a request, which `expect` accepts besides keys of the Identifier."""

_TAG = re.compile(r"[0-9A-F]{8}")
"""Key for an element without a keyword."""


def counted(received: Received) -> str:
    """Return the numbers of associations and requests."""
    return f"{number_of(received.associations, 'association')}, {number_of(received.requests, 'request')}"


def number_of(several: Sequence[object], thing: str) -> str:
    """Return a number with its noun: "1 request", "2 requests"."""
    return f"{len(several)} {thing}{'s' * (len(several) != 1)}"


def _check(keys: Iterable[str]) -> None:
    """Raise ValueError for a key that is no keyword, hexadecimal tag or attribute of a request."""
    for key in keys:
        if key[:1].islower() and key not in _REQUEST_ATTRIBUTES:
            raise ValueError(f"{key}: requests have no such attribute{suggestion(key, _REQUEST_ATTRIBUTES)}")
    check_keywords(key for key in keys if not key[:1].islower() and not _TAG.fullmatch(key))


def _actual(request: ReceivedRequest, key: str) -> Any:
    """Return the value of a key in the Identifier, or of an attribute of the request."""
    keys = request.keys
    if key in keys:
        return keys[key]
    return getattr(request, key, _MISSING) if key[:1].islower() else _MISSING


def _differences(request: ReceivedRequest, expected: Mapping[str, Any]) -> list[str]:
    differing = []
    for key, value in expected.items():
        actual = _actual(request, key)
        if actual != value and str(actual) != str(value):
            stated = actual if actual is _MISSING else f"is {actual!r}"
            differing.append(f"{key} {stated}, expected {value!r}")
    return differing


def _explain(
    operation: str,
    keys: Mapping[str, Any],
    candidates: Sequence[ReceivedRequest],
    everything: Sequence[ReceivedRequest],
) -> str:
    expected = ", ".join(f"{key}={value!r}" for key, value in keys.items())
    lines = [f"no {operation} received with {expected}" if candidates and expected else f"no {operation} received"]
    for number, each in enumerate(candidates, 1):
        lines.append(
            f"  {operation} number {number}, from {each.calling_ae_title}: {'; '.join(_differences(each, keys))}"
        )
        if each.keys:
            lines.append(f"    its keys: {', '.join(f'{key}={value!r}' for key, value in each.keys.items())}")
    return "\n".join(lines if candidates else [*lines, f"  {_summary(everything)}"])


def _summary(requests: Sequence[ReceivedRequest]) -> str:
    if not requests:
        return "no request received"
    counted = {each.operation: sum(other.operation == each.operation for other in requests) for each in requests}
    return "operations: " + ", ".join(f"{operation} ({count})" for operation, count in counted.items())
