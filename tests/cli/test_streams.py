"""Output to terminals and pipes of any character set, to full disks and to closed pipes."""

import os
import subprocess
import sys

import pytest

from pacs.testing import serving, study
from tests.programs import PATIENCE

NAME = "Müller^José=山田^太郎"


@pytest.fixture(scope="module")
def server():
    """A server with a name of several scripts."""
    with serving() as found:
        found.add(study(NAME, patient_id="P1", series=1, instances=1, SpecificCharacterSet="ISO_IR 192"))
        yield found


def run(*words, **options):
    """Run `pacs` as a process."""
    environment = os.environ | options.pop("environment", {})
    return subprocess.run(
        [sys.executable, "-m", "pacs", *words],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
        env=environment, timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"PYTHONIOENCODING": "cp1252"}, "Müller^José=\\u5c71\\u7530^\\u592a\\u90ce".encode("cp1252")),
        ({"PYTHONIOENCODING": "ascii"}, rb"M\xfcller^Jos\xe9=\u5c71\u7530^\u592a\u90ce"),
        (
            {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
            rb"M\xfcller^Jos\xe9=\u5c71\u7530^\u592a\u90ce",
        ),
        ({"PYTHONIOENCODING": "utf-8"}, NAME.encode()),
    ],
    ids=["cp1252", "ascii", "LANG=C", "UTF-8"],
)
def test_characters_that_cannot_be_shown_are_escaped(server, environment, shown):
    """As Python writes them; nothing is lost, and no command ends for it."""
    done = run("find", server.address, "-k", "PatientName", environment=environment)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


def test_names_of_files_in_another_character_set_are_shown(server, tmp_path):
    """A file name with a byte that is no UTF-8."""
    done = run("get", server.address, "-k", "PatientID=P1", "--to", tmp_path / os.fsdecode(b"in\xff"))
    assert done.returncode == 0, done.stderr
    assert rb"in\udcff" in done.stdout


@pytest.mark.parametrize("words", [["find", "-k", "PatientName"], ["find", "-k", "PatientName", "--json"], ["echo"]])
def test_a_full_disk_ends_the_command_with_a_sentence(server, words):
    """Whether the output is a row, JSON or a line."""
    with open("/dev/full", "wb") as full:
        done = run(words[0], server.address, *words[1:], stdout=full)
    assert (done.returncode, done.stderr) == (1, b"pacs: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("words", [["--help"], ["find", "--help"], ["--version"], ["conformance"]])
def test_so_does_output_without_a_peer(words):
    """The help too."""
    with open("/dev/full", "wb") as full:
        done = run(*words, stdout=full)
    assert (done.returncode, done.stderr) == (1, b"pacs: cannot write the output: No space left on device\n")


def test_a_closed_pipe_ends_the_command_with_a_sentence(server):
    """As after `head`."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = run("find", server.address, "-k", "PatientName", stdout=closed)
    assert (done.returncode, done.stderr) == (1, b"pacs: cannot write the output: Broken pipe\n")


def test_a_closed_standard_output_and_a_full_standard_error_are_borne(server):
    """There is nowhere to write, and the exit status says the rest."""
    program = [sys.executable, "-m", "pacs", "find", server.address, "-k", "PatientName"]
    closed = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *program], capture_output=True, timeout=PATIENCE, check=False
    )
    full = subprocess.run(["sh", "-c", '"$@" 2>/dev/full', "sh", *program[:-1], "Wrong"], timeout=PATIENCE, check=False)
    assert (closed.returncode, closed.stderr) == (0, b"")
    assert full.returncode != 0


def run_shell(line, *program):
    """Run a line of the shell, whose "$@" is the program."""
    return subprocess.run(["sh", "-c", line, "sh", *program], capture_output=True, timeout=PATIENCE, check=False)
