"""Builds the SQL statements of a `Query`, without executing them, so that they can be explained too.

SQL decides about attributes with columns. An irregular row (`pacs.dicom.row_elements.columns`) passes every condition
that its columns cannot decide, and is matched in Python afterwards, like keys on attributes without columns.
"""

from collections.abc import Iterator, Sequence
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
from pacs.index.dialects import names_with_pieces, without_index
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
    return _next(_candidates(query).where(*extra), ORDER[query.level], after, limit)


def page_among(query: Query, after: tuple[str, ...] | None, limit: int, *extra: Condition) -> Select[Any]:
    """Select the same as `page` where `extra` allows few rows: SQLite begins with those, not with the unique key."""
    return _next(_candidates(query).where(*extra), _order_without_index(query.level), after, limit)


def listing(query: Query, after: tuple[str, ...] | None, limit: int, *extra: Condition) -> Select[Any]:
    """Select only the ids of what `page_among` selects."""
    ids = select(TABLES[query.level].c.id).select_from(_joined(query.level)).where(*conditions(query), *extra)
    return _next(ids, _order_without_index(query.level), after, limit)


def _candidates(query: Query) -> Select[Any]:
    columns = [column for level in levels_to(query.level) for column in _row_columns(level)]
    if query.level is IMAGE:
        columns.append(image.c.file_key)
    return select(*columns, *ORDER[query.level]).select_from(_joined(query.level)).where(*conditions(query))


def _next(
    candidates: Select[Any], order: Sequence[ColumnElement[str]], after: tuple[str, ...] | None, limit: int
) -> Select[Any]:
    """Select the next `limit` of some candidates after the unique key `after`."""
    if after is not None:
        candidates = candidates.where(tuple_(*order) > tuple_(*after) if len(order) > 1 else order[0] > after[0])
    return candidates.order_by(*order).limit(limit)


def _order_without_index(level: QueryLevel) -> list[ColumnElement[str]]:
    return [without_index(column) for column in ORDER[level]]


def page_of(query: Query, level: QueryLevel, limit: int, row_id: int) -> Select[Any]:
    """Select the first page of the candidates that are, or belong to, one row at `level`."""
    return page(query, None, limit, TABLES[level].c.id == row_id)


def few_rows(query: Query, level: QueryLevel, limit: int) -> CompoundSelect[Any]:
    """Select at most `limit` of the ids of `start_rows`."""
    return start_rows(query, level).limit(limit)


def start_rows(query: Query, level: QueryLevel) -> CompoundSelect[Any]:
    """Select the ids of the rows at `level` that its keys allow, on SQLite; an id may occur twice."""
    key, decided = TABLES[level].c.id, [*_column_conditions(query, level)]
    regular = [select(key).where(*start, *decided).correlate(None) for start in _start_conditions(query, level)]
    return union_all(*regular, select(key).where(TABLES[level].c.irregular))


def number_of_start_rows(query: Query, level: QueryLevel, most: int) -> Select[Any]:
    """Count what `start_rows` selects, up to `most`."""
    return select(func.count()).select_from(few_rows(query, level, most).subquery())


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
