"""Folders that are locked while their process lives: a folder without a lock belongs to a process that has died."""

import fcntl
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self

from pacs.files.disk import open_folder, sync_folder, write_text
from pacs.files.io_errors import WRITING, Writing
from pacs.support import private

_CREATING = Writing("Cannot create a temporary folder")

TRIES, PAUSE = 5, 0.01
"""How often a lock is tried, and the seconds after each try."""


@dataclass(frozen=True, slots=True)
class LockedFolder:
    """A folder with a unique name, locked through its descriptor."""

    path: Path
    descriptor: int

    @classmethod
    def create(cls, parent: Path, files: Mapping[str, str] = MappingProxyType({})) -> Self:
        """Create a folder in `parent`, which is made if need be, with text files by name.

        Its name survives a power cut, and the files with it. Raises OSError.
        """
        private.make_folder(parent)
        path = parent / uuid.uuid4().hex
        hidden = path.with_name(f".{path.name}")  # hidden until it is locked: without a lock it would seem abandoned
        hidden.mkdir(mode=private.FOLDER)
        folder = cls(path, open_folder(hidden))
        fcntl.flock(folder.descriptor, fcntl.LOCK_EX)
        for name, text in files.items():
            write_text(hidden / name, text)
        hidden.rename(path)
        for each in (parent, parent.parent):
            sync_folder(each)
        return folder

    def release(self, *, remove: bool) -> None:
        """Release the lock, and remove the folder, which is empty, if `remove` is set. Raises OSError."""
        try:
            if remove:
                self.path.rmdir()
        finally:
            os.close(self.descriptor)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Wait for the lock of an existing folder and hold it in the `with` block. Raises StorageUnavailable."""
    with WRITING:
        descriptor = open_folder(folder)
    try:
        with WRITING:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def process_folders(parent: Path) -> list[Path]:
    """Return the folders in `parent`, of processes that live or died; none when there is no `parent`."""
    if not parent.is_dir():
        return []
    return [path for path in parent.iterdir() if path.is_dir() and not path.name.startswith(".")]


def try_lock(path: Path) -> LockedFolder | None:
    """Lock a folder; None while another process has the lock, or when the folder is gone.

    Tries more than once, because a process that only looks (`is_locked`) has the lock for some microseconds.
    """
    for _ in range(TRIES):
        if (locked := _try_lock(path, fcntl.LOCK_EX)) is not None or not path.exists():
            return locked
        time.sleep(PAUSE)
    return None


def _try_lock(path: Path, how: int) -> LockedFolder | None:
    try:
        descriptor = open_folder(path)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return LockedFolder(path, descriptor)


def is_locked(path: Path) -> bool:
    """Whether the process that made a folder still lives."""
    locked = _try_lock(path, fcntl.LOCK_SH)  # shared: for two processes that look at once, neither is the owner
    if locked is not None:
        locked.release(remove=False)
    return locked is None and path.exists()


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Create a folder in `parent` and remove it, with its files, after the `with` block.

    Folders of processes that died are removed first. Raises StorageUnavailable.
    """
    with _CREATING:
        for path in process_folders(parent):
            if (abandoned := try_lock(path)) is not None:
                _remove(abandoned)
        folder = LockedFolder.create(parent)
    try:
        yield folder.path
    finally:
        with suppress(OSError):
            _remove(folder)


def _remove(folder: LockedFolder) -> None:
    for path in folder.path.iterdir():
        path.unlink()
    folder.release(remove=True)
