"""The write lock of several processes: one holder at a time, a timeout, and release when a process dies."""

import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from pacs.errors import IndexUnavailable
from pacs.index.database import Index
from pacs.index.write_lock import WriteLock
from tests.waiting import eventually

HOLDING = """
import sys
from pathlib import Path
from pacs.index.write_lock import WriteLock
lock = WriteLock(Path(sys.argv[1]))
print(lock.acquire(10), flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""


def tell(process):
    """Let a process release the lock."""
    process.stdin.write("over\n")
    process.stdin.flush()


@contextmanager
def another_process(path):
    """Start a process that holds the lock until `tell`."""
    command = [sys.executable, "-c", HOLDING, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "True\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def path(tmp_path):
    """The path of a file that does not exist yet."""
    return tmp_path / "turn"


@pytest.fixture
def lock(path):
    """A lock on that file."""
    lock = WriteLock(path)
    yield lock
    lock.close()


def test_the_lock_is_acquired_after_it_was_released(path, lock):
    """The wait ends with the release."""
    with another_process(path) as other:
        threading.Timer(0.2, tell, [other]).start()
        assert lock.acquire(20)


def test_a_released_lock_is_free_for_others_although_its_file_is_open(path, lock):
    """Again and again, in both directions."""
    for _ in range(2):
        assert lock.acquire(20)
        lock.release()
        with another_process(path) as other:
            assert not lock.acquire(0)
            tell(other)
            assert other.stdout.readline() == "released\n"
            assert lock.acquire(20)
            lock.release()


def test_waiting_for_the_lock_ends_after_the_timeout(path, lock):
    """The wait that goes on neither keeps the lock from later ones, nor releases theirs."""
    with another_process(path) as other:
        assert not lock.acquire(0.1)
        tell(other)
        assert other.stdout.readline() == "released\n"
        assert lock.acquire(20)
        eventually(lambda: not any(each.name == "pacs-write-lock" for each in threading.enumerate()))
        assert not WriteLock(path).acquire(0.1)
        lock.release()
    for _ in range(2):
        assert lock.acquire(20)
        lock.release()


def test_the_lock_of_a_dead_process_is_released(path, lock):
    """The kernel releases it."""
    with another_process(path) as other:
        threading.Timer(0.2, other.kill).start()
        assert lock.acquire(20)


def test_a_lock_that_cannot_be_opened_is_an_error(tmp_path):
    """It names the file, which is beside the database."""
    with pytest.raises(IndexUnavailable, match="cannot be locked: turn: No such file"):
        WriteLock(tmp_path / "missing" / "turn").acquire(1)


def test_a_shared_index_waits_for_the_lock_and_then_fails(tmp_path):
    """Reads still work; an index that is not shared does not use the lock."""
    shared, alone = (Index(f"sqlite:///{tmp_path}/pacs.db", wait=0.1, is_shared=each) for each in (True, False))
    with another_process(tmp_path / "pacs.db-turn"):
        with pytest.raises(IndexUnavailable, match="busy"), shared.write():
            pass
        with shared.read() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1
        with alone.write() as connection:
            connection.execute(text("CREATE TABLE t (x)"))
    with shared.write() as connection:
        connection.execute(text("INSERT INTO t VALUES (1)"))
    shared.close()
    alone.close()
