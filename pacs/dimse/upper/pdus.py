"""Decoding of all PDUs but P-DATA-TF (PS3.8 9.3, PS3.7 Annex D): pynetdicom's codecs, behind checks of their input.

The codecs refuse values that have no effect, such as the padding of an AE title with NUL. Such values are replaced by
similar ones before; only the structure of a PDU can make it invalid. Ids such as P6: docs/checklist.md.
"""

import struct
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pynetdicom import pdu
from pynetdicom.pdu_items import PresentationContextItemAC, PresentationContextItemRQ
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, A_P_ABORT

from pacs.dimse.upper.user_information import MAX_CONTEXTS, AnyContext

MOST_SYNTAXES = 128
"""The most transfer syntaxes in one proposed context, twice as many as exist: more would only cost time (P6)."""

LONGEST_REMEMBERED = 1024
"""The longest content of a proposed context that is cached, in bytes, so that the cache is bounded."""

MOST_SHOWN = 32
"""The most bytes of an invalid item that are shown."""

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA_TF, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
"""The PDU types (PS3.8 9.3.1)."""

PDU_NAMES = {
    ASSOCIATE_RQ: "A-ASSOCIATE-RQ",
    ASSOCIATE_AC: "A-ASSOCIATE-AC",
    ASSOCIATE_RJ: "A-ASSOCIATE-RJ",
    P_DATA_TF: "P-DATA-TF",
    RELEASE_RQ: "A-RELEASE-RQ",
    RELEASE_RP: "A-RELEASE-RP",
    ABORT: "A-ABORT",
}

_ITEM = struct.Struct(">BxH")
_LENGTH = struct.Struct(">H")
_FIXED_FIELDS = 74
"""The bytes of an A-ASSOCIATE-RQ or -AC before its items."""
_CALLED, _CALLING = slice(10, 26), slice(26, 42)
TITLES = slice(10, _FIXED_FIELDS)
"""The AE titles and 32 reserved bytes of an A-ASSOCIATE-RQ, which the A-ASSOCIATE-AC repeats."""
_PROPOSED, _ANSWERED = 0x20, 0x21
_CONTEXT_ITEMS = (_PROPOSED, _ANSWERED)
_TOP_LEVEL = {_PROPOSED: 0x100, _ANSWERED: 0x101}
"""The level of the items of an A-ASSOCIATE-RQ and -AC, by the type of its contexts; other levels are item types."""
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x30, 0x40
_ROLE_SELECTION, _USER_IDENTITY = 0x54, 0x58
_KERBEROS = 3
"""A User-Identity-Type that is not supported."""
_FIXED_PART = {_PROPOSED: 4, _ANSWERED: 4, 0x50: 0}
"""The items that contain other items, and the number of bytes before those."""
_ITEM_NAMES = {
    0x10: "Application Context",
    _PROPOSED: "Presentation Context",
    _ANSWERED: "Presentation Context",
    _ABSTRACT_SYNTAX: "Abstract Syntax",
    _TRANSFER_SYNTAX: "Transfer Syntax",
    0x50: "User Information",
    0x51: "Maximum Length",
    0x52: "Implementation Class UID",
    0x53: "Asynchronous Operations Window",
    _ROLE_SELECTION: "Role Selection",
    0x55: "Implementation Version Name",
    0x56: "SOP Class Extended Negotiation",
    _USER_IDENTITY: "User Identity",
    0x59: "User Identity",
}


class InvalidPDU(ValueError):
    """A PDU that breaks the rules of PS3.8 9.3. The upper layer answers it with an A-ABORT."""


def shown(data: bytes) -> str:
    """Return the first bytes of something invalid in hexadecimal, for the log."""
    return data[:MOST_SHOWN].hex(" ") + (" ..." if len(data) > MOST_SHOWN else "")


def _invalid(kind: int, body: bytes, what: str) -> InvalidPDU:
    """Return the error for an item."""
    name = _ITEM_NAMES.get(kind, "unknown")
    content = b"" if kind == _USER_IDENTITY else body  # a passcode does not belong in the log
    return InvalidPDU(f"item {kind:02X} ({name}) {what}: {shown(_ITEM.pack(kind, len(body)) + content)}")


