"""A copy of an archive, and an archive from it: issue 4 point 2."""

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


class House:
    """An archive and what is done with its backups."""

    def __init__(self, index: Index, root: Path) -> None:
        self.index, self.root = index, root
        self.files = LocalFiles(root)
        self.storage = Storage(index, self.files, duplicates="replace")
        self.backups = Backups(index, self.files)

    def instances(self):
        """All there are, oldest first."""
        return sorted(Maintenance(self.index, self.files).instances({}), key=lambda each: each.file_key)

    def delete(self, count: int) -> None:
        """Delete the oldest ones."""
        Maintenance(self.index, self.files).delete(self.instances()[:count])


@pytest.fixture
def house(index: Index, tmp_path: Path) -> House:
    """An empty archive, on each kind of database."""
    return House(index, tmp_path / "files")


@pytest.fixture
def new(request, tmp_path: Path):
    """A new and empty archive, on SQLite unless a test asks for each kind of database."""
    folder = tmp_path / "new"
    folder.mkdir()
    with fresh_database(getattr(request, "param", "sqlite"), request, folder) as url, opened(url) as index:
        yield House(index, folder / "files")


@pytest.mark.parametrize("new", KINDS, indirect=True)
def test_a_restored_archive_is_the_same_bit_for_bit_and_row_for_row(house: House, new: House, tmp_path: Path):
    """From either database into either, with when each instance was used last."""
    mix(house.index, house.files, house.storage)
    writer.touch(house.index, [house.instances()[0].sop_instance_uid], 12345)
    made = house.backups.make(tmp_path / "backup")
    count, size = len(house.instances()), sum(each.size for each in house.instances())
    assert made == Copied(instances=count, size=size, copied=count)
    assert new.backups.restore(tmp_path / "backup") == made
    assert rows(new.index) == rows(house.index)
    assert tree(new.root) == tree(house.root)
    assert Fsck(new.index, new.files, grace=0).run().is_well
    assert sorted(path.name for path in new.root.iterdir() if not path.name.isdecimal()) == ["incoming", "upkeep"]


def test_a_later_backup_copies_what_is_new_and_forgets_what_is_gone(house: House, new: House, tmp_path: Path):
    """The manifest names one index; files of deleted instances stay until they are to be pruned."""
    send(house.storage, *series_of(1, 5))
    assert house.backups.make(tmp_path / "backup").copied == 5
    house.delete(2)
    send(house.storage, *series_of(2, 3))
    made = house.backups.make(tmp_path / "backup")
    assert (made.instances, made.copied) == (6, 3)
    assert len(tree(tmp_path / "backup" / "files")) == 8
    assert house.backups.make(tmp_path / "backup", prune=True).pruned == 2
    assert tree(tmp_path / "backup" / "files") == tree(house.root)
    assert len(list((tmp_path / "backup").glob("index-*.db"))) == 1
    assert json.loads((tmp_path / "backup" / "manifest.json").read_text())["instances"] == 6
    new.backups.restore(tmp_path / "backup")
    assert rows(new.index) == rows(house.index)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_linked_files_take_no_room(house: House, tmp_path: Path):
    """Only when it is asked for: the same inode."""
    send(house.storage, *series_of(1, 2))
    for link, names in ((False, 1), (True, 2)):
        house.backups.make(tmp_path / f"backup {link}", link=link)
        key = house.instances()[0].file_key
        assert (tmp_path / f"backup {link}" / "files" / key).stat().st_nlink == names
    assert (house.root / key).stat().st_nlink == 2


def test_a_damaged_or_missing_file_is_named_and_left_out(house: House, new: House, tmp_path: Path):
    """The others are in the backup, and can be restored; what an earlier backup has of it is kept."""
    send(house.storage, *series_of(1, 4))
    kept, damaged, missing, _ = house.instances()
    house.delete(0)
    (house.root / damaged.file_key).write_bytes(b"x" * damaged.size)
    (house.root / missing.file_key).unlink()
    made = house.backups.make(tmp_path / "backup")
    assert set(made.failed) == {damaged.file_key, missing.file_key}
    assert made.instances == 2
    (house.root / kept.file_key).write_bytes(b"x" * kept.size)
    assert house.backups.make(tmp_path / "backup").instances == 2
    assert new.backups.restore(tmp_path / "backup").instances == 2
    assert Fsck(new.index, new.files, grace=0).run().is_well


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_is_damaged_in_a_backup_is_not_restored(house: House, new: House, tmp_path: Path):
    """It is named, and everything else is there."""
    send(house.storage, *series_of(1, 3))
    house.backups.make(tmp_path / "backup")
    victim = house.instances()[1]
    (tmp_path / "backup" / "files" / victim.file_key).write_bytes(b"x" * victim.size)
    done = new.backups.restore(tmp_path / "backup")
    assert (done.instances, list(done.failed)) == (2, [victim.file_key])
    assert Fsck(new.index, new.files, grace=0).run().is_well
    assert len(new.instances()) == 2


