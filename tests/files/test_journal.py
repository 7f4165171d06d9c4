"""The journal of small objects: what was committed survives a power cut, whatever of its file the cut took."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pacs.errors import InstanceUnreadable, StorageUnavailable
from pacs.files import journal, local
from pacs.files.local import LocalFiles
from tests.files.test_store import HEAD, LARGE, NOON, content, fail, put

PATIENCE = 10.0


@pytest.fixture
def files(tmp_path: Path) -> Iterator[LocalFiles]:
    """A store that serves, in the folder `files`."""
    with closing(LocalFiles(tmp_path / "files")) as store:
        store.start()
        yield store


def after_a_power_cut(before: Path, damage: Callable[[Path], None]) -> LocalFiles:
    """A store as it starts again: what was synced is there, every stored file went through `damage`."""
    after = Path(f"{before} after {len(list(before.parent.iterdir()))} cuts")
    shutil.copytree(before, after)
    for path in after.rglob("*.dcm"):
        damage(path)
    store = LocalFiles(after)
    store.start()
    return store


def contents(files: LocalFiles) -> dict[str, bytes]:
    """Everything in a store."""
    return {key: content(files, key) for key in list(files.keys())}


def emptied(path: Path) -> None:
    """What ext4 leaves of a file that was not synced."""
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    """What other file systems may leave."""
    path.write_bytes(bytes(path.stat().st_size))


def lost(path: Path) -> None:
    """Neither name was synced."""
    path.unlink()


def unnamed(path: Path) -> None:
    """The name under which it was on its way was synced, the other was not."""
    path.rename(path.parents[4] / "incoming" / path.stem)


@pytest.mark.parametrize("damage", [emptied, zeroed, lost, unnamed, lambda path: None])
def test_what_was_committed_is_there_after_a_power_cut(tmp_path: Path, files: LocalFiles, damage):
    """Whatever the cut left of the file itself."""
    keys = {put(files, b"%d" % number * number): b"head" + b"%d" % number * number for number in range(50)}
    with closing(after_a_power_cut(tmp_path / "files", damage)) as again:
        assert contents(again) == keys


def test_a_journal_is_replayed_once(tmp_path: Path, files: LocalFiles):
    """After a start there is no journal left, and nothing for a second one to do."""
    key = put(files, b"x")
    with closing(after_a_power_cut(tmp_path / "files", lost)) as again:
        assert content(again, key) == b"headx"
        (tmp_path / "files after 1 cuts" / key).unlink()
        again.close()
        again.start()
        with pytest.raises(InstanceUnreadable):
            again.open(key)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 50_000), flip=st.none() | st.integers(0, 50_000))
def test_a_record_that_is_not_whole_is_none(tmp_path: Path, files: LocalFiles, cut: int, flip: int | None):
    """Cut off anywhere, or with any bit changed: what is before comes back, what is behind does not."""
    root = tmp_path / "files"
    for key in list(files.keys()):
        files.delete(key)
    (root / "journal" / "deletions").unlink(missing_ok=True)
    files.close()
    files.start()
    bodies = [bytes([number]) * size for number, size in enumerate((10, 5_000, 9_000, 1))]
    keys = [put(files, body) for body in bodies]
    ends = [8192, 8192 + 12288, 8192 + 12288 + 16384, 8192 + 12288 + 16384 + 8192]

    def damage(path: Path) -> None:
        path.unlink()
        if path.name not in keys[0]:
            return
        (segment,) = path.parents[4].glob("journal/*/0.segment")
        data = bytearray(segment.read_bytes()[:cut])
        if flip is not None and flip < len(data):
            data[flip] ^= 0x10
        segment.write_bytes(data)

    def is_whole(number: int) -> bool:
        start = 0 if number == 0 else ends[number - 1]
        framed = start + 8 + 8 + 4 + 4 + 8 + 64 + 32 + 4 + len(HEAD)
        body = range(start + 4096, start + 4096 + len(bodies[number]))
        is_hit = flip is not None and flip < cut and (start <= flip < framed or flip in body)
        return body.stop <= cut and not is_hit

    kept = [number for number in range(4) if all(map(is_whole, range(number + 1)))]
    with closing(after_a_power_cut(root, damage)) as again:
        assert list(again.keys()) == [keys[number] for number in kept]
        assert [content(again, keys[number]) for number in kept] == [HEAD + bodies[number] for number in kept]


DIE = """
import os, sys
from pathlib import Path
from pacs.files import incoming_file, local
incoming_file.ObjectPaths.move = lambda paths: os._exit(9)
local.LocalFiles(Path(sys.argv[1])).replay_journals()
"""


def test_a_replay_that_was_killed_can_be_done_again_before_any_server_starts(tmp_path: Path, files: LocalFiles):
    """As fsck, reindex and backup do it: what the dead one left half-restored is in nobody's way."""
    keys = {put(files, b"%d" % number): b"head%d" % number for number in range(3)}
    after = tmp_path / "after"
    shutil.copytree(tmp_path / "files", after)
    for path in after.rglob("*.dcm"):
        emptied(path)
    command = [sys.executable, "-c", DIE, str(after)]
    for _ in range(2):
        died = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.getcwd()}, timeout=60, check=False)
        assert died.returncode == 9
        assert [path.suffix for path in (after / "incoming").iterdir()] == [".again"]
    again = LocalFiles(after)
    again.replay_journals()
    assert contents(again) == keys
    assert list((after / "incoming").iterdir()) == []
    assert again.abandoned_journals() == 0


