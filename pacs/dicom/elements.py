"""Walks through the Data Elements of a data set (PS3.5 section 7) without recursion, and without reading values.

`walk` yields a `Token` for every element, item and delimiter, in any encoding, from a file of any size, in constant
memory. Everything that reads, checks, converts or compares stored data sets uses it.
"""

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from struct import Struct
from typing import BinaryIO, NamedTuple

from pydicom.datadict import dictionary_VR

from pacs.errors import UndecodableDataSet

DEPTH_LIMIT = 64
"""The deepest nesting of sequences, as in DCMTK: far more than any IOD needs, far less than a stack has."""

INFLATED_LIMIT = 1 << 31
"""The largest size of a deflated data set when inflated, in bytes."""

CUT_OFF = "The data set ends in the middle of an element: send it whole"
"""The comment for a truncated data set. It is never stored: after a success the sender may delete its only copy."""

DEFLATED_CUT_OFF = "The deflated data set is truncated"

_UNEXPECTED_DELIMITER = "There is a delimiter where an element must be"
_MOST_STRAY_DELIMITERS = 2
PIXELS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
"""Float Pixel Data, Double Float Pixel Data and Pixel Data."""
_LONGEST_FIRST = 1 << 14
"""No first element is that long, in bytes: two letters in place of a VR would be the length of a longer one."""

UNDEFINED = 0xFFFFFFFF
LONGEST = 0xFFFFFFFE
"""The longest value with a defined length (PS3.5 7.1.1)."""
TOO_LONG = "Its native pixel data is 4 GiB or longer: compress it before"
"""The comment for a native value whose length does not fit into 32 bits."""
ITEM, ITEM_DELIMITER, SEQUENCE_DELIMITER = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
OBSERVATION_CLASS = 0x0040A170
"""A code string in drafts of Structured Reporting, which is Purpose of Reference Code Sequence now."""

SHORT_VRS = frozenset(
    ("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST", "TM", "UI",
     "UL", "US"),
)  # fmt: skip
"""The VRs whose explicit form has a length of 16 bits (PS3.5 7.1.2)."""

LONG_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
"""The VRs whose explicit form has a length of 32 bits."""

