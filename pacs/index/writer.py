"""Adds and removes instances: the rows of an instance and of its series, study and patient.

A patient is identified by Patient ID and Issuer of Patient ID; without a Patient ID each study has its own patient. The
first committed instance wins: a series stays in its study and a study with its patient, regardless of later instances.
Of the elements of a level the first received value stays, and later instances fill empty ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, delete, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite

from pacs.dicom import row_elements
from pacs.dicom.levels import QueryLevel
from pacs.errors import DuplicateInstance, IndexUnavailable, InstanceUnreadable
from pacs.index import fast_insert
from pacs.index.compiled_statement import CompiledStatement
from pacs.index.database import Index, LostRace
from pacs.index.dialects import among
from pacs.index.rows import NewInstance, Row, columns, image_row, patient_identity
from pacs.index.tables import TABLES, image, patient, series, study

__all__ = [
    "NewInstance",
    "StoredInstance",
    "add",
    "find",
    "find_all",
    "is_known",
    "remove",
    "replace",
    "touch",
    "unknown",
]

PATIENT, STUDY, SERIES, IMAGE = QueryLevel


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


JOINED = image.join(series).join(study).join(patient)
"""The join of all levels."""

_COLUMN_OF = {name: column for table in (patient, study, series, image) for name, column in table.c.items()}
STORED: Select[Any] = select(*(_COLUMN_OF[field.name] for field in fields(StoredInstance))).select_from(JOINED)
"""Selects stored instances; conditions are added."""

_STORED_ONE = CompiledStatement(
    lambda _: STORED.where(image.c.sop_instance_uid == bindparam("uid", type_=image.c.sop_instance_uid.type))
)


def add(index: Index, instance: NewInstance) -> tuple[str, ...]:
    """Add an instance to the index; return its conflicts with known rows, as sentences without patient data.

    Raises DuplicateInstance when its SOP Instance UID is known, IndexUnavailable.
    """
    values = fast_insert.parameters(instance)

    def quick(driver: Any) -> tuple[str, ...] | None:
        return () if fast_insert.insert(driver, index.dialect, values) else None

    return index.run_shared(lambda connection: _Addition(connection, instance).run(), quick)


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
    chosen = STORED.where(among(image.c.sop_instance_uid, sop_instance_uids))
    with index.read() as connection:
        return [StoredInstance(*row) for row in connection.execute(chosen)]


def unknown(index: Index, file_keys: Sequence[str]) -> list[str]:
    """Return the file keys that no stored instance has. Raises IndexUnavailable."""
    with index.read() as connection:
        known = set(connection.execute(select(image.c.file_key).where(among(image.c.file_key, file_keys))).scalars())
    return [key for key in file_keys if key not in known]


def replace(index: Index, instance: NewInstance) -> StoredInstance:
    """Replace the instance with the same SOP Instance UID, and return the former one.

    The caller deletes the former file afterwards. Raises InstanceUnreadable when no instance with this UID is stored,
    IndexUnavailable.
    """

    def work(connection: Connection) -> StoredInstance:
        former = _remove(connection, image.c.sop_instance_uid == instance.header.sop_instance_uid)
        if not former:
            raise InstanceUnreadable("the instance to be replaced is no longer stored")
        _Addition(connection, instance).run()
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


class _Addition:
    """Adds one instance to the four tables, in one transaction."""

    def __init__(self, connection: Connection, instance: NewInstance) -> None:
        self._connection, self._instance, self._header = connection, instance, instance.header
        self._conflicts: list[str] = []

    def run(self) -> tuple[str, ...]:
        known = self._first(_KNOWN_IMAGE, {"uid": self._header.sop_instance_uid})
        if known is not None or self._image(self._series()) is None:
            raise DuplicateInstance("SOP Instance is stored already")
        return tuple(self._conflicts)

    def _patient(self) -> int:
        own = patient_identity(self._header)
        found = self._first(_KNOWN_PATIENT, own)
        if found is None:
            return self._new(PATIENT, own)
        return self._fill(PATIENT, found.id, found.kept)

    def _study(self) -> int:
        uid = self._header.study_instance_uid
        found = self._first(_KNOWN_STUDY, {"uid": uid})
        if found is None:
            return self._new(STUDY, {"study_instance_uid": uid, "patient_fk": self._patient()})
        if all(getattr(found, name) == value for name, value in patient_identity(self._header).items()):
            self._patient()
        else:
            self._conflicts.append("Study is known under another patient")
        return self._fill(STUDY, found.id, found.kept)

    def _series(self) -> int:
        uid = self._header.series_instance_uid
        found = self._first(_KNOWN_SERIES, {"uid": uid})
        if found is None:
            return self._new(SERIES, {"series_instance_uid": uid, "study_fk": self._study()})
        if found.study_instance_uid == self._header.study_instance_uid:
            self._study()
        else:
            self._conflicts.append("Series is known under another study")
        return self._fill(SERIES, found.id, found.kept)

    def _first(self, statement: Select[Any], values: Mapping[str, Any]) -> Any:
        return self._connection.execute(statement, values).first()

    def _image(self, series_id: int) -> int | None:
        """Insert the image; return its id, or None when another transaction has just committed it."""
        return self._insert(IMAGE, image_row(self._instance) | {"series_fk": series_id})

    def _new(self, level: QueryLevel, known: Row) -> int:
        """Insert a row and return its id. Raises LostRace when another transaction has just committed it."""
        inserted = self._insert(level, known)
        if inserted is None:
            raise LostRace(f"{level.name} was added by another transaction")
        return inserted

    def _insert(self, level: QueryLevel, known: Row) -> int | None:
        row = columns(level, self._header.kept[level]) | known
        return self._connection.execute(_insertion(level, self._connection.dialect.name), row).scalar()

    def _fill(self, level: QueryLevel, row_id: int, known: bytes) -> int:
        """Fill the empty elements of a row with those of this instance; return its id."""
        later, table = self._header.kept[level], TABLES[level]
        if later == known or row_elements.merge(known, later) == known:
            return row_id
        locked = select(table.c.kept).where(table.c.id == row_id).with_for_update(key_share=True)
        now = self._connection.execute(locked).scalar()
        if now is None:
            raise LostRace(f"{level.name} was removed by another transaction")
        filled = columns(level, row_elements.merge(now, later))
        self._connection.execute(update(table).where(table.c.id == row_id).values(filled))
        return row_id


_UNIQUE: dict[QueryLevel, tuple[str, ...]] = {
    PATIENT: ("patient_id", "issuer_of_patient_id", "apart"),
    STUDY: ("study_instance_uid",),
    SERIES: ("series_instance_uid",),
    IMAGE: ("sop_instance_uid",),
}
"""The columns of each table's unique constraint."""

