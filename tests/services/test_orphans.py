"""A file and its row, while several operations work on them: neither a row without a file nor a lost instance."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from pacs.errors import DuplicateInstance, IndexUnavailable, PacsError
from pacs.files.local import LocalFiles
from pacs.index import writer
from pacs.index.database import Index
from pacs.index.writer import NewInstance
from pacs.services import orphans
from pacs.services.fsck import Fsck, Report
from pacs.services.maintenance import Maintenance
from pacs.services.reindex import Reindex
from pacs.services.storage import Storage
from pacs.services.stored_file import read_stored_file
from tests.upkeep import send, series_of
from tests.waiting import eventually

PATIENCE = 60


class Background(threading.Thread):
    """A thread whose result, or error, is fetched at the end."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.result: Any = None
        self.start()

    def run(self) -> None:
        """Do the work."""
        try:
            self.result = self._work()
        except PacsError as error:
            self.result = error

    def end(self) -> Any:
        """Wait until the work has ended, and return its result."""
        self.join(PATIENCE)
        assert not self.is_alive()
        return self.result


@contextmanager
def locked(index: Index) -> Iterator[None]:
    """Lock the index against all writers in the `with` block, as a backup program may."""
    with index.write() as connection:
        if not index.is_sqlite:
            connection.execute(text("LOCK TABLE image IN EXCLUSIVE MODE"))
        yield


def stored(root: Path) -> set[str]:
    """Return the keys of all files."""
    return set(LocalFiles(root).keys())


