"""Matching row by row (PS3.4 C.2.2.2): applies a `Key` to the row elements of one entity, or to any data set.

`pacs.index.search` does the same in SQL. A value is unknown when its attribute is absent, of zero length or padding
only; it matches a key only with `unknown_matches` (K2). Of several values any one may match (M4b). A value that breaks
the rules of its VR is known, and matches nothing.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pydicom import Dataset

from pacs.dicom.attributes import Attribute, Kept
from pacs.dicom.dataset import View
from pacs.dicom.levels import QueryLevel
from pacs.dicom.query import (
    Comparable,
    DateTimeRange,
    Empty,
    Key,
    Matching,
    Names,
    Range,
    SequenceKeys,
    Single,
    SoundsLike,
    Wildcard,
)
from pacs.dicom.values import comparable, sounds

Values = Sequence[Comparable | None]
Computed = Mapping[str, int | tuple[str, ...]]


def matches(key: Key, kept: Mapping[QueryLevel, Dataset], computed: Computed, unknown_matches: bool) -> bool:
    """Whether an entity matches a key, by the row elements of its level and those above and its computed values."""
    if key.attribute.kept is not Kept.COMPUTED:
        return matches_dataset(key, kept[key.attribute.level], unknown_matches)
    found = computed.get(key.attribute.keyword, ())
    texts = (str(found),) if isinstance(found, int) else found
    return _values_match(key.matching, tuple(comparable(key.attribute.vr, text) for text in texts), unknown_matches)


def matches_dataset(key: Key, dataset: Dataset, unknown_matches: bool) -> bool:
    """Whether a data set matches a key, regardless of the level of the attribute."""
    return _matches_view(key, View.of(dataset), unknown_matches)


def matches_combined(combined: DateTimeRange, kept: Mapping[QueryLevel, Dataset], unknown_matches: bool) -> bool:
    """Whether date and time are within a combined range (M7); unknown when either is unknown."""
    dates, times = (_values_of(attribute, kept) for attribute in (combined.date, combined.time))
    moments = [f"{date}{time}" if date and time else None for date in dates for time in times]
    return _values_match(Range(combined.low, combined.high), moments, unknown_matches)


def matching_items(key: Key | None, attribute: Attribute, view: View, unknown_matches: bool) -> tuple[View, ...]:
    """Return the items of a sequence that match its key; all of them without a key (M8)."""
    found = view.items(attribute)
    if key is None or not isinstance(key.matching, SequenceKeys):
        return found
    return tuple(item for item in found if _item_matches(key.matching, item, unknown_matches))


def matches_pattern(pattern: str, text: str) -> bool:
    """Whether a text matches a wild card pattern: `*` is any number of characters, `?` exactly one (C.2.2.2.4).

    The segments between asterisks are searched one after the other, each at its first occurrence, so that the time is
    bounded by the length of the text times that of the pattern.
    """
    first, *middle = _segments(pattern)
    if not middle:
        return first.regex.fullmatch(text) is not None
    *middle, last = middle
    begin, end = first.length, len(text) - last.length
    if begin > end or not first.regex.match(text) or not last.regex.fullmatch(text, end):
        return False
    for segment in middle:
        found = segment.regex.search(text, begin, end)
        if found is None:
            return False
        begin = found.end()
    return True


@dataclass(frozen=True, slots=True)
class _PatternPart:
    """The part of a pattern between two asterisks."""

    regex: re.Pattern[str]
    length: int


@lru_cache(maxsize=256)
def _segments(pattern: str) -> tuple[_PatternPart, ...]:
    parts = re.sub(r"\*+", "*", pattern).split("*")
    return tuple(_PatternPart(re.compile(re.escape(part).replace(r"\?", "."), re.DOTALL), len(part)) for part in parts)


# --- keys --------------------------------------------------------------------------------------------------------


def _values_of(attribute: Attribute, kept: Mapping[QueryLevel, Dataset]) -> Values:
    return View.of(kept[attribute.level]).values(attribute)


def _matches_view(key: Key, view: View, unknown_matches: bool) -> bool:
    attribute, matching = key.attribute, key.matching
    if isinstance(matching, SequenceKeys):
        found = view.items(attribute)
        return any(_item_matches(matching, item, unknown_matches) for item in found) if found else unknown_matches
    if attribute.vr == "PN":
        return _name_matches(matching, view.names(attribute), unknown_matches)
    return _values_match(matching, view.values(attribute), unknown_matches)


def _item_matches(item: SequenceKeys, view: View, unknown_matches: bool) -> bool:
    return all(_matches_view(key, view, unknown_matches) for key in item.keys)


def _values_match(matching: Matching, values: Values, unknown_matches: bool) -> bool:
    if isinstance(matching, Empty):
        return not values
    return _any_matches(matching, values) if values else unknown_matches


def _any_matches(matching: Matching, values: Values) -> bool:
    test = _test(matching)
    return any(value is not None and test(value) for value in values)


def _test(matching: Matching) -> Callable[[Comparable], bool]:
    match matching:
        case Single():
            return matching.accepted.__contains__
        case Wildcard():
            return lambda value: any(matches_pattern(pattern, str(value)) for pattern in matching.accepted)
        case Range(low, high):
            return lambda value: (low is None or low <= str(value)) and (high is None or str(value) <= high)
        case _:
            raise TypeError(f"{type(matching).__name__} is no matching of plain values")


# --- names -------------------------------------------------------------------------------------------------------


def _name_matches(matching: Matching, names: Sequence[tuple[str, ...]], unknown_matches: bool) -> bool:
    if isinstance(matching, Empty):
        return not names
    if not names:
        return unknown_matches
    if isinstance(matching, SoundsLike):
        return any(set(matching.keys) <= set(sounds(groups)) for groups in names)
    if isinstance(matching, Names):
        return any(_groups_match(patterns, groups) for patterns in matching.alternatives for groups in names)
    raise TypeError(f"{type(matching).__name__} is no matching of names")


def _groups_match(patterns: tuple[str, ...], groups: tuple[str, ...]) -> bool:
    """Whether a name matches: one pattern any of its groups, several patterns the groups at their positions (M15)."""
    if len(patterns) == 1:
        return any(group and matches_pattern(patterns[0], group) for group in groups)
    filled = (*groups, "", "", "")
    return all(
        not pattern or (group and matches_pattern(pattern, group))
        for pattern, group in zip(patterns, filled, strict=False)
    )
