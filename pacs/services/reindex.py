"""`pacs reindex`: rebuild the index from the files alone, whether the archive is in use or not.

A temporary index, an SQLite file, is derived from the files by the code that stores instances: oldest first, so that
disagreements are resolved as they were on arrival. Then the index in use is corrected where it differs, some images of
a series at a time. Correct rows are not touched, no row is missing meanwhile, and the next run completes an
interrupted one.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pacs.dicom.levels import QueryLevel
from pacs.errors import (
    DuplicateInstance,
    IndexUnavailable,
    InstanceInUse,
    InstanceMissing,
    InstanceUnreadable,
    StorageUnavailable,
    UndecodableDataSet,
)
from pacs.files.store import FolderStore
from pacs.index import index_diff, maintenance, writer
from pacs.index.database import Index
from pacs.index.index_diff import BatchPosition, Changes, IndexesDiffer, SeriesBatch
from pacs.index.writer import NewInstance, StoredInstance
from pacs.services.fsck import GRACE
from pacs.services.orphans import is_missing
from pacs.services.parent_refresh import refresh
from pacs.services.progress import Progress, no_progress
from pacs.services.scratch_index import scratch_index
from pacs.services.stored_file import headers_of, read_stored_file
from pacs.support.chunks import chunks

BATCH = 500

SECOND = "another file has its SOP Instance UID"
"""Why a complete file is not indexed."""

ATTEMPTS = 10
"""How often a part of the index is compared again because instances arrived in it."""


@dataclass(slots=True)
class Reindexed:
    """The result of a reindex."""

    images: int = 0
    """Instances in the index that have a file."""
    added: int = 0
    """Instances that were not in the index."""
    corrected: int = 0
    """Rows of patients, studies, series and images that differed from the files."""
    removed: int = 0
    """Rows of images without a file, or whose file contains no instance."""
    unusable: dict[str, str] = field(default_factory=dict)
    """Keys of files that are not in the index, with the reason."""

    @property
    def is_well(self) -> bool:
        """Whether all files are in the index."""
        return not self.unusable


class Reindex:
    """Rebuilds the index of an archive from its files.

    With `newest` the newer of two files with the same instance counts where the index has neither, because the archive
    replaces instances by newer ones; otherwise the older.
    """

    def __init__(self, index: Index, files: FolderStore, *, newest: bool = False, grace: float | None = None) -> None:
        self._index, self._files = index, files
        self._newest, self._grace = newest, GRACE if grace is None else grace

    def run(self, progress: Progress = no_progress) -> Reindexed:
        """Correct the index where it differs from the files.

        Raises IndexUnavailable, StorageUnavailable; the latter also, without a change, when there is no file at all but
        the index has instances. Raises ConfigurationError while another maintenance command runs.
        """
        with self._files.maintenance_lock("pacs reindex"), scratch_index(self._files.scratch_folder()) as derived:
            self._files.replay_journals()  # for objects that are in a journal only
            run = _Run(self._index, self._files, derived, newest=self._newest, grace=self._grace)
            result = run.run(progress)
            self._files.incomplete_note().remove()
            return result


class _Run:
    """One run of `Reindex`."""

    def __init__(self, index: Index, files: FolderStore, derived: Index, *, newest: bool, grace: float) -> None:
        self._index, self._files, self._derived = index, files, derived
        self._newest, self._grace = newest, grace
        self._headers = headers_of(files)
        self._changes = Changes()
        self._result = Reindexed()

    def run(self, progress: Progress) -> Reindexed:
        newest = self._files.newest_key()
        total = sum(1 for _ in self._files.keys())  # noqa: SIM118 - no mapping
        if not total:
            self._require_no_row_without_file()
        with progress("reading files", total) as advance:
            self._derive(self._files.keys(), advance)
        self._derive(self._files.keys(since=newest))  # those that were committed meanwhile
        self._wait_for_arrivals()
        with progress("comparing", maintenance.counts(self._derived)[QueryLevel.IMAGE]) as advance:
            for places in index_diff.batch_groups(self._derived):
                advance(self._correct(places))
        self._remove_rows_without_file()
        maintenance.prune(self._index)
        self._forget_transient()
        result = self._result
        result.images = maintenance.counts(self._index)[QueryLevel.IMAGE]
        result.added, result.corrected = len(self._changes.added), self._changes.corrected
        return result

    def _require_no_row_without_file(self) -> None:
        """Raise StorageUnavailable if a row has lost its file; one that is being deleted loses its row first."""
        for row in next(maintenance.pages(self._index), [])[:1]:
            if is_missing(self._files, row.file_key) and not writer.unknown(self._index, [row.file_key]):
                images = maintenance.counts(self._index)[QueryLevel.IMAGE]
                raise StorageUnavailable(
                    f"the index has {images} instances, but there is no file: check files.url; nothing was changed"
                )

    # --- the index derived from the files ----------------------------------------------------------------------------

    def _derive(self, keys: Iterator[str], advance: Callable[[int], None] = lambda count: None) -> None:
        """Add the files that the derived index does not have yet."""
        for batch in chunks(keys, BATCH):
            new = writer.unknown(self._derived, [key for key in batch if key not in self._result.unusable])
            self._add(self._arrivals(new))
            advance(len(batch))

    def _arrivals(self, keys: Iterable[str]) -> list[NewInstance]:
        """Read files; note those that contain no instance."""
        found = []
        for key in keys:
            try:
                found.append(read_stored_file(self._files, key, verify=False))
            except InstanceMissing:  # deleted meanwhile
                continue
            except (UndecodableDataSet, InstanceUnreadable) as error:
                self._result.unusable[key] = error.comment
        return found

    def _add(self, arrivals: list[NewInstance]) -> None:
        """Add instances to the derived index; of files with the same one choose the one of the index in use."""
        named = maintenance.named(self._index, [each.header.sop_instance_uid for each in arrivals])
        for arrival in arrivals:
            chosen = named.get(arrival.header.sop_instance_uid)
            if chosen is not None and chosen.file_key != arrival.file_key and self._is_there(chosen):
                self._note_second(arrival.file_key)
                continue
            try:
                writer.add(self._derived, arrival, self._headers)
            except DuplicateInstance:
                self._choose(arrival)

    def _choose(self, arrival: NewInstance) -> None:
        """Choose between two files with one instance where the index in use has neither, or no longer the older."""
        known = writer.find(self._derived, arrival.header.sop_instance_uid)
        in_use = writer.find(self._index, arrival.header.sop_instance_uid)
        assert known is not None, "no other thread uses the derived index"
        if self._newest or (in_use is not None and in_use.file_key == arrival.file_key):
            former = writer.replace(self._derived, arrival, known.file_key, self._headers)
            refresh(self._derived, self._files, [former])
            if self._is_there(former):
                self._note_second(former.file_key)
        else:
            self._note_second(arrival.file_key)

    def _note_second(self, key: str) -> None:
        self._result.unusable[key] = SECOND

    def _is_there(self, instance: StoredInstance) -> bool:
        try:
            return self._files.size(instance.file_key) == instance.size
        except InstanceUnreadable:
            return False

    # --- the index in use --------------------------------------------------------------------------------------------

    def _wait_for_arrivals(self) -> None:
        """Wait if there are files in no row: they may be arriving or being deleted."""
        for page in maintenance.pages(self._derived):
            if writer.unknown(self._index, [each.file_key for each in page]):
                time.sleep(self._grace)
                return

    def _correct(self, places: Sequence[BatchPosition]) -> int:
        """Correct some parts of the index, and return how many images they have."""
        known: set[str] = set()
        for _ in range(ATTEMPTS):
            wanted = [each for place in places if (each := index_diff.read_batch(self._derived, place)) is not None]
            wrong = [each for each in wanted if not index_diff.is_correct(self._index, each)]
            if wrong and self._forget_deleted(key for each in wrong for key in each.file_keys):
                continue
            try:
                if wrong:
                    self._correct_batches(wrong, known)
            except IndexesDiffer as differing:
                self._add(self._arrivals(differing.unknown))
                self._forget_deleted(differing.gone)
                known.update(differing.unknown, differing.gone)
            else:
                return sum(len(each.images) for each in wanted)
        raise IndexUnavailable("the index changes faster than it can be compared: try again later")

    def _correct_batches(self, wrong: Sequence[SeriesBatch], known: Collection[str]) -> None:
        """Correct batches; the files that get a row are locked, so that no other process deletes them."""
        orphaned = writer.unknown(self._index, [key for each in wrong for key in each.file_keys])
        with self._files.lock(orphaned) as addable:
            self._changes.add(index_diff.correct(self._index, wrong, self._derived, known, addable=addable))

    def _forget_deleted(self, keys: Iterable[str]) -> bool:
        """Remove files that were deleted meanwhile from the derived index, and return whether there were any."""
        gone = maintenance.forget(self._derived, [key for key in keys if is_missing(self._files, key)])
        refresh(self._derived, self._files, gone)
        return bool(gone)

    def _forget_transient(self) -> None:
        """Report no files that were only being stored, replaced or deleted: these are gone or in a row by now."""
        for key, why in list(self._result.unusable.items()):
            if self._is_transient(key, why):
                del self._result.unusable[key]

    def _is_transient(self, key: str, why: str) -> bool:
        try:
            with self._files.lock([key]):
                return is_missing(self._files, key) or (why == SECOND and writer.is_in_row(self._index, key))
        except InstanceInUse:
            return True

    def _remove_rows_without_file(self) -> None:
        """Remove rows whose file is missing or contains no instance, now and again after the grace period."""
        suspected = [key for page in maintenance.pages(self._index) for key in self._without_instance(page)]
        if not suspected:
            return
        time.sleep(self._grace)
        for batch in chunks(suspected, BATCH):
            again = list(maintenance.with_files(self._index, batch).values())
            self._result.removed += len(maintenance.forget(self._index, self._without_instance(again)))

    def _without_instance(self, page: list[StoredInstance]) -> list[str]:
        """Return the files of these rows that are missing or contain no instance."""
        unknown = set(writer.unknown(self._derived, [each.file_key for each in page]))
        return [
            each.file_key
            for each in page
            if is_missing(self._files, each.file_key)
            or (each.file_key in unknown and self._contains_none(each.file_key))
        ]

    def _contains_none(self, key: str) -> bool:
        try:
            read_stored_file(self._files, key, verify=False)
        except UndecodableDataSet:
            return True
        except InstanceUnreadable:
            return False
        return False
