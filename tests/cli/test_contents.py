"""`pacs import`, `ls`, `export` and `delete`."""

import json
import os

import pytest
from pydicom import dcmread

from pacs.testing import study, write


@pytest.fixture
def folder(tmp_path):
    """A folder tree with two studies of two patients, 6 CT and 2 MR instances, and a text file."""
    write(study(instances=3), tmp_path / "in" / "ct")
    write(study("ROE^JANE", "MR", 1, 2, patient_id="P2"), tmp_path / "in" / "deep" / "mr")
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    return tmp_path / "in"


@pytest.fixture
def filled(pacs, folder):
    """`pacs` with that folder imported."""
    pacs("import", folder)
    return pacs


def listed(pacs, *words):
    """Return the output of `pacs ls --json`."""
    result = pacs("ls", *words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_import_stores_a_folder_tree_and_lists_what_is_left_out(pacs, folder):
    """Counts on standard output, reasons and files on standard error; what is not DICOM is no failure."""
    result = pacs("import", folder)
    assert result.exit_code == 0
    assert result.stdout == "8 stored, 0 already stored, 0 refused, 1 left out\n"
    assert result.stderr.startswith("1 left out: Not a DICOM file")
    assert "notes.txt" in result.stderr


def test_import_of_stored_files_is_no_failure(filled, folder):
    """The same files again, named individually."""
    result = filled("import", *sorted(folder.rglob("*.dcm")))
    assert result.exit_code == 0
    assert result.stdout == "0 stored, 8 already stored, 0 refused\n"


def test_import_of_many_bad_files_shows_some_of_them(pacs, tmp_path):
    """Three for each reason, then a number; unprintable names are escaped."""
    bad = tmp_path / "bad"
    bad.mkdir()
    for place in range(5):
        (bad / f"{place}\x1b.txt").write_text("not an image")
    result = pacs("import", bad)
    assert "0 stored, 0 already stored, 0 refused, 5 left out" in result.stdout
    assert "and 2 more" in result.stderr
    assert r"0\x1b.txt" in result.stderr


def test_import_of_a_missing_path_is_an_error(pacs, tmp_path):
    """Exit status 2, nothing is created."""
    assert pacs("import", tmp_path / "nowhere").exit_code == 2
    assert not (tmp_path / "pacs-data").exists()


def test_import_names_missing_attributes_and_truncated_files(pacs, tmp_path):
    """Neither is reported as not DICOM."""
    whole, lacking = study(instances=1)
    del lacking.SeriesInstanceUID
    cut, _ = write([whole, lacking], tmp_path / "in")
    cut.write_bytes(cut.read_bytes()[:-10])
    said = pacs("import", tmp_path / "in").stderr
    assert "1 refused: Missing or not valid: SeriesInstanceUID" in said
    assert "1 refused: The data set ends in the middle of an element" in said


def test_import_does_not_read_pipes(pacs, tmp_path):
    """In a folder it is skipped, as argument it is an error."""
    os.mkfifo(tmp_path / "pipe")
    assert "is neither a file nor a folder" in pacs("import", tmp_path / "pipe").stderr
    assert pacs("import", tmp_path).stdout == "0 stored, 0 already stored, 0 refused\n"


@pytest.mark.parametrize(("level", "number"), [("patients", 2), ("studies", 2), ("series", 3), ("images", 8)])
def test_ls_lists_each_level(filled, level, number):
    """All that was imported."""
    assert len(listed(filled, level)) == number


def test_ls_lists_studies_by_default(filled):
    """With the usual columns of a study."""
    (found,) = listed(filled, "PatientName=roe*")
    assert (found["PatientID"], found["ModalitiesInStudy"], found["NumberOfStudyRelatedInstances"]) == ("P2", "MR", "2")


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (["series", "Modality=CT"], 2),
        (["images", "PatientID=P1", "InstanceNumber=2"], 2),
        (["studies", "StudyDate=20260101-20260131"], 2),
        (["studies", "StudyDate=20270101-"], 0),
        (["patients", "PatientID=P1\\P2"], 2),
    ],
)
def test_ls_matches_like_a_c_find(filled, words, number):
    """Wild cards, ranges, lists, keys of higher levels."""
    assert len(listed(filled, *words)) == number


