"""After an unclean stop nothing is missing that was told to be stored: X7 and decision 0030."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import pytest
from pydicom import dcmread
from sqlalchemy import event

from pacs import testing
from pacs.archive import Archive
from pacs.config import from_settings
from pacs.files.local import LocalFiles
from pacs.index import writer
from pacs.index.database import Index
from pacs.index.writer import StoredInstance
from pacs.observability.events import Notice
from pacs.services.orphans import adopt
from pacs.services.stored_file import read_stored_file


def archive(folder: Path) -> Archive:
    """An archive that keeps its data in a folder, not started."""
    return Archive(
        from_settings(
            {
                "server.port": 0,
                "web.enabled": False,
                "database.url": f"sqlite:///{folder}/pacs.db",
                "files.url": str(folder / "files"),
            }
        )
    )


def told(house: Archive) -> list[str]:
    """What an archive will say that an administrator should know."""
    said: list[str] = []
    house.events.subscribe(lambda event: said.append(event.sentence) if isinstance(event, Notice) else None)
    return said


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Ten instances of one study as files."""
    return testing.write(testing.study(series=1, instances=10, size=8), tmp_path / "given")


def versions(house: Archive, folder: Path) -> tuple[bytes, StoredInstance]:
    """Store an instance and replace it by another content: the file that was replaced, and the row there is now."""
    house.storage.duplicates = "replace"
    files = []
    for name in ("before", "after"):
        given = testing.write(testing.study(series=1, instances=1, size=8, SeriesDescription=name), folder / name)
        row = writer.find(house.index, house.storage.import_file(given[0]).sop_instance_uid)
        with house.files.open(row.file_key) as file:
            files.append(file.read())
    return files[0], row


def power_cut(before: Path, after: Path, wal: int) -> Path:
    """A copy of an archive as a power cut leaves it: of the index's log only the first `wal` bytes are on the disk."""
    shutil.copytree(before, after, ignore=shutil.ignore_patterns("*-shm"))
    with (after / "pacs.db-wal").open("r+b") as log:
        log.truncate(wal)
    return after


def stored(folder: Path) -> int:
    """How many instances the index in a folder has."""
    with closing(sqlite3.connect(folder / "pacs.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM image").fetchone()[0])


@pytest.mark.parametrize("lost", [0, 1, 100])
def test_the_lost_tail_of_the_log_is_taken_in_again(tmp_path: Path, paths: list[Path], lost: int):
    """What was answered with success is there after the cut, found and bit for bit the same, whatever the log lost."""
    with archive(tmp_path / "first") as first:
        first.start()
        for path in paths[:4]:
            first.storage.import_file(path)
        kept = (tmp_path / "first" / "pacs.db-wal").stat().st_size
        for path in paths[4:]:
            first.storage.import_file(path)
        cut = power_cut(tmp_path / "first", tmp_path / "cut", kept - lost)
    probe = power_cut(cut, tmp_path / "probe", kept - lost)
    assert stored(probe) == (3 if lost else 4)
    with archive(cut) as second:
        said = told(second)
        second.start()
        assert stored(cut) == 10
        for path in paths:
            expected = dcmread(path)
            row = writer.find(second.index, expected.SOPInstanceUID)
            assert row is not None
            with second.files.open(row.file_key) as file:
                assert dcmread(file) == expected
        assert said[0].startswith("7 instances" if lost else "6 instances")


def test_after_a_clean_stop_nothing_is_looked_for(tmp_path: Path, paths: list[Path]):
    """A file without a row is no business of a start after a clean stop."""
    with archive(tmp_path) as first:
        first.start()
        row = writer.find(first.index, first.storage.import_file(paths[0]).sop_instance_uid)
    assert not any((tmp_path / "files" / "running").iterdir())
    with closing(sqlite3.connect(tmp_path / "pacs.db")) as connection, connection:
        connection.execute("DELETE FROM image")
    with archive(tmp_path) as second:
        second.start()
        assert writer.find(second.index, row.sop_instance_uid) is None


