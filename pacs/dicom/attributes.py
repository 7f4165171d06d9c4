"""The attribute table: the level of each attribute in the index, where its value is kept and how it can be matched.

The table drives storage (the level and column of an element), the SQL of queries, the validation of Identifiers, the
responses, and the conformance statement. The level of an attribute is the Information Entity whose module lists it in
PS3.3 (Patient, Study, Series and Equipment with Frame of Reference); an attribute in no list belongs to IMAGE.
"""

from dataclasses import dataclass
from enum import Enum
from functools import cache

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from pacs.dicom.levels import QueryLevel

PATIENT, STUDY, SERIES, IMAGE = QueryLevel


class KeyType(Enum):
    """The type of a key in PS3.4 Tables C.6-1 to C.6-5."""

    UNIQUE = "U"
    REQUIRED = "R"
    OPTIONAL = "O"


class Kept(Enum):
    """Where a query finds the value of an attribute."""

    COLUMN = "column"
    """In the row elements of the level, and normalised in a column of its own: matched in SQL."""
    ROW = "row"
    """In the row elements of the level only: matched row by row, over the rows that SQL selects."""
    COMPUTED = "computed"
    """Computed from the index (PS3.4 C.3.4); never copied from an instance."""
    FILE = "file"
    """In the stored file only: read from there for a query at IMAGE level."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute at its level. `tag` is an int; `vr` and `keyword` are those of PS3.6.

    A private attribute has a `creator` and no keyword; a data set may have it in another block than that of `tag`.
    """

    keyword: str
    tag: int
    vr: str
    level: QueryLevel
    key: KeyType
    kept: Kept
    creator: str = ""


COLUMNS: dict[QueryLevel, tuple[str, ...]] = {
    PATIENT: ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    STUDY: (
        "StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "StudyDescription",
        "ReferringPhysicianName",
    ),
    SERIES: (
        "SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "BodyPartExamined", "StationName",
        "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime",
    ),
    IMAGE: ("SOPInstanceUID", "SOPClassUID", "InstanceNumber"),
}  # fmt: skip
"""The attributes with a column of their own, by level. The column is named by `column_name`."""

UNIQUE = {"PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"}
REQUIRED = {
    "PatientName", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "Modality", "SeriesNumber", "InstanceNumber",
}  # fmt: skip
"""The unique and required keys of PS3.4 Tables C.6-1 to C.6-5; every other key is optional."""

COMPUTED: dict[QueryLevel, tuple[str, ...]] = {
    PATIENT: ("NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries", "NumberOfPatientRelatedInstances"),
    STUDY: (
        "ModalitiesInStudy", "SOPClassesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
    ),
    SERIES: ("NumberOfSeriesRelatedInstances",),
    IMAGE: ("AvailableTransferSyntaxUID",),
}  # fmt: skip
"""The attributes computed from the index (K5). Each response also has RetrieveAETitle and InstanceAvailability."""

