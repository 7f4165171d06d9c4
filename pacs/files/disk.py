"""System calls of the file store: complete writes, and syncs of files, folders and file systems."""

import ctypes
import errno
import mmap
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from pacs.support import private
from pacs.support.buffers import remainder

Buffer = bytes | bytearray | memoryview

PAGE = 4096
"""Bytes of a page; a write that bypasses the page cache consists of whole pages."""

ZEROS = memoryview(mmap.mmap(-1, 1 << 20))
"""Zero bytes, in whole pages."""

_MOST_BUFFERS = 1000
"""Buffers in one system call; Linux takes 1024."""

_SYNCFS_REPORTS_ERRORS = (5, 8)
"""The first version of Linux whose syncfs reports write errors."""


def write_at(descriptor: int, buffers: Sequence[Buffer], position: int) -> None:
    """Write all of `buffers` one after the other from `position` on. Raises OSError."""
    for first in range(0, len(buffers), _MOST_BUFFERS):
        rest = [memoryview(each).cast("B") for each in buffers[first : first + _MOST_BUFFERS] if len(each)]
        while rest:
            written = os.pwritev(descriptor, rest, position)
            position += written
            rest = remainder(rest, written)


def open_durable(path: Path) -> int:
    """Create a file whose writes of whole pages are durable when they return, and return its descriptor.

    The writes bypass the page cache where the file system allows that, as the file is hardly ever read. Raises OSError.
    """
    try:
        return _open_durable(path, getattr(os, "O_DIRECT", 0))
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno != errno.EINVAL:
            raise
    return _open_durable(path, 0)


def _open_durable(path: Path, direct: int) -> int:
    """Create the file and write a first page: some file systems refuse O_DIRECT only then."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_DSYNC
    descriptor = os.open(path, flags | direct, private.FILE)
    try:
        os.pwrite(descriptor, ZEROS[:PAGE], 0)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def whole_pages(size: int) -> int:
    """Round a number of bytes up to whole pages."""
    return size + -size % PAGE


def sync_folder(folder: Path | str) -> None:
    """Make the names in a folder durable. Raises OSError."""
    descriptor = open_folder(folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_parents(folder: Path) -> None:
    """Make the names of a folder and of all above it on its file system durable. Raises OSError.

    A folder that this process may not read is skipped: it was not made by pacs.
    """
    path = folder.absolute()
    while not path.is_mount():
        path = path.parent
        with suppress(PermissionError):
            sync_folder(path)


def open_folder(folder: Path | str) -> int:
    """Open a folder and return its descriptor. Raises OSError."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def sync_file_system(descriptor: int) -> bool:
    """Sync the file system of an open file; return False where the system cannot do that reliably.

    Raises OSError when a write has failed since `descriptor` was opened.
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
    """Return the system's syncfs if it reports write errors."""
    release = platform.release().split(".")
    if (
        platform.system() != "Linux"
        or tuple(int(part) for part in release[:2] if part.isdecimal()) < _SYNCFS_REPORTS_ERRORS
    ):
        return None
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    return found


def write_text(path: Path, text: str) -> None:
    """Write a small file completely and durably, in place of an older one. Raises OSError."""
    new = path.with_name(f".{path.name}.new")
    with open(new, "wb", opener=private.opener) as file:
        write_at(file.fileno(), [text.encode()], 0)
        os.fsync(file.fileno())
    os.replace(new, path)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Make the content of a file durable. Raises OSError."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