_VRS = {vr.encode(): vr for vr in SHORT_VRS | LONG_VRS}
_SHORT = frozenset(vr.encode() for vr in SHORT_VRS)
_IMPLICIT = {True: Struct("<HHL"), False: Struct(">HHL")}
_EXPLICIT = {True: Struct("<HH2sH"), False: Struct(">HH2sH")}
_LENGTH = {True: Struct("<L"), False: Struct(">L")}


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the elements of a transfer syntax are encoded (PS3.5 section 10 and Annex A)."""

    implicit: bool = False
    little: bool = True
    deflated: bool = False
    decided_by_first_element: bool = False
    """Whether the first element decides if VRs are implicit: some writers omit them with compressed pixel data."""


_ENCODINGS = {
    "1.2.840.10008.1.2": Encoding(implicit=True),
    "1.2.840.10008.1.2.1": Encoding(),
    "1.2.840.10008.1.2.1.99": Encoding(deflated=True),
    "1.2.840.10008.1.2.2": Encoding(little=False),
}


def encoding_of(transfer_syntax: str) -> Encoding:
    """Return the encoding of a transfer syntax: Explicit VR Little Endian unless it is native (PS3.5 A.4)."""
    return _ENCODINGS.get(transfer_syntax, Encoding(decided_by_first_element=True))


class TokenKind(Enum):
    """The kind of a token."""

    ELEMENT = "element"
    """A Data Element whose value is the next `length` bytes of the source."""
    SEQUENCE = "sequence"
    ITEM = "item"
    ITEM_END = "item end"
    SEQUENCE_END = "sequence end"
    ENCAPSULATED = "encapsulated"
    """Pixel Data of undefined length: fragments follow, then an ENCAPSULATED_END (PS3.5 A.4)."""
    FRAGMENT = "fragment"
    """One fragment, or the Basic Offset Table: the next `length` bytes of the source."""
    ENCAPSULATED_END = "encapsulated end"


class Token(NamedTuple):
    """One step through a data set. Offsets count from its first byte; `depth` is the number of enclosing sequences."""

    kind: TokenKind
    tag: int
    vr: str
    """The declared VR; with implicit VRs that of PS3.6 (`US or SS` is not resolved), or UN for an unknown tag."""
    length: int
    """The length of the value in bytes; `UNDEFINED` when a delimiter ends it."""
    start: int
    """The offset of the element."""
    depth: int
    encoding: Encoding


class Source:
    """The bytes of a data set, from the position of `file` to its end; deflated data is inflated, up to a limit.

    Unless the data set `is_whole`, more bytes will follow: nothing is known of its end.
    """

    def __init__(
        self, file: BinaryIO, encoding: Encoding, inflated: int = INFLATED_LIMIT, *, is_whole: bool = True
    ) -> None:
        self.position = 0
        self.size: int | None = None
        self.is_careless = False
        """Whether the walk has passed an error of the writer, so that a copy of the bytes has it too."""
        self._file = file
        self._recording: bytearray | None = None
        self._recording_limit = 0
        self._peeked = b""
        """Bytes that `peek` has taken from the reader."""
        self._reader: BinaryIO = io.BufferedReader(Inflated(file, inflated), 1 << 16) if encoding.deflated else file
        if encoding.deflated or not is_whole:
            return
        start = file.tell()
        self.size = file.seek(0, io.SEEK_END) - start
        file.seek(start)

    def read(self, length: int) -> bytes:
        """Read exactly `length` bytes. Raises UndecodableDataSet when the data set ends before."""
        data = self._file.read(length) if self.size is not None else self._read_on(length)
        self.position += len(data)
        if len(data) < length:
            raise UndecodableDataSet(CUT_OFF)
        if self._recording is not None and len(self._recording) <= self._recording_limit:
            self._recording += data
        return data

    def _read_on(self, length: int) -> bytes:
        if not self._peeked:
            return self._reader.read(length)
        data = self._peeked[:length] + self._reader.read(max(0, length - len(self._peeked)))
        self._peeked = self._peeked[length:]
        return data

    def peek(self, length: int) -> bytes:
        """Return the next bytes without passing them; fewer at the end."""
        if self.size is None:
            self._peeked += self._reader.read(max(0, length - len(self._peeked)))
            return self._peeked[:length]
        data = self._file.read(length)
        self._file.seek(-len(data), io.SEEK_CUR)
        return data

    def record(self, limit: int) -> None:
        """Start to record the bytes that are passed, up to `limit`."""
        self._recording, self._recording_limit = bytearray(), limit

    def recorded(self) -> bytes | None:
        """Stop recording and return the bytes since `record`, None when there were more than its limit."""
        recording, self._recording = self._recording, None
        return None if recording is None or len(recording) > self._recording_limit else bytes(recording)

    def skip_to(self, position: int) -> None:
        """Skip forward to `position`."""
        if self.size is not None and (self._recording is None or len(self._recording) > self._recording_limit):
            self._file.seek(position - self.position, io.SEEK_CUR)
            self.position = position
            return
        while self.position < position:
            self.read(min(position - self.position, 1 << 16))

    def is_blank(self) -> bool:
        """Whether all remaining bytes are zero, and pass them; always False for deflated data."""
        while self.size is not None and not self.at_end():
            if any(self.read(min(self.size - self.position, 1 << 16))):
                return False
        return self.size is not None

    def at_end(self) -> bool:
        """Whether the position is at the end."""
        return self.position >= self.size if self.size is not None else not self.peek(1)


class Inflated(io.RawIOBase):
    """Reads an inflated raw deflate stream (PS3.5 A.5) in bounded memory, up to `limit` bytes."""

    def __init__(self, file: BinaryIO, limit: int = INFLATED_LIMIT) -> None:
        self._file = file
        self._remaining = limit
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read the next bytes; none at the end. Raises UndecodableDataSet for invalid or too much data."""
        inflated = b""
        while not inflated and not self._inflater.eof:
            inflated = self._inflate(len(buffer))
        self._remaining -= len(inflated)
        if self._remaining < 0:
            raise UndecodableDataSet("The deflated data set is too large")
        buffer[: len(inflated)] = inflated
        return len(inflated)

    def _inflate(self, most: int) -> bytes:
        data = self._inflater.unconsumed_tail or self._file.read(1 << 16)
        if not data:
            raise UndecodableDataSet(DEFLATED_CUT_OFF)
        try:
            return self._inflater.decompress(data, most)
        except zlib.error as error:
            raise UndecodableDataSet("The deflated data set cannot be inflated") from error