def test_what_was_deleted_does_not_come_back(tmp_path: Path, files: LocalFiles):
    """Whichever process deleted it: a server that has no journal of its own may."""
    gone, gone_elsewhere, stays = (put(files, b"x") for _ in range(3))
    files.delete(gone)
    LocalFiles(tmp_path / "files").delete(gone_elsewhere)
    with closing(after_a_power_cut(tmp_path / "files", lost)) as again:
        assert list(again.keys()) == [stays]


def test_the_journal_of_a_living_process_is_left_alone(tmp_path: Path, files: LocalFiles):
    """Another one that starts takes nothing away from it, and forgets no deletion."""
    keys = [put(files, b"x") for _ in range(2)]
    with closing(LocalFiles(tmp_path / "files")) as other:
        other.delete(keys[0])
        other.start()
    with closing(after_a_power_cut(tmp_path / "files", lost)) as again:
        assert list(again.keys()) == [keys[1]]


def test_a_large_object_is_synced_by_itself(tmp_path: Path, files: LocalFiles):
    """Its bytes are written once."""
    put(files, LARGE)
    assert not (tmp_path / "files" / "journal").exists()


def test_many_at_once_share_syncs_and_lose_nothing(tmp_path: Path, files: LocalFiles, monkeypatch):
    """Sixteen threads, fewer syncs than objects, each object its own bytes."""
    syncs: list[int] = []
    real = journal.write_at

    def slow(descriptor: int, buffers: list[memoryview], position: int) -> None:
        syncs.append(len(buffers))
        threading.Event().wait(0.002)
        real(descriptor, buffers, position)

    monkeypatch.setattr(journal, "write_at", slow)
    with ThreadPoolExecutor(16) as pool:
        keys = list(pool.map(lambda number: put(files, b"%d" % number), range(160)))
    assert len(syncs) < 100
    with closing(after_a_power_cut(tmp_path / "files", lost)) as again:
        assert [content(again, key) for key in keys] == [b"head%d" % number for number in range(160)]


