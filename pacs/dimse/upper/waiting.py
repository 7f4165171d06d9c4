"""Waiting for one socket while keeping an eye on what else may happen: a cancel, another association, a clock."""

import select
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from pacs.support.cancellation import Cancellation


class Attended(Protocol):
    """What can be looked after while waiting for something else: an association."""

    @property
    def is_attentive(self) -> bool:
        """Whether anything that arrives now would be taken in."""

    def fileno(self) -> int:
        """The socket's file descriptor."""

    def attend(self) -> None:
        """Take in what has arrived, without waiting."""


@dataclass
class Vigil:
    """What a thread looks after while it waits, for as long as one operation runs.

    `attending` are associations whose C-CANCEL, release or loss must be seen meanwhile: the requester of a C-MOVE.
    Once `cancellation` is requested, waiting goes on for at most `grace` seconds, and raises Cancelled then.
    Every `every` seconds without a `touch`, `tick` is called: the Pending response that keeps the requester patient.
    """

    cancellation: Cancellation
    attending: Sequence[Attended] = ()
    grace: float = 0.0
    every: float | None = None
    tick: Callable[[], None] | None = None
    _touched: float = field(default_factory=time.monotonic, repr=False)
    _cancelled_at: float | None = field(default=None, repr=False)

    def attend(self) -> None:
        """Take in what has arrived on the associations attended, which may be the cancel."""
        for each in self.attending:
            each.attend()

    def touch(self) -> None:
        """Begin the time to the next tick anew."""
        self._touched = time.monotonic()

    @property
    def tick_due(self) -> float | None:
        """When the next tick is due, on the monotonic clock; None when there is none, as after a cancel (X2)."""
        if self.every is None or self.tick is None or self.cancellation.requested:
            return None
        return self._touched + self.every

    def tick_if_due(self) -> bool:
        """Call `tick` when its time has come; whether it had."""
        due = self.tick_due
        if due is None or self.tick is None or time.monotonic() < due:
            return False
        self.touch()
        self.tick()
        return True

    def patience(self, *, graceful: bool) -> float | None:
        """When waiting ends for the sake of the cancellation, None while nobody asked to stop."""
        if not self.cancellation.requested:
            return None
        if self._cancelled_at is None:
            self._cancelled_at = time.monotonic()
        return self._cancelled_at + (self.grace if graceful else 0.0)


class Bell:
    """Wakes a thread that waits, from another one. To be among what the waiting one attends, or waited for itself."""

    is_attentive = True

    def __init__(self) -> None:
        self._ear, self._clapper = socket.socketpair()
        self._ear.setblocking(False)
        self._clapper.setblocking(False)

    def fileno(self) -> int:
        """What is readable when the bell was rung and nobody has attended to it."""
        return self._ear.fileno()

    def ring(self) -> None:
        """Wake whoever waits, or will wait next. Once rung, ringing again changes nothing."""
        with suppress(BlockingIOError):
            self._clapper.send(b"\0")

    def attend(self) -> None:
        """Let it be silent again."""
        with suppress(BlockingIOError):
            self._ear.recv(4096)

    def close(self) -> None:
        """Give the sockets back, once nobody rings any more."""
        self._ear.close()
        self._clapper.close()


def wait(
    descriptor: int,
    events: int,
    deadline: float | None,
    vigil: Vigil | None = None,
    *,
    graceful: bool = True,
    ticking: bool = True,
) -> int | None:
    """Wait until `descriptor` has one of `events` (select.POLLIN, select.POLLOUT), once.

    Returns the events it has; 0 when something else was looked after first, so that the caller looks again; None at
    `deadline`, a time of the monotonic clock. Raises Cancelled when the vigil says so: after its grace, or at once
    when not `graceful`. `ticking` says whether the vigil's tick may be called.
    """
    if vigil is None:
        return _poll(descriptor, events, (), deadline)
    if ticking and vigil.tick_if_due():
        return 0
    patience = vigil.patience(graceful=graceful)
    if patience is not None and time.monotonic() >= patience:
        vigil.cancellation.check()
    attending = [each for each in vigil.attending if each.is_attentive and each.fileno() != descriptor]
    until = _earliest(deadline, patience, vigil.tick_due if ticking else None)
    happened = _poll(descriptor, events, attending, until)
    if happened is None and until != deadline:
        return 0
    return happened


def _poll(descriptor: int, events: int, attending: Sequence[Attended], until: float | None) -> int | None:
    """Wait for the descriptor and the attended, once; what the attended have is taken in."""
    poller = select.poll()
    poller.register(descriptor, events)
    attended = {each.fileno(): each for each in attending}
    for each in attended:
        poller.register(each, select.POLLIN)
    ready = dict(poller.poll(milliseconds_until(until)))
    for each in ready.keys() & attended.keys():
        attended[each].attend()
    return ready.get(descriptor, 0) if ready else None


def _earliest(*times: float | None) -> float | None:
    return min((each for each in times if each is not None), default=None)


def milliseconds_until(deadline: float | None) -> int | None:
    """The time to a deadline as `poll` takes it, rounded up: a wait that ends too early would be a busy loop."""
    return None if deadline is None else max(0, int((deadline - time.monotonic()) * 1000) + 1)
