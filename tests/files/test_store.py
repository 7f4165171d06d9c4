"""The file store: the contract of every store, and the guarantees of the local one (P11 in docs/checklist.md)."""

import errno
import io
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacs.errors import InstanceMissing, InstanceUnreadable, StorageUnavailable
from pacs.files.buffer_pool import SMALL
from pacs.files.local import FEW, READ, LocalFiles
from pacs.files.store import ObjectStore
from tests.files.bad_sectors import damage_after_buffer

HEAD = b"head"
LARGE = bytes(2_000_000)
"""More than is held in memory."""


@pytest.fixture(params=["folder", "folder that serves"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    """An empty file store, with and without a journal."""
    store = LocalFiles(tmp_path / "files")
    if request.param == "folder that serves":
        assert store.start() == 0
    yield store
    store.close()


def put(files: ObjectStore, *pieces: bytes) -> str:
    """Store an object and return its key."""
    with files.create(len(HEAD)) as incoming:
        for piece in pieces:
            incoming.write(piece)
        incoming.commit(HEAD)
        return incoming.key


def content(files: ObjectStore, key: str) -> bytes:
    """Return all bytes of a stored object."""
    with files.open(key) as file:
        return file.read()


class TestEveryStore:
    """What services need of any file store."""

    def test_written_bytes_are_read_after_the_head(self, files: ObjectStore):
        """Head and pieces are read in order and completely."""
        key = put(files, b"one ", b"", b"two")
        assert content(files, key) == b"headone two"
        assert files.size(key) == 11

    @settings(max_examples=50, deadline=None)
    @given(cuts=st.lists(st.tuples(st.binary(max_size=30), st.sampled_from((1, 1, 1, 5_000, 100_000))), max_size=12))
    def test_any_chunking_of_any_bytes_gives_the_same_object(self, tmp_path_factory, cuts: list[tuple[bytes, int]]):
        """Bytes out are bytes in."""
        pieces = [piece * times for piece, times in cuts]
        files = LocalFiles(tmp_path_factory.mktemp("cut"))
        assert content(files, put(files, *pieces)) == HEAD + b"".join(pieces)

    @pytest.mark.parametrize(
        "pieces", [[0], [9], [SMALL], [SMALL - 1, 1], [SMALL, 1], [*[9] * 9, SMALL], [SMALL + 1, 9]]
    )
    def test_the_digest_is_that_of_all_bytes(self, files: ObjectStore, pieces: list[int]):
        """At any time, in memory or in a file."""
        body = os.urandom(sum(pieces))
        with files.create(len(HEAD)) as incoming:
            for size in pieces:
                assert incoming.digest == sha256(body[: incoming.size]).hexdigest()
                incoming.write(body[incoming.size : incoming.size + size])
            assert incoming.digest == sha256(body).hexdigest()
            incoming.commit(HEAD)
        assert content(files, incoming.key) == HEAD + body

    @pytest.mark.parametrize("length", [0, 1, READ - 4, READ, 3 * READ + 1])
    def test_a_range_is_read_in_pieces(self, files: ObjectStore, length: int):
        """From the start to the end, in order, and no piece is too large."""
        body = os.urandom(length)
        key = put(files, body)
        pieces = list(files.pieces(key, len(HEAD) + length, len(HEAD)))
        assert b"".join(pieces) == body
        assert all(0 < len(each) <= READ for each in pieces)
        assert b"".join(files.pieces(key, len(HEAD) + length, 2)) == b"ad" + body

    def test_pieces_of_a_missing_or_changed_file_are_refused_at_the_first(self, files: ObjectStore):
        """A file that is gone or has another size is InstanceUnreadable before any piece is read."""
        key = put(files, b"0123456789")
        for wrong in (13, 15):
            with pytest.raises(InstanceUnreadable):
                next(files.pieces(key, wrong, 0))
        files.delete(key)
        with pytest.raises(InstanceUnreadable):
            next(files.pieces(key, 14, 0))

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_kind_of_buffer_is_written(self, files: ObjectStore, kind: Callable[[bytes], bytes]):
        """Fragments may be views into a receive buffer."""
        assert content(files, put(files, kind(b"abc"))) == b"headabc"

    def test_the_body_can_be_read_before_it_is_committed(self, files: ObjectStore):
        """A reader starts after the head, can seek, and does not disturb the writer."""
        with files.create(len(HEAD)) as incoming:
            incoming.write(b"0123456789")
            with incoming.body() as body:
                assert (body.tell(), body.read(3)) == (0, b"012")
                assert body.seek(-2, io.SEEK_END) == 8
                assert body.read() == b"89"
                assert body.read() == b""
            incoming.write(b"!")
            incoming.commit(HEAD)
        assert content(files, incoming.key) == b"head0123456789!"

    def test_a_stored_object_is_seekable(self, files: ObjectStore):
        """A range can be read."""
        with files.open(put(files, b"0123456789")) as file:
            file.seek(6)
            assert file.read(3) == b"234"

    @pytest.mark.parametrize(
        "read",
        [lambda file: file.read(), lambda file: file.read(50_000), lambda file: file.seek(-1, 2) and file.read(1)],
    )
    def test_a_read_that_fails_in_the_middle_is_an_error_of_the_store(self, files: ObjectStore, read):
        """Bytes read before are fine; no OSError leaves the store, however the file is read."""
        with files.open(put(files, bytes(100_000))) as file:
            damage_after_buffer(file)
            assert file.read(4) == HEAD
            with pytest.raises(InstanceUnreadable, match="Bad file descriptor"):
                read(file)

    def test_too_many_open_files_say_nothing_about_an_object(self, files: ObjectStore):
        """Opening and reading raise StorageUnavailable then, not InstanceUnreadable."""
        key = put(files, b"body")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            for read in (files.open, lambda key: next(files.pieces(key, 8, 0))):
                with pytest.raises(StorageUnavailable, match="Too many open files"):
                    read(key)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert content(files, key) == HEAD + b"body"

    def test_nothing_is_visible_before_commit(self, files: ObjectStore):
        """Until then there is no key and nothing to open."""
        with files.create(len(HEAD)) as incoming:
            incoming.write(b"x")
            assert list(files.keys()) == []
            with pytest.raises(InstanceUnreadable):
                files.open(incoming.key)
            assert incoming.key == ""

    def test_an_uncommitted_object_is_discarded(self, files: ObjectStore):
        """Leaving the block without commit, with an error or without, leaves nothing."""
        with pytest.raises(ZeroDivisionError), files.create(len(HEAD)) as incoming:
            incoming.write(b"x")
            raise ZeroDivisionError
        with files.create(len(HEAD)):
            pass
        assert list(files.keys()) == []
        files.close()
        assert files.start() == 0

    def test_a_head_of_another_length_is_refused(self, files: ObjectStore):
        """The head has to have the announced length."""
        with files.create(4) as incoming, pytest.raises(ValueError, match="4 bytes"):
            incoming.commit(b"longer")
        assert list(files.keys()) == []

    def test_keys_are_in_the_order_of_the_commits(self, files: ObjectStore):
        """Not in that of the beginnings: the object that was begun first is committed last."""
        with files.create(len(HEAD)) as first:
            others = [put(files, b"x") for _ in range(3)]
            first.commit(HEAD)
        keys = [*others, first.key]
        assert keys == sorted(keys)
        assert list(files.keys()) == keys
        assert files.newest_key() == keys[-1]

    def test_a_deleted_object_is_gone(self, files: ObjectStore):
        """It is no longer there, and deleting it again is no error."""
        key = put(files, b"x")
        files.delete(key)
        files.delete(key)
        assert list(files.keys()) == []
        for look in (files.open, files.size):
            with pytest.raises(InstanceUnreadable):
                look(key)

    @pytest.mark.parametrize(
        "key",
        ["../../etc/passwd", "/etc/passwd", "", ".", "incoming/x", "2026/11/21/12/../../../../../etc/passwd",
         "2026/11/21/12/x.dcm", "2026/11/21/12/00000000-0000-0000-0000-000000000000.dcm\n", "2026/11/21/12/\0.dcm"],
    )  # fmt: skip
    def test_p11_no_key_leads_out_of_the_store(self, files: ObjectStore, key: str):
        """Only keys made by the store are valid; any other is unreadable, and deleting it does nothing."""
        for look in (files.open, files.size):
            with pytest.raises(InstanceUnreadable):
                look(key)
        files.delete(key)

    def test_concurrent_objects_have_different_keys(self, files: ObjectStore):
        """Objects that are open at the same time do not mix."""
        incomings = [files.create(len(HEAD)) for _ in range(50)]
        for number, incoming in enumerate(incomings):
            incoming.write(b"%d" % number)
        for incoming in incomings:
            incoming.commit(HEAD)
        assert [content(files, incoming.key) for incoming in incomings] == [b"head%d" % each for each in range(50)]

    @pytest.mark.parametrize("count", [1, FEW + 1])
    def test_stored_objects_can_be_made_durable(self, files: ObjectStore, count: int):
        """Few objects and many, with a deleted one among them; their content does not change."""
        keys = [put(files, b"%d" % number) for number in range(count + 1)]
        gone = keys.pop()
        files.delete(gone)
        files.make_durable([*keys, gone])
        assert content(files, keys[-1]) == b"head%d" % (count - 1)


def tree(folder: Path) -> set[str]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class TestAFolder:
    """What the local store guarantees: no half-written object under a key, no stray file, named errors."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """The folder of a store."""
        return tmp_path / "deep" / "down" / "files"

    def test_a_start_leaves_half_written_files_of_running_processes(self, root: Path):
        """A server that starts while `pacs import` runs on the same folder removes nothing of it."""
        with LocalFiles(root).create(4) as incoming:
            incoming.write(LARGE)
            with closing(LocalFiles(root)) as other:
                assert other.start() == 0
            incoming.write(b"body")
            incoming.commit(b"head")
        assert len(list(LocalFiles(root).keys())) == 1

    @pytest.mark.parametrize("count", [1, FEW + 1])
    def test_a_failed_sync_is_reported(self, root: Path, monkeypatch: pytest.MonkeyPatch, count: int):
        """One by one and all at once: StorageUnavailable, and success once the disk works again."""
        files = LocalFiles(root)
        keys = [put(files, b"body") for _ in range(count)]

        def refuse(_descriptor: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refuse)
            patch.setattr("pacs.files.local.sync_file_system", refuse)
            with pytest.raises(StorageUnavailable):
                files.make_durable(keys)
        files.make_durable(keys)

    def test_a_start_removes_half_written_files(self, root: Path):
        """They are removed and counted, committed objects stay."""
        key = put(LocalFiles(root), b"x")
        dies = "import os, sys, pathlib; from pacs.files.local import LocalFiles\n"
        dies += "left = LocalFiles(pathlib.Path(sys.argv[1])).create(4)\n"
        dies += "left.write(bytes(2_000_000)); os._exit(9)"
        assert subprocess.run([sys.executable, "-c", dies, str(root)], check=False).returncode == 9
        for removed in (1, 0):
            with closing(LocalFiles(root)) as again:
                assert again.start() == removed
        assert tree(root) == {key}

    def test_files_are_readable_by_owner_and_group_only(self, root: Path):
        """Patient data is not readable by other users of the machine."""
        key = put(LocalFiles(root), b"x")
        assert stat.S_IMODE((root / key).stat().st_mode) & 0o007 == 0
        assert stat.S_IMODE(root.stat().st_mode) & 0o007 == 0

    def test_foreign_files_have_no_key(self, root: Path):
        """Files and links that the store did not make are not listed."""
        key = put(LocalFiles(root), b"x")
        (root / "README").write_text("hello")
        (root / key).parent.joinpath("notes.txt").write_text("hello")
        (root / "2025").symlink_to(root / "2026")
        assert list(LocalFiles(root).keys()) == [key]

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EDQUOT])
    @pytest.mark.parametrize("step", ["pwritev", "fsync", "open"])
    @pytest.mark.parametrize("after", range(4))
    def test_a_failing_step_leaves_nothing(self, root: Path, monkeypatch, code: int, step: str, after: int):
        """Whichever system call fails, and however often it succeeded before: StorageUnavailable or success."""
        files = LocalFiles(root)
        calls = fail(monkeypatch, step, code, after)
        try:
            put(files, b"x", LARGE)
        except StorageUnavailable as error:
            comment = error.comment
        else:
            assert next(calls) <= after
            assert len(tree(root)) == 1
            return
        assert ("space" in comment) == (code in (errno.ENOSPC, errno.EDQUOT))
        assert len(comment) <= 64
        assert tree(root) == set()

    def test_the_order_is_sync_the_file_rename_sync_the_folder(self, root: Path, monkeypatch):
        """0000 means durable: the file is synced before it has its name, its folder afterwards."""
        files = LocalFiles(root)
        put(files, b"x")
        steps: list[str] = []
        fsync, rename = os.fsync, os.rename

        def synced(descriptor: int) -> None:
            steps.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
            fsync(descriptor)

        def renamed(path: str, target: str) -> None:
            steps.append("rename")
            rename(path, target)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "rename", renamed)
        put(files, b"x")
        assert steps == ["sync file", "rename", "sync folder"]

    def test_a_new_folder_is_durable_before_a_file_is_in_it(self, root: Path, monkeypatch):
        """Each new folder is synced into its parent before a file is renamed into it."""
        files = LocalFiles(root)
        synced: list[Path] = []
        monkeypatch.setattr("pacs.files.incoming_file.sync_folder", lambda folder: synced.append(Path(folder)))
        key = put(files, b"x")
        hour = (root / key).parent
        assert synced == [root, hour.parents[2], hour.parents[1], hour.parent, hour]

    def test_the_parents_of_a_store_are_durable(self, tmp_path: Path, monkeypatch):
        """Each folder above it is synced, whichever process made it, and again by the next start."""
        for _ in range(2):
            synced: list[Path] = []
            with monkeypatch.context() as watched:
                watched.setattr("pacs.files.disk.sync_folder", lambda folder, synced=synced: synced.append(folder))
                LocalFiles(tmp_path / "data" / "files")
            assert synced[:3] == [tmp_path / "data", tmp_path, tmp_path.parent]

    def test_a_store_in_an_impossible_place_is_unavailable(self, tmp_path: Path):
        """A file in the place of a folder gives a named error."""
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageUnavailable):
            LocalFiles(tmp_path / "file" / "store")

    def test_a_partial_write_is_continued(self, root: Path, monkeypatch):
        """The system may write fewer bytes than it was given."""
        monkeypatch.setattr(os, "pwritev", lambda fd, buffers, at: os.pwrite(fd, b"".join(buffers)[:3], at))
        files = LocalFiles(root)
        assert content(files, put(files, b"0123456789")) == b"head0123456789"


def fail(monkeypatch: pytest.MonkeyPatch, step: str, code: int, after: int) -> Iterator[int]:
    """Make a system call fail after `after` successes; return a function that counts its calls."""
    real = getattr(os, step)
    count = 0

    def failing(*arguments, **options):
        nonlocal count
        count += 1
        if count > after and not (step == "open" and arguments[1] & os.O_DIRECTORY and after == 0):
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    monkeypatch.setattr(os, step, failing)

    def counted() -> Iterator[int]:
        while True:
            yield count

    return counted()


class TestFilesThatChange:
    """Files that are changed or deleted while they are read."""

    def test_a_file_that_shrinks_between_two_pieces_is_unreadable(self, tmp_path: Path):
        """The first pieces are read, then InstanceUnreadable is raised."""
        files = LocalFiles(tmp_path)
        key = put(files, bytes(3 * READ))
        pieces = files.pieces(key, len(HEAD) + 3 * READ, 0)
        assert len(next(pieces)) == READ
        os.truncate(tmp_path / key, READ + 10)
        assert len(next(pieces)) == 10
        with pytest.raises(InstanceUnreadable):
            next(pieces)

    def test_an_open_file_is_read_to_its_end_after_its_deletion(self, tmp_path: Path):
        """Deleting an instance does not disturb its sender."""
        files = LocalFiles(tmp_path)
        key = put(files, bytes(2 * READ))
        pieces = files.pieces(key, len(HEAD) + 2 * READ, 0)
        first = len(next(pieces))
        files.delete(key)
        assert first + sum(map(len, pieces)) == len(HEAD) + 2 * READ

    @pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
    def test_an_abandoned_read_closes_its_file(self, tmp_path: Path):
        """Closing the iterator closes the file."""
        files = LocalFiles(tmp_path)
        key = put(files, bytes(2 * READ))
        before = len(os.listdir("/proc/self/fd"))
        pieces = files.pieces(key, len(HEAD) + 2 * READ, 0)
        next(pieces)
        assert len(os.listdir("/proc/self/fd")) == before + 1
        del pieces
        assert len(os.listdir("/proc/self/fd")) == before

    @pytest.mark.parametrize(
        "name", ["../outside", "2026/../../outside", "/etc/passwd", "2026//x", "2026/./x", "incoming/x", "", "2026/\0"]
    )
    def test_p11_only_files_among_the_objects_are_quarantined(self, tmp_path: Path, name: str):
        """A name that leads elsewhere is not that of a file of the store."""
        (tmp_path / "outside").write_text("theirs")
        files = LocalFiles(tmp_path / "files")
        put(files, b"x")
        (tmp_path / "files" / "incoming" / "x").write_text("half")
        with pytest.raises(InstanceMissing):
            files.quarantine(name)
        assert (tmp_path / "outside").exists()
        assert (tmp_path / "files" / "incoming" / "x").exists()

    def test_a_quarantined_object_is_gone_and_overwrites_no_other(self, tmp_path: Path):
        """The same key twice: both files are in the quarantine, and no journal restores one."""
        files = LocalFiles(tmp_path)
        files.start()
        key = put(files, b"one")
        content = (tmp_path / key).read_bytes()
        assert files.quarantine(key) == f"quarantine/{key}"
        (tmp_path / key).write_bytes(b"another")
        assert files.quarantine(key) == f"quarantine/{key}.1"
        files.close()
        assert (tmp_path / "quarantine" / key).read_bytes() == content
        assert (list(files.keys()), list(files.strays())) == ([], [])
        with pytest.raises(InstanceMissing):
            files.quarantine(key)
