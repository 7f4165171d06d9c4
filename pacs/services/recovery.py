"""After an unclean stop: bring the index up to what the file store has. Files are durable before anything else.

While a server runs the index may commit without a sync of its own (`Index.is_recoverable`): a power cut can cost it
the last instances it was given, never anything else, and their files are whole and say all that a row needs. A marker,
an empty folder locked for as long as its process lives, tells that one stopped without cleaning up.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from pacs.errors import DuplicateInstance, IndexUnavailable, InstanceUnreadable, StorageUnavailable, UndecodableDataSet
from pacs.files.process_lock import HeldFolder, held_folders, is_held
from pacs.files.store import FileStore
from pacs.index import writer
from pacs.index.database import Index
from pacs.observability.events import Event, Notice
from pacs.services.orphans import adopt
from pacs.services.parent_refresh import refresh
from pacs.services.stored_file import arrival_of

MARGIN = timedelta(days=1)
"""How much older than the newest one in the index a file may be that the index lost: some arrive slowly."""

BATCH = 500


class Recovery:
    """Finds what the index lost at the last unclean stop, and has the next one find what this process leaves behind."""

    def __init__(self, index: Index, files: FileStore, folder: Path, publish: Callable[[Event], None]) -> None:
        self._index, self._files, self._publish = index, files, publish
        self._folder = folder
        self._marker: HeldFolder | None = None
        self._leaves_work = False

    def begin(self) -> int:
        """Take in what the index does not know if the last process stopped uncleanly; how many instances that were.

        From here on the index may rely on this being done again. Raises IndexUnavailable, StorageUnavailable.
        """
        try:
            left = held_folders(self._folder)
            self._marker = HeldFolder.make(self._folder)
            # While another process lives there was no power cut, and what is in no row yet may be on its way into one.
            abandoned = [] if any(map(is_held, left)) else left
            found = self._adopt_all() if abandoned else 0
            for path in abandoned:
                with suppress(FileNotFoundError):  # somebody who started at the same time was first
                    path.rmdir()
        except OSError as error:
            raise StorageUnavailable("The marker of a running server cannot be written") from error
        self._index.is_recoverable = True
        return found

    def leave_work(self) -> None:
        """Have the next one look for what is missing, although this one ends in order: one of its workers did not."""
        self._leaves_work = True

    def end(self) -> None:
        """Note that all is well, when the index says so; to be called before it is closed. Twice does no harm."""
        if self._marker is None:
            return
        marker, self._marker = self._marker, None
        self._index.is_recoverable = False
        is_settled = False
        with suppress(IndexUnavailable):
            is_settled = self._index.settle()
        with suppress(OSError):  # then the next start looks for what is not missing: only time
            marker.release(remove=is_settled and not self._leaves_work)

    # --- what the index does not know -----------------------------------------------------------------------------

    def _adopt_all(self) -> int:
        found = sum(map(self._adopt, self._unknown()))
        if found:
            self._publish(Notice(sentence=f"{found} instances were in no row after an unclean stop: taken in again"))
        return found

    def _unknown(self) -> Iterator[str]:
        last = writer.last_received_at(self._index)
        since = datetime.fromtimestamp(last / 1_000_000, UTC) - MARGIN if last is not None else None
        keys = self._files.keys(since)
        while batch := list(islice(keys, BATCH)):
            yield from writer.unknown(self._index, batch)

    def _adopt(self, key: str) -> bool:
        """Take in one file; whether it is in the index now. What cannot be taken in is told, and left where it is."""
        try:
            try:
                adopt(self._index, self._files, key)
            except DuplicateInstance:
                return self._settle(key)
        except (UndecodableDataSet, InstanceUnreadable, DuplicateInstance) as error:
            self._publish(Notice(sentence=f"file {key} is in no row and was not taken in: {error.comment}"))
            return False
        return True

    def _settle(self, key: str) -> bool:
        """Decide between a file in no row and the row of its instance: whether it takes the place of that row's file.

        It does when that one is damaged and was the same. It is deleted when it says the same, as when a sender had
        sent again, or is the older one of two, as when it was replaced. Raises DuplicateInstance otherwise.
        """
        arrival = arrival_of(self._files, key)
        known = writer.find(self._index, arrival.header.sop_instance_uid)
        if known is not None and known.file_key == key:
            return True
        if known is None:
            raise DuplicateInstance("its SOP Instance UID was known, and is no more")
        is_same = (known.digest, known.transfer_syntax) == (arrival.digest, arrival.transfer_syntax)
        try:
            arrival_of(self._files, known.file_key)
        except (InstanceUnreadable, UndecodableDataSet) as error:
            if not is_same:
                raise DuplicateInstance("another file has its SOP Instance UID, and is damaged") from error
            refresh(self._index, self._files, [writer.replace(self._index, arrival)])
            return True
        if not is_same and key > known.file_key:  # keys are in the order of time
            raise DuplicateInstance("another file has its SOP Instance UID")
        if not writer.unknown(self._index, [key]):  # it took the place of that file meanwhile
            return True
        self._files.delete(key)
        return False
