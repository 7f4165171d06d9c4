"""Association PDUs from bytes: pynetdicom's codecs, kept from what they stumble over (PS3.8 9.3, Annex D of PS3.7)."""

import struct
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pynetdicom import pdu
from pynetdicom.pdu_items import PresentationContextItemRQ
from pynetdicom.pdu_primitives import A_ABORT, A_P_ABORT
from pynetdicom.presentation import PresentationContext

from pacs.dimse.upper.user_information import MAX_CONTEXTS

MOST_SYNTAXES = 128
"""The most transfer syntaxes a context may propose, twice as many as there are: more only cost us time (P6)."""

LONGEST_REMEMBERED = 1024
"""The longest inside of a context that is remembered, in bytes, so that what is remembered is bounded."""

_ITEM = struct.Struct(">BxH")
_TOP = 0
_PROPOSED = 0x20
_CONTEXT_ITEMS = (_PROPOSED, 0x21)
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x30, 0x40
_FIXED_PART = {0x20: 4, 0x21: 4, 0x50: 0}
"""The items that have items inside, and how many bytes come before those."""
_KNOWN: dict[int, frozenset[int]] = {
    _TOP: frozenset({0x10, 0x20, 0x21, 0x50}),
    0x20: frozenset({0x30, 0x40}),
    0x21: frozenset({0x40}),
    0x50: frozenset(range(0x51, 0x5A)),
}
"""The item types that are understood, by where they stand (PS3.8 9.3.2, 9.3.3, PS3.7 D.3.3)."""


class InvalidPDU(ValueError):
    """A PDU that breaks the rules of PS3.8 9.3. It never leaves this room: the peer gets an A-ABORT."""


@dataclass
class Received:
    """What an action looks at of a received PDU."""

    primitive: Any
    protocol_version: int = 1

    def to_primitive(self) -> Any:
        """What the PDU says."""
        return self.primitive


def decode(decoder: type[pdu.PDU], encoded: bytes) -> Received:
    """A PDU as the primitive it carries. Raises InvalidPDU."""
    received = decoder()
    try:
        if isinstance(received, pdu.A_ASSOCIATE_RQ | pdu.A_ASSOCIATE_AC):
            encoded = encoded[:74] + _understood(encoded[74:])
        if isinstance(received, pdu.A_ASSOCIATE_RQ):
            return _request(received, encoded)
        received.decode(encoded)
        if isinstance(received, pdu.A_ABORT_RQ):
            return Received(_abort(received))
        return Received(received.to_primitive())  # type: ignore[attr-defined]
    except Exception as error:  # the codecs raise whatever the bytes make them stumble over
        raise InvalidPDU from error


def _request(received: pdu.A_ASSOCIATE_RQ, encoded: bytes) -> Received:
    """An A-ASSOCIATE-RQ. Its contexts are decoded apart, since the same ones come again with every association."""
    items = list(_split(encoded[74:]))
    others = b"".join(_ITEM.pack(kind, len(body)) + body for kind, body in items if kind != _PROPOSED)
    received.decode(encoded[:74] + others)
    primitive = received.to_primitive()
    primitive.presentation_context_definition_list = [_proposed(body) for kind, body in items if kind == _PROPOSED]
    # Only bit 0 of the protocol version may be tested (PS3.8 9.3.2); the state machine compares with 1.
    return Received(primitive, received.protocol_version & 1)


def _proposed(body: bytes) -> PresentationContext:
    """A proposed context from the inside of its item. Raises what the codecs raise."""
    syntaxes = body[_FIXED_PART[_PROPOSED] :]
    context = copy(_context_of(syntaxes) if len(syntaxes) <= LONGEST_REMEMBERED else _context_of.__wrapped__(syntaxes))
    context.context_id = body[0]
    return context


@lru_cache(maxsize=1024)
def _context_of(syntaxes: bytes) -> PresentationContext:
    """What is proposed by the items inside a context, whatever its ID. Not to be changed, only to be copied."""
    fixed = b"\x01" + bytes(3)
    item = PresentationContextItemRQ()
    item.decode(_ITEM.pack(_PROPOSED, len(fixed) + len(syntaxes)) + fixed + syntaxes)
    return item.to_primitive()


def _abort(received: pdu.A_ABORT_RQ) -> A_ABORT | A_P_ABORT:
    """An A-ABORT ends the association whatever reason it states, also one that pynetdicom does not take."""
    if received.source == 2:
        by_provider = A_P_ABORT()
        by_provider.provider_reason = 0
        return by_provider
    by_user = A_ABORT()
    by_user.abort_source = 0
    return by_user


def _understood(items: bytes, level: int = _TOP) -> bytes:
    """Variable items without those nobody knows, which are to be passed over (PS3.8 9.3.1). Raises InvalidPDU."""
    kept = bytearray()
    contexts: set[int] = set()
    found = list(_split(items))
    if level in _CONTEXT_ITEMS:
        _check_context(level, [kind for kind, _ in found])
    for kind, body in found:
        if kind in _CONTEXT_ITEMS:
            if body[:1] == b"" or body[0] in contexts or len(contexts) == MAX_CONTEXTS:
                raise InvalidPDU
            contexts.add(body[0])
        if kind in _FIXED_PART and level == _TOP:
            fixed = _FIXED_PART[kind]
            body = body[:fixed] + _understood(body[fixed:], kind)  # noqa: PLW2901
        if kind in _KNOWN[level]:
            kept += _ITEM.pack(kind, len(body)) + body
    return bytes(kept)


def _check_context(context: int, kinds: list[int]) -> None:
    """See that a context says what it is for, once, and proposes no absurd number of transfer syntaxes."""
    if kinds.count(_TRANSFER_SYNTAX) > MOST_SYNTAXES:
        raise InvalidPDU
    if context == _PROPOSED and kinds.count(_ABSTRACT_SYNTAX) != 1:
        raise InvalidPDU


def _split(items: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and the inside of each item. Raises InvalidPDU when one is longer than what is there."""
    offset = 0
    while offset < len(items):
        if offset + _ITEM.size > len(items):
            raise InvalidPDU
        kind, length = _ITEM.unpack_from(items, offset)
        offset += _ITEM.size + length
        if offset > len(items):
            raise InvalidPDU
        yield kind, items[offset - length : offset]
