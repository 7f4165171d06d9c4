"""Several processes that serve as one: forked, replaced when they die, drained and stopped together.

The supervisor prepares the archive, listens, forks the workers and then only waits: for signals and for what it hears
from them. It accepts nothing itself and has one thread, so that it may fork at any time. Between it and each worker
there is a line, a socket pair: the worker says on it that it is ready, the supervisor that all is over, and its end is
that of the process at the other end, however that came about.
"""

import logging
import os
import pickle
import selectors
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from pacs.archive import Archive
from pacs.config import Config
from pacs.daemon import DRAINING, RELOADING, SignalWaiter, reload
from pacs.dimse.server.association_slots import AssociationSlots
from pacs.errors import ConfigurationError, OutOfResources, PacsError
from pacs.observability.events import Notice
from pacs.observability.logging import set_level
from pacs.observability.systemd import Notifier

READY, ALIVE, DRAIN, STOP, RELOAD = b"r", b"a", b"d", b"s", b"c"
"""The words on a line: a worker accepts associations; all is well with it; it is to let them end; it is to end them; it
is to go by the configuration that follows, pickled, behind its length."""

_LENGTH = struct.Struct(">L")

PATIENCE = 5.0
"""Seconds that a worker may take to take in what it is told."""

STEADY = 10.0
"""Seconds after which a worker that dies is replaced at once; after those who die younger there is a growing pause."""

PAUSE, LONGEST_PAUSE = 0.1, 30.0

MOST_FAILED = 5
"""How many workers in a row may die before they are ready until no more are tried, if none serves."""

GRACE = 10.0
"""Seconds beyond those for draining after which a worker that has not ended is killed."""


@dataclass
class _Worker:
    """A worker process: its number among the workers, its id, our end of its line, since when it runs."""

    number: int
    pid: int
    line: socket.socket
    began: float
    is_ready: bool = False


def supervise(
    archive: Archive,
    signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
    stopping: Callable[[], None] = lambda: None,
    read: Callable[[], Config] | None = None,
    notifier: Notifier | None = None,
) -> None:
    """Serve with `server.workers` processes until a signal comes; then drain them, and at a second signal stop at once.

    As `run_until_signalled`, which does it with none but this process: for the main thread, `stopping` is called when
    the first signal has come, at a SIGHUP all go by what `read` gives, and `notifier` tells how it stands to who
    started us. Raises as `Archive.prepare`, and OutOfResources when workers cannot be started.
    """
    signals = (*signals, *RELOADING)
    with SignalWaiter(signals) as waiter, selectors.DefaultSelector() as selector:
        archive.prepare()
        archive.index.close()  # no connection to a database outlives a fork
        selector.register(waiter, selectors.EVENT_READ)
        notifier = notifier or Notifier()
        supervisor = _Supervisor(archive, signals, waiter, selector, read=read, notifier=notifier)
        try:
            supervisor.serve()
            notifier.stopping(DRAINING)
            stopping()
            supervisor.end(DRAIN, archive.config.limits.drain_seconds + GRACE)
        finally:
            supervisor.end(STOP, GRACE)
            supervisor.kill()
            archive.close()


