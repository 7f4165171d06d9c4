"""Keeps the rows of patients, studies and series equal to what the files of their instances say, oldest first.

When an instance is stored, its parents are filled from it, and earlier values stay (`pacs.index.writer`). When one is
removed, the values that only it had have to go as well: else the index could not be rebuilt from the files, and the
wrong name of a single image would outlive that image.
"""

from collections.abc import Sequence
from functools import lru_cache

from pacs.dicom.header import Header
from pacs.files.store import ObjectStore
from pacs.index.database import Index
from pacs.index.removal import refresh_parents
from pacs.index.writer import StoredInstance
from pacs.services.stored_file import headers_of

MANY = 500
"""How many headers are remembered."""


def refresh(
    index: Index, files: ObjectStore, removed: Sequence[StoredInstance], removed_header: Header | None = None
) -> None:
    """Set the parents of removed instances to the values of the instances that remain, in one transaction.

    `removed_header` is that of the only removed instance. Raises IndexUnavailable, StorageUnavailable.
    """
    if removed:
        refresh_parents(index, lru_cache(MANY)(headers_of(files)), removed, removed_header)
