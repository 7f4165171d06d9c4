"""The file store in a folder: written aside, made durable, then moved to its place.

`commit` puts the head in, syncs the file, renames it from `incoming/` into the folder of its hour and syncs that
folder: after a power cut an object is whole under its key, or it is left in `incoming/` where `sweep` finds it.
"""

import errno
import fcntl
import io
import os
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Self, cast

from pacs.errors import InstanceUnreadable, StorageUnavailable
from pacs.files.store import Incoming

INCOMING = "incoming"

PIECE = 1 << 18
"""Bytes of a stored file read at a time, few enough to be copied on from the processor's cache."""

_KEY = re.compile(r"\d{4}/\d\d/\d\d/\d\d/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.dcm")
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class LocalFiles:
    """A `FileStore` in the folder `root`, which is made if it is not there."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names = TimeOrderedNames()
        self._folders = _Folders(root)
        with _writing():
            self._folders.make(root / INCOMING)

    def create(self, head_size: int, arrived: datetime) -> Incoming:
        """Begin an object whose first `head_size` bytes come at commit. Raises StorageUnavailable."""
        name = self._names.next(arrived)
        key = f"{_hour(arrived)}/{name}.dcm"
        with _writing():
            return _LocalIncoming(self._folders, self._root / INCOMING / str(name), self._root / key, key, head_size)

    def open(self, key: str) -> BinaryIO:
        """A seekable reader of a stored object. Raises InstanceUnreadable when it is not there or cannot be read."""
        with _reading():
            return self._path(key).open("rb")

    def pieces(self, key: str, size: int, start: int) -> Iterator[bytes]:
        """An object of `size` bytes from `start` on, piece by piece as they are asked for; the first opens it.

        Raises InstanceUnreadable when it is not there, is not so long, or cannot be read. A file that shrinks while it
        is read is one that cannot: nothing is mapped.
        """
        with _reading():
            descriptor = os.open(self._name(key), os.O_RDONLY)
            try:
                if os.fstat(descriptor).st_size != size:
                    raise InstanceUnreadable("The stored file has not the length it had")
                while start < size:
                    piece = os.pread(descriptor, min(PIECE, size - start), start)
                    if not piece:
                        raise InstanceUnreadable("The stored file ended too early")
                    start += len(piece)
                    yield piece
            finally:
                os.close(descriptor)

    def size(self, key: str) -> int:
        """The object's length in bytes. Raises InstanceUnreadable."""
        with _reading():
            return self._path(key).stat().st_size

    def delete(self, key: str) -> None:
        """Remove an object durably; one that is not there is no error. Raises StorageUnavailable."""
        with _writing(), suppress(FileNotFoundError, InstanceUnreadable):
            path = self._path(key)
            path.unlink()
            _sync_folder(path.parent)

    def keys(self, since: datetime | None = None) -> Iterator[str]:
        """The keys of all committed objects, oldest first; with `since`, from that hour on."""
        first = _hour(since) if since is not None else ""
        with _writing():
            for key in self._keys_within(self._root, "", first):
                if _KEY.fullmatch(key):
                    yield key

    def _keys_within(self, folder: Path, prefix: str, first: str) -> Iterator[str]:
        """Everything four folders down, folder by folder in order of its name, never a link."""
        depth = prefix.count("/")
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            key = prefix + entry.name
            if depth == 4:
                yield key
            elif entry.name.isdecimal() and entry.is_dir(follow_symlinks=False) and key >= first[: len(key)]:
                yield from self._keys_within(folder / entry.name, key + "/", first)

    def sweep(self) -> int:
        """Remove what an unclean stop left half-written; return how many. What another process writes is left alone."""
        with _writing():
            return sum(_abandoned_is_gone(path) for path in (self._root / INCOMING).iterdir())

    def _path(self, key: str) -> Path:
        return Path(self._name(key))

    def _name(self, key: str) -> str:
        """The path of a key: only keys this store makes have one, so that none leads out of the root."""
        if not _KEY.fullmatch(key):
            raise InstanceUnreadable("The index names a file that cannot be one of this store")
        return f"{self._root}/{key}"