def test_what_is_deleted_meanwhile_is_left_out(house: House, new: House, tmp_path: Path):
    """An instance that goes between the snapshot of the index and the copy of its file is no failure."""
    send(house.storage, *series_of(1, 4))
    real = house.files.pieces
    house.files.pieces = lambda *arguments: (
        house.delete(1) if len(house.instances()) == 4 else None,
        real(*arguments),
    )[1]
    victims = house.instances()
    made = house.backups.make(tmp_path / "backup")
    assert (made.instances, made.deleted, made.failed) == (3, 1, {})
    new.backups.restore(tmp_path / "backup")
    assert [each.file_key for each in new.instances()] == [each.file_key for each in victims[1:]]


def after_the_snapshot(house: House, work: Callable[[], object]) -> None:
    """Have something happen once, before the first file is copied."""
    real = house.files.pieces

    def pieces(*arguments) -> Iterator[bytes]:
        house.files.pieces = real
        work()
        return real(*arguments)

    house.files.pieces = pieces


@pytest.mark.parametrize("link", [False, True])
def test_what_is_replaced_meanwhile_is_in_it_as_it_is_now(house: House, new: House, tmp_path: Path, link: bool):
    """The archive had it at all times, under one file or another; what the older one alone said is said no more."""
    study = series_of(1, 4)
    study[0].StudyDescription = "SAID BY THE OLDER ONE"
    send(house.storage, *study)
    study[0].StudyDescription, study[1].StudyDescription = "", ""
    after_the_snapshot(house, lambda: send(house.storage, *study[:2]))
    made = house.backups.make(tmp_path / "backup", link=link)
    assert (made.instances, made.replaced, made.deleted, made.failed) == (4, 2, 0, {})
    assert made.size == sum(each.size for each in house.instances())
    assert new.backups.restore(tmp_path / "backup").instances == 4
    assert rows(new.index) == rows(house.index)
    assert tree(new.root) == tree(house.root)


def test_what_is_damaged_after_it_was_replaced_meanwhile_is_named(house: House, new: House, tmp_path: Path):
    """By the file that it has now; the others are in the backup."""
    study = series_of(1, 3)
    send(house.storage, *study)
    study[0].InstanceNumber += 100

    def replace() -> None:
        send(house.storage, study[0])
        newest = house.instances()[-1]
        (house.root / newest.file_key).write_bytes(b"x" * newest.size)

    after_the_snapshot(house, replace)
    made = house.backups.make(tmp_path / "backup")
    assert (made.instances, made.replaced, list(made.failed)) == (2, 0, [house.instances()[-1].file_key])
    new.backups.restore(tmp_path / "backup")
    assert [each.file_key for each in new.instances()] == [each.file_key for each in house.instances()[:2]]


