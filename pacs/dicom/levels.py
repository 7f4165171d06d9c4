"""Query/Retrieve levels and information models (PS3.4 C.3, C.6), as data."""

from dataclasses import dataclass
from enum import Enum, IntEnum


class QueryLevel(IntEnum):
    """A Query/Retrieve Level (0008,0052); a smaller number is a higher level."""

    PATIENT = 0
    STUDY = 1
    SERIES = 2
    IMAGE = 3

    @property
    def unique_key(self) -> str:
        """The keyword of the level's unique key (PS3.4 Tables C.6-1 to C.6-5)."""
        return UNIQUE_KEYS[self]


LEVEL_SYNONYMS = {
    "INSTANCE": "IMAGE", "INSTANCES": "IMAGE", "IMAGES": "IMAGE", "STUDIES": "STUDY", "PATIENTS": "PATIENT",
}  # fmt: skip
"""Other names of Query/Retrieve Levels, used by clients and on the command line."""

PLURAL = {
    QueryLevel.PATIENT: "patients",
    QueryLevel.STUDY: "studies",
    QueryLevel.SERIES: "series",
    QueryLevel.IMAGE: "images",
}
"""The entities of each level, for messages."""


def level_named(name: str) -> QueryLevel | None:
    """Return the level with a name or synonym, regardless of case; None for no such level."""
    upper = name.strip().upper()
    return QueryLevel.__members__.get(LEVEL_SYNONYMS.get(upper, upper))


UNIQUE_KEYS = {
    QueryLevel.PATIENT: "PatientID",
    QueryLevel.STUDY: "StudyInstanceUID",
    QueryLevel.SERIES: "SeriesInstanceUID",
    QueryLevel.IMAGE: "SOPInstanceUID",
}


USUAL_KEYS: dict[QueryLevel, tuple[str, ...]] = {
    QueryLevel.PATIENT: (
        "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex",
        "NumberOfPatientRelatedStudies", "NumberOfPatientRelatedInstances",
    ),
    QueryLevel.STUDY: (
        "StudyInstanceUID", "PatientID", "PatientName", "StudyDate", "AccessionNumber", "ModalitiesInStudy",
        "StudyDescription", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
    ),
    QueryLevel.SERIES: (
        "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "Modality", "SeriesNumber", "SeriesDescription",
        "NumberOfSeriesRelatedInstances",
    ),
    QueryLevel.IMAGE: (
        "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "SOPClassUID", "InstanceNumber",
    ),
}  # fmt: skip
"""The attributes that are shown by default for the entities of each level, by keyword."""


class DimseOperation(Enum):
    """The operation of a Query/Retrieve SOP Class."""

    FIND = "FIND"
    MOVE = "MOVE"
    GET = "GET"


LEVELS = tuple(QueryLevel)
"""All levels, from the top down. Iteration over a tuple is five times as fast as over the enumeration."""


class Root(Enum):
    """An information model: its name in PS3.4 and its levels, highest first."""

    PATIENT = ("Patient Root", (QueryLevel.PATIENT, QueryLevel.STUDY, QueryLevel.SERIES, QueryLevel.IMAGE))
    STUDY = ("Study Root", (QueryLevel.STUDY, QueryLevel.SERIES, QueryLevel.IMAGE))
    PATIENT_STUDY_ONLY = ("Patient/Study Only", (QueryLevel.PATIENT, QueryLevel.STUDY))

    def __init__(self, title: str, levels: tuple[QueryLevel, ...]) -> None:
        self.title = title
        self.levels = levels

    def level_of_key(self, level: QueryLevel) -> QueryLevel:
        """Return the level that keys of `level` have in this model: in Study Root PATIENT is part of STUDY (C.6.2)."""
        return max(level, self.levels[0])

    def above(self, level: QueryLevel) -> tuple[QueryLevel, ...]:
        """Return the levels of this model above `level`, highest first."""
        return tuple(each for each in self.levels if each < level)


@dataclass(frozen=True, slots=True)
class Model:
    """A Query/Retrieve SOP Class: an information model and an operation."""

    uid: str
    root: Root
    operation: DimseOperation


MODELS = {
    model.uid: model
    for model in (
        Model("1.2.840.10008.5.1.4.1.2.1.1", Root.PATIENT, DimseOperation.FIND),
        Model("1.2.840.10008.5.1.4.1.2.1.2", Root.PATIENT, DimseOperation.MOVE),
        Model("1.2.840.10008.5.1.4.1.2.1.3", Root.PATIENT, DimseOperation.GET),
        Model("1.2.840.10008.5.1.4.1.2.2.1", Root.STUDY, DimseOperation.FIND),
        Model("1.2.840.10008.5.1.4.1.2.2.2", Root.STUDY, DimseOperation.MOVE),
        Model("1.2.840.10008.5.1.4.1.2.2.3", Root.STUDY, DimseOperation.GET),
        Model("1.2.840.10008.5.1.4.1.2.3.1", Root.PATIENT_STUDY_ONLY, DimseOperation.FIND),
        Model("1.2.840.10008.5.1.4.1.2.3.2", Root.PATIENT_STUDY_ONLY, DimseOperation.MOVE),
        Model("1.2.840.10008.5.1.4.1.2.3.3", Root.PATIENT_STUDY_ONLY, DimseOperation.GET),
    )
}
"""Every Query/Retrieve SOP Class that the archive supports, by UID (docs/checklist.md, 3.1)."""


def model_of(root: Root, operation: DimseOperation) -> Model:
    """Return the Query/Retrieve SOP Class of an operation in an information model."""
    return next(each for each in MODELS.values() if each.root is root and each.operation is operation)
