"""Valid data sets for tests, identical for identical arguments. pydicom is imported on first use."""

import hashlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"

# --- data sets ---------------------------------------------------------------------------------------------------

PLANE = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}
PROJECTION = {"PixelIntensityRelationship": "LIN", "PositionerType": "NONE"}
DOCUMENT = {"ConversionType": "WSD", "DocumentTitle": "A page", "BurnedInAnnotation": "NO"}

MODALITIES: dict[str, tuple[str, dict[str, Any]]] = {
    "CT": ("1.2.840.10008.5.1.4.1.1.2", {**PLANE, "SliceThickness": 1, "KVP": 120, "RescaleIntercept": -1024}),
    "MR": ("1.2.840.10008.5.1.4.1.1.4", {**PLANE, "ScanningSequence": "SE", "SequenceVariant": "NONE", "EchoTime": 10}),
    "PT": ("1.2.840.10008.5.1.4.1.1.128", {**PLANE, "Units": "BQML", "CountsSource": "EMISSION"}),
    "CR": ("1.2.840.10008.5.1.4.1.1.1", {"ViewPosition": "PA", "BodyPartExamined": "CHEST"}),
    "XA": ("1.2.840.10008.5.1.4.1.1.12.1", {**PROJECTION, "RadiationSetting": "GR"}),
    "US": ("1.2.840.10008.5.1.4.1.1.6.1", {"LossyImageCompression": "00"}),
    "OT": ("1.2.840.10008.5.1.4.1.1.7", {"ConversionType": "WSD"}),
    "DOC": ("1.2.840.10008.5.1.4.1.1.104.1", DOCUMENT),
}
"""The Storage SOP Class and the attributes of its modules, by modality."""


PATIENT, PATIENT_ID = "DOE^JOHN", "P1"

IDENTIFYING = ("IssuerOfPatientID", "StudyInstanceUID", "AccessionNumber", "StudyID", "StudyDate")
"""Attributes that distinguish studies: UIDs are derived from those that are given."""


def study(
    patient: str = PATIENT,
    modality: str = "CT",
    series: int = 2,
    instances: int = 20,
    *,
    patient_id: str | None = None,
    number: int = 1,
    size: int = 8,
    character_set: str | list[str] | None = None,
    transfer_syntax: str = EXPLICIT_LITTLE,
    **attributes: Any,
) -> list["Dataset"]:
    """Return the data sets of a study with `series` series of `instances` instances each, with File Meta Information.

    Without `patient_id`, it is derived from `patient`: patients of different names are different patients. `number`
    distinguishes the studies of a patient. UIDs are derived from `patient_id`, `number`, `modality` and attributes that
    distinguish studies (`IDENTIFYING`). `size` is Rows and Columns. `attributes` are set in every data set, by keyword;
    PatientName and PatientID are the same as `patient` and `patient_id`. Without `character_set`, non-ASCII texts are
    encoded in UTF-8. In an encapsulated `transfer_syntax`, pixels are compressed if the archive has an encoder (RLE,
    and JPEG-LS, JPEG 2000 and HTJ2K without loss), otherwise they are a placeholder that no codec decodes.

    Raises ValueError for an unknown `modality` or attribute.
    """
    from pacs.testing.keyword_check import check_keywords

    if modality not in MODALITIES:
        raise ValueError(f"unknown modality {modality!r}; expected one of {', '.join(MODALITIES)}")
    check_keywords(attributes, PARAMETERS)
    patient = attributes.get("PatientName") or patient
    if patient_id is None:
        patient_id = attributes.get("PatientID") or _patient_id(str(patient))
    if character_set is None and not f"{patient}{patient_id}{attributes}".isascii():
        character_set = "ISO_IR 192"
    root = "/".join([f"{patient_id}/{number}/{modality}", *_identifying(attributes)])
    names = {"PatientName": patient, "PatientID": patient_id, "SpecificCharacterSet": character_set or []}
    shared = names | _of_study(modality, number, root)
    return [
        _dataset(
            shared
            | _of_instance(modality, root, place, instance)
            | _content(modality, instance, size, transfer_syntax),
            attributes,
            transfer_syntax,
        )
        for place in range(1, series + 1)
        for instance in range(1, instances + 1)
    ]


def _patient_id(patient: str) -> str:
    """Return the Patient ID of a patient of this name."""
    return PATIENT_ID if patient == PATIENT else f"P{int(hashlib.sha256(patient.encode()).hexdigest(), 16) % 10**8:08}"


def _identifying(attributes: Mapping[str, Any]) -> list[str]:
    return [f"{keyword}={attributes[keyword]}" for keyword in IDENTIFYING if attributes.get(keyword)]


PARAMETERS = tuple(each for each in inspect.signature(study).parameters if each != "attributes")
"""The parameters of `study` other than attributes."""


