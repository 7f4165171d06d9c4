"""Decodes the PDUs and messages of a connection between two AEs from a copy of its bytes."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pacs.dimse.messages.message import COMMAND, Assembler, Command, Message, pdvs
from pacs.dimse.upper.pdus import ASSOCIATE_AC, ASSOCIATE_RQ, InvalidPDU, decode
from pacs.dimse.upper.user_information import (
    AssociatePrimitive,
    Context,
    ProposedContext,
    extended_of,
    implementation_of,
    max_pdu_of,
    proposed_contexts,
    roles_of,
)
from pacs.errors import ProtocolViolation

Side = Literal["requestor", "acceptor"]

MAX_PDU_BYTES = 4 << 20
"""Maximum length of a PDU; a longer one makes the direction invalid."""

MAX_KEPT_BYTES = 1 << 20
"""Number of bytes kept of one data set: all of an Identifier, and the header of an image."""

_HEADER = struct.Struct(">BxL")


@dataclass(frozen=True, slots=True)
class ContextResult:
    """The result for one presentation context; 0 is acceptance (PS3.8 Table 9-18)."""

    id: int
    result: int
    transfer_syntax: str


Roles = Mapping[str, tuple[bool, bool]]
"""(SCU, SCP) by SOP Class (PS3.7 D.3.3.4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociateRQ:
    """An A-ASSOCIATE-RQ."""

    calling_ae_title: str
    called_ae_title: str
    contexts: tuple[ProposedContext, ...]
    max_pdu: int
    roles: Roles = field(default_factory=dict)
    extended: Mapping[str, bytes] = field(default_factory=dict)
    implementation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociateAC:
    """An A-ASSOCIATE-AC."""

    contexts: tuple[ContextResult, ...]
    max_pdu: int
    roles: Roles = field(default_factory=dict)
    extended: Mapping[str, bytes] = field(default_factory=dict)
    implementation: str = ""


@dataclass(frozen=True, slots=True)
class AssociateRJ:
    """An A-ASSOCIATE-RJ (PS3.8 9.3.4)."""

    result: int
    source: int
    reason: int


@dataclass(frozen=True, slots=True)
class SniffedMessage:
    """A complete message. `data` is the beginning of its data set of `size` bytes, None without a data set."""

    side: Side
    context: Context
    command: Command
    data: bytes | None
    size: int = 0


@dataclass(frozen=True, slots=True)
class AssociationEnd:
    """An A-RELEASE-RQ or -RP, an A-ABORT, or the end of the connection in one direction."""

    side: Side
    how: Literal["A-RELEASE-RQ", "A-RELEASE-RP", "A-ABORT", "connection closed"]


@dataclass(frozen=True, slots=True)
class InvalidData:
    """A side sent data that are no DICOM Upper Layer PDUs; nothing is decoded from here on."""

    side: Side
    why: str


SniffedEvent = AssociateRQ | AssociateAC | AssociateRJ | SniffedMessage | AssociationEnd | InvalidData

_ENDS: dict[int, Literal["A-RELEASE-RQ", "A-RELEASE-RP", "A-ABORT"]] = {
    0x05: "A-RELEASE-RQ",
    0x06: "A-RELEASE-RP",
    0x07: "A-ABORT",
}


class Sniffer:
    """Decodes one connection. The bytes of both sides must be fed in the order of transmission."""

    def __init__(self) -> None:
        self._proposed: dict[int, ProposedContext] = {}
        self._contexts: dict[int, Context] = {}
        self._directions = {side: _Direction(side, self._contexts) for side in _SIDES}

    def feed(self, side: Side, chunk: bytes) -> Iterator[SniffedEvent]:
        """Yield the events in the next bytes of a side; b'' is the end of its data."""
        direction = self._directions[side]
        if not chunk:
            yield AssociationEnd(side, "connection closed")
        try:
            for kind, encoded in direction.pdus(chunk):
                yield from self._events(direction, kind, encoded)
        except (InvalidPDU, ProtocolViolation) as error:
            direction.is_invalid = True
            yield InvalidData(side, getattr(error, "comment", "") or "Not a PDU of PS3.8")

    def _events(self, direction: "_Direction", kind: int, encoded: bytes) -> Iterator[SniffedEvent]:
        if kind == 0x04:
            yield from direction.messages(memoryview(encoded)[6:])
        elif kind == 0x01:
            yield self._read_request(decode(ASSOCIATE_RQ, encoded).to_primitive())
        elif kind == 0x02:
            yield self._read_answer(decode(ASSOCIATE_AC, encoded).to_primitive())
        elif kind == 0x03 and len(encoded) >= 10:
            yield AssociateRJ(*encoded[7:10])
        elif kind in _ENDS:
            yield AssociationEnd(direction.side, _ENDS[kind])
        else:
            raise InvalidPDU

    def _read_request(self, request: AssociatePrimitive) -> AssociateRQ:
        contexts = proposed_contexts(request)
        self._proposed |= {each.id: each for each in contexts}
        return AssociateRQ(
            calling_ae_title=request.calling_ae_title.strip(),
            called_ae_title=request.called_ae_title.strip(),
            contexts=contexts,
            max_pdu=max_pdu_of(request),
            roles=roles_of(request),
            extended=extended_of(request),
            implementation=implementation_of(request),
        )

    def _read_answer(self, answer: AssociatePrimitive) -> AssociateAC:
        results = answer.presentation_context_definition_results_list
        contexts = tuple(
            ContextResult(
                each.context_id or 0, each.result or 0, str(each.transfer_syntax[0]) if each.transfer_syntax else ""
            )
            for each in results
        )
        for each in contexts:
            if each.result == 0 and each.id in self._proposed:
                abstract = self._proposed[each.id].abstract_syntax
                self._contexts[each.id] = Context(each.id, abstract, each.transfer_syntax, as_scu=True, as_scp=True)
        return AssociateAC(
            contexts=contexts,
            max_pdu=max_pdu_of(answer),
            roles=roles_of(answer),
            extended=extended_of(answer),
            implementation=implementation_of(answer),
        )


_SIDES: tuple[Side, Side] = ("requestor", "acceptor")


class _Direction:
    """Decodes the bytes of one side to PDUs and messages."""

    def __init__(self, side: Side, contexts: Mapping[int, Context]) -> None:
        self.side = side
        self.is_invalid = False
        self._buffer = bytearray()
        self._assembler = Assembler(contexts, _no_more_data)
        self._data = bytearray()
        self._size = 0

    def pdus(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the type and bytes of each complete PDU. Raises InvalidPDU."""
        if self.is_invalid:
            return
        self._buffer += chunk
        while len(self._buffer) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._buffer)
            if length > MAX_PDU_BYTES:
                raise InvalidPDU
            if len(self._buffer) < _HEADER.size + length:
                return
            encoded = bytes(self._buffer[: _HEADER.size + length])
            del self._buffer[: _HEADER.size + length]
            yield kind, encoded

    def messages(self, body: memoryview) -> Iterator[SniffedMessage]:
        """Yield the messages that a P-DATA-TF completes. Raises ProtocolViolation."""
        for context_id, control, fragment in pdvs(body):
            if control & COMMAND:
                message = self._assembler.command(context_id, control, fragment)
                if message is not None and message.is_complete:
                    yield SniffedMessage(self.side, message.context, message.command, None)
            else:
                yield from self._add(self._assembler.data(context_id, control), fragment)

    def _add(self, message: Message, fragment: memoryview) -> Iterator[SniffedMessage]:
        self._size += len(fragment)
        self._data += fragment[: max(0, MAX_KEPT_BYTES - len(self._data))]
        if message.is_complete:
            data, size, self._data, self._size = bytes(self._data), self._size, bytearray(), 0
            yield SniffedMessage(self.side, message.context, message.command, data, size)


def _no_more_data(_message: Message) -> memoryview:
    """Raise ProtocolViolation: messages are never read here."""
    raise ProtocolViolation("No more data can arrive")
