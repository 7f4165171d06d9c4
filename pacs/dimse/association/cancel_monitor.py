"""The thread that notices C-CANCEL, release and loss on associations whose own threads are busy elsewhere.

A thread in SQL or in a file cannot read its own socket. While it is busy, one monitor thread of the process watches its
association: `process_input` reads what arrives and cancels the running operation, which interrupts the busy thread.
Pending responses that become due meanwhile are sent by the monitor, too.
"""

import logging
import select
import selectors
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pacs.dimse.upper.waiting import InputSource, WaitContext
from pacs.errors import PacsError
from pacs.support.threads import start_thread
from pacs.support.wakeup import WakeUp


class _Watch:
    """An association that is watched while its thread is busy."""

    def __init__(self, source: InputSource, wait_context: WaitContext | None) -> None:
        self.source = source
        self.wait_context = wait_context
        self.is_registered = True
        self._lock = threading.Lock()
        self._over = False

    def tick_if_due(self) -> None:
        """Call the tick if it is due; skip it if its response could not be written without waiting."""
        with self._lock:
            if self.wait_context is not None and not self._over:
                if _is_writable(self.source.fileno()):
                    self.wait_context.tick_if_due()
                elif (due := self.wait_context.tick_due) is not None and time.monotonic() >= due:
                    self.wait_context.touch()

    def end(self) -> None:
        """Send nothing any more: from now on the association's own thread may send its final response."""
        with self._lock:
            self._over = True


class CancelMonitor:
    """One thread that watches the associations of all busy threads; it starts with the first watch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._watches: dict[int, _Watch] = {}
        self._thread: threading.Thread | None = None
        self._wake_up = WakeUp()
        self._selector.register(self._wake_up, selectors.EVENT_READ)

    @contextmanager
    def watching(self, source: InputSource, wait_context: WaitContext | None = None) -> Iterator[None]:
        """Process the input of `source`, and call the tick of `wait_context` when due, while the body runs.

        Nested bodies of one association do nothing more: the wait context of the outermost counts. Raises
        OutOfResources when the thread cannot be started.
        """
        descriptor, watch = source.fileno(), _Watch(source, wait_context)
        # An association that is over, or that holds too much unread input, is not watched.
        begun = descriptor >= 0 and source.wants_input and self._begin(descriptor, watch)
        try:
            yield
        finally:
            if begun:
                self._end(descriptor, watch)

    def _begin(self, descriptor: int, watch: _Watch) -> bool:
        with self._lock:
            if descriptor in self._watches:
                return False
            if self._thread is None:
                self._thread = start_thread("pacs-cancel-monitor", self._run)
            self._watches[descriptor] = watch
            self._selector.register(descriptor, selectors.EVENT_READ)
        if watch.wait_context is not None and watch.wait_context.tick_due is not None:
            self._wake_up.wake()
        return True

    def _end(self, descriptor: int, watch: _Watch) -> None:
        with self._lock:
            del self._watches[descriptor]
            self._unregister(descriptor, watch)
        watch.end()

    def _unregister(self, descriptor: int, watch: _Watch) -> None:
        if watch.is_registered:
            watch.is_registered = False
            self._selector.unregister(descriptor)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select(self._timeout()):
                if key.fileobj is self._wake_up:
                    self._wake_up.clear()
                else:
                    self._process_input(key.fd)
            with self._lock:
                watches = list(self._watches.values())
            for watch in watches:
                self._guarded(watch.tick_if_due)

    @staticmethod
    def _guarded(call: Callable[[], None]) -> bool:
        """Call a function of one association. Return whether it succeeded; its failure must not end the monitor."""
        try:
            call()
        except PacsError:
            return False  # the association is over; its own thread meets the same error and reports it
        except Exception:
            logging.getLogger("pacs").exception("the cancel monitor failed on an association")
            return False
        return True

    def _process_input(self, descriptor: int) -> None:
        with self._lock:
            watch = self._watches.get(descriptor)
        if watch is None:
            return
        succeeded = self._guarded(watch.source.process_input)
        if not succeeded or not watch.source.wants_input:
            # Input that stays unread would wake this thread in a busy loop.
            with self._lock:
                if self._watches.get(descriptor) is watch:
                    self._unregister(descriptor, watch)

    def _timeout(self) -> float | None:
        """Return the seconds until the next tick; None without one."""
        with self._lock:
            wait_contexts = [each.wait_context for each in self._watches.values() if each.wait_context is not None]
        due = [each.tick_due for each in wait_contexts if each.tick_due is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None


def _is_writable(descriptor: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    return any(events & select.POLLOUT for _, events in poller.poll(0))


_shared: list[CancelMonitor] = []
_shared_lock = threading.Lock()


def shared() -> CancelMonitor:
    """Return the monitor of this process."""
    with _shared_lock:
        if not _shared:
            _shared.append(CancelMonitor())
        return _shared[0]
