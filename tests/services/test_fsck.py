"""Index and files are compared in both directions, and mended without losing anything: issue 4 point 2."""

import os
import random
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
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


class House:
    """An archive with a few instances, what they are, and its fsck."""

    def __init__(self, index: Index, root: Path, instances: int = 3) -> None:
        self.index, self.root = index, root
        self.files = LocalFiles(root)
        self.storage = Storage(index, self.files)
        self.datasets = series_of(1, instances)
        send(self.storage, *self.datasets)

    def fsck(self, **options) -> Report:
        """What is found, and mended if that is wanted; nobody else is at work, so nothing has to be waited for."""
        return Fsck(self.index, self.files, grace=0).run(**options)

    def problems(self, **options) -> list[tuple[str, str]]:
        """Kind and file of all that is found."""
        return sorted((each.problem, each.file) for each in self.fsck(**options).findings)

    def instances(self) -> list[StoredInstance]:
        """The rows, oldest first."""
        return sorted(Maintenance(self.index, self.files).instances({}), key=lambda each: each.file_key)

    def path(self, instance: StoredInstance) -> Path:
        """Where the file of a row is."""
        return self.root / instance.file_key

    def quarantined(self) -> list[str]:
        """What was set aside."""
        return sorted(
            str(path.relative_to(self.root / "quarantine")) for path in (self.root / "quarantine").rglob("*.dcm*")
        )


@pytest.fixture
def house(index: Index, tmp_path: Path) -> House:
    """An archive with three instances of one series, on each kind of database."""
    return House(index, tmp_path / "files")


def test_an_archive_in_order_is_well(house: House):
    """Nothing is found, all is counted, and a repair changes nothing."""
    before = rows(house.index), tree(house.root)
    for options in ({}, {"quick": True}, {"repair": True}):
        report = house.fsck(**options)
        assert (report.findings, report.images, report.files, report.is_well) == ((), 3, 3, True)
    assert (rows(house.index), tree(house.root)) == before


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
def test_a_damaged_file_is_set_aside_and_its_row_removed_so_that_it_can_be_sent_again(house: House, problem: str):
    """Exactly it is found; the others stay, a second look finds nothing, and the sender's copy is taken in again."""
    victim = house.instances()[1]
    DAMAGES[problem](house.path(victim))
    report = house.fsck()
    assert [(each.problem, each.file, each.sop_instance_uid) for each in report.findings] == [
        (problem, victim.file_key, victim.sop_instance_uid)
    ]
    assert not report.is_well
    assert house.fsck().findings == report.findings
    (mended,) = house.fsck(repair=True).findings
    assert mended.is_repaired
    assert "again" in mended.done
    assert house.fsck().findings == ()
    assert len(house.instances()) == 2
    assert house.quarantined() == ([] if problem == "missing" else [victim.file_key])
    send(house.storage, *house.datasets)
    assert len(house.instances()) == 3
    assert house.fsck().is_well


def test_a_quick_look_sees_names_and_sizes_only(house: House):
    """A flipped bit is not seen, a file that is shorter is."""
    first, second, _ = house.instances()
    flip(house.path(first))
    DAMAGES["size"](house.path(second))
    assert house.problems(quick=True) == [("size", second.file_key)]


def test_a_whole_file_in_no_row_is_taken_in_again(house: House):
    """The row is the same as before."""
    before = rows(house.index)
    writer.remove(house.index, [house.instances()[2].sop_instance_uid])
    (found,) = house.fsck().findings
    assert found.problem == "orphan"
    (mended,) = house.fsck(repair=True).findings
    assert mended.done == "added to the index"
    assert rows(house.index) == before


