"""A server whose index lacks files: it says so at the start, and adds them while it runs."""

import os
import re
import shutil
import signal
from contextlib import closing, contextmanager

import pytest

from pacs.archive import Archive
from pacs.config import from_settings
from pacs.files.local import LocalFiles
from pacs.index import maintenance
from pacs.index.database import Index
from pacs.testing import study, write
from tests import raw
from tests.archives import GET, identifier
from tests.cli.test_lost_index import PATIENCE, Asking
from tests.cli.test_workers import children, stopped
from tests.databases import fresh_database
from tests.raw import Raw, request
from tests.waiting import eventually
from tests.web.answering import answering, numbers
from tests.web.test_health import is_ready, not_ready, readiness

COUNT = 12


@pytest.fixture
def paths(tmp_path):
    """Twelve instances of one study as files."""
    return write(study(series=1, instances=COUNT, size=8), tmp_path / "given")


@pytest.fixture
def database_url(request, tmp_path):
    """The URL of a fresh database, SQLite if the test names no other kind."""
    with fresh_database(getattr(request, "param", "sqlite"), request, tmp_path) as url:
        yield url


@pytest.fixture
def stored(tmp_path, database_url, paths):
    """An archive with twelve instances: the words for `pacs serve`."""
    with archive(tmp_path, database_url) as filled:
        filled.open()
        for path in paths:
            filled.storage.import_file(path)
    return ("--set", f"database.url={database_url}")


def archive(folder, url):
    """An archive that is not started."""
    return Archive(from_settings({"database.url": url, "files.url": str(folder / "files"), "web.enabled": False}))


def forget(url, folder, count):
    """Remove the newest rows, as an older backup of the index lacks them."""
    with closing(Index(url)) as index:
        maintenance.forget(index, LocalFiles(folder / "files").newest(count))


def found(port):
    """Return the SOP Instance UIDs of all instances."""
    with Asking(port) as client:
        return client.found()


def dies(server):
    """Kill a server with its workers."""
    for pid in (server.pid, *children(server)):
        os.kill(pid, signal.SIGKILL)
    server.communicate(timeout=PATIENCE)


@pytest.mark.parametrize(
    ("database_url", "lost", "workers"),
    [pytest.param("sqlite", COUNT, 1, marks=pytest.mark.long), ("sqlite", 5, 4), ("postgresql", COUNT, 4)],
    indirect=["database_url"],
)
def test_missing_instances_are_added_while_the_server_runs(tmp_path, database_url, stored, lost, workers):
    """Found at the end, all of them; the log, /readyz and /metrics say how far it is."""
    forget(database_url, tmp_path, lost)
    with answering(tmp_path, *stored, "--workers", str(workers)) as server:
        eventually(lambda: is_ready(server.web), PATIENCE)
        assert len(found(server.port)) == COUNT
        assert numbers(server.web)["pacs_index_added_total"] == lost
        assert numbers(server.web)["pacs_index_completed_ratio"] == 1
        _, log = stopped(server)
    assert "the index lacks files of the file store" in log
    assert f"the index is complete: {lost} instances were added" in log
    assert len(re.findall("the index is complete", log)) == 1
    assert "Traceback" not in log


HELD = "the index is being completed (0 %): try again later"


@contextmanager
def held(folder):
    """Keep servers from completing the index, as one does that is busy with the first files."""
    with LocalFiles(folder / "files").incomplete_note().lock() as is_ours:
        assert is_ours
        yield


@pytest.fixture
def lacking(tmp_path, database_url, stored):
    """An archive whose index is empty, noted as such, so that the note can be held before a server starts."""
    forget(database_url, tmp_path, COUNT)
    LocalFiles(tmp_path / "files").incomplete_note().create()
    return stored


KINDS_AND_WORKERS = pytest.mark.parametrize(
    ("database_url", "workers"),
    [("sqlite", 4), pytest.param("postgresql", 1, marks=pytest.mark.long)],
    indirect=["database_url"],
)


@KINDS_AND_WORKERS
def test_queries_are_refused_and_stores_accepted_until_the_index_is_complete(tmp_path, lacking, workers):
    """C-FIND A700, C-MOVE and C-GET A701, with the reason; the start after a kill goes on, and all are found."""
    words = (*lacking, "--workers", str(workers))
    (extra,) = study(series=1, instances=1, size=8)
    extra.StudyInstanceUID, extra.SeriesInstanceUID, extra.SOPInstanceUID = "1.2.3", "1.2.3.4", "1.2.3.4.5"
    with held(tmp_path), answering(tmp_path, *words) as server:
        eventually(lambda: not_ready(server.web, "index"), PATIENCE)
        assert "completing it (0 of 0 files checked, 0 added)" in readiness(server.web)[1]["reasons"]["index"]
        assert numbers(server.web)["pacs_index_completed_ratio"] == 0
        with Asking(server.port) as client:
            assert client.asked() == (0xA700, HELD)
            assert client.stored(extra) == (0, "")
        assert retrieved(server.port) == (0xA701, HELD)
        dies(server)
    with answering(tmp_path, *words) as server:
        eventually(lambda: is_ready(server.web), PATIENCE)
        assert len(found(server.port)) == COUNT + 1
        stopped(server)