class TestSegments:
    """Segments are filled, settled and used again."""

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        """Segments of eight objects."""
        monkeypatch.setattr(journal, "CAPACITY", 8 * 8192)

    def test_they_are_used_again(self, tmp_path: Path, files: LocalFiles):
        """Many times as much as fits goes through them; nothing is lost, nothing comes back twice."""
        keys = {put(files, b"%d" % number): b"head%d" % number for number in range(300)}
        segments = list((tmp_path / "files" / "journal").glob("*/*.segment"))
        assert 1 <= len(segments) <= journal.SEGMENTS
        assert all(path.stat().st_size <= 8 * 8192 for path in segments)
        with closing(after_a_power_cut(tmp_path / "files", lambda path: None)) as again:
            assert contents(again) == keys

    @pytest.mark.parametrize("by", ["syncfs", "fsync"])
    def test_a_segment_is_used_again_when_its_files_are_durable(self, tmp_path, files, monkeypatch, by: str):
        """Its objects are synced before: all at once, or one by one where the system cannot."""
        synced: list[int] = []
        inodes: dict[str, set[int]] = {"before": set(), "again": set()}
        fsync, whole = os.fsync, threading.Event()

        def one(descriptor: int) -> None:
            synced.append(os.fstat(descriptor).st_ino)
            fsync(descriptor)

        def everything(_descriptor: int) -> bool:
            whole.set()
            return by == "syncfs"

        monkeypatch.setattr(os, "fsync", one)
        monkeypatch.setattr(local, "sync_file_system", everything)
        keys = [put(files, b"x") for _ in range(9)]
        files.close()
        assert whole.is_set()
        paths = [tmp_path / "files" / key for key in keys]
        inodes["before"] = {path.stat().st_ino for path in paths} | {paths[0].parent.stat().st_ino}
        assert (inodes["before"] <= set(synced)) == (by == "fsync")

    def test_without_room_objects_are_synced_by_themselves(self, tmp_path: Path, files, monkeypatch):
        """While nothing can be settled segments run out; what is committed is durable all the same."""
        stuck = threading.Event()

        def settle(_descriptor: int) -> bool:
            assert stuck.wait(PATIENCE)
            return True

        monkeypatch.setattr(local, "sync_file_system", settle)
        keys = [put(files, b"x") for _ in range(8 * journal.SEGMENTS)]
        synced: list[int] = []
        fsync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), fsync(descriptor)))
        late = put(files, b"late")
        assert len(synced) == 2
        stuck.set()
        with closing(after_a_power_cut(tmp_path / "files", lambda path: None)) as again:
            assert sorted(again.keys()) == sorted([*keys, late])

    def test_what_could_not_be_synced_is_written_anew(self, tmp_path: Path, files: LocalFiles, monkeypatch, caplog):
        """The system tells of a failed write only once: no later sync is believed. What was deleted stays so."""
        monkeypatch.setattr(journal, "SETTLE_SECONDS", 0.2)
        syncs: list[int] = []

        def fails_once(descriptor: int) -> bool:
            syncs.append(descriptor)
            if len(syncs) == 1:
                raise OSError(errno.EIO, "Input/output error")
            return True

        monkeypatch.setattr(local, "sync_file_system", fails_once)
        keys = [put(files, b"%d" % number) for number in range(3)]
        before = {key: (tmp_path / "files" / key).stat().st_ino for key in keys}
        files.delete(keys[0])
        deadline = time.monotonic() + PATIENCE
        while any((tmp_path / "files" / key).stat().st_ino == before[key] for key in keys[1:]):
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)
        files.close()
        assert len(syncs) == 1
        assert contents(files) == {keys[1]: b"head1", keys[2]: b"head2"}
        assert "stay in the journal" in caplog.text
        assert list((tmp_path / "files" / "journal").glob("*/")) == []

    def test_what_cannot_be_settled_at_the_end_is_left_for_the_next_start(self, tmp_path: Path, files, monkeypatch):
        """A clean stop does not throw away what only the journal has."""
        key = put(files, b"x")

        def fails(_descriptor: int) -> bool:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as broken:
            broken.setattr(local, "sync_file_system", fails)
            fail(broken, "rename", errno.EIO, 0)
            files.close()
        with closing(after_a_power_cut(tmp_path / "files", lost)) as again:
            assert content(again, key) == b"headx"


@pytest.mark.parametrize("step", ["pwritev", "pwrite", "fsync", "rename"])
@pytest.mark.parametrize("after", range(3))
def test_a_step_that_fails_leaves_nothing_under_a_key(files: LocalFiles, monkeypatch, step: str, after: int):
    """StorageUnavailable or success, and the next one is taken in."""
    with monkeypatch.context() as broken:
        fail(broken, step, errno.ENOSPC, after)
        try:
            keys = [put(files, b"x")]
        except StorageUnavailable:
            keys = []
    assert list(files.keys()) == keys
    assert content(files, put(files, b"later")) == b"headlater"


def test_a_clean_stop_leaves_no_journal(tmp_path: Path, files: LocalFiles):
    """Everything is where it belongs."""
    put(files, b"x")
    assert list((tmp_path / "files" / "journal").iterdir())
    files.close()
    assert list((tmp_path / "files" / "journal").iterdir()) == []


def test_a_lone_object_is_settled_after_a_while(files: LocalFiles, monkeypatch):
    """An idle server keeps nothing in its journal that its files do not have."""
    monkeypatch.setattr(journal, "SETTLE_SECONDS", 0.05)
    settled = threading.Event()
    monkeypatch.setattr(local, "sync_file_system", lambda _descriptor: settled.set() or True)
    put(files, b"x")
    assert settled.wait(PATIENCE)


