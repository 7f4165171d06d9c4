"""What an arriving instance writes into each of the four tables."""

from dataclasses import dataclass, fields

from pacs.dicom import row_elements
from pacs.dicom.attributes import column_name
from pacs.dicom.header import Header
from pacs.dicom.levels import QueryLevel
from pacs.index.tables import NEVER_NULL

Row = dict[str, row_elements.Column | bytes]
"""Column name -> value of one row that is to be written."""


@dataclass(frozen=True, slots=True)
class NewInstance:
    """An instance whose file is durable, on its way into the index.

    `size` is the file's in bytes, `digest` hex text, `data_offset` where the data set begins in the file in bytes,
    `received_at` in microseconds since 1970 UTC, `source_ae` the calling AE title.
    """

    header: Header
    file_key: str
    size: int
    digest: str
    transfer_syntax: str
    data_offset: int
    received_at: int
    source_ae: str


_FACTS = tuple(field.name for field in fields(NewInstance) if field.name != "header")

_GIVEN = {column_name(keyword) for keyword in NEVER_NULL}
"""The columns that come from the header: they identify a row and never change."""


def patient_identity(header: Header) -> Row:
    """What makes a patient: Patient ID and issuer, and the study where there is no Patient ID."""
    apart = "" if header.patient_id else header.study_instance_uid
    return {"patient_id": header.patient_id, "issuer_of_patient_id": header.issuer, "apart": apart}


def columns(level: QueryLevel, blob: bytes) -> Row:
    """The kept elements of a row and the columns made of them, but for those that identify it."""
    row: Row = {name: value for name, value in row_elements.columns(level, blob).items() if name not in _GIVEN}
    row["kept"] = blob
    return row


def image_row(arrival: NewInstance) -> Row:
    """The row of the image itself, without the series it belongs to."""
    header = arrival.header
    row = columns(QueryLevel.IMAGE, header.kept[QueryLevel.IMAGE])
    row |= {name: getattr(arrival, name) for name in _FACTS}
    row["sop_instance_uid"], row["sop_class_uid"] = header.sop_instance_uid, header.sop_class_uid
    row["bulk_offset"] = header.bulk_offset
    return row