def test_files_in_no_row_that_hold_nothing_new_are_set_aside(house: House):
    """A second file of an instance, one that is none, one with a name that none has: moved, not deleted."""
    first = house.instances()[0]
    folder = house.path(first).parent
    second = folder / f"{uuid.uuid4()}.dcm"
    second.write_bytes(house.path(first).read_bytes())
    (folder / f"{uuid.uuid4()}.dcm").write_bytes(b"hello")
    (folder / "notes.txt").write_text("hello")
    assert [kind for kind, _ in house.problems()] == ["damaged", "duplicate", "stray"]
    assert house.fsck(repair=True).is_well
    assert house.fsck().findings == ()
    assert len(list((house.root / "quarantine").rglob("*.*"))) == 3
    assert len(house.instances()) == 3


def just_before_repairing(work: Callable[[], object]) -> Progress:
    """A progress that has something happen when all has been looked at, twice, and nothing is mended yet."""

    @contextmanager
    def progress(title: str, _total: int) -> Iterator[Callable[[int], None]]:
        if title == "repairing":
            work()
        yield lambda _count: None

    return progress


def test_files_that_somebody_else_takes_in_before_they_are_mended_stay(house: House):
    """Another repair, a reindex, a server that starts, or a row whose commit had to wait: no row loses its file."""
    before = rows(house.index), tree(house.root)
    keys = [each.file_key for each in house.instances()]
    writer.remove(house.index, [each.sop_instance_uid for each in house.instances()])
    progress = just_before_repairing(lambda: [adopt(house.index, house.files, key) for key in keys])
    report = house.fsck(repair=True, progress=progress)
    assert [each.problem for each in report.findings] == ["orphan"] * 3
    assert report.is_well
    assert (rows(house.index), tree(house.root)) == before
    assert house.quarantined() == []


@pytest.mark.parametrize("problem", ["orphan", "duplicate", "damaged"])
def test_what_is_in_a_row_meanwhile_is_not_set_aside(house: House, problem: str):
    """The file that replaces an instance while its row waits to be committed; whatever it seemed to be before."""
    first = house.instances()[0]
    content = house.path(first).read_bytes()
    key = f"{first.file_key.rpartition('/')[0]}/{uuid.uuid4()}.dcm"
    newer = house.root / key
    newer.write_bytes(b"hello" if problem == "damaged" else content)
    if problem == "orphan":
        writer.remove(house.index, [first.sop_instance_uid])
        house.path(first).unlink()

    def enter() -> None:
        newer.write_bytes(content)
        arrival = read_stored_file(house.files, key)
        if problem == "orphan":
            writer.add(house.index, arrival)
            newer.write_bytes(content[:-2])  # nor when it was damaged since
        else:
            house.files.delete(writer.replace(house.index, arrival).file_key)

    (found,) = house.fsck(repair=True, progress=just_before_repairing(enter)).findings
    assert (found.problem, found.file) == (problem, key)
    assert "in a row meanwhile" in found.done
    assert house.quarantined() == []
    assert newer.exists()
    assert len(house.instances()) == 3


def test_one_mends_at_a_time(house: House, tmp_path: Path):
    """A repair, a reindex and a restore refuse to begin while one of them is at work, and say which; a look may."""
    Backups(house.index, house.files).make(tmp_path / "backup")
    flip(house.path(house.instances()[0]))
    refused: list[str] = []

    def others() -> None:
        for work in (
            lambda: house.fsck(repair=True),
            Reindex(house.index, LocalFiles(house.root), grace=0).run,
            lambda: Backups(house.index, LocalFiles(house.root)).restore(tmp_path / "backup"),
        ):
            with pytest.raises(ConfigurationError) as error:
                work()
            refused.append(error.value.comment)
        assert len(house.fsck().findings) == 1

    assert house.fsck(repair=True, progress=just_before_repairing(others)).is_well
    said = f"`pacs fsck --repair` (process {os.getpid()}) is at work on these files: wait until it has ended"
    assert refused == [said] * 3
    assert house.fsck(repair=True).findings == ()