class _Supervisor:
    """The workers of one archive. `selector` has `waiter` in it, and gets their lines."""

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
        self._numbers = range(archive.config.server.workers)
        self._slots = AssociationSlots(len(self._numbers))
        self._workers: dict[int, _Worker] = {}
        self._due = dict.fromkeys(self._numbers, 0.0)
        """When each number that has no worker gets one, on the monotonic clock."""
        self._died_young = self._failed = 0
        """How many in a row died before they were `STEADY`, and before they were ready."""
        self._is_announced = self._is_ending = False

    # --- serving --------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Start the workers and see that all of them run, until a signal comes. Raises OutOfResources."""
        is_over = False
        while not is_over:
            self._start_those_due()
            if self._failed >= MOST_FAILED and not (self._is_announced and self._are_ready(any)):
                raise OutOfResources("workers end before they are ready: the log says why")
            next_due = min(self._due.values(), default=None)
            is_over = self._wait(None if next_due is None else max(0.0, next_due - time.monotonic()))

    def _start_those_due(self) -> None:
        now = time.monotonic()
        for number in [each for each, due in self._due.items() if due <= now]:
            del self._due[number]
            try:
                self._start(number)
            except OSError as error:
                self._tell(f"a worker cannot be started ({error.strerror})")
                self._failed += 1
                self._replace(number, 0.0)

    def _start(self, number: int) -> None:
        """Fork a worker. Raises OSError."""
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        try:
            # A signal that comes in between is ours alone: no handler of ours may run in the new process.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
            try:
                pid = os.fork()
                if pid == 0:
                    self._become(number, ours, theirs)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        worker = _Worker(number, pid, ours, time.monotonic())
        self._workers[number] = worker
        self._selector.register(ours, selectors.EVENT_READ, worker)

    def _wait(self, seconds: float | None) -> bool:
        """Attend to what happens next, within some seconds: whether that was a signal to end."""
        has_rung = False
        for key, _ in self._selector.select(seconds):
            if key.data is not None:
                self._hear(key.data)
            elif self._signal_waiter.wait() not in RELOADING:
                has_rung = True
            elif not self._is_ending and reload(self._archive, self._read, self._notifier):
                self._pass_on()
        return has_rung

    def _pass_on(self) -> None:
        """Have all workers go by the configuration that we go by."""
        pickled = pickle.dumps(self._archive.config)
        for worker in self._workers.values():
            with suppress(OSError):  # it is dead, and will be heard of; who takes its place has it from us
                worker.line.sendall(RELOAD + _LENGTH.pack(len(pickled)) + pickled)

    def _hear(self, worker: _Worker) -> None:
        try:
            word = worker.line.recv(1)
        except ConnectionResetError:  # it had not read all we said
            word = b""
        if not word:
            self._bury(worker)
            return
        if word == ALIVE:
            if self._is_announced:
                self._notifier.alive()
            return
        worker.is_ready, self._failed = True, 0
        if not self._is_announced and self._are_ready(all):
            self._is_announced = True
            self._archive.announce()
            self._notifier.ready(self._archive.status)

    def _are_ready(self, of: Callable[[Iterable[bool]], bool]) -> bool:
        return of(number in self._workers and self._workers[number].is_ready for number in self._numbers)

    # --- workers that died ----------------------------------------------------------------------------------------

    def _bury(self, worker: _Worker) -> None:
        """Give back what a dead worker had taken, and have another one take its place."""
        self._selector.unregister(worker.line)
        worker.line.close()
        _, status = os.waitpid(worker.pid, 0)
        del self._workers[worker.number]
        self._slots.free(worker.number)
        self._archive.oversight.bury(worker.number, unasked=not self._is_ending)
        if status != 0:
            self._archive.require_recovery()
        if status == 0 and self._is_ending:
            return
        self._tell(f"worker {worker.pid:x} {_how(status)}{'' if self._is_ending else ': another one takes its place'}")
        if not self._is_ending:
            self._failed += not worker.is_ready
            self._replace(worker.number, time.monotonic() - worker.began)

    def _replace(self, number: int, lived: float) -> None:
        """Have a worker started: at once where the last one lived long, after a pause where it did not."""
        self._died_young = 0 if lived >= STEADY else self._died_young + 1
        pause = min(LONGEST_PAUSE, PAUSE * 2 ** (self._died_young - 1)) if self._died_young else 0.0
        self._due[number] = time.monotonic() + pause

    def _tell(self, sentence: str) -> None:
        self._archive.events.publish(Notice(sentence=sentence))

    # --- the end --------------------------------------------------------------------------------------------------

    def end(self, word: bytes, seconds: float) -> None:
        """Say a word to all workers, and wait until they have ended, a signal comes, or the time is up."""
        self._is_ending = True
        self._archive.stop_listening()
        for worker in self._workers.values():
            with suppress(OSError):  # it is dead, and will be heard of
                worker.line.send(word)
        deadline = time.monotonic() + seconds
        while self._workers and (left := deadline - time.monotonic()) > 0:
            if self._wait(left):
                return

    def kill(self) -> None:
        """End those that have not ended."""
        for worker in tuple(self._workers.values()):
            os.kill(worker.pid, signal.SIGKILL)
            self._bury(worker)

    # --- in the worker --------------------------------------------------------------------------------------------

    def _become(self, number: int, ours: socket.socket, line: socket.socket) -> NoReturn:
        """Be a worker in this new process, to its end."""
        status = 1
        try:
            self._leave_behind(ours)
            with Archive(self._archive.config, self._archive.events) as archive:
                archive.join(self._archive, self._slots.of(number), number)
                _work(archive, line, self._notifier.watchdog_seconds)
            status = 0
        except PacsError as error:
            self._tell(f"worker {os.getpid():x} cannot go on: {error.comment}")
        except BaseException:
            logging.getLogger("pacs").exception("worker %x failed", os.getpid())
        finally:
            os._exit(status)

    def _leave_behind(self, ours: socket.socket) -> None:
        """Let go of what is the supervisor's: its signals, and its ends of all lines, whose end must be its own.

        A signal to the whole group, as by Ctrl-C on a terminal, is the supervisor's to understand.
        """
        signal.set_wakeup_fd(-1)
        for each in self._signals:
            signal.signal(each, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
        self._selector.close()
        for line in (ours, *(worker.line for worker in self._workers.values())):
            line.close()


def _work(archive: Archive, line: socket.socket, watchdog_seconds: float | None) -> None:
    """Serve until the supervisor says that all is over, or is gone; then drain, and at a second word stop at once.

    Where somebody waits for it, the supervisor is told that we live, as long as it is so: it cannot look itself, and
    the server lives when any of its workers does.
    """

    def say() -> None:
        with suppress(OSError):  # it is dead, which we will hear
            line.send(ALIVE)

    line.send(READY)
    watch = archive.oversight.watch(watchdog_seconds / 2, say) if watchdog_seconds else None
    if watch is not None:
        watch.start()
    while line.recv(1) == RELOAD:
        _adopt(archive, line)
    if watch is not None:
        watch.stop()
    threading.Thread(target=_stop_when_told, args=(archive, line), name="pacs-stop", daemon=True).start()
    archive.drain()


def _adopt(archive: Archive, line: socket.socket) -> None:
    """Go by the configuration that comes on the line; the supervisor has said so for all."""
    (length,) = _LENGTH.unpack(_exactly(line, _LENGTH.size))
    config = pickle.loads(_exactly(line, length))  # noqa: S301 - from the process that forked us
    try:
        archive.reload(config)
        set_level(config.log.level)
    except ConfigurationError as error:
        archive.events.publish(Notice(sentence=f"worker {os.getpid():x} keeps its configuration: {error.comment}"))


def _exactly(line: socket.socket, count: int) -> bytes:
    """The next bytes on a line; fewer when the other end is gone, whose next word is the end then."""
    return line.recv(count, socket.MSG_WAITALL)


def _stop_when_told(archive: Archive, line: socket.socket) -> None:
    if line.recv(1):
        archive.close()
        os._exit(0)


def _how(status: int) -> str:
    """How a process ended, by what `waitpid` says of it."""
    code = os.waitstatus_to_exitcode(status)
    return f"ended with status {code}" if code >= 0 else f"was ended by signal {-code}"