_IDENTITY = [patient.c[name] for name in _UNIQUE[PATIENT]]
_UID = bindparam("uid", type_=image.c.sop_instance_uid.type)

# Statements that are built once: building takes longer than the database needs to run them.
_KNOWN_IMAGE = select(image.c.id).where(image.c.sop_instance_uid == _UID)
_KNOWN = CompiledStatement(lambda _: _KNOWN_IMAGE)
_KNOWN_PATIENT = select(patient.c.id, patient.c.kept).where(
    *(column == bindparam(column.name, type_=column.type) for column in _IDENTITY)
)
_KNOWN_STUDY = (
    select(study.c.id, study.c.kept, *_IDENTITY).join_from(study, patient).where(study.c.study_instance_uid == _UID)
)
_KNOWN_SERIES = (
    select(series.c.id, series.c.kept, study.c.study_instance_uid)
    .join_from(series, study)
    .where(series.c.series_instance_uid == _UID)
)


@cache
def _insertion(level: QueryLevel, dialect: str) -> Any:
    """Return a statement that inserts a row unless it exists, and gives its id."""
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    table = TABLES[level]
    return insert(table).on_conflict_do_nothing(index_elements=sorted(_UNIQUE[level])).returning(table.c.id)


def _remove(connection: Connection, chosen: ColumnElement[bool]) -> list[StoredInstance]:
    parents = _lock_parents(connection, chosen)
    removed = [StoredInstance(*row) for row in connection.execute(STORED.where(chosen))]
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
    """Lock the parents of images from the top down, so that concurrent removals see each other; return their ids."""
    parents = {}
    for table in (patient, study, series):
        ids = connection.execute(select(table.c.id).select_from(JOINED).where(chosen).distinct()).scalars().all()
        parents[table.name] = sorted(ids)
        locked = select(table.c.id).where(among(table.c.id, parents[table.name])).order_by(table.c.id)
        connection.execute(locked.with_for_update())
    return parents
