"""Reads what conversion needs to know of a data set: where its pixel data is, and the attributes that describe it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pacs.dicom.elements import Encoding, Source, Token, TokenKind, walk
from pacs.errors import NotSupported
from pacs.pixels import tags
from pacs.pixels.encapsulation import Fragments

_LONGEST = 1 << 12
"""The longest value that is read, in bytes; those that are needed are shorter."""

MOST_SIGNATURES = 10_000
"""The most items of a Digital Signatures or MAC Parameters Sequence: each is remembered."""

_READ = frozenset((*tags.DESCRIBING, tags.MAC_ID, tags.DATA_ELEMENTS_SIGNED))
_NOTED = _READ.union(
    tags.EXTREMES, tags.OFFSET_TABLES, (tags.FLOAT_PIXEL_DATA, tags.DOUBLE_FLOAT_PIXEL_DATA, tags.PIXEL_DATA),
    (tags.SIGNATURES, tags.MAC_PARAMETERS),
)  # fmt: skip
"""The elements whose numbers are kept. There may be millions of others."""

_INTEGERS = {"US": 2, "SS": 2, "US or SS": 2, "UN": 2, "OW": 2, "UL": 4, "SL": 4, "UV": 8, "SV": 8}
_SIGNED = frozenset(("SS", "SL", "SV"))


class Value(NamedTuple):
    """The value of an element, as it is encoded."""

    vr: str
    data: bytes
    little: bool

    @property
    def number(self) -> int | None:
        """Its first number, whatever VR it has; None if it is empty or no number."""
        if (width := _INTEGERS.get(self.vr)) is None:
            return self._number_in_text
        return self._integer(self.data[:width], self.vr in _SIGNED) if self.data else None

    def _integer(self, data: bytes, is_signed: bool = False) -> int:
        return int.from_bytes(data, "little" if self.little else "big", signed=is_signed)

    @property
    def _number_in_text(self) -> int | None:
        try:
            return int(float(self.texts[0]))
        except (ValueError, OverflowError):
            return None

    @property
    def texts(self) -> list[str]:
        """Its values as texts, without padding."""
        return [each.strip(" \0") for each in self.data.decode("latin-1").split("\\")]

    @property
    def tags(self) -> frozenset[int]:
        """Its values as tags (VR AT)."""
        halves = [self._integer(self.data[at : at + 2]) for at in range(0, len(self.data), 2)]
        return frozenset(group << 16 | element for group, element in zip(halves[::2], halves[1::2], strict=False))


class PixelElement(NamedTuple):
    """Pixel Data, native or encapsulated."""

    offset: int
    """The offset of a native value in the data set."""
    length: int
    vr: str
    little: bool
    fragments: Fragments | None


class SignatureItem(NamedTuple):
    """An item of the Digital Signatures or MAC Parameters Sequence."""

    token: int
    """The number of its ITEM among all tokens."""
    mac_id: int | None
    signed: Value | None
    """The tags of the elements that are signed, as encoded; None if the item does not say it."""


Walk = Callable[[Source, Encoding], Iterator[Token]]
"""Yields the tokens of a data set, as `pacs.dicom.elements.walk`."""


@dataclass(slots=True)
class SurveyedDataSet:
    """A data set, either the whole or an item, with what conversion needs to know of it."""

    index: int
    """The number of its ITEM among all tokens; -1 for the whole data set."""
    sequence: int
    """The tag of its sequence; 0 for the whole data set."""
    parent: "SurveyedDataSet | None"
    end: int = 0
    """The number of the token that ends it."""
    is_regular: bool = True
    """Whether it is in explicit VR little endian, without group lengths, errors, or a changing element twice."""
    starts: dict[int, int] = field(default_factory=dict)
    """The offsets of the elements that may change and of their places, by number."""
    ends: dict[int, int] = field(default_factory=dict)
    """The offsets after the elements that may change; none for the last one."""
    values: dict[int, Value] = field(default_factory=dict)
    pixels: list[PixelElement] = field(default_factory=list)
    """Its Pixel Data; two when there are more."""
    extended_offset_table: tuple[int, int] | None = None
    other_fragments: int = 0
    """The tag of an element in fragments that is not Pixel Data."""
    changed: set[int] = field(default_factory=set)
    """The elements that are different afterwards."""
    signatures: list[SignatureItem] = field(default_factory=list)
    mac_parameters: list[SignatureItem] = field(default_factory=list)
    _indices: dict[int, list[int]] = field(default_factory=dict)
    _places: list[int] = field(default_factory=list)
    """The number of the first element after each of `DESCRIBING`."""
    _last: int | None = None
    """The number of the element before, if it may change."""

    def note(self, tag: int, index: int, start: int) -> None:
        """Take note of an element, the number of its token and its offset."""
        if self._last is not None:
            self.ends[self._last], self._last = start, None
        while len(self._places) < len(tags.DESCRIBING) and tags.DESCRIBING[len(self._places)] < tag:
            self._places.append(index)
            self.starts[index] = start
        if tag in self._indices:
            self._indices[tag].append(index)
            self.is_regular = False
        elif tag in _NOTED or tags.is_overlay(tag):
            self._indices[tag] = [index]
            self.starts[index], self._last = start, index

    def __contains__(self, tag: int) -> bool:
        return tag in self._indices

    def indices(self, tag: int) -> list[int]:
        """Return the numbers of the tokens with this tag, one of those that are noted."""
        return self._indices.get(tag, [])

    def place(self, tag: int) -> int:
        """Return the number of the token before which one of `DESCRIBING` belongs by its tag."""
        position = tags.DESCRIBING.index(tag)
        return self._places[position] if position < len(self._places) else self.end


def survey(source: Source, encoding: Encoding, walk: Walk = walk) -> Iterator[SurveyedDataSet]:
    """Yield each item of the data set when it ends, and then the whole; values are skipped unless they are needed.

    Raises UndecodableDataSet, and NotSupported for too many digital signatures.
    """
    data_set = SurveyedDataSet(-1, 0, None)
    index = -1
    for index, token in enumerate(walk(source, encoding)):
        if token.encoding.implicit or not (token.encoding.little and token.tag & 0xFFFF):
            data_set.is_regular = False
        match token.kind:
            case TokenKind.ITEM:
                data_set = SurveyedDataSet(index, token.tag, data_set)
            case TokenKind.ITEM_END:
                data_set.end = index
                yield data_set
                data_set = _left(data_set)
            case TokenKind.FRAGMENT:
                _add_fragment(data_set, source, token)
            case TokenKind.ELEMENT | TokenKind.SEQUENCE | TokenKind.ENCAPSULATED:
                data_set.note(token.tag, index, token.start)
                _read(data_set, source, token)
    data_set.end = index + 1
    data_set.is_regular &= not source.is_careless
    yield data_set


def _left(data_set: SurveyedDataSet) -> SurveyedDataSet:
    assert data_set.parent is not None
    data_set.parent.is_regular &= data_set.is_regular
    if data_set.sequence == tags.SIGNATURES:
        _append(data_set.parent.signatures, data_set)
    elif data_set.sequence == tags.MAC_PARAMETERS:
        _append(data_set.parent.mac_parameters, data_set)
    return data_set.parent


def _append(items: list[SignatureItem], data_set: SurveyedDataSet) -> None:
    if len(items) >= MOST_SIGNATURES:
        raise NotSupported(f"It has more than {MOST_SIGNATURES} digital signatures")
    items.append(_signature_item(data_set))


def _signature_item(data_set: SurveyedDataSet) -> SignatureItem:
    mac_id, signed = data_set.values.get(tags.MAC_ID), data_set.values.get(tags.DATA_ELEMENTS_SIGNED)
    return SignatureItem(data_set.index, mac_id.number if mac_id else None, signed)


def _read(data_set: SurveyedDataSet, source: Source, token: Token) -> None:
    is_encapsulated = token.kind is TokenKind.ENCAPSULATED
    if token.tag == tags.PIXEL_DATA and token.kind is not TokenKind.SEQUENCE:
        fragments = Fragments() if is_encapsulated else None
        if len(data_set.pixels) < 2:
            element = PixelElement(source.position, token.length, token.vr, token.encoding.little, fragments)
            data_set.pixels.append(element)
    elif is_encapsulated:
        data_set.other_fragments = token.tag
    elif token.tag == tags.EXTENDED_OFFSET_TABLE:
        data_set.extended_offset_table = (source.position, token.length)
    elif token.kind is TokenKind.ELEMENT and token.length <= _LONGEST and _is_read(token.tag):
        data_set.values.setdefault(token.tag, Value(token.vr, source.read(token.length), token.encoding.little))


def _is_read(tag: int) -> bool:
    return tag in _READ or (tags.is_overlay(tag) and tag & 0xFFFF == tags.OVERLAY_BIT_POSITION)


def _add_fragment(data_set: SurveyedDataSet, source: Source, token: Token) -> None:
    if token.tag == tags.PIXEL_DATA and (fragments := data_set.pixels[-1].fragments) is not None:
        fragments.append(source.position, token.length)
