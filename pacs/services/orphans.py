"""Files that are in no row are taken in again."""

from pacs.errors import DuplicateInstance, InstanceMissing
from pacs.files.store import ObjectStore
from pacs.index import writer
from pacs.index.database import Index
from pacs.services.parent_refresh import refresh
from pacs.services.stored_file import arrival_of


def adopt(index: Index, files: ObjectStore, key: str) -> str:
    """Take in a file that is in no row, also in the place of a row whose own file is missing; its SOP Instance UID.

    One that somebody else has entered meanwhile is taken in as well. Raises DuplicateInstance when another file has its
    instance, IndexUnavailable, and as `arrival_of`.
    """
    arrival = arrival_of(files, key)
    try:
        writer.add(index, arrival)
    except DuplicateInstance:
        known = writer.find(index, arrival.header.sop_instance_uid)
        if known is not None and known.file_key == key:
            return arrival.header.sop_instance_uid
        if known is None or not _is_missing(files, known.file_key):
            raise DuplicateInstance("another file has its SOP Instance UID") from None
        refresh(index, files, [writer.replace(index, arrival)])
    return arrival.header.sop_instance_uid


def _is_missing(files: ObjectStore, key: str) -> bool:
    try:
        files.size(key)
    except InstanceMissing:
        return True
    return False
