"""Backup and restore of an archive."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pacs.errors import ConfigurationError, StorageUnavailable
from pacs.files.local import LocalFiles
from pacs.files.process_lock import LockedFolder
from pacs.index import writer
from pacs.index.database import Index
from pacs.services.backup import Backups, Copied
from pacs.services.fsck import Fsck
from pacs.services.maintenance import Maintenance
from pacs.services.storage import Storage
from pacs.testing import study
from tests.databases import KINDS, fresh_database, opened
from tests.upkeep import mix, rows, send, series_of, tree


class BackupSetup:
    """An archive and its backups."""

    def __init__(self, index: Index, root: Path) -> None:
        self.index, self.root = index, root
        self.files = LocalFiles(root)
        self.storage = Storage(index, self.files, duplicates="replace")
        self.backups = Backups(index, self.files)

    def instances(self):
        """Return all instances, oldest first."""
        return sorted(Maintenance(self.index, self.files).instances({}), key=lambda each: each.file_key)

    def delete(self, count: int) -> None:
        """Delete the oldest ones."""
        Maintenance(self.index, self.files).delete(self.instances()[:count])


@pytest.fixture
def archive(index: Index, tmp_path: Path) -> BackupSetup:
    """An empty archive, on each kind of database."""
    return BackupSetup(index, tmp_path / "files")


@pytest.fixture
def new(request, tmp_path: Path):
    """A new and empty archive, on SQLite unless a test asks for each kind of database."""
    folder = tmp_path / "new"
    folder.mkdir()
    with fresh_database(getattr(request, "param", "sqlite"), request, folder) as url, opened(url) as index:
        yield BackupSetup(index, folder / "files")


@pytest.mark.parametrize("new", KINDS, indirect=True)
def test_a_restored_archive_is_the_same_bit_for_bit_and_row_for_row(
    archive: BackupSetup, new: BackupSetup, tmp_path: Path
):
    """From either database into either, with the time of last use of each instance."""
    mix(archive.index, archive.files, archive.storage)
    writer.touch(archive.index, [archive.instances()[0].sop_instance_uid], 12345)
    made = archive.backups.make(tmp_path / "backup")
    count, size = len(archive.instances()), sum(each.size for each in archive.instances())
    assert made == Copied(instances=count, size=size, copied=count)
    assert new.backups.restore(tmp_path / "backup") == made
    assert rows(new.index) == rows(archive.index)
    assert tree(new.root) == tree(archive.root)
    assert Fsck(new.index, new.files, grace=0).run().is_well
    assert sorted(path.name for path in new.root.iterdir() if not path.name.isdecimal()) == ["incoming", "upkeep"]


def test_a_later_backup_copies_new_files_only(archive: BackupSetup, new: BackupSetup, tmp_path: Path):
    """It has one index; files of deleted instances stay until they are pruned."""
    send(archive.storage, *series_of(1, 5))
    assert archive.backups.make(tmp_path / "backup").copied == 5
    archive.delete(2)
    send(archive.storage, *series_of(2, 3))
    made = archive.backups.make(tmp_path / "backup")
    assert (made.instances, made.copied) == (6, 3)
    assert len(tree(tmp_path / "backup" / "files")) == 8
    assert archive.backups.make(tmp_path / "backup", prune=True).pruned == 2
    assert tree(tmp_path / "backup" / "files") == tree(archive.root)
    assert len(list((tmp_path / "backup").glob("index-*.db"))) == 1
    assert json.loads((tmp_path / "backup" / "manifest.json").read_text())["instances"] == 6
    new.backups.restore(tmp_path / "backup")
    assert rows(new.index) == rows(archive.index)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_linked_files_are_the_same_files(archive: BackupSetup, tmp_path: Path):
    """With `link` only."""
    send(archive.storage, *series_of(1, 2))
    for link, names in ((False, 1), (True, 2)):
        archive.backups.make(tmp_path / f"backup {link}", link=link)
        key = archive.instances()[0].file_key
        assert (tmp_path / f"backup {link}" / "files" / key).stat().st_nlink == names
    assert (archive.root / key).stat().st_nlink == 2


def test_damaged_and_missing_files_are_reported_and_left_out(archive: BackupSetup, new: BackupSetup, tmp_path: Path):
    """The others are in the backup and can be restored; a copy in an earlier backup is kept."""
    send(archive.storage, *series_of(1, 4))
    kept, damaged, missing, _ = archive.instances()
    archive.delete(0)
    (archive.root / damaged.file_key).write_bytes(b"x" * damaged.size)
    (archive.root / missing.file_key).unlink()
    made = archive.backups.make(tmp_path / "backup")
    assert set(made.failed) == {damaged.file_key, missing.file_key}
    assert made.instances == 2
    (archive.root / kept.file_key).write_bytes(b"x" * kept.size)
    assert archive.backups.make(tmp_path / "backup").instances == 2
    assert new.backups.restore(tmp_path / "backup").instances == 2
    assert Fsck(new.index, new.files, grace=0).run().is_well


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_damaged_copy_is_not_restored(archive: BackupSetup, new: BackupSetup, tmp_path: Path):
    """It is reported, and all others are restored."""
    send(archive.storage, *series_of(1, 3))
    archive.backups.make(tmp_path / "backup")
    victim = archive.instances()[1]
    (tmp_path / "backup" / "files" / victim.file_key).write_bytes(b"x" * victim.size)
    done = new.backups.restore(tmp_path / "backup")
    assert (done.instances, list(done.failed)) == (2, [victim.file_key])
    assert Fsck(new.index, new.files, grace=0).run().is_well
    assert len(new.instances()) == 2


def test_an_instance_deleted_during_the_backup_is_left_out(archive: BackupSetup, new: BackupSetup, tmp_path: Path):
    """Between the snapshot of the index and the copy of its file; that is no failure."""
    send(archive.storage, *series_of(1, 4))
    real = archive.files.pieces
    archive.files.pieces = lambda *arguments: (
        archive.delete(1) if len(archive.instances()) == 4 else None,
        real(*arguments),
    )[1]
    victims = archive.instances()
    made = archive.backups.make(tmp_path / "backup")
    assert (made.instances, made.deleted, made.failed) == (3, 1, {})
    new.backups.restore(tmp_path / "backup")
    assert [each.file_key for each in new.instances()] == [each.file_key for each in victims[1:]]


def after_the_snapshot(archive: BackupSetup, work: Callable[[], object]) -> None:
    """Call a function once, before the first file is copied."""
    real = archive.files.pieces

    def pieces(*arguments) -> Iterator[bytes]:
        archive.files.pieces = real
        work()
        return real(*arguments)

    archive.files.pieces = pieces


@pytest.mark.parametrize("link", [False, True])
def test_an_instance_replaced_during_the_backup_is_in_it_as_replaced(
    archive: BackupSetup, new: BackupSetup, tmp_path: Path, link: bool
):
    """The archive had the instance at all times; values of the older one alone are gone."""
    study = series_of(1, 4)
    study[0].StudyDescription = "SAID BY THE OLDER ONE"
    send(archive.storage, *study)
    study[0].StudyDescription, study[1].StudyDescription = "", ""
    after_the_snapshot(archive, lambda: send(archive.storage, *study[:2]))
    made = archive.backups.make(tmp_path / "backup", link=link)
    assert (made.instances, made.replaced, made.deleted, made.failed) == (4, 2, 0, {})
    assert made.size == sum(each.size for each in archive.instances())
    assert new.backups.restore(tmp_path / "backup").instances == 4
    assert rows(new.index) == rows(archive.index)
    assert tree(new.root) == tree(archive.root)


def test_a_damaged_replacement_is_reported(archive: BackupSetup, new: BackupSetup, tmp_path: Path):
    """By its current file; the others are in the backup."""
    study = series_of(1, 3)
    send(archive.storage, *study)
    study[0].InstanceNumber += 100

    def replace() -> None:
        send(archive.storage, study[0])
        newest = archive.instances()[-1]
        (archive.root / newest.file_key).write_bytes(b"x" * newest.size)

    after_the_snapshot(archive, replace)
    made = archive.backups.make(tmp_path / "backup")
    assert (made.instances, made.replaced, list(made.failed)) == (2, 0, [archive.instances()[-1].file_key])
    new.backups.restore(tmp_path / "backup")
    assert [each.file_key for each in new.instances()] == [each.file_key for each in archive.instances()[:2]]


def test_a_backup_is_of_one_moment_while_instances_arrive(archive: BackupSetup, new: BackupSetup, tmp_path: Path):
    """Later instances are in the next backup; every instance in this one is complete."""
    send(archive.storage, *series_of(1, 30))
    stop = threading.Event()

    def arrive() -> None:
        number = 2
        while not stop.is_set():
            send(archive.storage, *series_of(number, 5))
            number += 1

    thread = threading.Thread(target=arrive)
    thread.start()
    try:
        made = archive.backups.make(tmp_path / "backup")
    finally:
        stop.set()
        thread.join()
    assert made.failed == {}
    new.backups.restore(tmp_path / "backup")
    assert len(new.instances()) == made.instances >= 30
    assert tree(new.root).items() <= tree(archive.root).items()
    assert Fsck(new.index, new.files, grace=0).run().is_well


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("place", ["files", "files/2026", "something"])
def test_a_backup_needs_its_own_folder(archive: BackupSetup, tmp_path: Path, place: str):
    """A folder of the store or with other content is refused and not changed."""
    (tmp_path / "something").mkdir()
    (tmp_path / "something" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigurationError):
        archive.backups.make(tmp_path / place)
    assert [path.name for path in (tmp_path / "something").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_second_backup_into_the_same_folder_is_refused(archive: BackupSetup, tmp_path: Path):
    """While the first one runs."""
    (tmp_path / "backup").mkdir()
    descriptor = os.open(tmp_path / "backup", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ConfigurationError, match="another process is writing"):
        archive.backups.make(tmp_path / "backup")
    os.close(descriptor)


def test_a_restore_needs_an_empty_archive(archive: BackupSetup, tmp_path: Path):
    """Neither rows nor files are changed, and the error says what to do."""
    send(archive.storage, *series_of(1, 2))
    archive.backups.make(tmp_path / "backup")
    before = rows(archive.index), tree(archive.root)
    with pytest.raises(ConfigurationError, match="not empty"):
        archive.backups.restore(tmp_path / "backup")
    assert (rows(archive.index), tree(archive.root)) == before


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_restore_needs_a_stopped_server(new: BackupSetup, archive: BackupSetup, tmp_path: Path):
    """A running server has to be stopped first."""
    archive.backups.make(tmp_path / "backup")
    running = LockedFolder.create(new.root / "running")
    with pytest.raises(ConfigurationError, match="a server runs"):
        new.backups.restore(tmp_path / "backup")
    running.release(remove=True)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "interrupted"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
        (lambda folder: shutil.rmtree(folder) or folder.mkdir(), "no complete backup"),
        (lambda folder: next(folder.glob("*.db")).write_bytes(b"x"), "pacs reindex"),
        (lambda folder: next(folder.glob("*.db")).unlink(), "pacs reindex"),
    ],
)
def test_an_incomplete_backup_is_refused(archive: BackupSetup, new: BackupSetup, tmp_path: Path, damage, message: str):
    """Before anything is copied, and the error says what to do."""
    send(archive.storage, *series_of(1, 2))
    archive.backups.make(tmp_path / "backup")
    damage(tmp_path / "backup")
    with pytest.raises(ConfigurationError, match=message):
        new.backups.restore(tmp_path / "backup")
    assert (tree(new.root), new.instances()) == ({}, [])


DIE = """
import os, sys
from pathlib import Path
from pacs.files.copies import Copies
from pacs.files.local import LocalFiles
from pacs.index.database import Index
from pacs.services import backup
url, root, folder, work, step = sys.argv[1:]
def dies(*_, **__):
    os._exit(9)
