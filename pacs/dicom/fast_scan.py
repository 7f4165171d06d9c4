"""The fast path through a plain data set: one pass over its bytes, without an object per element.

It supports what nearly all instances are: little endian, not deflated, with ascending tags and without errors. For any
other data set it raises, and the general path (`pacs.dicom.elements.walk`) is used. Both give the same result; a test
compares them.
"""

import io
from struct import Struct, error
from typing import BinaryIO

from pacs.dicom.attributes import ATTRIBUTES, Kept
from pacs.dicom.charset import CUSTOMIZABLE
from pacs.dicom.elements import (
    DEPTH_LIMIT,
    ENCAPSULATING,
    ITEM,
    ITEM_DELIMITER,
    LONG_VRS,
    SEQUENCE_DELIMITER,
    SHORT_VRS,
    UNDEFINED,
    Encoding,
    vr_of,
)
from pacs.dicom.levels import LEVELS

WINDOW = 1 << 15
"""The bytes that are read at once."""

_LONGEST = 0xFFFE
"""The longest required value that is supported, in bytes: the largest 16 bit length."""

_EXPLICIT, _IMPLICIT, _LENGTH = Struct("<HH2sH"), Struct("<HHL"), Struct("<L")
_VRS = {vr.encode(): (vr, vr in SHORT_VRS) for vr in SHORT_VRS | LONG_VRS}
"""Encoded VR -> its name, and whether its length has 16 bits."""
_SHORT = {vr.encode(): vr in CUSTOMIZABLE for vr in SHORT_VRS}
"""Encoded VR with a 16 bit length -> whether its values depend on the character set."""

_FIRST = 0x00080000
"""Lower tags do not belong in a data set."""
_LEVELS = {tag: each.level for tag, each in ATTRIBUTES.items() if each.kept in (Kept.COLUMN, Kept.ROW)}
"""The level whose row has an element, by tag."""


class FastScanUnsupported(Exception):
    """The data set is not plain, or not a data set."""


