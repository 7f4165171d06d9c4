"""A write lock for several processes: a file lock, which the kernel releases when its process dies.

SQLite itself polls for its lock at intervals, so that the process that has just written usually gets it again.
"""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pacs.errors import IndexUnavailable
from pacs.support import private
from pacs.support.threads import start_thread


class WriteLock:
    """A lock on a file, which is created if missing. For one thread of a process at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def acquire(self, seconds: float) -> Iterator[bool]:
        """Hold the lock in the `with` block; yield whether it was acquired within `seconds`.

        Raises IndexUnavailable when the file cannot be opened, and OutOfResources.
        """
        attempt = _Attempt(self._opened())
        try:
            yield attempt.succeeds(seconds)
        finally:
            attempt.end()

    def _opened(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT, private.FILE)
        except OSError as error:
            raise IndexUnavailable(f"the index cannot be locked: {self._path.name}: {error.strerror}") from error


class _Attempt:
    """One attempt to get the lock. Closing its descriptor releases the lock."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._acquired = threading.Event()
        self._is_ended = self._is_waiting = False

    def succeeds(self, seconds: float) -> bool:
        """Wait for the lock, at most `seconds`; return whether it was acquired."""
        with suppress(BlockingIOError):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        # flock has no timeout, so a thread waits for it, which may go on after the timeout.
        with self._lock:
            start_thread("pacs-write-lock", self._wait)
            self._is_waiting = True
        return self._acquired.wait(seconds)

    def _wait(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        with self._lock:
            self._is_waiting = False
            if self._is_ended:
                os.close(self._descriptor)
        self._acquired.set()

    def end(self) -> None:
        """Release the lock, or stop waiting for it."""
        with self._lock:
            self._is_ended = True
            if not self._is_waiting:
                os.close(self._descriptor)