DIE = """
import os, sys
from pathlib import Path
from tests.services.test_recovery import archive
from pacs.index import writer
house = archive(Path(sys.argv[1]))
house.start()
for path in sys.argv[3:]:
    house.storage.import_file(Path(path))
    if sys.argv[2] == "before the row":
        writer.add = lambda *_: os._exit(9)
os._exit(9)
"""


@pytest.mark.parametrize("when", ["before the row", "after the row"])
def test_a_process_that_died_loses_nothing(tmp_path: Path, paths: list[Path], when: str):
    """Killed between the file and the row, or right after: the next start has all whole files in the index."""
    command = [sys.executable, "-c", DIE, str(tmp_path / "house"), when, *map(str, paths[:3])]
    died = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.getcwd()}, timeout=60, check=False)
    assert died.returncode == 9
    whole = 2 if when == "before the row" else 3
    with archive(tmp_path / "house") as second:
        second.start()
        assert stored(tmp_path / "house") == whole
        assert len(list(second.files.keys())) == whole
        assert len(list((tmp_path / "house" / "files" / "running").iterdir())) == 1
        assert second.storage.import_file(paths[1]).duplicate


def test_while_another_process_lives_nothing_is_taken_in(tmp_path: Path, paths: list[Path]):
    """What is in no row may be on its way into one."""
    with archive(tmp_path) as first:
        first.start()
        row = writer.find(first.index, first.storage.import_file(paths[0]).sop_instance_uid)
        (tmp_path / "files" / "running" / "dead").mkdir()
        writer.remove(first.index, [row.sop_instance_uid])
        with archive(tmp_path) as second:
            second.start()
            assert writer.find(second.index, row.sop_instance_uid) is None
        assert (tmp_path / "files" / "running" / "dead").exists()


def test_what_cannot_be_taken_in_is_told_and_left(tmp_path: Path, paths: list[Path]):
    """A damaged file, one that is not ours, a newer one whose instance has another file: named, and still there."""
    with archive(tmp_path) as first:
        first.start()
        before, after = versions(first, tmp_path)
        first.storage.import_file(paths[1])
    folder = (tmp_path / "files" / after.file_key).parent
    name = "00000000-0000-7000-8000-00000000000"
    (folder / "ffffffff-0000-7000-8000-000000000001.dcm").write_bytes(before)
    (folder / f"{name}2.dcm").write_bytes((folder / Path(after.file_key).name).read_bytes()[:-5])
    (folder / f"{name}3.dcm").write_bytes(paths[0].read_bytes())
    (folder / f"{name}4.dcm").write_bytes(b"hello")
    (tmp_path / "files" / "running" / "dead").mkdir()
    with archive(tmp_path) as second:
        said = told(second)
        second.start()
    assert len(said) == 4
    assert all("was not added" in each for each in said)
    assert len(list(folder.iterdir())) == 6


def test_what_a_row_has_already_is_swept(tmp_path: Path):
    """A copy, as a sender leaves who sends again to a process that dies, and the older one of two, as a replacement."""
    with archive(tmp_path) as first:
        first.start()
        before, after = versions(first, tmp_path)
    file = tmp_path / "files" / after.file_key
    file.with_name("ffffffff-0000-7000-8000-000000000001.dcm").write_bytes(file.read_bytes())
    file.with_name("00000000-0000-7000-8000-000000000001.dcm").write_bytes(before)
    (tmp_path / "files" / "running" / "dead").mkdir()
    with archive(tmp_path) as second:
        said = told(second)
        second.start()
        assert writer.find(second.index, after.sop_instance_uid) == after
    assert said == []
    assert list(file.parent.iterdir()) == [file]


def test_files_that_somebody_else_takes_in_at_the_same_time_stay(tmp_path: Path, paths: list[Path]):
    """A repair beside a server that starts: what that one has entered into a row is nobody's to sweep."""
    with archive(tmp_path) as first:
        first.start()
        before = [writer.find(first.index, first.storage.import_file(path).sop_instance_uid) for path in paths]
        writer.remove(first.index, [row.sop_instance_uid for row in before])
    (tmp_path / "files" / "running" / "dead").mkdir()
    with archive(tmp_path) as second:
        on_opening(second, dict.fromkeys([row.file_key for row in before], adopt))
        second.start()
        assert [writer.find(second.index, row.sop_instance_uid) for row in before] == before
        assert list(second.files.keys()) == [row.file_key for row in before]


