"""DIMSE messages (PS3.7): a command set with or without a data set, assembled from and split into PDV fragments.

Data sets are never decoded here; they pass as fragments.
"""

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from pacs.dimse.messages.command import DATA_SET_TYPE, MAX_COMMAND, Command, CommandField
from pacs.dimse.upper.user_information import Context
from pacs.dimse.upper.wire import Buffer
from pacs.errors import OutOfResources, ProtocolViolation

__all__ = [
    "PDV",
    "Assembler",
    "Buffer",
    "Command",
    "CommandField",
    "Message",
    "Pull",
    "p_data",
    "pdvs",
    "small_messages",
]

_PDV = struct.Struct(">LBB")
_P_DATA = struct.Struct(">BxLLBB")
_BATCH_BYTES = 1 << 20
_BATCH_BUFFERS = 256


class Message:
    """A received DIMSE message: its command, its presentation context, and its data set, which may still arrive.

    `cancelled` says that a C-CANCEL for it came before its operation began.
    """

    def __init__(self, context: Context, command: Command, pull: "Pull") -> None:
        self.context = context
        self.command = command
        self.cancelled = False
        self.is_complete = not command.has_data_set
        """Whether the last fragment of the data set has arrived; it may not have been read yet."""
        self.held = 0
        """The number of queued bytes of the data set."""
        self._pull = pull
        self._queue: deque[bytes] = deque()

    def fragments(self) -> Iterator[memoryview]:
        """Yield the data set as it arrives. A fragment is valid until the next use of the message or its association.

        Raises AssociationLost when the rest does not come.
        """
        while True:
            if self._queue:
                fragment = self._queue.popleft()
                self.held -= len(fragment)
                yield memoryview(fragment)
            elif self.is_complete:
                return
            else:
                yield self._pull(self)

    def read(self, limit: int) -> bytes:
        """Return the whole data set. Raises OutOfResources when it is longer than `limit` bytes, AssociationLost."""
        data = bytearray()
        for fragment in self.fragments():
            data += fragment
            if len(data) > limit:
                raise OutOfResources(f"The data set is longer than {limit} bytes")
        return bytes(data)

    def drain(self) -> None:
        """Read and discard the unread rest of the data set. Raises AssociationLost."""
        for _ in self.fragments():
            pass

    def hold(self, fragment: Buffer) -> None:
        """Queue a copy of a fragment that arrived while the data set was not being read."""
        if len(fragment):
            self._queue.append(bytes(fragment))
            self.held += len(fragment)


Pull = Callable[[Message], memoryview]
"""Returns the next fragment of a message's data set, which may be empty. Raises AssociationLost."""

PDV = tuple[int, int, memoryview]
"""A Presentation Data Value: presentation context ID, message control header, fragment (PS3.8 9.3.5.1, E.2)."""

COMMAND, LAST = 0x01, 0x02
"""The bits of the message control header: part of a command set, and the last fragment of it."""


def pdvs(body: memoryview) -> Iterator[PDV]:
    """Yield the PDVs in a P-DATA-TF. Raises ProtocolViolation."""
    offset = 0
    while True:
        if len(body) - offset < _PDV.size:
            raise ProtocolViolation(f"it ends within the header of a PDV: {bytes(body[offset:]).hex(' ')}")
        length, context_id, control = _PDV.unpack_from(body, offset)
        end = offset + 4 + length
        if length < 2 or end > len(body):
            header, rest = bytes(body[offset : offset + _PDV.size]), len(body) - offset - 4
            raise ProtocolViolation(f"PDV has a length of {length}, and {rest} bytes remain: {header.hex(' ')}")
        yield context_id, control, body[offset + _PDV.size : end]
        offset = end
        if offset == len(body):
            return


