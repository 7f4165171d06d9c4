"""Checkpoints of SQLite: made by a thread, without a sender that waits, and without a log that grows without limit."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pacs.index import checkpoints, schema, writer
from pacs.index.database import Index
from tests.index.instances import new_instance

PATIENCE = 60.0


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index on SQLite as a server has it, with a checkpoint after every ten commits."""
    monkeypatch.setattr(checkpoints, "COMMITS", 10)
    with closing(Index(f"sqlite:///{tmp_path / 'pacs.db'}", is_shared=True)) as server:
        schema.upgrade(server)
        server.settle()
        server.is_recoverable = True
        yield server


def add(index: Index, numbers: range) -> None:
    """Add instances, each in a transaction."""
    for number in numbers:
        writer.add(index, new_instance(number))


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


@contextmanager
def adding(index: Index) -> Iterator[None]:
    """Add instances all the time in a thread."""
    ended = threading.Event()

    def run() -> None:
        for number in range(1_000, 1_000_000):
            if ended.is_set():
                return
            writer.add(index, new_instance(number))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def size(index: Index, suffix: str = "") -> int:
    """Return the size of the database file, or of one beside it."""
    return Path(f"{index.url.database}{suffix}").stat().st_size


def test_commits_reach_the_database_file_by_themselves(index: Index):
    """A thread copies them; no commit does, as the log is short."""
    before = size(index)
    add(index, range(100))
    eventually(lambda: size(index) > before)


def test_a_few_commits_make_no_checkpoint(index: Index):
    """An archive in which little is stored makes no syncs of its own, and no thread."""
    add(index, range(9))
    assert "pacs-checkpoint" not in {thread.name for thread in threading.enumerate()}


def test_the_log_is_begun_anew_while_a_sender_never_pauses(index: Index, monkeypatch):
    """Nobody writes while its end is copied, so that it does not grow as long as somebody stores."""
    monkeypatch.setattr(checkpoints, "LONG", 100)
    pauses = []
    original = index._checkpoints._pausing
    monkeypatch.setattr(index._checkpoints, "_pausing", lambda: pauses.append(size(index, "-wal")) or original())
    with adding(index):
        eventually(lambda: len(pauses) >= 20)
    assert max(pauses[10:]) < 2 * max(pauses[:10]) + (1 << 20)


def test_without_a_thread_sqlite_makes_the_checkpoints(index: Index, monkeypatch):
    """Where the system allows no more threads, stores go on."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    add(index, range(40))
    assert writer.is_known(index, new_instance(39).header.sop_instance_uid)


def test_a_stop_settles_the_log_although_a_checkpoint_runs(index: Index, monkeypatch):
    """It waits for the checkpoint, which would otherwise make it fail."""
    began, may_end = threading.Event(), threading.Event()
    original = index._checkpoints._copy

    def slow() -> int:
        began.set()
        may_end.wait(PATIENCE)
        return original()

    monkeypatch.setattr(index._checkpoints, "_copy", slow)
    add(index, range(20))
    assert began.wait(PATIENCE)
    threading.Timer(0.2, may_end.set).start()
    assert index.settle()
    assert size(index, "-wal") == 0


def test_a_lost_database_does_not_end_the_checkpoints(index: Index):
    """Those who write are told; once the files are back the thread goes on."""
    database = Path(index.url.database or "")
    add(index, range(20))
    eventually(lambda: index._checkpoints._thread is not None)
    away = database.rename(database.with_name("away"))
    index._checkpoints._wanted.set()
    eventually(lambda: not index._checkpoints._wanted.is_set())
    away.rename(database)
    before = size(index)
    add(index, range(20, 200))
    eventually(lambda: size(index) > before)