class ReceivedAssociate(A_ASSOCIATE):
    """An A-ASSOCIATE primitive with values as the peer sent them: pynetdicom's properties would refuse some."""

    called_ae_title: str = ""
    calling_ae_title: str = ""
    result: int | None = None
    result_source: int | None = None
    diagnostic: int | None = None

    @classmethod
    def of(cls, primitive: A_ASSOCIATE, encoded: bytes) -> "ReceivedAssociate":
        """Return a decoded primitive with the AE titles of its PDU."""
        received = cls()
        received.__dict__.update(primitive.__dict__)
        received.called_ae_title, received.calling_ae_title = _title(encoded[_CALLED]), _title(encoded[_CALLING])
        return received


@dataclass
class ReceivedPDU:
    """A received PDU, as far as pynetdicom's state machine uses it."""

    primitive: Any
    protocol_version: int = 1
    titles: bytes = b""
    """The AE titles and reserved bytes, which the answer repeats."""

    def to_primitive(self) -> Any:
        """Return the primitive of the PDU."""
        return self.primitive


def decode(kind: int, encoded: bytes) -> ReceivedPDU:
    """Decode a PDU of type `kind`. Raises InvalidPDU."""
    try:
        return _DECODERS[kind](encoded)
    except InvalidPDU:
        raise
    except Exception as error:  # the codecs raise all kinds of errors
        raise InvalidPDU(f"{error or type(error).__name__}: {shown(encoded)}") from error


# --- the PDUs ----------------------------------------------------------------------------------------------------


def _request(encoded: bytes) -> ReceivedPDU:
    """Decode an A-ASSOCIATE-RQ. Its contexts come from a cache, since most associations propose the same ones."""
    fixed = _fixed_fields(encoded)
    contexts, others = _items(encoded, _PROPOSED)
    received = pdu.A_ASSOCIATE_RQ()
    received.decode(fixed + others)
    primitive = ReceivedAssociate.of(received.to_primitive(), encoded)
    primitive.presentation_context_definition_list = [_proposed(body) for body in contexts]
    # Only bit 0 of the protocol version may be tested (PS3.8 9.3.2); the state machine compares with 1.
    return ReceivedPDU(primitive, received.protocol_version & 1, encoded[TITLES])


def _acceptance(encoded: bytes) -> ReceivedPDU:
    """Decode an A-ASSOCIATE-AC."""
    fixed = _fixed_fields(encoded)
    contexts, others = _items(encoded, _ANSWERED)
    received = pdu.A_ASSOCIATE_AC()
    received.decode(fixed + others)
    primitive = ReceivedAssociate.of(received.to_primitive(), encoded)
    primitive.result = 0
    primitive.presentation_context_definition_results_list = [_answered(body) for body in contexts]
    return ReceivedPDU(primitive)


def _items(encoded: bytes, context: int) -> tuple[list[bytes], bytes]:
    """Return the contents of the presentation contexts, and all other items."""
    items = list(_split(_tolerated(encoded[_FIXED_FIELDS:], _TOP_LEVEL[context])))
    others = b"".join(_ITEM.pack(kind, len(body)) + body for kind, body in items if kind != context)
    return [body for kind, body in items if kind == context], others


def _fixed_fields(encoded: bytes) -> bytes:
    """Return the bytes before the items, with AE titles that pynetdicom accepts. Raises InvalidPDU."""
    if len(encoded) < _FIXED_FIELDS:
        raise InvalidPDU(f"it ends within its first {_FIXED_FIELDS} bytes: {shown(encoded)}")
    return encoded[: _CALLED.start] + b"X".ljust(16) * 2 + bytes(32)


def _title(field: bytes) -> str:
    """Return an AE title: up to the first NUL, Latin-1 for what is not ASCII, '?' for what no AE title contains."""
    title = field.partition(b"\0")[0].decode("latin-1").strip()
    return "".join(each if each.isprintable() and each != "\\" else "?" for each in title)


def encoded_titles(called: str, calling: str) -> bytes:
    """Return the AE titles and reserved bytes of an A-ASSOCIATE-RQ. The titles are in Latin-1, as they are decoded."""
    return b"".join(each.encode("latin-1", "replace")[:16].ljust(16) for each in (called, calling)) + bytes(32)


