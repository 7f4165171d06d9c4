"""The life cycle of the server process: start, reload on SIGHUP, drain on the first signal, stop on the second."""

import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Self

from pacs.archive import Archive
from pacs.config import Config
from pacs.errors import ConfigurationError, OutOfResources
from pacs.observability.events import ConfigurationReloaded, Notice, ServerStopped, ServerStopping
from pacs.observability.logging import set_level
from pacs.observability.systemd import Notifier
from pacs.support.threads import start_thread
from pacs.support.wakeup import WakeUp

DRAINING = "Draining: waiting for running operations"
"""The status that systemd shows while the server drains."""


def run_until_signalled(
    archive: Archive,
    signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
    stopping: Callable[[], None] = lambda: None,
    read: Callable[[], Config] | None = None,
    notifier: Notifier | None = None,
) -> None:
    """Start the archive and serve until the first signal; then drain it, and stop immediately at the second.

    `stopping` is called at the first signal. At a SIGHUP the archive reloads the configuration that `read` returns.
    `notifier` notifies systemd. Must run in the main thread; the previous signal handlers are restored at the end.
    Raises as `Archive.start`.
    """
    notifier = notifier or Notifier()
    with logged_end(archive), SignalWaiter((*signals, *RELOADING)) as waiter:
        archive.start()
        notifier.ready(archive.status)
        with _watched(archive, notifier):
            while (number := waiter.wait()) in RELOADING:
                if (reloaded := reload(archive, read, notifier)) is not None:
                    confirm(reloaded, archive, notifier)
        announce_stop(number, archive, notifier)
        stopping()
        try:
            start_thread("pacs-drain", _drain, archive, waiter)
        except OutOfResources:  # then a second signal has to wait
            _drain(archive, waiter)
        while waiter.wait() in RELOADING:
            continue  # no reload while the server stops
        archive.close()


@contextmanager
def logged_end(archive: Archive) -> Iterator[None]:
    """Publish after the body that the server has stopped. An exception of the body is no such end."""
    began = time.monotonic()
    yield
    archive.events.publish(ServerStopped(duration=time.monotonic() - began))


def announce_stop(number: int, archive: Archive, notifier: Notifier) -> None:
    """Publish and notify that the server stops because of a signal."""
    archive.events.publish(ServerStopping(signal=signal.Signals(number).name))
    notifier.stopping(DRAINING)


RELOADING = (signal.SIGHUP,)
"""The signals that reload the configuration."""


def reload(archive: Archive, read: Callable[[], Config] | None, notifier: Notifier) -> ConfigurationReloaded | None:
    """Reload the configuration that `read` returns; return what to `confirm`. Otherwise log why not, return None."""
    notifier.reloading()
    try:
        at_start = archive.reload(read() if read is not None else archive.config)
    except ConfigurationError as error:
        why = error.comment.replace("\n", "; ")
        archive.events.publish(Notice(sentence=f"reload rejected, previous settings kept: {why}"))
        notifier.ready(archive.status)
        return None
    set_level(archive.config.log.level)
    return ConfigurationReloaded(waits_for_restart=at_start)


def confirm(reloaded: ConfigurationReloaded, archive: Archive, notifier: Notifier) -> None:
    """Log and notify that all processes of the server have the new configuration."""
    archive.events.publish(reloaded)
    notifier.ready(archive.status)


@contextmanager
def _watched(archive: Archive, notifier: Notifier) -> Iterator[None]:
    """While the body runs, notify the systemd watchdog, if there is one, as long as the server is healthy."""
    if notifier.watchdog_seconds is None:
        yield
        return
    watchdog = archive.monitoring.watchdog(notifier.watchdog_seconds / 2, notifier.alive)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()


def _drain(archive: Archive, waiter: "SignalWaiter") -> None:
    """Drain, then wake the main thread, which waits for this or for another signal."""
    try:
        archive.drain()
    finally:
        waiter.wake()


class SignalWaiter:
    """Waits for signals in the main thread; the handlers before it are restored at the end of the `with` block.

    The handlers count signals, and the C-level handler writes a byte that ends the waiting. A burst of signals may fill
    the socket of the bytes, but not the counts, so no signal is lost.
    """

    def __init__(self, signals: Iterable[signal.Signals]) -> None:
        self._pending = dict.fromkeys(signals, 0)
        """How often each signal arrived since it was returned."""
        self._is_woken = False
        self._wake_up = WakeUp()

    def __enter__(self) -> Self:
        self._before = {each: signal.signal(each, self._count) for each in self._pending}
        self._fd_before = signal.set_wakeup_fd(self._wake_up.write_fileno, warn_on_full_buffer=False)
        return self

    def __exit__(self, *exc: object) -> None:
        signal.set_wakeup_fd(self._fd_before)
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._wake_up.close()

    def _count(self, number: int, _frame: object) -> None:
        self._pending[signal.Signals(number)] += 1

    def wake(self) -> None:
        """End one `wait` as a signal would; does nothing after the `with` block."""
        self._is_woken = True
        self._wake_up.wake()

    def fileno(self) -> int:
        """Return the descriptor that is readable when `take` may have something to return."""
        return self._wake_up.fileno()

    def wait(self) -> int:
        """Wait for one signal. Returns as `take`."""
        poller = select.poll()
        poller.register(self._wake_up, select.POLLIN)
        while True:
            poller.poll()
            if (number := self.take()) is not None:
                return number

    def take(self) -> int | None:
        """Return the number of a signal that arrived, 0 after `wake`, None if there is none.

        Signals are returned in the order of the constructor, those of `RELOADING` once however often they arrived.
        """
        self._wake_up.clear()  # first: a signal after this makes the descriptor readable again
        number = self._next()
        if self._is_woken or any(self._pending.values()):
            self._wake_up.wake()
        return number

    def _next(self) -> int | None:
        for number, count in self._pending.items():
            if count:
                self._pending[number] -= count if number in RELOADING else 1  # a signal may arrive meanwhile
                return number
        if self._is_woken:
            self._is_woken = False
            return 0
        return None
