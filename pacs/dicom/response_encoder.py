"""Encodes the Identifiers of Pending C-FIND responses directly from the rows of the index.

A row keeps its elements encoded (`pacs.dicom.row_elements`), so the encoder copies the requested elements in one pass
over each row, without a data set in between. Sequences, text beyond ASCII and attributes from files take the general
path, `pacs.dicom.response_identifier`, which defines the content of a response. Both give the same bytes.
"""

from collections.abc import Iterator
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from pydicom import Dataset

from pacs.dicom.attributes import Attribute, Kept, by_keyword
from pacs.dicom.charset import CUSTOMIZABLE
from pacs.dicom.dataset import AMBIGUOUS, EXPLICIT_LITTLE, element_head, in_order
from pacs.dicom.elements import SHORT_VRS, Encoding
from pacs.dicom.identifier import encode, encoding_of
from pacs.dicom.levels import QueryLevel, Root
from pacs.dicom.query import Match, Query, ReturnKey
from pacs.dicom.response_identifier import computed_value, constant_elements, make_response_identifier

_TAG, _HEAD, _LONG_LENGTH = Struct("<HH"), Struct("<4s2sH"), Struct("<L")
_SHORT = frozenset(vr.encode() for vr in SHORT_VRS)
_TEXT = frozenset(vr.encode() for vr in CUSTOMIZABLE)
_NOT_PLAIN = frozenset((b"SQ", b"UN"))
_TIMEZONE = by_keyword("TimezoneOffsetFromUTC")
_CACHED = 4096
"""The number of cached element headers and computed elements: both are often the same in many responses."""
_LAYOUTS = 128
"""The number of cached layouts: clients repeat their queries with other values."""


class _Field(NamedTuple):
    """How an element of a row is copied, by its first eight bytes: tag, VR, and 16 bit length."""

    length: int
    """The length of its value; -1 where a 32 bit length follows."""
    position: int
    """Its position in the response; -1 for an element that is not requested."""
    is_text: bool
    is_plain: bool
    head: bytes | None
    """The encoded tag and length of the response; None where the element has to be encoded for itself."""


class _Layout:
    """The elements of all responses to one query: their positions by tag, and how to encode them."""

    def __init__(
        self,
        return_keys: tuple[ReturnKey, ...],
        root: Root,
        level: QueryLevel,
        retrieve_ae_title: str,
        encoding: Encoding,
    ) -> None:
        self.encoding = encoding
        self.computed: list[tuple[int, Attribute]] = []
        self.is_plain = not any(each.items or not _is_plain(each.attribute) for each in return_keys)
        self._positions: dict[QueryLevel, dict[bytes, int]] = {level: {} for level in QueryLevel}
        self._fields: dict[QueryLevel, dict[bytes, _Field]] = {level: {} for level in QueryLevel}
        self._computed_elements: dict[tuple[int, int | tuple[str, ...]], bytes] = {}
        attributes = {each.tag: each for each in _attributes_of_response(return_keys, root, level)}
        constant = {tag: (vr, value) for tag, vr, value in constant_elements(level, retrieve_ae_title)}
        self.defaults = [
            self._constant(tag, *constant[tag]) if tag in constant else self._empty_element(position, attributes[tag])
            for position, tag in enumerate(sorted(attributes.keys() | constant.keys()))
        ]

    def _constant(self, tag: int, vr: str, value: bytes) -> bytes:
        return self._element(_encoded_tag(tag), vr.encode(), value)

    def _empty_element(self, position: int, attribute: Attribute) -> bytes:
        """Return an element of zero length, or nothing for Timezone Offset From UTC, and note its position."""
        tag = _encoded_tag(attribute.tag)
        if attribute.kept is Kept.COMPUTED:
            self.computed.append((position, attribute))
        else:
            self._positions[attribute.level][tag] = position
        vr = AMBIGUOUS.get(attribute.vr, attribute.vr)
        return b"" if attribute is _TIMEZONE else self._element(tag, vr.encode(), b"")

    def fill(self, elements: list[bytes], level: QueryLevel, row: bytes) -> bool:
        """Copy the requested elements of a row; return False when some cannot be copied unchanged."""
        fields, missing = self._fields[level], len(self._positions[level])
        is_same = self.encoding == EXPLICIT_LITTLE
        end, size = 0, len(row)
        while end < size and missing:
            start = end
            field = fields.get(row[start : start + 8]) or self._field(level, row[start : start + 8])
            length, position, is_text, is_plain, head = field
            at = start + 8
            if length < 0:
                (length,) = _LONG_LENGTH.unpack_from(row, at)
                at += 4
            end = at + length
            if position >= 0:
                value = row[at:end]
                if not is_plain or (is_text and (not value.isascii() or b"\x1b" in value)):
                    return False
                if is_same:
                    elements[position] = row[start:end]
                else:
                    elements[position] = head + value if head else self._of_field(row[start : start + 8], value)
                missing -= 1
        return True

    def _field(self, level: QueryLevel, head: bytes) -> _Field:
        tag, vr, length = _HEAD.unpack(head)
        position = self._positions[level].get(tag, -1)
        is_short = vr in _SHORT
        made = self._head(tag, vr, length) if is_short and self.encoding.little else None
        field = _Field(length if is_short else -1, position, vr in _TEXT, vr not in _NOT_PLAIN, made)
        if len(self._fields[level]) < _CACHED:
            self._fields[level][head] = field
        return field

    def _of_field(self, head: bytes, value: bytes) -> bytes:
        tag, vr, _ = _HEAD.unpack(head)
        return self._element(tag, vr, value)

    def computed_element(self, position: int, attribute: Attribute, value: int | tuple[str, ...]) -> bytes:
        """Return the element of a computed attribute."""
        known = self._computed_elements.get((position, value))
        if known is None:
            known = self._constant(attribute.tag, attribute.vr, computed_value(attribute, value))
            if len(self._computed_elements) < _CACHED:
                self._computed_elements[position, value] = known
        return known

    def _element(self, tag: bytes, vr: bytes, value: bytes) -> bytes:
        if not self.encoding.little:
            value = in_order(value, vr.decode(), was_little=True, little=False)
        return self._head(tag, vr, len(value)) + value

    def _head(self, tag: bytes, vr: bytes, length: int) -> bytes:
        group, element = _TAG.unpack(tag)
        return element_head(self.encoding, group << 16 | element, vr.decode(), length)


