"""A deterministic scheduler of operations: each runs in a thread of its own, and one of them at a time.

An operation stops before and after each transaction of the index and each call of the file store, and while it waits
for the lock of a file. There the scheduler decides who goes on. So a schedule is a list of numbers, which hypothesis
draws, shrinks and replays. Nobody stops within a transaction: the databases answer for those.
"""

import itertools
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from pacs.errors import IndexUnavailable, PacsError
from pacs.files.local import LocalFiles
from pacs.files.store import IncomingObject
from pacs.index.database import Index

PATIENCE = 20
"""Seconds until an operation that neither stops nor ends fails the test."""

WAITING = "waits for the lock of a file"
"""A step after which the simplest schedule lets another operation go on."""

_current = threading.local()


def step(name: str) -> None:
    """Stop here, if the current thread runs an operation of a scheduler."""
    operation = getattr(_current, "operation", None)
    if operation is not None and not getattr(_current, "is_writing", False):
        operation.stop(name)


class Abandoned(BaseException):
    """The run of an operation has ended before the operation."""


class Operation(threading.Thread):
    """One operation, in a thread that runs only when it is told to."""

    def __init__(self, name: str, work: Callable[[], Any], clock: Callable[[], int]) -> None:
        super().__init__(name=name, daemon=True)
        self._work, self._clock = work, clock
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.place = "the beginning"
        self.result: Any = None
        """What it returned, or its PacsError."""
        self.fault: BaseException | None = None
        """An error that no operation may raise."""
        self.began = self.ended = 0
        self.is_over = self._is_abandoned = False

    def run(self) -> None:
        """Work from step to step."""
        _current.operation = self
        self._go.acquire()
        self.began = self._clock()
        try:
            self.result = self._work() if not self._is_abandoned else None
        except PacsError as error:
            self.result = error
        except BaseException as error:
            self.fault = error
        self.ended = self._clock()
        self.is_over = True
        self._stopped.release()

    def stop(self, place: str) -> None:
        """Stop in the thread of the operation until the scheduler lets it go on."""
        if self._is_abandoned:
            return
        self.place = place
        self._stopped.release()
        self._go.acquire()
        if self._is_abandoned:
            raise Abandoned

    def abandon(self) -> None:
        """End it where it is, as its run has ended early."""
        if not self.is_over:
            self._is_abandoned = True
            self.go_on()

    def go_on(self) -> None:
        """Let it run to its next step, or its end."""
        self._go.release()
        assert self._stopped.acquire(timeout=PATIENCE), f"{self.name} hangs after {self.place}:\n{self._where()}"

    def _where(self) -> str:
        return "".join(traceback.format_stack(sys._current_frames()[self.ident or 0]))


class Schedule:
    """Operations, and the order in which they run."""

    def __init__(self) -> None:
        self._now = 0
        self.operations: list[Operation] = []
        self.trace: list[str] = []

    def add(self, name: str, work: Callable[[], Any]) -> Operation:
        """Add an operation, which begins when it is chosen first."""
        operation = Operation(name, work, self._tick)
        operation.start()
        self.operations.append(operation)
        return operation

    def _tick(self) -> int:
        self._now += 1
        return self._now

    def run(self, switches: Mapping[int, int]) -> None:
        """Run all operations to their end, one after the other, but for `switches`.

        After the step with such a number the n-th of those that wait goes on.
        """
        try:
            self._run(switches)
        finally:
            for operation in self.operations:
                operation.abandon()

    def _run(self, switches: Mapping[int, int]) -> None:
        running = list(self.operations)
        for number in itertools.count():
            if not running:
                return
            chosen = running.pop(switches.get(number, 0) % len(running))
            self.trace.append(f"{number:3} {chosen.name}: {chosen.place}")
            chosen.go_on()
            if chosen.fault is not None:
                raise AssertionError(f"{chosen.name} failed unexpectedly") from chosen.fault
            if not chosen.is_over:
                running.insert(len(running) if chosen.place == WAITING else 0, chosen)


