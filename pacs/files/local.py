"""The file store in a folder: written aside, made durable, then moved to its place.

`commit` puts the head in, syncs the file, renames it from `incoming/` into the folder of its hour and syncs that
folder: after a power cut an object is whole under its key, or it is left in `incoming/` where `start` finds it.
Between `start` and `close` small objects are not synced one by one, but by way of the journal (`pacs.files.journal`).
"""

import errno
import fcntl
import io
import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Self

from pacs.errors import ConfigurationError, InstanceMissing, InstanceUnreadable, StorageUnavailable
from pacs.files.buffer_pool import SCRATCHES, SMALL, Scratch
from pacs.files.disk import Buffer, open_folder, sync_file_system, sync_folder, sync_names_of, write_at
from pacs.files.journal import LONGEST_HEAD, Journal, Record, abandoned, note_deletion, repair, replay
from pacs.files.readers import FileWindow, MemoryWindow, StoredFile, reader, unreadable
from pacs.files.store import Incoming

INCOMING = "incoming"

QUARANTINE = "quarantine"
"""The folder beside the objects for what is damaged or nobody's: nothing there is ever touched again."""

UPKEEP = "upkeep"
"""The folder beside the objects for what looking after them needs."""

PIECE = 1 << 18
"""Bytes of a stored file read at a time, few enough to be copied on from the processor's cache."""

PROBE = 1 << 16
"""Bytes written to see whether there is room."""
FEW = 32
"""How many objects are synced one by one rather than with all else that was written meanwhile."""

