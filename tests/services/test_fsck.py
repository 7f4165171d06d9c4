"""fsck: index and files are compared in both directions and repaired without a loss."""

import os
import random
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from pacs.errors import ConfigurationError, StorageUnavailable
from pacs.files.local import LocalFiles
from pacs.index import writer
from pacs.index.database import Index
from pacs.index.tables import image, patient
from pacs.index.writer import StoredInstance
from pacs.services import stored_file
from pacs.services.backup import Backups
from pacs.services.fsck import Fsck, Report
from pacs.services.maintenance import Maintenance
from pacs.services.orphans import adopt
from pacs.services.progress import Progress
from pacs.services.reindex import Reindex
from pacs.services.storage import Storage
from pacs.services.stored_file import read_stored_file
from tests.files.bad_sectors import bad_sectors
from tests.upkeep import rows, send, series_of, tree


class FsckSetup:
    """An archive with a few instances, and its fsck."""

    def __init__(self, index: Index, root: Path, instances: int = 3) -> None:
        self.index, self.root = index, root
        self.files = LocalFiles(root)
        self.storage = Storage(index, self.files)
        self.datasets = series_of(1, instances)
        send(self.storage, *self.datasets)

    def fsck(self, **options) -> Report:
        """Run fsck without a grace period, as no other process works here."""
        return Fsck(self.index, self.files, grace=0).run(**options)

    def problems(self, **options) -> list[tuple[str, str]]:
        """Return kind and file of all findings."""
        return sorted((each.problem, each.file) for each in self.fsck(**options).findings)

    def instances(self) -> list[StoredInstance]:
        """Return the rows, oldest first."""
        return sorted(Maintenance(self.index, self.files).instances({}), key=lambda each: each.file_key)

    def path(self, instance: StoredInstance) -> Path:
        """Return the path of the file of a row."""
        return self.root / instance.file_key

    def quarantined(self) -> list[str]:
        """Return the files in the quarantine."""
        return sorted(
            str(path.relative_to(self.root / "quarantine")) for path in (self.root / "quarantine").rglob("*.dcm*")
        )


@pytest.fixture
def archive(index: Index, tmp_path: Path) -> FsckSetup:
    """An archive with three instances of one series, on each kind of database."""
    return FsckSetup(index, tmp_path / "files")


def test_an_archive_in_order_is_well(archive: FsckSetup):
    """Nothing is found, all is counted, and a repair changes nothing."""
    before = rows(archive.index), tree(archive.root)
    for options in ({}, {"quick": True}, {"repair": True}):
        report = archive.fsck(**options)
        assert (report.findings, report.images, report.files, report.is_well) == ((), 3, 3, True)
    assert (rows(archive.index), tree(archive.root)) == before