class Assembler:
    """Assembles messages from fragments, and checks their order (PS3.7, PS3.8 E.1)."""

    def __init__(self, contexts: Mapping[int, Context], pull: Pull) -> None:
        self._contexts = contexts
        self._pull = pull
        self._command = bytearray()
        self._context_id: int | None = None
        self._open: Message | None = None

    @property
    def has_partial_command(self) -> bool:
        """Whether only a part of a command set has arrived."""
        return self._context_id is not None

    @property
    def has_partial_message(self) -> bool:
        """Whether the rest of a command set or of a data set is missing."""
        return self.has_partial_command or self._open is not None

    def command(self, context_id: int, control: int, fragment: memoryview) -> Message | None:
        """Add a fragment of a command set. Return the message it completes, if any. Raises ProtocolViolation."""
        context = self._contexts.get(context_id)
        if context is None or self._context_id not in (None, context_id):
            why = "which was not accepted" if context is None else f"and its beginning in {self._context_id}"
            raise invalid_pdv(context_id, control, f"is in presentation context {context_id}, {why}")
        if self._open is not None:
            raise invalid_pdv(context_id, control, DATA_SET_WAS_DUE)
        if len(self._command) + len(fragment) > MAX_COMMAND:
            raise invalid_pdv(context_id, control, f"makes its command set longer than {MAX_COMMAND} bytes")
        self._command += fragment
        self._context_id = context_id
        return self._complete(context) if control & LAST else None

    def _complete(self, context: Context) -> Message:
        command = Command.decode(bytes(self._command))
        self._command.clear()
        self._context_id = None
        if command.field == CommandField.C_CANCEL and command.has_data_set:
            announced = command.elements[DATA_SET_TYPE]
            raise ProtocolViolation(f"C-CANCEL-RQ announces a data set: (0000,0800) is {announced:04X}")
        message = Message(context, command, self._pull)
        self._open = None if message.is_complete else message
        return message

    def data(self, context_id: int, control: int) -> Message:
        """Return the message that a fragment of a data set belongs to. Raises ProtocolViolation."""
        message = self._open
        if message is None or self.has_partial_command or message.context.id != context_id:
            raise invalid_pdv(context_id, control, self._why_not_due(context_id))
        if control & LAST:
            message.is_complete = True
            self._open = None
        return message

    def _why_not_due(self, context_id: int) -> str:
        if self.has_partial_command:
            return "came where the rest of a command set was due"
        if self._open is None:
            return "follows no command set that announces a data set"
        return f"is in presentation context {context_id}, and its command set in {self._open.context.id}"


DATA_SET_WAS_DUE = "came where the rest of a data set was due"


def invalid_pdv(context_id: int, control: int, what: str) -> ProtocolViolation:
    """Return the error for a PDV, of which the last two bytes of the header are shown: the rest may be patient data."""
    kind, header = "command" if control & COMMAND else "data", bytes((context_id, control)).hex(" ")
    return ProtocolViolation(f"PDV of a {kind} set {what}: {header}")


def p_data(context_id: int, command: bytes, data: Iterable[Buffer] | None, max_pdu: int) -> Iterator[list[Buffer]]:
    """Yield a message as P-DATA-TF PDUs of one PDV each (PS3.8 9.3.5), in batches of buffers for one write.

    `max_pdu` is the peer's maximum length (the variable field of a PDU), at least 8 and not 0 for "no limit". The
    chunks of `data` are not copied: none may change until the message has been sent.
    """
    size = (max_pdu - 6) & ~1
    batch: list[Buffer] = []
    yield from _framed(batch, context_id, COMMAND, (command,), size)
    if data is not None:
        yield from _framed(batch, context_id, 0, data, size)
    yield batch


def small_messages(context_id: int, command: bytes, data: Sequence[bytes], max_pdu: int) -> list[bytes]:
    """Return a message with the same command for each data set, as `p_data` in one piece."""
    first = b"".join(chain.from_iterable(p_data(context_id, command, None, max_pdu)))
    most, pack = (max_pdu - 6) & ~1, _P_DATA.pack
    return [
        b"".join((first, pack(0x04, len(each) + 6, len(each) + 2, context_id, LAST), each))
        if 0 < len(each) <= most
        else b"".join(chain.from_iterable(p_data(context_id, command, (each,), max_pdu)))
        for each in data
    ]


def _framed(
    batch: list[Buffer], context_id: int, control: int, chunks: Iterable[Buffer], size: int
) -> Iterator[list[Buffer]]:
    """Append `chunks` to the batch as PDUs with fragments of exactly `size` bytes, the last one shorter.

    A batch that is large enough for a write is yielded as a copy, and emptied.
    """
    header = _P_DATA.pack(0x04, size + 6, size + 2, context_id, control)
    held: list[memoryview] = []
    room, length = size, 0
    for chunk in chunks:
        view = memoryview(chunk)
        while len(view) > room:
            batch += (header, *held, view[:room])
            view, held, room = view[room:], [], size
            length += size
            if length >= _BATCH_BYTES or len(batch) >= _BATCH_BUFFERS:
                yield batch.copy()
                batch.clear()
                length = 0
        if len(view):
            held.append(view)
            room -= len(view)
    count = size - room
    batch += (_P_DATA.pack(0x04, count + 6, count + 2, context_id, control | LAST), *held)
