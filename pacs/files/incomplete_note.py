"""The note that the index lacks files of this store, with the progress of completing it.

It is a file, so that it outlives the servers and is seen by all processes that use the store.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path

from pacs.files.disk import sync_folder, write_at, write_text
from pacs.files.io_errors import WRITING

LENGTH = 200
"""Length of the note in bytes: it is rewritten in place, and padded."""


@dataclass(slots=True)
class CompletionProgress:
    """Numbers of files: those checked of `total`, and of these those added to the index, or that cannot be added."""

    total: int = 0
    checked: int = 0
    added: int = 0
    failed: int = 0

    @property
    def percent(self) -> int:
        """How much is checked."""
        return 100 * self.checked // self.total if self.total else 0


class IncompleteNote:
    """The note of one store. All methods but `exists` raise StorageUnavailable."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def exists(self) -> bool:
        """Whether the index lacks files."""
        return self._path.exists()

    def create(self) -> None:
        """Note durably that the index lacks files, if that is not noted yet."""
        with WRITING:
            if not self._path.exists():
                write_text(self._path, _encoded(CompletionProgress()))

    def remove(self) -> None:
        """Note durably that the index has all files."""
        with WRITING, suppress(FileNotFoundError):
            self._path.unlink()
            sync_folder(self._path.parent)

    def progress(self) -> CompletionProgress:
        """Return how far the index is completed; zeros before that has begun."""
        with WRITING, suppress(FileNotFoundError, ValueError, TypeError):
            return CompletionProgress(*map(int, self._path.read_text("ascii").split()))
        return CompletionProgress()

    def write(self, progress: CompletionProgress) -> None:
        """Change the numbers in the note, if it still exists."""
        with WRITING, suppress(FileNotFoundError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                write_at(descriptor, [_encoded(progress).encode()], 0)
            finally:
                os.close(descriptor)

    @contextmanager
    def lock(self) -> Iterator[bool]:
        """Lock the completion of the index; yield whether this process has the lock, which ends with the process."""
        with WRITING:
            try:
                descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                descriptor = None
        if descriptor is None:
            yield False
            return
        try:
            yield _locked(descriptor)
        finally:
            os.close(descriptor)


def _locked(descriptor: int) -> bool:
    with WRITING, suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _encoded(progress: CompletionProgress) -> str:
    return " ".join(map(str, astuple(progress))).ljust(LENGTH - 1) + "\n"
