"""Maintenance of the index: listing and removing instances by file, childless rows, and corrections of parents."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Select, delete, exists, func, select

from pacs.dicom.levels import QueryLevel
from pacs.index import writer
from pacs.index.database import Index
from pacs.index.dialects import among
from pacs.index.tables import TABLES, image, patient, series, study
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


def _read(index: Index, chosen: Select[Any]) -> list[StoredInstance]:
    with index.read() as connection:
        return [StoredInstance(*row) for row in connection.execute(chosen)]
