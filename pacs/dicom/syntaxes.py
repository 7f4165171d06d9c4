"""The transfer syntaxes that the archive stores, and the conversion between native ones.

A stored instance stays as it was received. When a destination needs another encoding, `convert` encodes the same values
in it, element by element and in constant memory.
"""

import zlib
from array import array
from collections.abc import Iterable, Iterator
from functools import partial
from struct import pack
from typing import BinaryIO

from pacs.dicom.elements import (
    ITEM,
    ITEM_DELIMITER,
    LONG_VRS,
    SEQUENCE_DELIMITER,
    SHORT_VRS,
    UNDEFINED,
    Encoding,
    Inflated,
    Source,
    Token,
    TokenKind,
    encoding_of,
    walk,
)
from pacs.errors import NotSupported, UndecodableDataSet

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED_LITTLE = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"

SERVICE_SYNTAXES = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG)
"""The transfer syntaxes of all services but Storage. No Deflated: an Identifier must not inflate without limit (P9)."""

NATIVE = (EXPLICIT_LITTLE, DEFLATED_LITTLE, EXPLICIT_BIG, IMPLICIT_LITTLE)
"""The transfer syntaxes without encapsulation, in order of preference; each can be converted to any other."""

FRAGMENTS_IN_NATIVE = "Pixel data is in fragments, but its transfer syntax is native"
"""The comment for compressed pixel data in a native transfer syntax, in which it cannot be decoded."""

KEPT = (
    EXPLICIT_LITTLE,
    "1.2.840.10008.1.2.4.201",  # HTJ2K lossless
    "1.2.840.10008.1.2.4.202",  # HTJ2K lossless RPCL
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.70",  # JPEG lossless SV1
    "1.2.840.10008.1.2.4.57",  # JPEG lossless
    "1.2.840.10008.1.2.4.110",  # JPEG XL lossless
    "1.2.840.10008.1.2.5",  # RLE lossless
    "1.2.840.10008.1.2.8.1",  # Deflated Image Frame Compression
    "1.2.840.10008.1.2.4.92",  # JPEG 2000 Part 2 lossless
    DEFLATED_LITTLE,
    EXPLICIT_BIG,
    "1.2.840.10008.1.2.4.203",  # HTJ2K
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.93",  # JPEG 2000 Part 2
    "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.112",  # JPEG XL
    "1.2.840.10008.1.2.4.111",  # JPEG XL recompression
    "1.2.840.10008.1.2.4.51",  # JPEG extended
    "1.2.840.10008.1.2.4.50",  # JPEG baseline
    "1.2.840.10008.1.2.4.108",  # HEVC Main 10
    "1.2.840.10008.1.2.4.107",  # HEVC Main
    "1.2.840.10008.1.2.4.106.1",  # MPEG-4 AVC, each in its fragmentable form first
    "1.2.840.10008.1.2.4.106",
    "1.2.840.10008.1.2.4.105.1",
    "1.2.840.10008.1.2.4.105",
    "1.2.840.10008.1.2.4.104.1",
    "1.2.840.10008.1.2.4.104",
    "1.2.840.10008.1.2.4.103.1",
    "1.2.840.10008.1.2.4.103",
    "1.2.840.10008.1.2.4.102.1",
    "1.2.840.10008.1.2.4.102",
    "1.2.840.10008.1.2.4.101.1",  # MPEG2
    "1.2.840.10008.1.2.4.101",
    "1.2.840.10008.1.2.4.100.1",
    "1.2.840.10008.1.2.4.100",
    IMPLICIT_LITTLE,
)
"""The transfer syntaxes that are stored, in order of preference: lossless before lossy, Implicit VR last.

All of pydicom and pynetdicom except JPIP and SMPTE ST 2110, whose data sets do not contain their pixels.
"""

CHUNK = 1 << 16
"""The bytes of a value that are in memory at once; a multiple of every word size."""

WORDS = {
    "AT": 2, "OW": 2, "SS": 2, "US": 2, "FL": 4, "OF": 4, "OL": 4, "SL": 4, "UL": 4,
    "FD": 8, "OD": 8, "OV": 8, "SV": 8, "UV": 8,
}  # fmt: skip
"""The word size, in bytes, of VRs whose values depend on byte order (PS3.5 7.3)."""

_WORD_CODES = {2: "H", 4: "I", 8: "Q"}
_PIXEL_REPRESENTATION = 0x00280103


def is_native(transfer_syntax: str) -> bool:
    """Whether `convert` supports a transfer syntax: Pixel Data is not encapsulated."""
    return transfer_syntax in NATIVE


def converts_pixel_data(source: str, target: str) -> bool:
    """Whether the way from one transfer syntax to another decodes or encodes pixel data."""
    return source != target and not (source in NATIVE and target in NATIVE)


def convert(data: BinaryIO, source: str, target: str) -> Iterator[bytes]:
    """Yield the data set from the position of `data` to the end of the file, in the transfer syntax `target`.

    Values do not change, except for byte order. Group lengths are omitted, sequences get delimiters. Elements that are
    not in PS3.6 become UN when they were implicit (PS3.5 6.2.2), and are the same again after conversion back. With
    `source` equal to `target` only `even` applies.

    Raises NotSupported, before the first piece, unless both are native or the same; UndecodableDataSet while iterated.
    """
    return even(_pieces(data, source, target), target)


