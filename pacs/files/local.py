"""The file store in a local folder, and the upkeep of that folder."""

import errno
import fcntl
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from pacs.errors import ConfigurationError, InstanceMissing, InstanceUnreadable, StorageUnavailable
from pacs.files.copies import Copies
from pacs.files.disk import open_folder, sync_file, sync_file_system, sync_folder, write_at, write_text
from pacs.files.hour_marks import HourMarks
from pacs.files.incoming_file import DurableFolders, IncomingFile, TemporaryFile, is_abandoned, remove_abandoned
from pacs.files.incomplete_note import IncompleteNote
from pacs.files.io_errors import READING, WRITING
from pacs.files.journal import FOLDER as JOURNAL
from pacs.files.journal import Journal, count_abandoned, note_deletion, replay, restore_records
from pacs.files.layout import (
    INCOMING,
    INCOMPLETE,
    KEY,
    QUARANTINE,
    RESTORING,
    RUNNING,
    UPKEEP,
    hour_of,
    is_among_objects,
    start_of,
)
from pacs.files.object_keys import KeyClock, ObjectKeys
from pacs.files.object_lock import lock_files
from pacs.files.process_lock import exclusive, temporary_folder
from pacs.files.readers import open_stored
from pacs.files.running_marker import RunningMarker, is_any_running, running_clock, running_servers
from pacs.files.store import IncomingObject
from pacs.support import private

PROBE_SIZE = 1 << 16
"""Bytes written by `probe`."""

FREE_SECONDS = 1.0
"""The seconds between two looks at the free space while there is enough."""

READ = 1 << 20
"""Bytes of an object that `pieces` reads at once: most objects whole."""

FEW = 32
"""Largest number of objects that are synced one by one, rather than by a sync of the whole file system."""

LOCK_SECONDS = 30.0
"""How long the lock of an object is waited for."""

_NO_LINKS = frozenset((errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP))


