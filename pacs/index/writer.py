"""Adds and removes instances: the rows of an instance and of its series, study and patient.

The instance with the lowest file key wins: it decides the study of a series and the patient of a study. Of the elements
of a level the value of the lowest key stays, and others fill empty ones. The order in which instances are added does
not matter (`pacs.index.key_order`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, delete, exists, select, update

from pacs.dicom.header import Header
from pacs.errors import IndexUnavailable, InstanceUnreadable
from pacs.index.addition import KNOWN_IMAGE, insert
from pacs.index.compiled_statement import CompiledStatement
from pacs.index.database import Index, LostRace
from pacs.index.dialects import among
from pacs.index.key_order import Headers, add_locked
from pacs.index.parent_rows import UID
from pacs.index.rows import NewInstance
from pacs.index.tables import JOINED, image, patient, series, study

__all__ = [
    "Headers",
    "NewInstance",
    "StoredInstance",
    "add",
    "find",
    "find_all",
    "find_by_files",
    "is_in_row",
    "is_known",
    "remove",
    "replace",
    "touch",
    "unknown",
]


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """A stored instance: the data for a retrieve and for the check for duplicates."""

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    patient_id: str
    transfer_syntax: str
    file_key: str
    size: int
    digest: str
    data_offset: int
    bulk_offset: int | None


_COLUMN_OF = {name: column for table in (patient, study, series, image) for name, column in table.c.items()}
STORED: Select[Any] = select(*(_COLUMN_OF[field.name] for field in fields(StoredInstance))).select_from(JOINED)
"""Selects stored instances; conditions are added."""

_STORED_ONE = CompiledStatement(lambda _: STORED.where(image.c.sop_instance_uid == UID))
_KNOWN = CompiledStatement(lambda _: KNOWN_IMAGE)


def no_headers(file_key: str) -> Header | None:
    """Refuse to read a file: for an index whose instances are added in the order of their keys."""
    raise LookupError(f"instances disagree, and were not added in the order of their keys: {file_key} is not read")


def add(index: Index, instance: NewInstance, headers: Headers = no_headers) -> tuple[str, ...]:
    """Add an instance to the index; return its conflicts with known rows, as sentences without patient data.

    Where it disagrees with instances that have higher keys, `headers` reads the files of those below the same patients
    or of the older ones among them. Raises DuplicateInstance when its SOP Instance UID is known, IndexUnavailable, and
    the errors of `headers`; then nothing is changed.
    """
    is_added = index.run_shared(lambda driver: insert(driver, index.dialect, instance) or None)
    return () if is_added else index.run_alone(partial(add_locked, instance=instance, headers=headers))


def is_known(index: Index, sop_instance_uid: str) -> bool:
    """Whether an instance with this UID may be stored: a fast check, True when the index fails; `find` is exact."""
    try:
        return index.query_once(
            lambda driver: _KNOWN.first(driver, index.dialect, {"uid": sop_instance_uid}) is not None
        )
    except IndexUnavailable:
        return True


def find(index: Index, sop_instance_uid: str) -> StoredInstance | None:
    """Return the stored instance with this UID, or None. Raises IndexUnavailable."""
    with index.single() as connection:
        found = _STORED_ONE.execute(connection, {"uid": sop_instance_uid}).first()
    return StoredInstance(*tuple(found)) if found is not None else None


def find_all(index: Index, sop_instance_uids: Sequence[str]) -> list[StoredInstance]:
    """Return the stored instances among these UIDs. Raises IndexUnavailable."""
    with index.read() as connection:
        return _stored(connection, among(image.c.sop_instance_uid, sop_instance_uids))


def find_by_files(index: Index, file_keys: Sequence[str]) -> list[StoredInstance]:
    """Return the stored instances that have these files. Raises IndexUnavailable."""
    with index.read() as connection:
        return _stored(connection, among(image.c.file_key, file_keys))


def unknown(index: Index, file_keys: Sequence[str]) -> list[str]:
    """Return the file keys that no stored instance has. Raises IndexUnavailable."""
    with index.read() as connection:
        known = set(connection.execute(select(image.c.file_key).where(among(image.c.file_key, file_keys))).scalars())
    return [key for key in file_keys if key not in known]


def is_in_row(index: Index, file_key: str) -> bool:
    """Whether a stored instance has a file, also after all transactions that are being committed now.

    The database may still commit one whose connection has broken. Raises IndexUnavailable.
    """
    with index.read_after_writers(image.name) as connection:
        return connection.execute(select(image.c.id).where(image.c.file_key == file_key)).first() is not None


def replace(index: Index, instance: NewInstance, former_key: str, headers: Headers = no_headers) -> StoredInstance:
    """Replace the instance with the same SOP Instance UID and the file `former_key`, and return it.

    The caller deletes the former file afterwards. Raises InstanceUnreadable when it is not stored, or has another file
    by now, IndexUnavailable, and the errors of `headers` (see `add`).
    """
    chosen = (image.c.sop_instance_uid == instance.header.sop_instance_uid) & (image.c.file_key == former_key)

    def work(connection: Connection) -> StoredInstance:
        former = _remove(connection, chosen)
        if not former:
            raise InstanceUnreadable("the instance to be replaced is no longer stored")
        add_locked(connection, instance, headers)
        return former[0]

    return index.transact(work)


def remove(
    index: Index, sop_instance_uids: Sequence[str], file_keys: Sequence[str] | None = None
) -> list[StoredInstance]:
    """Remove instances, and parents without children; return the removed instances.

    With `file_keys`, removes only instances with one of these files. Raises IndexUnavailable.
    """
    chosen = among(image.c.sop_instance_uid, sop_instance_uids)
    if file_keys is not None:
        chosen &= among(image.c.file_key, file_keys)
    return index.transact(lambda connection: _remove(connection, chosen))


def touch(index: Index, sop_instance_uids: Sequence[str], when: int) -> None:
    """Set the last use of instances to `when`, in microseconds since 1970 UTC. Raises IndexUnavailable."""
    chosen = among(image.c.sop_instance_uid, sorted(sop_instance_uids))
    index.transact(lambda connection: connection.execute(update(image).where(chosen).values(last_used_at=when)))


def _stored(connection: Connection, chosen: ColumnElement[bool]) -> list[StoredInstance]:
    return [StoredInstance(*row) for row in connection.execute(STORED.where(chosen))]


def _remove(connection: Connection, chosen: ColumnElement[bool]) -> list[StoredInstance]:
    parents = _lock_parents(connection, chosen)
    removed = _stored(connection, chosen)
    connection.execute(delete(image).where(chosen))
    for parent, child, reference in (
        (series, image, image.c.series_fk),
        (study, series, series.c.study_fk),
        (patient, study, study.c.patient_fk),
    ):
        is_childless = ~exists().where(reference == parent.c.id).select_from(child)
        connection.execute(delete(parent).where(among(parent.c.id, parents[parent.name]), is_childless))
    return removed


def _lock_parents(connection: Connection, chosen: ColumnElement[bool]) -> dict[str, list[int]]:
    """Lock the parents of images from the top down, so that concurrent removals see each other; return their ids.

    Raises LostRace when the images were moved to another patient while it was waited for.
    """

    def above(table: Table) -> list[int]:
        return sorted(connection.execute(select(table.c.id).select_from(JOINED).where(chosen).distinct()).scalars())

    parents = {}
    for table in (patient, study, series):
        parents[table.name] = above(table)
        locked = select(table.c.id).where(among(table.c.id, parents[table.name])).order_by(table.c.id)
        connection.execute(locked.with_for_update())
        if table is patient and above(patient) != parents[patient.name]:
            raise LostRace("instances were moved by another transaction")
    return parents
