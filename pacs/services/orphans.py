"""Orphans: files in no row, and how they are added to the index."""

from pacs.errors import DuplicateInstance, InstanceMissing
from pacs.files.store import ObjectStore
from pacs.index import writer
from pacs.index.database import Index
from pacs.services.parent_refresh import refresh
from pacs.services.stored_file import headers_of, read_stored_file


def adopt(index: Index, files: ObjectStore, key: str) -> str:
    """Add a file to the index, or to the row of its instance when that row's file is missing.

    Return its SOP Instance UID, also when another process has added the file meanwhile. Raises DuplicateInstance when
    another file has its instance, IndexUnavailable, and as `read_stored_file`.
    """
    arrival = read_stored_file(files, key)
    try:
        writer.add(index, arrival, headers_of(files))
    except DuplicateInstance:
        known = writer.find(index, arrival.header.sop_instance_uid)
        if known is not None and known.file_key == key:
            return arrival.header.sop_instance_uid
        if known is None or not _is_missing(files, known.file_key):
            raise DuplicateInstance("another file has its SOP Instance UID") from None
        refresh(index, files, [writer.replace(index, arrival, headers_of(files))])
    return arrival.header.sop_instance_uid


def _is_missing(files: ObjectStore, key: str) -> bool:
    try:
        files.size(key)
    except InstanceMissing:
        return True
    return False