ROWS: dict[QueryLevel, tuple[str, ...]] = {
    # C.7.1.1 Patient, C.7.1.3 Clinical Trial Subject, C.2.3 Patient Demographic
    PATIENT: (
        "TypeOfPatientID", "IssuerOfPatientIDQualifiersSequence", "SourcePatientGroupIdentificationSequence",
        "GroupOfPatientsIdentificationSequence", "ReferencedPatientSequence",
        "PatientBirthDateInAlternativeCalendar", "PatientDeathDateInAlternativeCalendar", "PatientAlternativeCalendar",
        "QualityControlSubject", "ReferencedPatientPhotoSequence", "OtherPatientIDs", "OtherPatientIDsSequence",
        "OtherPatientNames", "PatientBirthTime", "PatientBirthName", "PatientMotherBirthName", "PatientAddress",
        "PatientTelephoneNumbers", "PatientTelecomInformation", "MilitaryRank", "BranchOfService", "CountryOfResidence",
        "RegionOfResidence", "PatientReligiousPreference", "PatientInsurancePlanCodeSequence",
        "PatientPrimaryLanguageCodeSequence", "EthnicGroup", "EthnicGroupCodeSequence",
        "PatientComments", "PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientBreedDescription",
        "PatientBreedCodeSequence", "BreedRegistrationSequence", "StrainDescription", "StrainNomenclature",
        "StrainCodeSequence", "StrainStockSequence", "StrainAdditionalInformation", "GeneticModificationsSequence",
        "ResponsiblePerson", "ResponsiblePersonRole", "ResponsibleOrganization", "PatientIdentityRemoved",
        "DeidentificationMethod", "DeidentificationMethodCodeSequence", "ClinicalTrialSponsorName",
        "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName",
        "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID", "ClinicalTrialProtocolEthicsCommitteeName",
        "ClinicalTrialProtocolEthicsCommitteeApprovalNumber", "IssuerOfClinicalTrialProtocolID",
        "IssuerOfClinicalTrialSiteID", "IssuerOfClinicalTrialSubjectID", "IssuerOfClinicalTrialSubjectReadingID",
        "OtherClinicalTrialProtocolIDsSequence",
    ),
    # C.7.2.1 General Study, C.7.2.2 Patient Study, C.7.2.3 Clinical Trial Study
    STUDY: (
        "ReferringPhysicianIdentificationSequence", "ConsultingPhysicianName",
        "ConsultingPhysicianIdentificationSequence", "IssuerOfAccessionNumberSequence", "PhysiciansOfRecord",
        "PhysiciansOfRecordIdentificationSequence", "NameOfPhysiciansReadingStudy",
        "PhysiciansReadingStudyIdentificationSequence", "RequestingPhysician", "RequestingService",
        "RequestingServiceCodeSequence", "ReferencedStudySequence", "ProcedureCodeSequence",
        "ReasonForPerformedProcedureCodeSequence", "AnatomicRegionsInStudyCodeSequence",
        "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "PatientAge", "PatientSize",
        "PatientSizeCodeSequence", "PatientWeight", "PatientBodyMassIndex", "MeasuredAPDimension",
        "MeasuredLateralDimension", "MedicalAlerts", "Allergies", "SmokingStatus", "PregnancyStatus",
        "LastMenstrualDate", "PatientState", "Occupation", "AdditionalPatientHistory", "SpecialNeeds", "AdmissionID",
        "IssuerOfAdmissionIDSequence", "ServiceEpisodeID", "IssuerOfServiceEpisodeIDSequence",
        "ServiceEpisodeDescription", "AdmittingDate", "AdmittingTime", "CurrentPatientLocation",
        "PatientInstitutionResidence", "VisitComments", "ReasonForVisit", "ReasonForVisitCodeSequence",
        "PatientSexNeutered",
        "OtherStudyNumbers",
        "StudyStatusID", "StudyPriorityID", "StudyComments", "ReasonForStudy", "InterpretationAuthor",
        "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription", "LongitudinalTemporalOffsetFromEvent",
        "LongitudinalTemporalEventType", "ClinicalTrialTimePointTypeCodeSequence", "ConsentForClinicalTrialUseSequence",
        "IssuerOfClinicalTrialTimePointID", "StudyVerifiedDate", "StudyVerifiedTime", "StudyReadDate", "StudyReadTime",
        "StudyArrivalDate", "StudyArrivalTime", "StudyCompletionDate", "StudyCompletionTime",
        "RequestedProcedureDescription", "RequestedProcedureCodeSequence", "RequestedContrastAgent",
    ),
    # C.7.3.1 General Series, C.7.3.2 Clinical Trial Series, C.7.5.1 General Equipment, C.7.4.1 Frame of Reference,
    # C.4.13/C.7.3 Performed Procedure Step of the series
    SERIES: (
        "Laterality", "SeriesDate", "SeriesTime", "PerformingPhysicianName",
        "PerformingPhysicianIdentificationSequence", "ProtocolName", "SeriesDescriptionCodeSequence", "OperatorsName",
        "OperatorIdentificationSequence", "ReferencedPerformedProcedureStepSequence", "RelatedSeriesSequence",
        "PatientPosition", "RequestAttributesSequence", "PerformedProcedureStepID", "PerformedProcedureStepEndDate",
        "PerformedProcedureStepEndTime", "PerformedProcedureStepDescription", "PerformedProtocolCodeSequence",
        "CommentsOnThePerformedProcedureStep", "AnatomicalOrientationType", "TreatmentSessionUID",
        "SmallestPixelValueInSeries", "LargestPixelValueInSeries", "ClinicalTrialCoordinatingCenterName",
        "ClinicalTrialSeriesID", "ClinicalTrialSeriesDescription", "IssuerOfClinicalTrialSeriesID", "Manufacturer",
        "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName",
        "InstitutionalDepartmentTypeCodeSequence", "ManufacturerModelName", "ManufacturerDeviceClassUID",
        "DeviceSerialNumber", "SoftwareVersions", "GantryID", "UDISequence", "DeviceUID", "SpatialResolution",
        "DateOfManufacture", "DateOfInstallation", "DateOfLastCalibration", "TimeOfLastCalibration",
        "FrameOfReferenceUID", "PositionReferenceIndicator",
    ),
    # Attributes that viewers often query for each image; all others are read from the file.
    IMAGE: (
        "ImageType", "Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "SamplesPerPixel",
        "PhotometricInterpretation", "ContentDate", "ContentTime", "AcquisitionDate", "AcquisitionTime",
        "AcquisitionDateTime", "AcquisitionNumber", "InstanceCreationDate", "InstanceCreationTime",
        "InstanceCreatorUID", "RelatedGeneralSOPClassUID", "ImageComments", "ImageLaterality", "ImagePositionPatient",
        "ImageOrientationPatient", "SliceLocation", "SliceThickness", "PixelSpacing", "ConceptNameCodeSequence",
        "ContentTemplateSequence", "ContentLabel", "ContentDescription", "CompletionFlag", "VerificationFlag",
        "ContainerIdentifier", "SpecimenDescriptionSequence", "DocumentTitle", "PresentationCreationDate",
        "PresentationCreationTime", "ReferencedRequestSequence", "TimezoneOffsetFromUTC",
    ),
}  # fmt: skip
"""The attributes that are in the row elements only and matched row by row, by level."""


