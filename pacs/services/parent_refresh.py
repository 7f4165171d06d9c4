"""Rows of patients, studies and series say what the files of their instances say, oldest first.

When an instance is taken in, its row's parents are filled from it, and what was said first stays (`pacs.index.writer`).
When one goes, what it alone said has to go as well: else the index could not be made again from the files, and the
wrong name under which one image came would outlive that image.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from pacs.dicom import row_elements
from pacs.dicom.header import Header
from pacs.dicom.levels import QueryLevel
from pacs.errors import DuplicateInstance, InstanceUnreadable, UndecodableDataSet
from pacs.files.store import ObjectStore
from pacs.index import index_diff, upkeep, writer
from pacs.index.database import Index
from pacs.index.index_diff import IndexesDiffer
from pacs.index.rows import patient_identity
from pacs.index.upkeep import ParentRow
from pacs.index.writer import StoredInstance
from pacs.services.scratch_index import scratch_index
from pacs.services.stored_file import arrival_of

ATTEMPTS = 10
"""How often it is begun again because something arrived or went meanwhile."""

FEW, MANY = 3, 500
"""How many files are looked up at first, and then."""


def refresh(index: Index, files: ObjectStore, removed: Sequence[StoredInstance], said: Header | None = None) -> None:
    """Have the rows that instances were removed from say what those say that are left there.

    Where all agree, as they should, one file is read. With `said`, what the only removed instance said, this goes for
    all that others said alone as well: it is not asked for. Raises IndexUnavailable, StorageUnavailable.
    """
    misplaced: list[str] = []
    read = lru_cache(MANY)(lambda key: arrival_of(files, key, verify=False).header)
    for _ in range(ATTEMPTS if removed else 0):
        outcomes = [_refreshed(index, read, parent, said) for parent in upkeep.parents(index, removed)]
        misplaced = [each for each in outcomes if isinstance(each, str)]
        if None not in outcomes:
            break
    if misplaced:
        _place_anew(index, files, misplaced)


_Read = Callable[[str], Header]
"""What a file says, by its key."""


def _refreshed(index: Index, read: _Read, parent: ParentRow, removed: Header | None) -> bool | str | None:
    """Whether a row is right now, None if it changed meanwhile; or the file of an instance that belongs elsewhere."""
    newest = upkeep.newest(index, parent)
    # What the row says otherwise than the removed one did it has from somebody else.
    asked = parent.kept if removed is None else row_elements.common(parent.kept, removed.kept[parent.level])
    said: bytes | None = None
    for place, (key, header, study) in enumerate(_headers(index, read, parent)):
        if not _contributes(parent, header, study, is_first=said is None):
            if said is None and place == 0:
                return key
            continue
        said = header.kept[parent.level] if said is None else row_elements.merge(said, header.kept[parent.level])
        if row_elements.merge(said, asked) == said:  # nothing that is asked for is missing: nobody can add to it
            break
    if said is not None and removed is not None:
        said = row_elements.replace_elements(parent.kept, asked, said)
    if said is None or said == parent.kept:
        return True
    return True if upkeep.rewrite(index, parent, said, newest) else None


def _headers(index: Index, read: _Read, parent: ParentRow) -> Iterator[tuple[str, Header, str]]:
    """The instances of a row, oldest first: file key, header, and the Study Instance UID of the row each is under."""
    after, limit = "", FEW
    while page := upkeep.files_under(index, parent, after, limit):
        for key, study in page:
            try:
                yield key, read(key), study
            except (UndecodableDataSet, InstanceUnreadable):  # fsck tells
                continue
        after, limit = page[-1][0], MANY


def _contributes(parent: ParentRow, header: Header, study: str, *, is_first: bool) -> bool:
    """Whether a row says what an instance below it says; the first one also has to belong where the row is."""
    identity = tuple(patient_identity(header).values())
    if parent.level is QueryLevel.PATIENT:
        return header.study_instance_uid == study and identity == parent.identity
    if parent.level is QueryLevel.STUDY:
        return header.study_instance_uid == study and (not is_first or identity == parent.above)
    return not is_first or header.study_instance_uid == study


# --- where things belong ------------------------------------------------------------------------------------------


def _place_anew(index: Index, files: ObjectStore, seeds: Sequence[str]) -> None:
    """Make anew the rows of the patients that the instances with these files belong to, or should belong to."""
    keys = set(upkeep.files_of_patients(index, seeds))
    for _ in range(ATTEMPTS):
        try:
            _correct(index, files, keys)
        except IndexesDiffer as differing:
            keys.update(differing.unknown, upkeep.files_of_patients(index, differing.unknown))
        else:
            upkeep.prune(index)
            return


def _correct(index: Index, files: ObjectStore, keys: set[str]) -> None:
    with scratch_index() as derived:
        for key in sorted(keys):
            try:
                writer.add(derived, arrival_of(files, key, verify=False))
            except (DuplicateInstance, UndecodableDataSet, InstanceUnreadable):
                continue
        for places in index_diff.batch_groups(derived):
            wanted = [each for place in places if (each := index_diff.read_batch(derived, place)) is not None]
            wrong = [each for each in wanted if not index_diff.is_right(index, each)]
            if wrong:
                index_diff.correct(index, wrong, derived, keys, adds=False)
