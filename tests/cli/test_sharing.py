"""Two servers on the same files: the second one says what it shares with which process, and refuses unless told so."""

import re
import signal
import subprocess
import sys

import pytest

from pacs.archive import Archive
from pacs.config import from_settings
from pacs.errors import ConfigurationError
from pacs.index.database import Index
from pacs.testing import study
from tests.cli.test_daemon import ROOT, process
from tests.cli.test_workers import Client, children, lives, stopped
from tests.databases import fresh_database, opened
from tests.programs import start
from tests.waiting import eventually
from tests.web.answering import answering
from tests.web.test_health import readiness


@pytest.fixture
def database_url(request, tmp_path):
    """The URL of a fresh database, SQLite if the test names no other kind."""
    with fresh_database(getattr(request, "param", "sqlite"), request, tmp_path) as url:
        yield url


def second(folder, url, **settings):
    """An archive with the same files, in this process."""
    words = {"server.port": 0, "web.enabled": False, "database.url": url, "files.url": str(folder / "files")}
    return Archive(from_settings(words | settings))


@pytest.mark.parametrize(("database_url", "workers"), [("sqlite", 2), ("postgresql", 1)], indirect=["database_url"])
def test_a_second_server_on_the_same_archive_is_refused(tmp_path, database_url, workers):
    """It names the process, AE title and port of the first one, which goes on."""
    words = ("--set", f"database.url={database_url}", "--workers", str(workers))
    with process(tmp_path, *words) as server:
        with second(tmp_path, database_url) as archive, pytest.raises(ConfigurationError) as refused:
            archive.start()
        assert refused.value.comment == (
            f"another server, process {server.pid} with AE title PACS on 127.0.0.1:{server.port}, has the same file "
            "store and the same index; stop it, or set server.shared = true (`pacs serve --shared`) for several "
            "servers on one archive"
        )
        with Client(server.port) as client:
            assert client.store(study(series=1, instances=1, size=8)[0]) == 0
        stopped(server)
    with second(tmp_path, database_url) as archive:
        archive.start()


def test_the_command_refuses_too(tmp_path):
    """With one line and an exit status; `--shared` is the way to say so."""
    with process(tmp_path) as server:
        command = [sys.executable, "-m", "pacs", "serve", "--port", "0", "--set", "web.enabled=false"]
        command += ["--set", f"files.url={tmp_path}/files", "--set", f"database.url=sqlite:///{tmp_path}/pacs.db"]
        with start(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as other:
            out, err = other.communicate(timeout=60)
        assert (other.returncode, out) == (2, "")
        assert f"another server, process {server.pid} with AE title PACS" in err
        with process(tmp_path, "--shared") as sharing, Client(server.port) as first, Client(sharing.port) as also:
            datasets = study(series=1, instances=2, size=8)
            assert [first.store(datasets[0]), also.store(datasets[1])] == [0, 0]
            assert len(first.found()) == len(also.found()) == 2
            first.socket.close()
            also.socket.close()
            _, log = stopped(sharing)
        assert f"process {server.pid} with AE title PACS on 127.0.0.1:{server.port}, has the same file store" in log


def test_the_same_files_with_another_index_are_refused_always(tmp_path):
    """Each server would know only its own instances."""
    url, said = f"sqlite:///{tmp_path}/other.db", r"has the same files\.url and another index.*database\.url"
    with process(tmp_path), second(tmp_path, url, **{"server.shared": True}) as archive:  # noqa: SIM117
        with pytest.raises(ConfigurationError, match=said):
            archive.start()


def test_the_same_index_by_another_name_is_the_same(tmp_path, postgres_index: Index):
    """A link to an SQLite file; PostgreSQL by a URL with other options."""
    (tmp_path / "link.db").symlink_to(tmp_path / "pacs.db")
    with opened(f"sqlite:///{tmp_path}/link.db") as link, opened(f"sqlite:///{tmp_path}/pacs.db") as real:
        assert link.identity() == real.identity()
    url = postgres_index.url.update_query_dict({"application_name": "another"})
    with opened(url.render_as_string(hide_password=False)) as other:
        assert re.fullmatch(r"\d+:pacs_test_\w+", other.identity())
        assert other.identity() == postgres_index.identity()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_same_index_with_other_files_is_not_ready(tmp_path, database_url):
    """The files of its newest instances are not there."""
    with process(tmp_path, "--set", f"database.url={database_url}") as server:
        with Client(server.port) as client:
            assert client.store(study(series=1, instances=1, size=8)[0]) == 0
        with answering(tmp_path / "elsewhere", "--set", f"database.url={database_url}") as other:
            status, said = readiness(other.web)
            stopped(other)
    assert status == 503
    assert "1 of the newest 1 instances of the index have no file: check files.url" in said["reasons"]["index"]


@pytest.mark.skipif(sys.platform != "linux", reason="the test finds processes in /proc")
def test_a_killed_server_does_not_keep_the_next_one_from_starting(tmp_path):
    """Its workers may still be ending: an association is open."""
    with process(tmp_path, "--workers", "2") as server:
        with Client(server.port) as client:
            workers = children(server)
            server.send_signal(signal.SIGKILL)
            server.wait(20)
            with process(tmp_path):
                assert any(map(lives, workers))
            client.socket.close()
        eventually(lambda: not any(map(lives, workers)), 60)
