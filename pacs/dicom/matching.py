"""Matching row by row (PS3.4 C.2.2.2): what a `Key` means for the kept elements of one entity, or for any data set.

`pacs.index.search` says the same in SQL. A value is unknown when its attribute is absent, zero length or padding only;
it matches a key only where `unknown_matches` says so (K2). Of several values any one may match (M4b); one that breaks
the rules of its VR is known and matches nothing but itself being asked for as text.
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
    """Whether an entity matches a key, given the kept elements of its level and those above, and computed values."""
    if key.attribute.kept is not Kept.COMPUTED:
        return matches_dataset(key, kept[key.attribute.level], unknown_matches)
    found = computed.get(key.attribute.keyword, ())
    texts = (str(found),) if isinstance(found, int) else found
    return _decided(key.matching, tuple(comparable(key.attribute.vr, text) for text in texts), unknown_matches)


def matches_dataset(key: Key, dataset: Dataset, unknown_matches: bool) -> bool:
    """Whether one data set matches a key, whatever level the attribute has."""
    return _matches_view(key, View.of(dataset), unknown_matches)


def matches_combined(combined: DateTimeRange, kept: Mapping[QueryLevel, Dataset], unknown_matches: bool) -> bool:
    """Whether a date and a time, put together, lie within a combined range (M7); unknown when either is."""
    dates, times = (_values_of(attribute, kept) for attribute in (combined.date, combined.time))
    moments = [f"{date}{time}" if date and time else None for date in dates for time in times]
    return _decided(Range(combined.low, combined.high), moments, unknown_matches)


def matching_items(key: Key | None, attribute: Attribute, view: View, unknown_matches: bool) -> tuple[View, ...]:
    """The items of a sequence that satisfy its key, all of them where there is none (M8)."""
    found = view.items(attribute)
    if key is None or not isinstance(key.matching, SequenceKeys):
        return found
    return tuple(item for item in found if _satisfies(key.matching, item, unknown_matches))


def matches_pattern(pattern: str, text: str) -> bool:
    """Wild card matching: `*` is any run of characters, also none, `?` exactly one (C.2.2.2.4).

    The stretches between asterisks are looked for one after the other, each at the first place where it fits, so that
    no pattern takes more than length of text times length of pattern.
    """
    first, *middle = _stretches(pattern)
    if not middle:
        return first.shape.fullmatch(text) is not None
    *middle, last = middle
    begin, end = first.length, len(text) - last.length
    if begin > end or not first.shape.match(text) or not last.shape.fullmatch(text, end):
        return False
    for stretch in middle:
        found = stretch.shape.search(text, begin, end)
        if found is None:
            return False
        begin = found.end()
    return True


@dataclass(frozen=True, slots=True)
class _Stretch:
    """What stands between two asterisks."""

    shape: re.Pattern[str]
    length: int


@lru_cache(maxsize=256)
def _stretches(pattern: str) -> tuple[_Stretch, ...]:
    parts = re.sub(r"\*+", "*", pattern).split("*")
    return tuple(_Stretch(re.compile(re.escape(part).replace(r"\?", "."), re.DOTALL), len(part)) for part in parts)


# --- keys --------------------------------------------------------------------------------------------------------


def _values_of(attribute: Attribute, kept: Mapping[QueryLevel, Dataset]) -> Values:
    return View.of(kept[attribute.level]).values(attribute)


def _matches_view(key: Key, view: View, unknown_matches: bool) -> bool:
    attribute, matching = key.attribute, key.matching
    if isinstance(matching, SequenceKeys):
        found = view.items(attribute)
        return any(_satisfies(matching, item, unknown_matches) for item in found) if found else unknown_matches
    if attribute.vr == "PN":
        return _name_decided(matching, view.names(attribute), unknown_matches)
    return _decided(matching, view.values(attribute), unknown_matches)


def _satisfies(item: SequenceKeys, view: View, unknown_matches: bool) -> bool:
    return all(_matches_view(key, view, unknown_matches) for key in item.keys)


def _decided(matching: Matching, values: Values, unknown_matches: bool) -> bool:
    if isinstance(matching, Empty):
        return not values
    return _any_matches(matching, values) if values else unknown_matches


def _any_matches(matching: Matching, values: Values) -> bool:
    test = _test(matching)
    return any(value is not None and test(value) for value in values)


def _test(matching: Matching) -> Callable[[Comparable], bool]:
    match matching:
        case Single(values):
            return lambda value: value in values
        case Wildcard(patterns):
            return lambda value: any(matches_pattern(pattern, str(value)) for pattern in patterns)
        case Range(low, high):
            return lambda value: (low is None or low <= str(value)) and (high is None or str(value) <= high)
        case _:
            raise TypeError(f"{type(matching).__name__} is no matching of plain values")


# --- names -------------------------------------------------------------------------------------------------------


def _name_decided(matching: Matching, names: Sequence[tuple[str, ...]], unknown_matches: bool) -> bool:
    if isinstance(matching, Empty):
        return not names
    if not names:
        return unknown_matches
    if isinstance(matching, SoundsLike):
        return any(set(matching.keys) <= set(sounds(groups)) for groups in names)
    if isinstance(matching, Names):
        return any(_matches_name(patterns, groups) for patterns in matching.alternatives for groups in names)
    raise TypeError(f"{type(matching).__name__} is no matching of names")


def _matches_name(patterns: tuple[str, ...], groups: tuple[str, ...]) -> bool:
    """One pattern may match any group; several match the groups at their places (M15)."""
    if len(patterns) == 1:
        return any(group and matches_pattern(patterns[0], group) for group in groups)
    filled = (*groups, "", "", "")
    return all(
        not pattern or (group and matches_pattern(pattern, group))
        for pattern, group in zip(patterns, filled, strict=False)
    )
