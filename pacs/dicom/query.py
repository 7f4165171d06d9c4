"""A query, independent of the protocol (C-FIND or QIDO): a `Query` has `Key`s, each with one kind of matching.

`pacs.dicom.identifier` makes a `Query` from an Identifier; `pacs.index.search` makes SQL from it;
`pacs.dicom.matching` matches the rows that SQL cannot decide about. Both use only these classes, so a key means the
same in both.

The values of a matching are *comparable* (`pacs.dicom.values.comparable`): without padding, names folded, dates, times
and numbers in a normal form.
"""

from dataclasses import dataclass, field, replace

from pacs.dicom.attributes import Attribute, by_keyword
from pacs.dicom.levels import QueryLevel, Root

Comparable = str | int | float
"""A value in its comparable form: text for everything but IS, DS and binary numbers."""


@dataclass(frozen=True, slots=True)
class Single:
    """Single value, list of UID, or multiple value matching (C.2.2.2.1, .2, .8): any of `values` matches.

    `equivalent` has their texts in other Unicode normal forms, which match too.
    """

    values: tuple[Comparable, ...]
    equivalent: tuple[str, ...] = ()

    @property
    def accepted(self) -> tuple[Comparable, ...]:
        """The stored values that match."""
        return self.values + self.equivalent


@dataclass(frozen=True, slots=True)
class Wildcard:
    """Wild card matching (C.2.2.2.4): `*` is any run of characters, `?` exactly one; any of `patterns` matches.

    `equivalent` has the patterns in other Unicode normal forms, which match too.
    """

    patterns: tuple[str, ...]
    equivalent: tuple[str, ...] = ()

    @property
    def accepted(self) -> tuple[str, ...]:
        """The patterns that a stored value may match."""
        return self.patterns + self.equivalent


@dataclass(frozen=True, slots=True)
class Range:
    """Range matching (C.2.2.2.5) of DA, TM and DT, inclusive at both ends; None is an open end."""

    low: str | None
    high: str | None


@dataclass(frozen=True, slots=True)
class Names:
    """Matching of a person's name (C.2.2.2.1.1, M15): folded patterns, one for each component group, with wild cards.

    A single pattern may match any of the three stored groups; of several, each non-empty pattern must match the stored
    group at its position. Any of `alternatives` matches.
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
    """Sequence matching (C.2.2.2.6): one stored item matches every key."""

    keys: tuple["Key", ...]


Matching = Single | Wildcard | Range | Names | SoundsLike | Empty | SequenceKeys


@dataclass(frozen=True, slots=True)
class Key:
    """An attribute that must match. Universal matching (C.2.2.2.3) gives no key."""

    attribute: Attribute
    matching: Matching


@dataclass(frozen=True, slots=True)
class DateTimeRange:
    """A combined date and time range (M7, C.2.2.2.5.4): date and time are concatenated and compared as one text."""

    date: Attribute
    time: Attribute
    low: str | None
    high: str | None


@dataclass(frozen=True, slots=True)
class ReturnKey:
    """An attribute to return; of a sequence only `items`, or all of it where `items` is empty (M8)."""

    attribute: Attribute
    items: tuple["ReturnKey", ...] = ()


@dataclass(frozen=True, slots=True)
class Query:
    """A query to the index.

    `keys` are joined by AND. `return_keys` are the attributes of a response, besides the unique keys of the levels
    above and the elements of every response. `ignored` lists the tags of keys that are not supported or not at this
    level; with any of them the Pending status is FF01 (F8). `nothing_matches` marks a valid query that cannot match
    (F3, a reversed range). `unknown_matches` is the switch of the matching mode (K2). `character_set` is the
    (0008,0005) of the requestor.
    """

    root: Root
    level: QueryLevel
    keys: tuple[Key, ...] = ()
    combined: tuple[DateTimeRange, ...] = ()
    return_keys: tuple[ReturnKey, ...] = ()
    ignored: tuple[int, ...] = ()
    nothing_matches: bool = False
    unknown_matches: bool = False
    character_set: tuple[str, ...] = ()


@dataclass(slots=True)  # not frozen, which would take three times as long to make; there may be millions
class Match:
    """A match: an entity at the level of the query, not changed once it is made.

    `kept` has the encoded row elements (`pacs.dicom.row_elements`) of its level and those above, by level. `computed`
    has the requested computed attributes, by keyword: an int, or a tuple of texts. `file_key` is the stored file at
    IMAGE level, None above.
    """

    level: QueryLevel
    kept: dict[QueryLevel, bytes] = field(repr=False)
    computed: dict[str, int | tuple[str, ...]]
    file_key: str | None = None


def for_instance(query: Query, sop_instance_uid: str) -> Query:
    """Return a query at IMAGE level for one of the instances that it matches."""
    unique = by_keyword(QueryLevel.IMAGE.unique_key)
    others = [key for key in query.keys if key.attribute != unique]
    return replace(query, keys=(*others, Key(unique, Single((sop_instance_uid,)))))
