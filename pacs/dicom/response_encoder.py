"""Encodes the Identifiers of Pending C-FIND responses directly from the rows of the index.

A row keeps its elements encoded (`pacs.dicom.row_elements`), so the encoder copies the requested elements in one pass
over each row, without a data set in between. Sequences, text beyond ASCII and attributes from files take the general
path, `pacs.dicom.response_identifier`, which defines the content of a response. Both give the same bytes.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from struct import Struct

from pydicom import Dataset

from pacs.dicom.attributes import Attribute, Kept, by_keyword
from pacs.dicom.charset import CUSTOMIZABLE
from pacs.dicom.dataset import AMBIGUOUS, EXPLICIT_LITTLE, element_head, in_order
from pacs.dicom.elements import SHORT_VRS, Encoding
from pacs.dicom.identifier import encode, encoding_of
from pacs.dicom.levels import QueryLevel
from pacs.dicom.query import Match, Query
from pacs.dicom.response_identifier import computed_value, constant_elements, make_response_identifier

_TAG, _HEAD, _LONG_LENGTH = Struct("<HH"), Struct("<4s2sH"), Struct("<L")
_SHORT = frozenset(vr.encode() for vr in SHORT_VRS)
_TEXT = frozenset(vr.encode() for vr in CUSTOMIZABLE)
_NOT_PLAIN = frozenset((b"SQ", b"UN"))
_TIMEZONE = by_keyword("TimezoneOffsetFromUTC")
_HEADS = 4096
"""The number of cached element headers: tags and lengths are often the same in many responses."""

Positions = dict[bytes, int]
"""The position of row elements in a response, by their encoded tags."""
PlacedElements = list[tuple[int, bytes]]
"""Encoded elements, each with its position in the response."""


class ResponseEncoder:
    """Encodes the response Identifiers of one query in one transfer syntax.

    Raises UndecodableDataSet for a transfer syntax that Identifiers do not have.
    """

    def __init__(self, query: Query, retrieve_ae_title: str, transfer_syntax: str) -> None:
        self._query = query
        self._retrieve_ae_title = retrieve_ae_title
        self._transfer_syntax = transfer_syntax
        self._encoding = encoding_of(transfer_syntax)
        self._head = lru_cache(_HEADS)(partial(_head, self._encoding))
        self._positions: dict[QueryLevel, Positions] = {level: {} for level in QueryLevel}
        self._computed: list[tuple[int, Attribute]] = []
        self._defaults = list(self._default_elements())
        self._is_plain = not any(each.items or not _is_plain(each.attribute) for each in query.return_keys)
        self._last: dict[QueryLevel, tuple[bytes, PlacedElements | None]] = {}

    def identifier(self, match: Match, from_file: Dataset | None = None) -> bytes:
        """Return the encoded Identifier of a match; `from_file` has the attributes that were read from its file."""
        encoded = self._from_rows(match) if self._is_plain and from_file is None else None
        if encoded is None:
            found = make_response_identifier(match, self._query, self._retrieve_ae_title, from_file)
            encoded = encode(found, self._transfer_syntax)
        return encoded

    # --- layout ---------------------------------------------------------------------------------

    def _default_elements(self) -> Iterator[bytes]:
        """Yield the default of each element of a response, by tag, and note the positions of all elements."""
        attributes = {each.tag: each for each in _attributes_of_response(self._query)}
        constant = {
            tag: (vr, value) for tag, vr, value in constant_elements(self._query.level, self._retrieve_ae_title)
        }
        for position, tag in enumerate(sorted(attributes.keys() | constant.keys())):
            if tag in constant:
                vr, value = constant[tag]
                yield self._element(_encoded_tag(tag), vr.encode(), value)
            else:
                yield self._empty_element(position, attributes[tag])

    def _empty_element(self, position: int, attribute: Attribute) -> bytes:
        """Return an element of zero length, or nothing for Timezone Offset From UTC, and note its position."""
        tag = _encoded_tag(attribute.tag)
        if attribute.kept is Kept.COMPUTED:
            self._computed.append((position, attribute))
        else:
            self._positions[attribute.level][tag] = position
        vr = AMBIGUOUS.get(attribute.vr, attribute.vr)
        return b"" if attribute is _TIMEZONE else self._element(tag, vr.encode(), b"")

    # --- one response --------------------------------------------------------------------------------------------

    def _from_rows(self, match: Match) -> bytes | None:
        """Return the encoded response from row elements; None when some cannot be copied unchanged."""
        elements = self._defaults.copy()
        for level, row in match.kept.items():
            placed = self._of_row(level, row)
            if placed is None:
                return None
            for position, element in placed:
                elements[position] = element
        for position, attribute in self._computed:
            value = computed_value(attribute, match.computed.get(attribute.keyword, ()))
            elements[position] = self._element(_encoded_tag(attribute.tag), attribute.vr.encode(), value)
        return b"".join(elements)

    def _of_row(self, level: QueryLevel, row: bytes) -> PlacedElements | None:
        """Return the elements to copy from a row; successive matches often share the rows of the levels above."""
        last = self._last.get(level)
        if last is None or last[0] != row:
            positions = self._positions[level]
            last = self._last[level] = (row, self._copied(row, positions) if positions else [])
        return last[1]

    def _copied(self, row: bytes, positions: Positions) -> PlacedElements | None:
        placed: PlacedElements = []
        is_same = self._encoding == EXPLICIT_LITTLE
        end = 0
        while end < len(row) and len(placed) < len(positions):
            start = end
            tag, vr, length = _HEAD.unpack_from(row, start)
            at = start + 8
            if vr not in _SHORT:
                (length,) = _LONG_LENGTH.unpack_from(row, at)
                at += 4
            end = at + length
            position = positions.get(tag)
            if position is not None:
                value = row[at:end]
                if vr in _NOT_PLAIN or (vr in _TEXT and (not value.isascii() or b"\x1b" in value)):
                    return None
                placed.append((position, row[start:end] if is_same else self._element(tag, vr, value)))
        return placed

    def _element(self, tag: bytes, vr: bytes, value: bytes) -> bytes:
        if not self._encoding.little:
            value = in_order(value, vr.decode(), was_little=True, little=False)
        return self._head(tag, vr, len(value)) + value


def _attributes_of_response(query: Query) -> Iterator[Attribute]:
    """Yield the attributes of a response besides the constant elements."""
    yield from (each.attribute for each in query.return_keys)
    yield from (by_keyword(level.unique_key) for level in (*query.root.above(query.level), query.level))
    if query.level is QueryLevel.IMAGE:
        yield _TIMEZONE


def _is_plain(attribute: Attribute) -> bool:
    return attribute.kept is not Kept.FILE and not attribute.creator


def _encoded_tag(tag: int) -> bytes:
    return _TAG.pack(tag >> 16, tag & 0xFFFF)


def _head(encoding: Encoding, tag: bytes, vr: bytes, length: int) -> bytes:
    group, element = _TAG.unpack(tag)
    return element_head(encoding, group << 16 | element, vr.decode(), length)
