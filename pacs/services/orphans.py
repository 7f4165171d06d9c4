"""Orphans: files in no row, and how they are added to the index or taken away.

Others may do the same at the same time, and what seems an orphan may be an instance that is being stored, replaced or
deleted. So an operation that commits a row for a file it has not stored, or deletes or moves a file, first gets its
lock (`ObjectStore.lock`), and then looks at row and file. A store holds the lock until its row is committed or its file
deleted, a deletion or replacement from before the row goes until the file is gone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pacs.errors import DuplicateInstance, InstanceMissing, InstanceUnreadable
from pacs.files.store import ObjectStore
from pacs.index import writer
from pacs.index.database import Index
from pacs.index.writer import NewInstance, StoredInstance
from pacs.services.parent_refresh import refresh
from pacs.services.stored_file import headers_of, read_stored_file

Result = TypeVar("Result")


def adopt(index: Index, files: ObjectStore, key: str) -> str:
    """Add a file to the index, or to the row of its instance when that row's file is missing.

    Return its SOP Instance UID, also when another process has added the file meanwhile. Raises DuplicateInstance when
    another file has its instance, InstanceMissing when the file is gone, IndexUnavailable, InstanceInUse, and as
    `read_stored_file`.
    """
    arrival = read_stored_file(files, key)
    with locked(files, key):
        former = add_row(index, files, arrival)
    refresh(index, files, former)
    return arrival.header.sop_instance_uid


@contextmanager
def locked(files: ObjectStore, key: str) -> Iterator[None]:
    """Hold the lock of a file in the `with` block. Raises InstanceMissing when the file is gone, InstanceInUse."""
    with files.lock([key]) as there:
        if not there:
            raise InstanceMissing("The stored file is missing")
        yield


def add_row(index: Index, files: ObjectStore, arrival: NewInstance) -> list[StoredInstance]:
    """Add the row of a locked file, and return the row without a file that it has replaced, if any. As `adopt`."""
    try:
        writer.add(index, arrival, headers_of(files))
    except DuplicateInstance:
        known = writer.find(index, arrival.header.sop_instance_uid)
        if known is not None and known.file_key == arrival.file_key:
            return []
        if known is None or not is_missing(files, known.file_key):
            raise DuplicateInstance("another file has its SOP Instance UID") from None
        return [_take_row(index, files, arrival, known)]
    return []


def _take_row(index: Index, files: ObjectStore, arrival: NewInstance, known: StoredInstance) -> StoredInstance:
    try:
        return writer.replace(index, arrival, known.file_key, headers_of(files))
    except InstanceUnreadable:
        raise DuplicateInstance("another file has just got its SOP Instance UID") from None


def take_away(index: Index, files: ObjectStore, key: str, move: Callable[[str], Result]) -> Result | None:
    """Delete or move a file with `move`, and return its result; None, without a call, when the file is in a row.

    Raises IndexUnavailable, InstanceInUse, and as `move`.
    """
    with files.lock([key]):
        return None if writer.is_in_row(index, key) else move(key)


def is_missing(files: ObjectStore, key: str) -> bool:
    """Whether there is no such file; False when it cannot be read."""
    try:
        files.size(key)
    except InstanceMissing:
        return True
    except InstanceUnreadable:
        return False
    return False
