"""Messages (PS3.7): a command set and perhaps a data set, from and into the fragments that travel in P-DATA.

A data set is never decoded here: it goes by in fragments.
"""

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from pacs.dimse.agreement import Context
from pacs.dimse.command import Command, CommandField
from pacs.errors import OutOfResources

__all__ = ["Buffer", "Command", "CommandField", "Message", "p_data"]

Buffer = bytes | bytearray | memoryview

_P_DATA = struct.Struct(">BxLLBB")
_BATCH_BYTES = 1 << 20
_BATCH_BUFFERS = 256


class Message:
    """One DIMSE message: its command, its presentation context, and its data set on the way in.

    `cancelled` says that a C-CANCEL for it came before the operation was begun.
    """

    def __init__(self, context: Context, command: Command, pull: Callable[["Message"], memoryview]) -> None:
        self.context = context
        self.command = command
        self.cancelled = False
        self._pull = pull
        self._waiting: deque[bytes] = deque()
        self._complete = not command.has_data_set

    @property
    def is_complete(self) -> bool:
        """Whether the last fragment of the data set has come in (it may not have been read yet)."""
        return self._complete

    def fragments(self) -> Iterator[memoryview]:
        """The data set as it arrives. A fragment is valid only until the next one, or anything else, is asked for.

        Raises AssociationLost when the rest does not come.
        """
        while True:
            if self._waiting:
                yield memoryview(self._waiting.popleft())
            elif self._complete:
                return
            else:
                yield self._pull(self)

    def read(self, limit: int) -> bytes:
        """The whole data set. Raises OutOfResources when it is longer than `limit` bytes, AssociationLost."""
        data = bytearray()
        for fragment in self.fragments():
            data += fragment
            if len(data) > limit:
                raise OutOfResources(f"The data set is longer than the {limit} bytes taken")
        return bytes(data)

    def drain(self) -> None:
        """Let what was not read of the data set go by."""
        for _ in self.fragments():
            pass

    def keep(self, fragment: Buffer) -> None:
        """Hold a copy of a fragment that came in while nobody was reading."""
        self._waiting.append(bytes(fragment))

    def finish(self) -> None:
        """Note that the last fragment has come in."""
        self._complete = True


def p_data(context_id: int, command: bytes, data: Iterable[Buffer] | None, max_pdu: int) -> Iterator[list[Buffer]]:
    """A message as P-DATA-TF PDUs of one PDV each (PS3.8 9.3.5), in batches of buffers to be written at once.

    `max_pdu` is the longest the peer takes (the variable field of a PDU, at least 8), never 0. The chunks of `data`
    are not copied: none may change until the message has been sent.
    """
    size = (max_pdu - 6) & ~1
    batch: list[Buffer] = []
    length = 0
    for control, chunks in ((0x01, (command,)), (0x00, data)):
        for parts, count, last in _cut(chunks, size) if chunks is not None else ():
            batch.append(_P_DATA.pack(0x04, count + 6, count + 2, context_id, control | (0x02 if last else 0)))
            batch += parts
            length += count
            if length >= _BATCH_BYTES or len(batch) >= _BATCH_BUFFERS:
                yield batch
                batch, length = [], 0
    if batch:
        yield batch


def _cut(chunks: Iterable[Buffer], size: int) -> Iterator[tuple[list[memoryview], int, bool]]:
    """Regroup `chunks` into fragments of exactly `size` bytes but the last: (parts, bytes, is the last one)."""
    held: list[memoryview] = []
    room = size
    for chunk in chunks:
        view = memoryview(chunk)
        while len(view) > room:
            yield [*held, view[:room]], size, False
            view, held, room = view[room:], [], size
        if len(view):
            held.append(view)
            room -= len(view)
    yield held, size - room, True