def _rejection(encoded: bytes) -> ReceivedPDU:
    """Decode an A-ASSOCIATE-RJ. Every result is a rejection."""
    primitive = ReceivedAssociate()
    primitive.result, primitive.result_source, primitive.diagnostic = encoded[7] or 1, encoded[8], encoded[9]
    return ReceivedPDU(primitive)


def _release_request(_encoded: bytes) -> ReceivedPDU:
    return ReceivedPDU(pdu.A_RELEASE_RQ.to_primitive())


def _release_answer(_encoded: bytes) -> ReceivedPDU:
    return ReceivedPDU(pdu.A_RELEASE_RP.to_primitive())


def _abort(encoded: bytes) -> ReceivedPDU:
    """Decode an A-ABORT; a reason that pynetdicom does not know is accepted, too."""
    if encoded[8] == 2:
        by_provider = A_P_ABORT()
        by_provider.provider_reason = 0
        return ReceivedPDU(by_provider)
    by_user = A_ABORT()
    by_user.abort_source = 0
    return ReceivedPDU(by_user)


_DECODERS: dict[int, Callable[[bytes], ReceivedPDU]] = {
    ASSOCIATE_RQ: _request,
    ASSOCIATE_AC: _acceptance,
    ASSOCIATE_RJ: _rejection,
    RELEASE_RQ: _release_request,
    RELEASE_RP: _release_answer,
    ABORT: _abort,
}


def _proposed(body: bytes) -> AnyContext:
    """Return the proposed context of an item. Raises what the codecs raise."""
    syntaxes = body[_FIXED_PART[_PROPOSED] :]
    context = copy(_context_of(syntaxes) if len(syntaxes) <= LONGEST_REMEMBERED else _context_of.__wrapped__(syntaxes))
    context.context_id = body[0]
    return context


def _answered(body: bytes) -> AnyContext:
    """Return the context of an item of the answer. Raises what the codecs raise."""
    item = PresentationContextItemAC()
    item.decode(_ITEM.pack(_ANSWERED, len(body)) + b"\x01" + body[1:])
    return AnyContext.of(item.to_primitive(), body[0])


@lru_cache(maxsize=1024)
def _context_of(syntaxes: bytes) -> AnyContext:
    """Return the proposed context with the given content, for any ID. The caller must copy it before changes."""
    fixed = b"\x01" + bytes(3)
    item = PresentationContextItemRQ()
    item.decode(_ITEM.pack(_PROPOSED, len(fixed) + len(syntaxes)) + fixed + syntaxes)
    return AnyContext.of(item.to_primitive(), 1)


# --- the items ---------------------------------------------------------------------------------------------------


def _tolerated(items: bytes, level: int) -> bytes:
    """Return the items that count, with values that pynetdicom accepts. Raises InvalidPDU.

    Unknown items are to be ignored (PS3.8 9.3.1). Of presentation contexts with one ID the first counts.
    """
    kept = bytearray()
    contexts: set[int] = set()
    for kind, body in _split(items):
        if kind not in _KNOWN[level]:
            continue
        if kind in _CONTEXT_ITEMS:
            _check_context(kind, body)
            if body[0] in contexts:
                continue
            contexts.add(body[0])
            if len(contexts) > MAX_CONTEXTS:
                raise _invalid(kind, body, f"is one of more than {MAX_CONTEXTS}")
        tolerated = _TOLERATED[kind](body)
        if tolerated is not None:
            kept += _ITEM.pack(kind, len(tolerated)) + tolerated
    return bytes(kept)


def _check_context(kind: int, body: bytes) -> None:
    """Check that a context has an ID, one abstract syntax, and not too many transfer syntaxes. Raises InvalidPDU."""
    fixed = _FIXED_PART[kind]
    if len(body) < fixed:
        raise _invalid(kind, body, f"ends within its first {fixed} bytes")
    kinds = [each for each, _ in _split(body[fixed:])]
    if kinds.count(_TRANSFER_SYNTAX) > MOST_SYNTAXES:
        raise _invalid(kind, body, f"has more than {MOST_SYNTAXES} transfer syntaxes")
    if kind == _PROPOSED and (found := kinds.count(_ABSTRACT_SYNTAX)) != 1:
        raise _invalid(kind, body, f"has {found} abstract syntaxes instead of 1")


