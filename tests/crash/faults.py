"""Responses of the daemon during and after a fault: a full disk, a read-only or missing folder, no database.

An association is open when the fault begins. A C-STORE on it is answered with A7xx and an Error Comment, or with 0000
where the instance could be stored; a C-ECHO is answered with 0000. After the fault the next instance is stored on the
same association by the same process. At the end the daemon is killed, and all acknowledged instances are looked for.
"""

import os
import resource
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.crash import examining
from tests.crash.client import Client
from tests.crash.examining import Faults
from tests.crash.load import Instance, Ledger, eventually, uid
from tests.crash.servers import Postgres, Server, Site, attached
from tests.crash.table import table

SIZES = (9_000, 1_200_000, 200_000)
"""Bytes of pixels of the instances, in turn: through the journal, and synced one by one."""

ROOM = 48 << 20
"""Bytes of the file systems that are filled."""

INODES = 120


@dataclass
class Place:
    """The archive of one fault: its site, its running server, and its PostgreSQL if it has one."""

    site: Site
    server: Server | None = None
    postgres: Postgres | None = None


@dataclass
class Result:
    """The responses and the content afterwards."""

    answers: Counter[int] = field(default_factory=Counter)
    """C-STORE statuses during the fault."""
    comments: set[str] = field(default_factory=set)
    echoes: Counter[int] = field(default_factory=Counter)
    resumed: bool = False
    acknowledged: int = 0
    faults: Faults = field(default_factory=Counter)

    def row(self) -> tuple[object, ...]:
        """Return its line of the table, without the name."""
        statuses = ", ".join(f"{count} × {status:04X}" for status, count in sorted(self.answers.items()))
        echoed = "yes" if set(self.echoes) == {0} else "no"
        return (statuses, "; ".join(sorted(self.comments)), echoed, "yes" if self.resumed else "no", self.acknowledged,
                self.faults.total())  # fmt: skip


HEAD = ("fault", "answers meanwhile", "Error Comment", "C-ECHO", "resumed by itself", "acknowledged", "lost or wrong")


# --- faults -----------------------------------------------------------------------------------------------------


