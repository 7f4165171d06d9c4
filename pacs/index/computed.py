"""The attributes that are computed from the index (K5): numbers of related entities, and the contents of a study.

Each attribute is one grouped statement for all rows of a page.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Column, Connection, FromClause, case, exists, func, or_, select, true

from pacs.dicom import row_elements
from pacs.dicom.attributes import by_keyword
from pacs.dicom.dataset import View
from pacs.dicom.levels import QueryLevel
from pacs.dicom.query import Empty, Key
from pacs.index.criteria import Condition, value_criterion
from pacs.index.dialects import among
from pacs.index.tables import TABLES, image, series, study

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


def compute(connection: Connection, keyword: str, ids: Sequence[int]) -> Mapping[int, Value]:
    """Return the values of a computed attribute for the rows with these ids; rows without a value are omitted."""
    attribute = COMPUTED[keyword]
    return (
        _counts(connection, attribute, ids)
        if attribute.column is None
        else _values(connection, attribute, attribute.column, ids)
    )


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
    owner = _OWNER[attribute.level]
    counted = select(owner, func.count()).select_from(_below(attribute)).where(among(owner, ids)).group_by(owner)
    return {row[0]: row[1] for row in connection.execute(counted)}


def _values(connection: Connection, attribute: Computed, column: Column[str], ids: Sequence[int]) -> dict[int, Value]:
    owner, table = _OWNER[attribute.level], TABLES[attribute.of]
    # A value that does not fit its column is in the elements of its row.
    unfit = case((table.c.irregular & column.is_(None), table.c.kept))
    distinct = select(owner, column, unfit).select_from(_below(attribute)).where(among(owner, ids)).distinct()
    found: defaultdict[int, set[str]] = defaultdict(set)
    for row_id, value, blob in connection.execute(distinct):
        found[row_id].update([value] if value else _row_values(attribute, blob))
    return {row_id: tuple(sorted(values)) for row_id, values in found.items()}


def _row_values(attribute: Computed, blob: bytes | None) -> list[str]:
    if blob is None or not attribute.keyword:
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
