"""Protocols of the file store: `ObjectStore` for the objects, `FolderUpkeep` for the upkeep of a local folder.

An object is a Part 10 file. The store makes its key, never from what a peer sent: the hour and a UUID of version 7,
such as `2026/11/21/03/01990f3c-….dcm`. Sorted as bytes, keys are in the order in which objects were committed, also
when the wall clock was set back (`pacs.files.object_keys`). Code outside of `pacs.files` knows keys and no paths. All
methods raise errors of `pacs.errors`, never OSError.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol, Self

from pacs.files.copies import Copies
from pacs.files.incomplete_note import IncompleteNote
from pacs.files.running_marker import RunningMarker


class IncomingObject(Protocol):
    """An object that is being written. Leaving the `with` block without `commit()` discards it without a trace."""

    @property
    def key(self) -> str:
        """The key of the object once it is committed; '' before."""

    @property
    def size(self) -> int:
        """The number of bytes written after the head."""

    @property
    def digest(self) -> str:
        """The SHA-256 of the bytes written after the head, in hexadecimal."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes after the head. Raises StorageUnavailable."""

    def body(self) -> BinaryIO:
        """Return a reader of the bytes written so far, without the head."""

    def commit(self, head: bytes) -> None:
        """Put `head`, which is exactly as long as announced, before the rest and make the object durable.

        After it returns the object survives a power cut and is visible under its key. It stays locked until the end of
        the `with` block (`ObjectStore.lock`). Raises StorageUnavailable.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class ObjectStore(Protocol):
    """Stored objects by key: what a folder and an object store such as S3 can both do."""

    def create(self, head_size: int) -> IncomingObject:
        """Begin an object whose first `head_size` bytes are given at commit. Raises StorageUnavailable."""

    def open(self, key: str) -> BinaryIO:
        """Open an object as a seekable file.

        This and reading from the file raise InstanceUnreadable when the object is missing or cannot be read. As every
        read, it raises StorageUnavailable when this process has too many open files or no memory.
        """

    def pieces(self, key: str, size: int, start: int) -> Iterator[bytes]:
        """Read an object of `size` bytes from position `start` on, in pieces. The first piece opens it.

        Raises InstanceUnreadable when the object is missing, has another size, or cannot be read.
        """

    def size(self, key: str) -> int:
        """Return the size of an object in bytes. Raises InstanceUnreadable."""

    def lock(self, keys: Collection[str]) -> AbstractContextManager[set[str]]:
        """Hold the locks of objects in the `with` block; yield the keys of those that are there and can be opened.

        A caller that commits a row for a file it has not stored, or deletes or moves a file, first gets the lock and
        then looks at row and file. No transaction of the index is open meanwhile. Raises InstanceInUse when another
        operation holds one of the locks too long, StorageUnavailable.
        """

    def delete(self, key: str) -> None:
        """Delete an object durably, if it is there. Raises StorageUnavailable."""

    def make_durable(self, keys: Collection[str]) -> None:
        """Make objects survive a power cut, whichever process wrote them. Raises StorageUnavailable.

        Committed objects do already; this is for objects that came into the store by other means.
        """

    def keys(self, since: str = "") -> Iterator[str]:
        """Yield the keys of all committed objects, oldest first; with `since`, a key, those of its hour and later."""

    def newest_key(self) -> str:
        """Return the largest key, '' for none; cheap however many there are. Raises StorageUnavailable."""

    def space(self) -> tuple[int, int]:
        """Return the free bytes and the total bytes of the disk. Raises StorageUnavailable."""

    def require_free(self) -> None:
        """Raise StorageUnavailable while fewer bytes are free than must stay free for other programs."""

    def probe(self) -> None:
        """Write some bytes durably and remove them, as a health check. Raises StorageUnavailable."""

    def newest(self, count: int) -> list[str]:
        """Return the keys of the newest objects, newest first. Raises StorageUnavailable."""

    def incomplete_note(self) -> IncompleteNote:
        """Return the note that the index lacks objects of this store."""


class FolderUpkeep(Protocol):
    """Upkeep of a local folder of objects: locks, journals, leftovers, quarantine. All raise StorageUnavailable."""

    # --- locks -------------------------------------------------------------------------------------------------------

    def maintenance_lock(self, holder: str) -> AbstractContextManager[None]:
        """Exclude other maintenance commands in the `with` block, of this process and of others.

        Raises ConfigurationError that names the other `holder`.
        """

    def mark_running(self) -> RunningMarker:
        """Mark the store as used by a server; the marker tells whether the last server stopped uncleanly."""

    def mark_hours(self, marker: RunningMarker, make_rows_durable: Callable[[], bool]) -> None:
        """Mark the hours of objects that are begun from here on, for the start after an unclean stop.

        An hour is marked until it is over and `make_rows_durable`, which makes committed rows durable, returns True.
        """

    def running_servers(self) -> list[str]:
        """Return what the servers that use the store say about themselves, '' for one that says nothing."""

    def is_running(self) -> bool:
        """Whether a server uses the store."""

    # --- after an unclean stop ---------------------------------------------------------------------------------------

    def keys_of_hours(self, hours: Collection[str]) -> Iterator[str]:
        """Yield the keys of these hours, oldest first."""

    def leftovers(self) -> list[str]:
        """Return the names of files that processes which died left half-written."""

    def remove_leftovers(self, names: Collection[str]) -> int:
        """Remove these if they still are leftovers, and return how many were."""

    def abandoned_journals(self) -> int:
        """Count the journals of processes that died; their objects need `replay_journals`."""

    def replay_journals(self) -> None:
        """Restore the objects in the journals of processes that died."""

    # --- foreign and damaged files -----------------------------------------------------------------------------------

    def strays(self) -> Iterator[str]:
        """Yield the names of files that lie among the objects but whose names are no keys."""

    def quarantine(self, name: str) -> str:
        """Move an object or a stray into the quarantine, durably, and return its new name.

        Raises InstanceMissing when it is not there.
        """

    # --- for backup and temporary indexes ----------------------------------------------------------------------------

    def scratch_folder(self) -> AbstractContextManager[Path]:
        """Create a temporary folder on the same disk, and remove it at the end of the `with` block."""

    def contains(self, folder: Path) -> bool:
        """Whether the store is in `folder` or in a folder below it."""

    def link(self, key: str, target: Path) -> None:
        """Create the hard link `target` to an object. Raises OSError."""

    def copies(self) -> Copies:
        """Return a writer of objects that keep the keys they have in a backup."""

    def interrupted_restore(self) -> str:
        """Return the identification of the backup whose restore did not end; '' for none."""

    def begin_restore(self, backup: str) -> None:
        """Note durably that a restore of the backup with this identification has begun."""

    def end_restore(self) -> None:
        """Note durably that the restore is complete."""


class FolderStore(ObjectStore, FolderUpkeep, Protocol):
    """A local folder of objects with its upkeep."""