def _table() -> dict[int, Attribute]:
    table = {}
    for kept, levels in ((Kept.COLUMN, COLUMNS), (Kept.COMPUTED, COMPUTED), (Kept.ROW, ROWS)):
        for level, keywords in levels.items():
            for keyword in keywords:
                tag = tag_for_keyword(keyword)
                if tag is None:
                    raise KeyError(keyword)
                table[tag] = Attribute(keyword, tag, dictionary_VR(tag), level, _key_type(keyword), kept)
    return table


def _key_type(keyword: str) -> KeyType:
    if keyword in UNIQUE:
        return KeyType.UNIQUE
    return KeyType.REQUIRED if keyword in REQUIRED else KeyType.OPTIONAL


ATTRIBUTES: dict[int, Attribute] = _table()
"""Every attribute in the index, by tag."""

NOT_KEYS = {
    0x00080005: "SpecificCharacterSet",
    0x00080052: "QueryRetrieveLevel",
    0x00080053: "QueryRetrieveView",
    0x00080054: "RetrieveAETitle",
    0x00080056: "InstanceAvailability",
    0x00080201: "TimezoneOffsetFromUTC",
    0x00880130: "StorageMediaFileSetID",
    0x00880140: "StorageMediaFileSetUID",
}
"""Elements of an Identifier that are never keys (PS3.4 C.4.1.1.3)."""


def attribute(tag: int) -> Attribute | None:
    """Return the attribute with a tag: that of the table, else a standard one at IMAGE level.

    Returns None for group lengths, private elements and tags that are not in PS3.6.
    """
    known = ATTRIBUTES.get(tag)
    if known is not None:
        return known
    keyword = keyword_for_tag(tag)
    if not keyword or tag >> 16 < 0x0008:
        return None
    return Attribute(keyword, tag, dictionary_VR(tag), IMAGE, KeyType.OPTIONAL, Kept.FILE)


def by_keyword(keyword: str) -> Attribute:
    """Return the attribute with a keyword of PS3.6. Raises KeyError for an unknown keyword."""
    tag = tag_for_keyword(keyword)
    found = attribute(tag) if tag is not None else None
    if found is None:
        raise KeyError(keyword)
    return found


def level_of(tag: int) -> QueryLevel:
    """Return the level of an element of an instance."""
    known = ATTRIBUTES.get(tag)
    return known.level if known is not None else IMAGE


@cache
def column_name(keyword: str) -> str:
    """Return the column of an attribute: its keyword in snake case, with an acronym as one word."""
    out: list[str] = []
    for index, char in enumerate(keyword):
        follows_lower = index > 0 and (keyword[index - 1].islower() or keyword[index - 1].isdigit())
        ends_acronym = index > 0 and keyword[index - 1].isupper() and keyword[index + 1 : index + 2].islower()
        if char.isupper() and (follows_lower or ends_acronym):
            out.append("_")
        out.append(char.lower())
    return "".join(out)
