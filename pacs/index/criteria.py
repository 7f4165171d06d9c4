"""The SQL conditions of each kind of matching (PS3.4 C.2.2.2), for attributes with columns.

`pacs.dicom.matching` does the same for single rows. A NULL column is an unknown value and matches nothing, unless the
matching mode lets unknown values match (K2).
"""

from typing import Any

from sqlalchemy import ColumnElement, and_, or_

from pacs.dicom.attributes import Attribute, column_name
from pacs.dicom.query import DateTimeRange, Empty, Key, Matching, Names, Range, Single, SoundsLike, Wildcard
from pacs.index.dialects import among, contains, resembles
from pacs.index.tables import NAME_GROUPS, NEVER_NULL, SOUNDS, TABLES

Column = ColumnElement[Any]
Condition = ColumnElement[bool]


def key_criterion(key: Key, unknown_matches: bool) -> Condition:
    """Return the condition that an entity matches a key on an attribute with a column."""
    unknown = _is_unknown(key.attribute)
    if isinstance(key.matching, Empty):
        return unknown
    if isinstance(key.matching, Names | SoundsLike):
        known = _name_criterion(key.attribute, key.matching)
    else:
        known = value_criterion(columns_of(key.attribute)[0], key.matching)
    if key.attribute.keyword in NEVER_NULL:
        known = and_(known, ~unknown)
    return or_(known, unknown) if unknown_matches else known


def combined_criterion(combined: DateTimeRange, unknown_matches: bool) -> Condition:
    """Return the condition that date and time are within a combined range (C.2.2.2.5.4); unknown when either is."""
    (date,), (time,) = columns_of(combined.date), columns_of(combined.time)
    known = and_(
        _range_criterion(date.concat(time), combined.low, combined.high),
        # The same for the date alone, which can use an index.
        _range_criterion(date, combined.low and combined.low[:8], combined.high and combined.high[:8]),
        time.is_not(None),
    )
    return or_(known, date.is_(None), time.is_(None)) if unknown_matches else known


def value_criterion(column: Column, matching: Matching) -> Condition:
    """Return the condition that the value of a column matches."""
    match matching:
        case Single():
            return among(column, matching.accepted)
        case Wildcard():
            return or_(*(resembles(column, pattern) for pattern in matching.accepted))
        case Range(low, high):
            return _range_criterion(column, low, high)
        case _:
            raise TypeError(f"{type(matching).__name__} is no matching of plain values")


def columns_of(attribute: Attribute) -> tuple[Column, ...]:
    """Return the columns of an attribute: one, or one for each component group of a name."""
    name, table = column_name(attribute.keyword), TABLES[attribute.level]
    return tuple(table.c[name + part] for part in (NAME_GROUPS if attribute.vr == "PN" else ("",)))


def _is_unknown(attribute: Attribute) -> Condition:
    columns = columns_of(attribute)
    if attribute.keyword in NEVER_NULL:
        return columns[0] == ""
    return and_(*(column.is_(None) for column in columns))


def _range_criterion(column: Column, low: str | None, high: str | None) -> Condition:
    bounds: list[Condition] = [column.is_not(None)] if low is None and high is None else []
    if low is not None:
        bounds.append(column >= low)
    if high is not None:
        bounds.append(column <= high)
    return and_(*bounds)


# --- names -------------------------------------------------------------------------------------------------------


def _name_criterion(attribute: Attribute, matching: Names | SoundsLike) -> Condition:
    if isinstance(matching, SoundsLike):
        keys = TABLES[attribute.level].c[column_name(attribute.keyword) + SOUNDS]
        return and_(keys.is_not(None), *(contains(keys, f" {key} ") for key in matching.keys))
    return or_(*(_groups_criterion(attribute, patterns) for patterns in matching.alternatives))


def _groups_criterion(attribute: Attribute, patterns: tuple[str, ...]) -> Condition:
    """Return the condition for a name: one pattern for any group, or one for each group by position (M15)."""
    columns = columns_of(attribute)
    if len(patterns) == 1:
        return or_(*(resembles(column, patterns[0]) for column in columns))
    by_position = [resembles(column, each) for column, each in zip(columns, patterns, strict=False) if each]
    return and_(*(by_position or [~_is_unknown(attribute)]))
