"""The life cycle of the server process: start, reload on SIGHUP, drain on the first signal, stop on the second."""

import select
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Self

from pacs.archive import Archive
from pacs.config import Config
from pacs.errors import ConfigurationError
from pacs.observability.events import ConfigurationReloaded, Notice
from pacs.observability.logging import set_level
from pacs.observability.systemd import Notifier
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
    """Start the archive and serve until a signal comes; then drain it, and at a second signal stop at once.

    `stopping` is called when the first has come. At a SIGHUP the archive goes by what `read` gives from then on.
    `notifier` tells how it stands to who started us. For the main thread of a process, whose handlers of the signals
    are put back at the end. Raises as `Archive.start`.
    """
    notifier = notifier or Notifier()
    with SignalWaiter((*signals, *RELOADING)) as waiter:
        archive.start()
        notifier.ready(archive.status)
        with _watched(archive, notifier):
            while waiter.wait() in RELOADING:
                reload(archive, read, notifier)
        notifier.stopping(DRAINING)
        stopping()
        threading.Thread(target=_drain, args=(archive, waiter), name="pacs-drain", daemon=True).start()
        while waiter.wait() in RELOADING:
            continue  # it stops: there is nothing left that would go by it
        archive.close()


RELOADING = (signal.SIGHUP,)
"""The signals that have the configuration read again."""


def reload(archive: Archive, read: Callable[[], Config] | None, notifier: Notifier) -> bool:
    """Have an archive go by what `read` gives: whether it does. Else it keeps what it has, and the log says why."""
    notifier.reloading()
    try:
        at_start = archive.reload(read() if read is not None else archive.config)
    except ConfigurationError as error:
        why = error.comment.replace("\n", "; ")
        archive.events.publish(Notice(sentence=f"the configuration stays as it was, for the new one is bad: {why}"))
        return False
    finally:
        notifier.ready(archive.status)
    set_level(archive.config.log.level)
    archive.events.publish(ConfigurationReloaded(waits_for_restart=at_start))
    return True


@contextmanager
def _watched(archive: Archive, notifier: Notifier) -> Iterator[None]:
    """While the body runs, the notifier says that we live, as long as it is so and somebody waits for it."""
    if notifier.watchdog_seconds is None:
        yield
        return
    watch = archive.oversight.watch(notifier.watchdog_seconds / 2, notifier.alive)
    watch.start()
    try:
        yield
    finally:
        watch.stop()


def _drain(archive: Archive, waiter: "SignalWaiter") -> None:
    """Drain, and say when that is done to the main thread, which waits for it or for another signal."""
    try:
        archive.drain()
    finally:
        waiter.wake()


class SignalWaiter:
    """Waits for signals in the main thread; the handlers before it are restored at the end of the `with` block.

    Python may run a signal handler in the main thread between any two steps. The C-level handler writes the signal's
    number into a socket instead, so no signal is lost.
    """

    def __init__(self, signals: Iterable[signal.Signals]) -> None:
        self._signals = tuple(signals)
        self._wake_up = WakeUp()

    def __enter__(self) -> Self:
        self._before = {each: signal.signal(each, lambda *_: None) for each in self._signals}
        self._fd_before = signal.set_wakeup_fd(self._wake_up.write_fileno)
        return self

    def __exit__(self, *exc: object) -> None:
        signal.set_wakeup_fd(self._fd_before)
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._wake_up.close()

    def wake(self) -> None:
        """End one `wait` as a signal would; does nothing after the `with` block."""
        self._wake_up.wake()

    def fileno(self) -> int:
        """Return the descriptor that is readable when `wait` will not block."""
        return self._wake_up.fileno()

    def wait(self) -> int:
        """Wait for one signal. Returns its number, 0 after `wake`."""
        poller = select.poll()
        poller.register(self._wake_up, select.POLLIN)
        poller.poll()
        return self._wake_up.read()