def flip(path: Path) -> None:
    """Change one bit of the last byte."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "size": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "digest": flip,
    "head": lambda path: path.write_bytes(path.read_bytes().replace(b"received=", b"recieved=")),
}


@pytest.mark.parametrize("problem", DAMAGES)
def test_a_damaged_file_is_quarantined_and_can_be_sent_again(archive: FsckSetup, problem: str):
    """Only it is found; its row is removed, a second check finds nothing, and the instance can be stored again."""
    victim = archive.instances()[1]
    DAMAGES[problem](archive.path(victim))
    report = archive.fsck()
    assert [(each.problem, each.file, each.sop_instance_uid) for each in report.findings] == [
        (problem, victim.file_key, victim.sop_instance_uid)
    ]
    assert not report.is_well
    assert archive.fsck().findings == report.findings
    (repaired,) = archive.fsck(repair=True).findings
    assert repaired.is_repaired
    assert "again" in repaired.done
    assert archive.fsck().findings == ()
    assert len(archive.instances()) == 2
    assert archive.quarantined() == ([] if problem == "missing" else [victim.file_key])
    send(archive.storage, *archive.datasets)
    assert len(archive.instances()) == 3
    assert archive.fsck().is_well


def test_a_quick_check_compares_names_and_sizes_only(archive: FsckSetup):
    """A flipped bit is not found, a shorter file is."""
    first, second, _ = archive.instances()
    flip(archive.path(first))
    DAMAGES["size"](archive.path(second))
    assert archive.problems(quick=True) == [("size", second.file_key)]


def test_a_complete_file_in_no_row_is_added(archive: FsckSetup):
    """The row is the same as before."""
    before = rows(archive.index)
    writer.remove(archive.index, [archive.instances()[2].sop_instance_uid])
    (found,) = archive.fsck().findings
    assert found.problem == "orphan"
    (repaired,) = archive.fsck(repair=True).findings
    assert repaired.done == "added to the index"
    assert rows(archive.index) == before


def test_useless_files_in_no_row_are_quarantined(archive: FsckSetup):
    """A second file of an instance, one without an instance and one with a foreign name: moved, not deleted."""
    first = archive.instances()[0]
    folder = archive.path(first).parent
    second = folder / f"{uuid.uuid4()}.dcm"
    second.write_bytes(archive.path(first).read_bytes())
    (folder / f"{uuid.uuid4()}.dcm").write_bytes(b"hello")
    (folder / "notes.txt").write_text("hello")
    assert [kind for kind, _ in archive.problems()] == ["damaged", "duplicate", "stray"]
    assert archive.fsck(repair=True).is_well
    assert archive.fsck().findings == ()
    assert len(list((archive.root / "quarantine").rglob("*.*"))) == 3
    assert len(archive.instances()) == 3


def just_before_repairing(work: Callable[[], object]) -> Progress:
    """Return a progress that calls a function after the second check, before the first repair."""

    @contextmanager
    def progress(title: str, _total: int) -> Iterator[Callable[[int], None]]:
        if title == "repairing":
            work()
        yield lambda _count: None

    return progress


def test_files_added_by_others_before_their_repair_stay(archive: FsckSetup):
    """By another repair, a reindex, a starting server, or a delayed commit: no row loses its file."""
    before = rows(archive.index), tree(archive.root)
    keys = [each.file_key for each in archive.instances()]
    writer.remove(archive.index, [each.sop_instance_uid for each in archive.instances()])
    progress = just_before_repairing(lambda: [adopt(archive.index, archive.files, key) for key in keys])
    report = archive.fsck(repair=True, progress=progress)
    assert [each.problem for each in report.findings] == ["orphan"] * 3
    assert report.is_well
    assert (rows(archive.index), tree(archive.root)) == before
    assert archive.quarantined() == []


@pytest.mark.parametrize("problem", ["orphan", "duplicate", "damaged"])
def test_a_file_in_a_row_meanwhile_is_not_quarantined(archive: FsckSetup, problem: str):
    """A replacing file whose row is committed late, whatever it seemed to be before."""
    first = archive.instances()[0]
    content = archive.path(first).read_bytes()
    key = f"{first.file_key.rpartition('/')[0]}/{uuid.uuid4()}.dcm"
    newer = archive.root / key
    newer.write_bytes(b"hello" if problem == "damaged" else content)
    if problem == "orphan":
        writer.remove(archive.index, [first.sop_instance_uid])
        archive.path(first).unlink()

    def enter() -> None:
        newer.write_bytes(content)
        arrival = read_stored_file(archive.files, key)
        if problem == "orphan":
            writer.add(archive.index, arrival)
            newer.write_bytes(content[:-2])  # nor when it was damaged since
        else:
            archive.files.delete(writer.replace(archive.index, arrival, first.file_key).file_key)

    (found,) = archive.fsck(repair=True, progress=just_before_repairing(enter)).findings
    assert (found.problem, found.file) == (problem, key)
    assert "in a row meanwhile" in found.done
    assert archive.quarantined() == []
    assert newer.exists()
    assert len(archive.instances()) == 3


def test_a_file_is_not_called_damaged_for_want_of_memory(archive: FsckSetup, monkeypatch: pytest.MonkeyPatch):
    """A read that fails for lack of resources in the middle of a complete file without a row ends the repair."""

    def exhausted(*_arguments: object) -> None:
        raise StorageUnavailable("The file store cannot be used (Cannot allocate memory)")

    instance = archive.instances()[0]
    writer.remove(archive.index, [instance.sop_instance_uid])
    monkeypatch.setattr(stored_file, "read_header", exhausted)
    with pytest.raises(StorageUnavailable):
        archive.fsck(repair=True)
    assert archive.path(instance).exists()


def test_maintenance_commands_exclude_each_other(archive: FsckSetup, tmp_path: Path):
    """A repair, a reindex and a restore are refused while one of them runs, and the error names it; a check is not."""
    Backups(archive.index, archive.files).make(tmp_path / "backup")
    flip(archive.path(archive.instances()[0]))
    refused: list[str] = []

    def others() -> None:
        for work in (
            lambda: archive.fsck(repair=True),
            Reindex(archive.index, LocalFiles(archive.root), grace=0).run,
            lambda: Backups(archive.index, LocalFiles(archive.root)).restore(tmp_path / "backup"),
        ):
            with pytest.raises(ConfigurationError) as error:
                work()
            refused.append(error.value.comment)
        assert len(archive.fsck().findings) == 1

    assert archive.fsck(repair=True, progress=just_before_repairing(others)).is_well
    expected = f"`pacs fsck --repair` (process {os.getpid()}) is using these files: wait until it has ended"
    assert refused == [expected] * 3
    assert archive.fsck(repair=True).findings == ()


def test_a_file_under_another_name_keeps_its_instance(archive: FsckSetup):
    """A row without a file and a file without a row that belong together are joined."""
    moved = archive.instances()[0]
    target = archive.path(moved).with_name(f"{uuid.uuid4()}.dcm")
    archive.path(moved).rename(target)
    assert [kind for kind, _ in archive.problems()] == ["missing", "orphan"]
    assert archive.fsck(repair=True).is_well
    assert writer.find(archive.index, moved.sop_instance_uid).file_key.endswith(target.name)
    assert archive.fsck().findings == ()


@pytest.mark.parametrize(
    "wrong",
    [{"digest": "00" * 32}, {"size": 5}, {"sop_instance_uid": "1.2.3"}, {"transfer_syntax": "1.2.840.10008.1.2"}],
)
def test_where_the_row_is_wrong_the_file_decides(archive: FsckSetup, wrong: dict[str, object]):
    """A complete file is never quarantined: its row is made again."""
    before = rows(archive.index)
    with archive.index.write() as connection:
        connection.execute(update(image).where(image.c.file_key == archive.instances()[0].file_key).values(wrong))
    assert not archive.fsck().is_well
    assert archive.fsck(repair=True).is_well
    assert rows(archive.index) == before
    assert archive.quarantined() == []


def test_parents_without_children_are_found_and_removed(archive: FsckSetup):
    """A patient without studies."""
    with archive.index.write() as connection:
        row = dict(connection.execute(select(patient)).mappings().one())
        connection.execute(insert(patient), [row | {"id": 1000, "patient_id": "NOBODY"}])
    (found,) = archive.fsck().findings
    assert (found.problem, "PATIENT" in found.explanation) == ("childless", True)
    assert archive.fsck(repair=True).is_well
    assert archive.fsck().findings == ()


def test_half_written_files_of_dead_processes_are_removed(archive: FsckSetup):
    """Those of running processes are left alone."""
    left = archive.root / "incoming" / "left"
    left.write_bytes(b"half")
    with archive.files.create(4) as incoming:
        incoming.write(bytes(2 << 20))
        assert archive.problems() == [("leftover", "left")]
        assert archive.fsck(repair=True).is_well
        incoming.write(b"more")
        assert len(list((archive.root / "incoming").iterdir())) == 1
    assert archive.fsck().findings == ()


def test_an_archive_whose_folder_is_missing_loses_no_row(archive: FsckSetup, tmp_path: Path):
    """Without any file nothing is repaired, because the folder may not be mounted."""
    archive.root.rename(tmp_path / "elsewhere")
    files = LocalFiles(archive.root)
    with pytest.raises(StorageUnavailable, match=r"check files\.url"):
        Fsck(archive.index, files, grace=0).run(repair=True)
    assert len(archive.instances()) == 3
    assert len(Fsck(archive.index, files, grace=0).run().findings) == 3


def test_an_unreadable_file_changes_nothing(archive: FsckSetup):
    """A folder in its place stands for any error of the system."""
    victim = archive.path(archive.instances()[0])
    victim.unlink()
    victim.mkdir()
    before = rows(archive.index)
    report = archive.fsck(repair=True)
    assert [each.problem for each in report.findings] == ["size"]
    assert not report.is_well
    assert rows(archive.index) == before


def test_a_file_whose_head_cannot_be_read_is_reported_and_left(archive: FsckSetup):
    """A read error is a fault of the disk, not of the instance; the other files are checked."""
    victim = archive.instances()[0]
    archive.path(victim).unlink()
    archive.path(victim).symlink_to("/proc/self/mem")
    with archive.index.write() as connection:
        connection.execute(update(image).where(image.c.file_key == victim.file_key).values(size=0))
    before = rows(archive.index)
    for options in ({}, {"repair": True}):
        report = archive.fsck(**options)
        assert [(each.problem, each.file, each.is_repaired) for each in report.findings] == [
            ("unreadable", victim.file_key, False)
        ]
        assert report.images == 3
    assert rows(archive.index) == before
    assert archive.quarantined() == []


def test_a_file_in_no_row_that_cannot_be_read_to_its_end_is_left(archive: FsckSetup):
    """A read error does not make an instance a damaged one: the file stays where it is."""
    (large,) = series_of(2, 1)
    large.add_new(0x00090010, "LO", "PACS TEST")
    large.add_new(0x00091001, "OB", bytes(100_000))
    send(archive.storage, large)
    writer.remove(archive.index, [large.SOPInstanceUID])
    with bad_sectors(archive.files):
        report = archive.fsck(repair=True)
    assert [(each.problem, each.is_repaired) for each in report.findings] == [("unreadable", False)]
    assert archive.quarantined() == []
    assert [each.problem for each in archive.fsck(repair=True).findings] == ["orphan"]
    assert archive.fsck().is_well


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_any_damage_is_found_exactly_and_repaired_without_loss(index: Index, tmp_path: Path, seed: int):
    """Whatever is done to files and rows: fsck reports exactly that, and complete instances stay or return."""
    chance = random.Random(seed)
    with index.write() as connection:
        for table in ("image", "series", "study", "patient"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    archive = FsckSetup(index, tmp_path / str(seed), instances=6)
    instances = archive.instances()
    contents = {each.sop_instance_uid: archive.path(each).read_bytes() for each in instances}
    victims = chance.sample(instances, chance.randint(0, 6))
    expected, lost = [], set()
    for victim in victims[: 5 if len(victims) == 6 else 6]:
        problem = chance.choice([*DAMAGES, "orphan"])
        if problem == "orphan":
            writer.remove(index, [victim.sop_instance_uid])
        else:
            DAMAGES[problem](archive.path(victim))
            lost.add(victim.sop_instance_uid)
        expected.append((problem, victim.file_key))
    assert archive.problems() == sorted(expected)
    assert archive.fsck(repair=True).is_well
    assert archive.fsck().findings == ()
    kept = {each.sop_instance_uid: archive.path(each).read_bytes() for each in archive.instances()}
    assert kept == {uid: content for uid, content in contents.items() if uid not in lost}


DIE = """
import os, sys
from pathlib import Path
from pacs.index import maintenance
from pacs.index.database import Index
from pacs.files.local import LocalFiles
from pacs.services.fsck import Fsck
url, root, step = sys.argv[1:]
def dies(*_, **__):
    os._exit(9)
