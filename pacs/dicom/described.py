"""Walks through a data set and describes each element to a reader: its VR, name, character set and first bytes.

Memory is constant, whatever the data set contains.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from struct import pack
from typing import NamedTuple

from pydicom.datadict import (
    dictionary_description,
    keyword_for_tag,
    private_dictionary_description,
    private_dictionary_VR,
)
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from pacs.dicom import charset, dataset
from pacs.dicom.bounds import DataSetBounds
from pacs.dicom.charset import Terms
from pacs.dicom.dataset import CHARACTER_SET, IMPLICIT_LITTLE, View
from pacs.dicom.elements import Encoding, Source, Token, TokenKind, walk
from pacs.dicom.values import BINARY_FLOATS, BINARY_INTEGERS, ONE_VALUE
from pacs.errors import UndecodableDataSet

LONGEST = 1 << 16
"""Bytes of a value that are read."""

BOUNDS = DataSetBounds(elements=1_000_000)
"""The most elements, items and delimiters that are described, so that this takes a bounded time."""

BINARY = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
"""The VRs whose values are bytes."""

_PIXEL_REPRESENTATION = 0x00280103


class Described(NamedTuple):
    """A token of a walk with what a reader needs to understand it."""

    token: Token
    vr: str
    """Never ambiguous; that of PS3.6 or of the private creator where the data set says none or UN."""
    creator: str
    """The creator of a private element, '' if it has none."""
    terms: Terms
    """The character set of its text."""
    path: tuple[int, ...]
    """The tags of the sequences around it, and its own."""
    data: bytes
    """The first bytes of the value of an element, at most `LONGEST`."""
    offset: int
    """The offset of the value in the data set; for the end of fragments that of their delimiter."""

    @property
    def name(self) -> str:
        """The keyword of PS3.6; of a private element the name in pydicom's dictionary or '', and its creator."""
        return _name(self.token.tag, self.creator)

    @property
    def is_whole(self) -> bool:
        """Whether `data` is the whole value."""
        return len(self.data) == self.token.length

    def values(self) -> list[str] | list[int | float]:
        """Return the values in `data`: texts, or numbers of a binary VR; none for `BINARY`."""
        if not self.data or self.vr in BINARY:
            return []
        element = dataset.raw(self.token.tag, self.vr, self.data, self.token.encoding)
        if self.vr in BINARY_INTEGERS or self.vr in BINARY_FLOATS:
            return list(dataset.numbers(element))
        text = View(Dataset(), self.terms).text(element)
        return [text.rstrip(" \0")] if self.vr in ONE_VALUE else [each.strip(" \0") for each in text.split("\\")]


@lru_cache(maxsize=8192)
def _name(tag: int, creator: str) -> str:
    if not tag >> 16 & 1:
        return keyword_for_tag(tag) or _description(tag)
    if is_creator(tag):
        return "PrivateCreator"
    return f"{_private(private_dictionary_description, tag, creator)} [{creator or '?'}]".strip()


def is_creator(tag: int) -> bool:
    """Return whether an element names the creator of a private block (PS3.5 7.8.1)."""
    return bool(tag >> 16 & 1) and 0x10 <= tag & 0xFFFF <= 0xFF


def _description(tag: int) -> str:
    try:
        return str(dictionary_description(tag))  # of a repeating group, such as overlays
    except KeyError:
        return "GroupLength" if not tag & 0xFFFF else ""


def _private(lookup: Callable[[BaseTag, str], str], tag: int, creator: str) -> str:
    try:
        return str(lookup(BaseTag(tag), creator)) if creator else ""
    except KeyError:
        return ""


@dataclass(slots=True)
class _Level:
    """What the elements so far say about the rest of a data set or an item."""

    tag: int
    terms: Terms
    is_signed: bool
    creators: dict[int, str] = field(default_factory=dict)
    """By group and block."""


def described(source: Source, encoding: Encoding, bounds: DataSetBounds = BOUNDS) -> Iterator[Described]:
    """Yield every token of a data set, described, and those of a sequence that is encoded as UN (PS3.5 6.2.2).

    Raises UndecodableDataSet, also for more elements than `bounds`.
    """
    for count, element in enumerate(_described(source, encoding, bounds.depth, _Level(0, (), False)), start=1):
        if bounds.elements is not None and count > bounds.elements:
            comment = f"The data set has more than {bounds.elements} elements"
            raise UndecodableDataSet(comment, [element.token.tag])
        yield element


def _described(source: Source, encoding: Encoding, depth: int, whole: _Level) -> Iterator[Described]:
    levels = [whole]
    for token in walk(source, encoding, depth):
        path = (*(each.tag for each in levels[1:]), token.tag)
        if token.kind is TokenKind.ITEM:
            levels.append(_Level(token.tag, levels[-1].terms, levels[-1].is_signed))
        elif token.kind is TokenKind.ITEM_END:
            levels.pop()
        elif token.kind is TokenKind.ELEMENT:
            element = _element(source, token, levels[-1], path)
            yield from _sequence_in(element, depth, levels[-1]) or [element]
            continue
        offset = token.start if token.kind is TokenKind.ENCAPSULATED_END else source.position
        yield Described(token, token.vr, _creator(token.tag, levels[-1]), levels[-1].terms, path, b"", offset)


def _sequence_in(element: Described, depth: int, level: _Level) -> list[Described]:
    """Return the tokens of a sequence that is encoded as UN, in Implicit VR Little Endian; none if it is not one."""
    token, tag = element.token, element.token.tag
    is_un = token.vr == "UN" and not token.encoding.implicit  # with implicit VRs the walk has looked for items
    if not (is_un and element.data and element.is_whole and dataset.dictionary_vr(tag) == "SQ"):
        return []
    head = pack("<HHL", tag >> 16, tag & 0xFFFF, len(element.data))
    source = Source(io.BytesIO(head + element.data), IMPLICIT_LITTLE)
    try:
        found = list(_described(source, IMPLICIT_LITTLE, depth, _Level(0, level.terms, level.is_signed)))
    except UndecodableDataSet:
        return []
    if found[0].token.kind is not TokenKind.SEQUENCE:
        return []
    start = element.offset - len(head)
    return [each._replace(path=element.path[:-1] + each.path, offset=each.offset + start) for each in found]


def _element(source: Source, token: Token, level: _Level, path: tuple[int, ...]) -> Described:
    offset, data = source.position, source.read(min(token.length, LONGEST))
    creator = _creator(token.tag, level)
    element = Described(token, _vr(token, creator, level), creator, level.terms, path, data, offset)
    if token.tag == CHARACTER_SET:
        level.terms = charset.parse(data.decode("latin_1"))
    elif token.tag == _PIXEL_REPRESENTATION:
        level.is_signed = any(data)
    elif is_creator(token.tag):
        level.creators[token.tag] = "\\".join(map(str, element.values()))
    return element


def _creator(tag: int, level: _Level) -> str:
    is_private = tag >> 16 & 1 and tag & 0xFFFF > 0xFF
    return level.creators.get(tag & 0xFFFF0000 | (tag >> 8 & 0xFF), "") if is_private else ""


def _vr(token: Token, creator: str, level: _Level) -> str:
    known = token.vr
    if known == "UN":
        known = _private(private_dictionary_VR, token.tag, creator) if creator else dataset.dictionary_vr(token.tag)
    if " or " in known:
        known = "OW" if "OW" in known else "SS" if level.is_signed else "US"
    return known if known and known != "SQ" else "UN"
