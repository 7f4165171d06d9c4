"""Reads the elements of an Identifier as keys: the attribute, and the kind of matching of its value (PS3.4 C.2.2.2).

A key whose value is not valid for its VR is refused with `IdentifierError`, never ignored: an invalid date or number, a
wild card in a UID, several values without negotiation. The error comment names the attribute and never its value.
"""

import re
from dataclasses import dataclass
from itertools import product

from pydicom.datadict import private_dictionary_VR
from pydicom.tag import BaseTag

from pacs.dicom.attributes import IMAGE, NOT_KEYS, Attribute, Kept, KeyType, attribute
from pacs.dicom.charset import CUSTOMIZABLE
from pacs.dicom.dataset import View, vr
from pacs.dicom.matching_mode import MatchingMode, Negotiated
from pacs.dicom.query import (
    Comparable,
    Empty,
    Key,
    Matching,
    Names,
    Range,
    ReturnKey,
    SequenceKeys,
    Single,
    SoundsLike,
    Wildcard,
)
from pacs.dicom.typed_ranges import parse_typed_range
from pacs.dicom.values import (
    BINARY_FLOATS,
    BINARY_INTEGERS,
    RANGES_ALLOWED,
    WILDCARDS_ALLOWED,
    comparable,
    fold,
    name_groups,
    other_normal_forms,
    parse_range,
    sounds,
    stripped,
)
from pacs.errors import IdentifierError

LONGEST_PATTERN = 1024
"""The longest wild card pattern or name, in characters; longer ones take too long to match."""

LONGEST_COMMENT = 64
"""The longest Error Comment (0000,0902), in characters."""

_BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN", "OB or OW", "US or OW", "US or SS or OW"})
_LENGTH_TO_END = 0x00080001
_ASTERISKS = re.compile(r"\*+")
_ANY_LAST_COMPONENTS = re.compile(r"(.+?)\^[\^*]*\*[\^*]*")


def attribute_of(tag: int, view: View) -> Attribute | None:
    """Return the attribute of an element of an Identifier; None for one that is not supported (K3, M17).

    A private attribute is supported when the Identifier has its creator and its VR is known, from the element or from
    pydicom's dictionary. Its values are in the stored files only.
    """
    if tag >> 16 & 1:
        return _private(tag, view)
    found = attribute(tag)
    return found if found is not None and found.vr not in _BULK else None


def _private(tag: int, view: View) -> Attribute | None:
    creator_tag = tag & 0xFFFF0000 | tag >> 8 & 0xFF
    if not 0x1000 <= tag & 0xFFFF <= 0xFFFF or creator_tag not in view.dataset:
        return None
    creator = view.text(view.dataset.get_item(creator_tag)).strip(" \0")
    declared = vr(view.dataset.get_item(tag))
    known = _private_vr(tag, creator) if declared == "UN" else declared
    if not creator or known in _BULK:
        return None
    return Attribute("", tag, known, IMAGE, KeyType.OPTIONAL, Kept.FILE, creator)


def _private_vr(tag: int, creator: str) -> str:
    try:
        return str(private_dictionary_VR(tag, creator))
    except KeyError:
        return "UN"


def identifier_error(meaning: str, *attributes: Attribute) -> IdentifierError:
    """Return an error about attributes of the Identifier: its comment names the first, its tags are those of all."""
    first = attributes[0]
    name = first.keyword or f"({first.tag >> 16:04X},{first.tag & 0xFFFF:04X})"
    return IdentifierError(f"{meaning}: {name}"[:LONGEST_COMMENT], [each.tag for each in attributes])


