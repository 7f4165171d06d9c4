"""Select the instances of a retrieve, count the outcomes of its sub-operations, and read the data sets to send."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from pacs.dicom import syntaxes
from pacs.dicom.attributes import KeyType
from pacs.dicom.identifier import RetrieveSelection
from pacs.dicom.levels import QueryLevel
from pacs.dicom.query import Query, for_instance
from pacs.errors import (
    IndexUnavailable,
    InstanceDamaged,
    InstanceMissing,
    OutOfResources,
    TooManyMatches,
)
from pacs.files import digest
from pacs.files.store import ObjectStore
from pacs.index import search, writer
from pacs.index.database import Index
from pacs.index.writer import StoredInstance
from pacs.observability.events import Event, Notice
from pacs.pixels.seekable import Wait
from pacs.services.pixels import ConvertedDataSet, PixelService
from pacs.services.replaced import read_current
from pacs.services.stored_file import opened_data_set
from pacs.support.cancellation import Cancellation

Result = TypeVar("Result")


class Outcome(Enum):
    """The outcome of a sub-operation, or of a whole retrieve."""

    COMPLETED = "completed"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(slots=True)
class Retrieval:
    """A running retrieve. remaining + completed + failed + warning is always the total (V5)."""

    instances: tuple[StoredInstance, ...]
    query: Query
    """The query that selected them, at IMAGE level."""
    completed: int = 0
    warning: int = 0
    failed: list[str] = field(default_factory=list)
    """The SOP Instance UIDs of the failed sub-operations, in the order in which they failed."""
    _sent: list[str] = field(default_factory=list)
    _noticed: set[str] = field(default_factory=set)

    @property
    def total(self) -> int:
        """The number of sub-operations."""
        return len(self.instances)

    @property
    def done(self) -> int:
        """The number of finished sub-operations."""
        return self.completed + self.warning + len(self.failed)

    @property
    def remaining(self) -> int:
        """The number of sub-operations without an outcome."""
        return self.total - self.done

    def record(self, instance: StoredInstance, outcome: Outcome) -> None:
        """Count the outcome of the sub-operation that sent `instance`."""
        if outcome is Outcome.FAILED:
            self.failed.append(instance.sop_instance_uid)
            return
        self._sent.append(instance.sop_instance_uid)
        if outcome is Outcome.COMPLETED:
            self.completed += 1
        else:
            self.warning += 1

    def is_new(self, notice: str) -> bool:
        """Return whether this is the first call with a notice, which is published once for the whole retrieve."""
        known = len(self._noticed)
        self._noticed.add(notice)
        return len(self._noticed) > known

    @property
    def sent(self) -> tuple[str, ...]:
        """The SOP Instance UIDs of the instances that arrived."""
        return tuple(self._sent)

    @property
    def failed_list(self) -> list[str]:
        """The SOP Instance UIDs of the failed sub-operations, in the order of `instances`."""
        failed = set(self.failed)
        return [each.sop_instance_uid for each in self.instances if each.sop_instance_uid in failed]

    @property
    def result(self) -> Outcome:
        """The outcome of the retrieve (V6): completed if all are, failed if all are, a warning otherwise."""
        if self.completed == self.total:
            return Outcome.COMPLETED
        return Outcome.FAILED if len(self.failed) == self.total else Outcome.WARNING


class RetrieveService:
    """Selects instances for a retrieve and reads their data sets."""

    def __init__(
        self,
        index: Index,
        files: ObjectStore,
        pixels: PixelService,
        most_studies: int,
        *,
        verify: bool = False,
        publish: Callable[[Event], None] = lambda event: None,
        admit: Callable[[], None] = lambda: None,
    ) -> None:
        """With `verify` the digest of each instance is checked before its first byte is returned.

        `admit` raises IndexUnavailable while nothing can be selected.
        """
        self._index = index
        self._files = files
        self.pixels = pixels
        self._most_studies = most_studies
        self._verify = verify
        self._publish = publish
        self._admit = admit

    def select(self, selection: RetrieveSelection, cancellation: Cancellation, limit: int | None = None) -> Retrieval:
        """Return the instances to retrieve, in the order in which they are sent.

        Raises TooManyMatches when keys other than the unique ones select more studies than `most_studies`,
        OutOfResources when there are more than `limit` instances, IndexUnavailable, Cancelled.
        """
        self._admit()
        query = selection.query
        if any(key.attribute.key is not KeyType.UNIQUE for key in query.keys):
            studies = search.count(self._index, query, QueryLevel.STUDY, cancellation)
            if studies > self._most_studies:
                raise TooManyMatches(f"{studies} studies match, at most {self._most_studies} per retrieve")
        at_most = None if limit is None else limit + 1
        found = tuple(search.instances(self._index, query, cancellation, limit=at_most))
        if limit is not None and len(found) > limit:
            raise OutOfResources(f"More than {limit} instances: retrieve in parts")
        return Retrieval(found, query)

    def note_use(self, retrieval: Retrieval) -> None:
        """Save in the index that the sent instances were used now. Errors are only logged."""
        if not retrieval.sent:
            return
        try:
            writer.touch(self._index, retrieval.sent, time.time_ns() // 1000)
        except IndexUnavailable as error:
            logging.getLogger("pacs").warning("last use of retrieved instances not saved: %s", error.comment)

    def read(self, retrieval: Retrieval, instance: StoredInstance, read: Callable[[StoredInstance], Result]) -> Result:
        """Return `read(instance)`, which begins to read its `data`. If it was replaced since, `read` gets the new one.

        Raises InstanceMissing when it was deleted or is not selected any more, IndexUnavailable, and what `read`
        raises.
        """
        result = read_current(instance, read, lambda: self._find_again(retrieval.query, instance))
        if result is None:
            raise InstanceMissing("The instance was deleted since it was selected")
        return result

    def _find_again(self, query: Query, instance: StoredInstance) -> StoredInstance | None:
        """Return an instance as it is stored now. It takes no time worth a cancellation."""
        only = for_instance(query, instance.sop_instance_uid)
        return next(iter(search.instances(self._index, only, Cancellation())), None)

    def data(self, instance: StoredInstance, transfer_syntax: str) -> Iterator[bytes]:
        """Yield the data set of a stored instance in `transfer_syntax`, in pieces, without converting pixel data.

        In the stored transfer syntax these are the bytes that were received, made even by `syntaxes.even`. Raises
        InstanceUnreadable when the file is missing or has another length, NotSupported when pixel data would have to be
        converted, and with `verify` InstanceDamaged before the first piece.
        """
        pieces = self._pieces(instance, transfer_syntax)
        return self._verified(instance, pieces) if self._verify else pieces

    def convert(
        self, retrieval: Retrieval, instance: StoredInstance, transfer_syntax: str, wait: Wait
    ) -> ConvertedDataSet:
        """Begin to convert a stored instance with its pixel data. Raises as `PixelService.convert`, InstanceDamaged.

        What changes beyond the encoding is published, once for each retrieve.
        """
        if self._verify:
            self._require_undamaged(instance)
        converted = self.pixels.convert(instance, transfer_syntax, wait)
        for notice in filter(retrieval.is_new, converted.notices):
            self._publish(Notice(sentence=f"file {instance.file_key}, sent in another transfer syntax: {notice}"))
        return converted

    def _verified(self, instance: StoredInstance, pieces: Iterator[bytes]) -> Iterator[bytes]:
        self._require_undamaged(instance)
        yield from pieces

    def _require_undamaged(self, instance: StoredInstance) -> None:
        try:
            verify(self._files, instance)
        except InstanceDamaged as error:
            self._publish(Notice(sentence=damaged(instance)))
            raise InstanceDamaged(error.comment) from error

    def _pieces(self, instance: StoredInstance, transfer_syntax: str) -> Iterator[bytes]:
        if transfer_syntax == instance.transfer_syntax:
            stored = self._files.pieces(instance.file_key, instance.size, instance.data_offset)
            return syntaxes.even(stored, transfer_syntax)
        return self._converted(instance, transfer_syntax)

    def _converted(self, instance: StoredInstance, transfer_syntax: str) -> Iterator[bytes]:
        with opened_data_set(self._files, instance) as file:
            yield from syntaxes.convert(file, instance.transfer_syntax, transfer_syntax)


def verify(files: ObjectStore, instance: StoredInstance) -> None:
    """Raise InstanceDamaged unless the file of an instance holds what was received; InstanceUnreadable."""
    digest.require(instance.digest, files.pieces(instance.file_key, instance.size, instance.data_offset))


def damaged(instance: StoredInstance) -> str:
    """Return the notice about an instance whose file differs from what was received."""
    return f"file {instance.file_key} is damaged and was not given out: run `pacs fsck --repair`, and send it again"
