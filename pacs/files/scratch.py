"""Memory for small objects on their way in, used again and again: memory that is new costs more than to fill it."""

from collections import deque

from pacs.files.disk import Buffer

SMALL = 1 << 20
"""Bytes of an object that are held in memory, and go by the journal: a larger one is written as it comes."""

_FIRST = 1 << 14
_AT_REST = 16
"""How many are kept for the next ones."""


class Scratch:
    """The bytes of one object."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray(_FIRST))
        self._size = 0

    @property
    def content(self) -> memoryview:
        """What was appended: valid until more is, or it is cleared."""
        return self._memory[: self._size]

    def append(self, data: Buffer) -> None:
        """Add bytes to the end."""
        added = memoryview(data).cast("B")
        end = self._size + len(added)
        if end > len(self._memory):
            larger = memoryview(bytearray(max(end, 2 * len(self._memory))))
            larger[: self._size] = self.content
            self._memory = larger
        self._memory[self._size : end] = added
        self._size = end

    def clear(self) -> None:
        """Have nothing in it, and keep the memory."""
        self._size = 0


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
