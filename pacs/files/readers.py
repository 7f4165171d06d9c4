"""Readers of a stored file, of a file that is being written, and of memory; none raises OSError."""

import io
import os
from typing import BinaryIO, cast

from pacs.files.io_errors import READING, WRITING

_READ_AHEAD = 1 << 16


class _StoredFile(io.FileIO):
    """A stored file opened for reading. Opening raises OSError, everything after that InstanceUnreadable."""

    def readinto(self, buffer: bytearray | memoryview) -> int | None:  # type: ignore[override]
        """Read into a buffer."""
        with READING:
            return super().readinto(buffer)

    def readall(self) -> bytes | None:  # type: ignore[override]
        """Read to the end."""
        with READING:
            return super().readall()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position."""
        with READING:
            return super().seek(offset, whence)


def open_stored(path: str) -> BinaryIO:
    """Open a stored file. This and reading raise InstanceUnreadable."""
    with READING:
        return io.BufferedReader(_StoredFile(path))


class _Window(io.RawIOBase):
    """`size` bytes of something, with a position of its own."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = memoryview(buffer)[: max(0, self._size - self._position)]
        count = self._read(wanted, self._position) if wanted else 0
        self._position += count
        return count

    def _read(self, buffer: memoryview, position: int) -> int:
        """Fill the buffer from the position and return the number of bytes read."""
        raise NotImplementedError


class FileWindow(_Window):
    """A part of an open file, from `start` to `end`. Reading raises StorageUnavailable."""

    def __init__(self, descriptor: int, start: int, end: int) -> None:
        super().__init__(end - start)
        self._descriptor, self._start = descriptor, start

    def _read(self, buffer: memoryview, position: int) -> int:
        with WRITING:
            return os.preadv(self._descriptor, [buffer], self._start + position)


class MemoryWindow(_Window):
    """Bytes in memory, which must not change while they are read."""

    def __init__(self, content: memoryview) -> None:
        super().__init__(len(content))
        self._content = content

    def _read(self, buffer: memoryview, position: int) -> int:
        found = self._content[position : position + len(buffer)]
        buffer[: len(found)] = found
        return len(found)


def reader(window: _Window) -> BinaryIO:
    """Return a buffered reader of a window."""
    return cast(BinaryIO, io.BufferedReader(window, _READ_AHEAD))
