"""docs/connect.md: what it has people type does what it says, with Orthanc and DCMTK at the other end."""

import json
import re
import shlex
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from pacs.config import load
from pacs.testing import serving, study, write
from tests.archives import take_in
from tests.programs import PATIENCE, free_port, needs, run, running, wait_for_port

PAGE = (Path(__file__).parents[2] / "docs" / "connect.md").read_text("utf-8")


def block(language, name):
    """The block of the page with this language and name."""
    (found,) = re.findall(rf"```{language} {name}\n(.*?)```", PAGE, re.DOTALL)
    return found


def type_in(lines, folder):
    """Type lines into a shell in which `pacs` is ours: what it prints."""
    printed = []
    for line in lines:
        words = shlex.split(line)
        command = [sys.executable, "-m", "pacs", *words[1:]] if words[0] == "pacs" else words
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert ran.returncode == 0, (line, ran.stdout, ran.stderr)
        printed.append(ran.stdout)
    return printed


@contextmanager
def orthanc(folder, settings):
    """Orthanc with the configuration of the page."""
    program = needs("Orthanc")
    folder.mkdir()
    places = {"StorageDirectory": str(folder), "IndexDirectory": str(folder), "HttpServerEnabled": False}
    (folder / "orthanc.json").write_text(json.dumps(settings | places))
    with running([program, folder / "orthanc.json"], folder.with_suffix(".log")):
        wait_for_port(settings["DicomPort"])
        yield


def test_orthanc_and_we_know_each_other_by_the_lines_of_the_page(tmp_path):
    """It answers us, images go there, are found there, and come back by C-MOVE."""
    ours, theirs = free_port(), free_port()
    settings = json.loads(block("json", "orthanc").replace("4242", str(theirs)).replace("11112", str(ours)))
    lines = block("sh", "orthanc").replace("4242", str(theirs)).splitlines()
    write(study(series=1, instances=3), tmp_path / "folder")
    (tmp_path / "config.toml").write_text(f"[server]\nport = {ours}\n[web]\nenabled = false\n")
    with orthanc(tmp_path / "orthanc", settings), serving(tmp_path / "archive", {"server.port": ours}) as archive:
        added, checked, stored, found, moved = type_in(lines, tmp_path)
        assert "peer ORTHANC at 127.0.0.1" in checked
        assert "answers C-ECHO" in checked  # a C-MOVE of nothing fails there with C000, whoever it is to
        assert stored.startswith("3 instances, ")
        assert "DOE^JOHN" in found
        assert moved == "3 instances sent\n"
        assert len(archive.maintenance.instances({})) == 3
    assert "ORTHANC" in added


def test_dcmtk_works_with_the_lines_of_the_page(tmp_path):
    """Each line ends well."""
    write(study(series=1, instances=2), tmp_path / "folder")
    with serving(tmp_path / "archive") as archive:
        lines = block("sh", "dcmtk").replace("11112", str(archive.port)).splitlines()
        needs("getscu")
        type_in(lines, tmp_path)
        assert len(archive.maintenance.instances({})) == 2
    assert len([each for each in tmp_path.iterdir() if each.is_file()]) == 2, "what getscu got"


@pytest.mark.parametrize("name", ["modality", "slicer"])
def test_the_peers_of_the_page_can_be_added(name, tmp_path):
    """And are in the table then."""
    type_in(block("sh", name).splitlines(), tmp_path)
    assert [peer.host for peer in load(tmp_path / "config.toml", {}).peers] == ["127.0.0.1"]


def test_the_configuration_of_the_page_is_one(tmp_path):
    """It says what the modality may do."""
    (tmp_path / "config.toml").write_text(block("toml", "modality"))
    (peer,) = load(tmp_path / "config.toml", {}).peers
    assert peer.services == ("store", "commit")


def test_a_destination_that_nobody_entered_is_refused_as_the_page_says(tmp_path):
    """A801."""
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


def test_a_query_that_orthanc_aborts_says_what_to_enter_there(tmp_path):
    """It takes the association of anybody, and ends it at a query of who is not in its table."""
    port = free_port()
    settings = json.loads(block("json", "orthanc").replace("4242", str(port)))
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
    assert "add a peer there with\n" in ran.stderr
    assert "AE title STRANGER" in ran.stderr
