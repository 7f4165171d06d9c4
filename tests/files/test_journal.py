"""The journal of small objects: committed objects survive a power cut, whatever it does to their files."""

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
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pacs.errors import InstanceUnreadable, StorageUnavailable
from pacs.files import journal, local
from pacs.files.local import LocalFiles
from tests.files.test_store import HEAD, LARGE, content, fail, put

PATIENCE = 10.0


@pytest.fixture
def files(tmp_path: Path) -> Iterator[LocalFiles]:
    """A store with a journal, in the folder `files`."""
    with closing(LocalFiles(tmp_path / "files")) as store:
        store.start()
        yield store


def after_a_power_cut(before: Path, damage: Callable[[Path], None]) -> LocalFiles:
    """Start a copy of a store in which `damage` was done to each stored file, as by a power cut."""
    after = Path(f"{before} after {len(list(before.parent.iterdir()))} cuts")
    shutil.copytree(before, after)
    for path in after.rglob("*.dcm"):
        damage(path)
    store = LocalFiles(after)
    store.start()
    return store


def contents(files: LocalFiles) -> dict[str, bytes]:
    """Return all objects of a store, by key."""
    return {key: content(files, key) for key in list(files.keys())}


def emptied(path: Path) -> None:
    """Empty a file, as ext4 may leave one that was not synced."""
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    """Fill a file with zeros, as other file systems may leave one that was not synced."""
    path.write_bytes(bytes(path.stat().st_size))


def lost(path: Path) -> None:
    """Remove a file, as when no name of it was synced."""
    path.unlink()


def unnamed(path: Path) -> None:
    """Move a file back to its temporary name, as when the rename was not synced."""
    path.rename(path.parents[4] / "incoming" / path.stem)


@pytest.mark.parametrize("damage", [emptied, zeroed, lost, unnamed, lambda path: None])
def test_committed_objects_survive_a_power_cut(tmp_path: Path, files: LocalFiles, damage):
    """Whatever the power cut left of their files."""
    keys = {put(files, b"%d" % number * number): b"head" + b"%d" % number * number for number in range(50)}
    with closing(after_a_power_cut(tmp_path / "files", damage)) as again:
        assert contents(again) == keys