class LocalFiles:
    """A `FolderStore` in the folder `root`, which is made if need be.

    Between `start` or `join` and `close` small objects are made durable through a journal, else one by one. No object
    is begun while fewer than `least_free` bytes are free, so that other programs on the disk have them.
    """

    def __init__(self, root: Path, least_free: int = 0) -> None:
        self._root = root
        self.least_free = least_free
        self._seen_free = 0, 0.0
        """The least number of bytes that was found to be free, and the monotonic time until which that is believed."""
        self._folders = DurableFolders(root)
        self._drawing = threading.Lock()
        self._keys: ObjectKeys | None = None
        """Once a key is drawn, or a server runs."""
        self._marks: HourMarks | None = None
        self._journal: Journal | None = None
        self._descriptor: int | None = None
        """Of the root, open while there is a journal: its sync reports write errors since it was opened."""
        with WRITING:
            self._folders.create(str(root / INCOMING))

    # --- life cycle --------------------------------------------------------------------------------------------------

    def start(self) -> int:
        """Clean up after processes that died, and begin a journal. Return the number of half-written objects removed.

        Files of processes that live are left alone. Raises StorageUnavailable.
        """
        self._require_writable()
        # In this order: a replay writes under the names of leftovers.
        removed = self.remove_leftovers(self.leftovers())
        self.replay_journals()
        self._keys = self._new_keys()
        self._begin_journal()
        return removed

    def join(self, started: "LocalFiles") -> None:
        """Begin a journal in a worker of the process in which `started` is; their keys are in one order.

        Raises StorageUnavailable.
        """
        if started._keys is not None:
            self._keys = ObjectKeys(started._keys.clock)
        self._begin_journal()

    def _begin_journal(self) -> None:
        with WRITING:
            self._descriptor = open_folder(self._root)
        rewrite = partial(restore_records, self._root, self._restore, self._forget)
        self._journal = Journal(self._root, self._settle, rewrite)

    def close(self) -> None:
        """Settle the journal and end it. Closing twice does no harm."""
        if self._marks is not None:
            self._marks.close()
        if self._journal is not None:
            with WRITING:
                self._journal.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._journal = self._descriptor = None

    def start_lock(self) -> AbstractContextManager[None]:
        """Exclude other processes that start in the `with` block; wait for them. Raises StorageUnavailable."""
        return exclusive(self._root)

    # --- objects -----------------------------------------------------------------------------------------------------

    def create(self, head_size: int) -> IncomingObject:
        """Begin an object whose first `head_size` bytes are given at commit. Raises StorageUnavailable."""
        self.require_free()
        temporary = TemporaryFile(self._folders, str(uuid.uuid4()))
        return IncomingFile(temporary, head_size, self._draw_key, self._journal, self._marks)

    def open(self, key: str) -> BinaryIO:
        """Open an object as a seekable file.

        This and reading from the file raise InstanceUnreadable when the object is missing or cannot be read.
        """
        return open_stored(self._path_of(key))

    def pieces(self, key: str, size: int, start: int) -> Iterator[bytes]:
        """Read an object of `size` bytes from position `start` on, in pieces. The first piece opens it.

        Raises InstanceUnreadable when the object is missing, has another size, or cannot be read. The file is not
        mapped, so that one that is cut off meanwhile is an error and no signal.
        """
        with READING:
            descriptor = os.open(self._path_of(key), os.O_RDONLY)
            try:
                if os.fstat(descriptor).st_size != size:
                    raise InstanceUnreadable("The size of the stored file has changed")
                while start < size:
                    piece = os.pread(descriptor, min(READ, size - start), start)
                    if not piece:
                        raise InstanceUnreadable("The stored file ended too early")
                    start += len(piece)
                    yield piece
            finally:
                os.close(descriptor)

    def size(self, key: str) -> int:
        """Return the size of an object in bytes. Raises InstanceUnreadable."""
        with READING:
            return os.stat(self._path_of(key)).st_size

    @contextmanager
    def lock(self, keys: Collection[str]) -> Iterator[set[str]]:
        """Hold the locks of objects in the `with` block; yield the keys of those that are there and can be opened.

        Raises InstanceInUse, StorageUnavailable.
        """
        paths = {f"{self._root}/{key}": key for key in keys if KEY.fullmatch(key)}
        with lock_files(paths, LOCK_SECONDS) as locked:
            yield {paths[path] for path in locked}

    def delete(self, key: str) -> None:
        """Delete an object durably, if it is there. Raises StorageUnavailable."""
        with WRITING, suppress(FileNotFoundError, InstanceUnreadable):
            path = Path(self._path_of(key))
            note_deletion(self._root, key)
            path.unlink()
            sync_folder(path.parent)

    def make_durable(self, keys: Collection[str]) -> None:
        """Make objects survive a power cut, whichever process wrote them. Raises StorageUnavailable."""
        with WRITING:
            # A descriptor of its own: the system reports a write error once to each, and the journal needs it too.
            descriptor = open_folder(self._root)
            try:
                self._sync(keys, descriptor if len(keys) > FEW else None)
            finally:
                os.close(descriptor)

    def keys(self, since: str = "") -> Iterator[str]:
        """Yield the keys of all committed objects, oldest first; with `since`, a key, those of its hour and later."""
        with WRITING:
            for key in _keys_within(self._root, "", hour_of(since)):
                if KEY.fullmatch(key):
                    yield key

    def keys_of_hours(self, hours: Collection[str]) -> Iterator[str]:
        """Yield the keys of these hours, oldest first. Raises StorageUnavailable."""
        for each in sorted(hours):
            with WRITING, suppress(FileNotFoundError):
                yield from filter(KEY.fullmatch, _keys_within(self._root / each, f"{each}/", ""))

    def newest(self, count: int) -> list[str]:
        """Return the keys of the newest objects, newest first. Raises StorageUnavailable."""
        with WRITING:
            return list(islice(filter(KEY.fullmatch, _keys_within(self._root, "", "", is_reversed=True)), count))

    def incomplete_note(self) -> IncompleteNote:
        """Return the note that the index lacks objects of this store."""
        return IncompleteNote(self._root / INCOMPLETE)

    def newest_key(self) -> str:
        """Return the largest key, '' for none. Raises StorageUnavailable."""
        with WRITING:
            keys = filter(KEY.fullmatch, _keys_within(self._root, "", "", is_reversed=True))
            return next((key for key in keys if _is_hour(hour_of(key))), "")

    def space(self) -> tuple[int, int]:
        """Return the free bytes and the total bytes of the disk. Raises StorageUnavailable."""
        with WRITING:
            usage = shutil.disk_usage(self._root)
        return usage.free, usage.total

    def require_free(self) -> None:
        """Raise StorageUnavailable while fewer bytes are free than must stay free for other programs."""
        limit, until = self._seen_free
        if not self.least_free or (limit == self.least_free and time.monotonic() < until):
            return
        with WRITING:
            disk = os.statvfs(self._root)
        if disk.f_bavail * disk.f_frsize < self.least_free:
            raise StorageUnavailable("No space left for files (less than limits.free_space)")
        self._seen_free = self.least_free, time.monotonic() + FREE_SECONDS

    def probe(self) -> None:
        """Write some bytes durably and remove them, as a health check. Raises StorageUnavailable."""
        self.require_free()
        self._require_writable()
        name = f"{uuid.uuid4()}.probe"
        with WRITING:
            file = TemporaryFile(self._folders, name)
            descriptor = file.create()
            try:
                write_at(descriptor, [bytes(PROBE_SIZE)], 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
                with suppress(FileNotFoundError):
                    file.remove()

    def _require_writable(self) -> None:
        """Check the rights on the folders in which a server makes files and folders. Raises StorageUnavailable."""
        for name in ("", INCOMING, JOURNAL, RUNNING, UPKEEP):
            path = self._root / name
            if path.exists() and not os.access(path, os.W_OK | os.X_OK):
                named = f"folder {name!r} of the file store" if name else "folder of the file store"
                raise StorageUnavailable(f"The {named} is not writable")

    def _draw_key(self) -> str:
        """Return the key of an object that is complete. Raises StorageUnavailable."""
        with self._drawing:
            if self._keys is None:
                self._keys = self._new_keys()
        return self._keys.draw()

    def _new_keys(self) -> ObjectKeys:
        """Return keys by the clock of a running server, or by a new one. Raises StorageUnavailable."""
        with WRITING:
            clock = running_clock(self._root / RUNNING)
        return ObjectKeys(clock or KeyClock.after(self.newest_key()))

    def _path_of(self, key: str) -> str:
        """Return the path of a key. Only keys of this store have one, so that none leads out of the root."""
        if not KEY.fullmatch(key):
            raise InstanceMissing("The index names a file that cannot be one of this store")
        return f"{self._root}/{key}"

    # --- upkeep: locks -----------------------------------------------------------------------------------------------

    @contextmanager
    def maintenance_lock(self, holder: str) -> Iterator[None]:
        """Exclude other maintenance commands in the `with` block, of this process and of others.

        Raises ConfigurationError that names the other `holder`, StorageUnavailable.
        """
        with WRITING:
            self._folders.create(str(self._root / UPKEEP))
            descriptor = os.open(self._root / UPKEEP / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, private.FILE)
        try:
            with WRITING:
                _lock_as(descriptor, holder)
            yield
        finally:
            os.close(descriptor)

    def mark_running(self) -> RunningMarker:
        """Mark the store, which was started, as used by a server. Raises StorageUnavailable."""
        if self._keys is None:
            self._keys = self._new_keys()
        return RunningMarker(self._root / RUNNING, self._keys.clock)

    def mark_hours(self, marker: RunningMarker, make_rows_durable: Callable[[], bool]) -> None:
        """Mark the hours of objects that are begun from here on, until `make_rows_durable` returns True."""
        self._marks = HourMarks(marker.folder, make_rows_durable)

    def running_servers(self) -> list[str]:
        """Return what the servers that use the store say about themselves. Raises StorageUnavailable."""
        return running_servers(self._root / RUNNING)

    def is_running(self) -> bool:
        """Whether a server uses the store. Raises StorageUnavailable."""
        return is_any_running(self._root / RUNNING)

    # --- upkeep: after an unclean stop -------------------------------------------------------------------------------

    def leftovers(self) -> list[str]:
        """Return the names of files that processes which died left half-written. Raises StorageUnavailable."""
        with WRITING:
            return sorted(path.name for path in (self._root / INCOMING).iterdir() if is_abandoned(path))

    def remove_leftovers(self, names: Collection[str]) -> int:
        """Remove these if they still are leftovers, and return how many were. Raises StorageUnavailable."""
        with WRITING:
            return sum(remove_abandoned(self._root / INCOMING / Path(name).name) for name in names)

    def abandoned_journals(self) -> int:
        """Count the journals of processes that died. Raises StorageUnavailable."""
        with WRITING:
            return count_abandoned(self._root)

    def replay_journals(self) -> None:
        """Restore the objects in the journals of processes that died. Raises StorageUnavailable."""
        with WRITING:
            replay(self._root, self._restore, self._forget)

    def _restore(self, key: str, head: bytes, body: bytes) -> None:
        """Write an object of a journal durably by itself, whatever there is of its file.

        It is written anew even if its file can be read: that says nothing of the disk, and a sync reports an error only
        once.
        """
        temporary = TemporaryFile(self._folders, f"{Path(self._path_of(key)).stem}.again")
        remove_abandoned(Path(temporary.path))  # of a process that died in the same place
        with self.lock([key]), IncomingFile(temporary, len(head), lambda: key) as incoming:
            incoming.write(body)
            incoming.commit(head)

    def _forget(self, key: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path_of(key))

    def _settle(self, keys: Collection[str]) -> None:
        """Make objects of the journal durable by themselves. Raises OSError."""
        self._sync(keys, self._descriptor)

    def _sync(self, keys: Collection[str], file_system: int | None) -> None:
        """Sync objects: with the whole `file_system` of a descriptor, or one by one. Raises OSError."""
        if file_system is None or not sync_file_system(file_system):
            paths = [self._root / key for key in keys]
            for path in paths:
                with suppress(FileNotFoundError):  # deleted meanwhile
                    sync_file(path)
            for folder in {path.parent for path in paths}:
                sync_folder(folder)

    # --- upkeep: foreign and damaged files ---------------------------------------------------------------------------

    def strays(self) -> Iterator[str]:
        """Yield the names of files among the objects whose names are no keys. Raises StorageUnavailable."""
        with WRITING:
            for name in _names_within(self._root, ""):
                if not KEY.fullmatch(name):
                    yield name

    def quarantine(self, name: str) -> str:
        """Move an object or a stray into the quarantine, durably, and return its new name below the root.

        Raises InstanceMissing when it is not there, StorageUnavailable.
        """
        with WRITING:
            path = self._root / name
            if not is_among_objects(name):
                raise InstanceMissing("No file of this store has such a name")
            if KEY.fullmatch(name):
                note_deletion(self._root, name)
            target = _unused(self._root / QUARANTINE / name)
            self._folders.create(str(target.parent))
            try:
                path.rename(target)
            except FileNotFoundError as error:
                raise InstanceMissing("The stored file is missing") from error
            for folder in (target.parent, path.parent):
                sync_folder(folder)
            return str(target.relative_to(self._root))

    # --- upkeep: for backup and temporary indexes --------------------------------------------------------------------

    def scratch_folder(self) -> AbstractContextManager[Path]:
        """Create a temporary folder on the same disk, for a `with` block. Raises StorageUnavailable."""
        return temporary_folder(self._root / UPKEEP)

    def contains(self, folder: Path) -> bool:
        """Whether `folder` is that of the store, or is in it."""
        return self._root.absolute() in (folder, *folder.parents)

    def link(self, key: str, target: Path) -> None:
        """Create the hard link `target` to an object. Raises StorageUnavailable, InstanceMissing."""
        with WRITING:
            try:
                os.link(self._path_of(key), target)
            except OSError as error:
                if error.errno in _NO_LINKS:
                    why = f"the folder of the backup cannot have hard links to these files ({error.strerror})"
                    raise StorageUnavailable(f"{why}: run the command without --link") from error
                raise

    def copies(self) -> Copies:
        """Return a writer of objects that keep the keys they have in a backup."""
        return Copies(self._root)

    def interrupted_restore(self) -> str:
        """Return the identification of the backup whose restore did not end; '' for none. Raises StorageUnavailable."""
        with WRITING, suppress(FileNotFoundError):
            return (self._root / RESTORING).read_text("utf-8")
        return ""

    def begin_restore(self, backup: str) -> None:
        """Note durably that a restore of the backup with this identification has begun. Raises StorageUnavailable."""
        with WRITING:
            write_text(self._root / RESTORING, backup)

    def end_restore(self) -> None:
        """Note durably that the restore is complete. Raises StorageUnavailable."""
        with WRITING:
            (self._root / RESTORING).unlink()
            sync_folder(self._root)


def _keys_within(folder: Path, prefix: str, first: str, *, is_reversed: bool = False) -> Iterator[str]:
    """Yield everything four folders down, sorted by name, without following links."""
    depth = prefix.count("/")
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name, reverse=is_reversed):
        key = prefix + entry.name
        if depth == 4:
            yield key
        elif entry.name.isdecimal() and entry.is_dir(follow_symlinks=False) and key >= first[: len(key)]:
            yield from _keys_within(folder / entry.name, key + "/", first, is_reversed=is_reversed)


def _is_hour(folder: str) -> bool:
    """Whether there is such an hour, unlike `2026/13/32/25`."""
    try:
        return bool(start_of(folder))
    except ValueError:
        return False


def _names_within(folder: Path, prefix: str) -> Iterator[str]:
    """Yield the files in the folders of objects and above them; folders with other names are not the store's."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            if entry.name.isdecimal():
                yield from _names_within(folder / entry.name, f"{prefix}{entry.name}/")
        elif prefix:
            yield prefix + entry.name


def _lock_as(descriptor: int, holder: str) -> None:
    """Lock an open file until it is closed, and write the holder into it. Raises ConfigurationError, OSError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        other = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
        raise ConfigurationError(f"{other} is using these files: wait until it has ended") from None
    os.ftruncate(descriptor, 0)
    write_at(descriptor, [f"`{holder}` (process {os.getpid()})".encode()], 0)


def _unused(path: Path) -> Path:
    """Return the path, with a number appended where there is such a file already."""
    candidates = (path, *(path.with_name(f"{path.name}.{number}") for number in range(1, 1000)))
    return next(each for each in candidates if not each.exists())
