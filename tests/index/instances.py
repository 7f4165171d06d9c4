"""Instances on their way into an index, written as a test needs them: keywords and values, through the real header."""

from io import BytesIO
from typing import Any

from pydicom import Dataset, dcmwrite
from pydicom.uid import ExplicitVRLittleEndian

from pacs.dicom.header import read_header
from pacs.dicom.levels import QueryLevel
from pacs.index import writer
from pacs.index.database import Index
from pacs.index.writer import NewInstance

CT = "1.2.840.10008.5.1.4.1.1.2"

PATIENT, STUDY, SERIES, IMAGE = QueryLevel


def dataset(number: int = 1, **attributes: Any) -> Dataset:
    """A data set of patient P1, study 1.2.1, series 1.2.1.1 with instance `number`, and the attributes given."""
    elements = Dataset()
    elements.SpecificCharacterSet = "ISO_IR 192"
    defaults = {"PatientID": "P1", "StudyInstanceUID": "1.2.1", "SeriesInstanceUID": "1.2.1.1", "SOPClassUID": CT}
    for keyword, value in (defaults | {"SOPInstanceUID": f"1.2.1.1.{number}"} | attributes).items():
        if value is not None:
            setattr(elements, keyword, value)
    return elements


def new_instance(number: int = 1, **attributes: Any) -> NewInstance:
    """Return the new instance of `dataset(number, **attributes)`."""
    return instance_of(dataset(number, **attributes))


def instance_of(elements: Dataset, **facts: Any) -> NewInstance:
    """Return the new instance of a data set."""
    body = BytesIO()
    dcmwrite(body, elements, implicit_vr=False, little_endian=True)
    body.seek(0)
    header = read_header(body, ExplicitVRLittleEndian)
    known = {
        "file_key": f"2026/11/21/03/{header.sop_instance_uid}.dcm",
        "size": len(body.getvalue()) + 500,
        "digest": "00" * 32,
        "transfer_syntax": ExplicitVRLittleEndian,
        "data_offset": 500,
        "received_at": 1_795_000_000_000_000,
        "source_ae": "MODALITY",
    }
    return NewInstance(header=header, **(known | facts))


def fill(index: Index, *datasets: Dataset) -> None:
    """Add data sets to the index."""
    for elements in datasets:
        writer.add(index, instance_of(elements))


def study(uid: int, patient: str | None = "P1", **attributes: Any) -> Dataset:
    """Return the only data set of study 1.2.`uid`."""
    root = f"1.2.{uid}"
    uids = {"StudyInstanceUID": root, "SeriesInstanceUID": f"{root}.1", "SOPInstanceUID": f"{root}.1.1"}
    return dataset(**(uids | {"PatientID": patient} | attributes))
