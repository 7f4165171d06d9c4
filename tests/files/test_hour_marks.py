"""Marks of hours: what a server stored whose rows may not be durable is found by them alone (decision 72)."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pacs.errors import StorageUnavailable
from pacs.files import hour_marks, incoming_file, object_keys
from pacs.files.hour_marks import HourMarks, marked_hours
from pacs.files.local import LocalFiles
from pacs.files.running_marker import RunningMarker
from tests.files.test_object_keys import HOUR, SECOND, Clocks, clocks
from tests.files.test_store import HEAD, LARGE, put
from tests.waiting import eventually

__all__ = ["clocks"]


class Server:
    """A file store that a server uses; `is_durable` is what its index says of its rows."""

    def __init__(self, root: Path) -> None:
        self.files = LocalFiles(root)
        self.files.start()
        self.marker = self.files.mark_running()
        self.is_durable = True
        self.files.mark_hours(self.marker, lambda: self.is_durable)

    def hours(self) -> list[str]:
        """Return the marked hours, in order."""
        return sorted(marked_hours(self.marker.folder))

    def prune(self) -> None:
        """Do what the timer does."""
        assert self.files._marks is not None
        self.files._marks.prune()

    def close(self) -> None:
        """End as after a clean stop."""
        self.files.close()
        self.marker.release(is_clean=True)


@pytest.fixture
def server(tmp_path: Path, clocks: Clocks) -> Iterator[Server]:
    """A server at 12:30 of a day whose marks are pruned by the test."""
    with closing(Server(tmp_path / "files")) as made:
        yield made


@pytest.mark.parametrize("body", [b"small", LARGE])
def test_the_mark_is_durable_before_the_object_has_its_name(server: Server, monkeypatch, body: bytes):
    """The file and its name in the folder are synced first; for the second object nothing is made."""
    steps = []
    real = {"file": hour_marks.sync_file, "folder": hour_marks.sync_folder, "rename": os.rename}

    def note(step: str):
        def called(*paths: object) -> None:
            if step != "rename" or str(paths[1]).endswith(".dcm"):
                steps.append((step, len(server.hours())))
            real[step](*paths)

        return called

    monkeypatch.setattr(hour_marks, "sync_file", note("file"))
    monkeypatch.setattr(hour_marks, "sync_folder", note("folder"))
    monkeypatch.setattr(incoming_file.os, "rename", note("rename"))
    put(server.files, body)
    put(server.files, body)
    assert steps == [("file", 1), ("folder", 1), ("rename", 1), ("rename", 1)]
    assert server.hours() == ["2026/11/21/12"]


def test_an_object_without_a_mark_is_refused(server: Server, monkeypatch):
    """When the mark cannot be made durable, no object gets its name; the next one tries again."""

    def refuse(_path: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(hour_marks, "sync_folder", refuse)
        for _ in range(2):
            with pytest.raises(StorageUnavailable):
                put(server.files, b"x")
    assert list(server.files.keys()) == []
    put(server.files, b"x")
    assert set(server.hours()) == {"2026/11/21/12"}


def test_a_mark_is_pruned_in_a_later_hour(server: Server, clocks: Clocks):
    """Not in its own, however often that is tried."""
    put(server.files, b"x")
    server.prune()
    assert server.hours() == ["2026/11/21/12"]
    clocks.run(HOUR)
    put(server.files, b"x")
    assert server.hours() == ["2026/11/21/12", "2026/11/21/13"]
    server.prune()
    assert server.hours() == ["2026/11/21/13"]


def test_a_mark_stays_while_an_object_may_get_its_row(server: Server, clocks: Clocks):
    """From its commit to the end of its `with` block, whatever is stored meanwhile."""
    with server.files.create(len(HEAD)) as slow:
        slow.commit(HEAD)
        clocks.run(HOUR)
        put(server.files, b"x")
        server.prune()
        assert server.hours() == ["2026/11/21/12", "2026/11/21/13"]
    server.prune()
    assert server.hours() == ["2026/11/21/13"]


def test_an_object_that_is_late_in_its_hour_gets_a_mark_of_its_own(tmp_path: Path):
    """Also while the mark of its hour is being removed."""
    late: list[str] = []

    def meanwhile() -> bool:
        if not late:
            late.append("2026/11/21/12")
            marks.enter(*late)
        return True

    marks = HourMarks(tmp_path, meanwhile)
    for hour in ("2026/11/21/12", "2026/11/21/13"):
        marks.enter(hour)
        marks.leave(hour)
    marks.prune()
    assert marked_hours(tmp_path) == {"2026/11/21/12", "2026/11/21/13"}
    marks.leave(*late)
    marks.prune()
    assert marked_hours(tmp_path) == {"2026/11/21/13"}
    marks.close()


def test_a_mark_stays_until_the_rows_are_durable(server: Server, clocks: Clocks, monkeypatch):
    """The attempt is repeated by a timer, without another object."""
    monkeypatch.setattr(hour_marks, "PRUNE_SECONDS", 0.01)
    server.is_durable = False
    for _ in range(3):
        put(server.files, b"x")
        clocks.run(HOUR)
    server.prune()
    assert len(server.hours()) == 3
    server.is_durable = True
    assert eventually(lambda: server.hours() == ["2026/11/21/14"])


def test_a_mark_that_cannot_be_removed_stays_and_is_removed_later(server: Server, clocks: Clocks, monkeypatch):
    """Stores go on."""
    put(server.files, b"x")
    clocks.run(HOUR)
    put(server.files, b"x")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        server.prune()
    assert len(server.hours()) == 2
    server.prune()
    assert server.hours() == ["2026/11/21/13"]


def test_an_idle_server_has_no_timer(server: Server):
    """Within one hour there is nothing to prune."""
    before = set(threading.enumerate())
    put(server.files, b"x")
    assert "pacs-hour-marks" not in [each.name for each in set(threading.enumerate()) - before]


def test_a_clean_end_removes_the_marker_with_its_marks(tmp_path: Path):
    """The next start has nothing to look for."""
    with closing(Server(tmp_path)) as server:
        put(server.files, b"x")
        assert server.hours()
    assert list((tmp_path / "running").iterdir()) == []


def test_a_server_that_died_leaves_its_hours(tmp_path: Path, clocks: Clocks):
    """Of all servers that died, and of workers: each has marks of its own in the folder of its supervisor."""
    died = []
    for _ in range(2):
        server, worker = Server(tmp_path), LocalFiles(tmp_path)
        worker.join(server.files)
        worker.mark_hours(server.marker, lambda: True)
        put(server.files, b"x")
        clocks.run(HOUR)
        put(worker, b"x")
        clocks.run(SECOND)
        for files in (server.files, worker):
            files.close()
        died.append(server.marker)
    for each in died:
        each.release(is_clean=False)
    found = LocalFiles(tmp_path).mark_running()
    assert found.is_after_unclean_stop
    assert sorted(found.hours() or ()) == ["2026/11/21/12", "2026/11/21/13", "2026/11/21/14"]
    found.forget_unclean_stop()
    found.release(is_clean=True)
    assert list((tmp_path / "running").iterdir()) == []


def test_a_marker_of_an_earlier_version_says_that_it_has_no_marks(tmp_path: Path):
    """One that was found beside markers with marks, too."""
    (tmp_path / "running" / "old").mkdir(parents=True)
    server = Server(tmp_path)
    put(server.files, b"x")
    server.files.close()
    server.marker.release(is_clean=False)
    found = LocalFiles(tmp_path).mark_running()
    assert found.hours() is None
    found.release(is_clean=True)


def test_keys_of_hours_are_those_of_the_marked_folders(tmp_path: Path, clocks: Clocks):
    """In order, without foreign files; an hour that was marked before its folder was made has none."""
    files = LocalFiles(tmp_path)
    keys = []
    for _ in range(4):
        keys += [put(files, b"x"), put(files, b"y")]
        clocks.run(HOUR)
    (tmp_path / keys[2]).with_name("notes.txt").touch()
    wanted = {"2026/11/21/15", "2026/11/21/13", "2026/11/21/23"}
    assert list(files.keys_of_hours(wanted)) == [*keys[2:4], *keys[6:]]


def test_other_processes_draw_keys_by_the_clock_of_a_running_server(tmp_path: Path, clocks: Clocks):
    """`pacs import` beside it, after the wall clock was turned forward; not once the machine was started anew."""
    with closing(Server(tmp_path)) as server:
        keys = [put(server.files, b"x")]
        clocks.run(SECOND)
        clocks.wall += 370 * 24 * HOUR
        keys.append(put(LocalFiles(tmp_path), b"x"))
        clocks.run(SECOND)
        keys.append(put(server.files, b"x"))
        assert keys == sorted(keys)
        assert {key[:13] for key in keys} == {"2026/11/21/12"}
        (server.marker.folder / "clock").write_text("5 another start")
        assert put(LocalFiles(tmp_path), b"x").startswith("2027/")


def test_two_processes_that_look_at_a_marker_do_not_take_each_other_for_its_owner(tmp_path: Path):
    """The lock by which they look is shared: otherwise a start beside `pacs check` would not recover."""
    (tmp_path / "dead").mkdir()
    looking = os.open(tmp_path / "dead", os.O_RDONLY)
    incoming_file.fcntl.flock(looking, incoming_file.fcntl.LOCK_SH)
    marker = RunningMarker(tmp_path, object_keys.KeyClock(0))
    os.close(looking)
    assert marker.is_after_unclean_stop
    marker.release(is_clean=True)


def test_without_threads_the_mark_stays_until_the_next_hour(server: Server, clocks: Clocks, monkeypatch):
    """At the limit of threads objects are stored as always."""

    def refuse(_timer: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    put(server.files, b"x")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Timer, "start", refuse)
        clocks.run(HOUR)
        put(server.files, b"x")
    monkeypatch.setattr(hour_marks, "PRUNE_SECONDS", 0.01)
    clocks.run(HOUR)
    put(server.files, b"x")
    assert eventually(lambda: server.hours() == ["2026/11/21/14"])
