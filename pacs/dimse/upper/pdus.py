"""Decoding of all PDUs but P-DATA-TF (PS3.8 9.3, PS3.7 Annex D): pynetdicom's codecs, behind checks of their input.

P-ids such as P6 are explained in docs/checklist.md.
"""

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
"""The most transfer syntaxes in one proposed context, twice as many as exist: more would only cost time (P6)."""

LONGEST_REMEMBERED = 1024
"""The longest content of a proposed context that is cached, in bytes, so that the cache is bounded."""

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA_TF, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
"""The PDU types (PS3.8 9.3.1)."""

_DECODERS: dict[int, type[pdu.PDU]] = {
    ASSOCIATE_RQ: pdu.A_ASSOCIATE_RQ,
    ASSOCIATE_AC: pdu.A_ASSOCIATE_AC,
    ASSOCIATE_RJ: pdu.A_ASSOCIATE_RJ,
    RELEASE_RQ: pdu.A_RELEASE_RQ,
    RELEASE_RP: pdu.A_RELEASE_RP,
    ABORT: pdu.A_ABORT_RQ,
}

_ITEM = struct.Struct(">BxH")
_TOP = 0
_PROPOSED = 0x20
_CONTEXT_ITEMS = (_PROPOSED, 0x21)
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x30, 0x40
_FIXED_PART = {0x20: 4, 0x21: 4, 0x50: 0}
"""The items that contain other items, and the number of bytes before those."""
_KNOWN: dict[int, frozenset[int]] = {
    _TOP: frozenset({0x10, 0x20, 0x21, 0x50}),
    0x20: frozenset({0x30, 0x40}),
    0x21: frozenset({0x40}),
    0x50: frozenset(range(0x51, 0x5A)),
}
"""The known item types, by the item that contains them (PS3.8 9.3.2, 9.3.3, PS3.7 D.3.3)."""


class InvalidPDU(ValueError):
    """A PDU that breaks the rules of PS3.8 9.3. The upper layer answers it with an A-ABORT."""


@dataclass
class ReceivedPDU:
    """A received PDU, as far as pynetdicom's state machine uses it."""

    primitive: Any
    protocol_version: int = 1

    def to_primitive(self) -> Any:
        """Return the primitive of the PDU."""
        return self.primitive


def decode(kind: int, encoded: bytes) -> ReceivedPDU:
    """Decode a PDU of type `kind`. Raises InvalidPDU."""
    received = _DECODERS[kind]()
    try:
        if isinstance(received, pdu.A_ASSOCIATE_RQ | pdu.A_ASSOCIATE_AC):
            encoded = encoded[:74] + _without_unknown(encoded[74:])
        if isinstance(received, pdu.A_ASSOCIATE_RQ):
            return _request(received, encoded)
        received.decode(encoded)
        if isinstance(received, pdu.A_ABORT_RQ):
            return ReceivedPDU(_abort(received))
        return ReceivedPDU(received.to_primitive())  # type: ignore[attr-defined]
    except Exception as error:  # the codecs raise all kinds of errors
        raise InvalidPDU from error


def _request(received: pdu.A_ASSOCIATE_RQ, encoded: bytes) -> ReceivedPDU:
    """Decode an A-ASSOCIATE-RQ. Its contexts come from a cache, since most associations propose the same ones."""
    items = list(_split(encoded[74:]))
    others = b"".join(_ITEM.pack(kind, len(body)) + body for kind, body in items if kind != _PROPOSED)
    received.decode(encoded[:74] + others)
    primitive = received.to_primitive()
    primitive.presentation_context_definition_list = [_proposed(body) for kind, body in items if kind == _PROPOSED]
    # Only bit 0 of the protocol version may be tested (PS3.8 9.3.2); the state machine compares with 1.
    return ReceivedPDU(primitive, received.protocol_version & 1)


def _proposed(body: bytes) -> PresentationContext:
    """Return the proposed context of an item. Raises what the codecs raise."""
    syntaxes = body[_FIXED_PART[_PROPOSED] :]
    context = copy(_context_of(syntaxes) if len(syntaxes) <= LONGEST_REMEMBERED else _context_of.__wrapped__(syntaxes))
    context.context_id = body[0]
    return context


@lru_cache(maxsize=1024)
def _context_of(syntaxes: bytes) -> PresentationContext:
    """Return the proposed context with the given content, for any ID. The caller must copy it before changes."""
    fixed = b"\x01" + bytes(3)
    item = PresentationContextItemRQ()
    item.decode(_ITEM.pack(_PROPOSED, len(fixed) + len(syntaxes)) + fixed + syntaxes)
    return item.to_primitive()


def _abort(received: pdu.A_ABORT_RQ) -> A_ABORT | A_P_ABORT:
    """Return the primitive of an A-ABORT; a reason that pynetdicom does not know is accepted, too."""
    if received.source == 2:
        by_provider = A_P_ABORT()
        by_provider.provider_reason = 0
        return by_provider
    by_user = A_ABORT()
    by_user.abort_source = 0
    return by_user


def _without_unknown(items: bytes, level: int = _TOP) -> bytes:
    """Return variable items without unknown ones, which must be ignored (PS3.8 9.3.1). Raises InvalidPDU."""
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
            body = body[:fixed] + _without_unknown(body[fixed:], kind)  # noqa: PLW2901
        if kind in _KNOWN[level]:
            kept += _ITEM.pack(kind, len(body)) + body
    return bytes(kept)


def _check_context(context: int, kinds: list[int]) -> None:
    """Check that a context has one abstract syntax, and not too many transfer syntaxes. Raises InvalidPDU."""
    if kinds.count(_TRANSFER_SYNTAX) > MOST_SYNTAXES:
        raise InvalidPDU
    if context == _PROPOSED and kinds.count(_ABSTRACT_SYNTAX) != 1:
        raise InvalidPDU


def _split(items: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the content of each item. Raises InvalidPDU for an item beyond the end of the PDU."""
    offset = 0
    while offset < len(items):
        if offset + _ITEM.size > len(items):
            raise InvalidPDU
        kind, length = _ITEM.unpack_from(items, offset)
        offset += _ITEM.size + length
        if offset > len(items):
            raise InvalidPDU
        yield kind, items[offset - length : offset]
