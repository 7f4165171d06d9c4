"""An object on its way into a local store: in memory while it is small, else in a file of the folder `incoming`.

`commit` writes the head, draws the key, renames the file into the folder of its hour and makes all that durable: a
small object through the journal, a larger one by syncing file and folder. After a power cut an object is complete under
its key, or it is left in `incoming`. The file is locked until the end of the `with` block, so that it is not taken
for an orphan before its row is committed (`pacs.files.object_lock`).
"""

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Self

from pacs.files.buffer_pool import POOL, SMALL, ObjectBuffer
from pacs.files.disk import Buffer, sync_folder, sync_parents, write_at
from pacs.files.hour_marks import HourMarks
from pacs.files.io_errors import WRITING
from pacs.files.journal import LONGEST_HEAD, Journal, JournalRecord, note_deletion
from pacs.files.layout import INCOMING, hour_of
from pacs.files.readers import FileWindow, MemoryWindow, reader
from pacs.support import private


class DurableFolders:
    """Creates folders below `root` that survive a power cut: each is synced into its parent before it is used."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._lock = threading.Lock()
        self._last_created = ""

    def create(self, folder: str) -> None:
        """Create `folder`, below the root, and all above it, unless they are there. Raises OSError."""
        with self._lock:
            if folder == self._last_created and os.path.isdir(folder):
                return
            path = Path(self.root)
            if not self._last_created or not path.is_dir():
                private.make_folder(path)
                sync_parents(path)  # an index beside it, or a process that died since, may have made some of them
            for part in Path(folder).relative_to(path).parts:
                path /= part
                path.mkdir(exist_ok=True, mode=private.FOLDER)
                sync_folder(path.parent)
            self._last_created = folder


class TemporaryFile:
    """A file in `incoming` that gets its final path once it is complete.

    Paths are plain strings, which are faster than `Path`.
    """

    __slots__ = ("_folders", "path")

    def __init__(self, folders: DurableFolders, name: str) -> None:
        self._folders = folders
        self.path = f"{folders.root}/{INCOMING}/{name}"

    def create(self) -> int:
        """Create the file and return its descriptor. Raises OSError."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, private.FILE)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # ends with the process, however that ends: see `is_abandoned`
        return descriptor

    def note_deletion(self, key: str) -> None:
        """Prevent every journal from restoring the object with this key. Raises OSError."""
        note_deletion(Path(self._folders.root), key)

    def move(self, key: str) -> str:
        """Rename the file to the path of its key, and return that path. Raises OSError."""
        final = f"{self._folders.root}/{key}"
        self._folders.create(hour_of(final))
        os.rename(self.path, final)
        return final

    def remove(self) -> None:
        """Remove the file. Raises OSError."""
        os.unlink(self.path)