def _context(kind: int) -> Callable[[bytes], bytes]:
    """Return the function for contexts: only ID and result count in the bytes before the sub-items."""
    return lambda body: bytes([body[0], 0, body[2] if kind == _ANSWERED else 0, 0]) + _tolerated(body[4:], kind)


def _uid(body: bytes) -> bytes:
    """Return a UID without padding, of at most 64 characters of ASCII; whatever is none stays unlike all others."""
    uid = bytes(each if 0x20 < each < 0x7F else ord("?") for each in body.strip(b"\0 "))
    return uid if len(uid) <= 64 else uid[:63] + b"?"


def _version_name(body: bytes) -> bytes:
    return _title(body)[:16].encode("ascii", "replace")


def _of_length(kind: int, length: int) -> Callable[[bytes], bytes]:
    def check(body: bytes) -> bytes:
        if len(body) != length:
            raise _invalid(kind, body, f"has {len(body)} bytes instead of {length}")
        return body

    return check


def _about_sop_class(kind: int) -> Callable[[bytes], bytes | None]:
    """Return the function for sub-items of a SOP Class UID with its length, and further bytes: roles in 54.

    Without UID they are ignored: pynetdicom would take the further bytes for it.
    """

    def tolerate(body: bytes) -> bytes | None:
        end = _LENGTH.size + int.from_bytes(body[: _LENGTH.size], "big")
        rest = body[end:]
        is_role = kind == _ROLE_SELECTION
        if len(body) < max(end, _LENGTH.size) or (is_role and len(rest) != 2):
            raise _invalid(kind, body, "does not have the length of its parts")
        uid = _uid(body[_LENGTH.size : end])
        if not uid:
            return None
        return _LENGTH.pack(len(uid)) + uid + (bytes(map(bool, rest)) if is_role else rest)

    return tolerate


def _user_identity(body: bytes) -> bytes:
    """Return an identity as it is, one of an unknown type as one that is not supported either (PS3.7 D.3.3.7).

    So it is rejected where users are looked at, and ignored elsewhere.
    """
    if len(body) < 4:
        raise _invalid(_USER_IDENTITY, body, "ends within its first 4 bytes")
    return body if body[0] in range(1, 6) else bytes((_KERBEROS, *body[1:]))


def _same(body: bytes) -> bytes:
    return body


_TOLERATED: dict[int, Callable[[bytes], bytes | None]] = {
    0x10: _uid,
    _PROPOSED: _context(_PROPOSED),
    _ANSWERED: _context(_ANSWERED),
    _ABSTRACT_SYNTAX: _uid,
    _TRANSFER_SYNTAX: _uid,
    0x50: lambda body: _tolerated(body, 0x50),
    0x51: _of_length(0x51, 4),
    0x52: _uid,
    0x53: _of_length(0x53, 4),
    _ROLE_SELECTION: _about_sop_class(_ROLE_SELECTION),
    0x55: _version_name,
    0x56: _about_sop_class(0x56),
    _USER_IDENTITY: _user_identity,
    0x59: _same,
}
"""The function for each item that counts (PS3.8 9.3.2, 9.3.3, PS3.7 D.3.3): returns its content as pynetdicom takes it.

None ignores the item. 57, SOP Class Common Extended Negotiation, is always ignored.
"""
_KNOWN: dict[int, frozenset[int]] = {
    _TOP_LEVEL[_PROPOSED]: frozenset({0x10, _PROPOSED, 0x50}),
    _TOP_LEVEL[_ANSWERED]: frozenset({0x10, _ANSWERED, 0x50}),
    0x20: frozenset({0x30, 0x40}),
    0x21: frozenset({0x40}),
    0x50: frozenset(_TOLERATED) - frozenset(range(0x51)),
}
"""The known item types, by level (PS3.8 9.3.2, 9.3.3, PS3.7 D.3.3)."""


def _split(items: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the content of each item. Raises InvalidPDU for an item beyond the end of the PDU."""
    offset = 0
    while offset < len(items):
        if offset + _ITEM.size > len(items):
            raise InvalidPDU(f"{len(items) - offset} bytes remain after its last item: {shown(items[offset:])}")
        kind, length = _ITEM.unpack_from(items, offset)
        offset += _ITEM.size + length
        if offset > len(items):
            body = items[offset - length :]
            raise _invalid(kind, body, f"has {len(body)} bytes and announces {length}")
        yield kind, items[offset - length : offset]
