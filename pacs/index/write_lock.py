"""Turns that processes take one after the other, by a lock on a file, which the kernel takes from one that dies.

SQLite's own waiting looks again at times of its own, and whoever has just written is usually first again.
"""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class WriteLock:
    """The turns at one file, which is made if it is not there. For one thread of a process at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def acquire(self, seconds: float) -> Iterator[bool]:
        """While the body runs it is our turn, if it comes within some seconds: whether it has. Raises OSError."""
        attempt = _Attempt(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o640))
        try:
            yield attempt.succeeds(seconds)
        finally:
            attempt.end()


class _Attempt:
    """One attempt at a lock. Its descriptor is closed, which ends the lock, when nobody needs it any more."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._is_ours = threading.Event()
        self._is_over = self._is_waiting = False

    def succeeds(self, seconds: float) -> bool:
        """Wait for the lock, for some seconds at most: whether we have it."""
        with suppress(BlockingIOError):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        # The kernel wakes who waits, but knows no end of waiting: so a thread waits that may be left alone.
        self._is_waiting = True
        threading.Thread(target=self._wait, name="pacs-turn", daemon=True).start()
        return self._is_ours.wait(seconds)

    def _wait(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        with self._lock:
            self._is_waiting = False
            if self._is_over:
                os.close(self._descriptor)
        self._is_ours.set()

    def end(self) -> None:
        """Give the turn back, or give it up."""
        with self._lock:
            self._is_over = True
            if not self._is_waiting:
                os.close(self._descriptor)
