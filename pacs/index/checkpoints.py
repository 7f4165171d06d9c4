"""Checkpoints of SQLite in a thread: it copies the write-ahead log into the database while others write to the log.

SQLite makes them within the commit that makes the log long, and all who want to write wait for two syncs meanwhile. It
begins the log anew only when all of it has been copied, so that the end is copied while nobody writes.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

from pacs.errors import IndexUnavailable, OutOfResources
from pacs.support.threads import start_thread

COMMITS = 400
"""Commits of this process between two checkpoints."""

LONG = 8000
"""Pages of a log that is begun anew: 32 MB."""

STOP_SECONDS = 5.0
"""Seconds that `close` waits for a running checkpoint."""


class Checkpoints:
    """The checkpoints of one process. Without a thread, SQLite makes them by itself.

    `copy` copies the log as far as its readers allow and returns the number of its pages; it may raise
    IndexUnavailable. `pausing` excludes the writers of all processes in a `with` block.
    """

    def __init__(self, copy: Callable[[], int], pausing: Callable[[], AbstractContextManager[object]]) -> None:
        self._copy, self._pausing = copy, pausing
        self.running = threading.Lock()
        """Held during a checkpoint."""
        self._commits = 0
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def note_commit(self) -> None:
        """Note a commit, and want a checkpoint after some. Called by the only thread that writes."""
        self._commits += 1
        if self._commits >= COMMITS:
            self._commits = 0
            self._wanted.set()
            if self._thread is None and not self._is_closed:
                with suppress(OutOfResources):
                    self._thread = start_thread("pacs-checkpoint", self._run)

    def close(self) -> None:
        """Make no more checkpoints, and wait for one that is running."""
        self._is_closed = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while self._wanted.wait() and not self._is_closed:
            self._wanted.clear()
            with suppress(IndexUnavailable):  # those who write are told
                self._make_one()

    def _make_one(self) -> None:
        with self.running:
            if self._copy() >= LONG:
                with self._pausing():
                    self._copy()