def test_a_journal_is_replayed_once(tmp_path: Path, files: LocalFiles):
    """After a start there is no journal left, and a second start has nothing to replay."""
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
def test_an_incomplete_record_ends_the_journal(tmp_path: Path, files: LocalFiles, cut: int, flip: int | None):
    """With a record cut off anywhere, or with any bit changed, the objects before it are restored, and no others."""
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
incoming_file.TemporaryFile.move = lambda *_: os._exit(9)
local.LocalFiles(Path(sys.argv[1])).replay_journals()
"""


def test_a_replay_that_was_killed_can_be_repeated(tmp_path: Path, files: LocalFiles):
    """By fsck, reindex or backup, before a server starts."""
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


def test_deleted_objects_are_not_restored(tmp_path: Path, files: LocalFiles):
    """Whichever process deleted them, also one without a journal of its own."""
    gone, gone_elsewhere, stays = (put(files, b"x") for _ in range(3))
    files.delete(gone)
    LocalFiles(tmp_path / "files").delete(gone_elsewhere)
    with closing(after_a_power_cut(tmp_path / "files", lost)) as again:
        assert list(again.keys()) == [stays]


def test_the_journal_of_a_running_process_is_not_replayed(tmp_path: Path, files: LocalFiles):
    """A process that starts beside it removes neither its journal nor the notes of deletions."""
    keys = [put(files, b"x") for _ in range(2)]
    with closing(LocalFiles(tmp_path / "files")) as other:
        other.delete(keys[0])
        other.start()
    with closing(after_a_power_cut(tmp_path / "files", lost)) as again:
        assert list(again.keys()) == [keys[1]]


def test_a_large_object_is_not_written_to_the_journal(tmp_path: Path, files: LocalFiles):
    """It is synced itself, so that its bytes are written once."""
    put(files, LARGE)
    assert not (tmp_path / "files" / "journal").exists()


def test_concurrent_objects_share_syncs(tmp_path: Path, files: LocalFiles, monkeypatch):
    """Sixteen threads need fewer syncs than objects, and each object has its own bytes."""
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

    def test_segments_are_used_again(self, tmp_path: Path, files: LocalFiles):
        """Many times their capacity is written; no object is lost or restored twice."""
        keys = {put(files, b"%d" % number): b"head%d" % number for number in range(300)}
        segments = list((tmp_path / "files" / "journal").glob("*/*.segment"))
        assert 1 <= len(segments) <= journal.SEGMENTS
        assert all(path.stat().st_size <= 8 * 8192 for path in segments)
        with closing(after_a_power_cut(tmp_path / "files", lambda path: None)) as again:
            assert contents(again) == keys

    @pytest.mark.parametrize("by", ["syncfs", "fsync"])
    def test_a_segment_is_used_again_when_its_files_are_durable(self, tmp_path, files, monkeypatch, by: str):
        """Its objects are synced before: together, or one by one where the system cannot do that."""
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

    def test_without_a_free_segment_objects_are_synced_one_by_one(self, tmp_path: Path, files, monkeypatch):
        """While nothing can be settled there is no free segment; committed objects are durable as well."""
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

    def test_objects_that_could_not_be_synced_are_written_again(
        self, tmp_path: Path, files: LocalFiles, monkeypatch, caplog
    ):
        """The system reports a failed write once, so that later syncs prove nothing. Deleted objects stay deleted."""
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

    def test_objects_that_cannot_be_settled_stay_in_the_journal(self, tmp_path: Path, files, monkeypatch):
        """A clean stop keeps them for the next start."""
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
def test_a_failing_step_leaves_no_object(files: LocalFiles, monkeypatch, step: str, after: int):
    """StorageUnavailable or success; the next object is stored."""
    with monkeypatch.context() as broken:
        fail(broken, step, errno.ENOSPC, after)
        try:
            keys = [put(files, b"x")]
        except StorageUnavailable:
            keys = []
    assert list(files.keys()) == keys
    assert content(files, put(files, b"later")) == b"headlater"


def test_a_clean_stop_leaves_no_journal(tmp_path: Path, files: LocalFiles):
    """All objects are in their files."""
    put(files, b"x")
    assert list((tmp_path / "files" / "journal").iterdir())
    files.close()
    assert list((tmp_path / "files" / "journal").iterdir()) == []


def test_a_single_object_is_settled_after_a_while(files: LocalFiles, monkeypatch):
    """The journal of an idle server contains nothing that is not in the files."""
    monkeypatch.setattr(journal, "SETTLE_SECONDS", 0.05)
    settled = threading.Event()
    monkeypatch.setattr(local, "sync_file_system", lambda _descriptor: settled.set() or True)
    put(files, b"x")
    assert settled.wait(PATIENCE)


def test_an_object_committed_after_the_stop_is_durable(files: LocalFiles):
    """An object that was begun before the stop is synced one by one."""
    with files.create(len(HEAD)) as incoming:
        incoming.write(b"x")
        files.close()
        incoming.commit(HEAD)
    assert content(files, incoming.key) == b"headx"


def test_a_file_system_without_direct_writes_is_supported(tmp_path: Path, files: LocalFiles, monkeypatch):
    """There the writes go through the page cache, and are durable as well."""
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


def test_an_object_with_a_long_head_is_synced_by_itself(files: LocalFiles):
    """A head of more than a page does not fit into a record."""
    with files.create(5000) as incoming:
        incoming.write(b"x")
        incoming.commit(b"h" * 5000)
    assert content(files, incoming.key) == b"h" * 5000 + b"x"


def test_a_settled_segment_has_nothing_to_replay(tmp_path: Path, files: LocalFiles, monkeypatch):
    """Objects in durable files are not written again, and their deletion needs no note."""
    monkeypatch.setattr(journal, "SETTLE_SECONDS", 0.05)
    put(files, b"x")
    (segment,) = (tmp_path / "files" / "journal").glob("*/*.segment")
    deadline = time.monotonic() + PATIENCE
    while any(segment.read_bytes()[:4096]):
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def test_an_object_deleted_during_a_replay_is_not_restored(tmp_path: Path, files: LocalFiles):
    """The deletion may come between reading the deletions and restoring the object."""
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


def test_a_refused_object_is_noted_as_deleted(tmp_path: Path, files: LocalFiles, monkeypatch):
    """A write that failed may still be on the disk: its record must not be restored."""
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
def test_direct_writes_may_be_refused_at_open_or_at_write(tmp_path: Path, monkeypatch, call: str):
    """Some file systems refuse the open, others the first write."""
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