def studies(patients: int = 3, per_patient: int = 2, **arguments: Any) -> list["Dataset"]:
    """Return the data sets of patients P1, P2, ..., with some studies each; `arguments` are those of `study`."""
    built: list[Dataset] = []
    for patient in range(1, patients + 1):
        for number in range(1, per_patient + 1):
            named: dict[str, Any] = {"patient": f"DOE^NUMBER{patient}", "patient_id": f"P{patient}", "number": number}
            built += study(**named | arguments)
    return built


def uid(text: str) -> str:
    """Return the UID derived from a text (PS3.5 B.2)."""
    return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], 'big')}"


def _of_study(modality: str, number: int, root: str) -> dict[str, Any]:
    """Return the attributes that all instances of a study share, except those of the patient."""
    return {
        "PatientBirthDate": "19700101",
        "PatientSex": "O",
        "StudyInstanceUID": uid(root),
        "StudyDate": f"2026{1 + (number - 1) % 12:02}01",
        "StudyTime": "101500",
        "StudyID": str(number),
        "AccessionNumber": f"A{number}",
        "ReferringPhysicianName": "WELBY^MARCUS",
        "StudyDescription": f"{modality} study {number}",
        "Modality": modality,
        "Manufacturer": "pacs.testing",
        "FrameOfReferenceUID": uid(f"{root}/frame"),
        "PositionReferenceIndicator": "",
    }


def _of_instance(modality: str, root: str, series: int, instance: int) -> dict[str, Any]:
    """Return the attributes of one instance and its series, except its content."""
    sop_class, own = MODALITIES[modality]
    place = {"ImagePositionPatient": [0, 0, instance]} if "ImagePositionPatient" in own else {}
    return own | place | {
        "SOPClassUID": sop_class,
        "SOPInstanceUID": uid(f"{root}/{series}/{instance}"),
        "SeriesInstanceUID": uid(f"{root}/{series}"),
        "SeriesNumber": series,
        "SeriesDescription": f"series {series}",
        "InstanceNumber": instance,
        "ContentDate": "20260101",
        "ContentTime": f"1015{instance % 60:02}",
    }  # fmt: skip


def _dataset(values: Mapping[str, Any], attributes: Mapping[str, Any], syntax: str) -> "Dataset":
    from pydicom.dataset import Dataset

    dataset = Dataset()
    for keyword, value in (dict(values) | dict(attributes)).items():
        if keyword != "SpecificCharacterSet" or value:
            setattr(dataset, keyword, value)
    dataset.file_meta = _file_meta(dataset, syntax)
    return dataset


def _content(modality: str, instance: int, size: int, syntax: str) -> dict[str, Any]:
    """Return the content of an instance: a page, or an image of `size` by `size` pixels with a gradient."""
    if modality == "DOC":
        return {"MIMETypeOfEncapsulatedDocument": "application/pdf", "EncapsulatedDocument": b"%PDF-1.4\n%%EOF \n"}
    return {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": size,
        "Columns": size,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": _pixels(instance, size, syntax),
    }


def _pixels(instance: int, size: int, syntax: str) -> bytes:
    from pydicom.uid import UID

    order = "big" if syntax == EXPLICIT_BIG else "little"
    row = b"".join(((instance + column) % 4096).to_bytes(2, order) for column in range(size))  # type: ignore[arg-type]
    return _encapsulated(instance, size, row * size, syntax) if UID(syntax).is_encapsulated else row * size


def _encapsulated(instance: int, size: int, native: bytes, syntax: str) -> bytes:
    """Return one frame, losslessly compressed if there is an encoder."""
    from pydicom.encaps import encapsulate

    from pacs.pixels.capabilities import ENCODED
    from pacs.pixels.codecs import encode
    from pacs.pixels.image_pixel import ImagePixel

    if syntax not in ENCODED:
        return encapsulate([b"a placeholder of frame %d " % instance])
    return encapsulate([encode(native, ImagePixel(size, size, 1, "MONOCHROME2", 0, 16, 12, 11, 0), syntax)])


def _file_meta(dataset: "Dataset", syntax: str) -> Any:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = UID(syntax)
    meta.ImplementationClassUID = UID(uid("pacs.testing"))
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OB" if meta.TransferSyntaxUID.is_encapsulated else "OW"
    return meta


def write(datasets: Iterable["Dataset"], folder: Path) -> list[Path]:
    """Write data sets as numbered Part 10 files to a new or existing folder; return the paths."""
    from pydicom import dcmwrite

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for place, dataset in enumerate(datasets, 1):
        paths.append(folder / f"{place:06}.dcm")
        dcmwrite(paths[-1], dataset, enforce_file_format=True)
    return paths
