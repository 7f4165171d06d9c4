"""Pooled memory for small objects that are being received: memory from the system costs more than to fill it.

The memory of an object begins at a page boundary and has a free page before it, so that the journal can write both
without a copy.
"""

import mmap
from collections import deque

from pacs.errors import StorageUnavailable
from pacs.files.disk import PAGE, Buffer, whole_pages

SMALL = 1 << 18
"""Largest object, in bytes, that is held in memory and written through the journal; larger ones go to their file.

The journal writes an object twice. That is faster while the disk has nothing else to do, but with 512 kB on several
associations it is busy with the second write all the time."""

_FIRST_SIZE = 4 * PAGE
_POOLED = 16
"""The number of unused buffers kept."""


class ObjectBuffer:
    """A buffer that grows with the object in it."""

    def __init__(self) -> None:
        self._memory = _memory(_FIRST_SIZE)
        self._end = PAGE

    @property
    def content(self) -> memoryview:
        """The appended bytes; valid until the next `append` or `clear`."""
        return self._memory[PAGE : self._end]

    @property
    def size(self) -> int:
        """The number of appended bytes."""
        return self._end - PAGE

    def append(self, data: Buffer) -> None:
        """Append bytes. Raises StorageUnavailable when the system has no memory for them."""
        added = memoryview(data).cast("B")
        end = self._end + len(added)
        if end > len(self._memory):
            larger = _memory(max(whole_pages(end), 2 * len(self._memory)))
            larger[: self._end] = self._memory[: self._end]
            self._memory = larger
        self._memory[self._end : end] = added
        self._end = end

    def with_first_page(self, start: bytes) -> memoryview:
        """Return whole pages: one that begins with `start`, at most a page long, and those of the object."""
        if len(start) > PAGE:
            raise ValueError(f"{len(start)} bytes are more than a page")
        end = whole_pages(self._end)
        self._memory[:PAGE] = start.ljust(PAGE, b"\0")
        self._memory[self._end : end] = bytes(end - self._end)
        return self._memory[:end]

    def clear(self) -> None:
        """Remove the content and keep the memory."""
        self._end = PAGE


def _memory(size: int) -> memoryview:
    """Allocate memory that processes forked later do not share, as they would `mmap`'s by default."""
    try:
        return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    except OSError as error:
        raise StorageUnavailable(f"No memory for another object ({error.strerror})") from error


class BufferPool:
    """The unused buffers of a process. Thread-safe."""

    def __init__(self) -> None:
        self._unused: deque[ObjectBuffer] = deque(maxlen=_POOLED)

    def take(self) -> ObjectBuffer:
        """Return an empty buffer."""
        try:
            return self._unused.pop()
        except IndexError:
            return ObjectBuffer()

    def give_back(self, buffer: ObjectBuffer) -> None:
        """Clear a buffer and keep it for the next object."""
        buffer.clear()
        self._unused.append(buffer)


POOL = BufferPool()
"""The pool of this process."""
