"""The supervisor and its worker processes: forked, replaced when they die, drained and stopped together.

The supervisor prepares the archive, listens, forks the workers, and then waits for signals and for messages of the
workers. It accepts no associations and has one thread, so that it can fork at any time. A socket pair, the channel,
connects it with each worker: the worker reports that it is ready, the supervisor sends commands, and the end of the
channel is that of the process at the other end, even if it was killed.
"""

import gc
import logging
import os
import pickle
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from pacs.archive import Archive
from pacs.config import Config
from pacs.daemon import RELOADING, SignalWaiter, announce_stop, confirm, logged_end, reload
from pacs.dimse.server.association_slots import AssociationSlots
from pacs.errors import ConfigurationError, OutOfResources, PacsError
from pacs.observability.events import ConfigurationReloaded, Notice
from pacs.observability.logging import set_level
from pacs.observability.systemd import Notifier
from pacs.support.threads import start_thread

READY, ALIVE, RELOADED, DRAIN, STOP, RELOAD = b"r", b"a", b"l", b"d", b"s", b"c"
"""The messages on a channel. From a worker: it accepts associations; it is healthy; it has reloaded. To a worker:
drain; stop immediately; reload the configuration that follows, pickled, after its length."""

_LENGTH = struct.Struct(">L")

PATIENCE = 5.0
"""Timeout of a write to a channel in seconds."""

STEADY = 10.0
"""Seconds after which a worker that dies is replaced immediately; after an earlier death there is a growing pause."""

PAUSE, LONGEST_PAUSE = 0.1, 30.0

MOST_FAILED = 5
"""Number of consecutive workers that may die before they are ready; then the supervisor gives up, if none serves."""

GRACE = 10.0
"""Seconds after the drain timeout until a worker that has not ended is killed."""


@dataclass
class _Worker:
    """A worker process: its number, process id, the supervisor's end of its channel, and its start time."""

    number: int
    pid: int
    channel: socket.socket
    began: float
    is_ready: bool = False
    reloading: int = 0
    """The number of configurations that were sent to it and that it has not confirmed."""


def supervise(
    archive: Archive,
    signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
    stopping: Callable[[], None] = lambda: None,
    read: Callable[[], Config] | None = None,
    notifier: Notifier | None = None,
) -> None:
    """Serve with `archive.workers` processes until the first signal; then drain, and stop immediately at the second.

    The parameters are those of `run_until_signalled`, which serves in a single process. Must run in the main thread.
    Raises as `Archive.prepare`, and OutOfResources if the workers cannot be started.
    """
    signals = (*signals, *RELOADING)
    with logged_end(archive), SignalWaiter(signals) as waiter, selectors.DefaultSelector() as selector:
        archive.prepare()
        archive.preload()
        archive.index.close()  # database connections do not survive a fork
        gc.freeze()  # the garbage collector writes to the objects it visits: each worker would copy their pages
        selector.register(waiter, selectors.EVENT_READ)
        notifier = notifier or Notifier()
        archive.monitoring.start_supervisor()
        supervisor = _Supervisor(archive, signals, waiter, selector, read=read, notifier=notifier)
        try:
            announce_stop(supervisor.serve(), archive, notifier)
            stopping()
            supervisor.end(DRAIN, archive.config.limits.drain_seconds + GRACE)
        finally:
            supervisor.end(STOP, GRACE)
            supervisor.kill()
            archive.close()


