"""Recovery after an unclean stop: no acknowledged instance is missing (X7 in docs/checklist.md, decision 30)."""

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
from pacs.files import hour_marks, object_keys
from pacs.files.hour_marks import marked_hours
from pacs.files.local import LocalFiles
from pacs.index import writer
from pacs.index.database import Index
from pacs.index.writer import StoredInstance
from pacs.observability.events import Notice
from pacs.services.orphans import adopt
from pacs.services.stored_file import read_stored_file
from tests.waiting import eventually


def archive(folder: Path) -> Archive:
    """Return an archive that keeps its data in a folder, not started."""
    return Archive(
        from_settings(
            {
                "server.port": 0,
                "server.shared": True,
                "web.enabled": False,
                "database.url": f"sqlite:///{folder}/pacs.db",
                "database.heal": False,
                "files.url": str(folder / "files"),
            }
        )
    )


def notices(running: Archive) -> list[str]:
    """Collect the notices of an archive."""
    messages: list[str] = []
    running.events.subscribe(lambda event: messages.append(event.sentence) if isinstance(event, Notice) else None)
    return messages


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Ten instances of one study as files."""
    return testing.write(testing.study(series=1, instances=10, size=8), tmp_path / "given")


def versions(running: Archive, folder: Path) -> tuple[bytes, StoredInstance]:
    """Store an instance and replace it; return the replaced file and the current row."""
    running.storage.duplicates = "replace"
    files = []
    for name in ("before", "after"):
        given = testing.write(testing.study(series=1, instances=1, size=8, SeriesDescription=name), folder / name)
        row = writer.find(running.index, running.storage.import_file(given[0]).sop_instance_uid)
        with running.files.open(row.file_key) as file:
            files.append(file.read())
    return files[0], row


def power_cut(before: Path, after: Path, wal: int) -> Path:
    """Copy an archive as after a power cut: only the first `wal` bytes of the index's log are there."""
    shutil.copytree(before, after, ignore=shutil.ignore_patterns("*-shm"))
    with (after / "pacs.db-wal").open("r+b") as log:
        log.truncate(wal)
    return after


def unclean_stop(folder: Path) -> Path:
    """Leave the marker of a server that has died, with marks of all hours; return its folder."""
    files = folder / "files"
    marker = files / "running" / "dead"
    marker.mkdir()
    (marker / "clock").write_text("0 an earlier start of this machine")
    for hour in files.glob("[0-9]*/*/*/*"):
        (marker / f"{str(hour.relative_to(files)).replace('/', '-')}.{'0' * 32}").touch()
    return marker


def stored(folder: Path) -> int:
    """Count the instances of the index in a folder."""
    with closing(sqlite3.connect(folder / "pacs.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM image").fetchone()[0])


def test_the_marker_of_a_killed_server_stays_until_its_rows_are_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A power cut after the next start would take the rows that the killed server committed without a sync."""
    with archive(tmp_path) as running:
        running.start()
    marker, there = unclean_stop(tmp_path), []

    def sync(_index: Index) -> bool:
        there.append(marker.exists())
        return len(there) > 1  # the disk refuses the first

    monkeypatch.setattr(Index, "sync", sync)
    for _ in range(2):
        with archive(tmp_path) as running:
            running.start()
        there.append(marker.exists())
    assert there == [True, True, True, False]


@pytest.mark.parametrize("lost", [0, 1, 100])
def test_instances_in_the_lost_tail_of_the_log_are_recovered(tmp_path: Path, paths: list[Path], lost: int):
    """Acknowledged instances are found bit for bit after the cut, whatever part of the log is lost."""
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
        messages = notices(second)
        second.start()
        assert stored(cut) == 10
        for path in paths:
            expected = dcmread(path)
            row = writer.find(second.index, expected.SOPInstanceUID)
            assert row is not None
            with second.files.open(row.file_key) as file:
                assert dcmread(file) == expected
        assert messages[0].startswith("7 instances" if lost else "6 instances")


def test_after_a_clean_stop_no_recovery_runs(tmp_path: Path, paths: list[Path]):
    """A file in no row is not added."""
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
running = archive(Path(sys.argv[1]))
running.start()
for path in sys.argv[3:]:
    running.storage.import_file(Path(path))
    if sys.argv[2] == "before the row":
        writer.add = lambda *_: os._exit(9)
os._exit(9)
"""