class FastScan:
    """The result of one pass over a plain data set. Raises FastScanUnsupported when it is not plain.

    `bulk` decides which elements are bulk data; the values of `wanted` tags are in `values`.
    """

    def __init__(self, file: BinaryIO, encoding: Encoding, wanted: frozenset[int], bulk: "BulkRule") -> None:
        if encoding.deflated or not encoding.little:
            raise FastScanUnsupported
        self.values: dict[int, bytes] = {}
        self.bulk_offset: int | None = None
        self.has_fragments = False
        self.levels: tuple[list[bytes], ...] = tuple([] for _ in LEVELS)
        """The row elements of each level: encoded for the row where `is_row_form`, else as received."""
        self.is_row_form = [True] * len(LEVELS)
        self._wanted = wanted
        self._bulk = bulk
        self._special = bulk.tags
        self._implicit = encoding.implicit
        self._file = file
        self._start = file.tell()
        self._size = file.seek(0, io.SEEK_END) - self._start
        self._window, self._base = b"", 0
        try:
            self._run()
        except error as end:  # a truncated element header
            raise FastScanUnsupported from end

    def _run(self) -> None:
        at, last = 0, _FIRST - 1
        while at < self._size:
            if not self._implicit:
                at, last = self._run_of_short(at, last)
                if at == self._size:
                    return
            tag, vr, length, value = self._head(at)
            if tag <= last or tag >= ITEM:
                raise FastScanUnsupported
            last = tag
            if length == UNDEFINED or vr == "SQ":
                end = self._nest(tag, vr, length, at, value)
            else:
                end = value + length
                if end > self._size:
                    raise FastScanUnsupported
                if self.bulk_offset is None and self._bulk.holds(tag, vr, length):
                    self.bulk_offset = at
                if tag in _LEVELS or tag in self._wanted:
                    self._take(tag, vr, at, value, end)
            at = end

    def _run_of_short(self, at: int, last: int) -> tuple[int, int]:
        """Process elements as long as they are in the window and need no special handling.

        Returns the offset where it stopped, and the last tag. Most elements of most instances need only this loop.
        """
        window, wanted, levels, level_of = self._window, self._wanted, self.levels, _LEVELS.get
        here, end, most = at - self._base, len(window), len(window) - 8
        while 0 <= here <= most:
            group, number, letters, length = _EXPLICIT.unpack_from(window, here)
            tag, value = group << 16 | number, here + 8
            is_text = _SHORT.get(letters)
            if is_text is None or tag <= last or value + length > end or length > _LONGEST or tag in self._special:
                break
            if tag in wanted:
                self.values[tag] = window[value : value + length]
            level = level_of(tag)
            if level is not None:
                if length & 1 or (is_text and not _is_ascii(window[value : value + length])):
                    self.is_row_form[level] = False
                levels[level].append(window[here : value + length])
            here, last = value + length, tag
        return self._base + here, last

    def _head(self, at: int) -> tuple[int, str, int, int]:
        """Return tag, VR, length and value offset of the element at `at`. Raises struct.error at the end."""
        if at + 12 > self._base + len(self._window):
            self._read_window(at, 12)
        here = at - self._base
        if self._implicit:
            group, number, length = _IMPLICIT.unpack_from(self._window, here)
            tag = group << 16 | number
            if at == 0 and self._window[4:6].isalpha() and self._window[4:6].isupper():
                raise FastScanUnsupported
            return tag, vr_of(tag), length, at + 8
        group, number, letters, length = _EXPLICIT.unpack_from(self._window, here)
        known = _VRS.get(letters)
        if known is None:
            return self._delimiter(group << 16 | number, here)
        vr, is_short = known
        if is_short:
            return group << 16 | number, vr, length, at + 8
        return group << 16 | number, vr, _LENGTH.unpack_from(self._window, here + 8)[0], at + 12

    def _delimiter(self, tag: int, here: int) -> tuple[int, str, int, int]:
        if tag != ITEM_DELIMITER:
            raise FastScanUnsupported
        return tag, "", 0, self._base + here + 8

    def _read_window(self, at: int, length: int) -> None:
        """Read the window from `at`, with at least `length` bytes if there are as many."""
        self._file.seek(self._start + at)
        self._window, self._base = self._file.read(max(WINDOW, length)), at

    def _bytes(self, start: int, end: int) -> bytes:
        if end > self._base + len(self._window) or start < self._base:
            self._read_window(start, end - start)
        return self._window[start - self._base : end - self._base]

    def _take(self, tag: int, vr: str, start: int, value: int, end: int) -> None:
        """Keep a required element."""
        if end - value > _LONGEST:
            raise FastScanUnsupported
        element = self._bytes(start, end)
        content = element[value - start :]
        if tag in self._wanted:
            self.values[tag] = content
        level = _LEVELS.get(tag)
        if level is None:
            return
        if vr not in SHORT_VRS or len(content) & 1 or (vr in CUSTOMIZABLE and not _is_ascii(content)):
            self.is_row_form[level] = False
        elif self._implicit:
            element = _EXPLICIT.pack(tag >> 16, tag & 0xFFFF, vr.encode(), len(content)) + content
        self.levels[level].append(element)

    # --- sequences and fragments -------------------------------------------------------------------------------

    def _nest(self, tag: int, vr: str, length: int, start: int, value: int) -> int:
        """Pass a sequence or encapsulated Pixel Data; return its end."""
        if vr != "SQ":
            if vr not in ENCAPSULATING:
                raise FastScanUnsupported
            if self.bulk_offset is None:
                self.bulk_offset = start
            self.has_fragments = True
            return self._fragments(value)
        if self.bulk_offset is None and self._bulk.holds(tag, vr, 0):
            self.bulk_offset = start
        end = self._items(value, None if length == UNDEFINED else value + length, 1)
        level = _LEVELS.get(tag)
        if tag in self._wanted:
            raise FastScanUnsupported
        if level is not None:
            if end - start > _LONGEST:
                raise FastScanUnsupported
            self.is_row_form[level] = False
            self.levels[level].append(self._bytes(start, end))
        return end

    def _fragments(self, at: int) -> int:
        while True:
            tag, length = self._item(at)
            at += 8
            if tag == SEQUENCE_DELIMITER:
                return at
            at += length
            if tag != ITEM or at > self._size:
                raise FastScanUnsupported

    def _items(self, at: int, end: int | None, depth: int) -> int:
        """Pass the items of a sequence that ends at `end` or at its delimiter; return its end."""
        if depth > DEPTH_LIMIT or (end is not None and end > self._size):
            raise FastScanUnsupported
        while at != end:
            tag, length = self._item(at)
            at += 8
            if tag == SEQUENCE_DELIMITER and end is None:
                return at
            inner = None if length == UNDEFINED else at + length
            if tag != ITEM or (inner is not None and inner > (self._size if end is None else end)):
                raise FastScanUnsupported
            at = self._elements(at, inner, depth)
        return at

    def _item(self, at: int) -> tuple[int, int]:
        if at + 8 > self._base + len(self._window):
            self._read_window(at, 8)
        group, number, length = _IMPLICIT.unpack_from(self._window, at - self._base)
        return group << 16 | number, length

    def _elements(self, at: int, end: int | None, depth: int) -> int:
        """Pass the elements of an item that ends at `end` or at its delimiter; return its end."""
        while at != end:
            tag, vr, length, value = self._head(at)
            if tag == ITEM_DELIMITER and end is None:
                return value
            if tag < _FIRST or ITEM <= tag <= SEQUENCE_DELIMITER or (length == UNDEFINED and vr != "SQ"):
                raise FastScanUnsupported
            if vr == "SQ":
                at = self._items(value, None if length == UNDEFINED else value + length, depth + 1)
            else:
                at = value + length
            if at > (self._size if end is None else end):
                raise FastScanUnsupported
        return at


class BulkRule:
    """Decides which elements are bulk data: those with `tags`, and those of `vrs` longer than `limit`."""

    def __init__(self, tags: frozenset[int], vrs: frozenset[str], limit: int) -> None:
        self.tags, self._vrs, self._limit = tags, vrs, limit

    def holds(self, tag: int, vr: str, length: int) -> bool:
        """Whether an element with this tag, VR and length is bulk data."""
        return tag in self.tags or (length > self._limit and vr in self._vrs)


def _is_ascii(text: bytes) -> bool:
    """Whether a text is the same in every character set, so that it needs no conversion for the row."""
    return text.isascii() and b"\x1b" not in text