def test_ls_prints_csv_in_a_pipe(filled):
    """A header line and a line for each patient."""
    lines = filled("ls", "patients").stdout.splitlines()
    assert lines[0].startswith("PatientID,IssuerOfPatientID,PatientName,")
    assert lines[1].startswith("P1,,DOE^JOHN,19700101,O,1,6")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["planets"], "'planets' is not a level; expected one of patients, studies, series, images"),
        (["studies", "PatientID"], "is not KEYWORD=VALUE"),
        (["studies", "PatientID="], "is not KEYWORD=VALUE"),
        (["studies", "PatientNmae=X"], "PatientNmae is not a keyword of PS3.6; did you mean PatientName?"),
        (["studies", "studydate=20260101"], "did you mean StudyDate?"),
        (["patients", "SeriesNumber=1"], "SeriesNumber=1 selects nothing at PATIENT level"),
        (["patients", "PatientName=*"], "PatientName=* matches everything: leave it out"),
    ],
)
def test_ls_refuses_invalid_selections(filled, words, said):
    """Unknown levels, keywords and values."""
    result = filled("ls", *words)
    assert result.exit_code != 0
    assert said in result.stderr
    assert result.stdout == ""


def test_export_copies_matching_instances_into_folders(filled, tmp_path):
    """Each file reads as the imported one."""
    result = filled("export", tmp_path / "out", "PatientID=P2")
    assert result.stdout.startswith("2 instances, ")
    read = [dcmread(path) for path in (tmp_path / "out" / "P2").rglob("*.dcm")]
    expected = study("ROE^JANE", "MR", 1, 2, patient_id="P2")
    assert sorted(read, key=lambda each: each.InstanceNumber) == expected


def test_delete_shows_studies_and_asks(filled):
    """The default answer is no, and changes nothing."""
    result = filled("delete", "PatientID=P2", input="\n")
    assert result.exit_code == 1
    assert "ROE^JANE" in result.stdout
    assert "Permanently delete 2 instances of 1 study? [y/N]" in result.stdout
    assert len(listed(filled, "images")) == 8


def test_delete_removes_rows_and_files(filled, tmp_path):
    """One series of two, then everything."""
    assert filled("delete", "PatientID=P1", "SeriesNumber=2", input="y\n").exit_code == 0
    assert [each["NumberOfStudyRelatedSeries"] for each in listed(filled, "studies", "PatientID=P1")] == ["1"]
    assert filled("delete", "--all", "--yes").stdout.endswith("5 instances deleted\n")
    assert listed(filled, "patients") == []
    assert list((tmp_path / "pacs-data" / "files").rglob("*.dcm")) == []


def test_delete_without_matches_says_so(filled):
    """It is no failure."""
    assert filled("delete", "PatientID=P9").stdout == "no matches\n"


@pytest.mark.parametrize("words", [["delete"], ["delete", "--all", "PatientID=P1"], ["export", "out"]])
def test_everything_needs_an_option(filled, words):
    """Either a selection, or --all."""
    result = filled(*words)
    assert result.exit_code == 2
    assert "or --all" in result.stderr
    assert len(listed(filled, "images")) == 8


def test_ls_needs_no_private_key(pacs):
    """It may be readable for the server's user only: `pacs serve` needs it, `pacs ls` does not."""
    secured = ("--set", "tls.enabled=true", "--set", "tls.certificate=none.pem", "--set", "tls.key=none.pem")
    assert pacs("ls", "patients", *secured).exit_code == 0
    refused = pacs("serve", "--port", "0", *secured)
    assert refused.exit_code == 2
    assert "tls.certificate" in refused.output
