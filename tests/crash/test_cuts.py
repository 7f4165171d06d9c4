"""Power cuts: some of those of `python -m tests.crash cuts`, and tests of the disk model."""

from pathlib import Path

import pytest

from tests.crash import cuts
from tests.crash.cuts import LOADS
from tests.crash.disk import SURVIVALS, Disk, Survival, anything, everything, lengths_only, names_only, nothing
from tests.crash.trace import Call

SHORT = {"while instances arrive": (4, 20, 1), "while the clock is turned": (1, 60, 0)}
"""The loads of the short form: instances of each sender, points for each cut, and recoveries that are cut."""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("load", [pytest.param(each, marks=[pytest.mark.long] * (each not in SHORT)) for each in LOADS])
def test_nothing_acknowledged_is_lost_when_the_power_goes(tmp_path: Path, load: str):
    """At some points of the disk operations, and again during the recovery."""
    instances, every, recoveries = SHORT.get(load, (4, 20, 0))
    chosen = cuts.one_in(every, 1)
    results = cuts.run(tmp_path, load, instances=instances, seconds=0, recoveries=recoveries, chosen=chosen)
    for each in results.values():
        assert each.cuts.total() > 0
        assert each.worst == []
    assert sum(results[f"Power cuts {load}"].acknowledged.values()) > 0


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("load", LOADS)
def test_nothing_acknowledged_is_lost_whenever_the_power_goes(tmp_path: Path, load: str):
    """At every point, with every kind of survival."""
    recoveries = 3 * (load in cuts.RECOVERED)
    results = cuts.run(tmp_path, load, instances=4, seconds=6, recoveries=recoveries, chosen=cuts.every_survival)
    assert [each.worst for each in results.values()] == [[] for _ in results]


# --- the model of a disk -----------------------------------------------------------------------------------------


class DiskDriver:
    """Makes calls as a process would, one after the other, on a disk that begins empty."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "disk"
        self.disk = Disk(self.root)
        self._folder, self._time, self._cuts = folder, 0, 0

    def call(self, name: str, *arguments: object, result: int = 0) -> None:
        """Begin and end a call. Texts are paths below the root, bytes are content."""
        texts = [each if isinstance(each, bytes) else f"{self.root}/{each}".encode() for each in arguments
                 if isinstance(each, bytes | str) and not str(each).startswith("O_")]  # fmt: skip
        is_text = [isinstance(each, bytes) or f"{self.root}/{each}".encode() in texts for each in arguments]
        words = ["%" if text else str(each) for text, each in zip(is_text, arguments, strict=True)]
        words = ["AT_FDCWD", *words] if name == "openat" else words
        self._time += 2
        done = Call(name, texts, words, self._time, self._time + 1, result)
        self.disk.begin(done)
        self.disk.end(done)

    def make(self, path: str, descriptor: int, flags: str = "O_RDWR|O_CREAT") -> None:
        """Make and open a file."""
        self.call("openat", path, flags, result=descriptor)

    def write(self, descriptor: int, content: bytes, place: int = 0) -> None:
        """Write to a file."""
        self.call("pwrite64", descriptor, content, len(content), place, result=len(content))

    def open_folder(self, path: str, descriptor: int) -> None:
        """Open a folder."""
        self.call("openat", path, "O_RDONLY", result=descriptor)

    def after(self, survival: Survival) -> dict[str, bytes]:
        """Return the files after a power cut, by path."""
        self._cuts += 1
        target = self._folder / str(self._cuts)
        self.disk.leave(target, survival)
        return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


@pytest.fixture
def disk(tmp_path: Path) -> DiskDriver:
    """An empty disk."""
    return DiskDriver(tmp_path)


def test_a_file_is_durable_when_it_and_its_name_are_synced(disk: DiskDriver):
    """Either alone is not enough: the content without a name is lost, the name without content is an empty file."""
    disk.make("a", 3)
    disk.write(3, b"content")
    assert disk.after(nothing()) == {}
    disk.call("fsync", 3)
    assert disk.after(nothing()) == {}
    disk.open_folder("", 4)
    disk.call("fsync", 4)
    assert disk.after(nothing()) == {"a": b"content"}


def test_an_unsynced_file_may_survive_in_part(disk: DiskDriver):
    """All of it, its name, its name and length."""
    disk.make("a", 3)
    disk.write(3, b"content")
    assert disk.after(everything()) == {"a": b"content"}
    assert disk.after(names_only()) == {"a": b""}
    assert disk.after(lengths_only()) == {"a": bytes(7)}


def test_a_synced_write_is_durable_at_once_and_a_later_one_is_not(disk: DiskDriver):
    """By O_DSYNC, and by an fsync that the second write came after."""
    disk.make("a", 3, "O_RDWR|O_CREAT|O_DSYNC")
    disk.write(3, b"at once")
    disk.make("b", 4)
    disk.write(4, b"before")
    disk.call("syncfs", 4)
    disk.write(4, b"later!")
    assert disk.after(nothing()) == {"a": b"at once", "b": b"before"}


def test_a_rename_survives_completely_or_not_at_all(disk: DiskDriver):
    """Before the folder is synced, with any seed."""
    disk.make("a", 3)
    disk.call("syncfs", 3)
    disk.call("rename", "a", "b")
    left = [disk.after(anything(seed)) for seed in range(20)]
    assert {tuple(each) for each in left} == {("a",), ("b",)}


def test_a_write_is_torn_at_sectors_only(disk: DiskDriver):
    """Each sector is as before or as after; some cut leaves both kinds."""
    disk.make("a", 3)
    disk.write(3, bytes(8 * 512))
    disk.call("syncfs", 3)
    disk.write(3, b"x" * 8 * 512)
    for seed in range(10):
        content = disk.after(anything(seed))["a"]
        sectors = {content[at : at + 512] for at in range(0, len(content), 512)}
        assert sectors <= {bytes(512), b"x" * 512}
    assert len(sectors) == 2


@pytest.mark.timeout(180)
def test_the_harness_finds_missing_syncs(tmp_path: Path):
    """A recording without its syncs loses acknowledged instances."""
    recording = cuts.arriving(tmp_path, 2)
    for call in recording.calls:
        call.words = [word.replace("O_DSYNC", "0") for word in call.words]
    recording.calls = [each for each in recording.calls if each.name not in ("fsync", "fdatasync", "syncfs")]
    totals = cuts.Totals()
    cuts.cut(recording, totals, lambda number: ["none"] if number % 100 == 99 else ())
    assert totals.worst


def test_every_kind_of_survival_is_tried():
    """One at each chosen point, and all of them over many points."""
    chosen = cuts.one_in(2, 1)
    assert {name for number in range(200) for name in chosen(number)} == set(SURVIVALS)
