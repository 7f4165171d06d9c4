"""Private by default: other users of the machine may read nothing that the archive writes, whatever the umask is."""

import os
import signal
import stat

import pytest

from pacs.support import private
from pacs.testing import serving, study, write
from tests.cli.test_daemon import process
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


@pytest.fixture(autouse=True)
def _no_umask():
    """Set the umask 0, which forbids nothing, for this process and those that it starts."""
    before = os.umask(0)
    yield
    os.umask(before)


def settings(data):
    """Return options for an archive in that folder."""
    return ("--set", f"files.url={data}/files", "--set", f"database.url=sqlite:///{data}/pacs.db")


def store(server, datasets):
    """Store data sets on one association."""
    with Client(server.port) as client:
        assert [client.store(each) for each in datasets] == [0] * len(datasets)


def test_a_server_of_several_processes_writes_private_files_only(pacs, tmp_path):
    """Index, journal, locks, markers, images and audit log, while it runs and after a SIGKILL; then a backup."""
    (data := tmp_path / "data").mkdir(mode=0o755)
    with process(data, "--set", f"audit.file={data}/audit.log", "--workers", "2") as server:
        store(server, images(SMALL, LARGE))
        assert {"pacs.db", "pacs.db-wal", "pacs.db-shm", "pacs.db-turn", "audit.log"} <= names(data)
        assert any((data / "files" / "journal").iterdir())
        assert excess(data) == {}
        server.send_signal(signal.SIGKILL)
        server.wait(60)
        assert excess(data) == {}
    assert pacs("backup", tmp_path / "backup", *settings(data)).exit_code == 0
    assert "manifest.json" in names(tmp_path / "backup")
    assert excess(tmp_path / "backup") == {}
    restored = tmp_path / "restored" / "again"
    assert pacs("restore", tmp_path / "backup", *settings(restored)).exit_code == 0
    assert excess(tmp_path / "restored") == {}
    for command in ("reindex", "fsck"):
        assert pacs(command, *settings(data)).exit_code == 0
    assert excess(data) == {}


def test_an_archive_of_an_earlier_version_becomes_private_at_the_start(tmp_path):
    """Index and folder were made by the umask."""
    chosen = {"audit.file": f"{tmp_path}/data/audit.log", "files.url": f"{tmp_path}/data/files"}
    chosen["database.url"] = f"sqlite:///{tmp_path}/data/pacs.db"
    with serving(tmp_path, chosen) as archive:
        store(archive, images(SMALL))
    data = tmp_path / "data"
    for path in (data, data / "files"):
        path.chmod(0o755)
    for name in ("pacs.db", "audit.log"):
        (data / name).chmod(0o666)
    assert len(excess(data)) == 4
    with serving(tmp_path, chosen) as archive:
        store(archive, images(SMALL, SMALL))
        assert {"pacs.db-wal", "pacs.db-shm"} <= names(data)
        assert excess(data) == {}


def test_a_folder_with_other_entries_keeps_its_mode(tmp_path):
    """Such as a home folder: only what is the archive's becomes private."""
    (data := tmp_path / "data").mkdir()
    (data / "photos").mkdir()
    data.chmod(0o755)
    chosen = {"files.url": f"{data}/files", "database.url": f"sqlite:///{data}/pacs.db"}
    with serving(tmp_path, chosen):
        assert stat.S_IMODE(data.stat().st_mode) == 0o755
        assert excess(data / "files") == {}
        assert stat.S_IMODE((data / "pacs.db").stat().st_mode) == 0o640


def test_what_a_user_asked_for_follows_the_umask(pacs, tmp_path):
    """As with `cp`: exported files."""
    write(images(SMALL), tmp_path / "in")
    data = tmp_path / "data"
    assert pacs("import", tmp_path / "in", *settings(data)).exit_code == 0
    assert pacs("export", tmp_path / "out", "--all", *settings(data)).exit_code == 0
    assert excess(data) == {}
    (exported,) = (tmp_path / "out").rglob("*.dcm")
    assert stat.S_IMODE(exported.stat().st_mode) == 0o666


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
