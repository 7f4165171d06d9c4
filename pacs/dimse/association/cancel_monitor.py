"""The watcher: sees C-CANCEL, release and loss on associations whose own thread is busy elsewhere.

A thread in SQL or in a file cannot read its own socket. While it is busy its association is watched here, by one
thread for the whole process; what arrives is taken in by `attend`, which cancels the running operation, which
interrupts what its thread waits for. The Pending response that is due meanwhile is sent from here too.
"""

import logging
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pacs.dimse.upper.waiting import Attended, Vigil
from pacs.errors import PacsError


class _Watch:
    """One association being watched, for as long as its thread is busy."""

    def __init__(self, attended: Attended, vigil: Vigil | None) -> None:
        self.attended = attended
        self.vigil = vigil
        self.is_listening = True
        self._lock = threading.Lock()
        self._over = False

    def tick_if_due(self) -> None:
        """Call the vigil's tick when it is due and the association would not have to wait to send it."""
        with self._lock:
            if self.vigil is not None and not self._over:
                if _has_room(self.attended.fileno()):
                    self.vigil.tick_if_due()
                elif (due := self.vigil.tick_due) is not None and time.monotonic() >= due:
                    self.vigil.touch()

    def end(self) -> None:
        """From now on nothing is sent from here: the thread itself may send its final response."""
        with self._lock:
            self._over = True


class Watcher:
    """One thread that looks after the associations of all busy ones. It begins with the first and never blocks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._watches: dict[int, _Watch] = {}
        self._thread: threading.Thread | None = None
        self._bell, self._ring = socket.socketpair()
        self._bell.setblocking(False)
        self._ring.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)

    @contextmanager
    def watching(self, attended: Attended, vigil: Vigil | None = None) -> Iterator[None]:
        """Look after `attended`, and after the clock of `vigil`, while the body runs.

        Within a body of the same association this does nothing more: the outermost one's vigil counts.
        """
        descriptor, watch = attended.fileno(), _Watch(attended, vigil)
        # One that is over already, or that could not take in what arrives, is not looked after.
        begun = descriptor >= 0 and attended.is_attentive and self._begin(descriptor, watch)
        try:
            yield
        finally:
            if begun:
                self._end(descriptor, watch)

    def _begin(self, descriptor: int, watch: _Watch) -> bool:
        with self._lock:
            if descriptor in self._watches:
                return False
            self._watches[descriptor] = watch
            self._selector.register(descriptor, selectors.EVENT_READ)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pacs-watcher", daemon=True)
                self._thread.start()
        if watch.vigil is not None and watch.vigil.tick_due is not None:
            self._wake()
        return True

    def _end(self, descriptor: int, watch: _Watch) -> None:
        with self._lock:
            del self._watches[descriptor]
            self._deafen(descriptor, watch)
        watch.end()

    def _deafen(self, descriptor: int, watch: _Watch) -> None:
        if watch.is_listening:
            watch.is_listening = False
            self._selector.unregister(descriptor)

    def _wake(self) -> None:
        """Let the thread look at its clocks anew; when the bell has been rung often enough, once more is no matter."""
        try:
            self._ring.send(b"\0")
        except BlockingIOError:
            return

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select(self._pause()):
                if key.fileobj is self._bell:
                    self._bell.recv(4096)
                else:
                    self._attend(key.fd)
            with self._lock:
                watches = list(self._watches.values())
            for watch in watches:
                self._guarded(watch.tick_if_due)

    @staticmethod
    def _guarded(look: Callable[[], None]) -> bool:
        """Look after one association; what goes wrong with it must not end the care for all others."""
        try:
            look()
        except PacsError:
            return False  # the association is over: its own thread meets the same and says so
        except Exception:
            logging.getLogger("pacs").exception("the watcher failed on an association")
            return False
        return True

    def _attend(self, descriptor: int) -> None:
        with self._lock:
            watch = self._watches.get(descriptor)
        if watch is None:
            return
        heard = self._guarded(watch.attended.attend)
        if not heard or not watch.attended.is_attentive:
            # What is left unread would wake this thread again and again.
            with self._lock:
                if self._watches.get(descriptor) is watch:
                    self._deafen(descriptor, watch)

    def _pause(self) -> float | None:
        """How long until the next tick is due, in seconds; None when none is."""
        with self._lock:
            vigils = [each.vigil for each in self._watches.values() if each.vigil is not None]
        due = [each.tick_due for each in vigils if each.tick_due is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None


def _has_room(descriptor: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    return any(what & select.POLLOUT for _, what in poller.poll(0))


_shared: list[Watcher] = []
_shared_lock = threading.Lock()


def shared() -> Watcher:
    """The watcher of this process."""
    with _shared_lock:
        if not _shared:
            _shared.append(Watcher())
        return _shared[0]
