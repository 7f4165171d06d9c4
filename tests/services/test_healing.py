"""Completing an index that lacks files: interruptions, deletions, and what is compared at the start."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pacs import testing
from pacs.errors import IndexUnavailable
from pacs.files.local import LocalFiles
from pacs.index import maintenance
from pacs.index.database import Index
from pacs.observability.events import CompletionProgressed, Event, Notice
from pacs.services import completeness, healing
from pacs.services.completeness import compare
from pacs.services.fsck import Fsck
from pacs.services.healing import Healing
from pacs.services.maintenance import Maintenance
from pacs.services.storage import Storage
from tests.waiting import eventually

COUNT = 10


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    """An empty file store."""
    return LocalFiles(tmp_path / "files")


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completeness, "GRACE", 0)
    monkeypatch.setattr(healing, "RETRY_SECONDS", 0.01)


@pytest.fixture
def keys(index: Index, files: LocalFiles, tmp_path: Path) -> list[str]:
    """The keys of ten stored instances, newest first."""
    storage = Storage(index, files)
    for path in testing.write(testing.study(series=1, instances=COUNT, size=8), tmp_path / "given"):
        storage.import_file(path)
    return files.newest(COUNT)


@pytest.fixture
def events() -> list[Event]:
    """What is published."""
    return []


@pytest.fixture
def heal(index: Index, files: LocalFiles, events: list[Event]) -> Iterator[Callable[[], Healing]]:
    """Start to complete the index, as a start of the server does."""
    started: list[Healing] = []

    def start() -> Healing:
        started.append(Healing(index, files, events.append, heal=True))
        started[-1].look()
        started[-1].start()
        return started[-1]

    yield start
    for each in started:
        each.stop()


def count(index: Index) -> int:
    """Count the instances of the index."""
    return len(maintenance.newest_files(index, 1000))


def sentences(events: list[Event]) -> list[str]:
    """Return the sentences of the notices."""
    return [event.sentence for event in events if isinstance(event, Notice)]


def test_an_interrupted_completion_goes_on(
    index: Index, files: LocalFiles, keys: list[str], heal: Callable[[], Healing], monkeypatch: pytest.MonkeyPatch
):
    """Stopped after three of ten; queries are refused until another start has added the rest."""
    maintenance.forget(index, keys)
    adopt, added, goes_on = healing.adopt, [], threading.Event()

    def adopt_three(index: Index, files: LocalFiles, key: str) -> str:
        if len(added) == 3:
            goes_on.wait(60)
            raise IndexUnavailable("stopped")
        added.append(key)
        return adopt(index, files, key)

    monkeypatch.setattr(healing, "adopt", adopt_three)
    first = heal()
    eventually(lambda: len(added) == 3, 60)
    with pytest.raises(IndexUnavailable, match="is being completed"):
        first.admit_query()
    with pytest.raises(IndexUnavailable, match="lacks files"):
        Maintenance(index, files).delete([])
    first._stopped.set()
    goes_on.set()
    first.stop()
    assert count(index) == 3
    monkeypatch.setattr(healing, "adopt", adopt)
    second = heal()
    eventually(lambda: second.progress() is None, 60)
    second.admit_query()
    assert maintenance.newest_files(index, COUNT) == keys
    assert Fsck(index, files, grace=0).run().is_well


def test_progress_is_published(index: Index, keys: list[str], events: list[Event], heal: Callable[[], Healing]):
    """In events for log and metrics; the last one has all files."""
    maintenance.forget(index, keys[:4])
    running = heal()
    eventually(lambda: running.progress() is None, 60)
    eventually(lambda: sentences(events)[-1].startswith("the index is complete"), 60)
    progress = [event for event in events if isinstance(event, CompletionProgressed)]
    assert sum(each.added for each in progress) == 4
    assert progress[-1].counts == {"checked": COUNT, "total": COUNT, "failed": 0}
    assert sentences(events)[-1] == "the index is complete: 4 instances were added from their files"


def test_a_deleted_instance_does_not_come_back(
    index: Index, files: LocalFiles, keys: list[str], heal: Callable[[], Healing]
):
    """Its file is deleted with its row."""
    Maintenance(index, files).delete(list(maintenance.with_files(index, keys[5:6]).values()))
    maintenance.forget(index, keys[:2])
    running = heal()
    eventually(lambda: running.progress() is None, 60)
    assert set(maintenance.newest_files(index, COUNT)) == {*keys[:5], *keys[6:]}


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (0, ""),
        (1, f"1 of the newest {COUNT} files are not in the index: run `pacs reindex`"),
        (COUNT, f"{COUNT} of the newest {COUNT} files are not in the index: run `pacs reindex`"),
    ],
)
def test_files_in_no_row_are_found(index: Index, files: LocalFiles, keys: list[str], lost: int, said: str):
    """Of the newest ones."""
    if lost:
        maintenance.forget(index, keys[:lost])
    assert compare(index, files).fault == said


def test_files_that_cannot_be_added_do_not_count(index: Index, files: LocalFiles, keys: list[str], tmp_path: Path):
    """Damaged ones, and another file of a stored instance."""
    another = keys[1].removesuffix(".dcm")[:-4] + "0000.dcm"
    shutil.copyfile(tmp_path / "files" / keys[1], tmp_path / "files" / another)
    maintenance.forget(index, keys[:1])
    with (tmp_path / "files" / keys[0]).open("r+b") as file:
        file.truncate(300)
    assert compare(index, files).fault == ""


def test_missing_files_are_found(index: Index, files: LocalFiles, keys: list[str], heal: Callable[[], Healing]):
    """More than a tenth of the newest: nothing is added then, because these may be the files of another archive."""
    files.delete(keys[0])
    assert compare(index, files).fault == ""
    files.delete(keys[1])
    assert "2 of the newest 10 instances of the index have no file" in compare(index, files).fault
    maintenance.forget(index, keys[2:3])
    assert heal().progress() is None
    assert count(index) == COUNT - 1