if step == "before the row goes":
    maintenance.forget = dies
else:
    LocalFiles.quarantine = dies
Fsck(Index(url), LocalFiles(Path(root)), grace=0).run(repair=True)
"""


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("step", ["before the row goes", "before the file goes"])
def test_a_killed_repair_can_be_repeated(archive: FsckSetup, database_url: str, step: str):
    """Between any two steps: the next one repairs the rest."""
    for victim in archive.instances()[:2]:
        flip(archive.path(victim))
    command = [sys.executable, "-c", DIE, database_url, str(archive.root), step]
    died = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.getcwd()}, timeout=60, check=False)
    assert died.returncode == 9
    assert not archive.fsck().is_well
    assert archive.fsck(repair=True).is_well
    assert archive.fsck().findings == ()
    assert (len(archive.instances()), len(archive.quarantined())) == (1, 2)


POWER_CUT = """
import os, sys
from pathlib import Path
from pacs.index.database import Index
from pacs.files.local import LocalFiles
from pacs.services.storage import Storage
from tests.upkeep import send, series_of
url, root = sys.argv[1:]
files = LocalFiles(Path(root))
files.start()
send(Storage(Index(url), files), *series_of(2, 3))
os._exit(9)
"""


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_journals_are_replayed_before_files_are_checked(archive: FsckSetup, database_url: str):
    """After a power cut, files whose bytes were in the page cache only are complete again: none is quarantined."""
    command = [sys.executable, "-c", POWER_CUT, database_url, str(archive.root)]
    assert (
        subprocess.run(command, env=os.environ | {"PYTHONPATH": os.getcwd()}, timeout=60, check=False).returncode == 9
    )
    before = rows(archive.index), tree(archive.root)
    assert not archive.fsck().is_well
    marker = archive.files.mark_running()  # a server that lives: there was no power cut
    beside_a_server = archive.fsck()
    assert [(each.problem, each.is_damage) for each in beside_a_server.findings] == [("journal", False)]
    assert beside_a_server.is_well
    marker.release(is_clean=True)
    for path in sorted(archive.root.glob("[0-9]*/*/*/*/*"))[3:5]:
        path.write_bytes(b"")
    assert [kind for kind, _ in archive.problems()] == ["journal", "size", "size"]
    assert [each.problem for each in archive.fsck(repair=True).findings] == ["journal"]
    assert (rows(archive.index), tree(archive.root)) == before
    assert archive.fsck().findings == ()
