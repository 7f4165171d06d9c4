"""`pacs import`: outcomes of files, their reasons, and the report of them."""

import csv
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from pacs.testing import study, write
from tests.cli.test_audit import lines

COLUMNS = ["path", "outcome", "reason", "status", "sop_instance_uid"]


def saved(dataset, path):
    """Write a data set as a file of that path, and return the path."""
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def stored():
    """An instance that the archive has."""
    (dataset,) = study("DOE^JOHN", series=1, instances=1, StudyDescription="first")
    return dataset


@pytest.fixture
def mixed(pacs, tmp_path, stored):
    """A folder with an instance of each outcome; the archive has one of them, and one with other content."""
    folder = tmp_path / "in"
    folder.mkdir()
    pacs("import", saved(stored, tmp_path / "first.dcm"))
    saved(stored, folder / "known.dcm")
    stored.StudyDescription = "second"
    saved(stored, folder / "other.dcm")
    (new,) = study("ROE^JANE", series=1, instances=1, patient_id="P2")
    saved(new, folder / "new.dcm")
    (folder / "notes.txt").write_text("not an image")
    (folder / "DICOMDIR").write_bytes(Path(get_testdata_file("DICOMDIR")).read_bytes())
    return folder


def outcomes(rows):
    """Return outcome and status by the name of the file."""
    return {os.path.basename(each["path"]): (each["outcome"], each["status"]) for each in rows}


OUTCOMES = {
    "known.dcm": ("already stored", "0x0000"),
    "new.dcm": ("stored", "0x0000"),
    "other.dcm": ("refused", "0xC011"),
    "notes.txt": ("left out", ""),
    "DICOMDIR": ("left out", ""),
}


def test_some_refused_files_are_exit_status_3(pacs, mixed, stored):
    """With the counts, and each refused file with its SOP Instance UID."""
    result = pacs("import", mixed)
    assert result.exit_code == 3
    assert result.stdout == "1 stored, 1 already stored, 1 refused, 2 left out\n"
    assert f"other.dcm (SOP Instance UID {stored.SOPInstanceUID})" in result.stderr
    assert "1 left out: Not a DICOM file" in result.stderr
    assert "1 left out: A DICOMDIR is a directory" in result.stderr


def test_a_duplicate_with_other_content_says_what_differs(pacs, mixed, stored):
    """Keywords without values, and the setting that decides."""
    said = pacs("import", mixed / "other.dcm")
    assert said.exit_code == 1
    assert "stored already with other content; StudyDescription differs" in said.stderr
    assert "storage.duplicates" in said.stderr
    assert "second" not in said.stderr
    stored.PatientName, stored.PixelData = "ROE^JANE", b"\1" * len(stored.PixelData)
    said = pacs("import", saved(stored, mixed / "more.dcm")).stderr
    assert "other content; StudyDescription, PatientName and PixelData differ" in said


@pytest.mark.parametrize("name", ["report.csv", "REPORT.JSON"])
def test_the_report_has_each_file(pacs, mixed, stored, tmp_path, name):
    """Path, outcome, reason, status and SOP Instance UID, as CSV or JSON by the suffix."""
    report = tmp_path / name
    assert pacs("import", mixed, "--report", report).exit_code == 3
    with report.open(newline="", encoding="utf-8") as file:
        rows = json.load(file) if name.endswith("JSON") else list(csv.DictReader(file))
    assert all(list(each) == COLUMNS for each in rows)
    assert outcomes(rows) == OUTCOMES
    (refused,) = (each for each in rows if each["outcome"] == "refused")
    assert "StudyDescription differs" in refused["reason"]
    assert refused["sop_instance_uid"] == stored.SOPInstanceUID
    assert report.stat().st_mode & 0o777 & ~0o640 == 0


def test_a_report_in_csv_is_safe_to_open_in_a_spreadsheet(pacs, tmp_path):
    """Names of files are no formulas, and have no controls; JSON has them exactly."""
    names = ["=cmd.dcm", "-\x1b[31m.dcm"]
    for name in names:
        (tmp_path / name).write_text("not an image")
    for report in ("report.csv", "report.json"):
        pacs("import", "--report", report, "--", *names)
    lines = (tmp_path / "report.csv").read_text().splitlines()[1:]
    assert [each.partition(",")[0] for each in lines] == ["'=cmd.dcm", r"'-\x1b[31m.dcm"]
    assert [each["path"] for each in json.loads((tmp_path / "report.json").read_text())] == names


def test_files_that_are_not_shown_are_in_the_report(pacs, tmp_path):
    """The option is named, or the report that was written."""
    (tmp_path / "in").mkdir()
    for number in range(9):
        (tmp_path / "in" / f"{number}.txt").write_text("not an image")
    assert "    and 6 more; --report FILE.csv lists all\n" in pacs("import", "in").stderr
    assert "    and 6 more; all.json has all\n" in pacs("import", "in", "--report", "all.json").stderr


