"""`pacs reindex`: the whole index from the files alone, while the archive is in use or not.

An index is derived from the files aside, in an SQLite file of its own, by the very code that takes instances in: oldest
first, so that what disagrees is resolved as it was on arrival. Then the index in use is corrected where it says
something else, some images of a series at a time. What is right already is not touched, nothing is missing meanwhile,
and a run that was cut off is made up for by the next one.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from pacs.dicom.levels import QueryLevel
from pacs.errors import (
    DuplicateInstance,
    IndexUnavailable,
    InstanceMissing,
    InstanceUnreadable,
    StorageUnavailable,
    UndecodableDataSet,
)
from pacs.files.store import FileStore
from pacs.index import index_diff, upkeep, writer
from pacs.index.database import Index
from pacs.index.index_diff import BatchPosition, Changes, IndexesDiffer
from pacs.index.writer import NewInstance, StoredInstance
from pacs.services.fsck import GRACE
from pacs.services.parent_refresh import refresh
from pacs.services.progress import Progress, silent
from pacs.services.scratch_index import scratch_index
from pacs.services.stored_file import arrival_of

BATCH = 500

ATTEMPTS = 10
"""How often a part of the index is looked at again because something arrived in it."""


@dataclass(slots=True)
class Reindexed:
    """What came of it."""

    images: int = 0
    """Instances in the index now, as far as they are in a file."""
    added: int = 0
    """Those that were in no row."""
    corrected: int = 0
    """Rows of patients, studies, series and images that said something else than the files."""
    removed: int = 0
    """Rows of images that have no file, or none that can be read as an instance."""
    unusable: dict[str, str] = field(default_factory=dict)
    """Files that are in no row now, with why: by key."""

    @property
    def is_well(self) -> bool:
        """Whether all files are in the index."""
        return not self.unusable


class Reindex:
    """Makes the index of an archive say what its files say.

    What is derived aside is kept in a folder of its own in `folder` as long as it is needed. `newest` says which of two
    files with one instance counts where the index names neither: the archive replaces older instances by newer ones.
    """

    def __init__(
        self, index: Index, files: FileStore, folder: Path, *, newest: bool = False, grace: float | None = None
    ) -> None:
        self._index, self._files, self._folder = index, files, folder
        self._newest, self._grace = newest, GRACE if grace is None else grace

    def run(self, progress: Progress = silent) -> Reindexed:
        """Make the index say what the files say.

        Raises IndexUnavailable, StorageUnavailable; the latter also, and nothing is changed, where there is no file at
        all for an index that has instances. Raises ConfigurationError when somebody else is mending this archive.
        """
        with self._files.alone("pacs reindex"), scratch_index(self._folder) as derived:
            self._files.replay()  # what is durable in a journal alone
            run = _Run(self._index, self._files, derived, newest=self._newest, grace=self._grace)
            return run.run(progress)


class _Run:
    """One run over all files."""

    def __init__(self, index: Index, files: FileStore, derived: Index, *, newest: bool, grace: float) -> None:
        self._index, self._files, self._derived = index, files, derived
        self._newest, self._grace = newest, grace
        self._changes = Changes()
        self._result = Reindexed()

    def run(self, progress: Progress) -> Reindexed:
        began = datetime.now(UTC)
        total = sum(1 for _ in self._files.keys())  # noqa: SIM118 - no mapping
        images = upkeep.counts(self._index)[QueryLevel.IMAGE]
        if images and not total:
            raise StorageUnavailable(
                f"there is no file for any of {images} instances: is the folder of the files there? Nothing was changed"
            )
        with progress("reading files", total) as advance:
            self._derive(self._files.keys(), advance)
        self._derive(self._files.keys(began - timedelta(hours=1)))
        self._let_settle()
        with progress("comparing", upkeep.counts(self._derived)[QueryLevel.IMAGE]) as advance:
            for places in index_diff.batch_groups(self._derived):
                advance(self._correct(places))
        self._remove_what_has_no_file()
        upkeep.prune(self._index)
        result = self._result
        result.images = upkeep.counts(self._index)[QueryLevel.IMAGE]
        result.added, result.corrected = len(self._changes.added), self._changes.corrected
        return result

    # --- what the files say ---------------------------------------------------------------------------------------

    def _derive(self, keys: Iterator[str], advance: Callable[[int], None] = lambda count: None) -> None:
        """Take in what the derived index does not know yet."""
        while batch := list(islice(keys, BATCH)):
            new = writer.unknown(self._derived, [key for key in batch if key not in self._result.unusable])
            self._take_in(self._arrivals(new))
            advance(len(batch))

    def _arrivals(self, keys: Iterable[str]) -> list[NewInstance]:
        """What files say; those that hold no instance are noted."""
        found = []
        for key in keys:
            try:
                found.append(arrival_of(self._files, key, verify=False))
            except InstanceMissing:  # deleted meanwhile
                continue
            except (UndecodableDataSet, InstanceUnreadable) as error:
                self._result.unusable[key] = error.comment
        return found

    def _take_in(self, arrivals: list[NewInstance]) -> None:
        named = upkeep.named(self._index, [each.header.sop_instance_uid for each in arrivals])
        for arrival in arrivals:
            chosen = named.get(arrival.header.sop_instance_uid)
            if chosen is not None and chosen.file_key != arrival.file_key and self._is_there(chosen):
                self._note_second(arrival.file_key)
                continue
            try:
                writer.add(self._derived, arrival)
            except DuplicateInstance:
                self._choose(arrival)

    def _choose(self, arrival: NewInstance) -> None:
        """Two files have one instance, and the index names neither, or the older one no more."""
        known = writer.find(self._derived, arrival.header.sop_instance_uid)
        in_use = writer.find(self._index, arrival.header.sop_instance_uid)
        if known is None or self._newest or (in_use is not None and in_use.file_key == arrival.file_key):
            former = writer.replace(self._derived, arrival)
            refresh(self._derived, self._files, [former])
            if self._is_there(former):
                self._note_second(former.file_key)
        else:
            self._note_second(arrival.file_key)

    def _note_second(self, key: str) -> None:
        self._result.unusable[key] = "another file has its SOP Instance UID"

    def _is_there(self, instance: StoredInstance) -> bool:
        try:
            return self._files.size(instance.file_key) == instance.size
        except InstanceUnreadable:
            return False

    # --- the index in use -----------------------------------------------------------------------------------------

    def _let_settle(self) -> None:
        """Wait, if there are files in no row: they may be on their way in or out."""
        for page in upkeep.pages(self._derived):
            if writer.unknown(self._index, [each.file_key for each in page]):
                time.sleep(self._grace)
                return

    def _correct(self, places: Sequence[BatchPosition]) -> int:
        """Make the index say what is derived of some parts; how many images these have."""
        known: set[str] = set()
        for _ in range(ATTEMPTS):
            wanted = [each for place in places if (each := index_diff.read_batch(self._derived, place)) is not None]
            wrong = [each for each in wanted if not index_diff.is_right(self._index, each)]
            if wrong and self._forget_deleted(key for each in wrong for key in each.file_keys):
                continue
            try:
                if wrong:
                    self._changes.add(index_diff.correct(self._index, wrong, self._derived, known))
            except IndexesDiffer as differing:
                self._take_in(self._arrivals(differing.unknown))
                self._forget_deleted(differing.gone)
                known.update(differing.unknown, differing.gone)
            else:
                return sum(len(each.images) for each in wanted)
        raise IndexUnavailable("the index changes faster than it can be compared: try again later")

    def _forget_deleted(self, keys: Iterable[str]) -> bool:
        """Whether some of these files were deleted meanwhile: what they said is not to come back."""
        gone = upkeep.forget(self._derived, [key for key in keys if self._is_missing(key)])
        refresh(self._derived, self._files, gone)
        return bool(gone)

    def _is_missing(self, key: str) -> bool:
        try:
            self._files.size(key)
        except InstanceMissing:
            return True
        except InstanceUnreadable:
            return False
        return False

    def _remove_what_has_no_file(self) -> None:
        """Remove rows whose file is missing or holds no instance, once they have had their time."""
        doubtful = [key for page in upkeep.pages(self._index) for key in self._doubtful(page)]
        if not doubtful:
            return
        time.sleep(self._grace)
        for start in range(0, len(doubtful), BATCH):
            again = list(upkeep.with_files(self._index, doubtful[start : start + BATCH]).values())
            self._result.removed += len(upkeep.forget(self._index, self._doubtful(again)))

    def _doubtful(self, page: list[StoredInstance]) -> list[str]:
        """The files of a page of rows that are missing, or hold no instance."""
        unknown = set(writer.unknown(self._derived, [each.file_key for each in page]))
        return [
            each.file_key
            for each in page
            if self._is_missing(each.file_key) or (each.file_key in unknown and self._holds_none(each.file_key))
        ]

    def _holds_none(self, key: str) -> bool:
        try:
            arrival_of(self._files, key, verify=False)
        except UndecodableDataSet:
            return True
        except InstanceUnreadable:
            return False
        return False
