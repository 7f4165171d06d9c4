"""SOP Classes: the services by UID, and the Storage SOP Classes that the archive stores (PS3.4 B.5 and GG.3)."""

from pydicom.uid import UID_dictionary

from pacs.errors import NotAnInstance, SOPClassNotSupported

VERIFICATION = "1.2.840.10008.1.1"
MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
"""The Storage Commitment Push Model (PS3.4 Annex J)."""
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
"""Its well-known SOP Instance (PS3.4 J.3.5)."""

NON_PATIENT = frozenset(
    (
        "1.2.840.10008.5.1.4.1.1.200.1",  # CT Defined Procedure Protocol
        "1.2.840.10008.5.1.4.1.1.200.3",  # Protocol Approval
        "1.2.840.10008.5.1.4.1.1.200.7",  # XA Defined Procedure Protocol
        "1.2.840.10008.5.1.4.1.1.201.1",  # Inventory
        "1.2.840.10008.5.1.4.38.1",  # Hanging Protocol
        "1.2.840.10008.5.1.4.39.1",  # Color Palette
        "1.2.840.10008.5.1.4.43.1",  # Generic Implant Template
        "1.2.840.10008.5.1.4.44.1",  # Implant Assembly Template
        "1.2.840.10008.5.1.4.45.1",  # Implant Template Group
    )
)
"""The Non-Patient Object Storage SOP Classes (PS3.4 GG.3): their instances belong to no study."""

_NO_INSTANCES = frozenset((MEDIA_STORAGE_DIRECTORY, STORAGE_COMMITMENT, "1.2.840.10008.1.20.2"))
"""SOP Classes with "Storage" in their name that have no instances to store: DICOMDIR and Storage Commitment."""

_NEWER_THAN_PYDICOM = frozenset(
    (
        "1.2.840.10008.5.1.4.1.1.9.100.1",  # Waveform Presentation State
        "1.2.840.10008.5.1.4.1.1.9.100.2",  # Waveform Acquisition Presentation State
        "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
        "1.2.840.10008.5.1.4.1.1.66.8",  # Height Map Segmentation
    )
)

STORAGE = (
    frozenset(uid for uid, entry in UID_dictionary.items() if entry[1] == "SOP Class" and "Storage" in entry[0])
    | _NEWER_THAN_PYDICOM
) - (NON_PATIENT | _NO_INSTANCES)
"""Every Storage SOP Class of the standard whose instances belong to a study, retired ones too."""

VIDEO = frozenset(
    (
        "1.2.840.10008.5.1.4.1.1.77.1.1.1",  # Video Endoscopic Image Storage
        "1.2.840.10008.5.1.4.1.1.77.1.2.1",  # Video Microscopic Image Storage
        "1.2.840.10008.5.1.4.1.1.77.1.4.1",  # Video Photographic Image Storage
    )
)
"""The SOP Classes of videos, whose pixel data is compressed as a whole and not decoded."""


def check_storable(sop_class_uid: str, unknown: bool) -> None:
    """Raise SOPClassNotSupported unless the archive stores this class; `unknown` allows private classes too."""
    if sop_class_uid == MEDIA_STORAGE_DIRECTORY:
        raise NotAnInstance("A DICOMDIR is a directory: send the instances it lists", [0x00080016])
    if sop_class_uid in NON_PATIENT:
        raise SOPClassNotSupported("Non-Patient Objects are not stored", [0x00080016])
    if sop_class_uid not in STORAGE and not (unknown and sop_class_uid not in _NO_INSTANCES):
        raise SOPClassNotSupported("Unknown SOP Class: storage.unknown_sop_classes is off", [0x00080016])