def test_a_report_without_files_is_whole(pacs, tmp_path):
    """An empty array, or the names of the columns; a folder without DICOM files is exit status 1."""
    (tmp_path / "empty").mkdir()
    for name in ("report.csv", "report.json"):
        result = pacs("import", tmp_path / "empty", "--report", tmp_path / name)
        assert result.exit_code == 1
        assert "no DICOM file found in" in result.stderr
    assert (tmp_path / "report.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert json.loads((tmp_path / "report.json").read_text()) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [("report.xlsx", "ends in neither .csv nor .json"), ("gone/report.csv", "cannot be written (No such file")],
)
def test_a_report_that_cannot_be_written_stores_nothing(pacs, mixed, tmp_path, name, said):
    """By its suffix, or its folder."""
    result = pacs("import", mixed, "--report", tmp_path / name)
    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert pacs("import", mixed / "new.dcm").stdout.startswith("1 stored")


def test_an_import_that_ends_early_has_a_whole_report(pacs, mixed, tmp_path):
    """The disk is full, by its limit: the report has the files before."""
    ended = pacs("import", mixed, "--report", tmp_path / "r.json", "--set", f"limits.free_space={1 << 50}")
    assert ended.exit_code == 1
    assert "No space left for files" in ended.stderr
    assert {each["outcome"] for each in json.loads((tmp_path / "r.json").read_text())} <= {"left out", "already stored"}


def test_a_name_that_is_no_text_is_in_the_report(pacs, mixed, tmp_path):
    """Its bytes are escaped."""
    name = os.fsdecode(b"caf\xe9.txt")
    (mixed / name).write_text("not an image")
    pacs("import", mixed / name, "--report", tmp_path / "r.csv")
    pacs("import", mixed / name, "--report", tmp_path / "r.json")
    assert r"caf\udce9.txt" in (tmp_path / "r.csv").read_text()
    assert json.loads((tmp_path / "r.json").read_text())[0]["path"].endswith(name)


def test_a_single_further_file_is_named(pacs, tmp_path):
    """Four files of a reason are named, of five there are three and a number."""
    (tmp_path / "bad").mkdir()
    for place in range(4):
        (tmp_path / "bad" / f"{place}.txt").write_text("not an image")
    assert "3.txt" in (said := pacs("import", tmp_path / "bad").stderr)
    assert "more" not in said
    (tmp_path / "bad" / "4.txt").write_text("not an image")
    assert "and 2 more" in pacs("import", tmp_path / "bad").stderr


def test_every_missing_uid_is_named(pacs, tmp_path, stored):
    """Not only the first one."""
    del stored.SeriesInstanceUID, stored.StudyInstanceUID
    said = pacs("import", saved(stored, tmp_path / "bad.dcm")).stderr
    assert "Missing or not valid: StudyInstanceUID; also SeriesInstanceUID" in said


def test_each_file_is_printed_with_v(pacs, mixed):
    """With its outcome and reason."""
    said = pacs("import", mixed, "-v").stderr
    for name, (outcome, _) in OUTCOMES.items():
        assert re.search(rf"^{outcome} \S*{name}", said, re.MULTILINE)


def test_a_refused_file_is_in_the_audit_log(pacs, mixed, stored, tmp_path):
    """With its SOP Instance UID and the reason; what is left out is not."""
    pacs("import", mixed, "--set", f"audit.file={tmp_path}/audit")
    (refused,) = (each for each in lines(tmp_path / "audit") if each["outcome"] == "failure")
    assert refused["sop_instance_uids"] == [stored.SOPInstanceUID]
    assert "StudyDescription differs" in refused["comment"]


def test_progress_on_a_terminal_has_a_rate_and_the_time_left(tmp_path):
    """Of an import in a terminal."""
    write(study(series=1, instances=30), tmp_path / "in")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pacs", "import", str(tmp_path / "in"), "--set", f"files.url={tmp_path}/files"]
    command += ["--set", f"database.url=sqlite:///{tmp_path}/pacs.db"]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, timeout=60, env=environment, check=True
    )
    os.close(theirs)
    shown = b""
    while piece := _read(ours):
        shown += piece
    os.close(ours)
    assert done.stdout == b"30 stored, 0 already stored, 0 refused\n"
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert re.search(r"importing .*30/30 +\d+(\.\d)?/s +\d:\d\d:\d\d", text)


def _read(terminal):
    """Read what was written to a terminal, b'' at its end."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux says EIO for the end
        return b""
