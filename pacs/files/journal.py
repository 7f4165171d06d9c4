"""A journal of small objects: what stands in it is durable, though the files it is about are not synced yet.

To sync a new file, its name and its folder costs two or three turns of the file system's own journal; to append to a
file whose blocks are there already costs one write of the device. So small objects are written into the page cache
under their name, and once more into a segment of the journal, by one synced write for all that come together.
In the background the files of a segment that is full, or has waited long enough, are made durable (*settled*), and the
segment is used again. What a power cut takes before, `replay` writes again from the journal.

A journal is a folder of its own for each process, locked as long as the process lives; one that nobody holds is
replayed by the next that starts. `deletions` beside them names what was deleted: it must not come back.
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

from pacs.errors import StorageUnavailable
from pacs.files.buffer_pool import Scratch
from pacs.files.disk import PAGE, ZEROS, open_durable, sync_folder, whole_pages, write_at
from pacs.files.process_lock import HeldFolder, held_folders, is_held, take
from pacs.support.batching import Gathering, Unit

FOLDER = "journal"
_DELETIONS = "deletions"

CAPACITY = 64 << 20
"""Bytes of a segment."""

SEGMENTS = 4
"""How many segments a process has at most. When none is free, objects are to be synced by themselves."""

SETTLE_SECONDS = 5.0
"""How long what was appended waits for more before it is settled, and how long a failed settling waits."""

_FIRST_ALLOCATION = 1 << 18
_TOGETHER = 64

_HEADER = Struct("<8sQLLQ64s32s")
_CHECK = Struct("<L")
_MAGIC = b"pacsjrn1"

LONGEST_HEAD = PAGE - _HEADER.size - _CHECK.size
"""Bytes of the longest head there is room for."""


# --- what is in a segment ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """An object in the journal: its key, of at most 64 characters, a head of at most `LONGEST_HEAD` bytes, and a body.

    `digest` is the SHA-256 of the body.
    """

    key: str
    head: bytes
    body: Scratch
    digest: bytes

    def encode(self, generation: int) -> memoryview:
        """As it stands in a segment: a page with all but the body, then that in whole pages.

        So no later write touches its last page.
        """
        key = self.key.encode("ascii")
        header = _HEADER.pack(_MAGIC, generation, len(key), len(self.head), self.body.size, key, self.digest)
        return self.body.framed(header + _CHECK.pack(crc32(self.head, crc32(header))) + self.head)

    @property
    def length(self) -> int:
        """How many bytes it takes in a segment."""
        return PAGE + whole_pages(self.body.size)


@dataclass(slots=True)
class _Segment:
    """One file of a journal. What is behind its end is of an older generation, and of no meaning any more."""

    path: Path
    descriptor: int
    generation: int = 0
    end: int = 0
    allocated: int = 0
    """How far its blocks have been written once: what is written over them is synced by one write of the device."""
    keys: list[str] = field(default_factory=list)
    is_doubtful: bool = False
    """Whether a sync of its files has failed: no other one can be believed."""

    def append(self, records: Sequence[Record]) -> None:
        """Write records, durably. Raises OSError: nothing of it counts, and nothing more may be appended."""
        end = self.end + sum(record.length for record in records)
        self._allocate(end)
        write_at(self.descriptor, [record.encode(self.generation) for record in records], self.end)
        self.end = end
        self.keys += [record.key for record in records]

    def begin(self, generation: int) -> None:
        """Use it anew."""
        self.generation, self.end, self.keys, self.is_doubtful = generation, 0, [], False

    def void(self) -> None:
        """Have nothing in it that a replay would find. If that fails, what it finds is where it belongs already."""
        with suppress(OSError):
            os.pwrite(self.descriptor, ZEROS[:PAGE], 0)

    def _allocate(self, needed: int) -> None:
        """Have blocks up to `needed`, each time twice as many: a journal is as large as it had to be."""
        if needed <= self.allocated:
            return
        target = max(needed, min(CAPACITY, max(2 * self.allocated, _FIRST_ALLOCATION)))
        while self.allocated < target:
            self.allocated += os.pwrite(self.descriptor, ZEROS[: target - self.allocated], self.allocated)


# --- the journal of this process ---------------------------------------------------------------------------------


class Journal(Gathering[Record, bool]):
    """The journal of this process, in a folder of `root` that is made when it is first needed.

    `settle` makes the objects with these keys durable by themselves, `rewrite` those in these segments, from there; a
    thread of the journal's own calls them.
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
        """Held by whoever appends, and by whoever changes which segments are in use, full, and free."""
        self._folder: HeldFolder | None = None
        self._segments: list[_Segment] = []
        self._current: _Segment | None = None
        self._full: list[_Segment] = []
        self._free: list[_Segment] = []
        self._due: float | None = None
        """When the current segment is to be settled, on the monotonic clock; None while it is empty."""
        self._thread: threading.Thread | None = None
        self._is_closing = False

    def append(self, record: Record) -> bool:
        """Make an object durable; False when there is no room for it: it has to be synced by itself.

        Raises OSError when it cannot be written.
        """
        return self.run(record)

    def serve(self, units: list[Unit[Record, bool]]) -> None:
        """Append what came together, with one sync for each segment that it needs."""
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
        """Settle everything and remove the journal. What cannot be settled stays for the next start."""
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

    # --- segments; the state is held ----------------------------------------------------------------------------

    def _append(self, segment: _Segment, records: Sequence[Record]) -> None:
        try:
            segment.append(records)
        except OSError:
            self._retire()
            raise
        if self._due is None:
            self._due = time.monotonic() + SETTLE_SECONDS
            self._state.notify_all()

    def _segment(self, length: int) -> _Segment | None:
        """The segment to append so many bytes to, None when there is none."""
        if self._current is not None and self._current.end + length > CAPACITY:
            self._retire()
        if self._current is None and not self._is_closing:
            if not self._free and len(self._segments) < SEGMENTS:
                self._free.append(self._new_segment())
            if self._free:
                self._current = self._free.pop()
                self._current.begin(time.time_ns())
        return self._current

    def _new_segment(self) -> _Segment:
        """One more segment; its name is durable before anything is in it."""
        if self._folder is None:
            self._folder = HeldFolder.make(self._root / FOLDER)
            self._thread = threading.Thread(target=self._run, name="pacs-settle", daemon=True)
            self._thread.start()
        path = self._folder.path / f"{len(self._segments)}.segment"
        segment = _Segment(path, open_durable(path))
        self._segments.append(segment)
        os.fsync(self._folder.descriptor)
        return segment

    def _retire(self) -> None:
        """Have the current segment settled."""
        if self._current is not None:
            self._full.append(self._current)
            self._current = self._due = None
            self._state.notify_all()

    # --- settling -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Settle what is full or old, until all is settled and the journal closes."""
        while segments := self._next():
            if self._is_settled(segments):
                for segment in segments:
                    segment.void()
                with self._state:
                    self._full = [each for each in self._full if each not in segments]
                    self._free += segments
            elif self._is_closing:
                return
            else:
                time.sleep(SETTLE_SECONDS)

    def _next(self) -> list[_Segment]:
        """Wait for what is to be settled next; nothing when the journal closes and all is settled."""
        with self._state:
            while not self._full and not self._is_closing:
                self._state.wait(None if self._due is None else max(0.0, self._due - time.monotonic()))
                if self._due is not None and time.monotonic() >= self._due:
                    self._retire()
            return list(self._full)

    def _is_settled(self, segments: Sequence[_Segment]) -> bool:
        """Make the files of these segments durable: whether they are.

        The system tells only once that something could not be written. From then on the files are written anew.
        """
        try:
            if any(segment.is_doubtful for segment in segments):
                self._rewrite([segment.path for segment in segments])
            else:
                self._settle([key for segment in segments for key in segment.keys])
        except (OSError, StorageUnavailable) as error:
            for segment in segments:
                segment.is_doubtful = True
            why = error.comment if isinstance(error, StorageUnavailable) else error.strerror
            logging.getLogger("pacs").warning(
                "stored files cannot be synced (%s): they stay in the journal for now", why
            )
            return False
        return True