@pytest.mark.parametrize("when", ["before the row", "after the row"])
def test_a_killed_process_loses_nothing(tmp_path: Path, paths: list[Path], when: str):
    """Killed between file and row, or right after: the next start has all complete files in the index."""
    command = [sys.executable, "-c", DIE, str(tmp_path / "running"), when, *map(str, paths[:3])]
    died = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.getcwd()}, timeout=60, check=False)
    assert died.returncode == 9
    whole = 2 if when == "before the row" else 3
    with archive(tmp_path / "running") as second:
        second.start()
        assert stored(tmp_path / "running") == whole
        assert len(list(second.files.keys())) == whole
        assert len(list((tmp_path / "running" / "files" / "running").iterdir())) == 1
        assert second.storage.import_file(paths[1]).duplicate


def test_while_another_process_runs_no_recovery_runs(tmp_path: Path, paths: list[Path]):
    """A file in no row may be about to get one."""
    with archive(tmp_path) as first:
        first.start()
        row = writer.find(first.index, first.storage.import_file(paths[0]).sop_instance_uid)
        unclean_stop(tmp_path)
        writer.remove(first.index, [row.sop_instance_uid])
        with archive(tmp_path) as second:
            second.start()
            assert writer.find(second.index, row.sop_instance_uid) is None
        assert (tmp_path / "files" / "running" / "dead").exists()


def test_files_that_cannot_be_added_are_reported_and_left(tmp_path: Path, paths: list[Path]):
    """A damaged file, a foreign one, and a newer one whose instance has another file."""
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
    unclean_stop(tmp_path)
    with archive(tmp_path) as second:
        messages = notices(second)
        second.start()
    assert len(messages) == 4
    assert all("was not added" in each for each in messages)
    assert len(list(folder.iterdir())) == 6


def test_superfluous_files_are_deleted(tmp_path: Path):
    """A copy that was sent again to a process that died, and the older file of a replaced instance."""
    with archive(tmp_path) as first:
        first.start()
        before, after = versions(first, tmp_path)
    file = tmp_path / "files" / after.file_key
    file.with_name("ffffffff-0000-7000-8000-000000000001.dcm").write_bytes(file.read_bytes())
    file.with_name("00000000-0000-7000-8000-000000000001.dcm").write_bytes(before)
    unclean_stop(tmp_path)
    with archive(tmp_path) as second:
        messages = notices(second)
        second.start()
        assert writer.find(second.index, after.sop_instance_uid) == after
    assert messages == []
    assert list(file.parent.iterdir()) == [file]


def test_files_added_by_others_at_the_same_time_stay(tmp_path: Path, paths: list[Path]):
    """By a repair beside a starting server."""
    with archive(tmp_path) as first:
        first.start()
        before = [writer.find(first.index, first.storage.import_file(path).sop_instance_uid) for path in paths]
        writer.remove(first.index, [row.sop_instance_uid for row in before])
    unclean_stop(tmp_path)
    with archive(tmp_path) as second:
        on_opening(second, dict.fromkeys([row.file_key for row in before], adopt))
        second.start()
        assert [writer.find(second.index, row.sop_instance_uid) for row in before] == before
        assert list(second.files.keys()) == [row.file_key for row in before]


def test_a_copy_that_gets_into_a_row_meanwhile_stays(tmp_path: Path, paths: list[Path]):
    """While it is compared with the file of the row, the copy replaces that file."""
    row, _, copy = a_row_and_a_copy(tmp_path, paths[0], "ffffffff-0000-7000-8000-000000000001.dcm")
    unclean_stop(tmp_path)

    def replace(index: Index, files: LocalFiles, key: str) -> None:
        writer.replace(index, read_stored_file(files, str(copy.relative_to(tmp_path / "files"))), row.file_key)

    with archive(tmp_path) as second:
        on_opening(second, {row.file_key: replace})
        second.start()
        assert writer.find(second.index, row.sop_instance_uid).file_key.endswith(copy.name)
    assert copy.exists()