def test_a_file_under_another_name_keeps_its_instance(house: House):
    """A row without a file and a file without a row that belong together are brought together."""
    moved = house.instances()[0]
    target = house.path(moved).with_name(f"{uuid.uuid4()}.dcm")
    house.path(moved).rename(target)
    assert [kind for kind, _ in house.problems()] == ["missing", "orphan"]
    assert house.fsck(repair=True).is_well
    assert writer.find(house.index, moved.sop_instance_uid).file_key.endswith(target.name)
    assert house.fsck().findings == ()


@pytest.mark.parametrize(
    "wrong",
    [{"digest": "00" * 32}, {"size": 5}, {"sop_instance_uid": "1.2.3"}, {"transfer_syntax": "1.2.840.10008.1.2"}],
)
def test_where_the_row_is_wrong_the_file_decides(house: House, wrong: dict[str, object]):
    """A file that is whole by itself is never set aside: its row is made anew."""
    before = rows(house.index)
    with house.index.write() as connection:
        connection.execute(update(image).where(image.c.file_key == house.instances()[0].file_key).values(wrong))
    assert not house.fsck().is_well
    assert house.fsck(repair=True).is_well
    assert rows(house.index) == before
    assert house.quarantined() == []


def test_parents_without_children_are_found_and_removed(house: House):
    """A patient nobody is of."""
    with house.index.write() as connection:
        row = dict(connection.execute(select(patient)).mappings().one())
        connection.execute(insert(patient), [row | {"id": 1000, "patient_id": "NOBODY"}])
    (found,) = house.fsck().findings
    assert (found.problem, "PATIENT" in found.explanation) == ("childless", True)
    assert house.fsck(repair=True).is_well
    assert house.fsck().findings == ()


def test_what_a_dead_process_left_half_written_is_removed(house: House):
    """What a living one writes is left alone."""
    left = house.root / "incoming" / "left"
    left.write_bytes(b"half")
    with house.files.create(4, datetime.now(UTC)) as incoming:
        incoming.write(bytes(2 << 20))
        assert house.problems() == [("leftover", "left")]
        assert house.fsck(repair=True).is_well
        incoming.write(b"more")
        assert len(list((house.root / "incoming").iterdir())) == 1
    assert house.fsck().findings == ()


def test_an_archive_whose_folder_is_not_there_loses_no_row(house: House, tmp_path: Path):
    """Where no file is left at all nothing is mended: somebody has forgotten to mount it."""
    house.root.rename(tmp_path / "elsewhere")
    files = LocalFiles(house.root)
    with pytest.raises(StorageUnavailable, match=r"check files\.url"):
        Fsck(house.index, files, grace=0).run(repair=True)
    assert len(house.instances()) == 3
    assert len(Fsck(house.index, files, grace=0).run().findings) == 3


def test_a_file_that_cannot_be_read_is_no_reason_to_change_anything(house: House):
    """A folder in its place stands for whatever the system says against it."""
    victim = house.path(house.instances()[0])
    victim.unlink()
    victim.mkdir()
    before = rows(house.index)
    report = house.fsck(repair=True)
    assert [each.problem for each in report.findings] == ["size"]
    assert not report.is_well
    assert rows(house.index) == before


def test_a_file_whose_head_cannot_be_read_is_told_and_left(house: House):
    """A bad sector, for which memory stands that is not there: the disk is at fault, and the others are looked at."""
    victim = house.instances()[0]
    house.path(victim).unlink()
    house.path(victim).symlink_to("/proc/self/mem")
    with house.index.write() as connection:
        connection.execute(update(image).where(image.c.file_key == victim.file_key).values(size=0))
    before = rows(house.index)
    for options in ({}, {"repair": True}):
        report = house.fsck(**options)
        assert [(each.problem, each.file, each.is_repaired) for each in report.findings] == [
            ("unreadable", victim.file_key, False)
        ]
        assert report.images == 3
    assert rows(house.index) == before
    assert house.quarantined() == []


