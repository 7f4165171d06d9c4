"""Private by default: other users of the machine may read nothing that the archive writes, whatever the umask is."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from pacs.support import private
from pacs.testing import study
from tests.cli.test_daemon import ROOT, process
from tests.cli.test_workers import Client

SMALL, LARGE = 512, 2 << 20
"""Pixels of an image that goes through the journal, and of one that goes through a temporary file."""


def images(*pixels):
    """Return an image for each number of pixels."""
    found = study(series=1, instances=len(pixels))
    for each, count in zip(found, pixels, strict=True):
        each.PixelData = bytes(count)
    return found


def excess(folder):
    """Return the mode of each file and folder, `folder` included, that is more than 0640 or 0750."""
    found = {path: path.stat().st_mode for path in (folder, *folder.rglob("*")) if path.exists()}
    allowed = {path: 0o750 if stat.S_ISDIR(mode) else 0o640 for path, mode in found.items()}
    return {str(path): oct(mode) for path, mode in found.items() if mode & 0o777 & ~allowed[path]}


def names(folder):
    """Return the names of all files in a folder and its subfolders."""
    return {path.name for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def data(tmp_path):
    """The data folder; it does not exist."""
    return tmp_path / "data"


def serving(data, *words):
    """A server of that folder, with an audit log in it and the umask 0, which forbids nothing."""
    return process(data, "--set", f"audit.file={data}/audit.log", *words, umask=0)


def store(server, datasets):
    """Store data sets on one association."""
    with Client(server.port) as client:
        assert [client.store(each) for each in datasets] == [0] * len(datasets)


def run(data, *words):
    """Run a command on that folder, with the umask 0."""
    settings = ("--set", f"files.url={data}/files", "--set", f"database.url=sqlite:///{data}/pacs.db")
    command = [sys.executable, "-m", "pacs", *map(str, words), *settings]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60, umask=0)


def test_a_server_of_several_processes_writes_private_files_only(data, tmp_path):
    """Index, journal, locks, markers, images and audit log, while it runs and after a SIGKILL; then a backup."""
    data.mkdir(mode=0o755)
    with serving(data, "--workers", "2") as server:
        store(server, images(SMALL, LARGE))
        assert {"pacs.db", "pacs.db-wal", "pacs.db-shm", "pacs.db-turn", "audit.log"} <= names(data)
        assert any((data / "files" / "journal").iterdir())
        assert excess(data) == {}
        server.send_signal(signal.SIGKILL)
        server.wait(60)
        assert excess(data) == {}
    run(data, "backup", tmp_path / "backup")
    assert "manifest.json" in names(tmp_path / "backup")
    assert excess(tmp_path / "backup") == {}
    run(data, "reindex")
    run(data, "fsck")
    assert excess(data) == {}


def test_an_archive_of_an_earlier_version_becomes_private_at_the_start(data):
    """Index and folder were made by the umask."""
    with serving(data) as server:
        store(server, images(SMALL))
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    for path in (data, data / "files"):
        path.chmod(0o755)
    for name in ("pacs.db", "audit.log"):
        (data / name).chmod(0o666)
    with serving(data) as server:
        store(server, images(SMALL, SMALL))
        assert excess(data) == {}


def test_a_folder_with_other_entries_keeps_its_mode(data):
    """Such as a home folder: only what is the archive's becomes private."""
    (data / "photos").mkdir(parents=True)
    data.chmod(0o755)
    with serving(data):
        assert stat.S_IMODE(data.stat().st_mode) == 0o755
        assert excess(data / "files") == {}
        assert stat.S_IMODE((data / "pacs.db").stat().st_mode) == 0o640


def test_a_stricter_umask_stays_stricter(tmp_path):
    """0700 and 0600 with the umask 077."""
    before = os.umask(0o077)
    try:
        private.make_folder(tmp_path / "a" / "b")
        private.make_file(tmp_path / "a" / "file")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "a", tmp_path / "a" / "b")} == {0o700}
    assert stat.S_IMODE((tmp_path / "a" / "file").stat().st_mode) == 0o600
