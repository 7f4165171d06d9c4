"""Corrects the rows above removed instances: they have what the remaining files say, in the order of their keys."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, FromClause, select

from pacs.dicom import row_elements
from pacs.dicom.header import Header
from pacs.dicom.levels import QueryLevel
from pacs.index.database import Index, LostRace
from pacs.index.dialects import among
from pacs.index.key_order import Headers, images_below, rebuild
from pacs.index.parent_rows import UNIQUE, lock_patients, rewrite_locked
from pacs.index.rows import columns, patient_identity
from pacs.index.tables import TABLES, patient, series, study
from pacs.index.writer import StoredInstance


def refresh_parents(
    index: Index, headers: Headers, removed: Sequence[StoredInstance], removed_header: Header | None = None
) -> None:
    """Set the parents of removed instances to the values of the instances that remain.

    Where all instances agree one file is read. `removed_header` is that of the only removed instance: then values that
    differ from it are kept without reading files. Raises IndexUnavailable, and the errors of `headers`.
    """

    def work(connection: Connection) -> None:
        parents = lock_parents(connection, removed)
        are_well = [_refresh_row(connection, headers, parent, removed_header) for parent in parents]
        if not all(are_well):
            rebuild(connection, headers, {each.patient_fk for each in parents})

    index.transact(work)


@dataclass(frozen=True, slots=True)
class ParentRow:
    """The row of a patient, study or series that lost instances and still has others."""

    level: QueryLevel
    id: int
    kept: bytes
    patient_fk: int
    identity: tuple[str, ...]
    """The values that identify the row."""
    above: tuple[str, ...]
    """The values that identify the row above it; () for a patient."""


def lock_parents(connection: Connection, removed: Sequence[StoredInstance]) -> list[ParentRow]:
    """Return the remaining parent rows of removed instances, with their patients locked. Raises LostRace."""
    found = _parents(connection, removed)
    lock_patients(connection, {each.patient_fk for each in found})
    if _parents(connection, removed) != found:
        raise LostRace("rows were changed by another transaction")
    return found


def _parents(connection: Connection, removed: Sequence[StoredInstance]) -> list[ParentRow]:
    studies = sorted({each.study_instance_uid for each in removed})
    patients = sorted({each.patient_id for each in removed} - {""})
    identity = tuple(patient.c[name] for name in UNIQUE[QueryLevel.PATIENT])
    study_uid, series_uid = study.c.study_instance_uid, series.c.series_instance_uid
    is_theirs = among(patient.c.patient_id, patients) | among(patient.c.apart, studies)
    asked: tuple[_ParentQuery, ...] = (
        (QueryLevel.PATIENT, patient, patient.c.id, identity, (), is_theirs),
        (QueryLevel.STUDY, study.join(patient), study.c.patient_fk, (study_uid,), identity, among(study_uid, studies)),
        (
            QueryLevel.SERIES, series.join(study), study.c.patient_fk, (series_uid,), (study_uid,),
            among(series_uid, sorted({each.series_instance_uid for each in removed})),
        ),
    )  # fmt: skip
    found = []
    for level, joined, top, own, above, is_meant in asked:
        table = TABLES[level]
        chosen = select(table.c.id, table.c.kept, top, *own, *above).select_from(joined).where(is_meant)
        for row_id, blob, patient_fk, *rest in connection.execute(chosen.order_by(table.c.id)):
            names = tuple(rest)
            found.append(ParentRow(level, row_id, blob, patient_fk, names[: len(own)], names[len(own) :]))
    return found


_Columns = tuple[Column[Any], ...]
_ParentQuery = tuple[QueryLevel, FromClause, Column[Any], _Columns, _Columns, ColumnElement[bool]]


def _refresh_row(connection: Connection, read: Headers, parent: ParentRow, removed: Header | None) -> bool:
    """Correct a row; return False when its first instance belongs below another row."""
    # Values that differ from the removed instance's come from other instances, and stay.
    wanted = parent.kept if removed is None else row_elements.common(parent.kept, removed.kept[parent.level])
    values: bytes | None = None
    for place, (header, study_uid) in enumerate(_headers(connection, read, parent)):
        if not _contributes(parent, header, study_uid, is_first=values is None):
            if values is None and place == 0:
                return False
            continue
        values = header.kept[parent.level] if values is None else row_elements.merge(values, header.kept[parent.level])
        if row_elements.merge(values, wanted) == values:  # all wanted values are found
            break
    if values is not None and removed is not None:
        values = row_elements.replace_elements(parent.kept, wanted, values)
    if values is not None and values != parent.kept:
        rewrite_locked(connection, parent.level, parent, columns(parent.level, values))
    return True


def _headers(connection: Connection, read: Headers, parent: ParentRow) -> Iterator[tuple[Header, str]]:
    """Yield the instances below a row, oldest first: header, and the Study Instance UID of their row."""
    for key, study_uid in images_below(connection, parent.level, parent.id):
        if (header := read(key)) is not None:
            yield header, study_uid


def _contributes(parent: ParentRow, header: Header, study_uid: str, *, is_first: bool) -> bool:
    """Whether an instance below a row contributes to its values; the first one also has to belong below that row."""
    identity = tuple(patient_identity(header).values())
    if parent.level is QueryLevel.PATIENT:
        return header.study_instance_uid == study_uid and identity == parent.identity
    if parent.level is QueryLevel.STUDY:
        return header.study_instance_uid == study_uid and (not is_first or identity == parent.above)
    return not is_first or header.study_instance_uid == study_uid