@dataclass(slots=True)
class _Frame:
    """An open level of the walk: a data set (ITEM), a sequence or encapsulated Pixel Data."""

    kind: TokenKind
    tag: int
    encoding: Encoding
    end: int | None
    """The offset of its end; None when a delimiter ends it."""
    depth: int
    undecided: bool = False
    """Whether the first element decides if VRs are implicit: some writers change that within private sequences."""
    boundary: int | None = None
    """The end of its sequence, if that ends within this item: an element that begins there may be in either."""
    stray_delimiters: int = 0
    """The delimiters behind the last element of the whole data set, which end nothing."""


_ENDS = {
    TokenKind.ITEM: TokenKind.ITEM_END,
    TokenKind.SEQUENCE: TokenKind.SEQUENCE_END,
    TokenKind.ENCAPSULATED: TokenKind.ENCAPSULATED_END,
}
_DELIMITERS = {TokenKind.ITEM: ITEM_DELIMITER, TokenKind.SEQUENCE: SEQUENCE_DELIMITER}


def walk(source: Source, encoding: Encoding, depth_limit: int = DEPTH_LIMIT) -> Iterator[Token]:
    """Yield every token of a data set, in order.

    After an ELEMENT or FRAGMENT the caller may read its value, or part of it, from `source`. Common errors of writers
    that lose no value are accepted (decision 88): zero bytes after the data set (an ELEMENT of group 0000), no
    delimiter after the last fragment, Implicit VR in a compressed transfer syntax, two bytes that are no VR, a sequence
    that is shorter than its items, a delimiter that ends nothing, a value that is no sequence where PS3.6 has one.
    Raises UndecodableDataSet for bytes that are not a data set in this encoding, end too early or are nested too deep.
    """
    return _TokenWalk(source, encoding, depth_limit).tokens()