def a_row_and_a_copy(folder: Path, path: Path, name: str) -> tuple[StoredInstance, Path, Path]:
    """Store an instance; return its row, and a copy of its file that is in no row."""
    with archive(folder) as first:
        first.start()
        row = writer.find(first.index, first.storage.import_file(path).sop_instance_uid)
    file = folder / "files" / row.file_key
    copy = file.with_name(name)
    copy.write_bytes(file.read_bytes())
    return row, file, copy


def on_opening(running: Archive, work: dict[str, Callable[[Index, LocalFiles, str], object]]) -> None:
    """Call a function when a file is opened for the first time, by key."""
    real = running.files.open

    def opened(key: str) -> BinaryIO:
        if key in work:
            work.pop(key)(running.index, running.files, key)
        return real(key)

    running.files.open = opened


def test_a_row_with_a_damaged_file_gets_the_undamaged_copy(tmp_path: Path, paths: list[Path]):
    """The same bytes, complete."""
    row, file, copy = a_row_and_a_copy(tmp_path, paths[0], "00000000-0000-7000-8000-000000000001.dcm")
    file.write_bytes(bytes(row.size))
    unclean_stop(tmp_path)
    with archive(tmp_path) as second:
        second.start()
        assert writer.find(second.index, row.sop_instance_uid).file_key.endswith(copy.name)


def test_a_row_without_a_file_gets_the_file_of_its_instance(tmp_path: Path, paths: list[Path]):
    """The existing file takes the place of the missing one."""
    with archive(tmp_path) as first:
        first.start()
        row = writer.find(first.index, first.storage.import_file(paths[0]).sop_instance_uid)
    old = tmp_path / "files" / row.file_key
    new = old.with_name("00000000-0000-7000-8000-000000000001.dcm")
    old.rename(new)
    unclean_stop(tmp_path)
    with archive(tmp_path) as second:
        second.start()
        assert writer.find(second.index, row.sop_instance_uid).file_key.endswith(new.name)


def test_only_new_instances_are_committed_without_a_sync(tmp_path: Path, paths: list[Path]):
    """And only while a server runs, which marks itself; removing and replacing always wait for the disk."""
    running = archive(tmp_path)
    modes: list[int] = []

    def watch(driver: sqlite3.Connection, _record: object) -> None:
        settings = ["2"]

        def note(statement: str) -> None:
            if statement.startswith("PRAGMA synchronous = "):
                settings.append({"FULL": "2", "NORMAL": "1"}[statement.rpartition(" ")[2]])
            elif statement.startswith("INSERT INTO image") or statement.startswith("DELETE FROM image"):
                modes.append(int(settings[-1]))

        driver.set_trace_callback(note)

    event.listen(running.index._engine, "connect", watch)
    running.open()
    full, normal = 2, 1
    with running:
        uid = running.storage.import_file(paths[0]).sop_instance_uid
        assert modes[-1] == full
        running.start()
        running.storage.import_file(paths[1])
        assert modes[-1] == normal
        writer.remove(running.index, [uid])
        assert modes[-1] == full
        running.storage.import_file(paths[2])
        assert modes[-1] == normal


