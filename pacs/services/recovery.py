"""Recovery after an unclean stop: adds the instances to the index that are in the file store only.

Files are durable before anything else. While a server runs, the index may commit without a sync of its own
(`Index.is_recoverable`): a power cut can cost it the instances it was given last, and nothing else; their files are
complete and hold everything that a row needs. A marker in the file store tells whether the last server stopped
uncleanly.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta

from pacs.errors import DuplicateInstance, IndexUnavailable, InstanceUnreadable, UndecodableDataSet
from pacs.files.layout import hour, hour_of, start_of
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

MARGIN = timedelta(days=1)
"""How much older than the file of the row that was added last a lost file may be."""

BATCH = 500


class Recovery:
    """Recovers the index at the start of a server, and leaves a marker for the next start."""

    def __init__(self, index: Index, files: FolderStore, publish: Callable[[Event], None]) -> None:
        self._index, self._files, self._publish = index, files, publish
        self._marker: RunningMarker | None = None
        self._is_needed = False

    def begin(self) -> int:
        """Mark the server as running, and after an unclean stop add lost instances. Return the number of them.

        From here on the index may rely on the next recovery. Raises IndexUnavailable, StorageUnavailable.
        """
        self._marker = self._files.mark_running()
        found = self._adopt_all() if self._marker.is_after_unclean_stop else 0
        self._marker.forget_unclean_stop()
        self._index.is_recoverable = True
        return found

    def describe(self, server: str) -> None:
        """Say in the marker which server it is of. Raises StorageUnavailable."""
        if self._marker is not None:
            self._marker.describe(server)

    def require(self) -> None:
        """Make the next start recover although this server stops cleanly, because a worker or a commit failed."""
        self._is_needed = True

    def end(self) -> None:
        """Remove the marker if all is in the index durably; called before it is closed. Twice does no harm."""
        if self._marker is None:
            return
        marker, self._marker = self._marker, None
        self._index.is_recoverable = False
        is_settled = False
        with suppress(IndexUnavailable):
            is_settled = self._index.settle()
        marker.release(is_clean=is_settled and not self._is_needed)

    # --- files in no row ---------------------------------------------------------------------------------------------

    def _adopt_all(self) -> int:
        found = sum(map(self._adopt, self._unknown()))
        if found:
            self._publish(
                Notice(sentence=f"{found} instances were missing in the index after an unclean stop: added again")
            )
        return found

    def _unknown(self) -> Iterator[str]:
        last = writer.last_file_key(self._index)
        since = f"{hour(start_of(hour_of(last)) - MARGIN)}/" if last else ""
        for batch in chunks(self._files.keys(since), BATCH):
            yield from writer.unknown(self._index, batch)

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
        if not is_same and key > known.file_key:  # keys are in order of arrival
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