class SteppedFiles(LocalFiles):
    """A real file store whose calls are steps."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)

    def create(self, head_size: int) -> IncomingObject:
        """Begin an object whose commit is a step."""
        return _SteppedIncoming(super().create(head_size))

    def open(self, key: str) -> BinaryIO:
        """Open an object after a step."""
        step(f"open {_short(key)}")
        return super().open(key)

    def pieces(self, key: str, size: int, start: int) -> Iterator[bytes]:
        """Read an object after a step."""
        step(f"read {_short(key)}")
        return super().pieces(key, size, start)

    def size(self, key: str) -> int:
        """Return a size after a step."""
        step(f"size of {_short(key)}")
        return super().size(key)

    def lock(self, keys: Any) -> AbstractContextManager[set[str]]:
        """Lock objects after a step."""
        step(f"lock {' '.join(map(_short, keys))}")
        return super().lock(keys)

    def delete(self, key: str) -> None:
        """Delete an object between two steps."""
        step(f"delete {_short(key)}")
        super().delete(key)
        step(f"deleted {_short(key)}")

    def quarantine(self, name: str) -> str:
        """Move an object between two steps."""
        step(f"quarantine {_short(name)}")
        moved = super().quarantine(name)
        step(f"quarantined {_short(name)}")
        return moved

    def keys(self, since: Any = "") -> Iterator[str]:
        """Yield each key after a step."""
        for key in super().keys(since):
            step(f"list {_short(key)}")
            yield key


class _SteppedIncoming:
    def __init__(self, incoming: IncomingObject) -> None:
        self._incoming = incoming

    def __getattr__(self, name: str) -> Any:
        return getattr(self._incoming, name)

    def commit(self, head: bytes) -> None:
        step("commit a file")
        self._incoming.commit(head)
        step(f"file committed: {_short(self._incoming.key)}")

    def __enter__(self) -> "_SteppedIncoming":
        return self

    def __exit__(self, *exc: object) -> None:
        step("end of a store")
        self._incoming.__exit__(*exc)


class SteppedIndex(Index):
    """A real index whose transactions are steps; those of a store may fail."""

    def __init__(self, url: str) -> None:
        super().__init__(url, connections=16)
        self.late: list[Callable[[], object]] = []
        """Transactions whose connection broke, and that the database commits later."""

    def commit_late(self) -> None:
        """Commit the transactions whose connection broke; whoever writes waits for them, as for their locks."""
        while self.late:
            with suppress(PacsError):
                self.late.pop()()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a read transaction after a step."""
        step("read the index")
        with super().read() as connection:
            yield connection

    @contextmanager
    def single(self) -> Iterator[Connection]:
        """Open a connection after a step."""
        step("look into the index")
        with super().single() as connection:
            yield connection

    def query_once(self, query: Any) -> Any:
        """Run a statement after a step."""
        step("ask the index")
        return super().query_once(query)

    @contextmanager
    def read_after_writers(self, table: str) -> Iterator[Connection]:
        """Read after a step, and after the transactions whose connection broke."""
        step("read the index after all writers")
        self.commit_late()
        with super().read_after_writers(table) as connection:
            yield connection

    def transact(self, work: Any) -> Any:
        """Run a transaction between two steps."""
        return self._write(lambda: super(SteppedIndex, self).transact(work))

    def run_shared(self, work: Any) -> Any:
        """Run a transaction of a store between two steps."""
        return self._write(lambda: super(SteppedIndex, self).run_shared(work))

    def run_alone(self, work: Any) -> Any:
        """Run a transaction of a store between two steps."""
        return self._write(lambda: super(SteppedIndex, self).run_alone(work))

    def _write(self, commit: Callable[[], Any]) -> Any:
        step("write the index")
        failure = getattr(_current, "failure", "")
        if failure:
            self._fail(failure, commit)
        self.commit_late()
        _current.is_writing = True  # a transaction may read files, and stopped within it others would wait for it
        try:
            result = commit()
        finally:
            _current.is_writing = False
        step("index written")
        return result

    def _fail(self, failure: str, commit: Callable[[], Any]) -> None:
        """Fail as an index that is locked, or as a connection that breaks at the commit."""
        if failure == "locked":
            raise IndexUnavailable("the index is busy: try again later")
        _current.failure = ""
        if failure == "committed":
            commit()
        if failure == "late":
            self.late.append(commit)
        lost = OperationalError("COMMIT", None, Exception("gone"), connection_invalidated=True)
        raise IndexUnavailable("the index does not respond: try again later") from lost


@contextmanager
def failing(failure: str) -> Iterator[None]:
    """Let the write transactions of this operation fail: "locked", "lost", "committed" or "late"; '' for not."""
    _current.failure = failure
    try:
        yield
    finally:
        _current.failure = ""


def _short(key: str) -> str:
    return key.rpartition("/")[2][-12:-4]
