"""The file of an SQLite index and the files beside it: notices that one is deleted or replaced while it is open.

SQLite itself would go on in the deleted file: it would answer from it, and acknowledge commits that no other process
and no later start can see.
"""

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from pacs.errors import IndexUnavailable
from pacs.index.failures import SENTENCES
from pacs.support import private

Identity = tuple[int, int]
"""Device and inode of a file. They are no other file's as long as a process has it open."""

FILES = {
    "": "the file of the index",
    "-wal": "the -wal file of the index",
    "-shm": "the -shm file of the index",
}
"""What is called by the name of the database file and this suffix. A process that has another `-wal` or `-shm` than the
others does not see their commits, and they do not see its own."""


class DatabaseFile:
    """The file at `path`. Every connection is opened by `connect`. Thread-safe.

    `notify` gets a sentence when a file is found to be missing or another one, and when it is back.
    """

    def __init__(self, path: str, wait: float, notify: Callable[[str], object]) -> None:
        self._path, self._wait, self._notify = os.path.abspath(path), wait, notify
        self._lock = threading.Lock()
        self._identities: dict[str, Identity] = {}
        """By path: of the database file since the first connection of this server, of the others while one is open."""
        self._anchor: sqlite3.Connection | None = None
        """A connection that is open as long as any other: with its last connection SQLite deletes the `-wal` file."""
        self._fault = ""

    @property
    def paths(self) -> list[Path]:
        """The paths of all files that SQLite may have."""
        return [Path(each) for each in self._paths()]

    def check(self) -> None:
        """Raise IndexUnavailable unless the files are those that were opened."""
        fault = self._find_fault()
        if fault != self._fault:
            self._note(fault)
        if fault:
            raise IndexUnavailable(fault)

    def check_writable(self) -> None:
        """Raise IndexUnavailable if file or folder are read-only, by their mode, owner or file system."""
        for path, code in ((self._path, "SQLITE_READONLY"), (os.path.dirname(self._path), "SQLITE_READONLY_DIRECTORY")):
            if not os.access(path, os.W_OK, effective_ids=True):
                raise IndexUnavailable(SENTENCES[code])

    def join(self, other: "DatabaseFile") -> None:
        """Accept no other database file than that of `other`, which is in the process this one was forked from."""
        self._identities = dict(other._identities)

    def connect(self, **parameters: object) -> sqlite3.Connection:
        """Open a connection; creates the file only the first time. Raises IndexUnavailable, sqlite3.Error."""
        self.check()
        connection = self._open(**parameters)
        with suppress(OSError):
            self._identities.setdefault(self._path, _identity(self._path))
        return connection

    def hold(self) -> None:
        """Watch the files from now on, once a connection has created them. Raises IndexUnavailable, sqlite3.Error."""
        with self._lock:
            if self._anchor is None:
                self._anchor = self._open(timeout=self._wait, check_same_thread=False)
                self._anchor.execute("SELECT 1 FROM sqlite_master").fetchall()  # opens the files beside it
                for path in self._paths():
                    with suppress(OSError):
                        self._identities.setdefault(path, _identity(path))
        self.check()

    def release(self) -> None:
        """Watch only the database file: the others are deleted with the last connection."""
        with self._lock:
            self._identities = {path: each for path, each in self._identities.items() if path == self._path}
            if self._anchor is not None:
                self._anchor.close()
            self._anchor = None

    def _open(self, **parameters: object) -> sqlite3.Connection:
        if not self._identities:  # an empty file in the place of a missing one would hide the loss
            self._create()
        connection: sqlite3.Connection = sqlite3.connect(  # type: ignore[call-overload]
            f"file:{quote(self._path)}?mode=rw", uri=True, **parameters
        )
        return connection

    def _create(self) -> None:
        """Create the database file if there is none; SQLite gives its mode to the files beside it."""
        with suppress(OSError):  # SQLite cannot open it either, and its error says more
            private.make_file(Path(self._path))

    def _paths(self) -> dict[str, str]:
        return {f"{self._path}{suffix}": what for suffix, what in FILES.items()}

    def _find_fault(self) -> str:
        """Return what is wrong with the files, '' for nothing."""
        for path, known in tuple(self._identities.items()):  # other threads may add to it meanwhile
            try:
                is_known = _identity(path) == known
            except FileNotFoundError:
                return f"{self._paths()[path]} is gone: restart the server"
            except OSError as error:
                return f"{self._paths()[path]} cannot be reached ({error.strerror})"
            if not is_known:
                return f"{self._paths()[path]} was replaced: restart the server"
        return ""

    def _note(self, fault: str) -> None:
        """Notify once of a fault or of its end."""
        with self._lock:
            is_new, self._fault = fault != self._fault, fault
        if is_new and fault:
            self._notify(f"{fault}, or move back the file that it had; until then stores and queries are refused")
        elif is_new:
            self._notify("the files of the index are back")


def _identity(path: str) -> Identity:
    found = os.stat(path)
    return found.st_dev, found.st_ino
