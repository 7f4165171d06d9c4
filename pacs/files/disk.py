"""What the file store asks of the system: whole writes, and syncs of data, folders and file systems."""

import ctypes
import errno
import mmap
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from pacs.support.buffers import remainder

Buffer = bytes | bytearray | memoryview

PAGE = 4096
"""Bytes of which writes that go by the page cache have to be made."""

ZEROS = memoryview(mmap.mmap(-1, 1 << 20))
"""Nothing, in whole pages."""

_MOST_BUFFERS = 1000
"""How many buffers are handed to the system at once; Linux takes 1024."""

_SYNCFS_TELLS = (5, 8)
"""The Linux from which on syncfs says that something could not be written."""


def write_at(descriptor: int, buffers: Sequence[Buffer], position: int) -> None:
    """Write all of `buffers` one behind the other from `position` on. Raises OSError."""
    for first in range(0, len(buffers), _MOST_BUFFERS):
        rest = [memoryview(each).cast("B") for each in buffers[first : first + _MOST_BUFFERS] if len(each)]
        while rest:
            written = os.pwritev(descriptor, rest, position)
            position += written
            rest = remainder(rest, written)


def open_durable(path: Path) -> int:
    """The descriptor of a new file in which every write of whole pages is durable when it returns. Raises OSError.

    The page cache is gone by where the file system allows that: it would take a copy that nobody reads.
    """
    try:
        return _open_durable(path, getattr(os, "O_DIRECT", 0))
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno != errno.EINVAL:
            raise
    return _open_durable(path, 0)


def _open_durable(path: Path, direct: int) -> int:
    """As `open_durable`, and a first page is written: some file systems refuse to go by the page cache only then."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_DSYNC
    descriptor = os.open(path, flags | direct, 0o640)
    try:
        os.pwrite(descriptor, ZEROS[:PAGE], 0)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def whole_pages(size: int) -> int:
    """So many bytes, and what is missing to a whole page."""
    return size + -size % PAGE


def sync_folder(folder: Path | str) -> None:
    """Make the names in a folder durable. Raises OSError."""
    descriptor = open_folder(folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_names_of(folder: Path) -> None:
    """Make the name of a folder durable, and those of all above it on its file system. Raises OSError.

    One above that may not be read was not made by us.
    """
    path = folder.absolute()
    while not path.is_mount():
        path = path.parent
        with suppress(PermissionError):
            sync_folder(path)


def open_folder(folder: Path | str) -> int:
    """The descriptor of a folder. Raises OSError."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def sync_file_system(descriptor: int) -> bool:
    """Make durable all that was written to the file system of an open file; False where that cannot be had.

    Raises OSError when something could not be written since `descriptor` was opened.
    """
    syncfs = _syncfs()
    if syncfs is None:
        return False
    if syncfs(descriptor):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return True


@cache
def _syncfs() -> Callable[[int], int] | None:
    """The system's syncfs, where it is one that tells of failures."""
    release = platform.release().split(".")
    if platform.system() != "Linux" or tuple(int(part) for part in release[:2] if part.isdecimal()) < _SYNCFS_TELLS:
        return None
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    return found
