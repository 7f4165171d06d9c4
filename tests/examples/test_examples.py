"""The programs in examples/ run as they are."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import dcmread

from pacs.observability.events import OperationFinished
from pacs.testing import serving, study
from tests.archives import take_in
from tests.programs import PATIENCE, free_port, pixelmed, run_pixelmed

EXAMPLES = Path(__file__).parents[2] / "examples"
COUNT = 5


@pytest.fixture
def port():
    """The port that the example listens on."""
    return free_port()


@pytest.fixture
def archive(tmp_path, port):
    """An archive that knows ME and has two studies of one patient."""
    with serving(tmp_path / "archive", {"peers": [{"ae_title": "ME", "host": "127.0.0.1", "port": port}]}) as archive:
        for number in (1, 2):
            take_in(archive, study(series=1, instances=COUNT, number=number))
        yield archive


def uids(number):
    """Return the instances of one study."""
    return sorted(each.SOPInstanceUID for each in study(series=1, instances=COUNT, number=number))


def received(folder):
    """Return the instances in a folder."""
    return sorted(dcmread(path).SOPInstanceUID for path in folder.rglob("*") if path.is_file())


def example(name, *arguments):
    """Run an example with the Python of this test run."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_the_newest_study_is_downloaded_with_a_progress_bar(archive, tmp_path):
    """A second run downloads nothing."""
    words = (f"PACS@127.0.0.1:{archive.port}", "P1", tmp_path / "downloads")
    first, second = example("download_study.py", *words), example("download_study.py", *words)
    assert first.returncode == 0, first.stderr
    assert "CT study 2" in first.stdout
    assert received(tmp_path / "downloads") == uids(2)
    assert f"{COUNT} of them were already present" in second.stdout


def test_plain_pynetdicom_downloads_a_study(archive, tmp_path, port):
    """The counts rise, and all instances arrive."""
    chosen = study(number=1)[0].StudyInstanceUID
    words = ("127.0.0.1", archive.port, "PACS", chosen, tmp_path / "downloads", "--ours", "ME", "--port", port)
    done = example("download_study_pynetdicom.py", *words)
    assert done.returncode == 0, done.stderr
    assert f"{COUNT} instances in" in done.stdout
    assert received(tmp_path / "downloads") == uids(1)


def test_plain_pynetdicom_cancels_at_the_limit(archive, tmp_path, port):
    """The archive ends the move with FE00 before it has sent everything."""
    many = study(series=1, instances=60, number=7)
    take_in(archive, many)
    finished = []
    archive.events.subscribe(lambda event: finished.append(event) if isinstance(event, OperationFinished) else None)
    words = ("127.0.0.1", archive.port, "PACS", many[0].StudyInstanceUID, tmp_path / "downloads")
    done = example("download_study_pynetdicom.py", *words, "--ours", "ME", "--port", port, "--limit", 2)
    assert done.returncode == 0, done.stderr
    assert "status 0xFE00" in done.stdout
    assert 2 <= len(received(tmp_path / "downloads")) < len(many)
    assert [each.status for each in finished if each.kind == "C-MOVE"] == [0xFE00]


def test_pixelmed_downloads_a_study(archive, tmp_path, port):
    """Compiled and run from its source."""
    chosen = study(number=1)[0].StudyInstanceUID
    words = ("127.0.0.1", archive.port, "PACS", "ME", port, chosen, tmp_path / "downloads")
    printed = pixelmed(EXAMPLES / "DownloadStudy.java", words)
    assert "status 0x0000" in printed
    assert printed.count("received ") == COUNT
    assert received(tmp_path / "downloads") == uids(1)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("the PACS is off", "Connection refused"),
        ("the PACS does not know ME", "failure status 0xa801"),
        ("our port is taken", "Address already in use"),
    ],
)
def test_pixelmed_ends_when_the_download_fails(archive, tmp_path, port, reason, said):
    """It says why and does not wait for instances that never come."""
    pacs, ours = archive.port, "ME"
    with socket.socket() as taken:
        if reason == "our port is taken":
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
        elif reason == "the PACS is off":
            pacs = free_port()
        else:
            ours = "STRANGER"
        words = ("127.0.0.1", pacs, "PACS", ours, port, study(number=1)[0].StudyInstanceUID, tmp_path / "downloads")
        ended = run_pixelmed(EXAMPLES / "DownloadStudy.java", words)
    assert ended.returncode == 1
    assert said in ended.stdout + ended.stderr


def test_the_tests_of_the_example_scu_pass():
    """Six tests in their own folder: five faults and a working PACS."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        "-p",
        "no:hypothesispytest",
    ]
    ran = subprocess.run(
        command, cwd=EXAMPLES / "testing", capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ran.returncode == 0, ran.stdout
    assert "6 passed" in ran.stdout


@pytest.mark.parametrize(
    ("correct", "broken"),
    [
        ("for _ in range(self.tries):", "for _ in range(1):"),
        ("raise PacsBusy if response.Status == OUT_OF_RESOURCES else", "return matches if True else"),
        ("if not response:", "if False:"),
        ("if not response or response.Status != SUCCESS:", "if not response:"),
    ],
)
def test_an_scu_that_ignores_faults_fails_its_tests(tmp_path, correct, broken):
    """Each check of a fault is needed: without it a test fails."""
    for name in ("pytest.ini", "test_workstation.py", "workstation.py"):
        text = (EXAMPLES / "testing" / name).read_text("utf-8")
        (tmp_path / name).write_text(text.replace(correct, broken), "utf-8")
    assert correct not in (tmp_path / "workstation.py").read_text("utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ran.returncode == 1, ran.stdout
