"""A write lock for several processes: a file lock, which the kernel releases when its process dies.

SQLite itself polls for its lock at intervals, so that the process that has just written usually gets it again. Its own
lock still protects the database when the file of this one is removed, and processes have different files then.
"""

import fcntl
import os
import threading
from contextlib import suppress
from pathlib import Path

from pacs.errors import IndexUnavailable
from pacs.support import private
from pacs.support.threads import start_thread


class WriteLock:
    """A lock on a file, which is created if missing. For one thread of a process at a time.

    The file stays open between two holds, as opening and closing it cost more than the lock. An object must not be used
    on both sides of a fork: the lock belongs to the open file, which both have.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self, seconds: float) -> bool:
        """Wait for the lock, at most `seconds`; return whether it was acquired, and has to be released.

        Raises IndexUnavailable when the file cannot be opened, and OutOfResources.
        """
        if self._descriptor is None:
            self._descriptor = self._open()
        if _is_locked_at_once(self._descriptor):
            return True
        waiting = _Waiting(self._descriptor)
        if not waiting.succeeds(seconds):
            self._descriptor = None  # the waiting thread closes it
            return False
        return True

    def release(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file, which releases the lock; the next `acquire` opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT, private.FILE)
        except OSError as error:
            raise IndexUnavailable(f"the index cannot be locked: {self._path.name}: {error.strerror}") from error


def _is_locked_at_once(descriptor: int) -> bool:
    """Lock a file that no other process has locked; return whether that succeeded."""
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


class _Waiting:
    """A thread that waits for the lock: flock has no timeout. After the timeout it goes on, and closes the file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._acquired = threading.Event()
        self._is_abandoned = False

    def succeeds(self, seconds: float) -> bool:
        """Wait for the lock, at most `seconds`; return whether it was acquired. Raises OutOfResources."""
        start_thread("pacs-write-lock", self._wait)
        if self._acquired.wait(seconds):
            return True
        with self._lock:
            self._is_abandoned = not self._acquired.is_set()
        return not self._is_abandoned

    def _wait(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        with self._lock:
            if self._is_abandoned:
                os.close(self._descriptor)
            else:
                self._acquired.set()
