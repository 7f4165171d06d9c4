"""Adds an instance that agrees with the rows of its patient, study and series, in whatever order instances are added.

There is no query before it: the statements insert the rows that are missing, if those that exist have exactly the
elements of the instance, or elements that are known to cover them. Then there is nothing to merge and no conflict, and
the order of keys does not matter. Otherwise they insert nothing (see `pacs.index.key_order`).

On PostgreSQL, which has several writers, it is one statement. It locks the rows that exist, the patient first: it waits
for a transaction that rebuilds them, and then checks them again.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    and_,
    bindparam,
    exists,
    func,
    select,
    true,
    union_all,
)

from pacs.dicom.levels import QueryLevel
from pacs.dicom.lru_cache import LRUCache
from pacs.index import parent_rows
from pacs.index.compiled_statement import CompiledStatement
from pacs.index.database import LostRace
from pacs.index.parent_rows import IMAGE, PARENT_COLUMN, PARENTS, PATIENT, SERIES, STUDY, UNIQUE
from pacs.index.rows import NewInstance, columns, image_row, patient_identity
from pacs.index.tables import TABLES, image, patient, series, study

KNOWN_IMAGE = select(image.c.id).where(image.c.sop_instance_uid == parent_rows.UID)

_covering: LRUCache[bytes, bytes] = LRUCache(4096, 8 << 20)
"""Row elements of an instance, with those of a row that has the same values and others besides: usually they differ
between the series of a study. The statements compare them with the row, which may have others by now."""

_recent: LRUCache[bytes, bool] = LRUCache(4096, 8 << 20)
"""The row elements of the last series, whose rows probably exist. If they do not, only time is lost."""


def insert(driver: Any, dialect: str, instance: NewInstance) -> bool:
    """Insert the rows of a new instance that are missing, if those that exist agree; return whether it was inserted.

    `driver` is one of `RawConnections` of this dialect, in a transaction. Raises LostRace when another transaction has
    just inserted one of the rows: then others may have been inserted.
    """
    values = _image_values(instance)
    own_series = instance.header.kept[SERIES]
    if _recent.get(own_series) and _statements(dialect)[-1].first(driver, dialect, values):
        return True
    inserted = _insert_all(driver, dialect, values | _parent_values(instance))
    if not inserted[IMAGE] and any(inserted):
        raise LostRace("a row of the instance was inserted by another transaction")
    if inserted[IMAGE]:
        _recent.put(own_series, True, len(own_series))
    return bool(inserted[IMAGE])


def remember_covering(own: bytes, elements: bytes) -> None:
    """Remember that the elements of a row have all the values of an instance, and disagree about none."""
    _covering.put(own, elements, len(own) + len(elements))


def _insert_all(driver: Any, dialect: str, values: Mapping[str, Any]) -> Sequence[Any]:
    """Insert the missing rows of each level; return for each level whether one was inserted."""
    if dialect == "sqlite":
        return [statement.first(driver, dialect, values) is not None for statement in _statements(dialect)]
    row: Sequence[Any] = _TOGETHER.first(driver, dialect, values)
    return row


# --- parameters --------------------------------------------------------------------------------------------------


def _image_values(instance: NewInstance) -> dict[str, Any]:
    """Return the parameters of the statement for an image."""
    header = instance.header
    values: dict[str, Any] = image_row(instance) | patient_identity(header)
    values["study_instance_uid"], values["series_instance_uid"] = header.study_instance_uid, header.series_instance_uid
    for level in PARENTS:
        own = header.kept[level]
        values[_OWN[level]], values[_COVERING[level]] = own, _covering.get(own) or own
    return values


def _parent_values(instance: NewInstance) -> dict[str, Any]:
    """Return the parameters with which the statements for its parents insert a row."""
    return {
        _parameter(level, name): value
        for level in PARENTS
        for name, value in columns(level, instance.header.kept[level]).items()
    }


def _parameter(level: QueryLevel, column: str) -> str:
    """Return the name of the parameter for a column."""
    return f"{level.name.lower()}_{column}" if level is not IMAGE and column in ("kept", "irregular") else column


_OWN = {level: _parameter(level, "kept") for level in PARENTS}
_COVERING = {level: f"{level.name.lower()}_covering" for level in PARENTS}


# --- statements --------------------------------------------------------------------------------------------------

_JOINED: dict[QueryLevel, FromClause] = {
    PATIENT: patient,
    STUDY: study.join(patient),
    SERIES: series.join(study).join(patient),
}


def _known(level: QueryLevel) -> Select[Any]:
    """Select the row of an instance, if it and those above it agree, and lock them."""
    above = [each for each in PARENTS if each <= level]
    agreeing = [condition for each in above for condition in _agreeing(each)]
    found = select(TABLES[level].c.id).select_from(_JOINED[level]).where(*agreeing)
    return found.with_for_update(read=True, key_share=True, of=[TABLES[each] for each in above])


def _agreeing(level: QueryLevel) -> list[ColumnElement[bool]]:
    elements = TABLES[level].c.kept
    possible = [bindparam(name, type_=elements.type) for name in (_OWN[level], _COVERING[level])]
    return [*(_is_own(level, name) for name in UNIQUE[level]), elements.in_(possible)]


def _is_own(level: QueryLevel, name: str) -> ColumnElement[bool]:
    column = TABLES[level].c[name]
    return column == bindparam(name, type_=column.type)


def _insertion(level: QueryLevel, dialect: str, parents: FromClause | None) -> Any:
    """Insert the row of an instance below the only one of `parents`, unless there is one at this level or below it."""
    above = {} if parents is None else {PARENT_COLUMN[level]: parents.c.id}
    own = {column.name: bindparam(_parameter(level, column.name), type_=column.type) for column in _FILLED[level]}
    nothing_below = [~exists().where(_is_own(each, UNIQUE[each][0])) for each in QueryLevel if each > level]
    row = select(*above.values(), *own.values()).where(and_(true(), *nothing_below))
    return parent_rows.insertion(level, dialect).from_select([*above, *own], row)


_FILLED = {
    level: [each for each in table.c if not each.foreign_keys and each.name not in ("id", "last_used_at")]
    for level, table in TABLES.items()
}


@cache
def _statements(dialect: str) -> list[CompiledStatement]:
    """Return the statements that insert the row of each level, one after the other."""
    parents = [None, *(_known(level).subquery() for level in PARENTS)]
    return [
        CompiledStatement(lambda _, level=level: _insertion(level, dialect, parents[level]))  # type: ignore[misc]
        for level in QueryLevel
    ]


def _together(dialect: str) -> Select[Any]:
    """Insert the rows of all levels by one statement, which returns how many rows of each level were inserted.

    A part of the statement does not see the rows that others insert, but what they return.
    """
    parts, parents = [], None
    for level in QueryLevel:
        new = _insertion(level, dialect, parents).cte(f"new_{level.name.lower()}")
        parts.append(new)
        if level is not IMAGE:
            known = _known(level).cte(f"known_{level.name.lower()}")
            parents = union_all(select(new.c.id), select(known.c.id)).subquery()
    return select(*(select(func.count()).select_from(part).scalar_subquery() for part in parts)).add_cte(*parts)


_TOGETHER = CompiledStatement(_together)