def _fitting(units: list[Unit[Record, bool]], room: int) -> list[Unit[Record, bool]]:
    """As many of the first units as fit into `room` bytes; at least one."""
    count = 1
    room -= units[0].item.length
    while count < len(units) and units[count].item.length <= room:
        room -= units[count].item.length
        count += 1
    return units[:count]


# --- what was deleted --------------------------------------------------------------------------------------------


def note_deletion(root: Path, key: str) -> None:
    """Have it that no journal, whoever's it is, brings the object back; to be called before it is deleted.

    Raises OSError.
    """
    if not held_folders(root / FOLDER):
        return
    descriptor = os.open(root / FOLDER / _DELETIONS, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    try:
        is_new = os.fstat(descriptor).st_size == 0
        note = f"\n{key}\n".encode("ascii")  # with a line of its own, whatever a full disk has left of the last one
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


# --- after an unclean stop ---------------------------------------------------------------------------------------

Restore = Callable[[str, bytes, bytes], None]
"""Makes the object with this key, of this head and body, durable by itself."""
Forget = Callable[[str], None]
"""Removes the object with this key, if it is there."""


def abandoned(root: Path) -> int:
    """How many journals nobody holds, so that there may be something to replay. Raises OSError."""
    return sum(not is_held(path) for path in held_folders(root / FOLDER))


def replay(root: Path, restore: Restore, forget: Forget) -> None:
    """Restore what stands in journals that nobody holds, and remove these.

    Raises OSError, and what `restore` raises: the journals are left for the next time then.
    """
    for path in held_folders(root / FOLDER):
        folder = take(path)
        if folder is None:
            continue
        repair(root, restore, forget, sorted(path.glob("*.segment")))
        for file in path.iterdir():
            file.unlink()
        folder.release(remove=True)
    if (root / FOLDER).is_dir() and not held_folders(root / FOLDER):
        sync_folder(root / FOLDER)  # the journals are gone for good before what was deleted is forgotten
        (root / FOLDER / _DELETIONS).unlink(missing_ok=True)


def repair(root: Path, restore: Restore, forget: Forget, segments: Sequence[Path]) -> None:
    """Restore every record of these segments, but for what was deleted, be it meanwhile. Raises as `replay`."""
    deleted, restored = _deleted(root), set()
    for segment in segments:
        for key, head, body in _records(segment):
            if key not in deleted:
                restore(key, head, body)
                restored.add(key)
    for key in restored & _deleted(root):  # whoever deletes notes it before
        forget(key)


def _records(segment: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """Key, head and body of every record of a segment that was appended to the end."""
    with segment.open("rb") as file:
        generation = None
        while (found := _record(file, generation)) is not None:
            generation, *record = found
            yield tuple(record)  # type: ignore[misc]


def _record(file: BinaryIO, generation: int | None) -> tuple[int, str, bytes, bytes] | None:
    """The next record of a segment; None when there is none of that generation which is whole."""
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
