"""Maintenance of the index: listing and removing instances by file, childless rows, and corrections of parents."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, FromClause, Select, delete, exists, func, select, update

from pacs.dicom.levels import QueryLevel
from pacs.index import writer
from pacs.index.database import Index, LostRace
from pacs.index.dialects import among
from pacs.index.key_order import Headers, rebuild
from pacs.index.parent_rows import lock_patients
from pacs.index.rows import columns
from pacs.index.tables import JOINED, TABLES, image, patient, series, study
from pacs.index.writer import STORED, StoredInstance

PAGE = 500
"""The instances that are read at a time."""

_CHILDREN = (
    (QueryLevel.SERIES, series, image.c.series_fk),
    (QueryLevel.STUDY, study, series.c.study_fk),
    (QueryLevel.PATIENT, patient, study.c.patient_fk),
)
"""The parent tables from the bottom up, and the columns that refer to them."""


def counts(index: Index) -> dict[QueryLevel, int]:
    """Count patients, studies, series and images. Raises IndexUnavailable."""
    with index.read() as connection:
        return {
            level: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for level, table in TABLES.items()
        }


def newest_files(index: Index, count: int) -> list[str]:
    """Return the file keys of the instances that were added last, newest first. Raises IndexUnavailable."""
    with index.read() as connection:
        return list(connection.execute(select(image.c.file_key).order_by(image.c.id.desc()).limit(count)).scalars())


def pages(index: Index) -> Iterator[list[StoredInstance]]:
    """Yield pages of all instances in byte order of their file keys. Raises IndexUnavailable."""
    after = ""
    while page := _read(index, STORED.where(image.c.file_key > after).order_by(image.c.file_key).limit(PAGE)):
        yield page
        after = page[-1].file_key


def with_files(index: Index, file_keys: Sequence[str]) -> dict[str, StoredInstance]:
    """Return the instances with these files, by file key. Raises IndexUnavailable."""
    return {each.file_key: each for each in _read(index, STORED.where(among(image.c.file_key, file_keys)))}


def named(index: Index, sop_instance_uids: Sequence[str]) -> dict[str, StoredInstance]:
    """Return the instances with these SOP Instance UIDs, by UID. Raises IndexUnavailable."""
    found = _read(index, STORED.where(among(image.c.sop_instance_uid, sop_instance_uids)))
    return {each.sop_instance_uid: each for each in found}


def forget(index: Index, file_keys: Sequence[str]) -> list[StoredInstance]:
    """Remove the instances with these files, and parents without children; return the removed instances.

    Raises IndexUnavailable.
    """
    uids = [each.sop_instance_uid for each in with_files(index, file_keys).values()]
    return writer.remove(index, uids, file_keys) if uids else []


def childless(index: Index) -> dict[QueryLevel, int]:
    """Count series without images, studies without series, patients without studies. Raises IndexUnavailable."""
    with index.read() as connection:
        return {
            level: connection.execute(
                select(func.count()).select_from(table).where(~exists().where(reference == table.c.id))
            ).scalar_one()
            for level, table, reference in _CHILDREN
        }


def prune(index: Index) -> int:
    """Remove parents without children, from the bottom up; return their number. Raises IndexUnavailable."""

    def work(connection: Connection) -> int:
        return sum(
            connection.execute(delete(table).where(~exists().where(reference == table.c.id))).rowcount
            for _, table, reference in _CHILDREN
        )

    return index.transact(work)


# --- parents of removed instances -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ParentRow:
    """The row of a patient, study or series that lost instances and still has others."""

    level: QueryLevel
    row_id: int
    kept: bytes
    identity: tuple[str, ...]
    """The values that identify the row."""
    above: tuple[str, ...]
    """The values that identify the row above it; () for a patient."""


def parents(index: Index, removed: Sequence[StoredInstance]) -> list[ParentRow]:
    """Return the remaining parent rows of removed instances. Raises IndexUnavailable."""
    studies = sorted({each.study_instance_uid for each in removed})
    patients = sorted({each.patient_id for each in removed} - {""})
    identity = (patient.c.patient_id, patient.c.issuer_of_patient_id, patient.c.apart)
    study_uid, series_uid = study.c.study_instance_uid, series.c.series_instance_uid
    is_theirs = among(patient.c.patient_id, patients) | among(patient.c.apart, studies)
    asked: tuple[_ParentQuery, ...] = (
        (QueryLevel.PATIENT, patient, identity, (), is_theirs),
        (QueryLevel.STUDY, study.join(patient), (study_uid,), identity, among(study_uid, studies)),
        (
            QueryLevel.SERIES, series.join(study), (series_uid,), (study_uid,),
            among(series_uid, sorted({each.series_instance_uid for each in removed})),
        ),
    )  # fmt: skip
    found = []
    with index.read() as connection:
        for level, joined, own, above, is_meant in asked:
            table = TABLES[level]
            chosen = select(table.c.id, table.c.kept, *own, *above).select_from(joined).where(is_meant)
            for row_id, blob, *rest in connection.execute(chosen):
                found.append(ParentRow(level, row_id, blob, tuple(rest[: len(own)]), tuple(rest[len(own) :])))
    return found


_ParentQuery = tuple[QueryLevel, FromClause, tuple[Column[Any], ...], tuple[Column[Any], ...], ColumnElement[bool]]


def files_under(index: Index, parent: ParentRow, after: str, limit: int) -> list[tuple[str, str]]:
    """Return the next files of the instances of a row, oldest first, each with the Study Instance UID of its study row.

    Raises IndexUnavailable.
    """
    chosen = (
        select(image.c.file_key, study.c.study_instance_uid)
        .select_from(JOINED)
        .where(TABLES[parent.level].c.id == parent.row_id, image.c.file_key > after)
        .order_by(image.c.file_key)
        .limit(limit)
    )
    with index.read() as connection:
        return [(key, uid) for key, uid in connection.execute(chosen)]


def newest_under(connection: Connection, parent: ParentRow) -> str | None:
    """Return the newest file of the instances of a row."""
    below = select(func.max(image.c.file_key)).select_from(JOINED)
    found: str | None = connection.execute(below.where(TABLES[parent.level].c.id == parent.row_id)).scalar()
    return found


def newest(index: Index, parent: ParentRow) -> str | None:
    """Return the same as `newest_under`. Raises IndexUnavailable."""
    with index.read() as connection:
        return newest_under(connection, parent)


def rewrite(index: Index, parent: ParentRow, kept: bytes, newest: str | None) -> bool:
    """Rewrite a row unless it or its instances have changed since it was read; return whether it was rewritten.

    `newest` is the newest file of its instances. Raises IndexUnavailable.
    """
    table = TABLES[parent.level]

    def work(connection: Connection) -> bool:
        locked = select(table.c.kept).where(table.c.id == parent.row_id).with_for_update()
        if connection.execute(locked).scalar() != parent.kept or newest_under(connection, parent) != newest:
            return False
        connection.execute(update(table).where(table.c.id == parent.row_id).values(columns(parent.level, kept)))
        return True

    return index.transact(work)


def rebuild_patients(index: Index, file_keys: Sequence[str], headers: Headers) -> None:
    """Rebuild the patients of the instances with these files, and those to whom these instances should belong.

    Raises IndexUnavailable, and the errors of `headers`.
    """
    named = select(study.c.patient_fk).select_from(JOINED).where(among(image.c.file_key, file_keys)).distinct()

    def work(connection: Connection) -> None:
        patients = set(connection.execute(named).scalars())
        lock_patients(connection, patients)
        if set(connection.execute(named).scalars()) != patients:
            raise LostRace("instances were moved by another transaction")
        rebuild(connection, headers, patients)

    index.transact(work)


def _read(index: Index, chosen: Select[Any]) -> list[StoredInstance]:
    with index.read() as connection:
        return [StoredInstance(*row) for row in connection.execute(chosen)]