_KEY = re.compile(r"\d{4}/\d\d/\d\d/\d\d/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.dcm")
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class LocalFiles:
    """A `FileStore` in the folder `root`, which is made if it is not there.

    Nothing is begun while fewer than `least_free` bytes are free: whoever else needs the disk is to have them.
    """

    def __init__(self, root: Path, least_free: int = 0) -> None:
        self._root = root
        self.least_free = least_free
        self._names = TimeOrderedNames()
        self._folders = _Folders(root)
        self._journal: Journal | None = None
        self._descriptor: int | None = None
        """Of the root, open as long as there is a journal: a sync by it tells what failed since."""
        with _WRITING:
            self._folders.make(str(root / INCOMING))

    def start(self) -> int:
        """Bring to its place what the journal of a process that died has, remove what it left half-written.

        From here on small objects go by a journal of our own. How many were removed; what another process writes is
        left alone. Raises StorageUnavailable.
        """
        # In this order: what is restored may have been on its way under the same name.
        removed = self.clear(self.leftovers())
        self.replay()
        self.join()
        return removed

    def join(self) -> None:
        """As `start`, beside a process that started already: nothing is cleared. Raises StorageUnavailable."""
        with _WRITING:
            self._descriptor = open_folder(self._root)
        self._journal = Journal(self._root, self._settle, partial(repair, self._root, self._restore, self._forget))

    def close(self) -> None:
        """Settle the journal. Twice does no harm."""
        if self._journal is not None:
            with _WRITING:
                self._journal.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._journal = self._descriptor = None

    # --- what an unclean stop or somebody else left ---------------------------------------------------------------

    @contextmanager
    def alone(self, who: str) -> Iterator[None]:
        """Keep others who ask for the same away, in this process and in others, as long as the `with` block lasts.

        Raises ConfigurationError with the `who` of the one that is there, StorageUnavailable.
        """
        with _WRITING:
            self._folders.make(str(self._root / UPKEEP))
            descriptor = os.open(self._root / UPKEEP / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            with _WRITING:
                _take_lock(descriptor, who)
            yield
        finally:
            os.close(descriptor)

    def leftovers(self) -> list[str]:
        """The names of what was left half-written by processes that died. Raises StorageUnavailable."""
        with _WRITING:
            return sorted(path.name for path in (self._root / INCOMING).iterdir() if _is_abandoned(path))

    def clear(self, names: Collection[str]) -> int:
        """Remove those of these leftovers that still are some; how many. Raises StorageUnavailable."""
        with _WRITING:
            paths = [self._root / INCOMING / Path(name).name for name in names]
            return sum(_abandoned_is_gone(path) for path in paths)

    def journals(self) -> int:
        """How many processes died and left a journal. Raises StorageUnavailable."""
        with _WRITING:
            return abandoned(self._root)

    def replay(self) -> None:
        """Bring to its place what the journals of processes that died have. Raises StorageUnavailable."""
        with _WRITING:
            replay(self._root, self._restore, self._forget)

    def strays(self) -> Iterator[str]:
        """The names of files that lie among the objects and cannot be any. Raises StorageUnavailable."""
        with _WRITING:
            for name in self._names_within(self._root, ""):
                if not _KEY.fullmatch(name):
                    yield name

    def set_aside(self, name: str) -> str:
        """Move an object or a stray into the folder `quarantine`, durably; its name there, below the root.

        Raises InstanceMissing when it is not there, StorageUnavailable.
        """
        with _WRITING:
            path = self._root / name
            if not _is_below(name):
                raise InstanceMissing("No file of this store has such a name")
            if _KEY.fullmatch(name):
                note_deletion(self._root, name)
            target = _unused(self._root / QUARANTINE / name)
            self._folders.make(str(target.parent))
            try:
                path.rename(target)
            except FileNotFoundError as error:
                raise InstanceMissing("The stored file is missing") from error
            for folder in (target.parent, path.parent):
                sync_folder(folder)
            return str(target.relative_to(self._root))

    # --- objects --------------------------------------------------------------------------------------------------

    def create(self, head_size: int, arrived: datetime) -> Incoming:
        """Begin an object whose first `head_size` bytes come at commit. Raises StorageUnavailable."""
        if self.least_free:
            self._require_free()
        name = str(self._names.next(arrived))
        place = _Place(self._folders, name, f"{_hour(arrived)}/{name}.dcm")
        return _LocalIncoming(place, head_size, self._journal)

    def open(self, key: str) -> BinaryIO:
        """A seekable reader of a stored object. Raises InstanceUnreadable when it is not there or cannot be read."""
        with _reading():
            return io.BufferedReader(StoredFile(self._name(key)))

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

    def secure(self, keys: Collection[str]) -> None:
        """Have it that these objects survive a power cut, whoever wrote them. Raises StorageUnavailable."""
        with _WRITING:
            # A descriptor of its own: the system tells each of a failure once, and the journal has to hear of it too.
            descriptor = open_folder(self._root)
            try:
                self._sync(keys, descriptor if len(keys) > FEW else None)
            finally:
                os.close(descriptor)

    def delete(self, key: str) -> None:
        """Remove an object durably; one that is not there is no error. Raises StorageUnavailable."""
        with _WRITING, suppress(FileNotFoundError, InstanceUnreadable):
            path = self._path(key)
            note_deletion(self._root, key)
            path.unlink()
            sync_folder(path.parent)

    def probe(self) -> None:
        """Write something durably, and remove it. Raises StorageUnavailable when it cannot be taken."""
        name = f"{uuid.uuid4()}.probe"
        with _WRITING:
            place = _Place(self._folders, name, name)
            descriptor = place.open()
            try:
                write_at(descriptor, [bytes(PROBE)], 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
                Path(place.temporary).unlink(missing_ok=True)

    def space(self) -> tuple[int, int]:
        """How many bytes are free where the objects are, and how many there are in all. Raises StorageUnavailable."""
        with _WRITING:
            usage = shutil.disk_usage(self._root)
        return usage.free, usage.total

    def keys(self, since: datetime | None = None) -> Iterator[str]:
        """The keys of all committed objects, oldest first; with `since`, from that hour on."""
        first = _hour(since) if since is not None else ""
        with _WRITING:
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

    def _names_within(self, folder: Path, prefix: str) -> Iterator[str]:
        """The files in the folders that objects are in, and above them; folders of other names are somebody else's."""
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                if entry.name.isdecimal():
                    yield from self._names_within(folder / entry.name, f"{prefix}{entry.name}/")
            elif prefix:
                yield prefix + entry.name

    def _require_free(self) -> None:
        """See that the disk has the room that is to be left free. Raises StorageUnavailable."""
        with _WRITING:
            disk = os.statvfs(self._root)
        if disk.f_bavail * disk.f_frsize < self.least_free:
            raise StorageUnavailable("No space left for files (less than limits.free_space)")

    def _restore(self, key: str, head: bytes, body: bytes) -> None:
        """Make an object that the journal has durable by itself, whatever there is of its file.

        It is written anew: that a file can be read says nothing of the disk, and a sync tells of a failure only once.
        """
        path = self._path(key)
        place = _Place(self._folders, f"{path.stem}.again", key)
        _abandoned_is_gone(Path(place.temporary))  # of somebody who died as he did the same
        with _LocalIncoming(place, len(head)) as incoming:
            incoming.write(body)
            incoming.commit(head)

    def _forget(self, key: str) -> None:
        with suppress(FileNotFoundError):
            self._path(key).unlink()

    def _settle(self, keys: Collection[str]) -> None:
        """Make objects durable by themselves. Raises OSError."""
        self._sync(keys, self._descriptor)

    def _sync(self, keys: Collection[str], file_system: int | None) -> None:
        """Sync objects: all that is in the file system of an open file, or one by one. Raises OSError."""
        if file_system is None or not sync_file_system(file_system):
            paths = [self._root / key for key in keys]
            for path in paths:
                with suppress(FileNotFoundError), path.open("rb") as file:  # it was deleted meanwhile
                    os.fsync(file.fileno())
            for folder in {path.parent for path in paths}:
                sync_folder(folder)

    def _path(self, key: str) -> Path:
        return Path(self._name(key))

    def _name(self, key: str) -> str:
        """The path of a key: only keys this store makes have one, so that none leads out of the root."""
        if not _KEY.fullmatch(key):
            raise InstanceMissing("The index names a file that cannot be one of this store")
        return f"{self._root}/{key}"


class _Place:
    """Where one object is written, and where it goes: the texts of paths, which are cheaper than paths."""

    __slots__ = ("_folders", "final", "folder", "key", "temporary")

    def __init__(self, folders: "_Folders", name: str, key: str) -> None:
        self._folders = folders
        self.key = key
        self.temporary = f"{folders.root}/{INCOMING}/{name}"
        self.final = f"{folders.root}/{key}"
        """Its file once it is committed."""
        self.folder = self.final.rpartition("/")[0]

    def open(self) -> int:
        """Begin the temporary file; its descriptor. Raises OSError."""
        descriptor = os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # ends with the process, however that ends: see `LocalFiles.start`
        return descriptor

    def note_deletion(self) -> None:
        """Have it that no journal brings the object back. Raises OSError."""
        note_deletion(Path(self._folders.root), self.key)

    def move(self) -> None:
        """Give the file its name. Raises OSError."""
        self._folders.make(self.folder)
        os.rename(self.temporary, self.final)


class _LocalIncoming:
    """An object on its way into a `LocalFiles`: in memory while it is small, else in a file."""

    def __init__(self, place: _Place, head_size: int, journal: Journal | None = None) -> None:
        self._place = place
        self._head_size = head_size
        self._journal = journal
        self._scratch: Scratch | None = SCRATCHES.take()
        """What was written, as long as it is small."""
        self._descriptor: int | None = None
        self._is_open = True
        self._hash = sha256()
        self.size = 0
        """How many bytes were written behind the head."""

    @property
    def key(self) -> str:
        """The key the object will have."""
        return self._place.key

    @property
    def digest(self) -> str:
        """The SHA-256 of what was written behind the head, in hexadecimal."""
        return self._hash.hexdigest()

    def write(self, data: Buffer) -> None:
        """Append bytes behind the head. Raises StorageUnavailable when they cannot be taken."""
        self._require_open()
        self._hash.update(data)
        length = memoryview(data).nbytes
        if self._scratch is not None and self.size + length <= SMALL:
            self._scratch.append(data)
        else:
            with _WRITING:
                write_at(self._file(), [data], self._head_size + self.size)
            self._give_back()
        self.size += length

    def body(self) -> BinaryIO:
        """A reader of what was written so far, without the head."""
        self._require_open()
        if self._scratch is not None:
            return reader(MemoryWindow(self._scratch.content))
        return reader(FileWindow(self._file(), self._head_size, self._head_size + self.size))

    def commit(self, head: bytes) -> None:
        """Put `head` before the rest and make the whole durable. Raises StorageUnavailable, then nothing is left."""
        self._require_open()
        if len(head) != self._head_size:
            raise ValueError(f"a head of {self._head_size} bytes was announced, not {len(head)}")
        with _WRITING:
            descriptor = self._file(head)
            if self._scratch is not None and self._journal is not None:
                # In its place before it is in the journal: whatever is settled then has its name.
                self._move(partial(self._append, self._journal, self._scratch, head, descriptor))
            else:
                os.fsync(descriptor)
                self._move(lambda: sync_folder(self._place.folder))
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Discard what was not committed."""
        if self._is_open and self._descriptor is not None:
            with suppress(OSError):  # what stays in incoming/ is removed at the next start
                os.unlink(self._place.temporary)
        self._close()

    def _require_open(self) -> None:
        if not self._is_open:
            raise ValueError("the object was committed or discarded already")

    def _file(self, head: bytes = b"") -> int:
        """The descriptor of the file, with all that was written so far, and with `head` if given."""
        if self._descriptor is not None:
            write_at(self._descriptor, [head], 0)
            return self._descriptor
        self._descriptor = self._place.open()
        written = [] if self._scratch is None else [self._scratch.content]
        write_at(self._descriptor, [head, *written], 0 if head else self._head_size)
        return self._descriptor

    def _move(self, make_durable: Callable[[], None]) -> None:
        """Give the file its name, and take it back if that cannot be made durable."""
        self._place.move()
        try:
            make_durable()
        except OSError:
            with suppress(FileNotFoundError):
                os.unlink(self._place.final)
            raise

    def _append(self, journal: Journal, scratch: Scratch, head: bytes, descriptor: int) -> None:
        """Make the file durable by the journal; by itself when there is no room."""
        try:
            if len(head) <= LONGEST_HEAD and journal.append(Record(self.key, head, scratch, self._hash.digest())):
                return
        except OSError:
            with suppress(OSError):  # it may be in the journal all the same
                self._place.note_deletion()
            raise
        os.fsync(descriptor)
        sync_folder(self._place.folder)

    def _give_back(self) -> None:
        if self._scratch is not None:
            SCRATCHES.give_back(self._scratch)
            self._scratch = None

    def _close(self) -> None:
        self._is_open = False
        self._give_back()
        if self._descriptor is not None:
            with suppress(OSError):  # what was committed is durable already
                os.close(self._descriptor)
            self._descriptor = None


class _Folders:
    """Makes folders that survive a power cut: each new one is synced into its parent before anybody relies on it."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._lock = threading.Lock()
        self._durable = ""

    def make(self, folder: str) -> None:
        """See that `folder`, somewhere below the root, and all above it are there, durably. Raises OSError."""
        with self._lock:
            if folder == self._durable and os.path.isdir(folder):
                return
            path = Path(self.root)
            if not self._durable or not path.is_dir():
                path.mkdir(parents=True, exist_ok=True, mode=0o750)
                sync_names_of(path)  # some may have been made by an index beside it, or by a process that died since
            for part in Path(folder).relative_to(path).parts:
                path /= part
                path.mkdir(exist_ok=True, mode=0o750)
                sync_folder(path.parent)
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
    utc = moment.astimezone(UTC)
    return f"{utc.year:04}/{utc.month:02}/{utc.day:02}/{utc.hour:02}"


def _is_abandoned(path: Path) -> bool:
    """Whether a half-written file is of a process that died."""
    with _abandoned(path) as is_abandoned:
        return is_abandoned


def _abandoned_is_gone(path: Path) -> bool:
    """Remove a half-written file unless some process still has it: whether it was removed."""
    with _abandoned(path) as is_abandoned:
        if is_abandoned:
            path.unlink(missing_ok=True)
        return is_abandoned


@contextmanager
def _abandoned(path: Path) -> Iterator[bool]:
    """Whether no process has a half-written file; it stays so in the `with` block."""
    try:
        file = path.open("rb")
    except FileNotFoundError:  # it went to its place meanwhile
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _take_lock(descriptor: int, who: str) -> None:
    """Lock an open file until it is closed, and write there who has it. Raises ConfigurationError, OSError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "somebody else"
        raise ConfigurationError(f"{holder} is at work on these files: expected that to end first") from None
    os.ftruncate(descriptor, 0)
    write_at(descriptor, [f"`{who}` (process {os.getpid()})".encode()], 0)


def _is_below(name: str) -> bool:
    """Whether a name leads into a folder of objects, and out of none."""
    parts = name.split("/")
    return parts[0].isdecimal() and not {"", ".", ".."} & set(parts) and "\0" not in name


def _unused(path: Path) -> Path:
    """The path, with a number behind it where there is such a file already."""
    candidates = (path, *(path.with_name(f"{path.name}.{number}") for number in range(1, 1000)))
    return next(each for each in candidates if not each.exists())


class _Writing:
    """Tells what the system says against a write in a `with` block by StorageUnavailable."""

    def __enter__(self) -> None:
        """There is nothing to prepare."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            why = "No space left for files" if error.errno in _FULL else "The file store cannot be used"
            raise StorageUnavailable(f"{why} ({error.strerror})") from error


_WRITING = _Writing()


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InstanceMissing("The stored file is missing") from error
    except OSError as error:
        raise unreadable(error) from error
