"""Warnings of libraries do not reach the user of a command: what must be known is said in a sentence."""

import sys
import warnings
from contextlib import nullcontext

import pytest
from pydicom import dcmread

from pacs.testing import serving
from tests.pixels.converting import InProcessPool
from tests.real_files import FILES, FOLDERS

KEYS = (
    "PatientName",
    "PatientBirthDate",
    "StudyDate",
    "StudyTime",
    "SeriesDescription",
    "AcquisitionTime",
    "SliceThickness",
)

DONE = (0, 1, 3)
"""The exit statuses of commands that did their work, whatever they refused; 2 and 4 are for those that began none."""


@pytest.fixture
def pacs(pacs, monkeypatch):
    """Run `pacs` as a user does: warnings are printed unless the command routes them, each time they occur."""

    def show(message, category, filename, lineno, file=None, line=None):
        (file or sys.stderr).write(warnings.formatwarning(message, category, filename, lineno, line))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show)
        yield pacs


@pytest.fixture
def quiet(pacs):
    """Run `pacs`, and fail if it shows a warning of a library."""

    def run(*words, exit_codes=DONE):
        done = pacs(*words)
        assert "Warning:" not in done.output, done.output
        assert done.exit_code in exit_codes, done.output
        return done

    return run


def test_the_real_files_are_a_reason_for_warnings(capsys, pacs):
    """Else the other tests here prove nothing."""
    for path in FILES:
        try:
            str(dcmread(path, force=True))
        except Exception:  # not all of them are DICOM
            continue
    assert "UserWarning" in capsys.readouterr().err


def test_no_command_on_the_archive_shows_a_warning(quiet, tmp_path):
    """Over all files of pydicom."""
    quiet("import", *FOLDERS)
    for level in ("patients", "studies", "series", "images"):
        quiet("ls", level, "--json")
    quiet("export", tmp_path / "out", "--all", "--as", "explicit")
    quiet("fsck")
    quiet("reindex")
    quiet("explain", "-k", "PatientName=*", exit_codes=(0, 1, 2))
    quiet("delete", "Modality=CT", "--yes")


def test_no_command_of_the_client_shows_a_warning(quiet, tmp_path):
    """Over all files of pydicom, with a server in this process."""
    with serving(tmp_path / "server") as archive:
        quiet("store", archive.address, *FOLDERS)
        for level in ("PATIENT", "STUDY", "SERIES", "IMAGE"):
            keys = [word for key in KEYS for word in ("-k", key)]
            assert quiet("find", archive.address, "--level", level, *keys).stdout
            quiet("find", archive.address, "--level", level, *keys, "--json")
        quiet("commit", archive.address, FOLDERS[0] / "charset_files")
        quiet("get", archive.address, "-k", "PatientID=*", "--to", tmp_path / "got")
        quiet("fetch", archive.address, "-k", "PatientID=*", "--to", tmp_path / "got")


def test_no_command_on_a_file_shows_a_warning(quiet, monkeypatch):
    """Over all files, with the decoders in this process, so that what they warn of is seen, too."""
    monkeypatch.setattr("pacs.pixels.pool.DecoderPool", lambda _: nullcontext(InProcessPool()))
    for path in FILES:
        quiet("dump", path)
        quiet("render", path, "-o", "out.png")


MISTYPED = (
    "AccessionNumber=12345678901234567890", "StudyDate=23. Oct 2014", "StudyTime=noon", "PatientAge=old",
    "Modality=ct scan", "StudyInstanceUID=1.02.x", "InstanceNumber=1.5e", "RescaleSlope=steep",
    "PatientName=A=B=C=D", "Rows=many",
)  # fmt: skip


@pytest.mark.parametrize("key", MISTYPED)
def test_a_mistyped_value_is_no_reason_for_a_warning(quiet, key):
    """Values that break the rules of their VR, which pydicom warns about; nothing is called."""
    for command in ("find", "get"):
        quiet(command, "PACS@127.0.0.1:1", "-k", key, exit_codes=(1, 2, 4))
    quiet("explain", "-k", key, exit_codes=(0, 1, 2))
