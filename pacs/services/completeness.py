"""A quick comparison of index and files: the newest of each are looked for in the other.

It finds an index that is empty or was restored from an older backup, and files that are older than the index or whose
disk is not mounted. `pacs.services.fsck` compares everything.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pacs.errors import IndexUnavailable, InstanceUnreadable, UndecodableDataSet
from pacs.files.store import FolderStore, ObjectStore
from pacs.index import maintenance, writer
from pacs.index.database import Index
from pacs.services.fsck import GRACE
from pacs.services.orphans import is_missing
from pacs.services.stored_file import read_stored_file

NEWEST = 500
"""Number of the newest files and of the newest rows that are compared."""

MOST_READ = 20
"""Number of files in no row that are read, to find one that can be added."""

TOLERATED = 0.1
"""The part of the newest rows whose files may be missing: single files may be damaged or deleted by hand."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The numbers of files and rows that were compared, and of those that the other side lacks."""

    files: int
    files_in_no_row: int
    rows: int
    rows_without_file: int

    @property
    def lacks_rows(self) -> bool:
        """Whether the index lacks files."""
        return self.files_in_no_row > 0

    @property
    def lacks_files(self) -> bool:
        """Whether files are older than the index, or not there at all."""
        return self.rows_without_file > TOLERATED * self.rows

    @property
    def fault(self) -> str:
        """A sentence that says what differs and what to do, '' if nothing does."""
        if self.lacks_files:
            found = f"{self.rows_without_file} of the newest {self.rows} instances of the index have no file"
            return f"{found}: check files.url and that its disk is mounted, then run `pacs fsck`"
        if self.lacks_rows:
            found = f"{self.files_in_no_row} of the newest {self.files} files are not in the index"
            return f"{found}: run `pacs reindex`"
        return ""


def require_complete(files: ObjectStore) -> None:
    """Raise IndexUnavailable while the index is known to lack files. Raises StorageUnavailable."""
    if files.incomplete_note().exists():
        raise IndexUnavailable("the index lacks files: run `pacs reindex`, or wait until the server has added them")


def compare(index: Index, files: FolderStore) -> Comparison:
    """Compare the newest files and rows. Raises IndexUnavailable, StorageUnavailable.

    What looks wrong is looked at again after a grace period: the instance may be arriving.
    """
    keys = files.newest(NEWEST)
    unknown = _lacking(index, files, keys)
    if unknown:
        time.sleep(GRACE)
        unknown = _lacking(index, files, unknown)
    rows = maintenance.newest_files(index, NEWEST)
    lost = [key for key in rows if is_missing(files, key)]
    deleted = set(writer.unknown(index, lost)) if lost else set()
    return Comparison(len(keys), len(unknown), len(rows), len(lost) - len(deleted))


def _lacking(index: Index, files: FolderStore, keys: Sequence[str]) -> Sequence[str]:
    """Return the keys in no row, none if no file among them can be added: such files stay until removed by hand.

    Some of them are read.
    """
    unknown = writer.unknown(index, keys) if keys else []
    some = unknown[:: max(1, len(unknown) // MOST_READ)]
    return unknown if any(_can_be_added(index, files, key) for key in some) else []


def _can_be_added(index: Index, files: FolderStore, key: str) -> bool:
    try:
        arrival = read_stored_file(files, key)
    except (InstanceUnreadable, UndecodableDataSet):
        return False
    known = writer.find(index, arrival.header.sop_instance_uid)
    return known is None or is_missing(files, known.file_key)
