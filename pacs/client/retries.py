"""Retries of a retrieve with back-off, and its time limit."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from pacs.client.outcomes import Retrieved, combined
from pacs.client.peer import Peer, peer_of
from pacs.dicom.status import (
    CANCEL,
    IDENTIFIER_DOES_NOT_MATCH,
    MOVE_DESTINATION_UNKNOWN,
    NOT_AUTHORIZED,
    SOP_CLASS_NOT_SUPPORTED,
    UNRECOGNIZED_OPERATION,
)
from pacs.errors import (
    AssociationLost,
    AssociationRejected,
    DestinationUnreachable,
    EncryptionFailed,
    InvalidArgument,
    OperationFailed,
    PacsError,
    TimeLimitReached,
)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the first retry, and the most; each pause is twice as long as the one before."""

_LASTING = frozenset(
    (
        CANCEL,
        SOP_CLASS_NOT_SUPPORTED,
        NOT_AUTHORIZED,
        UNRECOGNIZED_OPERATION,
        MOVE_DESTINATION_UNKNOWN,
        IDENTIFIER_DOES_NOT_MATCH,
    )
)
"""Statuses that a retry does not change."""

_REJECTED_PERMANENT = 1
"""Result of an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""


def persistently(
    attempt: Callable[[Peer], Retrieved], peer: Peer | str, *, max_time: float | None, retries: int
) -> Retrieved:
    """Retrieve from a peer, at most `retries` times again, within `max_time` seconds in all.

    Raises InvalidArgument, what the last attempt raises, and TimeLimitReached. An error has what all attempts brought.
    """
    peer = _with_limit(peer_of(peer), max_time)
    if retries < 0:
        raise InvalidArgument(f"The number of retries is at least 0, not {retries}")
    with _naming_the_limit(peer):
        return _Attempts(attempt, peer, retries).run()


def _with_limit(peer: Peer, max_time: float | None) -> Peer:
    if max_time is None:
        return peer
    if not max_time > 0:
        raise InvalidArgument(f"A time limit is more than 0 seconds, not {max_time}")
    until = min(peer.deadlines.until, time.monotonic() + max_time)
    return replace(peer, deadlines=replace(peer.deadlines, until=until))


@contextmanager
def _naming_the_limit(peer: Peer) -> Iterator[None]:
    """Translate the error of a wait that the time limit ended."""
    try:
        yield
    except TimeLimitReached:
        raise
    except (AssociationLost, DestinationUnreachable) as error:
        if peer.deadlines.remaining > 0:
            raise
        raise TimeLimitReached(getattr(error, "retrieved", None)) from error


class _Attempts:
    """The attempts of one retrieve, and what they brought so far."""

    def __init__(self, attempt: Callable[[Peer], Retrieved], peer: Peer, retries: int) -> None:
        self._attempt, self._peer, self._retries = attempt, peer, retries
        self._done: list[Retrieved] = []
        self._began = time.monotonic()

    def run(self) -> Retrieved:
        """Return the result of the first attempt without an error. Raises the last error."""
        for number in range(self._retries + 1):
            try:
                return self._result(self._attempt(self._peer))
            except PacsError as error:
                partial = getattr(error, "retrieved", None)
                if isinstance(partial, Retrieved):
                    error.retrieved = self._result(partial)  # type: ignore[attr-defined]
                if number == self._retries or not is_transient(error):
                    raise
                self._pause(error, pause_after(number))
        raise AssertionError("the last attempt returns or raises")

    def _result(self, retrieved: Retrieved) -> Retrieved:
        """Return the outcome of an attempt, with the files of all attempts."""
        self._done.append(retrieved)
        if len(self._done) == 1:
            return retrieved
        everything = combined(self._done)
        return replace(
            retrieved,
            paths=everything.paths,
            skipped=everything.skipped,
            bytes=everything.bytes,
            elapsed=time.monotonic() - self._began,
        )

    def _pause(self, error: PacsError, seconds: float) -> None:
        """Wait before the next attempt. Raises the error if there is no time for another one."""
        if self._peer.deadlines.remaining <= seconds:
            raise error
        logging.getLogger("pacs").info("retrying in %g s: %s", seconds, error.comment)
        time.sleep(seconds)


def pause_after(number: int) -> float:
    """Return the seconds to wait after an attempt, counted from 0."""
    return min(FIRST_PAUSE * 2.0 ** min(number, 64), LONGEST_PAUSE)  # a larger power has no float


def is_transient(error: PacsError) -> bool:
    """Return whether a later attempt may succeed."""
    if isinstance(error, AssociationRejected):
        return error.result != _REJECTED_PERMANENT
    if isinstance(error, OperationFailed):
        conflicts = getattr(error.retrieved, "conflicts", ())
        return error.status not in _LASTING and not conflicts
    is_lost = isinstance(error, AssociationLost | DestinationUnreachable)
    return is_lost and not isinstance(error, EncryptionFailed | TimeLimitReached)
