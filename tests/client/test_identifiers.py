"""Identifiers built from mappings and data sets."""

from datetime import date, time

import pytest
from pydicom import Dataset

from pacs.client.identifiers import encoded, root_of, with_level
from pacs.dicom.identifier import decode
from pacs.dicom.identifier_builder import data_set_of
from pacs.errors import InvalidArgument
from tests.raw import EXPLICIT


def sent(identifier, level=None, model="study", **options):
    """Return an Identifier as its receiver reads it."""
    dataset = data_set_of(identifier)
    with_level(dataset, level, root_of(model), **options)
    return decode(encoded(dataset, EXPLICIT), EXPLICIT)


@pytest.mark.parametrize(
    ("identifier", "model", "level"),
    [
        ({"PatientName": "DOE*"}, "study", "STUDY"),
        ({"PatientName": "DOE*"}, "patient", "PATIENT"),
        ({"PatientName": "DOE*", "StudyDate": "", "ModalitiesInStudy": ""}, "patient", "STUDY"),
        ({"StudyInstanceUID": "1.2", "Modality": "CT"}, "study", "SERIES"),
        ({"StudyInstanceUID": "1.2", "SOPInstanceUID": ""}, "study", "IMAGE"),
        ({"StudyInstanceUID": "1.2", "Rows": ""}, "study", "IMAGE"),
        ({"SpecificCharacterSet": "ISO_IR 100", "TimezoneOffsetFromUTC": "+0100"}, "study", "STUDY"),
        ({"QueryRetrieveLevel": "SERIES", "PatientID": ""}, "study", "SERIES"),
        ({}, "patient", "PATIENT"),
    ],
)
def test_the_level_is_that_of_the_lowest_key(identifier, model, level):
    """Unless the level is given; it is always sent."""
    assert sent(identifier, model=model).QueryRetrieveLevel == level
    assert sent(identifier, "study", model).QueryRetrieveLevel == "STUDY"


def test_a_retrieve_is_at_the_level_of_its_lowest_unique_key():
    """Keys without a value do not count."""
    keys = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "", "Modality": "CT"}
    assert sent(keys, unique_only=True).QueryRetrieveLevel == "STUDY"


@pytest.mark.parametrize(
    ("value", "expected"), [("512", 512), (512, 512), ("1\\2", [1, 2]), ([1, "2"], [1, 2]), ("", None), (0, 0)]
)
def test_a_number_may_be_a_text(value, expected):
    """Several are separated by backslashes, as in text."""
    assert sent({"Rows": value}).Rows == expected


@pytest.mark.parametrize(
    "identifier",
    [{"Rows": "many"}, {"Rows": -1}, {"Rows": 65536}, {"Rows": "1.5"}, {"SimpleFrameList": 2**32},
     {"RecommendedDisplayFrameRateInFloat": 1e300}, {"PixelData": "x"}, {"SelectorAttribute": "Nothing"}],
)  # fmt: skip
def test_a_value_that_its_vr_cannot_have_is_refused(identifier):
    """Before it is sent."""
    with pytest.raises(InvalidArgument):
        data_set_of(identifier)


def test_keys_are_keywords_tags_and_paths():
    """They all produce the same kind of element."""
    found = sent(
        {
            "PatientID": "1",
            (0x0010, 0x0010): "DOE",
            0x00080020: date(2026, 1, 2),
            "0008,0030": time(10, 15),
            "(0008,0050)": ["A", "B"],
            "RequestAttributesSequence.ScheduledProcedureStepID": "S",
            "RequestAttributesSequence.RequestedProcedureID": "",
            "ReferencedStudySequence": "",
            "Rows": "512",
            "Columns": "",
            "SeriesNumber": 3,
        }
    )
    assert (found.PatientID, found.PatientName, found.StudyDate) == ("1", "DOE", "20260102")
    assert (found.StudyTime, list(found.AccessionNumber)) == ("101500", ["A", "B"])
    (item,) = found.RequestAttributesSequence
    assert (item.ScheduledProcedureStepID, item.RequestedProcedureID) == ("S", "")
    assert len(found.ReferencedStudySequence) == 1
    assert (found.Rows, found.Columns, found.SeriesNumber) == (512, None, 3)


@pytest.mark.parametrize("identifier", [{"PatientName": "Müller*"}, {"PatientName": "Лев*"}])
@pytest.mark.parametrize("kind", [dict, Dataset])
def test_a_character_set_is_added_where_needed(identifier, kind):
    """Latin-1 if it suffices, otherwise UTF-8; none for ASCII."""
    given = identifier
    if kind is Dataset:
        given = Dataset()
        given.PatientName = identifier["PatientName"]
    found = sent(given)
    assert str(found.PatientName) == identifier["PatientName"]
    assert found.SpecificCharacterSet == ("ISO_IR 100" if "ü" in identifier["PatientName"] else "ISO_IR 192")
    assert "SpecificCharacterSet" not in sent({"PatientName": "DOE"})


def test_the_data_set_of_the_caller_is_not_changed():
    """The level is set in a copy."""
    given = Dataset()
    given.PatientName = "Müller"
    sent(given)
    assert list(given.keys()) == [0x00100010]


@pytest.mark.parametrize(
    ("identifier", "level", "model"),
    [
        ({"NoSuchKeyword": ""}, None, "study"),
        ({"": ""}, None, "study"),
        ({3.5: ""}, None, "study"),
        ({"Rows": "many"}, None, "study"),
        ({"ReferencedStudySequence": [3]}, None, "study"),
        ({}, "FRAME", "study"),
        ({}, "PATIENT", "study"),
        ({}, "IMAGE", "patient-study-only"),
        ({}, None, "series"),
        ({"PatientName": "Лев", "SpecificCharacterSet": "ISO_IR 100"}, None, "study"),
    ],
)
def test_invalid_keys_are_rejected_before_associating(identifier, level, model):
    """With InvalidArgument."""
    with pytest.raises(InvalidArgument):
        sent(identifier, level, model)
