"""Completes an index that lacks files, while the server runs: it is noticed at the start, and by each later start.

An index lacks files when its database was lost, or restored from an older backup. Rows are only added: a row without a
file says that a file was lost, which the index cannot mend.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

from pacs.errors import (
    DuplicateInstance,
    IndexUnavailable,
    InstanceMissing,
    InstanceUnreadable,
    OutOfResources,
    PacsError,
    UndecodableDataSet,
)
from pacs.files.incomplete_note import CompletionProgress
from pacs.files.store import FolderStore
from pacs.index import writer
from pacs.index.database import Index
from pacs.observability.events import CompletionProgressed, Event, IndexIncomplete, Notice
from pacs.services.completeness import Comparison, compare
from pacs.services.orphans import adopt
from pacs.support.chunks import chunks
from pacs.support.threads import start_thread

Heal = bool | Literal["answer"]
"""Whether the server completes the index; with "answer" it answers queries meanwhile."""

BATCH = 100
"""Files compared with the index at a time."""

REPORT_SECONDS = 10.0
"""Seconds between two events of progress."""

RETRY_SECONDS = 2.0
"""Seconds until the next attempt, after a failure or while another process completes the index."""

ATTEMPTS = 30
"""How often a file is tried that is in use."""

STOP_SECONDS = 5.0
"""Seconds that a stop waits for the thread."""


class Healing:
    """Notices that the index lacks files, and completes it between `start` and `stop`, in one process at a time."""

    def __init__(self, index: Index, files: FolderStore, publish: Callable[[Event], None], heal: Heal) -> None:
        self._index, self._files, self._publish, self._heal = index, files, publish, heal
        self._note = files.incomplete_note()
        self._comparison = Comparison(0, 0, 0, 0)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def progress(self) -> CompletionProgress | None:
        """Return how far the index is completed, None if it is complete. Raises StorageUnavailable."""
        return self._note.progress() if self._note.exists() else None

    def look(self) -> None:
        """Compare index and files at the start, and publish what differs. Raises IndexUnavailable, StorageUnavailable.

        That the index lacks files is noted durably, until it is completed here or by `pacs reindex`.
        """
        found = self._comparison = compare(self._index, self._files)
        if found.lacks_rows and not found.lacks_files:
            self._note.create()
        if fault := self._fault():
            self._publish(IndexIncomplete(sentence=fault))

    def join(self, prepared: "Healing") -> None:
        """Go on as a worker with what `prepared` has found in the supervisor."""
        self._comparison = prepared._comparison

    def _fault(self) -> str:
        """Return what differs, '' for nothing."""
        if self._comparison.lacks_files:
            return self._comparison.fault
        if not self._note.exists():
            return ""
        if self._heal:
            return f"the index lacks files of the file store: completing it {self._progress()}"
        return self._comparison.fault or "the index lacks files of the file store: run `pacs reindex`"

    def _progress(self) -> str:
        found = self._note.progress()
        return f"({found.checked} of {found.total} files checked, {found.added} added)"

    # --- while the index is incomplete -----------------------------------------------------------------------------

    def check(self) -> None:
        """Raise IndexUnavailable with the reason why this server is not ready. Raises StorageUnavailable."""
        if self._comparison.lacks_files:
            self._comparison = compare(self._index, self._files)
        if (fault := self._fault()) and (self._heal != "answer" or self._comparison.lacks_files):
            raise IndexUnavailable(fault)

    def admit_query(self) -> None:
        """Raise IndexUnavailable while queries have to wait until the index is complete."""
        if self._heal is True and (progress := self.progress()) is not None:
            raise IndexUnavailable(f"the index is being completed ({progress.percent} %): try again later")

    # --- completing it ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to complete the index, if it lacks files and this is to be done here."""
        if self._heal and self._note.exists():
            self._thread = start_thread("pacs-heal", self._run)

    def stop(self) -> None:
        """Stop; the next start goes on."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        """Complete the index, or wait until another process has."""
        completion, trouble = _Completion(self._index, self._files, self._publish, self._stopped), ""
        while self._note.exists() and not self._stopped.is_set():
            try:
                with self._note.lock() as is_ours:
                    if is_ours and self._note.exists():
                        completion.run()
            except PacsError as error:
                if error.comment != trouble:
                    trouble = error.comment
                    self._publish(Notice(sentence=f"completing the index is interrupted and tried again: {trouble}"))
            self._stopped.wait(RETRY_SECONDS)


class _Completion:
    """One pass over all files, oldest first."""

    def __init__(
        self, index: Index, files: FolderStore, publish: Callable[[Event], None], stopped: threading.Event
    ) -> None:
        self._index, self._files, self._publish, self._stopped = index, files, publish, stopped
        self._note = files.incomplete_note()
        self._progress = CompletionProgress()
        self._failed: set[str] = set()
        """Keys of the files that cannot be added, each of which is logged once."""
        self._reported, self._reported_added = time.monotonic(), 0

    def run(self) -> None:
        """Add all files in no row, and remove the note. Raises IndexUnavailable, StorageUnavailable."""
        total = sum(1 for _ in self._files.keys())  # noqa: SIM118 - no mapping
        self._progress = CompletionProgress(total, added=self._progress.added)
        for batch in chunks(self._files.keys(), BATCH):
            began = time.monotonic()
            self._add(batch)
            self._report()
            # Half of the time is for stores.
            if self._stopped.wait(time.monotonic() - began) or not self._note.exists():
                return
        self._end()

    def _add(self, batch: Sequence[str]) -> None:
        """Add those of some files that are in no row."""
        left = writer.unknown(self._index, batch)
        for attempt in range(ATTEMPTS):
            left = [key for key in left if not self._is_done(key)]
            if not left:
                break
            if self._stopped.wait(RETRY_SECONDS if attempt else 0.1):
                return
        for key in left:
            self._fail(key, "it is in use all the time")
        self._progress.checked += len(batch)

    def _is_done(self, key: str) -> bool:
        """Add a file; return False if it is in use. A file that cannot be added is logged."""
        try:
            adopt(self._index, self._files, key)
        except InstanceMissing:  # deleted or replaced meanwhile
            return True
        except (DuplicateInstance, InstanceUnreadable, UndecodableDataSet) as error:
            self._fail(key, error.comment)
            return True
        except OutOfResources:
            return not writer.unknown(self._index, [key])
        self._progress.added += 1
        return True

    def _fail(self, key: str, why: str) -> None:
        if key not in self._failed:
            self._publish(Notice(sentence=f"file {key} is not in the index and was not added: {why}"))
        self._failed.add(key)
        self._progress.failed = len(self._failed)

    def _report(self) -> None:
        self._note.write(self._progress)
        if time.monotonic() - self._reported >= REPORT_SECONDS:
            self._publish_progress()

    def _publish_progress(self) -> None:
        found, self._reported = self._progress, time.monotonic()
        added, self._reported_added = found.added - self._reported_added, found.added
        counts = {"checked": found.checked, "total": found.total, "failed": found.failed}
        self._publish(CompletionProgressed(added=added, counts=counts))

    def _end(self) -> None:
        """Make the added rows durable, and remove the note."""
        while not self._index.sync():
            if self._stopped.wait(RETRY_SECONDS):
                return
        self._publish_progress()
        self._note.remove()
        added, failed = self._progress.added, self._progress.failed
        more = f"; {failed} files could not be added: run `pacs fsck`" if failed else ""
        self._publish(Notice(sentence=f"the index is complete: {added} instances were added from their files{more}"))