def test_an_unclean_stop_of_an_earlier_version_is_recovered_completely(tmp_path: Path, paths: list[Path]):
    """Its marker is an empty folder, so that all files are compared, with a line in the log; but once only."""
    with archive(tmp_path) as first:
        first.start()
        before = [writer.find(first.index, first.storage.import_file(path).sop_instance_uid) for path in paths]
        writer.remove(first.index, [row.sop_instance_uid for row in before])
    old = tmp_path / "files" / "2019/01/01/00"
    old.mkdir(parents=True)
    (tmp_path / "files" / before[0].file_key).rename(old / Path(before[0].file_key).name)
    (tmp_path / "files" / "running" / "dead").mkdir()
    with archive(tmp_path) as second:
        messages = notices(second)
        second.start()
        assert stored(tmp_path) == len(paths)
    assert [each for each in messages if "earlier version" in each]
    with archive(tmp_path) as third:
        messages = notices(third)
        third.start()
    assert messages == []


def test_only_marked_hours_are_looked_at(tmp_path: Path, paths: list[Path]):
    """Files of other hours are not even compared with the index."""
    _, _, copy = a_row_and_a_copy(tmp_path, paths[0], "ffffffff-0000-7000-8000-000000000001.dcm")
    elsewhere = tmp_path / "files" / "2099/01/01/00" / copy.name
    elsewhere.parent.mkdir(parents=True)
    copy.rename(elsewhere)
    unclean_stop(tmp_path)
    for mark in (tmp_path / "files" / "running" / "dead").glob("2099-*"):
        mark.unlink()
    with archive(tmp_path) as second:
        second.start()
    assert elsewhere.exists()  # a marked copy would have been deleted


def later(monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    """Let some hours pass by the clock of keys."""
    real = object_keys.since_boot
    monkeypatch.setattr(object_keys, "since_boot", lambda: real() + hours * 3_600_000)


def test_the_rows_of_an_hour_are_durable_when_its_mark_is_gone(tmp_path: Path, paths: list[Path], monkeypatch):
    """The log of the index is synced first; what is lost behind that is in an hour that is still marked."""
    with archive(tmp_path / "first") as first:
        first.start()
        (marker,) = (tmp_path / "first" / "files" / "running").iterdir()
        synced: list[int] = []
        real = first.index.sync

        def sync() -> bool:
            assert len(marked_hours(marker)) == 2
            synced.append((tmp_path / "first" / "pacs.db-wal").stat().st_size)
            return real()

        first.index.sync = sync
        monkeypatch.setattr(hour_marks, "PRUNE_SECONDS", 0.01)
        for path in paths[:4]:
            first.storage.import_file(path)
        later(monkeypatch, 5)
        for path in paths[4:]:
            first.storage.import_file(path)
        assert eventually(lambda: len(marked_hours(marker)) == 1)
        cut = power_cut(tmp_path / "first", tmp_path / "cut", synced[0])
    with archive(cut) as second:
        second.start()
        assert stored(cut) == len(paths)


def test_a_sync_of_the_index_keeps_the_locks_of_sqlite(tmp_path: Path):
    """A descriptor of the database that is closed would release them: then two processes could write at once."""
    with archive(tmp_path) as running:
        running.start()
        script = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
        with running.index.write():
            assert running.index.sync()
            command = [sys.executable, "-c", script, str(tmp_path / "pacs.db")]
            other = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert "database is locked" in other.stderr


def test_a_mark_stays_while_it_is_uncertain_whether_a_file_has_a_row(tmp_path: Path, paths: list[Path], monkeypatch):
    """As when the database could not be asked after a failed commit; the next start finds out."""
    with archive(tmp_path) as first:
        first.start()
        (marker,) = (tmp_path / "files" / "running").iterdir()
        row = writer.find(first.index, first.storage.import_file(paths[0]).sop_instance_uid)
        writer.remove(first.index, [row.sop_instance_uid])
        first.storage._cleanup.keep_uncertain(row.file_key, row.sop_instance_uid)
        monkeypatch.setattr(first.storage._cleanup, "check_uncertain_files", lambda: None)
        later(monkeypatch, 1)
        first.storage.import_file(paths[1])
        first.files._marks.prune()
        assert len(marked_hours(marker)) == 2
        assert first.needs_recovery  # a worker tells its supervisor by its exit status
    assert marker.exists()
    with archive(tmp_path) as second:
        second.start()
        assert stored(tmp_path) == 2
