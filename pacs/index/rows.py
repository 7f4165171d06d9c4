"""The rows of a new instance in the four tables."""

from dataclasses import dataclass, fields

from pacs.dicom import row_elements
from pacs.dicom.attributes import column_name
from pacs.dicom.header import Header
from pacs.dicom.levels import QueryLevel
from pacs.index.tables import NEVER_NULL

Row = dict[str, row_elements.Column | bytes]
"""A row to write: column name -> value."""


@dataclass(frozen=True, slots=True)
class NewInstance:
    """A new instance for the index, whose file is durable.

    `size` is that of the file in bytes, `digest` hexadecimal text, `data_offset` the offset of the data set in the file
    in bytes, `received_at` in microseconds since 1970 UTC, `source_ae` the calling AE title.
    """

    header: Header
    file_key: str
    size: int
    digest: str
    transfer_syntax: str
    data_offset: int
    received_at: int
    source_ae: str


_FILE_COLUMNS = tuple(field.name for field in fields(NewInstance) if field.name != "header")

_IDENTITY_COLUMNS = {column_name(keyword) for keyword in NEVER_NULL}
"""The columns that identify a row; their values come from the header and never change."""


def patient_identity(header: Header) -> Row:
    """Return the identity of a patient: Patient ID and issuer, and the study without a Patient ID."""
    apart = "" if header.patient_id else header.study_instance_uid
    return {"patient_id": header.patient_id, "issuer_of_patient_id": header.issuer, "apart": apart}


def columns(level: QueryLevel, blob: bytes) -> Row:
    """Return the row elements and the columns with their values, without those that identify the row."""
    row: Row = {
        name: value for name, value in row_elements.columns(level, blob).items() if name not in _IDENTITY_COLUMNS
    }
    row["kept"] = blob
    return row


def image_row(instance: NewInstance) -> Row:
    """Return the row of an image, without the key of its series."""
    header = instance.header
    row = columns(QueryLevel.IMAGE, header.kept[QueryLevel.IMAGE])
    row |= {name: getattr(instance, name) for name in _FILE_COLUMNS}
    row["sop_instance_uid"], row["sop_class_uid"] = header.sop_instance_uid, header.sop_class_uid
    row["bulk_offset"] = header.bulk_offset
    return row
