"""The next image of a series that is known as it is sent: one statement, and nothing to be asked before.

The statement itself looks whether series, study and patient are there with the very elements that came with the image.
Then nothing is to be filled and nothing in conflict; whatever else is the case, it inserts nothing.
"""

from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from pacs.dicom.levels import QueryLevel
from pacs.index.compiled import CompiledStatement
from pacs.index.rows import NewInstance, image_row, patient_identity
from pacs.index.tables import image, patient, series, study

_WRITTEN = [column for column in image.c if column.name not in ("id", "series_fk", "last_used_at")]

_ASKED = {
    "known_patient": patient.c.kept,
    "known_study": study.c.kept,
    "known_series": series.c.kept,
    "known_patient_id": patient.c.patient_id,
    "known_issuer": patient.c.issuer_of_patient_id,
    "known_apart": patient.c.apart,
    "known_study_uid": study.c.study_instance_uid,
    "known_series_uid": series.c.series_instance_uid,
}
"""What has to be known exactly so: parameter -> column."""


def parameters(arrival: NewInstance) -> dict[str, Any]:
    """The values of the statement for one image."""
    header = arrival.header
    return image_row(arrival) | dict(
        zip(
            _ASKED,
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
    """Insert an image if all above it is known exactly as it was sent, and itself is not: whether that was so.

    `driver` is a connection as the driver of that dialect has it, in a transaction.
    """
    return _INSERTION.first(driver, dialect, values) is not None


def _built(dialect: str) -> ReturningInsert[Any]:
    given = [bindparam(column.name, type_=column.type) for column in _WRITTEN]
    asked = [column == bindparam(name, type_=column.type) for name, column in _ASKED.items()]
    known = select(series.c.id, *given).select_from(series.join(study).join(patient)).where(*asked)
    insertion = sqlite.insert(image) if dialect == "sqlite" else postgresql.insert(image)
    filled = insertion.from_select(["series_fk", *(column.name for column in _WRITTEN)], known)
    return filled.on_conflict_do_nothing(index_elements=["sop_instance_uid"]).returning(image.c.id)


_INSERTION = CompiledStatement(_built)