@contextmanager
def full(folder: Path, _place: Place) -> Iterator[None]:
    """Fill the file system of a folder."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        for size in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)
    yield
    filler.unlink()


@contextmanager
def without_inodes(folder: Path, _place: Place) -> Iterator[None]:
    """Use all inodes of the file system of a folder."""
    fillers = folder / "fillers"
    fillers.mkdir()
    made = []
    with suppress(OSError):
        for number in range(10 * INODES):
            made.append(fillers / str(number))
            made[-1].touch()
    yield
    for each in made:
        each.unlink(missing_ok=True)


@contextmanager
def read_only(_folder: Path, place: Place) -> Iterator[None]:
    """Make the folder of the file store read-only."""
    files = place.site.files
    with mounted("--bind", files, files):
        _mount("-o", "remount,bind,ro", files)
        yield


def refusing(*calls: str, first: int = 1) -> Callable[[Path, Place], AbstractContextManager[None]]:
    """Return a fault in which the disk turns read-only within a store: these system calls fail, from a number on.

    The kernel does that after an error of the disk, though it refuses to remount what is being written.
    """

    @contextmanager
    def lasts(folder: Path, place: Place) -> Iterator[None]:
        assert place.server is not None
        action = f"inject={','.join(calls)}:error=EROFS:when={first}+"
        with attached(place.server.process.pid, folder / "strace.log", calls, action):
            yield

    return lasts


@contextmanager
def gone(_folder: Path, place: Place) -> Iterator[None]:
    """Remove the folder of the file store, as when its mount is lost."""
    away = place.site.files.with_name("away")
    place.site.files.rename(away)
    yield
    # The archive may have made empty folders in its place.
    for path in sorted(place.site.files.rglob("*"), reverse=True):
        path.rmdir()
    with suppress(FileNotFoundError):
        place.site.files.rmdir()
    away.rename(place.site.files)


@contextmanager
def short_files(_folder: Path, place: Place) -> Iterator[None]:
    """Limit files of the process to 4096 bytes, which is like a full disk and needs no mount."""
    assert place.server is not None
    pid = place.server.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def locked_sqlite(_folder: Path, place: Place) -> Iterator[None]:
    """Hold a write transaction on the index."""
    path = place.site.database.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


@contextmanager
def locked_postgres(_folder: Path, place: Place) -> Iterator[None]:
    """Lock a table of the index."""
    engine = create_engine(place.site.database)
    with engine.connect() as connection:
        connection.execute(text("LOCK TABLE image IN ACCESS EXCLUSIVE MODE"))
        yield
        connection.rollback()
    engine.dispose()


@contextmanager
def stopped_postgres(_folder: Path, place: Place) -> Iterator[None]:
    """Stop the database."""
    assert place.postgres is not None
    place.postgres.end(signal.SIGINT)
    yield
    place.postgres.start()


@dataclass(frozen=True)
class Fault:
    """A fault, and the file systems on which the archive runs during it."""

    lasts: Callable[[Path, Place], AbstractContextManager[None]]
    mounts: str = ""
    """Mount options of the tmpfs with the files, or with the whole archive."""
    is_index_apart: bool = False
    """Whether the tmpfs has the index only."""
    on_postgres: bool = False
    workers: int = 1


FAULTS = {
    "the disk is full": Fault(full, f"size={ROOM}"),
    "the disk is full (four workers)": Fault(full, f"size={ROOM}", workers=4),
    "the disk of the index is full": Fault(full, f"size={ROOM}", is_index_apart=True),
    "no inodes are left": Fault(without_inodes, f"size={ROOM},nr_inodes={INODES}"),
    "the file store is read-only": Fault(read_only, f"size={ROOM}"),
    "the file store is read-only (four workers)": Fault(read_only, f"size={ROOM}", workers=4),
    "the disk turns read-only between two writes": Fault(refusing("pwrite64", "pwritev", first=2)),
    "the disk turns read-only before a sync": Fault(refusing("fsync", "fdatasync", "syncfs")),
    "the disk turns read-only before the rename": Fault(refusing("rename", "renameat", "renameat2")),
    "the file store is not there": Fault(gone),
    "files may not grow": Fault(short_files),
    "the index is locked (SQLite)": Fault(locked_sqlite),
    "the index is locked (PostgreSQL)": Fault(locked_postgres, on_postgres=True),
    "the database is stopped (PostgreSQL)": Fault(stopped_postgres, on_postgres=True),
}


# --- mounts ------------------------------------------------------------------------------------------------------


def _mount(*words: object) -> None:
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, check=False)
    if done.returncode:
        raise PermissionError(done.stderr.decode())


@contextmanager
def mounted(*words: object) -> Iterator[None]:
    """Mount a file system at the last word, and unmount it afterwards."""
    _mount(*words)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(words[-1])], check=True)


@cache
def may_mount() -> bool:
    """Whether this process may mount file systems."""
    refused = suppress(PermissionError, FileNotFoundError)
    with tempfile.TemporaryDirectory() as folder, refused, mounted("-t", "tmpfs", "pacs", folder):
        return True
    return False


def _site(folder: Path, fault: Fault, stack: ExitStack) -> tuple[Path, Place]:
    """Return the folder that the fault concerns, and an archive with a short timeout for its database."""
    disk = folder / "disk"
    disk.mkdir()
    if fault.mounts:
        if not may_mount():
            pytest.skip("this machine does not allow mounts")
        stack.enter_context(mounted("-t", "tmpfs", "-o", fault.mounts, "pacs", disk))
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    postgres = stack.enter_context(Postgres.running()) if fault.on_postgres else None
    own, other = (elsewhere, disk) if fault.is_index_apart else (disk, disk)
    url = postgres.text if postgres else f"sqlite:///{other}/index/pacs.db"
    settings = ("database.wait_seconds=0.3", "limits.free_space=0", f"server.workers={fault.workers}")
    site = Site(own / "pacs", url, settings, folder / "serve.log")
    return disk, Place(site, postgres=postgres)


# --- runs --------------------------------------------------------------------------------------------------------


def run(folder: Path, name: str) -> Result:
    """Run an archive before, during and after one of `FAULTS`."""
    fault, result, ledger = FAULTS[name], Result(), Ledger()
    with ExitStack() as stack:
        disk, place = _site(folder, fault, stack)
        place.server = stack.enter_context(_served(place.site))
        sender = _Sender(place.server.port, ledger)
        stack.enter_context(sender.client)
        for _ in SIZES:
            assert sender.store() == 0
        with fault.lasts(disk, place):
            sender.meanwhile(result)
        result.resumed = eventually(lambda: sender.store() == 0) and sender.store() == sender.store() == 0
        sender.client.release()
        place.server.kill()
        with _served(place.site) as server:
            result.acknowledged = len(ledger.acknowledged)
            result.faults = examining.examine(server.port, ledger, ledger.studies())
            result.faults += examining.examine_consistency(server.port, place.site.files)
            assert server.stop() == 0
    return result


@contextmanager
def _served(site: Site) -> Iterator[Server]:
    server = site.start()
    try:
        yield server
    finally:
        server.kill()


class _Sender:
    """Stores instances one after the other on one association."""

    def __init__(self, port: int, ledger: Ledger) -> None:
        self.client = Client(port)
        self._ledger = ledger
        self._sent = 0

    def store(self, result: Result | None = None) -> int:
        """Store the next instance and return its status; note the response in `result` if given."""
        self._sent += 1
        instance = Instance(
            uid("fault", os.getpid(), self._sent), uid("study", "fault"), SIZES[self._sent % len(SIZES)]
        )
        response = self.client.store(instance.uid, self._ledger.begin(instance))
        self._ledger.answer(instance, response.status)
        if result is not None:
            result.answers[response.status] += 1
            if response.status:
                result.comments.add(response.text(0x0902))
        return response.status

    def meanwhile(self, result: Result) -> None:
        """Store each size twice with a C-ECHO after each, and pause in between."""
        for number in range(2 * len(SIZES)):
            self.store(result)
            result.echoes[self.client.echo()] += 1
            if number == len(SIZES):
                time.sleep(0.2)


def totals(results: dict[str, Result]) -> str:
    """Return the table of all results."""
    return table(HEAD, [(name, *each.row()) for name, each in results.items()])
