"""Reads what conversion needs to know of a data set: where its pixel data is, and the attributes that describe it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pacs.dicom.elements import Encoding, Source, Token, TokenKind, walk
from pacs.pixels.encapsulation import PIXEL_DATA, Fragments

EXTENDED_OFFSET_TABLE = 0x7FE00001
FLOAT_PIXEL_DATA = (0x7FE00008, 0x7FE00009)
SIGNATURES, MAC_PARAMETERS = 0xFFFAFFFA, 0x4FFE0001
MAC_ID, DATA_ELEMENTS_SIGNED = 0x04000005, 0x04000020

_LONGEST = 1 << 16
"""The longest value that is read; those that are needed are shorter."""

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


@dataclass(slots=True)
class Level:
    """A data set, either the whole or an item, with what conversion needs to know of it."""

    index: int
    """The number of its ITEM among all tokens; -1 for the whole data set."""
    sequence: int
    """The tag of its sequence; 0 for the whole data set."""
    parent: "Level | None"
    end: int = 0
    """The number of its last token and one."""
    elements: list[tuple[int, int, int]] = field(default_factory=list)
    """Tag, number and offset of each element."""
    values: dict[int, Value] = field(default_factory=dict)
    pixels: list[PixelElement] = field(default_factory=list)
    extended_offset_table: tuple[int, int] | None = None
    is_explicit_little: bool = True
    """Whether all of it is in explicit VR little endian."""
    other_fragments: int = 0
    """The tag of an element in fragments that is not Pixel Data."""
    changed: set[int] = field(default_factory=set)
    """The elements that are different afterwards."""
    signatures: list["Level"] = field(default_factory=list)
    """The items of its Digital Signatures Sequence."""
    mac_parameters: list["Level"] = field(default_factory=list)
    """The items of its MAC Parameters Sequence."""

    def __contains__(self, tag: int) -> bool:
        return any(each == tag for each, *_ in self.elements)

    def indices(self, tag: int) -> list[int]:
        """Return the numbers of the tokens with this tag."""
        return [index for each, index, _ in self.elements if each == tag]

    def place(self, tag: int) -> int:
        """Return the number of the token before which an element belongs by its tag."""
        return next((index for each, index, _ in self.elements if each > tag), self.end)


def survey(source: Source, encoding: Encoding) -> Iterator[Level]:
    """Yield each item of the data set when it ends, and then the whole; values are skipped unless they are needed."""
    level = Level(-1, 0, None)
    index = -1
    for index, token in enumerate(walk(source, encoding)):
        if token.encoding.implicit or not token.encoding.little:
            level.is_explicit_little = False
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
                level.elements.append((token.tag, index, token.start))
                _note(level, source, token)
    level.end = index + 1
    yield level


def _left(level: Level) -> Level:
    assert level.parent is not None
    level.parent.is_explicit_little &= level.is_explicit_little
    if level.sequence == SIGNATURES:
        level.parent.signatures.append(level)
    elif level.sequence == MAC_PARAMETERS:
        level.parent.mac_parameters.append(level)
    return level.parent


def _note(level: Level, source: Source, token: Token) -> None:
    is_encapsulated = token.kind is TokenKind.ENCAPSULATED
    if token.tag == PIXEL_DATA and token.kind is not TokenKind.SEQUENCE:
        fragments = Fragments() if is_encapsulated else None
        level.pixels.append(PixelElement(source.position, token.length, token.vr, token.encoding.little, fragments))
    elif is_encapsulated:
        level.other_fragments = token.tag
    elif token.tag == EXTENDED_OFFSET_TABLE:
        level.extended_offset_table = (source.position, token.length)
    elif token.kind is TokenKind.ELEMENT and token.length <= _LONGEST and _is_needed(token.tag):
        level.values.setdefault(token.tag, Value(token.vr, source.read(token.length), token.encoding.little))


def _is_needed(tag: int) -> bool:
    group = tag >> 16
    is_overlay = 0x6000 <= group <= 0x60FF and tag & 0xFFFF < 0x1000
    return group == 0x0028 or is_overlay or tag in (MAC_ID, DATA_ELEMENTS_SIGNED)


def _add_fragment(level: Level, source: Source, token: Token) -> None:
    if token.tag == PIXEL_DATA and (fragments := level.pixels[-1].fragments) is not None:
        fragments.append(source.position, token.length)