@dataclass(frozen=True, slots=True)
class KeyReader:
    """Reads keys according to a matching mode and the negotiated options."""

    mode: MatchingMode
    negotiated: Negotiated

    def sequence(self, sequence: Attribute, view: View, ignored: list[int]) -> tuple[Key | None, ReturnKey]:
        """Return the key and the return key of a sequence (M8); adds tags that are not supported to `ignored`."""
        self._check_shape(sequence, view)
        items = view.items(sequence)
        if len(items) > 1:
            raise identifier_error("More than one item", sequence)
        keys: list[Key] = []
        return_keys: list[ReturnKey] = []
        for item in items:
            for each in nested_attributes(item, ignored):
                key, return_key = self.key(each, item, ignored)
                keys += [key] if key else []
                return_keys.append(return_key)
        return Key(sequence, SequenceKeys(tuple(keys))) if keys else None, ReturnKey(sequence, tuple(return_keys))

    def key(self, requested: Attribute, view: View, ignored: list[int]) -> tuple[Key | None, ReturnKey]:
        """Return the key (None for universal matching) and the return key of an element. Raises IdentifierError."""
        if requested.vr == "SQ":
            return self.sequence(requested, view, ignored)
        self._check_shape(requested, view)
        matching = self._matching(requested, view)
        return Key(requested, matching) if matching else None, ReturnKey(requested)

    def _check_shape(self, requested: Attribute, view: View) -> None:
        element = view.element(requested)
        if element is not None and element.value and (vr(element) == "SQ") != (requested.vr == "SQ"):
            raise identifier_error("Not a sequence" if requested.vr == "SQ" else "Must not be a sequence", requested)

    def _matching(self, requested: Attribute, view: View) -> Matching | None:
        texts = tuple(stripped(requested.vr, text) for text in view.texts(requested))
        if texts == ('""',) and self.negotiated.empty_values:
            return Empty()
        if requested.vr in BINARY_INTEGERS or requested.vr in BINARY_FLOATS:
            return self._binary(requested, view, texts)
        if not texts or (self.mode.asterisk_matches_all and _is_asterisk_without_wild_cards(requested, texts)):
            return None
        if requested.vr == "UI":
            return _uids(requested, texts)
        if len(texts) > 1 and not (self.mode.multiple_values or self.negotiated.multiple_values):
            raise identifier_error("Several values not negotiated", requested)
        if requested.vr == "PN":
            return self._names(requested, texts)
        if requested.vr in RANGES_ALLOWED:
            return _moments(requested, [self._moment(requested, text) for text in texts])
        equivalent = self._equivalent(requested, texts)
        if requested.vr in WILDCARDS_ALLOWED and any(_is_wild(text) for text in texts):
            return _wildcard(requested, texts, equivalent)
        return _single(requested, texts, equivalent)

    def _equivalent(self, requested: Attribute, texts: tuple[str, ...]) -> tuple[str, ...]:
        is_text = requested.vr in CUSTOMIZABLE
        return other_normal_forms(texts) if is_text and self.mode.equivalent_accents else ()

    def _moment(self, requested: Attribute, text: str) -> str | Range:
        """Return a single date or time, or a range of them."""
        try:
            low, high = parse_range(requested.vr, text)
            is_single = comparable(requested.vr, text) == low
        except ValueError:
            low, high = self._typed(requested, text)
            is_single = low == high
        return low if low is not None and is_single else Range(low, high)

    def _typed(self, requested: Attribute, text: str) -> tuple[str | None, str | None]:
        try:
            if self.mode.typed_dates:
                return parse_typed_range(requested.vr, text)
        except ValueError:
            pass
        raise identifier_error(_MOMENTS[requested.vr], requested)

    def _binary(self, requested: Attribute, view: View, texts: tuple[str, ...]) -> Matching | None:
        element = view.element(requested)
        if element is not None and element.value and not texts:
            raise identifier_error("Damaged value", requested)
        return _single(requested, texts) if texts else None

    def _names(self, requested: Attribute, texts: tuple[str, ...]) -> Matching | None:
        if self.negotiated.fuzzy_names and len(texts) == 1 and not _is_wild(texts[0]):
            keys = sounds(name_groups(texts[0]))
            return SoundsLike(keys) if keys else None
        alternatives = [each for text in texts for each in _name_patterns(requested, text)]
        return Names(tuple(dict.fromkeys(alternatives))) if all(alternatives) else None