class IncomingFile:
    """An `IncomingObject` of a local store.

    With a `journal` small objects are made durable through it; with `marks` its hour is marked before it has its name.
    """

    def __init__(
        self,
        temporary: TemporaryFile,
        head_size: int,
        draw_key: Callable[[], str],
        journal: Journal | None = None,
        marks: HourMarks | None = None,
    ) -> None:
        self._temporary = temporary
        self._head_size = head_size
        self._draw_key = draw_key
        self._journal = journal
        self._marks = marks
        self._marked_hour = ""
        self._buffer: ObjectBuffer | None = POOL.take()
        """The bytes so far, while the object is small."""
        self._descriptor: int | None = None
        self._is_open = True
        """Whether it is neither committed nor discarded."""
        self._hash = sha256()
        self.size = 0
        """The number of bytes written after the head."""
        self.key = ""
        """The key of the object once it is committed; '' before."""

    @property
    def digest(self) -> str:
        """The SHA-256 of the bytes written after the head, in hexadecimal."""
        return self._hash.hexdigest()

    def write(self, data: Buffer) -> None:
        """Append bytes after the head. Raises StorageUnavailable."""
        self._require_open()
        self._hash.update(data)
        length = memoryview(data).nbytes
        if self._buffer is not None and self.size + length <= SMALL:
            self._buffer.append(data)
        else:
            with WRITING:
                write_at(self._file(), [data], self._head_size + self.size)
            self._give_back()
        self.size += length

    def body(self) -> BinaryIO:
        """Return a reader of the bytes written so far, without the head."""
        self._require_open()
        if self._buffer is not None:
            return reader(MemoryWindow(self._buffer.content))
        return reader(FileWindow(self._file(), self._head_size, self._head_size + self.size))

    def commit(self, head: bytes) -> None:
        """Put `head` before the rest and make the object durable. Leaves nothing when it raises StorageUnavailable."""
        self._require_open()
        if len(head) != self._head_size:
            raise ValueError(f"a head of {self._head_size} bytes was announced, not {len(head)}")
        with WRITING:
            descriptor = self._file(head)
            if self._buffer is not None and self._journal is not None:
                # Renamed before it is in the journal: the journal settles files under their final names.
                self._move(partial(self._append, self._journal, self._buffer, head, descriptor))
            else:
                os.fsync(descriptor)
                self._move(lambda path: sync_folder(hour_of(path)))
        self._is_open = False
        self._give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Discard an object that was not committed, and release one that was: it has its row, or gets none."""
        if self._marks is not None and self._marked_hour:
            self._marks.leave(self._marked_hour)
            self._marked_hour = ""
        if self._is_open and self._descriptor is not None:
            with suppress(OSError):  # the next start removes what stays in incoming/
                self._temporary.remove()
        self._close()

    def _require_open(self) -> None:
        if not self._is_open:
            raise ValueError("the object was committed or discarded already")

    def _file(self, head: bytes = b"") -> int:
        """Return the descriptor of the file, with all bytes so far, and with `head` if given."""
        if self._descriptor is not None:
            write_at(self._descriptor, [head], 0)
            return self._descriptor
        self._descriptor = self._temporary.create()
        written = [] if self._buffer is None else [self._buffer.content]
        write_at(self._descriptor, [head, *written], 0 if head else self._head_size)
        return self._descriptor

    def _move(self, make_durable: Callable[[str], None]) -> None:
        """Draw the key, rename the file, and remove it again if it cannot be made durable."""
        self.key = self._draw_key()  # only now, so that keys are in the order of the commits
        if self._marks is not None:
            self._marks.enter(hour := hour_of(self.key))
            self._marked_hour = hour
        path = self._temporary.move(self.key)
        try:
            make_durable(path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(path)
            raise

    def _append(self, journal: Journal, buffer: ObjectBuffer, head: bytes, descriptor: int, path: str) -> None:
        """Make the file durable through the journal, or by itself when the journal has no room."""
        try:
            if len(head) <= LONGEST_HEAD and journal.append(JournalRecord(self.key, head, buffer, self._hash.digest())):
                return
        except BaseException:
            with suppress(OSError):  # the record may be in the journal all the same
                self._temporary.note_deletion(self.key)
            raise
        os.fsync(descriptor)
        sync_folder(hour_of(path))

    def _give_back(self) -> None:
        if self._buffer is not None:
            POOL.give_back(self._buffer)
            self._buffer = None

    def _close(self) -> None:
        self._is_open = False
        self._give_back()
        if self._descriptor is not None:
            with suppress(OSError):  # a committed object is durable already
                os.close(self._descriptor)
            self._descriptor = None


@contextmanager
def abandoned(path: Path) -> Iterator[bool]:
    """Yield whether a half-written file is of a process that died; it is locked in the `with` block then."""
    try:
        file = path.open("rb")
    except FileNotFoundError:  # it was committed or removed meanwhile
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def is_abandoned(path: Path) -> bool:
    """Whether a half-written file is of a process that died."""
    with abandoned(path) as result:
        return result


def remove_abandoned(path: Path) -> bool:
    """Remove a half-written file if it is of a process that died, and return whether it was."""
    with abandoned(path) as result:
        if result:
            path.unlink(missing_ok=True)
        return result