def test_a_file_is_not_adopted_while_its_store_is_being_refused(
    index: Index, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The index is locked: the store gives up and deletes its file, just when a repair adds it to the index."""
    root = tmp_path / "files"
    was_read = threading.Event()
    read = orphans.read_stored_file

    def reading(*arguments):
        arrival = read(*arguments)
        was_read.set()
        return arrival

    class Files(LocalFiles):
        def delete(self, key: str) -> None:
            was_read.wait(2)  # it is not read at all when the repair waits for the end of the store
            super().delete(key)

    monkeypatch.setattr(orphans, "read_stored_file", reading)
    impatient, patient = Index(database_url, wait=0.5), Index(database_url)
    (dataset,) = series_of(1, 1)
    with locked(index):
        sender = Background(lambda: send(Storage(impatient, Files(root)), dataset))
        eventually(lambda: root.exists() and stored(root), PATIENCE)
        repair = Background(lambda: Fsck(patient, LocalFiles(root), grace=0).run(repair=True))
        assert isinstance(sender.end(), PacsError)
    report = repair.end()
    assert isinstance(report, Report)
    assert Fsck(index, LocalFiles(root), grace=0).run().findings == ()
    assert (len(Maintenance(index, LocalFiles(root)).instances({})), stored(root)) == (0, set())
    for each in (impatient, patient):
        each.close()


@pytest.mark.parametrize("command", ["fsck", "reindex"])
def test_a_file_that_is_being_stored_is_no_finding(index: Index, database_url: str, tmp_path: Path, command: str):
    """The commit of a replacement waits for longer than the grace period: nothing is reported, moved or lost."""
    root = tmp_path / "files"
    files, other = LocalFiles(root), Index(database_url)
    (dataset,) = series_of(1, 1)
    send(Storage(index, files), dataset)
    dataset.InstanceNumber = 77
    maintenance = {"fsck": Fsck(other, LocalFiles(root), grace=0), "reindex": Reindex(other, LocalFiles(root), grace=0)}
    options = {"repair": True} if command == "fsck" else {}
    with locked(index):
        sender = Background(lambda: send(Storage(other, files, duplicates="replace"), dataset))
        eventually(lambda: len(stored(root)) == 2, PATIENCE)
        run = Background(lambda: maintenance[command].run(**options))
        eventually(lambda: is_waiting(run) or not run.is_alive(), PATIENCE)
    assert sender.end() is None
    result = run.end()
    assert result.findings == () if command == "fsck" else result.is_well
    (instance,) = Maintenance(index, files).instances({})
    assert stored(root) == {instance.file_key}
    assert read_stored_file(files, instance.file_key).header.sop_instance_uid == dataset.SOPInstanceUID
    assert Fsck(index, files, grace=0).run().findings == ()
    other.close()


def is_waiting(thread: threading.Thread) -> bool:
    """Whether a thread waits for the lock of a file, or for the database."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_name in ("_lock", "_write_lock", "read_after_writers", "transact"):
            return True
        frame = frame.f_back
    return False


class StoppingFiles(LocalFiles):
    """A file store whose deletions call a function first."""

    def __init__(self, root: Path, before_delete: Callable[[], object]) -> None:
        super().__init__(root)
        self._before_delete = before_delete

    def delete(self, key: str) -> None:
        """Delete a file once the function has returned."""
        self._before_delete()
        super().delete(key)


@pytest.mark.parametrize("operation", ["delete", "replace"])
def test_a_file_that_is_being_deleted_is_not_adopted(index: Index, tmp_path: Path, operation: str):
    """A repair runs between row and file of a deletion or replacement; it waits, and finds nothing."""
    root = tmp_path / "files"
    (dataset,) = series_of(1, 1)
    send(Storage(index, LocalFiles(root)), dataset)
    dataset.InstanceNumber = 77
    runs: list[Background] = []

    def repair() -> None:
        runs.append(Background(lambda: Fsck(index, LocalFiles(root), grace=0).run(repair=True)))
        eventually(lambda: is_waiting(runs[0]) or not runs[0].is_alive(), PATIENCE)

    files = StoppingFiles(root, repair)
    if operation == "delete":
        Maintenance(index, files).delete(Maintenance(index, files).instances({}))
    else:
        send(Storage(index, files, duplicates="replace"), dataset)
    assert [run.end().findings for run in runs] == [()]
    assert len(stored(root)) == len(Maintenance(index, files).instances({})) == (operation == "replace")
    assert Fsck(index, files, grace=0).run().findings == ()


def test_a_row_that_has_got_another_file_meanwhile_is_not_given_to_an_older_one(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A repair saw the row of a missing file; before it takes the row, the instance is stored again."""
    files = LocalFiles(tmp_path / "files")
    (dataset,) = series_of(1, 1)
    send(Storage(index, files), dataset)
    (first,) = Maintenance(index, files).instances({})
    older = f"{first.file_key[:-16]}ffffffffffff.dcm"
    (tmp_path / "files" / first.file_key).rename(tmp_path / "files" / older)
    dataset.InstanceNumber = 77
    is_missing = orphans.is_missing

    def stored_again(*arguments) -> bool:
        result = is_missing(*arguments)
        send(Storage(index, files, duplicates="replace"), dataset)
        return result

    monkeypatch.setattr(orphans, "is_missing", stored_again)
    with pytest.raises(DuplicateInstance):
        orphans.adopt(index, files, older)
    (now,) = Maintenance(index, files).instances({})
    assert now.file_key not in (older, first.file_key)
    assert files.size(now.file_key) == now.size


def test_a_failed_commit_that_comes_through_after_all_keeps_its_file(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The connection breaks at the commit, and the row is not there yet: the file stays until that is certain."""
    files = LocalFiles(tmp_path / "files")
    storage = Storage(index, files)
    (dataset,) = series_of(1, 1)
    add, arrivals = writer.add, []

    def breaks(_index: Index, arrival: NewInstance, *rest: Any) -> None:
        arrivals.append((arrival, *rest))
        lost = OperationalError("COMMIT", None, Exception("gone"), connection_invalidated=True)
        raise IndexUnavailable("the index does not respond") from lost

    monkeypatch.setattr(writer, "add", breaks)
    with pytest.raises(IndexUnavailable):
        send(storage, dataset)
    monkeypatch.undo()
    assert storage.has_uncertain_files
    add(index, *arrivals[0])
    storage.check_uncertain_files()
    assert not storage.has_uncertain_files
    assert Fsck(index, files, grace=0).run().findings == ()
    assert len(Maintenance(index, files).instances({})) == 1
