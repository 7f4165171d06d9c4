"""A journal of small objects, which makes them durable before their files are synced.

Syncing a new file, its name and its folder takes two or three commits of the file system's own journal; appending to a
file with allocated blocks takes one write of the device. So a small object is written to its file without a sync, and
again into a segment of the journal, by one synced write for all objects that arrive together. A background thread
syncs the files of a segment that is full or old (it *settles* the segment), and the segment is used again. After a
power cut `replay` writes the files again from the journal.

Each process has a folder with its journal, locked while the process lives; the next start replays a folder without a
lock. The file `deletions` beside the folders lists deleted objects, which a replay must not restore.
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import BinaryIO
from zlib import crc32

from pacs.errors import OutOfResources, StorageUnavailable
from pacs.files.buffer_pool import ObjectBuffer
from pacs.files.disk import PAGE, ZEROS, open_durable, sync_folder, whole_pages, write_at
from pacs.files.process_lock import LockedFolder, is_locked, process_folders, try_lock
from pacs.support import private
from pacs.support.batch_queue import BatchQueue, BatchUnit
from pacs.support.threads import start_thread

FOLDER = "journal"
_DELETIONS = "deletions"

CAPACITY = 64 << 20
"""Bytes of a segment."""

SEGMENTS = 4
"""Most segments of a process. While none is free, objects are synced one by one."""

SETTLE_SECONDS = 5.0
"""Seconds from the first object of a segment until it is settled, and until a failed settling is tried again."""

_FIRST_ALLOCATION = 1 << 18
_TOGETHER = 64
"""Most records in one write."""

_HEADER = Struct("<8sQLLQ64s32s")
_CHECK = Struct("<L")
_MAGIC = b"pacsjrn1"

LONGEST_HEAD = PAGE - _HEADER.size - _CHECK.size
"""Bytes of the longest head that fits into a record."""


# --- segments --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """An object in the journal: a key of at most 64 characters, a head of at most `LONGEST_HEAD` bytes, and a body.

    `digest` is the SHA-256 of the body.
    """

    key: str
    head: bytes
    body: ObjectBuffer
    digest: bytes

    def encode(self, generation: int) -> memoryview:
        """Return the bytes in a segment: one page with everything but the body, then the body in whole pages.

        So no later write touches a page of this record.
        """
        key = self.key.encode("ascii")
        header = _HEADER.pack(_MAGIC, generation, len(key), len(self.head), self.body.size, key, self.digest)
        return self.body.with_first_page(header + _CHECK.pack(crc32(self.head, crc32(header))) + self.head)

    @property
    def length(self) -> int:
        """The number of bytes in a segment."""
        return PAGE + whole_pages(self.body.size)


@dataclass(slots=True)
class _SegmentFile:
    """One file of a journal. Records behind its end are of an older generation and no longer valid."""

    path: Path
    descriptor: int
    generation: int = 0
    end: int = 0
    allocated: int = 0
    """The size of the part with allocated blocks: a synced write to them is one write of the device."""
    keys: list[str] = field(default_factory=list)
    has_failed_sync: bool = False
    """Whether a sync of its files has failed: the system reports that once, so that a later success proves nothing."""

    def append(self, records: Sequence[JournalRecord]) -> None:
        """Write records durably. After an OSError none of them is valid, and nothing more may be appended."""
        end = self.end + sum(record.length for record in records)
        self._allocate(end)
        write_at(self.descriptor, [record.encode(self.generation) for record in records], self.end)
        self.end = end
        self.keys += [record.key for record in records]

    def begin(self) -> None:
        """Start a new generation, which is empty. They are counted: a clock that was set back may show a time twice."""
        self.generation, self.end, self.keys, self.has_failed_sync = self.generation + 1, 0, [], False

    def invalidate(self) -> None:
        """Hide the records from a replay. If that fails, a replay restores files that are durable already."""
        with suppress(OSError):
            os.pwrite(self.descriptor, ZEROS[:PAGE], 0)

    def _allocate(self, needed: int) -> None:
        """Allocate blocks up to `needed`, doubling the size, so that a journal is only as large as needed."""
        if needed <= self.allocated:
            return
        target = max(needed, min(CAPACITY, max(2 * self.allocated, _FIRST_ALLOCATION)))
        while self.allocated < target:
            self.allocated += os.pwrite(self.descriptor, ZEROS[: target - self.allocated], self.allocated)


# --- the journal of this process -------------------------------------------------------------------------------------


class Journal(BatchQueue[JournalRecord, bool]):
    """The journal of this process, in a folder of `root` that is made when it is first needed.

    A background thread calls `settle` with the keys of objects to sync, and `rewrite` with the segments whose objects
    it has to write again because a sync has failed.
    """

    def __init__(
        self,
        root: Path,
        settle: Callable[[Collection[str]], None],
        rewrite: Callable[[Sequence[Path]], None],
    ) -> None:
        super().__init__(_TOGETHER)
        self._root = root
        self._settle = settle
        self._rewrite = rewrite
        self._state = threading.Condition()
        """Guards the segments and which of them are current, full and free."""
        self._folder: LockedFolder | None = None
        self._segments: list[_SegmentFile] = []
        self._current: _SegmentFile | None = None
        self._full: list[_SegmentFile] = []
        self._free: list[_SegmentFile] = []
        self._due: float | None = None
        """The monotonic time at which the current segment is settled; None while it is empty."""
        self._thread: threading.Thread | None = None
        self._is_closing = False

    def append(self, record: JournalRecord) -> bool:
        """Make an object durable. Return False when there is no room: then the caller has to sync it.

        Raises OSError when it cannot be written.
        """
        return self.run(record)

    def serve(self, units: list[BatchUnit[JournalRecord, bool]]) -> None:
        """Append records that arrive together, with one sync for each segment they need."""
        with self._state:
            self.join(units)
            rest = units
            while rest:
                segment = self._segment(rest[0].item.length)
                fitting = rest if segment is None else _fitting(rest, CAPACITY - segment.end)
                if segment is not None:
                    self._append(segment, [unit.item for unit in fitting])
                for unit in fitting:
                    unit.result = segment is not None
                rest = rest[len(fitting) :]

    def close(self) -> None:
        """Settle everything and remove the journal. Segments that cannot be settled stay for the next start."""
        with self._state:
            self._is_closing = True
            self._retire()
            self._state.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._folder is None:
            return
        for segment in self._segments:
            os.close(segment.descriptor)
            if not self._full:
                segment.path.unlink()
        self._folder.release(remove=not self._full)
        self._folder = None

    # --- segments; called with `_state` locked -----------------------------------------------------------------------

    def _append(self, segment: _SegmentFile, records: Sequence[JournalRecord]) -> None:
        try:
            segment.append(records)
        except OSError:
            self._retire()
            raise
        if self._due is None:
            self._due = time.monotonic() + SETTLE_SECONDS
            self._state.notify_all()

    def _segment(self, length: int) -> _SegmentFile | None:
        """Return the segment to append `length` bytes to, None when there is none, or no thread to settle it."""
        if self._current is not None and self._current.end + length > CAPACITY:
            self._retire()
        if self._current is None and not self._is_closing:
            if not self._free and len(self._segments) < SEGMENTS and self._has_thread():
                self._free.append(self._new_segment())
            if self._free:
                self._current = self._free.pop()
                self._current.begin()
        return self._current

    def _has_thread(self) -> bool:
        """Start the thread that settles segments, if need be, and return whether it runs."""
        if self._thread is None:
            with suppress(OutOfResources):  # without it nothing may be in the journal
                self._thread = start_thread("pacs-settle", self._run)
        return self._thread is not None

    def _new_segment(self) -> _SegmentFile:
        """Create a segment; its name is durable before anything is in it."""
        if self._folder is None:
            self._folder = LockedFolder.create(self._root / FOLDER)
        path = self._folder.path / f"{len(self._segments)}.segment"
        segment = _SegmentFile(path, open_durable(path))
        self._segments.append(segment)
        os.fsync(self._folder.descriptor)
        return segment

    def _retire(self) -> None:
        """Hand the current segment to the background thread."""
        if self._current is not None:
            self._full.append(self._current)
            self._current = self._due = None
            self._state.notify_all()

    # --- settling ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Settle full and old segments until the journal is closed and all are settled."""
        while segments := self._next():
            if self._is_settled(segments):
                for segment in segments:
                    segment.invalidate()
                with self._state:
                    self._full = [each for each in self._full if each not in segments]
                    self._free += segments
            elif self._is_closing:
                return
            else:
                time.sleep(SETTLE_SECONDS)

    def _next(self) -> list[_SegmentFile]:
        """Wait for segments to settle; none when the journal is closed and all are settled."""
        with self._state:
            while not self._full and not self._is_closing:
                self._state.wait(None if self._due is None else max(0.0, self._due - time.monotonic()))
                if self._due is not None and time.monotonic() >= self._due:
                    self._retire()
            return list(self._full)

    def _is_settled(self, segments: Sequence[_SegmentFile]) -> bool:
        """Make the files of these segments durable, and return whether they are.

        The system reports a write error only once. After one the files are written again.
        """
        try:
            if any(segment.has_failed_sync for segment in segments):
                self._rewrite([segment.path for segment in segments])
            else:
                self._settle([key for segment in segments for key in segment.keys])
        except (OSError, StorageUnavailable) as error:
            for segment in segments:
                segment.has_failed_sync = True
            why = error.comment if isinstance(error, StorageUnavailable) else error.strerror
            logging.getLogger("pacs").warning(
                "cannot sync stored files (%s): they stay in the journal, and the sync is tried again", why
            )
            return False
        return True


