"""The builders of `pacs.testing`."""

import re
import subprocess
import sys

import pytest
from pydicom import dcmread
from pydicom.uid import UID, JPEGBaseline8Bit

import pacs.client
from pacs.dicom.syntaxes import EXPLICIT_LITTLE, KEPT
from pacs.pixels.capabilities import ENCODED
from pacs.testing import MODALITIES, studies, study, write


@pytest.mark.parametrize("modality", sorted(MODALITIES))
def test_a_study_reads_back_as_it_was_built(tmp_path, modality):
    """For every modality."""
    built = study(modality=modality, series=2, instances=3)
    read = [dcmread(path) for path in write(built, tmp_path)]
    assert read == built
    assert len({each.SOPInstanceUID for each in read}) == 6
    assert len({each.SeriesInstanceUID for each in read}) == 2
    assert len({each.StudyInstanceUID for each in read}) == 1


def test_the_same_arguments_make_the_same_study():
    """Another patient, number or modality makes another study."""
    first = study(instances=1)
    assert first == study(instances=1)
    others = [study(patient_id="P2"), study(number=2), study(modality="MR")]
    assert len({each[0].StudyInstanceUID for each in [first, *others]}) == 4


def test_patients_of_different_names_are_different_patients(pacs_server):
    """Without a Patient ID: the studies of both are stored."""
    john, jane = study("DOE^JOHN", series=1, instances=1), study("ROE^JANE", series=1, instances=1)
    pacs_server.add(john, jane)
    assert (john[0].PatientID, jane[0].PatientID) == ("P1", study("ROE^JANE")[0].PatientID)
    assert len({each[0].PatientID for each in (john, jane, study("Ωμέγα"))}) == 3
    assert len(list(pacs.client.find(pacs_server.address, {"PatientID": "", "StudyInstanceUID": ""}))) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"patient": "ROE^JANE"}),
        ({}, {"PatientName": "ROE^JANE"}),
        ({"PatientID": "1"}, {"PatientID": "2"}),
        ({"patient_id": "1"}, {"patient_id": "1", "IssuerOfPatientID": "B"}),
        ({}, {"AccessionNumber": "A2"}),
        ({"StudyDate": "20200101"}, {"StudyDate": "20210101"}),
        ({"StudyInstanceUID": "1.2.3"}, {"StudyInstanceUID": "1.2.4"}),
        ({"StudyID": "7"}, {"StudyID": "8"}),
        ({}, {"modality": "MR"}),
        ({}, {"number": 2}),
    ],
)
def test_obvious_calls_do_not_collide(one, other):
    """What distinguishes studies distinguishes all their UIDs."""
    first, second = study(series=1, instances=1, **one)[0], study(series=1, instances=1, **other)[0]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        assert first[keyword].value != second[keyword].value


@pytest.mark.parametrize("syntax", [each for each in KEPT if UID(each).is_transfer_syntax])
def test_a_study_can_be_written_in_every_transfer_syntax_pydicom_knows(tmp_path, syntax):
    """Native pixels have the byte order of the syntax."""
    built = study(series=1, instances=1, transfer_syntax=syntax)
    read = dcmread(*write(built, tmp_path))
    assert read.file_meta.TransferSyntaxUID == syntax
    assert read.PixelData == built[0].PixelData


@pytest.mark.parametrize(
    ("patient", "character_set"),
    [
        ("Müller^Jörg", "ISO_IR 100"),
        ("Люкceмбypг", "ISO_IR 144"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"]),
        ("Wang^XiaoDong=王^小东", "GB18030"),
        ("Wang^XiaoDong=王^小東", "ISO_IR 192"),
    ],
)
def test_a_name_can_use_the_whole_character_set(tmp_path, patient, character_set):
    """The name is read back unchanged."""
    built = study(patient, series=1, instances=1, character_set=character_set)
    assert dcmread(*write(built, tmp_path)).PatientName == patient


@pytest.mark.parametrize("where", ["patient", "patient_id", "StudyDescription"])
def test_non_ascii_texts_default_to_utf_8(tmp_path, where):
    """No character becomes a question mark."""
    built = study(series=1, instances=1, **{where: "Jörg"})
    read = dcmread(*write(built, tmp_path))
    assert read.SpecificCharacterSet == "ISO_IR 192"
    assert "Jörg" in {str(read.PatientName), read.PatientID, read.StudyDescription}


def test_an_unknown_modality_is_an_error():
    """The error lists the known ones."""
    with pytest.raises(ValueError, match="unknown modality 'XX'; expected one of CT, MR"):
        study(modality="XX")


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("PatientNme", "there is no keyword PatientNme; did you mean PatientName?"),
        ("charcter_set", "there is no keyword charcter_set; did you mean character_set?"),
        ("colour", "there is no keyword colour"),
    ],
)
def test_an_unknown_attribute_is_an_error(mistake, said):
    """The error suggests a name."""
    with pytest.raises(ValueError, match=re.escape(said)):
        study(**{mistake: "X"})


def test_any_attribute_can_be_set_by_its_keyword():
    """It replaces the value of the builder."""
    (dataset,) = study(series=1, instances=1, PatientSex="F", BodyPartExamined="KNEE")
    assert (dataset.PatientSex, dataset.BodyPartExamined) == ("F", "KNEE")


def test_the_plugin_imports_heavy_modules_late():
    """Every test run pays for the imports of a plugin."""
    heavy = ("pydicom", "pynetdicom", "sqlalchemy", "pydantic")
    program = f"import pacs.testing, sys; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize("syntax", ENCODED)
def test_pixels_are_compressed_where_there_is_an_encoder(tmp_path, syntax):
    """The decoded pixels equal those of the native study."""
    native, encoded = (study(series=1, instances=2, transfer_syntax=each) for each in (EXPLICIT_LITTLE, syntax))
    for plain, compressed in zip(native, write(encoded, tmp_path), strict=True):
        assert dcmread(compressed).pixel_array.tobytes() == plain.PixelData


def test_pixels_are_a_placeholder_where_there_is_no_encoder():
    """Nothing is encoded with loss."""
    (dataset,) = study(series=1, instances=1, transfer_syntax=JPEGBaseline8Bit)
    assert b"a placeholder" in dataset.PixelData


def test_each_patient_has_its_own_name_id_and_uids():
    """Other arguments apply to all."""
    built = studies(patients=2, per_patient=2, series=1, instances=1, modality="MR")
    assert [(each.PatientID, each.StudyID) for each in built] == [("P1", "1"), ("P1", "2"), ("P2", "1"), ("P2", "2")]
    assert len({each.StudyInstanceUID for each in built}) == len({each.SOPInstanceUID for each in built}) == 4
    assert {each.Modality for each in built} == {"MR"}
    assert len({str(each.PatientName) for each in built}) == 2