def test_a_copy_that_takes_the_place_of_the_file_of_a_row_meanwhile_stays(tmp_path: Path, paths: list[Path]):
    """As it is compared with that file, somebody replaces this."""
    row, _, copy = a_row_and_a_copy(tmp_path, paths[0], "ffffffff-0000-7000-8000-000000000001.dcm")
    (tmp_path / "files" / "running" / "dead").mkdir()

    def replace(index: Index, files: LocalFiles, key: str) -> None:
        writer.replace(index, read_stored_file(files, str(copy.relative_to(tmp_path / "files"))))

    with archive(tmp_path) as second:
        on_opening(second, {row.file_key: replace})
        second.start()
        assert writer.find(second.index, row.sop_instance_uid).file_key.endswith(copy.name)
    assert copy.exists()


def a_row_and_a_copy(folder: Path, path: Path, name: str) -> tuple[StoredInstance, Path, Path]:
    """An instance in the index, its file, and a copy of that beside it which is in no row."""
    with archive(folder) as first:
        first.start()
        row = writer.find(first.index, first.storage.import_file(path).sop_instance_uid)
    file = folder / "files" / row.file_key
    copy = file.with_name(name)
    copy.write_bytes(file.read_bytes())
    return row, file, copy


def on_opening(house: Archive, work: dict[str, Callable[[Index, LocalFiles, str], object]]) -> None:
    """Have something happen when a file is opened for the first time, by key."""
    real = house.files.open

    def opened(key: str) -> BinaryIO:
        if key in work:
            work.pop(key)(house.index, house.files, key)
        return real(key)

    house.files.open = opened


def test_a_row_whose_file_is_damaged_gets_the_copy_that_is_not(tmp_path: Path, paths: list[Path]):
    """The same bytes, whole."""
    row, file, copy = a_row_and_a_copy(tmp_path, paths[0], "00000000-0000-7000-8000-000000000001.dcm")
    file.write_bytes(bytes(row.size))
    (tmp_path / "files" / "running" / "dead").mkdir()
    with archive(tmp_path) as second:
        second.start()
        assert writer.find(second.index, row.sop_instance_uid).file_key.endswith(copy.name)


def test_a_row_whose_file_is_gone_gets_the_file_that_has_none(tmp_path: Path, paths: list[Path]):
    """The instance that is there takes the place of the one that is not."""
    with archive(tmp_path) as first:
        first.start()
        row = writer.find(first.index, first.storage.import_file(paths[0]).sop_instance_uid)
    old = tmp_path / "files" / row.file_key
    new = old.with_name("00000000-0000-7000-8000-000000000001.dcm")
    old.rename(new)
    (tmp_path / "files" / "running" / "dead").mkdir()
    with archive(tmp_path) as second:
        second.start()
        assert writer.find(second.index, row.sop_instance_uid).file_key.endswith(new.name)


def test_only_new_instances_are_committed_without_a_sync(tmp_path: Path, paths: list[Path]):
    """And only while a server runs, which will look for them: removing and replacing always wait for the disk."""
    house = archive(tmp_path)
    modes: list[int] = []

    def watch(driver: sqlite3.Connection, _record: object) -> None:
        said = ["2"]

        def note(statement: str) -> None:
            if statement.startswith("PRAGMA synchronous = "):
                said.append({"FULL": "2", "NORMAL": "1"}[statement.rpartition(" ")[2]])
            elif statement.startswith("INSERT INTO image") or statement.startswith("DELETE FROM image"):
                modes.append(int(said[-1]))

        driver.set_trace_callback(note)

    event.listen(house.index._engine, "connect", watch)
    house.open()
    full, normal = 2, 1
    with house:
        uid = house.storage.import_file(paths[0]).sop_instance_uid
        assert modes[-1] == full
        house.start()
        house.storage.import_file(paths[1])
        assert modes[-1] == normal
        writer.remove(house.index, [uid])
        assert modes[-1] == full
        house.storage.import_file(paths[2])
        assert modes[-1] == normal
