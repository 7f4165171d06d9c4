"""Inserts the next image of a known series by one statement, without a query before it.

The statement checks that series, study and patient have exactly the elements of the new image, so that there is nothing
to merge and no conflict, and that the order of keys does not matter. Otherwise it inserts nothing. On PostgreSQL it
locks the three rows, the patient first: it waits for a transaction that rebuilds them, and then checks them again.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from pacs.dicom.levels import QueryLevel
from pacs.index.compiled_statement import CompiledStatement
from pacs.index.rows import NewInstance, image_row, patient_identity
from pacs.index.tables import image, patient, series, study

_INSERTED = [column for column in image.c if column.name not in ("id", "series_fk", "last_used_at")]

_EXPECTED = {
    "known_patient": patient.c.kept,
    "known_study": study.c.kept,
    "known_series": series.c.kept,
    "known_patient_id": patient.c.patient_id,
    "known_issuer": patient.c.issuer_of_patient_id,
    "known_apart": patient.c.apart,
    "known_study_uid": study.c.study_instance_uid,
    "known_series_uid": series.c.series_instance_uid,
}
"""The values that must be equal: parameter -> column."""


def parameters(instance: NewInstance) -> dict[str, Any]:
    """Return the parameters of the statement for one image."""
    header = instance.header
    return image_row(instance) | dict(
        zip(
            _EXPECTED,
            (
                *(header.kept[level] for level in (QueryLevel.PATIENT, QueryLevel.STUDY, QueryLevel.SERIES)),
                *patient_identity(header).values(),
                header.study_instance_uid,
                header.series_instance_uid,
            ),
            strict=True,
        )
    )


def insert(driver: Any, dialect: str, values: dict[str, Any]) -> bool:
    """Insert a new image if the rows above it have exactly its elements; return whether it was inserted.

    `driver` is a driver connection of this dialect, in a transaction.
    """
    return _INSERT.first(driver, dialect, values) is not None


def insert_below(connection: Connection, instance: NewInstance, kept: Mapping[QueryLevel, bytes]) -> bool:
    """Insert a new image if the rows above it have these elements; return whether it was inserted."""
    values = parameters(instance) | {f"known_{level.name.lower()}": blob for level, blob in kept.items()}
    return _INSERT.execute(connection, values).first() is not None


def _statement(dialect: str) -> ReturningInsert[Any]:
    given = [bindparam(column.name, type_=column.type) for column in _INSERTED]
    expected = [column == bindparam(name, type_=column.type) for name, column in _EXPECTED.items()]
    known = select(series.c.id, *given).select_from(series.join(study).join(patient)).where(*expected)
    known = known.with_for_update(read=True, key_share=True, of=[patient, study, series])
    insertion = sqlite.insert(image) if dialect == "sqlite" else postgresql.insert(image)
    filled = insertion.from_select(["series_fk", *(column.name for column in _INSERTED)], known)
    return filled.on_conflict_do_nothing(index_elements=["sop_instance_uid"]).returning(image.c.id)


_INSERT = CompiledStatement(_statement)
