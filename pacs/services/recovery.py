"""Recovery after an unclean stop: adds the instances to the index that are in the file store only.

Files are durable before anything else. While a server runs, the index may commit without a sync of its own
(`Index.is_recoverable`): a power cut can cost it the instances it was given last, and nothing else; their files are
complete and hold everything that a row needs. A marker in the file store tells whether the last server stopped
uncleanly, and marks in it tell the hours whose instances the index may have lost: neither a clock nor a row counts.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress

from pacs.errors import DuplicateInstance, IndexUnavailable, InstanceUnreadable, UndecodableDataSet
from pacs.files.running_marker import RunningMarker
from pacs.files.store import FolderStore
from pacs.index import writer
from pacs.index.database import Index
from pacs.index.writer import NewInstance, StoredInstance
from pacs.observability.events import Event, Notice
from pacs.services import orphans
from pacs.services.parent_refresh import refresh
from pacs.services.stored_file import headers_of, read_stored_file
from pacs.support.chunks import chunks

EARLIER_VERSION = (
    "the server that stopped uncleanly was of an earlier version, which did not note when it stored files: "
    "all files are compared with the index, this once"
)

BATCH = 500


class Recovery:
    """Recovers the index at the start of a server, and leaves a marker for the next start."""

    def __init__(
        self,
        index: Index,
        files: FolderStore,
        publish: Callable[[Event], None],
        has_uncertain_files: Callable[[], bool] = lambda: False,
    ) -> None:
        """`has_uncertain_files` returns whether there are files of which this server does not know if they have a row.

        The next start finds out.
        """
        self._index, self._files, self._publish = index, files, publish
        self._has_uncertain_files = has_uncertain_files
        self._marker: RunningMarker | None = None
        self._is_needed = False

    def begin(self) -> int:
        """Mark the server as running, and after an unclean stop add lost instances. Return the number of them.

        From here on the index may rely on the next recovery. Raises IndexUnavailable, StorageUnavailable.
        """
        self._marker = self._files.mark_running()
        found = self._adopt_all() if self._marker.is_after_unclean_stop else 0
        # A killed server leaves rows that are not durable yet: a power cut now would take them and this marker.
        if self._index.sync():
            self._marker.forget_unclean_stop()
        self._rely_on(self._marker)
        return found

    def join(self, begun: "Recovery") -> None:
        """Rely on the marker that `begun` has made in the supervisor of this worker process."""
        if begun._marker is not None:
            self._rely_on(begun._marker)

    def _rely_on(self, marker: RunningMarker) -> None:
        self._files.mark_hours(marker, self._are_rows_durable)
        self._index.is_recoverable = True

    def _are_rows_durable(self) -> bool:
        return not self._has_uncertain_files() and self._index.sync()

    def describe(self, server: str) -> None:
        """Say in the marker which server it is of. Raises StorageUnavailable."""
        if self._marker is not None:
            self._marker.describe(server)

    def require(self) -> None:
        """Make the next start recover although this server stops cleanly, because a worker failed."""
        self._is_needed = True

    @property
    def is_needed(self) -> bool:
        """Whether the next start has to recover although this process stops cleanly."""
        return self._is_needed or self._has_uncertain_files()

    def end(self) -> None:
        """Remove the marker if all is in the index durably; called before it is closed. Twice does no harm."""
        if self._marker is None:
            return
        marker, self._marker = self._marker, None
        self._index.is_recoverable = False
        is_settled = False
        with suppress(IndexUnavailable):
            is_settled = self._index.settle()
        marker.release(is_clean=is_settled and not self.is_needed)

    # --- files in no row ---------------------------------------------------------------------------------------------

    def _adopt_all(self) -> int:
        found = sum(map(self._adopt, self._unknown()))
        if found:
            self._publish(
                Notice(sentence=f"{found} instances were missing in the index after an unclean stop: added again")
            )
        return found

    def _unknown(self) -> Iterator[str]:
        for batch in chunks(self._keys(), BATCH):
            yield from writer.unknown(self._index, batch)

    def _keys(self) -> Iterator[str]:
        """Return the keys of files whose rows the last server may have lost."""
        hours = self._marker.hours() if self._marker is not None else set()
        if hours is not None:
            return self._files.keys_of_hours(hours)
        self._publish(Notice(sentence=EARLIER_VERSION))
        return self._files.keys()

    def _adopt(self, key: str) -> bool:
        """Add a file to the index, and return whether it is in it now. A file that cannot be added is logged."""
        try:
            try:
                orphans.adopt(self._index, self._files, key)
            except DuplicateInstance:
                return self._choose(key)
        except (UndecodableDataSet, InstanceUnreadable, DuplicateInstance) as error:
            self._publish(Notice(sentence=f"file {key} is not in the index and was not added: {error.comment}"))
            return False
        return True

    def _choose(self, key: str) -> bool:
        """Choose between a file in no row and the file in the row of its instance; return whether it is the former.

        It is when the other one is damaged and had the same content. The file in no row is deleted when it has the same
        content, as when a sender has sent again, or is the older of two, as when the instance was replaced. Otherwise
        raises DuplicateInstance.
        """
        arrival = read_stored_file(self._files, key)
        known = writer.find(self._index, arrival.header.sop_instance_uid)
        if known is not None and known.file_key == key:
            return True
        if known is None:
            raise DuplicateInstance("the row of its SOP Instance UID has just been removed")
        is_same = (known.digest, known.transfer_syntax) == (arrival.digest, arrival.transfer_syntax)
        try:
            read_stored_file(self._files, known.file_key)
        except (InstanceUnreadable, UndecodableDataSet) as error:
            if not is_same:
                raise DuplicateInstance("another file has its SOP Instance UID, and is damaged") from error
            self._take_row(arrival, known)
            return True
        if not is_same and key > known.file_key:  # keys are in the order of the commits
            raise DuplicateInstance("another file has its SOP Instance UID")
        return orphans.take_away(self._index, self._files, key, self._delete) is None

    def _delete(self, key: str) -> bool:
        self._files.delete(key)
        return True

    def _take_row(self, arrival: NewInstance, known: StoredInstance) -> None:
        """Give the row of an instance whose file is damaged to another file with the same content."""
        with orphans.locked(self._files, arrival.file_key):
            former = writer.replace(self._index, arrival, known.file_key, headers_of(self._files))
        refresh(self._index, self._files, [former])
