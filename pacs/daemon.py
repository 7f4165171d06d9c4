"""The life cycle of the server process: start, reload on SIGHUP, drain on the first signal, stop on the second."""

import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

from pacs.archive import Archive
from pacs.config import Config
from pacs.errors import ConfigurationError
from pacs.observability.events import ConfigurationReloaded, Notice
from pacs.observability.logging import set_level
from pacs.observability.systemd import Notifier

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
    with Bell((*signals, *RELOADING)) as bell:
        archive.start()
        notifier.ready(archive.status)
        with _watched(archive, notifier):
            while bell.wait() in RELOADING:
                reload(archive, read, notifier)
        notifier.stopping(DRAINING)
        stopping()
        threading.Thread(target=_drain, args=(archive, bell), name="pacs-drain", daemon=True).start()
        while bell.wait() in RELOADING:
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


def _drain(archive: Archive, bell: "Bell") -> None:
    """Drain, and say when that is done to the main thread, which waits for it or for another signal."""
    try:
        archive.drain()
    finally:
        bell.ring()


class Bell:
    """Rings for each of `signals` that comes.

    A signal may be delivered to any thread, and between any two steps of the main one: as a byte in a socket, which
    the C level handler writes, none is lost.
    """

    def __init__(self, signals: Iterable[signal.Signals]) -> None:
        self._signals = tuple(signals)
        self._heard, self._rung = socket.socketpair()
        self._rung.setblocking(False)

    def __enter__(self) -> Self:
        self._before = {each: signal.signal(each, lambda *_: None) for each in self._signals}
        self._fd_before = signal.set_wakeup_fd(self._rung.fileno())
        return self

    def __exit__(self, *exc: object) -> None:
        signal.set_wakeup_fd(self._fd_before)
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._heard.close()
        self._rung.close()

    def ring(self) -> None:
        """Ring as a signal would; nobody may be listening any more."""
        with suppress(OSError):
            self._rung.send(b"\0")

    def fileno(self) -> int:
        """What is readable when it has rung and nobody has waited for it."""
        return self._heard.fileno()

    def wait(self) -> int:
        """Wait for one ring: the number of the signal, 0 where it was no signal."""
        return self._heard.recv(1)[0]
