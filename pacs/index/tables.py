"""The tables: one per Query/Retrieve level, and one for the storage commitments that have not been reported yet.

A level has a column for every attribute that is matched in SQL, generated from `pacs.dicom.attributes.COLUMNS`. It has
comparable values (`pacs.dicom.row_elements.columns`); the received values are in `kept`. NULL is a zero length or
absent value.

Text is compared in byte order on both databases: SQLite's BINARY, PostgreSQL's collation "C".
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import TEXT

from pacs.dicom.attributes import COLUMNS, by_keyword, column_name
from pacs.dicom.levels import QueryLevel

NAMING = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}

ByteText = Text().with_variant(TEXT(collation="C"), "postgresql")
"""Text that is compared and ordered by its UTF-8 bytes, on both databases."""

Key = BigInteger().with_variant(Integer, "sqlite")
"""A primary key, 64 bits wide on both databases (SQLite's INTEGER PRIMARY KEY is its rowid)."""

NAME_GROUPS = ("", "_ideographic", "_phonetic")
"""The suffix of a column for each of the three component groups of a Person Name (PS3.5 6.2.1.1)."""

SOUNDS = "_sounds"
"""The suffix of the column for the phonetic keys of a Person Name, joined and surrounded by spaces."""

NEVER_NULL = {"PatientID", "IssuerOfPatientID", *(level.unique_key for level in QueryLevel), "SOPClassUID"}
"""The attributes that identify a row. An unknown Patient ID or issuer is '', because NULLs are not unique."""

metadata = MetaData(naming_convention=NAMING)


def _attribute_columns(level: QueryLevel) -> list[Column[str] | Column[int]]:
    """Return the columns of the attributes of a level, in the order of the attribute table."""
    return [column for keyword in COLUMNS[level] for column in _columns_of(keyword)]


def _columns_of(keyword: str) -> list[Column[str] | Column[int]]:
    name, vr = column_name(keyword), by_keyword(keyword).vr
    if vr == "PN":
        return [Column(name + part, ByteText) for part in (*NAME_GROUPS, SOUNDS)]
    if vr == "IS":
        return [Column(name, BigInteger)]
    return [Column(name, ByteText, nullable=keyword not in NEVER_NULL)]


def _level_columns() -> tuple[Column[bytes], Column[bool]]:
    """Return the columns of every level: its row elements, and whether it must be matched outside SQL."""
    return Column("kept", LargeBinary, nullable=False), Column("irregular", Boolean, nullable=False)


def _parent(level: QueryLevel) -> Column[int]:
    name = level.name.lower()
    return Column(f"{name}_fk", Key, ForeignKey(f"{name}.id"), nullable=False)


patient = Table(
    "patient",
    metadata,
    Column("id", Key, primary_key=True),
    *_attribute_columns(QueryLevel.PATIENT),
    # The Study Instance UID where there is no Patient ID, so that unknown patients are never merged.
    Column("apart", ByteText, nullable=False, server_default=""),
    *_level_columns(),
    UniqueConstraint("patient_id", "issuer_of_patient_id", "apart"),
)

study = Table(
    "study",
    metadata,
    Column("id", Key, primary_key=True),
    _parent(QueryLevel.PATIENT),
    *_attribute_columns(QueryLevel.STUDY),
    *_level_columns(),
    UniqueConstraint("study_instance_uid"),
)

series = Table(
    "series",
    metadata,
    Column("id", Key, primary_key=True),
    _parent(QueryLevel.STUDY),
    *_attribute_columns(QueryLevel.SERIES),
    *_level_columns(),
    UniqueConstraint("series_instance_uid"),
)

image = Table(
    "image",
    metadata,
    Column("id", Key, primary_key=True),
    _parent(QueryLevel.SERIES),
    *_attribute_columns(QueryLevel.IMAGE),
    *_level_columns(),
    Column("file_key", ByteText, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("digest", ByteText, nullable=False),
    Column("transfer_syntax", ByteText, nullable=False),
    Column("data_offset", BigInteger, nullable=False),
    Column("bulk_offset", BigInteger),
    Column("received_at", BigInteger, nullable=False),
    Column("last_used_at", BigInteger),
    Column("source_ae", ByteText, nullable=False),
    UniqueConstraint("sop_instance_uid"),
    UniqueConstraint("file_key"),
)

TABLES: dict[QueryLevel, Table] = dict(zip(QueryLevel, (patient, study, series, image), strict=True))
"""The table of each level."""

JOINED = image.join(series).join(study).join(patient)
"""The join of all levels."""

commitment = Table(
    "commitment",
    metadata,
    Column("id", Key, primary_key=True),
    Column("peer", ByteText, nullable=False),
    Column("transaction_uid", ByteText, nullable=False),
    # `pacs.services.commitment` encodes these two.
    Column("requested", LargeBinary, nullable=False),
    Column("verified", LargeBinary),
    Column("requested_at", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("claimed_until", BigInteger),
    Column("claim", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    UniqueConstraint("peer", "transaction_uid"),
)
"""The transactions of storage commitment that are active; times are in microseconds since 1970 UTC."""

for _column in (
    commitment.c.due_at,
    patient.c.patient_name,
    patient.c.patient_name_ideographic,
    patient.c.patient_name_phonetic,
    patient.c.patient_birth_date,
    study.c.patient_fk,
    study.c.study_date,
    study.c.accession_number,
    study.c.study_id,
    study.c.referring_physician_name,
    series.c.performed_procedure_step_start_date,
):
    Index(None, _column)

# For the foreign keys and for the computed attributes of a study (ModalitiesInStudy, SOPClassesInStudy).
Index(None, series.c.study_fk, series.c.modality)
Index(None, image.c.series_fk, image.c.sop_class_uid)

for _table in TABLES.values():
    # Finds the few irregular rows without reading the others.
    Index(
        f"ix_{_table.name}_irregular",
        _table.c.id,
        sqlite_where=text("irregular = 1"),
        postgresql_where=text("irregular"),
    )
