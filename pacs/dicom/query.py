"""What a C-FIND (or QIDO) asks, free of any protocol: a `Query` of `Key`s, each with one kind of matching.

`pacs.dicom.identifier` makes a `Query` from an Identifier; `pacs.index.search` makes SQL from it;
`pacs.dicom.matching` applies to single rows what SQL could not decide. Both read these classes and nothing else, so
they agree on what a key means.

Values inside a matching are *comparable* (`pacs.dicom.values.comparable`): padding gone, names folded, dates, times
and numbers in their normal form.
"""

from dataclasses import dataclass, field

from pacs.dicom.attributes import Attribute
from pacs.dicom.levels import QueryLevel, Root

Comparable = str | int | float
"""A value in the form in which it is compared: text for everything but IS, DS and binary numbers."""


@dataclass(frozen=True, slots=True)
class Single:
    """Single value, list of UID, or multiple value matching (C.2.2.2.1, .2, .8): any of `values` matches."""

    values: tuple[Comparable, ...]


@dataclass(frozen=True, slots=True)
class Wildcard:
    """Wild card matching (C.2.2.2.4): `*` is any run of characters, `?` exactly one; any of `patterns` matches."""

    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """Range matching (C.2.2.2.5) of DA, TM and DT, inclusive at both ends; None is an open end."""

    low: str | None
    high: str | None


@dataclass(frozen=True, slots=True)
class Names:
    """A person's name (C.2.2.2.1.1, M15): a pattern per component group, folded, wild cards allowed.

    With `groups` of length one the pattern may match any of the three stored groups; longer, each non-empty pattern
    must match the stored group at its place. Any of `alternatives` matches.
    """

    alternatives: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class SoundsLike:
    """Fuzzy semantic matching of a name (C.2.2.2.1.1, negotiated): every phonetic key must occur in the stored name."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Empty:
    """Empty value matching (C.2.2.2.7, negotiated): the stored value is zero length or absent."""


@dataclass(frozen=True, slots=True)
class SequenceKeys:
    """Sequence matching (C.2.2.2.6): one and the same stored item satisfies every key."""

    keys: tuple["Key", ...]


Matching = Single | Wildcard | Range | Names | SoundsLike | Empty | SequenceKeys


@dataclass(frozen=True, slots=True)
class Key:
    """An attribute that must match. Universal matching (C.2.2.2.3) leaves no key behind."""

    attribute: Attribute
    matching: Matching


@dataclass(frozen=True, slots=True)
class DateTimeRange:
    """A date and a time range combined into one (M7, C.2.2.2.5.4): two concatenated bounds, compared as one text."""

    date: Attribute
    time: Attribute
    low: str | None
    high: str | None


@dataclass(frozen=True, slots=True)
class ReturnKey:
    """An attribute to be returned; of a sequence only `items`, or the whole of it where `items` is empty (M8)."""

    attribute: Attribute
    items: tuple["ReturnKey", ...] = ()


@dataclass(frozen=True, slots=True)
class Query:
    """One question to the index.

    `keys` are joined by AND. `requested` is what the answers carry besides the unique keys of the levels above and the
    elements every answer has. `ignored` lists the tags asked for that are not supported or not at this level: with any
    of them the Pending status is FF01 (F8). `nothing_matches` says that the request is valid and matches nothing (F3,
    a reversed range). `unknown_matches` is the manner's switch (K2). `character_set` is the requester's (0008,0005).
    """

    root: Root
    level: QueryLevel
    keys: tuple[Key, ...] = ()
    combined: tuple[DateTimeRange, ...] = ()
    requested: tuple[ReturnKey, ...] = ()
    ignored: tuple[int, ...] = ()
    nothing_matches: bool = False
    unknown_matches: bool = False
    character_set: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    """One answer: an entity at the level of its query.

    `kept` holds the kept elements (`pacs.dicom.row_elements`) of its own level and those above, by level. `computed`
    holds the computed attributes that were asked for, by keyword: an int, or a tuple of texts. `file_key` names the
    stored file at IMAGE level, None above.
    """

    level: QueryLevel
    kept: dict[QueryLevel, bytes] = field(repr=False)
    computed: dict[str, int | tuple[str, ...]]
    file_key: str | None = None