class _Supervisor:
    """The workers of one archive. `waiter` is registered with `selector`, and so are the channels of the workers."""

    def __init__(
        self,
        archive: Archive,
        signals: tuple[signal.Signals, ...],
        waiter: SignalWaiter,
        selector: selectors.BaseSelector,
        *,
        read: Callable[[], Config] | None,
        notifier: Notifier,
    ) -> None:
        self._archive, self._signals, self._read = archive, signals, read
        self._signal_waiter, self._selector = waiter, selector
        self._notifier = notifier
        self._numbers = range(archive.workers)
        self._slots = AssociationSlots(len(self._numbers))
        self._workers: dict[int, _Worker] = {}
        self._due = dict.fromkeys(self._numbers, 0.0)
        """The time at which each missing worker is started, on the monotonic clock, by its number."""
        self._died_young = self._failed = 0
        """Number of consecutive workers that died before `STEADY` seconds, and before they were ready."""
        self._is_announced = self._is_ending = False
        self._reloaded: ConfigurationReloaded | None = None
        """The last reload, until all workers have confirmed it."""

    # --- serving --------------------------------------------------------------------------------------------------

    def serve(self) -> int:
        """Start the workers and replace dead ones, until a signal to end; return its number. Raises OutOfResources."""
        number = None
        while number is None:
            self._start_due_workers()
            if self._failed >= MOST_FAILED and not (self._is_announced and self._are_ready(any)):
                raise OutOfResources("workers end before they are ready; see the log for the reason")
            next_due = min(self._due.values(), default=None)
            number = self._wait(None if next_due is None else max(0.0, next_due - time.monotonic()))
        return number

    def _start_due_workers(self) -> None:
        now = time.monotonic()
        for number in [each for each, due in self._due.items() if due <= now]:
            del self._due[number]
            try:
                self._start(number)
            except OSError as error:
                self._publish_notice(f"cannot start a worker ({error.strerror}); trying again")
                self._failed += 1
                self._replace(number, 0.0)

    def _start(self, number: int) -> None:
        """Fork a worker. Raises OSError."""
        channel, worker_end = socket.socketpair()
        channel.settimeout(PATIENCE)
        try:
            # Signals are for the supervisor alone: its handlers must not run in the new process.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
            try:
                pid = os.fork()
                if pid == 0:
                    self._run_worker(number, channel, worker_end)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except OSError:
            channel.close()
            raise
        finally:
            worker_end.close()
        worker = _Worker(number, pid, channel, time.monotonic())
        self._workers[number] = worker
        self._selector.register(channel, selectors.EVENT_READ, worker)

    def _wait(self, seconds: float | None) -> int | None:
        """Wait up to `seconds` for messages and signals, and handle them; return a signal to end, None without one."""
        ending = None
        for key, _ in self._selector.select(seconds):
            if key.data is not None:
                self._receive(key.data)
            elif (number := self._signal_waiter.take()) is None:
                continue
            elif number not in RELOADING:
                ending = number
            elif not self._is_ending and (reloaded := reload(self._archive, self._read, self._notifier)) is not None:
                self._reloaded = reloaded
                self._send_configuration()
            self._confirm_reload()
        return ending

    def _send_configuration(self) -> None:
        """Make all workers reload the configuration of the supervisor."""
        pickled = pickle.dumps(self._archive.config)
        for worker in self._workers.values():
            worker.reloading += 1
            with suppress(OSError):  # a dead worker; its replacement inherits the configuration
                worker.channel.sendall(RELOAD + _LENGTH.pack(len(pickled)) + pickled)

    def _confirm_reload(self) -> None:
        """Confirm the last reload once no worker has another configuration: after that no request is handled by it."""
        if self._reloaded is not None and not any(worker.reloading for worker in self._workers.values()):
            confirm(self._reloaded, self._archive, self._notifier)
            self._reloaded = None

    def _receive(self, worker: _Worker) -> None:
        try:
            word = worker.channel.recv(1)
        except ConnectionResetError:  # it died with unread messages
            word = b""
        if not word:
            self._remove(worker)
            return
        if word == ALIVE:
            if self._is_announced:
                self._notifier.alive()
            return
        if word == RELOADED:
            worker.reloading -= 1
            return
        worker.is_ready, self._failed = True, 0
        if not self._is_announced and self._are_ready(all):
            self._is_announced = True
            self._archive.announce()
            self._notifier.ready(self._archive.status)

    def _are_ready(self, of: Callable[[Iterable[bool]], bool]) -> bool:
        return of(number in self._workers and self._workers[number].is_ready for number in self._numbers)

    # --- dead workers ---------------------------------------------------------------------------------------------

    def _remove(self, worker: _Worker) -> None:
        """Release the resources of a dead worker, and schedule its replacement."""
        self._selector.unregister(worker.channel)
        worker.channel.close()
        _, status = os.waitpid(worker.pid, 0)
        del self._workers[worker.number]
        self._slots.free(worker.number)
        self._archive.monitoring.worker_died(worker.number, is_expected=self._is_ending)
        if status != 0:
            self._archive.require_recovery()
        if status == 0 and self._is_ending:
            return
        self._publish_notice(
            f"worker {worker.pid:x} {_how_ended(status)}{'' if self._is_ending else '; starting another one'}"
        )
        if not self._is_ending:
            self._failed += not worker.is_ready
            self._replace(worker.number, time.monotonic() - worker.began)

    def _replace(self, number: int, lived: float) -> None:
        """Schedule the start of a worker: immediately if the last one lived long, else after a pause."""
        self._died_young = 0 if lived >= STEADY else self._died_young + 1
        pause = min(LONGEST_PAUSE, PAUSE * 2 ** (self._died_young - 1)) if self._died_young else 0.0
        self._due[number] = time.monotonic() + pause

    def _publish_notice(self, sentence: str) -> None:
        self._archive.events.publish(Notice(sentence=sentence))

    # --- the end --------------------------------------------------------------------------------------------------

    def end(self, command: bytes, seconds: float) -> None:
        """Send a command to all workers; wait until they have ended, a signal arrives, or `seconds` have passed."""
        self._is_ending = True
        self._archive.stop_listening()
        for worker in self._workers.values():
            with suppress(OSError):  # a dead worker, removed when its channel is read
                worker.channel.send(command)
        deadline = time.monotonic() + seconds
        while self._workers and (left := deadline - time.monotonic()) > 0:
            if self._wait(left) is not None:
                return

    def kill(self) -> None:
        """Kill the workers that have not ended."""
        for worker in tuple(self._workers.values()):
            os.kill(worker.pid, signal.SIGKILL)
            self._remove(worker)

    # --- in the worker --------------------------------------------------------------------------------------------

    def _run_worker(self, number: int, supervisor_end: socket.socket, channel: socket.socket) -> NoReturn:
        """Run as a worker in this new process until it ends."""
        status = 1
        try:
            self._close_inherited(supervisor_end)
            with Archive(self._archive.config, self._archive.events, workers=self._archive.workers) as archive:
                archive.join(self._archive, self._slots.of(number), number)
                _work(archive, channel, self._notifier.watchdog_seconds)
            status = int(archive.needs_recovery)
        except PacsError as error:
            self._publish_notice(f"worker {os.getpid():x} ends: {error.comment}")
        except BaseException:
            logging.getLogger("pacs").exception("worker %x failed", os.getpid())
        finally:
            os._exit(status)

    def _close_inherited(self, supervisor_end: socket.socket) -> None:
        """Ignore the signals of the supervisor, and close its ends of all channels, which must end with it.

        Ctrl-C on a terminal signals the whole process group; only the supervisor reacts to it.
        """
        signal.set_wakeup_fd(-1)
        for each in self._signals:
            signal.signal(each, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
        self._selector.close()
        for channel in (supervisor_end, *(worker.channel for worker in self._workers.values())):
            channel.close()


def _work(archive: Archive, channel: socket.socket, watchdog_seconds: float | None) -> None:
    """Serve until the supervisor sends a command to end, or is gone; then drain, and stop immediately at the next.

    With a watchdog, the worker sends `ALIVE` while it is healthy; the server is alive while any of its workers is.
    """

    def notify() -> None:
        with suppress(OSError):  # the supervisor is gone, which the next read finds
            channel.send(ALIVE)

    channel.send(READY)
    watchdog = archive.monitoring.watchdog(watchdog_seconds / 2, notify) if watchdog_seconds else None
    if watchdog is not None:
        watchdog.start()
    while channel.recv(1) == RELOAD:
        _reload(archive, channel)
    if watchdog is not None:
        watchdog.stop()
    with suppress(OutOfResources):  # then the supervisor kills a worker that takes too long
        start_thread("pacs-stop", _stop_on_command, archive, channel)
    archive.drain()


def _reload(archive: Archive, channel: socket.socket) -> None:
    """Reload the configuration that the supervisor sends."""
    (length,) = _LENGTH.unpack(_receive_exactly(channel, _LENGTH.size))
    config = pickle.loads(_receive_exactly(channel, length))  # noqa: S301 - from the supervisor
    try:
        archive.reload(config)
        set_level(config.log.level)
    except ConfigurationError as error:
        archive.events.publish(
            Notice(sentence=f"worker {os.getpid():x}: reload rejected, previous settings kept: {error.comment}")
        )
    with suppress(OSError):  # the supervisor is gone, which the next read finds
        channel.send(RELOADED)


def _receive_exactly(channel: socket.socket, count: int) -> bytes:
    """Receive `count` bytes, fewer if the supervisor is gone."""
    return channel.recv(count, socket.MSG_WAITALL)


def _stop_on_command(archive: Archive, channel: socket.socket) -> None:
    if channel.recv(1):
        archive.close()
        os._exit(0)


def _how_ended(status: int) -> str:
    """Describe the wait status of a process."""
    code = os.waitstatus_to_exitcode(status)
    return f"ended with status {code}" if code >= 0 else f"was killed by signal {-code}"
