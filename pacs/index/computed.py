"""The attributes that are computed from the index (K5): numbers of related entities, and the contents of a study.

Each attribute is one grouped statement for all rows of a page.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    FromClause,
    Select,
    String,
    bindparam,
    exists,
    func,
    or_,
    select,
    true,
)

from pacs.dicom import row_elements
from pacs.dicom.attributes import by_keyword
from pacs.dicom.dataset import View
from pacs.dicom.levels import QueryLevel
from pacs.dicom.query import Empty, Key
from pacs.index.compiled_statement import CompiledStatement
from pacs.index.criteria import Condition, value_criterion
from pacs.index.database import driver_rows
from pacs.index.dialects import is_listed
from pacs.index.tables import TABLES, image, series, study
from pacs.index.tables import Key as RowKey

PATIENT, STUDY, SERIES, IMAGE = QueryLevel

Value = int | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Computed:
    """A computed attribute of an entity at `level`: the number of its `of` rows, or the values of their column."""

    level: QueryLevel
    of: QueryLevel
    column: Column[str] | None = None
    keyword: str = ""

    @property
    def none(self) -> Value:
        """The value without any rows."""
        return () if self.column is not None else 0


COMPUTED: dict[str, Computed] = {
    "NumberOfPatientRelatedStudies": Computed(PATIENT, STUDY),
    "NumberOfPatientRelatedSeries": Computed(PATIENT, SERIES),
    "NumberOfPatientRelatedInstances": Computed(PATIENT, IMAGE),
    "NumberOfStudyRelatedSeries": Computed(STUDY, SERIES),
    "NumberOfStudyRelatedInstances": Computed(STUDY, IMAGE),
    "NumberOfSeriesRelatedInstances": Computed(SERIES, IMAGE),
    "ModalitiesInStudy": Computed(STUDY, SERIES, series.c.modality, "Modality"),
    "SOPClassesInStudy": Computed(STUDY, IMAGE, image.c.sop_class_uid, "SOPClassUID"),
    "AvailableTransferSyntaxUID": Computed(IMAGE, IMAGE, image.c.transfer_syntax),
}
"""The computed attributes, by keyword."""

_OWNER: dict[QueryLevel, Column[int]] = {
    PATIENT: study.c.patient_fk,
    STUDY: series.c.study_fk,
    SERIES: image.c.series_fk,
    IMAGE: image.c.id,
}
"""The column with the id of the entity at each level to which rows belong."""

_Make = Callable[[Computed, Column[Any]], Select[Any]]
"""Makes a statement of an attribute for all ids in a column."""

_IDS = "ids"
"""The parameter of the ids: one number, or several as JSON."""


def compute(connection: Connection, keyword: str, ids: Sequence[int]) -> Mapping[int, Value]:
    """Return the values of a computed attribute for the rows with these ids; rows without a value are omitted."""
    attribute = COMPUTED[keyword]
    return (_counts if attribute.column is None else _values)(connection, attribute, ids)


def computed_criterion(key: Key, unknown_matches: bool) -> Condition:
    """Return a condition that every match of a key on a computed attribute meets; the rows are matched afterwards."""
    attribute = COMPUTED[key.attribute.keyword]
    if attribute.column is None or unknown_matches or isinstance(key.matching, Empty):
        return true()
    owned = select(true()).select_from(_below(attribute)).where(_OWNER[attribute.level] == TABLES[attribute.level].c.id)
    if attribute.level is attribute.of:
        return value_criterion(attribute.column, key.matching)
    wanted = or_(value_criterion(attribute.column, key.matching), TABLES[attribute.of].c.irregular)
    return exists(owned.where(wanted).correlate(TABLES[attribute.level]))


def _counts(connection: Connection, attribute: Computed, ids: Sequence[int]) -> dict[int, Value]:
    return dict(_rows(connection, _counted, attribute, ids))


def _values(connection: Connection, attribute: Computed, ids: Sequence[int]) -> dict[int, Value]:
    found: defaultdict[int, set[str]] = defaultdict(set)
    is_complete = True
    for row_id, value in _rows(connection, _distinct, attribute, ids):
        if value:
            found[row_id].add(value)
        is_complete = is_complete and value is not None
    if not is_complete:
        for row_id, blob in _rows(connection, _unfit, attribute, ids):
            found[row_id].update(_row_values(attribute, blob))
    return {row_id: tuple(sorted(values)) for row_id, values in found.items()}


def _rows(connection: Connection, make: _Make, attribute: Computed, ids: Sequence[int]) -> list[Any]:
    """Return the rows of a statement for some ids, which is compiled once for one id and once for several."""
    is_one = len(ids) == 1
    value = ids[0] if is_one else json.dumps(ids)
    return driver_rows(_compiled(make, attribute, is_one=is_one).execute(connection, {_IDS: value}))


@cache
def _compiled(make: _Make, attribute: Computed, *, is_one: bool) -> CompiledStatement:
    owner = _OWNER[attribute.level]
    is_among = owner == bindparam(_IDS, type_=RowKey) if is_one else is_listed(owner, bindparam(_IDS, type_=String()))
    return CompiledStatement(lambda _dialect: make(attribute, owner).select_from(_below(attribute)).where(is_among))


def _counted(_attribute: Computed, owner: Column[Any]) -> Select[Any]:
    return select(owner, func.count()).group_by(owner)


def _distinct(attribute: Computed, owner: Column[Any]) -> Select[Any]:
    assert attribute.column is not None, "numbers have no column"
    return select(owner, attribute.column).distinct()


def _unfit(attribute: Computed, owner: Column[Any]) -> Select[Any]:
    """Select the row elements with the values that do not fit their column."""
    table = TABLES[attribute.of]
    assert attribute.column is not None, "numbers have no column"
    return select(owner, table.c.kept).where(table.c.irregular, attribute.column.is_(None))


def _row_values(attribute: Computed, blob: bytes) -> list[str]:
    if not attribute.keyword:
        return []
    return [
        str(value)
        for value in View.of(row_elements.decode(blob)).values(by_keyword(attribute.keyword))
        if value is not None
    ]


def _below(attribute: Computed) -> FromClause:
    """Return the join from the table of the rows up to the one with the id of their entity."""
    joined: FromClause = TABLES[attribute.of]
    for number in range(attribute.of - 1, attribute.level, -1):
        joined = joined.join(TABLES[QueryLevel(number)])
    return joined
