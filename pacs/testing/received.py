"""What came to a server: associations, and the requests on them, in the order in which they came."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pacs.support.suggestion import suggestion
from pacs.testing.keyword_check import check_keywords
from pacs.testing.message_log import Notebook
from pacs.testing.records import ReceivedAssociation, ReceivedRequest

PATIENCE = 10.0
"""Seconds that what is waited for may take."""


class Received:
    """All that came to one server; safe to look at while more comes. Each list is in the order of coming."""

    def __init__(self, notes: Notebook) -> None:
        self._notes = notes

    def __repr__(self) -> str:
        return f"<Received: {counted(self)}; {_summary(self.requests)}>"

    # --- what came ------------------------------------------------------------------------------------------------

    @property
    def associations(self) -> list[ReceivedAssociation]:
        """Every association that was asked for, rejected ones too."""
        return self._notes.associations

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Every request."""
        return self._notes.requests

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
        """Every request for which a C-CANCEL came."""
        return [each for each in self.requests if each.cancelled]

    def of(self, operation: str) -> list[ReceivedRequest]:
        """Every request of one operation, such as "C-FIND"."""
        return [each for each in self.requests if each.operation == operation]

    def clear(self) -> None:
        """Forget what came so far."""
        self._notes.clear()

    # --- what was expected ----------------------------------------------------------------------------------------

    def expect(self, operation: str, **keys: Any) -> ReceivedRequest:
        """The first request of an operation with these keys, by keyword of the Identifier or attribute of the request.

        Raises AssertionError that says what came instead, and which key differs, and ValueError for a key that there
        is not, with the one that was probably meant.
        """
        _check(keys)
        came = self.of(operation)
        for each in came:
            if not _differences(each, keys):
                return each
        raise AssertionError(_explained(operation, keys, came, self.requests))

    def expect_c_echo(self, **keys: Any) -> ReceivedRequest:
        """As `expect`."""
        return self.expect("C-ECHO", **keys)

    def expect_c_store(self, **keys: Any) -> ReceivedRequest:
        """As `expect`, such as `expect_c_store(sop_instance_uid="1.2.3")`."""
        return self.expect("C-STORE", **keys)

    def expect_c_find(self, **keys: Any) -> ReceivedRequest:
        """As `expect`, such as `expect_c_find(PatientID="P1")`."""
        return self.expect("C-FIND", **keys)

    def expect_c_move(self, **keys: Any) -> ReceivedRequest:
        """As `expect`, such as `expect_c_move(destination="STORAGE_SCP", StudyInstanceUID="1.2.3")`."""
        return self.expect("C-MOVE", **keys)

    def expect_c_get(self, **keys: Any) -> ReceivedRequest:
        """As `expect`."""
        return self.expect("C-GET", **keys)

    def wait_for(self, condition: Callable[["Received"], object], seconds: float = PATIENCE) -> None:
        """Wait until something has come, such as `lambda received: received.c_cancel`. Raises AssertionError."""
        if not self._notes.wait_for(lambda: condition(self), seconds):
            raise AssertionError(f"it did not come within {seconds:g} s; {_summary(self.requests)}")

    def wait_for_ends(self, seconds: float = PATIENCE) -> list[ReceivedAssociation]:
        """All associations, once each of them has ended. Raises AssertionError."""
        self.wait_for(lambda received: all(each.ended_by for each in received.associations), seconds)
        return self.associations


# --- in words -----------------------------------------------------------------------------------------------------

_MISSING = "is not there"

_OF_REQUESTS = tuple(each for each in dir(ReceivedRequest) if not each.startswith("_"))
"""What a request says beside its Identifier."""

_TAG = re.compile(r"[0-9A-F]{8}")
"""How `keys` name what has no keyword."""


def counted(received: Received) -> str:
    """How many associations and requests came."""
    return f"{number_of(received.associations, 'association')}, {number_of(received.requests, 'request')}"


def number_of(several: Sequence[object], thing: str) -> str:
    """How many of a thing there are, in words: "1 request", "2 requests"."""
    return f"{len(several)} {thing}{'s' * (len(several) != 1)}"


def _check(keys: Iterable[str]) -> None:
    """Raises ValueError for what is neither a keyword of PS3.6, a tag in hexadecimal nor said by requests."""
    for key in keys:
        if key[:1].islower() and key not in _OF_REQUESTS:
            raise ValueError(f"{key}: requests have no such attribute{suggestion(key, _OF_REQUESTS)}")
    check_keywords(key for key in keys if not key[:1].islower() and not _TAG.fullmatch(key))


def _actual(request: ReceivedRequest, key: str) -> Any:
    """What a request says of a key: of its Identifier, else as an attribute of itself."""
    keys = request.keys
    if key in keys:
        return keys[key]
    return getattr(request, key, _MISSING) if key[:1].islower() else _MISSING


def _differences(request: ReceivedRequest, expected: Mapping[str, Any]) -> list[str]:
    differing = []
    for key, value in expected.items():
        actual = _actual(request, key)
        if actual != value and str(actual) != str(value):
            told = actual if actual is _MISSING else f"is {actual!r}"
            differing.append(f"{key} {told}, expected {value!r}")
    return differing


def _explained(
    operation: str, keys: Mapping[str, Any], came: Sequence[ReceivedRequest], everything: Sequence[ReceivedRequest]
) -> str:
    wanted = ", ".join(f"{key}={value!r}" for key, value in keys.items())
    lines = [f"no {operation} came with {wanted}" if came and wanted else f"no {operation} came"]
    for number, each in enumerate(came, 1):
        lines.append(
            f"  {operation} number {number}, from {each.calling_ae_title}: {'; '.join(_differences(each, keys))}"
        )
        if each.keys:
            lines.append(f"    its keys: {', '.join(f'{key}={value!r}' for key, value in each.keys.items())}")
    return "\n".join(lines if came else [*lines, f"  {_summary(everything)}"])


def _summary(requests: Sequence[ReceivedRequest]) -> str:
    if not requests:
        return "nothing came at all"
    counted = {each.operation: sum(other.operation == each.operation for other in requests) for each in requests}
    return "what came: " + ", ".join(f"{operation} ({count})" for operation, count in counted.items())
