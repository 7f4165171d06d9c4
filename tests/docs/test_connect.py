"""The lines of docs/connect.md, with Orthanc and DCMTK as the other AE."""

import json
import subprocess
import sys
from contextlib import chdir, contextmanager

import pytest

from pacs.config import load
from pacs.testing import serving, study, write
from tests.archives import take_in
from tests.docs.pages import block, type_in
from tests.programs import PATIENCE, free_port, needs, run, running, wait_for_port


def type_all(lines, folder):
    """Type the lines in `folder`; return what each prints."""
    with chdir(folder):
        return [type_in(line, folder) for line in lines]


@contextmanager
def orthanc(folder, settings):
    """Run Orthanc with the configuration of the page."""
    program = needs("Orthanc")
    folder.mkdir()
    places = {"StorageDirectory": str(folder), "IndexDirectory": str(folder), "HttpServerEnabled": False}
    (folder / "orthanc.json").write_text(json.dumps(settings | places))
    with running([program, folder / "orthanc.json"], folder.with_suffix(".log")):
        wait_for_port(settings["DicomPort"])
        yield


def test_orthanc_and_this_server_exchange_images_with_the_lines_of_the_page(tmp_path):
    """Orthanc answers, stores, finds, and sends images by C-MOVE."""
    ours, theirs = free_port(), free_port()
    settings = json.loads(block("orthanc settings").replace("4242", str(theirs)).replace("11112", str(ours)))
    lines = block("orthanc").replace("4242", str(theirs)).splitlines()
    write(study(series=1, instances=3), tmp_path / "folder")
    (tmp_path / "config.toml").write_text(f"[server]\nport = {ours}\n[web]\nenabled = false\n")
    with orthanc(tmp_path / "orthanc", settings), serving(tmp_path / "archive", {"server.port": ours}) as archive:
        added, checked, stored, found, moved = type_all(lines, tmp_path)
        assert "peer ORTHANC at 127.0.0.1" in checked
        assert "answers C-ECHO" in checked  # a C-MOVE of nothing fails there with C000, whoever it is to
        assert stored.startswith("3 instances, ")
        assert "DOE^JOHN" in found
        assert moved == "3 instances sent\n"
        assert len(archive.maintenance.instances({})) == 3
    assert "ORTHANC" in added


def test_dcmtk_works_with_the_lines_of_the_page(tmp_path):
    """Each line succeeds."""
    write(study(series=1, instances=2), tmp_path / "folder")
    with serving(tmp_path / "archive") as archive:
        lines = block("dcmtk").replace("11112", str(archive.port)).splitlines()
        needs("getscu")
        type_all(lines, tmp_path)
        assert len(archive.maintenance.instances({})) == 2
    assert len([each for each in tmp_path.iterdir() if each.is_file()]) == 2, "files of getscu"


@pytest.mark.parametrize("line", [block("modality"), block("slicer")], ids=["modality", "slicer"])
def test_the_peers_of_the_page_can_be_added(line, tmp_path, monkeypatch):
    """They are in the configuration afterwards."""
    type_all(line.splitlines(), tmp_path)
    monkeypatch.chdir(tmp_path)
    assert [peer.host for peer in load(None, {}).peers] == ["127.0.0.1"]


def test_the_configuration_of_the_page_restricts_the_modality(tmp_path):
    """It may store and commit."""
    (tmp_path / "config.toml").write_text(block("modality settings"))
    (peer,) = load(tmp_path / "config.toml", {}).peers
    assert peer.services == ("store", "commit")


def test_an_unknown_destination_is_refused_as_the_page_says(tmp_path):
    """With status A801, move destination unknown."""
    with serving(tmp_path / "archive") as archive:
        take_in(archive, study(series=1, instances=1))
        words = (
            "-v",
            "-S",
            "-aec",
            "PACS",
            "-aem",
            "NOBODY",
            "-k",
            "QueryRetrieveLevel=STUDY",
            "-k",
            "StudyInstanceUID=1",
        )
        said = run("movescu", *words, "127.0.0.1", archive.port, check=False)
    assert "MoveDestinationUnknown" in said


def test_a_query_that_orthanc_aborts_names_the_missing_entry(tmp_path):
    """Orthanc accepts any association, and aborts it at a query of an unknown AE."""
    port = free_port()
    settings = json.loads(block("orthanc settings").replace("4242", str(port)))
    with orthanc(tmp_path / "orthanc", settings):
        command = [
            sys.executable,
            "-m",
            "pacs",
            "find",
            f"ORTHANC@127.0.0.1:{port}",
            "-k",
            "PatientID",
            "-aet",
            "STRANGER",
        ]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ran.returncode == 1
    assert "add it at the peer with\n" in ran.stderr
    assert "AE title STRANGER" in ran.stderr