def nested_attributes(item: View, ignored: list[int]) -> list[Attribute]:
    """Return the attributes of an item of a sequence; adds tags that are not supported to `ignored`."""
    found = []
    for tag in key_tags(item):
        requested = attribute_of(tag, item)
        if requested is not None:
            found.append(requested)
        else:
            ignored.append(int(tag))
    return found


def key_tags(view: View) -> list[BaseTag]:
    """Return the tags of keys in a data set: no group lengths, no groups below 0008, none of NOT_KEYS (M18, F6)."""
    return [tag for tag in sorted(view.dataset.keys()) if tag.group >= 0x0008 and tag.element and not _is_no_key(tag)]


def _is_no_key(tag: int) -> bool:
    return tag in NOT_KEYS or tag == _LENGTH_TO_END or (bool(tag >> 16 & 1) and 0x10 <= tag & 0xFFFF <= 0xFF)


def _is_wild(text: str) -> bool:
    return "*" in text or "?" in text


def _is_asterisk_without_wild_cards(requested: Attribute, texts: tuple[str, ...]) -> bool:
    return requested.vr not in WILDCARDS_ALLOWED and any(not text.strip("*") for text in texts)


def _uids(requested: Attribute, texts: tuple[str, ...]) -> Matching:
    if any(_is_wild(text) for text in texts):
        raise identifier_error("Wild card in a UID", requested)
    return Single(tuple(dict.fromkeys(texts)))


def _single(requested: Attribute, texts: tuple[str, ...], equivalent: tuple[str, ...] = ()) -> Matching:
    values: list[Comparable] = []
    for text in texts:
        value = comparable(requested.vr, text)
        if value is None:
            raise identifier_error("Not a number" if requested.vr != "DT" else "Not a date and time", requested)
        values.append(value)
    return Single(tuple(dict.fromkeys(values)), equivalent)


_MOMENTS = {
    "DA": "Not a date or range of dates",
    "TM": "Not a time or range of times",
    "DT": "Not a date and time or range",
}


def _moments(requested: Attribute, found: list[str | Range]) -> Matching | None:
    single = [each for each in found if isinstance(each, str)]
    if len(single) == len(found):
        return Single(tuple(dict.fromkeys(single)))
    if len(found) > 1:
        raise identifier_error("A range among several values", requested)
    (only,) = found
    return only if isinstance(only, Range) and (only.low or only.high) else None


def _wildcard(requested: Attribute, texts: tuple[str, ...], equivalent: tuple[str, ...]) -> Matching | None:
    patterns = tuple(dict.fromkeys(_pattern(requested, text) for text in texts))
    others = tuple(dict.fromkeys(_ASTERISKS.sub("*", text) for text in equivalent))
    return None if "*" in patterns else Wildcard(patterns, others)


def _pattern(requested: Attribute, text: str) -> str:
    pattern = _ASTERISKS.sub("*", text)
    if len(pattern) > LONGEST_PATTERN:
        raise identifier_error("Too long", requested)
    return pattern


def _name_patterns(requested: Attribute, text: str) -> list[tuple[str, ...]]:
    """Return the alternatives of one name: a pattern for each group, '' where any group matches; () for any name."""
    groups = [_group_patterns(_pattern(requested, fold(group))) for group in text.split("=")[:3]]
    return [_without_empty_end(patterns) for patterns in product(*groups)]


def _group_patterns(pattern: str) -> list[str]:
    """Return a pattern, and that for names without its last components: `DOE^*` also matches `DOE` (M15)."""
    found = _ANY_LAST_COMPONENTS.fullmatch(pattern)
    variants = [found[1] + "^*", found[1]] if found else [pattern]
    return [""] if "*" in variants else variants


def _without_empty_end(patterns: tuple[str, ...]) -> tuple[str, ...]:
    while patterns and not patterns[-1]:
        patterns = patterns[:-1]
    return patterns
