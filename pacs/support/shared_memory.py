"""Memory that the processes of a server share: anonymous memory, which every process inherits that is forked later.

Each part of it has one process that writes. Other processes read without a lock.
"""

import mmap
import struct
import zlib

_HEAD = struct.Struct("=LL")
"""Length and checksum of the content of a slot."""


def shared_bytes(size: int) -> memoryview:
    """Return zeroed shared memory; `cast` it to have numbers. The system allocates only pages that are written."""
    return memoryview(mmap.mmap(-1, size))


class Slots:
    """A shared table of `count` byte strings, each at most `capacity` bytes long.

    A slot that another process is writing, or was writing when it died, fails its checksum and reads as empty.
    """

    def __init__(self, count: int, capacity: int) -> None:
        self.count, self.capacity = count, capacity
        self._size = _HEAD.size + capacity
        self._memory = shared_bytes(count * self._size)

    def write(self, slot: int, content: bytes) -> None:
        """Write the content of a slot. Raises ValueError if it is longer than `capacity`."""
        if len(content) > self.capacity:
            raise ValueError(f"{len(content)} bytes do not fit into a slot of {self.capacity}")
        start = slot * self._size
        self._memory[start + _HEAD.size : start + _HEAD.size + len(content)] = content
        _HEAD.pack_into(self._memory, start, len(content), zlib.crc32(content))

    def read(self, slot: int) -> bytes:
        """Return the content of a slot, b"" if it is empty or being written."""
        start = slot * self._size
        length, checksum = _HEAD.unpack_from(self._memory, start)
        if not 0 < length <= self.capacity:
            return b""
        content = bytes(self._memory[start + _HEAD.size : start + _HEAD.size + length])
        return content if zlib.crc32(content) == checksum else b""

    def clear(self, slot: int) -> None:
        """Empty a slot."""
        _HEAD.pack_into(self._memory, slot * self._size, 0, 0)