class _TokenWalk:
    def __init__(self, source: Source, encoding: Encoding, depth_limit: int) -> None:
        self._source = source
        self._depth_limit = depth_limit
        self._is_native = not encoding.decided_by_first_element
        self._stack = [_Frame(TokenKind.ITEM, 0, encoding, source.size, 0, encoding.decided_by_first_element)]

    def tokens(self) -> Iterator[Token]:
        source, stack = self._source, self._stack
        item, element, fragment = TokenKind.ITEM, TokenKind.ELEMENT, TokenKind.FRAGMENT  # faster than of the class
        while stack:
            frame = stack[-1]
            may_end = source.position >= frame.end if frame.end is not None else len(stack) <= 2
            if may_end and self._is_at_end(frame):
                stack.pop()
                if stack:
                    yield self._end_of(frame, source.position)
                    self._pass_delimiter(frame)
                continue
            token = self._element(frame) if frame.kind is item else self._item(frame)
            if token is None:
                if len(stack) > 1:
                    stack.pop()
                    yield self._end_of(frame, source.position - 8)
            elif token.kind is element or token.kind is fragment:
                end = self._end_within(frame.end, token)
                if token.tag in PIXELS and token.depth == 0:  # and no icon
                    self._check_pixels(token.tag, end)
                yield token
                source.skip_to(end)
            else:
                self._enter(frame, token)
                yield token

    def _check_pixels(self, tag: int, position: int) -> None:
        """Check that less than 4 GiB are left after native pixel data: otherwise its length has more than 32 bits."""
        rest = self._source.size - position if self._source.size is not None else 0
        if self._is_native and rest > LONGEST:
            raise UndecodableDataSet(TOO_LONG, [tag])

    def _is_at_end(self, frame: _Frame) -> bool:
        """Whether a level ends here: its length has ended, or it is one of those that the end of the data set ends."""
        if frame.end is not None:
            return frame.kind is not TokenKind.SEQUENCE or not self._has_more_items(frame)
        is_last = len(self._stack) == 1 or (len(self._stack) == 2 and frame.kind is TokenKind.ENCAPSULATED)
        return is_last and self._source.at_end()

    def _has_more_items(self, frame: _Frame) -> bool:
        """Whether an item follows the end of a sequence, within what encloses it: the length counts too few items."""
        has_more = self._next_tag(frame, self._stack[-2]) == ITEM
        self._source.is_careless |= has_more
        return has_more

    def _pass_delimiter(self, frame: _Frame) -> None:
        """Pass the delimiter of an item or sequence whose length had ended it already."""
        if frame.end is not None and self._next_tag(frame, self._stack[-1]) == _DELIMITERS[frame.kind]:
            self._source.read(8)
            self._source.is_careless = True

    def _next_tag(self, frame: _Frame, parent: _Frame) -> int | None:
        """Return the tag of the item or delimiter that follows within `parent`; None for anything else."""
        if parent.end is not None and self._source.position + 8 > parent.end:
            return None
        head = self._source.peek(8)
        if len(head) < 8:
            return None
        group, element, length = _IMPLICIT[frame.encoding.little].unpack(head)
        tag = group << 16 | element
        return tag if tag == ITEM or not length else None

    def _end_of(self, frame: _Frame, start: int) -> Token:
        return Token(_ENDS[frame.kind], frame.tag, "", 0, start, frame.depth, frame.encoding)

    def _end_within(self, limit: int | None, token: Token) -> int:
        """Return the end of the value, which must be within all enclosing levels."""
        end = self._source.position + token.length
        limit = limit if limit is not None else self._source.size
        if limit is not None and end > limit:
            comment = CUT_OFF if limit == self._source.size else "An element is longer than its sequence or item"
            raise UndecodableDataSet(comment, [token.tag])
        return end

    def _enter(self, frame: _Frame, token: Token) -> None:
        """Open a sequence, an item or encapsulated Pixel Data."""
        # An item may be longer than its sequence, but not than what encloses that.
        within = self._stack[-2] if token.kind is TokenKind.ITEM else frame
        end = None if token.length == UNDEFINED else self._end_within(within.end, token)
        encoding, undecided, depth = token.encoding, False, frame.depth
        if token.kind is TokenKind.SEQUENCE:
            depth += 1
            if depth > self._depth_limit:
                raise UndecodableDataSet(f"Sequences are nested deeper than {self._depth_limit}")
        elif token.kind is TokenKind.ITEM:
            undecided = not self._stack[0].encoding.implicit
        boundary = frame.end if end is not None and frame.end is not None and end > frame.end else None
        self._source.is_careless |= boundary is not None
        self._stack.append(_Frame(token.kind, token.tag, encoding, end, depth, undecided, boundary))

    def _item(self, frame: _Frame) -> Token | None:
        """Read the next item or fragment; None for the delimiter of the sequence."""
        start = self._source.position
        head = self._source.read(8)
        encoding = frame.encoding
        group, element, length = _IMPLICIT[encoding.little].unpack(head)
        tag = group << 16 | element
        if (
            tag == 0xFEFF00E0 and frame.kind is TokenKind.SEQUENCE
        ):  # a little endian UN inside of big endian, or the reverse
            encoding = frame.encoding = Encoding(encoding.implicit, not encoding.little)
            group, element, length = _IMPLICIT[encoding.little].unpack(head)
            tag = group << 16 | element
        if tag == SEQUENCE_DELIMITER:
            return None
        if tag != ITEM:
            if frame.tag in PIXELS and frame.depth == 0:
                self._check_pixels(frame.tag, start)
            if frame.kind is TokenKind.ENCAPSULATED:
                raise UndecodableDataSet("Pixel data of undefined length is not in fragments", [frame.tag])
            raise UndecodableDataSet("A sequence contains something else than an item", [frame.tag])
        if frame.kind is TokenKind.SEQUENCE:
            return Token(TokenKind.ITEM, frame.tag, "", length, start, frame.depth, encoding)
        return Token(TokenKind.FRAGMENT, frame.tag, "OB", length, start, frame.depth, encoding)

    def _element(self, frame: _Frame) -> Token | None:
        """Read the next element of a data set; None for the delimiter of an item."""
        start = self._source.position
        head = self._source.read(8 if frame.end is None else min(8, frame.end - start))
        if not any(head) and self._is_padding(frame, start, len(head)):
            return Token(TokenKind.ELEMENT, 0, "UN", 0, start, 0, frame.encoding)
        if len(head) < 8:
            raise UndecodableDataSet(CUT_OFF, [frame.tag] if frame.tag else [])
        group, element, length = _IMPLICIT[frame.encoding.little].unpack(head)
        tag = group << 16 | element
        if group == 0xFFFE:
            self._check_delimiter(frame, tag, length, start)
            return None
        if frame.stray_delimiters:
            raise UndecodableDataSet(_UNEXPECTED_DELIMITER)
        if start == frame.boundary:
            raise UndecodableDataSet("An item is longer than its sequence", [frame.tag])
        if frame.undecided or start == 0:
            self._decide(frame, head)
        if frame.encoding.implicit:
            vr = vr_of(tag)
            if vr == "SQ" and 0 < length < UNDEFINED:
                vr = self._vr_of_sequence(tag)
        else:
            vr, length = self._explicit(frame, head, tag)
        return self._classify(tag, vr, length, start, frame)

    def _check_delimiter(self, frame: _Frame, tag: int, length: int, start: int) -> None:
        """Check that a delimiter ends an item, or ends nothing behind the last element of the whole data set."""
        if len(self._stack) > 1 and tag == ITEM_DELIMITER:
            return
        is_stray = len(self._stack) == 1 and start > 0 and tag in (ITEM_DELIMITER, SEQUENCE_DELIMITER) and not length
        frame.stray_delimiters += 1
        self._source.is_careless = True
        if not is_stray or frame.stray_delimiters > _MOST_STRAY_DELIMITERS:
            raise UndecodableDataSet(_UNEXPECTED_DELIMITER)

    def _vr_of_sequence(self, tag: int) -> str:
        """Return the VR of an element in Implicit VR that is a sequence in PS3.6.

        It may have been another attribute in an earlier edition or a draft: then it has no items.
        """
        if self._source.peek(2) in (b"\xfe\xff", b"\xff\xfe", b""):
            return "SQ"
        return "CS" if tag == OBSERVATION_CLASS else "UN"

    def _is_padding(self, frame: _Frame, start: int, length: int) -> bool:
        """Whether only zero bytes follow to the end of the data set, and pass them.

        With implicit VRs eight of them are an element of group 0000, which is treated as padding.
        """
        is_behind = start > 0 and len(self._stack) == 1 and (length < 8 or not frame.encoding.implicit)
        return is_behind and self._source.is_blank()

    def _decide(self, frame: _Frame, head: bytes) -> None:
        """Decide by the first element whether VRs are implicit.

        Only an item may differ from the transfer syntax (docs/checklist.md S3).
        """
        implicit = self._is_implicit(frame, head)
        if frame.undecided:
            frame.encoding = Encoding(implicit, frame.encoding.little)
            frame.undecided = False
        elif implicit != frame.encoding.implicit:
            raise UndecodableDataSet("The data set is not encoded in its transfer syntax")

    def _is_implicit(self, frame: _Frame, head: bytes) -> bool:
        """Whether an element has no VR. Bytes in place of one may be its length, unless that is too long."""
        letters = head[4:6]
        if not is_in_place_of_a_vr(letters):
            return True
        if letters.isalpha() and letters.isupper():
            return False
        if not frame.undecided:
            return frame.encoding.implicit
        length = _LENGTH[frame.encoding.little].unpack(head[4:])[0]
        limit = frame.end if frame.end is not None else self._source.size
        return length < _LONGEST_FIRST and (limit is None or self._source.position + length <= limit)

    def _explicit(self, frame: _Frame, head: bytes, tag: int) -> tuple[str, int]:
        _, _, letters, length = _EXPLICIT[frame.encoding.little].unpack(head)
        vr = _VRS.get(letters)
        if letters in _SHORT and vr is not None:
            return vr, length
        if vr is None:
            if not (tag and is_in_place_of_a_vr(letters)):
                raise UndecodableDataSet("An element has no Value Representation", [tag])
            self._source.is_careless = True
            vr = "UN" if letters.isalpha() and letters.isupper() else _vr_of_value(tag)
            # A future VR has two zero bytes and a 32 bit length (PS3.5 7.1.2), an invalid one most often does not.
            if length or self._is_followed(frame, tag):
                return vr, length
        return vr, _LENGTH[frame.encoding.little].unpack(self._source.read(4))[0]

    def _is_followed(self, frame: _Frame, tag: int) -> bool:
        """Whether the end of this level or another element is next, so that an element without VR is empty."""
        if self._source.position == frame.end or self._source.at_end():
            return True
        head = self._source.peek(8)
        if len(head) < 8:
            return False
        group, element, letters, _ = _EXPLICIT[frame.encoding.little].unpack(head)
        following = group << 16 | element
        return following == ITEM_DELIMITER or (following > tag and letters in _VRS)

    def _classify(self, tag: int, vr: str, length: int, start: int, frame: _Frame) -> Token:
        kind, encoding = TokenKind.ELEMENT, frame.encoding
        if vr == "SQ":
            kind = TokenKind.SEQUENCE
        elif length == UNDEFINED:
            kind = TokenKind.ENCAPSULATED if vr in ENCAPSULATING else TokenKind.SEQUENCE
            if kind is TokenKind.SEQUENCE and vr != "UN":
                raise UndecodableDataSet("Only sequences and Pixel Data have undefined length", [tag])
            if vr == "UN":  # PS3.5 6.2.2: its items are in Implicit VR Little Endian
                encoding = Encoding(implicit=True)
        return Token(kind, tag, vr, length, start, frame.depth, encoding)


def is_in_place_of_a_vr(letters: bytes) -> bool:
    """Whether two bytes are what writers put where they know no VR: NUL, spaces, `??`, `--`, small or other letters."""
    return letters == b"\0\0" or all(0x20 <= each <= 0x7E for each in letters)


def _vr_of_value(tag: int) -> str:
    """Return the VR of PS3.6 for a value without VR; UN for a sequence, whose encoding is not known either."""
    vr = vr_of(tag)
    return vr if vr != "SQ" else "UN"


ENCAPSULATING = frozenset(("OB", "OW", "OB or OW"))
"""The VRs of encapsulated Pixel Data."""


@lru_cache(maxsize=8192)
def vr_of(tag: int) -> str:
    """Return the VR of a tag in PS3.6, for implicit VRs; UN for an unknown tag (private creators: PS3.5 7.8)."""
    if tag & 0xFFFF == 0:
        return "UL"
    if tag >> 16 & 1:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return "UN"
