"""The attributes that are made from the index (K5): numbers of related entities, and what a study consists of.

For the rows of a page each is one grouped statement, however many rows there are.
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
from pacs.index.patterns import among
from pacs.index.tables import TABLES, image, series, study

PATIENT, STUDY, SERIES, IMAGE = QueryLevel

Value = int | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Computed:
    """One computed attribute: an entity at `level` has the number of its `of` rows, or the values of their column."""

    level: QueryLevel
    of: QueryLevel
    column: Column[str] | None = None
    keyword: str = ""

    @property
    def none(self) -> Value:
        """The value where there is nothing to compute it from."""
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
"""How each computed attribute is made, by keyword."""

_OWNER: dict[QueryLevel, Column[int]] = {
    PATIENT: study.c.patient_fk,
    STUDY: series.c.study_fk,
    SERIES: image.c.series_fk,
    IMAGE: image.c.id,
}
"""The column by which the rows below an entity, or its own, say whose they are."""


def compute(connection: Connection, keyword: str, ids: Sequence[int]) -> Mapping[int, Value]:
    """The value of a computed attribute for the rows with these ids; rows that have none are left out."""
    made = COMPUTED[keyword]
    return _counts(connection, made, ids) if made.column is None else _values(connection, made, made.column, ids)


def computed_criterion(key: Key, unknown_matches: bool) -> Condition:
    """Leaves no entity out that matches a key on a computed attribute; the rows it lets through are still judged."""
    made = COMPUTED[key.attribute.keyword]
    if made.column is None or unknown_matches or isinstance(key.matching, Empty):
        return true()
    owned = select(true()).select_from(_below(made)).where(_OWNER[made.level] == TABLES[made.level].c.id)
    if made.level is made.of:
        return value_criterion(made.column, key.matching)
    wanted = or_(value_criterion(made.column, key.matching), TABLES[made.of].c.irregular)
    return exists(owned.where(wanted).correlate(TABLES[made.level]))


def _counts(connection: Connection, made: Computed, ids: Sequence[int]) -> dict[int, Value]:
    owner = _OWNER[made.level]
    counted = select(owner, func.count()).select_from(_below(made)).where(among(owner, ids)).group_by(owner)
    return {row[0]: row[1] for row in connection.execute(counted)}


def _values(connection: Connection, made: Computed, column: Column[str], ids: Sequence[int]) -> dict[int, Value]:
    owner, table = _OWNER[made.level], TABLES[made.of]
    # A value that does not fit its column is still in the kept elements of its row.
    unfit = case((table.c.irregular & column.is_(None), table.c.kept))
    distinct = select(owner, column, unfit).select_from(_below(made)).where(among(owner, ids)).distinct()
    found: defaultdict[int, set[str]] = defaultdict(set)
    for row_id, value, blob in connection.execute(distinct):
        found[row_id].update([value] if value else _kept_values(made, blob))
    return {row_id: tuple(sorted(values)) for row_id, values in found.items()}


def _kept_values(made: Computed, blob: bytes | None) -> list[str]:
    if blob is None or not made.keyword:
        return []
    return [
        str(value) for value in View.of(row_elements.decode(blob)).values(by_keyword(made.keyword)) if value is not None
    ]


def _below(made: Computed) -> FromClause:
    """The tables from the one whose rows are counted up to the one that says whose they are."""
    joined: FromClause = TABLES[made.of]
    for number in range(made.of - 1, made.level, -1):
        joined = joined.join(TABLES[QueryLevel(number)])
    return joined