def _fitting(units: list[BatchUnit[JournalRecord, bool]], room: int) -> list[BatchUnit[JournalRecord, bool]]:
    """Return as many of the first units as fit into `room` bytes, at least one."""
    count = 1
    room -= units[0].item.length
    while count < len(units) and units[count].item.length <= room:
        room -= units[count].item.length
        count += 1
    return units[:count]


# --- deletions -------------------------------------------------------------------------------------------------------


def note_deletion(root: Path, key: str) -> None:
    """Prevent the journals of all processes from restoring an object; called before it is deleted. Raises OSError."""
    if not process_folders(root / FOLDER):
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    descriptor = os.open(root / FOLDER / _DELETIONS, flags, private.FILE)
    try:
        is_new = os.fstat(descriptor).st_size == 0
        note = f"\n{key}\n".encode("ascii")  # on a line of its own, even after a line that a full disk has cut off
        if os.write(descriptor, note) < len(note):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if is_new:
        sync_folder(root / FOLDER)


def _deleted(root: Path) -> set[str]:
    with suppress(FileNotFoundError):
        return set((root / FOLDER / _DELETIONS).read_text("ascii").splitlines())
    return set()


# --- after an unclean stop -------------------------------------------------------------------------------------------

Restore = Callable[[str, bytes, bytes], None]
"""Writes an object durably, from its key, head and body."""
Forget = Callable[[str], None]
"""Removes the object with this key, if it is there."""


