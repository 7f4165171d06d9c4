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
class Level:
    """A data set, either the whole or an item, with what conversion needs to know of it."""

    index: int
    """The number of its ITEM among all tokens; -1 for the whole data set."""
    sequence: int
    """The tag of its sequence; 0 for the whole data set."""
    parent: "Level | None"
    end: int = 0
    """The number of the token that ends it."""
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

    def note(self, tag: int, index: int) -> None:
        """Take note of an element and the number of its token."""
        while len(self._places) < len(tags.DESCRIBING) and tags.DESCRIBING[len(self._places)] < tag:
            self._places.append(index)
        if tag in _NOTED or tags.is_overlay(tag):
            self._indices.setdefault(tag, []).append(index)

    def __contains__(self, tag: int) -> bool:
        return tag in self._indices

    def indices(self, tag: int) -> list[int]:
        """Return the numbers of the tokens with this tag, one of those that are noted."""
        return self._indices.get(tag, [])

    def place(self, tag: int) -> int:
        """Return the number of the token before which one of `DESCRIBING` belongs by its tag."""
        position = tags.DESCRIBING.index(tag)
        return self._places[position] if position < len(self._places) else self.end


def survey(source: Source, encoding: Encoding, walk: Walk = walk) -> Iterator[Level]:
    """Yield each item of the data set when it ends, and then the whole; values are skipped unless they are needed.

    Raises UndecodableDataSet, and NotSupported for too many digital signatures.
    """
    level = Level(-1, 0, None)
    index = -1
    for index, token in enumerate(walk(source, encoding)):
        match token.kind:
            case TokenKind.ITEM:
                level = Level(index, token.tag, level)
            case TokenKind.ITEM_END:
                level.end = index
                yield level
                level = _left(level)
            case TokenKind.FRAGMENT:
                _add_fragment(level, source, token)
            case TokenKind.ELEMENT | TokenKind.SEQUENCE | TokenKind.ENCAPSULATED:
                level.note(token.tag, index)
                _read(level, source, token)
    level.end = index + 1
    yield level


def _left(level: Level) -> Level:
    assert level.parent is not None
    if level.sequence == tags.SIGNATURES:
        _append(level.parent.signatures, level)
    elif level.sequence == tags.MAC_PARAMETERS:
        _append(level.parent.mac_parameters, level)
    return level.parent


def _append(items: list[SignatureItem], level: Level) -> None:
    if len(items) >= MOST_SIGNATURES:
        raise NotSupported(f"It has more than {MOST_SIGNATURES} digital signatures")
    items.append(_signature_item(level))


def _signature_item(level: Level) -> SignatureItem:
    mac_id, signed = level.values.get(tags.MAC_ID), level.values.get(tags.DATA_ELEMENTS_SIGNED)
    return SignatureItem(level.index, mac_id.number if mac_id else None, signed)


def _read(level: Level, source: Source, token: Token) -> None:
    is_encapsulated = token.kind is TokenKind.ENCAPSULATED
    if token.tag == tags.PIXEL_DATA and token.kind is not TokenKind.SEQUENCE:
        fragments = Fragments() if is_encapsulated else None
        if len(level.pixels) < 2:
            element = PixelElement(source.position, token.length, token.vr, token.encoding.little, fragments)
            level.pixels.append(element)
    elif is_encapsulated:
        level.other_fragments = token.tag
    elif token.tag == tags.EXTENDED_OFFSET_TABLE:
        level.extended_offset_table = (source.position, token.length)
    elif token.kind is TokenKind.ELEMENT and token.length <= _LONGEST and _is_read(token.tag):
        level.values.setdefault(token.tag, Value(token.vr, source.read(token.length), token.encoding.little))


def _is_read(tag: int) -> bool:
    return tag in _READ or (tags.is_overlay(tag) and tag & 0xFFFF == tags.OVERLAY_BIT_POSITION)


def _add_fragment(level: Level, source: Source, token: Token) -> None:
    if token.tag == tags.PIXEL_DATA and (fragments := level.pixels[-1].fragments) is not None:
        fragments.append(source.position, token.length)