_layout = lru_cache(_LAYOUTS)(_Layout)


class ResponseEncoder:
    """Encodes the response Identifiers of one query in one transfer syntax.

    Raises UndecodableDataSet for a transfer syntax that Identifiers do not have.
    """

    def __init__(self, query: Query, retrieve_ae_title: str, transfer_syntax: str) -> None:
        self._query = query
        self._retrieve_ae_title = retrieve_ae_title
        self._transfer_syntax = transfer_syntax
        encoding = encoding_of(transfer_syntax)
        self._layout = _layout(query.return_keys, query.root, query.level, retrieve_ae_title, encoding)
        self._above: list[bytes] | None = None
        self._started: list[bytes] | None = None

    def identifier(self, match: Match, from_file: Dataset | None = None) -> bytes:
        """Return the encoded Identifier of a match; `from_file` has the attributes that were read from its file."""
        encoded = self._from_rows(match) if self._layout.is_plain and from_file is None else None
        if encoded is None:
            found = make_response_identifier(match, self._query, self._retrieve_ae_title, from_file)
            encoded = encode(found, self._transfer_syntax)
        return encoded

    def _from_rows(self, match: Match) -> bytes | None:
        """Return the encoded response from row elements; None when some cannot be copied unchanged."""
        layout, (*above, row) = self._layout, match.kept.values()
        if above != self._above:
            self._above, self._started = above, self._start(match)
        if self._started is None:
            return None
        elements = self._started.copy()
        if not layout.fill(elements, match.level, row):
            return None
        for position, attribute in layout.computed:
            value = match.computed.get(attribute.keyword, ())
            elements[position] = layout.computed_element(position, attribute, value)
        return b"".join(elements)

    def _start(self, match: Match) -> list[bytes] | None:
        """Return the elements of the rows above, which successive matches often share, in a response."""
        elements = self._layout.defaults.copy()
        for level, row in match.kept.items():
            if level is not match.level and not self._layout.fill(elements, level, row):
                return None
        return elements


def _attributes_of_response(return_keys: tuple[ReturnKey, ...], root: Root, level: QueryLevel) -> Iterator[Attribute]:
    """Yield the attributes of a response besides the constant elements."""
    yield from (each.attribute for each in return_keys)
    yield from (by_keyword(each.unique_key) for each in (*root.above(level), level))
    if level is QueryLevel.IMAGE:
        yield _TIMEZONE


def _is_plain(attribute: Attribute) -> bool:
    return attribute.kept is not Kept.FILE and not attribute.creator


def _encoded_tag(tag: int) -> bytes:
    return _TAG.pack(tag >> 16, tag & 0xFFFF)
