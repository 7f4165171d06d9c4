"""Keeps the rows of patients, studies and series equal to what the files of their instances say, oldest first.

When an instance is stored, its parents are filled from it, and earlier values stay (`pacs.index.writer`). When one is
removed, the values that only it had have to go as well: else the index could not be rebuilt from the files, and the
wrong name of a single image would outlive that image.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

from pacs.dicom import row_elements
from pacs.dicom.header import Header
from pacs.dicom.levels import QueryLevel
from pacs.files.store import ObjectStore
from pacs.index import maintenance
from pacs.index.database import Index
from pacs.index.key_order import Headers
from pacs.index.maintenance import ParentRow
from pacs.index.rows import patient_identity
from pacs.index.writer import StoredInstance
from pacs.services.stored_file import headers_of

ATTEMPTS = 10
"""How often a refresh starts again because instances arrived or were removed meanwhile."""

FEW, MANY = 3, 500
"""How many files are looked up at first, and in each later step."""


def refresh(
    index: Index, files: ObjectStore, removed: Sequence[StoredInstance], removed_header: Header | None = None
) -> None:
    """Set the parents of removed instances to the values of the instances that remain.

    Where all instances agree one file is read. `removed_header` is that of the only removed instance: then values that
    differ from it are kept without reading files. Raises IndexUnavailable, StorageUnavailable.
    """
    misplaced: list[str] = []
    read = lru_cache(MANY)(headers_of(files))
    for _ in range(ATTEMPTS if removed else 0):
        outcomes = [_refresh_row(index, read, parent, removed_header) for parent in maintenance.parents(index, removed)]
        misplaced = [each for each in outcomes if isinstance(each, str)]
        if None not in outcomes:
            break
    if misplaced:
        maintenance.rebuild_patients(index, misplaced, read)


def _refresh_row(index: Index, read: Headers, parent: ParentRow, removed: Header | None) -> bool | str | None:
    """Correct a row and return True; None if it changed meanwhile; or the key of a file that belongs to another row."""
    newest = maintenance.newest(index, parent)
    # Values that differ from the removed instance's come from other instances, and stay.
    wanted = parent.kept if removed is None else row_elements.common(parent.kept, removed.kept[parent.level])
    values: bytes | None = None
    for place, (key, header, study) in enumerate(_headers(index, read, parent)):
        if not _contributes(parent, header, study, is_first=values is None):
            if values is None and place == 0:
                return key
            continue
        values = header.kept[parent.level] if values is None else row_elements.merge(values, header.kept[parent.level])
        if row_elements.merge(values, wanted) == values:  # all wanted values are found
            break
    if values is not None and removed is not None:
        values = row_elements.replace_elements(parent.kept, wanted, values)
    if values is None or values == parent.kept:
        return True
    return True if maintenance.rewrite(index, parent, values, newest) else None


def _headers(index: Index, read: Headers, parent: ParentRow) -> Iterator[tuple[str, Header, str]]:
    """Yield the instances below a row, oldest first: file key, header, and the Study Instance UID of their row."""
    after, limit = "", FEW
    while page := maintenance.files_under(index, parent, after, limit):
        for key, study in page:
            if (header := read(key)) is not None:
                yield key, header, study
        after, limit = page[-1][0], MANY


def _contributes(parent: ParentRow, header: Header, study: str, *, is_first: bool) -> bool:
    """Whether an instance below a row contributes to its values; the first one also has to belong below that row."""
    identity = tuple(patient_identity(header).values())
    if parent.level is QueryLevel.PATIENT:
        return header.study_instance_uid == study and identity == parent.identity
    if parent.level is QueryLevel.STUDY:
        return header.study_instance_uid == study and (not is_first or identity == parent.above)
    return not is_first or header.study_instance_uid == study
