"""Builds the SQL statements of a `Query`, without executing them, so that they can be explained too.

SQL decides about attributes with columns. An irregular row (`pacs.dicom.row_elements.columns`) passes every condition
that its columns cannot decide, and is matched in Python afterwards, like keys on attributes without columns.
"""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Exists,
    FromClause,
    Select,
    and_,
    distinct,
    exists,
    func,
    or_,
    select,
    tuple_,
    union_all,
)

from pacs.dicom.attributes import Kept
from pacs.dicom.levels import QueryLevel
from pacs.dicom.query import DateTimeRange, Key, Names, Query
from pacs.index.computed import computed_criterion
from pacs.index.criteria import Condition, combined_criterion, key_criterion
from pacs.index.dialects import names_with_pieces
from pacs.index.tables import TABLES, image, patient, series, study
from pacs.index.writer import STORED

PATIENT, STUDY, SERIES, IMAGE = QueryLevel

EXACT = {"StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"}
"""The attributes whose columns are exact in irregular rows too."""

_LEVELS_TO = {level: tuple(each for each in QueryLevel if each <= level) for level in QueryLevel}

ORDER: dict[QueryLevel, tuple[ColumnElement[str], ...]] = {
    PATIENT: (patient.c.patient_id, patient.c.issuer_of_patient_id, patient.c.apart),
    STUDY: (study.c.study_instance_uid,),
    SERIES: (series.c.series_instance_uid,),
    IMAGE: (image.c.sop_instance_uid,),
}
"""The unique key of each level, which is the order of matches and pages."""


PER_LEVEL = ("key", "kept", "irregular")
"""The columns of each level in a page, from PATIENT down: row id, row elements, and whether it is irregular."""


def levels_to(level: QueryLevel) -> tuple[QueryLevel, ...]:
    """Return the levels from PATIENT down to `level`."""
    return _LEVELS_TO[level]


def page(query: Query, after: tuple[str, ...] | None, limit: int, *extra: Condition) -> Select[Any]:
    """Select the next `limit` candidates after the unique key `after`: `PER_LEVEL` of each level, `file_key` of IMAGE.

    The last columns are the unique key, in the order of `ORDER`.
    """
    order = ORDER[query.level]
    columns = [column for level in levels_to(query.level) for column in _row_columns(level)]
    if query.level is IMAGE:
        columns.append(image.c.file_key)
    found = select(*columns, *order).select_from(_joined(query.level)).where(*conditions(query), *extra)
    if after is not None:
        found = found.where(tuple_(*order) > tuple_(*after) if len(order) > 1 else order[0] > after[0])
    return found.order_by(*order).limit(limit)


def page_of(query: Query, level: QueryLevel, limit: int, row_id: int) -> Select[Any]:
    """Select the first page of the candidates that are, or belong to, one row at `level`."""
    return page(query, None, limit, TABLES[level].c.id == row_id)


def few_rows(query: Query, level: QueryLevel, limit: int) -> CompoundSelect[Any]:
    """Select the ids of at most `limit` rows at `level` that its keys allow, on SQLite; an id may occur twice."""
    key, decided = TABLES[level].c.id, [*_column_conditions(query, level)]
    regular = [select(key).where(*start, *decided) for start in _start_conditions(query, level)]
    return union_all(*regular, select(key).where(TABLES[level].c.irregular)).limit(limit)


def _start_conditions(query: Query, level: QueryLevel) -> list[tuple[Condition, ...]]:
    """Return the conditions with which to start: trigrams of a patient's name, one for each alternative, or none."""
    for key in query.keys:
        if level is PATIENT and key.attribute.keyword == "PatientName" and isinstance(key.matching, Names):
            found = [names_with_pieces(patient.c.id, patterns) for patterns in key.matching.alternatives]
            parts = [(part,) for part in found if part is not None]
            if len(parts) == len(found) and not query.unknown_matches:
                return [*parts]
    return [()]


def number_of(query: Query, level: QueryLevel, *extra: Condition) -> Select[Any]:
    """Count the entities at `level` that the query selects, as far as SQL decides."""
    counted = func.count(distinct(TABLES[level].c.id))
    return select(counted).select_from(_joined(query.level)).where(*conditions(query), *extra)


def has_irregular(query: Query, *extra: Condition) -> Select[Any]:
    """Select whether irregular rows pass the query, about which SQL alone does not decide."""
    irregular = or_(*(TABLES[level].c.irregular for level in levels_with_irregular_rows(query)))
    passing: Exists = exists().select_from(_joined(query.level)).where(*conditions(query), *extra, irregular)
    return select(passing)


def stored(*where: Condition) -> Select[Any]:
    """Select stored instances in the order of retrieval."""
    order = (study.c.study_instance_uid, series.c.series_instance_uid, image.c.instance_number.nulls_last())
    return STORED.where(*where).order_by(*order, image.c.sop_instance_uid)


def conditions(query: Query) -> Iterator[Condition]:
    """Yield the SQL conditions for a candidate."""
    for level in levels_to(query.level):
        decided = [*_column_conditions(query, level)]
        if decided:
            yield or_(and_(*decided), TABLES[level].c.irregular)
    for key in query.keys:
        if key.attribute.keyword in EXACT:
            yield key_criterion(key, query.unknown_matches)
        elif key.attribute.kept is Kept.COMPUTED:
            yield computed_criterion(key, query.unknown_matches)


def row_keys(query: Query) -> list[Key]:
    """Return the keys that are matched in Python."""
    return [key for key in query.keys if key.attribute.kept in (Kept.ROW, Kept.COMPUTED)]


def row_ranges(query: Query) -> list[DateTimeRange]:
    """Return the combined ranges that are matched in Python."""
    return [each for each in query.combined if not has_columns(each)]


def has_columns(combined: DateTimeRange) -> bool:
    """Whether both date and time of a combined range have columns."""
    return combined.date.kept is combined.time.kept is Kept.COLUMN


def levels_with_irregular_rows(query: Query) -> list[QueryLevel]:
    """Return the levels with keys that the columns of an irregular row cannot decide."""
    levels = {key.attribute.level for key in query.keys if _is_decided(key)}
    levels |= {combined.date.level for combined in query.combined if has_columns(combined)}
    return [level for level in levels_to(query.level) if level in levels]


def is_decided_by_sql(query: Query) -> bool:
    """Whether SQL decides about all rows, extra irregular ones."""
    return not row_keys(query) and not row_ranges(query) and not levels_with_irregular_rows(query)


def _is_decided(key: Key) -> bool:
    """Whether a column decides about a key in regular rows only."""
    return key.attribute.kept is Kept.COLUMN and key.attribute.keyword not in EXACT


def _column_conditions(query: Query, level: QueryLevel) -> Iterator[Condition]:
    """Yield the conditions for the columns of a level, which irregular rows pass."""
    for key in query.keys:
        if key.attribute.level is level and _is_decided(key):
            yield key_criterion(key, query.unknown_matches)
    for combined in query.combined:
        if combined.date.level is level and has_columns(combined):
            yield combined_criterion(combined, query.unknown_matches)


def _row_columns(level: QueryLevel) -> tuple[ColumnElement[Any], ...]:
    name, columns = level.name.lower(), TABLES[level].c
    found = (columns.id, columns.kept, columns.irregular)
    return tuple(column.label(f"{name}_{what}") for column, what in zip(found, PER_LEVEL, strict=True))


def _joined(level: QueryLevel) -> FromClause:
    joined: FromClause = TABLES[level]
    for above in reversed(levels_to(level)[:-1]):
        joined = joined.join(TABLES[above])
    return joined
