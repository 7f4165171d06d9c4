"""Waiting for one socket while other sockets, a wake-up and a timer are served, and while a cancellation may come."""

import select
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from pacs.support.cancellation import Cancellation
from pacs.support.wakeup import WakeUp


class InputSource(Protocol):
    """A socket whose input is read during a wait for something else: that of an association."""

    @property
    def wants_input(self) -> bool:
        """Whether it would read input that arrives now."""

    def fileno(self) -> int:
        """Return the socket's file descriptor."""

    def process_input(self) -> None:
        """Read what has arrived, without waiting."""


@dataclass
class WaitContext:
    """The input sources, wake-up, timer and cancellation of every wait of one operation.

    `sources` are associations whose C-CANCEL, release or loss must be noticed meanwhile, such as that of the C-MOVE
    requestor. A call of `wake_up.wake()` ends a wait. Once `cancellation` is requested, waits go on for at most `grace`
    seconds, or not at all where it is not graceful, and then raise Cancelled. `tick` is called every `every` seconds
    without a `touch`: it sends the Pending response that keeps the requestor from timing out.
    """

    cancellation: Cancellation
    sources: Sequence[InputSource] = ()
    wake_up: WakeUp | None = None
    grace: float = 0.0
    every: float | None = None
    tick: Callable[[], None] | None = None
    _touched: float = field(default_factory=time.monotonic, repr=False)
    _cancelled_at: float | None = field(default=None, repr=False)

    def process_input(self) -> None:
        """Read what has arrived on the sources, which may be a C-CANCEL."""
        for each in self.sources:
            each.process_input()

    def touch(self) -> None:
        """Restart the time to the next tick."""
        self._touched = time.monotonic()

    @property
    def tick_due(self) -> float | None:
        """The time of the next tick, on the monotonic clock; None without one, as after a cancel (X2)."""
        if self.every is None or self.tick is None or self.cancellation.requested:
            return None
        return self._touched + self.every

    def tick_if_due(self) -> bool:
        """Call `tick` if it is due. Return whether it was."""
        due = self.tick_due
        if due is None or self.tick is None or time.monotonic() < due:
            return False
        self.touch()
        self.tick()
        return True

    def stop_at(self, *, graceful: bool) -> float | None:
        """Return when waiting ends because of the cancellation; None while it is not requested."""
        if not self.cancellation.requested:
            return None
        if self._cancelled_at is None:
            self._cancelled_at = time.monotonic()
        return self._cancelled_at + (self.grace if graceful and self.cancellation.is_graceful else 0.0)


def wait(
    descriptor: int,
    events: int,
    deadline: float | None,
    wait_context: WaitContext | None = None,
    *,
    graceful: bool = True,
    ticking: bool = True,
) -> int | None:
    """Wait once until `descriptor` has one of `events` (select.POLLIN, select.POLLOUT).

    Returns the events it has; 0 when something else happened first, so that the caller checks again; None at
    `deadline`, a time of the monotonic clock. Raises Cancelled on a cancellation: after the grace of `wait_context`, or
    at once when not `graceful`. `ticking` says whether the tick may be called.
    """
    if wait_context is None:
        return _poll(descriptor, events, None, deadline)
    if ticking and wait_context.tick_if_due():
        return 0
    stop_at = wait_context.stop_at(graceful=graceful)
    if stop_at is not None and time.monotonic() >= stop_at:
        wait_context.cancellation.check()
    until = _earliest(deadline, stop_at, wait_context.tick_due if ticking else None)
    happened = _poll(descriptor, events, wait_context, until)
    if happened is None and until != deadline:
        return 0
    return happened


def wait_for(future: Future[bytes], wait_context: WaitContext) -> None:
    """Wait until a future is done. Raises Cancelled after the grace of `wait_context`.

    The wait context is served at least once, so that a C-CANCEL is noticed however fast the futures are.
    """
    with WakeUp() as done:
        future.add_done_callback(lambda _: done.wake())
        wait(done.fileno(), select.POLLIN, None, wait_context)
        while not future.done():
            wait(done.fileno(), select.POLLIN, None, wait_context)


def _poll(descriptor: int, events: int, wait_context: WaitContext | None, until: float | None) -> int | None:
    """Wait once for the descriptor and those of the context; read the input of its sources."""
    poller = select.poll()
    poller.register(descriptor, events)
    if wait_context is None:
        return dict(poller.poll(milliseconds_until(until))).get(descriptor)
    sources = {each.fileno(): each for each in wait_context.sources if each.wants_input}
    sources.pop(descriptor, None)
    for each in sources:
        poller.register(each, select.POLLIN)
    wake_up = wait_context.wake_up
    if wake_up is not None:
        poller.register(wake_up, select.POLLIN)
    ready = dict(poller.poll(milliseconds_until(until)))
    for each in ready.keys() & sources.keys():
        sources[each].process_input()
    if wake_up is not None and wake_up.fileno() in ready:
        wake_up.clear()
    return ready.get(descriptor, 0) if ready else None


def _earliest(*times: float | None) -> float | None:
    return min((each for each in times if each is not None), default=None)


def milliseconds_until(deadline: float | None) -> int | None:
    """Return the time to a deadline for `poll`, rounded up: a wait that ends too early would be a busy loop."""
    return None if deadline is None else max(0, int((deadline - time.monotonic()) * 1000) + 1)
