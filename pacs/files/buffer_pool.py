"""Memory for small objects on their way in, used again and again: memory that is new costs more than to fill it.

It begins with a page, and a page of it stands before the object, so that both can be handed to the disk as they are.
"""

import mmap
from collections import deque

from pacs.errors import StorageUnavailable
from pacs.files.disk import PAGE, Buffer, whole_pages

SMALL = 1 << 20
"""Bytes of an object that are held in memory, and go by the journal: a larger one is written as it comes."""

_FIRST = 4 * PAGE
_AT_REST = 16
"""How many are kept for the next ones."""


class Scratch:
    """The bytes of one object."""

    def __init__(self) -> None:
        self._memory = _memory(_FIRST)
        self._end = PAGE

    @property
    def content(self) -> memoryview:
        """What was appended: valid until more is, or it is cleared."""
        return self._memory[PAGE : self._end]

    @property
    def size(self) -> int:
        """How many bytes were appended."""
        return self._end - PAGE

    def append(self, data: Buffer) -> None:
        """Add bytes to the end."""
        added = memoryview(data).cast("B")
        end = self._end + len(added)
        if end > len(self._memory):
            larger = _memory(max(whole_pages(end), 2 * len(self._memory)))
            larger[: self._end] = self._memory[: self._end]
            self._memory = larger
        self._memory[self._end : end] = added
        self._end = end

    def framed(self, start: bytes) -> memoryview:
        """Whole pages: one that begins with `start`, which is no longer than a page, and those of the object."""
        if len(start) > PAGE:
            raise ValueError(f"{len(start)} bytes are more than a page")
        end = whole_pages(self._end)
        self._memory[:PAGE] = start.ljust(PAGE, b"\0")
        self._memory[self._end : end] = bytes(end - self._end)
        return self._memory[:end]

    def clear(self) -> None:
        """Have nothing in it, and keep the memory."""
        self._end = PAGE


def _memory(size: int) -> memoryview:
    """New memory of our own: what `mmap` gives if not told otherwise, processes that are forked later would share."""
    try:
        return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    except OSError as error:
        raise StorageUnavailable(f"There is no memory for another object ({error.strerror})") from error


class Scratches:
    """Those of a process that are at rest. Any thread may take one and give it back."""

    def __init__(self) -> None:
        self._resting: deque[Scratch] = deque(maxlen=_AT_REST)

    def take(self) -> Scratch:
        """An empty one."""
        try:
            return self._resting.pop()
        except IndexError:
            return Scratch()

    def give_back(self, scratch: Scratch) -> None:
        """Let others use it."""
        scratch.clear()
        self._resting.append(scratch)


SCRATCHES = Scratches()
"""All of this process."""
