"""What the daemon says while something it needs is missing, and after that: no room, no database, nothing to write to.

An association is open when the fault begins. What is sent by it then is answered with A7xx and an Error Comment, or
with 0000 where it could be stored all the same; a C-ECHO is answered; when the fault is over the next instance is
stored by the same association and the same process. At the end the daemon is killed, and what it acknowledged is
looked for.
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
from tests.crash.servers import Postgres, Server, Site
from tests.crash.table import table

SIZES = (9_000, 1_200_000, 200_000)
"""Bytes of pixels of what is sent in turn: by the journal, and synced by itself."""

ROOM = 48 << 20
"""Bytes of the file systems that can be filled."""

INODES = 120


@dataclass
class Place:
    """Where the archive of one fault is: its site, the server once it runs, its PostgreSQL if it has one."""

    site: Site
    server: Server | None = None
    postgres: Postgres | None = None


@dataclass
class Result:
    """What was seen."""

    answers: Counter[int] = field(default_factory=Counter)
    """The statuses of what was sent while the fault was there."""
    comments: set[str] = field(default_factory=set)
    echoes: Counter[int] = field(default_factory=Counter)
    resumed: bool = False
    acknowledged: int = 0
    faults: Faults = field(default_factory=Counter)

    def row(self) -> tuple[object, ...]:
        """One line of the table, but for its name."""
        said = ", ".join(f"{count} × {status:04X}" for status, count in sorted(self.answers.items()))
        echoed = "yes" if set(self.echoes) == {0} else "no"
        return (said, "; ".join(sorted(self.comments)), echoed, "yes" if self.resumed else "no", self.acknowledged,
                self.faults.total())  # fmt: skip


HEAD = ("fault", "answers meanwhile", "Error Comment", "C-ECHO", "resumed by itself", "acknowledged", "lost or wrong")


# --- what can be missing -----------------------------------------------------------------------------------------


@contextmanager
def full(folder: Path, _place: Place) -> Iterator[None]:
    """No room is left on the file system of a folder."""
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
    """Not one more file can be made on the file system of a folder."""
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
    """The folder of the file store can only be read."""
    files = place.site.files
    with mounted("--bind", files, files):
        _mount("-o", "remount,bind,ro", files)
        yield


@contextmanager
def gone(_folder: Path, place: Place) -> Iterator[None]:
    """The folder of the file store is not there, as when its mount is lost."""
    away = place.site.files.with_name("away")
    place.site.files.rename(away)
    yield
    # What the archive may have made in its place meanwhile is empty.
    for path in sorted(place.site.files.rglob("*"), reverse=True):
        path.rmdir()
    with suppress(FileNotFoundError):
        place.site.files.rmdir()
    away.rename(place.site.files)


@contextmanager
def short_files(_folder: Path, place: Place) -> Iterator[None]:
    """The process may write no file beyond 4096 bytes: as a full disk, where nothing can be mounted."""
    assert place.server is not None
    pid = place.server.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def locked_sqlite(_folder: Path, place: Place) -> Iterator[None]:
    """Somebody else is writing to the index, and does not come to an end."""
    path = place.site.database.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


@contextmanager
def locked_postgres(_folder: Path, place: Place) -> Iterator[None]:
    """Somebody else has a table of the index for himself."""
    engine = create_engine(place.site.database)
    with engine.connect() as connection:
        connection.execute(text("LOCK TABLE image IN ACCESS EXCLUSIVE MODE"))
        yield
        connection.rollback()
    engine.dispose()


@contextmanager
def stopped_postgres(_folder: Path, place: Place) -> Iterator[None]:
    """The database is not there."""
    assert place.postgres is not None
    place.postgres.end(signal.SIGINT)
    yield
    place.postgres.start()


@dataclass(frozen=True)
class Fault:
    """Something that is missing for a while, and on which file systems the archive is meanwhile."""

    lasts: Callable[[Path, Place], AbstractContextManager[None]]
    mounts: str = ""
    """Options of the tmpfs that has the files, or all of the archive."""
    is_index_apart: bool = False
    """Whether that is where the index is, and not the files."""
    on_postgres: bool = False


FAULTS = {
    "the disk is full": Fault(full, f"size={ROOM}"),
    "the disk of the index is full": Fault(full, f"size={ROOM}", is_index_apart=True),
    "no inodes are left": Fault(without_inodes, f"size={ROOM},nr_inodes={INODES}"),
    "the file store is read-only": Fault(read_only, f"size={ROOM}"),
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
    """Something mounted, of which the last word is where."""
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
    """The folder that the fault is about, and an archive that waits a moment for its database, not thirty seconds."""
    disk = folder / "disk"
    disk.mkdir()
    if fault.mounts:
        if not may_mount():
            pytest.skip("this machine lets nobody mount a file system")
        stack.enter_context(mounted("-t", "tmpfs", "-o", fault.mounts, "pacs", disk))
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    postgres = stack.enter_context(Postgres.running()) if fault.on_postgres else None
    own, other = (elsewhere, disk) if fault.is_index_apart else (disk, disk)
    url = postgres.text if postgres else f"sqlite:///{other}/index/pacs.db"
    site = Site(own / "pacs", url, ("database.wait_seconds=0.3", "limits.free_space=0"), folder / "serve.log")
    return disk, Place(site, postgres=postgres)


# --- what is seen ------------------------------------------------------------------------------------------------


def run(folder: Path, name: str) -> Result:
    """Run an archive into one of `FAULTS` and out of it again."""
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
            result.faults += examining.examine_house(server.port, place.site.files)
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
    """Stores one instance after the other on one association."""

    def __init__(self, port: int, ledger: Ledger) -> None:
        self.client = Client(port)
        self._ledger = ledger
        self._sent = 0

    def store(self, result: Result | None = None) -> int:
        """The status of the next instance; what the response says is noted if wanted."""
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
        """Store each size twice, and verify after each; ask for the small ones once more, a while later."""
        for number in range(2 * len(SIZES)):
            self.store(result)
            result.echoes[self.client.echo()] += 1
            if number == len(SIZES):
                time.sleep(0.2)


def totals(results: dict[str, Result]) -> str:
    """The table of all."""
    return table(HEAD, [(name, *each.row()) for name, each in results.items()])