def retrieved(port):
    """Return status and comment of a C-GET."""
    with Raw(port) as client:
        client.associate((1, GET, [raw.IMPLICIT]))
        client.send(request(raw.C_GET, 1, GET, 1, identifier("STUDY", StudyInstanceUID="1.2")))
        answer = client.until_final()[-1]
        return answer.status, answer.text(0x0902)


def test_queries_are_answered_meanwhile_where_a_setting_says_so(tmp_path, lacking):
    """And the server is ready."""
    with held(tmp_path), answering(tmp_path, *lacking, "--set", "database.heal=answer") as server:
        eventually(lambda: is_ready(server.web), PATIENCE)
        with Asking(server.port) as client:
            assert client.asked() == (0, "")
        stopped(server)


@pytest.mark.parametrize(
    ("database_url", "lost"),
    [("sqlite", 5), pytest.param("postgresql", COUNT, marks=pytest.mark.long)],
    indirect=["database_url"],
)
def test_without_heal_the_server_says_what_to_do(tmp_path, pacs, database_url, stored, lost):
    """The log, /readyz and `pacs check`, with numbers, also at later starts, until `pacs reindex` has run."""
    forget(database_url, tmp_path, lost)
    settings = (*stored, "--set", "database.heal=false")
    said = f"{lost} of the newest {COUNT} files are not in the index: run `pacs reindex`"
    commands = (
        *settings,
        "--set",
        f"files.url={tmp_path}/files",
        "--set",
        "server.port=0",
        "--set",
        "web.enabled=false",
    )
    checked = pacs("check", *commands)
    assert (checked.exit_code, f"FAIL index and files: {said}" in checked.stdout) == (1, True)
    with answering(tmp_path, *settings) as server:
        assert readiness(server.web) == (503, {"ready": False, "reasons": {"index": said}})
        assert len(found(server.port)) == COUNT - lost
        assert pacs("reindex", *commands).exit_code == 0
        eventually(lambda: is_ready(server.web), PATIENCE)
        assert len(found(server.port)) == COUNT
        _, log = stopped(server)
    assert said in log


def test_a_file_that_cannot_be_added_is_reported_once(tmp_path, database_url, stored):
    """With its name and their number; the next start does not look at it again."""
    files = LocalFiles(tmp_path / "files")
    forget(database_url, tmp_path, COUNT)
    damaged, *_ = keys = files.newest(COUNT)
    with (tmp_path / "files" / damaged).open("r+b") as file:
        file.truncate(300)
    logs = [log_of_a_start(tmp_path, stored) for _ in range(2)]
    assert len(re.findall(f"file {damaged} is not in the index and was not added", logs[0])) == 1
    assert f"{COUNT - 1} instances were added from their files; 1 files could not be added" in logs[0]
    assert damaged not in logs[1]
    assert files.newest(COUNT) == keys


def log_of_a_start(folder, words):
    """Start a server, wait until it is ready and all but one instance are found, and return its log."""
    with answering(folder, *words) as server:
        eventually(lambda: is_ready(server.web), PATIENCE)
        assert len(found(server.port)) == COUNT - 1
        return stopped(server)[1]


def test_files_that_are_not_there_are_said_and_no_row_is_removed(tmp_path, pacs, database_url, stored):
    """A disk that is not mounted: /readyz, the log and `pacs check`; when it is back the server is ready."""
    year = next(path for path in (tmp_path / "files").iterdir() if path.name.isdecimal())
    year.rename(tmp_path / "away")
    said = f"{COUNT} of the newest {COUNT} instances of the index have no file: check files.url"
    checked = pacs("check", *stored, "--set", f"files.url={tmp_path}/files", "--set", "server.port=0")
    assert said in checked.stdout
    with answering(tmp_path, *stored) as server:
        assert said in readiness(server.web)[1]["reasons"]["index"]
        assert len(found(server.port)) == COUNT
        shutil.rmtree(year, ignore_errors=True)  # `pacs check` has written a file there, and deleted it
        (tmp_path / "away").rename(year)
        eventually(lambda: is_ready(server.web), PATIENCE)
        _, log = stopped(server)
    assert said in log