def count_abandoned(root: Path) -> int:
    """Count the journals of processes that died. Raises OSError."""
    return sum(not is_locked(path) for path in process_folders(root / FOLDER))


def replay(root: Path, restore: Restore, forget: Forget) -> None:
    """Restore the objects in the journals of processes that died, and remove these journals.

    Raises OSError, and what `restore` raises: then the journals stay for the next replay.
    """
    for path in process_folders(root / FOLDER):
        folder = try_lock(path)
        if folder is None:
            continue
        restore_records(root, restore, forget, sorted(path.glob("*.segment")))
        for file in path.iterdir():
            file.unlink()
        folder.release(remove=True)
    if (root / FOLDER).is_dir() and not process_folders(root / FOLDER):
        sync_folder(root / FOLDER)  # the journals are gone durably before the deletions are
        (root / FOLDER / _DELETIONS).unlink(missing_ok=True)


def restore_records(root: Path, restore: Restore, forget: Forget, segments: Sequence[Path]) -> None:
    """Restore the records of these segments, except for objects that were or are being deleted. Raises as `replay`."""
    deleted, restored = _deleted(root), set()
    for segment in segments:
        for key, head, body in _records(segment):
            if key not in deleted:
                restore(key, head, body)
                restored.add(key)
    for key in restored & _deleted(root):  # deleted during the restore
        forget(key)


def _records(segment: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield key, head and body of the valid records of a segment."""
    with segment.open("rb") as file:
        generation = None
        while (found := _record(file, generation)) is not None:
            generation, *record = found
            yield tuple(record)  # type: ignore[misc]


def _record(file: BinaryIO, generation: int | None) -> tuple[int, str, bytes, bytes] | None:
    """Read the next record of a segment; None when it is incomplete or of another generation."""
    start = file.tell()
    header = file.read(_HEADER.size)
    check = file.read(_CHECK.size)
    if len(check) < _CHECK.size:
        return None
    magic, own, key_length, head_length, size, key, digest = _HEADER.unpack(header)
    if magic != _MAGIC or own != (generation or own) or head_length + size > CAPACITY:
        return None
    head = file.read(head_length)
    file.seek(start + PAGE)
    body = file.read(size)
    if _CHECK.pack(crc32(head, crc32(header))) != check or sha256(body).digest() != digest:
        return None
    file.seek(start + PAGE + whole_pages(size))
    return own, key[:key_length].decode("ascii"), head, body
