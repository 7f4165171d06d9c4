"""The rows of a patient, a study and a series: finding those of an instance, adding and filling them.

A patient is identified by Patient ID and Issuer of Patient ID; without a Patient ID each study has its own patient.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from pacs.dicom.header import Header
from pacs.dicom.levels import QueryLevel
from pacs.index.database import LostRace
from pacs.index.dialects import among
from pacs.index.rows import Row, columns, patient_identity
from pacs.index.tables import TABLES, image, patient, series, study

PATIENT, STUDY, SERIES, IMAGE = QueryLevel

PARENTS = (PATIENT, STUDY, SERIES)

UNIQUE: dict[QueryLevel, tuple[str, ...]] = {
    PATIENT: ("patient_id", "issuer_of_patient_id", "apart"),
    STUDY: ("study_instance_uid",),
    SERIES: ("series_instance_uid",),
    IMAGE: ("sop_instance_uid",),
}
"""The columns of each table's unique constraint, which identify a row."""

PARENT_COLUMN = {STUDY: "patient_fk", SERIES: "study_fk", IMAGE: "series_fk"}
"""The columns that refer to the row above."""

CONFLICTS = {SERIES: "Series is known under another study", STUDY: "Study is known under another patient"}


def identity(level: QueryLevel, header: Header) -> Row:
    """Return the columns that identify the row of an instance at a level."""
    if level is PATIENT:
        return patient_identity(header)
    return {UNIQUE[level][0]: header.study_instance_uid if level is STUDY else header.series_instance_uid}


@dataclass(frozen=True, slots=True)
class ParentRows:
    """The rows that an instance names, None for one that does not exist: row of SQLAlchemy with `id` and `kept`."""

    rows: tuple[Any, Any, Any]
    """Those of patient, study and series. The study also has the identity of its patient, the series that of its
    study, and both have `patient_fk`."""
    conflict: QueryLevel | None
    """The level of the row that is below another parent than the instance says."""

    @property
    def concerned(self) -> tuple[QueryLevel, ...]:
        """The levels at which the instance counts, from the top: none above a conflict."""
        return PARENTS if self.conflict is None else PARENTS[self.conflict :]

    @property
    def patients(self) -> set[int]:
        """The surrogate keys of all patients that the instance concerns."""
        top, *others = self.rows
        return {each.patient_fk for each in others if each is not None} | ({top.id} if top is not None else set())


def find(connection: Connection, header: Header) -> ParentRows:
    """Find the rows that an instance names."""
    own = patient_identity(header)
    top = connection.execute(_KNOWN_PATIENT, own).first()
    middle = connection.execute(_KNOWN_STUDY, {"uid": header.study_instance_uid}).first()
    bottom = connection.execute(_KNOWN_SERIES, {"uid": header.series_instance_uid}).first()
    conflict = None
    if bottom is not None and bottom.study_instance_uid != header.study_instance_uid:
        conflict = SERIES
    elif middle is not None and any(getattr(middle, name) != value for name, value in own.items()):
        conflict = STUDY
    return ParentRows((top, middle, bottom), conflict)


def insert(connection: Connection, level: QueryLevel, row: Row) -> int:
    """Insert a row and return its id. Raises LostRace when another transaction has just committed it."""
    inserted: int | None = connection.execute(insertion(level, connection.dialect.name), row).scalar()
    if inserted is None:
        raise LostRace(f"{level.name} was added by another transaction")
    return inserted


def insert_of(connection: Connection, level: QueryLevel, header: Header, parent: int | None) -> int:
    """Insert the row of an instance at a level, below the row with the id `parent`. As `insert`."""
    above = {} if parent is None else {PARENT_COLUMN[level]: parent}
    return insert(connection, level, columns(level, header.kept[level]) | identity(level, header) | above)


def rewrite(connection: Connection, level: QueryLevel, known: Any, row: Row) -> None:
    """Change a row, found with `id` and `kept`. Raises LostRace when another transaction has changed it since."""
    table = TABLES[level]
    unchanged = (table.c.id == known.id) & (table.c.kept == known.kept)
    if not connection.execute(update(table).where(unchanged).values(row)).rowcount:
        raise LostRace(f"{level.name} was changed by another transaction")


def rewrite_locked(connection: Connection, level: QueryLevel, known: Any, row: Row) -> None:
    """Change a row as `rewrite` does, and make statements that wait for the lock of a patient check it again.

    PostgreSQL returns the former row to a SELECT ... FOR KEY SHARE unless the row was locked for more than an UPDATE.
    """
    table = TABLES[level]
    connection.execute(select(table.c.id).where(table.c.id == known.id).with_for_update()).first()
    rewrite(connection, level, known, row)


def lock_patients(connection: Connection, ids: Collection[int]) -> None:
    """Lock the rows of patients against everything that adds or removes instances below them (PostgreSQL)."""
    locked = select(patient.c.id).where(among(patient.c.id, sorted(ids))).order_by(patient.c.id)
    connection.execute(locked.with_for_update()).all()


@cache
def insertion(level: QueryLevel, dialect: str) -> Any:
    """Return a statement that inserts a row unless it exists, and gives its id."""
    statement = sqlite.insert if dialect == "sqlite" else postgresql.insert
    table = TABLES[level]
    return statement(table).on_conflict_do_nothing(index_elements=sorted(UNIQUE[level])).returning(table.c.id)


_IDENTITY = [patient.c[name] for name in UNIQUE[PATIENT]]
UID = bindparam("uid", type_=image.c.sop_instance_uid.type)

# Statements that are built once: building takes longer than the database needs to run them.
_KNOWN_PATIENT = select(patient.c.id, patient.c.kept).where(
    *(column == bindparam(column.name, type_=column.type) for column in _IDENTITY)
)
_KNOWN_STUDY = (
    select(study.c.id, study.c.kept, study.c.patient_fk, *_IDENTITY)
    .join_from(study, patient)
    .where(study.c.study_instance_uid == UID)
)
_KNOWN_SERIES = (
    select(series.c.id, series.c.kept, study.c.study_instance_uid, study.c.patient_fk)
    .join_from(series, study)
    .where(series.c.series_instance_uid == UID)
)