def test_a_file_in_no_row_that_cannot_be_read_to_its_end_is_left(house: House):
    """A read error does not make an instance a damaged one: the file stays where it is."""
    (large,) = series_of(2, 1)
    large.add_new(0x00090010, "LO", "PACS TEST")
    large.add_new(0x00091001, "OB", bytes(100_000))
    send(house.storage, large)
    writer.remove(house.index, [large.SOPInstanceUID])
    with bad_sectors(house.files):
        report = house.fsck(repair=True)
    assert [(each.problem, each.is_repaired) for each in report.findings] == [("unreadable", False)]
    assert house.quarantined() == []
    assert [each.problem for each in house.fsck(repair=True).findings] == ["orphan"]
    assert house.fsck().is_well


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_any_damage_is_found_exactly_and_mended_without_loss(index: Index, tmp_path: Path, seed: int):
    """Whatever is done to whichever files and rows: fsck names them alone, and what is whole stays or returns."""
    chance = random.Random(seed)
    with index.write() as connection:
        for table in ("image", "series", "study", "patient"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    house = House(index, tmp_path / str(seed), instances=6)
    instances = house.instances()
    contents = {each.sop_instance_uid: house.path(each).read_bytes() for each in instances}
    victims = chance.sample(instances, chance.randint(0, 6))
    expected, lost = [], set()
    for victim in victims[: 5 if len(victims) == 6 else 6]:
        problem = chance.choice([*DAMAGES, "orphan"])
        if problem == "orphan":
            writer.remove(index, [victim.sop_instance_uid])
        else:
            DAMAGES[problem](house.path(victim))
            lost.add(victim.sop_instance_uid)
        expected.append((problem, victim.file_key))
    assert house.problems() == sorted(expected)
    assert house.fsck(repair=True).is_well
    assert house.fsck().findings == ()
    kept = {each.sop_instance_uid: house.path(each).read_bytes() for each in house.instances()}
    assert kept == {uid: content for uid, content in contents.items() if uid not in lost}


DIE = """
import os, sys
from pathlib import Path
from pacs.index import upkeep
from pacs.index.database import Index
from pacs.files.local import LocalFiles
from pacs.services.fsck import Fsck
url, root, step = sys.argv[1:]
def dies(*_, **__):
    os._exit(9)
if step == "before the row goes":
    upkeep.forget = dies
else:
    LocalFiles.quarantine = dies
Fsck(Index(url), LocalFiles(Path(root)), grace=0).run(repair=True)
"""


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("step", ["before the row goes", "before the file goes"])
def test_a_repair_that_was_killed_can_be_run_again(house: House, database_url: str, step: str):
    """Between any two steps: the next one mends the rest."""
    for victim in house.instances()[:2]:
        flip(house.path(victim))
    command = [sys.executable, "-c", DIE, database_url, str(house.root), step]
    died = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.getcwd()}, timeout=60, check=False)
    assert died.returncode == 9
    assert not house.fsck().is_well
    assert house.fsck(repair=True).is_well
    assert house.fsck().findings == ()
    assert (len(house.instances()), len(house.quarantined())) == (1, 2)


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
def test_after_a_power_cut_the_journal_mends_before_anything_is_set_aside(house: House, database_url: str):
    """Files whose bytes were only in the page cache are whole again: nothing goes to the quarantine."""
    command = [sys.executable, "-c", POWER_CUT, database_url, str(house.root)]
    assert (
        subprocess.run(command, env=os.environ | {"PYTHONPATH": os.getcwd()}, timeout=60, check=False).returncode == 9
    )
    before = rows(house.index), tree(house.root)
    for path in sorted(house.root.glob("[0-9]*/*/*/*/*"))[3:5]:
        path.write_bytes(b"")
    assert [kind for kind, _ in house.problems()] == ["journal", "size", "size"]
    assert [each.problem for each in house.fsck(repair=True).findings] == ["journal"]
    assert (rows(house.index), tree(house.root)) == before
    assert house.fsck().findings == ()