def test_a_stop_in_the_middle_of_a_moment(files: LocalFiles):
    """An object that was begun before the stop and is committed after it is synced by itself."""
    with files.create(len(HEAD), datetime.now(UTC)) as incoming:
        incoming.write(b"x")
        files.close()
        incoming.commit(HEAD)
    assert content(files, incoming.key) == b"headx"


def test_a_file_system_without_direct_writes_serves_as_well(tmp_path: Path, files: LocalFiles, monkeypatch):
    """There each write goes by the page cache, and is durable all the same."""
    real, flags = os.pwrite, []

    def refused(descriptor: int, data: bytes, position: int) -> int:
        flags.append(fcntl.fcntl(descriptor, fcntl.F_GETFL))
        if flags[-1] & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, data, position)

    monkeypatch.setattr(os, "pwrite", refused)
    key = put(files, b"x")
    assert flags[-1] & os.O_DSYNC
    assert not flags[-1] & os.O_DIRECT
    with closing(after_a_power_cut(tmp_path / "files", lost)) as again:
        assert content(again, key) == b"headx"


def test_a_head_of_more_than_a_page_is_synced_by_itself(files: LocalFiles):
    """It has no room in a record."""
    with files.create(5000, NOON) as incoming:
        incoming.write(b"x")
        incoming.commit(b"h" * 5000)
    assert content(files, incoming.key) == b"h" * 5000 + b"x"


def test_a_settled_segment_has_nothing_to_replay(tmp_path: Path, files: LocalFiles, monkeypatch):
    """What is where it belongs is not written again, nor need it be known to be deleted."""
    monkeypatch.setattr(journal, "SETTLE_SECONDS", 0.05)
    put(files, b"x")
    (segment,) = (tmp_path / "files" / "journal").glob("*/*.segment")
    deadline = time.monotonic() + PATIENCE
    while any(segment.read_bytes()[:4096]):
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def test_what_is_deleted_while_a_journal_is_replayed_does_not_come_back(tmp_path: Path, files: LocalFiles):
    """The deletion may come between the look at what was deleted and the writing."""
    keys = [put(files, b"x") for _ in range(3)]
    after = tmp_path / "after"
    shutil.copytree(tmp_path / "files", after)
    store = LocalFiles(after)
    restore = store._restore

    def meanwhile(key: str, head: bytes, body: bytes) -> None:
        if key == keys[1]:
            LocalFiles(after).delete(keys[1])
            LocalFiles(after).delete(keys[0])
        restore(key, head, body)

    store._restore = meanwhile  # type: ignore[method-assign]
    with closing(store):
        store.start()
        assert list(store.keys()) == [keys[2]]


def test_an_object_that_was_refused_is_noted_as_deleted(tmp_path: Path, files: LocalFiles, monkeypatch):
    """A write may reach the disk although the system says that it failed: what is in the journal does not come back."""
    put(files, b"before")
    settled = threading.Event()
    monkeypatch.setattr(local, "sync_file_system", lambda _descriptor: settled.wait(PATIENCE))
    real = journal.write_at

    def reaches_the_disk_and_fails(descriptor: int, buffers: list[memoryview], position: int) -> None:
        real(descriptor, buffers, position)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(journal, "write_at", reaches_the_disk_and_fails)
        with pytest.raises(StorageUnavailable):
            put(files, b"refused")
    with closing(after_a_power_cut(tmp_path / "files", lost)) as again:
        settled.set()
        assert [content(again, key) for key in again.keys()] == [b"headbefore"]  # noqa: SIM118


@pytest.mark.parametrize("call", ["open", "pwrite"])
def test_direct_writes_may_be_refused_at_once(tmp_path: Path, monkeypatch, call: str):
    """Some file systems refuse to open a file so, some to write to it."""
    real = getattr(os, call)

    def refused(*arguments, **options):
        asked = fcntl.fcntl(arguments[0], fcntl.F_GETFL) if call == "pwrite" else arguments[1]
        if asked & os.O_DIRECT:
            if call == "open":
                os.close(real(arguments[0], arguments[1] & ~os.O_DIRECT, *arguments[2:]))
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, refused)
    with closing(LocalFiles(tmp_path / "files")) as files:
        files.start()
        assert content(files, put(files, b"x")) == b"headx"