def _pieces(data: BinaryIO, source: str, target: str) -> Iterator[bytes]:
    if source == target:
        return iter(partial(data.read, CHUNK), b"")
    if source not in NATIVE or target not in NATIVE:
        raise NotSupported("Compressed pixel data is sent only in its own transfer syntax")
    if source == DEFLATED_LITTLE and target == EXPLICIT_LITTLE:
        return iter(partial(Inflated(data).read, CHUNK), b"")
    if source == EXPLICIT_LITTLE and target == DEFLATED_LITTLE:
        return deflated(iter(partial(data.read, CHUNK), b""))
    pieces = joined(_converted(data, encoding_of(source), encoding_of(target)))
    return deflated(pieces) if target == DEFLATED_LITTLE else pieces


def _converted(data: BinaryIO, encoding: Encoding, target: Encoding) -> Iterator[bytes]:
    signed = is_signed(data, encoding)
    source = Source(data, encoding)
    writer = TokenWriter(source, target, signed)
    for token in walk(source, encoding):
        yield from writer.encoded(token)


class TokenWriter:
    """Encodes the tokens of a walk over `source` in another encoding, each when the walk is at it."""

    def __init__(self, source: Source, target: Encoding, signed: bool) -> None:
        self._source = source
        self._target = target
        self._signed = [signed]

    def encoded(self, token: Token) -> Iterator[bytes]:
        """Yield the bytes of a token, with the value of an element."""
        if token.kind is TokenKind.ITEM:
            self._signed[token.depth :] = [self._signed[token.depth - 1]]
        if token.kind is not TokenKind.ELEMENT:
            yield _framing(token, self._target)
        elif token.tag & 0xFFFF:  # group lengths would be wrong now
            vr = resolved(token, self._signed[token.depth])
            yield element_head(token.tag, vr, token.length, self._target)
            for piece in value(self._source, token, vr, self._target.little):
                if token.tag == _PIXEL_REPRESENTATION:
                    self._signed[token.depth] = any(piece)
                yield piece


def is_signed(data: BinaryIO, encoding: Encoding) -> bool:
    """Whether Pixel Representation is signed, which decides between US and SS with implicit VRs."""
    if not (encoding.implicit or encoding.decided_by_first_element):
        return False
    start = data.tell()
    source, signed = Source(data, encoding), False
    for token in walk(source, encoding):
        if token.depth == 0 and token.tag >= _PIXEL_REPRESENTATION:
            signed = token.tag == _PIXEL_REPRESENTATION and token.length <= CHUNK and any(source.read(token.length))
            break
    data.seek(start)
    return signed


def resolved(token: Token, signed: bool) -> str:
    """Return the explicit VR of an element: never ambiguous, UN when the value is too long for its VR."""
    vr = token.vr
    if " or " in vr:
        vr = "OW" if "OW" in vr else "SS" if signed else "US"
    if vr not in LONG_VRS and (vr not in SHORT_VRS or token.length > 0xFFFE):
        return "UN"
    return vr


def value(source: Source, token: Token, vr: str, little: bool) -> Iterator[bytes]:
    """Yield the value of the current element in pieces, in this byte order."""
    width = WORDS.get(vr, 1) if token.encoding.little != little else 1
    remaining = token.length
    while remaining:
        piece = source.read(min(remaining, CHUNK))
        remaining -= len(piece)
        yield swapped(piece, width) if width > 1 else piece


def swapped(piece: bytes, width: int) -> bytes:
    """Return words of `width` bytes in the other byte order; an incomplete last one stays as it is."""
    whole = len(piece) - len(piece) % width
    words = array(_WORD_CODES[width], piece[:whole])
    words.byteswap()
    return words.tobytes() + piece[whole:]


_FRAMING = {
    TokenKind.ITEM: (ITEM, UNDEFINED),
    TokenKind.ITEM_END: (ITEM_DELIMITER, 0),
    TokenKind.SEQUENCE_END: (SEQUENCE_DELIMITER, 0),
}


def _framing(token: Token, target: Encoding) -> bytes:
    if token.kind is TokenKind.SEQUENCE:
        return element_head(token.tag, "SQ", UNDEFINED, target)
    if token.kind not in _FRAMING:
        raise UndecodableDataSet(FRAGMENTS_IN_NATIVE, [token.tag])
    tag, length = _FRAMING[token.kind]
    return pack("<HHL" if target.little else ">HHL", tag >> 16, tag & 0xFFFF, length)


def element_head(tag: int, vr: str, length: int, target: Encoding) -> bytes:
    """Return tag, VR and length of an element."""
    order = "<" if target.little else ">"
    if target.implicit:
        return pack(order + "HHL", tag >> 16, tag & 0xFFFF, length)
    if vr in SHORT_VRS:
        return pack(order + "HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), length)
    return pack(order + "HH2sHL", tag >> 16, tag & 0xFFFF, vr.encode(), 0, length)


def joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield small pieces joined to larger ones, which are more efficient to send; large ones are not copied."""
    waiting = bytearray()
    for piece in pieces:
        is_large = len(piece) >= CHUNK
        if not is_large:
            waiting += piece
        if waiting and (is_large or len(waiting) >= CHUNK):
            yield bytes(waiting)
            waiting.clear()
        if is_large:
            yield piece
    if waiting:
        yield bytes(waiting)


def deflated(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces as a raw deflate stream (PS3.5 A.5)."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    for piece in pieces:
        if compressed := deflater.compress(piece):
            yield compressed
    yield deflater.flush()


def even(pieces: Iterator[bytes], transfer_syntax: str) -> Iterator[bytes]:
    """Return the pieces of a data set; a deflate stream of odd length gets a trailing NUL (PS3.5 A.5)."""
    return _padded(pieces) if transfer_syntax == DEFLATED_LITTLE else pieces


def _padded(pieces: Iterable[bytes]) -> Iterator[bytes]:
    length = 0
    for piece in pieces:
        length += len(piece)
        yield piece
    if length % 2:
        yield b"\0"
