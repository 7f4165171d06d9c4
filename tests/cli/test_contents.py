"""`pacs import`, `export` and `delete`."""

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
    assert "1 refused: The file is cut off: it ends in the middle of an element" in said


def test_import_does_not_read_pipes(pacs, tmp_path):
    """In a folder it is skipped, as argument it is an error."""
    os.mkfifo(tmp_path / "pipe")
    assert "is neither a file nor a folder" in pacs("import", tmp_path / "pipe").stderr
    assert pacs("import", tmp_path).stdout == "0 stored, 0 already stored, 0 refused\n"


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["Modality"], "'Modality' is neither a level nor KEY=VALUE; did you mean -k Modality?"),
        (["Modality="], "Modality has no value: it would select everything; expected Modality=VALUE"),
        (["-k", "Modality", "PatientID=P1"], "Modality has no value"),
        (["PatientID=P1", "PatientID=P2"], "PatientID has two values; expected several values as in 'PatientID=A\\B'"),
        (["studies", "Modality=CT"], "did you mean ModalitiesInStudy, or the level series?"),
        (["PatientName=*"], "PatientName is no matching key with a value"),
        (["0009,1001=X"], "(0009,1001) is no matching key with a value"),
        (["PatientNam=X"], "did you mean PatientName?"),
    ],
)
@pytest.mark.parametrize("command", [["delete", "--yes"], ["export", "out"]])
def test_a_key_that_would_select_everything_is_refused(filled, tmp_path, command, words, said):
    """Nothing is deleted or written."""
    result = filled(*command, *words)
    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert len(listed(filled, "images")) == 8
    assert not (tmp_path / "out").exists()


def test_delete_and_export_select_by_keys_with_and_without_an_option(filled, tmp_path):
    """Binary numbers, and attributes that only the files have, too."""
    assert filled("export", tmp_path / "out", "-k", "Rows=8", "-k", "PatientID=P1").stdout.startswith("6 instances, ")
    assert filled("export", tmp_path / "out", "KVP=120").stdout.startswith("6 instances, ")
    assert filled("delete", "study", "PatientID=P2", "--yes").stdout.endswith("2 instances deleted\n")
    assert len(listed(filled, "images")) == 6