def test_a_backup_is_of_one_moment_while_instances_arrive(house: House, new: House, tmp_path: Path):
    """What arrives meanwhile is in the next one; every instance that is in it is whole."""
    send(house.storage, *series_of(1, 30))
    stop = threading.Event()

    def arrive() -> None:
        number = 2
        while not stop.is_set():
            send(house.storage, *series_of(number, 5))
            number += 1

    thread = threading.Thread(target=arrive)
    thread.start()
    try:
        made = house.backups.make(tmp_path / "backup")
    finally:
        stop.set()
        thread.join()
    assert made.failed == {}
    new.backups.restore(tmp_path / "backup")
    assert len(new.instances()) == made.instances >= 30
    assert tree(new.root).items() <= tree(house.root).items()
    assert Fsck(new.index, new.files, grace=0).run().is_well


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("place", ["files", "files/2026", "something"])
def test_a_backup_goes_into_a_folder_of_its_own(house: House, tmp_path: Path, place: str):
    """Never among the files, nor into a folder with something else in it; nothing is changed there."""
    (tmp_path / "something").mkdir()
    (tmp_path / "something" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigurationError):
        house.backups.make(tmp_path / place)
    assert [path.name for path in (tmp_path / "something").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_two_backups_into_one_folder_do_not_meet(house: House, tmp_path: Path):
    """The second is refused."""
    (tmp_path / "backup").mkdir()
    descriptor = os.open(tmp_path / "backup", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ConfigurationError, match="another process is writing"):
        house.backups.make(tmp_path / "backup")
    os.close(descriptor)


def test_an_archive_that_is_not_empty_is_not_restored_into(house: House, tmp_path: Path):
    """Neither its rows nor its files are touched, and how to mend it is said."""
    send(house.storage, *series_of(1, 2))
    house.backups.make(tmp_path / "backup")
    before = rows(house.index), tree(house.root)
    with pytest.raises(ConfigurationError, match="not empty"):
        house.backups.restore(tmp_path / "backup")
    assert (rows(house.index), tree(house.root)) == before


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_archive_in_use_is_not_restored_into(new: House, house: House, tmp_path: Path):
    """A server that runs is stopped first."""
    house.backups.make(tmp_path / "backup")
    running = LockedFolder.create(new.root / "running")
    with pytest.raises(ConfigurationError, match="a server runs"):
        new.backups.restore(tmp_path / "backup")
    running.release(remove=True)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "interrupted"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
        (lambda folder: shutil.rmtree(folder) or folder.mkdir(), "no complete backup"),
        (lambda folder: next(folder.glob("*.db")).write_bytes(b"x"), "pacs reindex"),
        (lambda folder: next(folder.glob("*.db")).unlink(), "pacs reindex"),
    ],
)
def test_what_is_no_complete_backup_is_refused(house: House, new: House, tmp_path: Path, damage, said: str):
    """Before anything is copied, with what to do."""
    send(house.storage, *series_of(1, 2))
    house.backups.make(tmp_path / "backup")
    damage(tmp_path / "backup")
    with pytest.raises(ConfigurationError, match=said):
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
    """Do some work in a process that dies at a step."""
    command = [sys.executable, "-c", DIE, url, str(root), str(folder), work, step]
    died = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.getcwd()}, timeout=60, check=False)
    assert died.returncode == 9


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("step", ["file", "manifest"])
def test_a_backup_that_was_killed_leaves_the_earlier_one_and_can_be_run_again(
    house: House, database_url: str, tmp_path: Path, step: str
):
    """The first is refused as cut off until then; what its files hold is not believed, but compared."""
    send(house.storage, *series_of(1, 5))
    die(database_url, house.root, tmp_path / "backup", "make", step)
    with pytest.raises(ConfigurationError, match="interrupted"):
        house.backups.restore(tmp_path / "backup")
    half = next((tmp_path / "backup" / "files").glob("*/*/*/*/*"))
    half.write_bytes(b"x" * half.stat().st_size)
    assert house.backups.make(tmp_path / "backup").instances == 5
    assert tree(tmp_path / "backup" / "files") == tree(house.root)
    manifest = (tmp_path / "backup" / "manifest.json").read_bytes()
    send(house.storage, *series_of(2, 5))
    die(database_url, house.root, tmp_path / "backup", "make", step)
    assert (tmp_path / "backup" / "manifest.json").read_bytes() == manifest
    assert (tmp_path / "backup" / json.loads(manifest)["index"]).exists()
    assert house.backups.make(tmp_path / "backup").instances == 10
    assert len(list((tmp_path / "backup").glob("index-*.db"))) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("new", "step"), [("sqlite", "file"), ("postgresql", "rows")], indirect=["new"])
def test_a_restore_that_was_killed_can_be_run_again(house: House, new: House, tmp_path: Path, step: str):
    """Into what it left, but from the same backup only."""
    send(house.storage, *series_of(1, 5))
    house.backups.make(tmp_path / "backup")
    die(new.index.url.render_as_string(hide_password=False), new.root, tmp_path / "backup", "restore", step)
    shutil.copytree(tmp_path / "backup", tmp_path / "other")
    said = json.loads((tmp_path / "other" / "manifest.json").read_text()) | {"begun_at": "another moment"}
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(said))
    with pytest.raises(ConfigurationError, match="not empty"):
        new.backups.restore(tmp_path / "other")
    assert new.backups.restore(tmp_path / "backup").instances == 5
    assert rows(new.index) == rows(house.index)
    assert tree(new.root) == tree(house.root)
    with pytest.raises(ConfigurationError, match="not empty"):
        new.backups.restore(tmp_path / "backup")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_full_disk_ends_a_backup_with_a_sentence(house: House, tmp_path: Path):
    """Here a file stands where a folder has to be."""
    send(house.storage, *series_of(1, 1))
    house.backups.make(tmp_path / "backup")
    shutil.rmtree(tmp_path / "backup" / "files")
    (tmp_path / "backup" / "files").write_text("")
    with pytest.raises(StorageUnavailable, match="cannot be written"):
        house.backups.make(tmp_path / "backup")


def test_an_archive_that_has_nothing_does_not_take_the_place_of_a_backup_that_has(house, new, tmp_path):
    """As when a command runs in the wrong folder, or the index is lost: the earlier backup stays as it is."""
    send(house.storage, *study(series=1, instances=3))
    house.backups.make(tmp_path / "backup")
    before = tree(tmp_path / "backup" / "files")
    with pytest.raises(ConfigurationError, match="is a backup of 3"):
        new.backups.make(tmp_path / "backup", prune=True)
    lost = Backups(new.index, house.files)
    with pytest.raises(ConfigurationError, match="pacs reindex"):
        lost.make(tmp_path / "backup", prune=True)
    assert tree(tmp_path / "backup" / "files") == before
