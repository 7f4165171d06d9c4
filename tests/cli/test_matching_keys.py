"""The options `-k` and `--level` of several commands."""

import click
import pytest

from pacs.cli.matching_keys import Selects, query_arguments
from pacs.dicom.levels import QueryLevel, Root


def identifier(words):
    """Return the Identifier of some keys."""
    return query_arguments(words).identifier


def test_a_key_is_a_keyword_a_tag_or_a_path():
    """Matching with a value, return key without."""
    found = identifier(
        ["PatientName=DOE^J*", "0010,0020=P1", "(0008,0050)", "00080020=20260101-", "StudyInstanceUID=1.2\\1.3"]
    )
    assert str(found.PatientName) == "DOE^J*"
    assert (found.PatientID, found.AccessionNumber, found.StudyDate) == ("P1", "", "20260101-")
    assert list(found.StudyInstanceUID) == ["1.2", "1.3"]


def test_a_keyword_and_a_tag_are_one_key():
    """Neither value replaces the other; a level by its tag is a level."""
    with pytest.raises(click.BadParameter, match="PatientID has two values"):
        query_arguments(["PatientID=P1", "0010,0020=P2"])
    found = query_arguments(["00100020=P1", "PatientID", "0008,0052=SERIES", "6000,0010"])
    assert (found.identifier.PatientID, found.level) == ("P1", QueryLevel.SERIES)
    assert found.keys == ("PatientID", "6000,0010")


@pytest.mark.parametrize(
    "word", ["PatientID=P1\\", "0010,0020=\\P1", "RequestAttributesSequence.AccessionNumber=A\\ \\B"]
)
def test_an_empty_value_beside_others_selects_nothing_here(word):
    """A query ignores it: a deletion with it would delete more. A peer gets it as it is typed."""
    with pytest.raises(click.BadParameter, match="has an empty value; a backslash separates values"):
        query_arguments([word], selects=Selects.HERE)
    assert identifier(["PatientID=P1\\"]).get_item("PatientID").value == b"P1\\"
    query_arguments(["PatientComments=P1\\", "StudyInstanceUID=1.2\\1.3"], selects=Selects.HERE)


@pytest.mark.parametrize("path", ["RequestAttributesSequence", "RequestAttributesSequence[0]", "0040,0275"])
def test_a_path_leads_into_the_only_item_of_a_sequence(path):
    """Two keys of one sequence are in the same item."""
    found = identifier([f"{path}.ScheduledProcedureStepID=1", f"{path}.0040,1001"])
    (item,) = found.RequestAttributesSequence
    assert (item.ScheduledProcedureStepID, item.RequestedProcedureID) == ("1", "")


def test_a_sequence_alone_is_a_return_key():
    """An empty item; it does not remove keys of its item."""
    (item,) = identifier(["RequestAttributesSequence"]).RequestAttributesSequence
    assert not item
    both = identifier(["RequestAttributesSequence.RequestedProcedureID=1", "RequestAttributesSequence"])
    assert len(both.RequestAttributesSequence) == 1


def test_numbers_are_numbers_and_anything_may_be_in_a_text():
    """The server checks values by the rules of their VR; what cannot be encoded is an error."""
    found = identifier(["Rows=512", "StudyDate=yesterday", "SliceThickness=1.5", "KVP=", "EchoTime"])
    assert (found.Rows, found.StudyDate, str(found.SliceThickness)) == (512, "yesterday", "1.5")
    for wrong in ("Rows=many", "RequestAttributesSequence=1", "SliceThickness..KVP=1"):
        with pytest.raises(click.BadParameter):
            identifier([wrong])


def test_a_key_beyond_ascii_has_a_character_set():
    """UTF-8, or Latin-1 if it suffices, unless another one is given."""
    assert identifier(["PatientName=山田"]).SpecificCharacterSet == "ISO_IR 192"
    assert identifier(["PatientName=Müller"]).SpecificCharacterSet == "ISO_IR 100"
    named = identifier(["PatientName=Müller", "SpecificCharacterSet=ISO_IR 192"])
    assert named.SpecificCharacterSet == "ISO_IR 192"
    assert "SpecificCharacterSet" not in identifier(["PatientName=DOE"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("PatientNam=X", "did you mean PatientName?"),
        ("patientname", "did you mean PatientName?"),
        ("=X", "A key is a keyword, a tag or a path"),
        ("PatientName.PatientID=1", "PatientName"),
    ],
)
def test_an_unknown_key_is_an_error_with_a_suggestion(word, said):
    """Of the command line."""
    with pytest.raises(click.BadParameter) as raised:
        identifier([word])
    assert said in raised.value.message


@pytest.mark.parametrize(
    ("words", "root", "level"),
    [
        ([], Root.PATIENT, QueryLevel.PATIENT),
        ([], Root.STUDY, QueryLevel.STUDY),
        (["PatientName=X"], Root.STUDY, QueryLevel.STUDY),
        (["PatientName=X", "Modality=CT"], Root.PATIENT, QueryLevel.SERIES),
        (["StudyDate", "KVP"], Root.STUDY, QueryLevel.IMAGE),
        (["SpecificCharacterSet=ISO_IR 192", "ModalitiesInStudy"], Root.STUDY, QueryLevel.STUDY),
    ],
)
def test_the_level_is_the_lowest_of_the_keys(words, root, level):
    """As far as the model has it."""
    assert query_arguments(words, root.name).level is level
