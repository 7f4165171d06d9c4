"""What two AEs say to each other, understood from the bytes that pass by: nothing is sent, nothing altered."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pacs.dimse.messages.message import COMMAND, Assembler, Command, Message, pdvs
from pacs.dimse.upper.pdus import ASSOCIATE_AC, ASSOCIATE_RQ, InvalidPDU, decode
from pacs.dimse.upper.user_information import (
    AssociatePrimitive,
    Context,
    extended_of,
    implementation_of,
    max_pdu_of,
    roles_of,
)
from pacs.errors import ProtocolViolation

Side = Literal["requestor", "acceptor"]

LONGEST_PDU = 4 << 20
"""A PDU that claims to be longer is not waited for, in bytes: who says so is not understood any more."""

MOST_KEPT = 1 << 20
"""How much of one data set is kept, in bytes: all of an Identifier, and the header of an image."""

_HEADER = struct.Struct(">BxL")


@dataclass(frozen=True, slots=True)
class Proposed:
    """A presentation context of a request."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to one: 0 is acceptance (PS3.8 Table 9-18)."""

    id: int
    result: int
    transfer_syntax: str


Roles = Mapping[str, tuple[bool, bool]]
"""(SCU, SCP) by SOP Class (PS3.7 D.3.3.4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """An A-ASSOCIATE-RQ."""

    calling_ae_title: str
    called_ae_title: str
    contexts: tuple[Proposed, ...]
    max_pdu: int
    roles: Roles = field(default_factory=dict)
    extended: Mapping[str, bytes] = field(default_factory=dict)
    implementation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """An A-ASSOCIATE-AC."""

    contexts: tuple[Answered, ...]
    max_pdu: int
    roles: Roles = field(default_factory=dict)
    extended: Mapping[str, bytes] = field(default_factory=dict)
    implementation: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """An A-ASSOCIATE-RJ (PS3.8 9.3.4)."""

    result: int
    source: int
    reason: int


@dataclass(frozen=True, slots=True)
class Said:
    """A whole message: `data` is the beginning of its data set, at most `MOST_KEPT` bytes, of `size`; None for none."""

    side: Side
    context: Context
    command: Command
    data: bytes | None
    size: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """An A-RELEASE-RQ or -RP, an A-ABORT, or the end of what one side sends."""

    side: Side
    how: Literal["A-RELEASE-RQ", "A-RELEASE-RP", "A-ABORT", "connection closed"]


@dataclass(frozen=True, slots=True)
class NotUnderstood:
    """What came from a side is no DICOM Upper Layer any more; nothing of it is understood from here on."""

    side: Side
    why: str


Heard = Requested | Accepted | Rejected | Said | Ended | NotUnderstood

_ENDS: dict[int, Literal["A-RELEASE-RQ", "A-RELEASE-RP", "A-ABORT"]] = {
    0x05: "A-RELEASE-RQ",
    0x06: "A-RELEASE-RP",
    0x07: "A-ABORT",
}


class Overhearing:
    """Listens to one connection. The bytes of both sides have to come in the order in which they went by."""

    def __init__(self) -> None:
        self._proposed: dict[int, Proposed] = {}
        self._contexts: dict[int, Context] = {}
        self._ears = {side: _Ear(side, self._contexts) for side in _SIDES}

    def hear(self, side: Side, chunk: bytes) -> Iterator[Heard]:
        """What is said with the next bytes of a side; the end of what it sends is b''."""
        ear = self._ears[side]
        if not chunk:
            yield Ended(side, "connection closed")
        try:
            for kind, encoded in ear.pdus(chunk):
                yield from self._said(ear, kind, encoded)
        except (InvalidPDU, ProtocolViolation) as error:
            ear.is_deaf = True
            yield NotUnderstood(side, getattr(error, "comment", "") or "It is no PDU that PS3.8 knows")

    def _said(self, ear: "_Ear", kind: int, encoded: bytes) -> Iterator[Heard]:
        if kind == 0x04:
            yield from ear.messages(memoryview(encoded)[6:])
        elif kind == 0x01:
            yield self._requested(decode(ASSOCIATE_RQ, encoded).to_primitive())
        elif kind == 0x02:
            yield self._accepted(decode(ASSOCIATE_AC, encoded).to_primitive())
        elif kind == 0x03 and len(encoded) >= 10:
            yield Rejected(*encoded[7:10])
        elif kind in _ENDS:
            yield Ended(ear.side, _ENDS[kind])
        else:
            raise InvalidPDU

    def _requested(self, request: AssociatePrimitive) -> Requested:
        contexts = tuple(
            Proposed(each.context_id or 0, str(each.abstract_syntax), tuple(map(str, each.transfer_syntax)))
            for each in request.presentation_context_definition_list
        )
        self._proposed |= {each.id: each for each in contexts}
        return Requested(
            calling_ae_title=request.calling_ae_title.strip(),
            called_ae_title=request.called_ae_title.strip(),
            contexts=contexts,
            max_pdu=max_pdu_of(request),
            roles=roles_of(request),
            extended=extended_of(request),
            implementation=implementation_of(request),
        )

    def _accepted(self, answer: AssociatePrimitive) -> Accepted:
        results = answer.presentation_context_definition_results_list
        contexts = tuple(
            Answered(
                each.context_id or 0, each.result or 0, str(each.transfer_syntax[0]) if each.transfer_syntax else ""
            )
            for each in results
        )
        for each in contexts:
            if each.result == 0 and each.id in self._proposed:
                abstract = self._proposed[each.id].abstract_syntax
                self._contexts[each.id] = Context(each.id, abstract, each.transfer_syntax, as_scu=True, as_scp=True)
        return Accepted(
            contexts=contexts,
            max_pdu=max_pdu_of(answer),
            roles=roles_of(answer),
            extended=extended_of(answer),
            implementation=implementation_of(answer),
        )


_SIDES: tuple[Side, Side] = ("requestor", "acceptor")


class _Ear:
    """What one side sends: bytes into PDUs, and fragments into messages."""

    def __init__(self, side: Side, contexts: Mapping[int, Context]) -> None:
        self.side = side
        self.is_deaf = False
        self._buffer = bytearray()
        self._assembler = Assembler(contexts, _nothing_more)
        self._data = bytearray()
        self._size = 0

    def pdus(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        """The type and all bytes of each PDU that is whole now. Raises InvalidPDU."""
        if self.is_deaf:
            return
        self._buffer += chunk
        while len(self._buffer) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._buffer)
            if length > LONGEST_PDU:
                raise InvalidPDU
            if len(self._buffer) < _HEADER.size + length:
                return
            encoded = bytes(self._buffer[: _HEADER.size + length])
            del self._buffer[: _HEADER.size + length]
            yield kind, encoded

    def messages(self, body: memoryview) -> Iterator[Said]:
        """The messages that the inside of a P-DATA-TF completes. Raises ProtocolViolation."""
        for context_id, control, fragment in pdvs(body):
            if control & COMMAND:
                message = self._assembler.command(context_id, control, fragment)
                if message is not None and message.is_complete:
                    yield Said(self.side, message.context, message.command, None)
            else:
                yield from self._add(self._assembler.data(context_id, control), fragment)

    def _add(self, message: Message, fragment: memoryview) -> Iterator[Said]:
        self._size += len(fragment)
        self._data += fragment[: max(0, MOST_KEPT - len(self._data))]
        if message.is_complete:
            data, size, self._data, self._size = bytes(self._data), self._size, bytearray(), 0
            yield Said(self.side, message.context, message.command, data, size)


def _nothing_more(_message: Message) -> memoryview:
    """Messages are never read here."""
    raise ProtocolViolation("There is nothing to wait for")