if step == "manifest":
    real = backup.write_text
    backup.write_text = lambda path, text: dies() if path.name == "manifest.json" else real(path, text)
elif step == "rows":
    backup.index_diff.correct = dies
else:
    real, left = Copies.put, 3
    def put(*arguments):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        real(*arguments)
    Copies.put = put
backups = backup.Backups(Index(url), LocalFiles(Path(root)))
getattr(backups, work)(Path(folder))
"""


def die(url: str, root: Path, folder: Path, work: str, step: str) -> None:
    """Do some work in a process that exits at a step."""
    command = [sys.executable, "-c", DIE, url, str(root), str(folder), work, step]
    died = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.getcwd()}, timeout=60, check=False)
    assert died.returncode == 9


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("step", ["file", "manifest"])
def test_a_killed_backup_leaves_the_earlier_one_and_can_be_repeated(
    archive: BackupSetup, database_url: str, tmp_path: Path, step: str
):
    """A first backup is refused as interrupted; its copies are compared again."""
    send(archive.storage, *series_of(1, 5))
    die(database_url, archive.root, tmp_path / "backup", "make", step)
    with pytest.raises(ConfigurationError, match="interrupted"):
        archive.backups.restore(tmp_path / "backup")
    half = next((tmp_path / "backup" / "files").glob("*/*/*/*/*"))
    half.write_bytes(b"x" * half.stat().st_size)
    assert archive.backups.make(tmp_path / "backup").instances == 5
    assert tree(tmp_path / "backup" / "files") == tree(archive.root)
    manifest = (tmp_path / "backup" / "manifest.json").read_bytes()
    send(archive.storage, *series_of(2, 5))
    die(database_url, archive.root, tmp_path / "backup", "make", step)
    assert (tmp_path / "backup" / "manifest.json").read_bytes() == manifest
    assert (tmp_path / "backup" / json.loads(manifest)["index"]).exists()
    assert archive.backups.make(tmp_path / "backup").instances == 10
    assert len(list((tmp_path / "backup").glob("index-*.db"))) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("new", "step"), [("sqlite", "file"), ("postgresql", "rows")], indirect=["new"])
def test_a_killed_restore_can_be_repeated(archive: BackupSetup, new: BackupSetup, tmp_path: Path, step: str):
    """From the same backup only."""
    send(archive.storage, *series_of(1, 5))
    archive.backups.make(tmp_path / "backup")
    die(new.index.url.render_as_string(hide_password=False), new.root, tmp_path / "backup", "restore", step)
    shutil.copytree(tmp_path / "backup", tmp_path / "other")
    manifest = json.loads((tmp_path / "other" / "manifest.json").read_text()) | {"begun_at": "another moment"}
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigurationError, match="not empty"):
        new.backups.restore(tmp_path / "other")
    assert new.backups.restore(tmp_path / "backup").instances == 5
    assert rows(new.index) == rows(archive.index)
    assert tree(new.root) == tree(archive.root)
    with pytest.raises(ConfigurationError, match="not empty"):
        new.backups.restore(tmp_path / "backup")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_backup_that_cannot_be_written_is_a_named_error(archive: BackupSetup, tmp_path: Path):
    """A file is in the place of a folder."""
    send(archive.storage, *series_of(1, 1))
    archive.backups.make(tmp_path / "backup")
    shutil.rmtree(tmp_path / "backup" / "files")
    (tmp_path / "backup" / "files").write_text("")
    with pytest.raises(StorageUnavailable, match="cannot be written"):
        archive.backups.make(tmp_path / "backup")


def test_an_empty_archive_does_not_replace_a_backup(archive, new, tmp_path):
    """As when a command runs in the wrong folder, or the index is lost: the earlier backup stays."""
    send(archive.storage, *study(series=1, instances=3))
    archive.backups.make(tmp_path / "backup")
    before = tree(tmp_path / "backup" / "files")
    with pytest.raises(ConfigurationError, match="is a backup of 3"):
        new.backups.make(tmp_path / "backup", prune=True)
    lost = Backups(new.index, archive.files)
    with pytest.raises(ConfigurationError, match="pacs reindex"):
        lost.make(tmp_path / "backup", prune=True)
    assert tree(tmp_path / "backup" / "files") == before