class _LocalIncoming:
    """An object on its way into a `LocalFiles`."""

    def __init__(self, folders: "_Folders", temporary: Path, final: Path, key: str, head_size: int) -> None:
        self._folders = folders
        self._temporary = temporary
        self._final = final
        self._key = key
        self._head_size = self._end = head_size
        self._file: io.FileIO | None = io.FileIO(temporary, "x+", opener=_for_us_and_our_group)
        fcntl.flock(self._file, fcntl.LOCK_SH)  # ends with the process, however that ends: see `sweep`

    @property
    def key(self) -> str:
        """The key the object will have."""
        return self._key

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes behind the head. Raises StorageUnavailable when they cannot be taken."""
        with _writing():
            self._end += _put(self._open_file(), data, self._end)

    def body(self) -> BinaryIO:
        """A reader of what was written so far, without the head."""
        return cast(
            BinaryIO, io.BufferedReader(_Window(self._open_file().fileno(), self._head_size, self._end), 1 << 16)
        )

    def commit(self, head: bytes) -> None:
        """Put `head` before the rest and make the whole durable. Raises StorageUnavailable, then nothing is left."""
        if len(head) != self._head_size:
            raise ValueError(f"a head of {self._head_size} bytes was announced, not {len(head)}")
        file = self._open_file()
        with _writing():
            _put(file, head, 0)
            os.fsync(file.fileno())
            self._folders.make(self._final.parent)
            self._temporary.rename(self._final)
            try:
                _sync_folder(self._final.parent)
            except OSError:
                self._final.unlink(missing_ok=True)
                raise
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Discard what was not committed."""
        if self._file is None:
            return
        self._close()
        with suppress(OSError):  # what stays in incoming/ is swept at the next start
            self._temporary.unlink()

    def _open_file(self) -> io.FileIO:
        if self._file is None:
            raise ValueError("the object was committed or discarded already")
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _Window(io.RawIOBase):
    """A part of an open file, from `start` to `end`, with a position of its own."""

    def __init__(self, descriptor: int, start: int, end: int) -> None:
        self._descriptor = descriptor
        self._start = start
        self._size = end - start
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        length = max(0, min(len(buffer), self._size - self._position))
        with _writing():
            count = os.preadv(self._descriptor, [memoryview(buffer)[:length]], self._start + self._position)
        self._position += count
        return count


class _Folders:
    """Makes folders that survive a power cut: each new one is synced into its parent before anybody relies on it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._durable: Path | None = None

    def make(self, folder: Path) -> None:
        """See that `folder` and all above it are there, durably."""
        with self._lock:
            if folder == self._durable and folder.is_dir():
                return
            if not self._root.is_dir():
                self._root.mkdir(parents=True, exist_ok=True, mode=0o750)
                _sync_folder(self._root.parent)
            path = self._root
            for part in folder.relative_to(self._root).parts:
                path /= part
                path.mkdir(exist_ok=True, mode=0o750)
                _sync_folder(path.parent)
            self._durable = folder


class TimeOrderedNames:
    """UUIDs of version 7 (RFC 9562) that grow from one to the next within this process, whatever the clock does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next(self, at: datetime) -> uuid.UUID:
        """A new one for the moment `at`: milliseconds, then 12 bits that count on within one."""
        milliseconds = int(at.timestamp() * 1000)
        with self._lock:
            self._last = max(self._last + 1, milliseconds << 12)
            stamp = self._last
        tail = int.from_bytes(os.urandom(8), "big") >> 2
        return uuid.UUID(int=stamp >> 12 << 80 | 7 << 76 | (stamp & 0xFFF) << 64 | 2 << 62 | tail)


def _hour(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y/%m/%d/%H")


def _for_us_and_our_group(path: str, flags: int) -> int:
    return os.open(path, flags, 0o640)


def _put(file: io.FileIO, data: bytes | bytearray | memoryview, position: int) -> int:
    """Write all of `data` at `position`; return how many bytes that were."""
    rest = memoryview(data).cast("B")
    while rest:
        written = os.pwrite(file.fileno(), rest, position)
        position += written
        rest = rest[written:]
    return memoryview(data).nbytes


def _abandoned_is_gone(path: Path) -> bool:
    """Remove a half-written file unless some process still has it: whether it was removed."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink(missing_ok=True)
        return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = "No space left for files" if error.errno in _FULL else "The file store cannot be used"
        raise StorageUnavailable(f"{why} ({error.strerror})") from error


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InstanceUnreadable("The stored file is missing") from error
    except OSError as error:
        raise InstanceUnreadable(f"The stored file cannot be read ({error.strerror})") from error
