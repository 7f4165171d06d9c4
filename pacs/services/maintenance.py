"""Selecting, listing and deleting instances, for `pacs ls`, `pacs delete` and `pacs export`.

Keys select entities by the query of a C-FIND (`pacs.services.query`), with wild cards, ranges and lists:
`{"PatientName": "DOE*", "StudyDate": "20260101-"}`. The matching mode is always the tolerant one: the strict mode finds
entities whose value is unknown too, and none of these may be deleted.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from pacs.dicom.dataset import CHARACTER_SET
from pacs.dicom.identifier import QUERY_LEVEL, parse_query
from pacs.dicom.identifier_builder import Identifier, data_set_of, put_code
from pacs.dicom.levels import PLURAL, QueryLevel, Root
from pacs.dicom.matching_mode import TOLERANT, Negotiated
from pacs.dicom.query import Query
from pacs.errors import IdentifierError, PacsError, StorageUnavailable
from pacs.files.store import ObjectStore
from pacs.index import writer
from pacs.index.database import Index
from pacs.index.writer import StoredInstance
from pacs.observability.audit import Auditor, Record, Subject, local_user
from pacs.observability.events import Event, Notice
from pacs.services.completeness import require_complete
from pacs.services.parent_refresh import refresh
from pacs.services.query import QueryService
from pacs.support.cancellation import Cancellation
from pacs.support.chunks import chunks

IMAGE = QueryLevel.IMAGE

BATCH = 500
"""Instances recorded in one line of the audit log."""

TOGETHER = 100
"""Instances removed from the index in one transaction, with the locks of their files held."""


class Maintenance:
    """Selects, lists and deletes instances.

    All methods raise InvalidArgument and IdentifierError for keys that are not valid, IndexUnavailable, and
    InstanceUnreadable when a key has to be read from a file that cannot be read.
    """

    def __init__(
        self,
        index: Index,
        files: ObjectStore,
        *,
        publish: Callable[[Event], None] = lambda event: None,
        auditor: Auditor | None = None,
    ) -> None:
        self._index = index
        self._files = files
        self._queries = QueryService(index, files, scan_limit=sys.maxsize)
        self._publish = publish
        self._auditor = auditor or Auditor()

    def entities(self, level: QueryLevel, keys: Identifier) -> Iterator[Dataset]:
        """Yield the matching patients, studies, series or instances, each with the attributes of all keys.

        Raises IdentifierError for a key that a query of this level would ignore.
        """
        identifier = _at_level(keys, level)
        query = _query(identifier)
        answered = {each.attribute.tag for each in query.return_keys}
        _refuse({*query.ignored, *_stated(identifier) - answered}, f"no key of {PLURAL[level]}")
        return (match.data_set(query) for match in self._queries.matches(query, Cancellation()))

    def instances(self, keys: Identifier) -> list[StoredInstance]:
        """Return the matching instances, without keys all, by study, series and SOP Instance UID.

        Raises IdentifierError for a key that does not select: ignored, it would select more than was meant.
        """
        identifier = _at_level(keys, IMAGE)
        query = _query(identifier)
        selecting = {key.attribute.tag for key in query.keys}
        _refuse({*query.ignored, *_stated(identifier) - selecting}, "no matching key with a value")
        if len(keys) and not selecting:
            raise IdentifierError("No matching key is given")
        matches = self._queries.matches(query, Cancellation())
        file_keys = [each.match.file_key for each in matches if each.match.file_key is not None]
        found = (each for part in chunks(file_keys, BATCH) for each in writer.find_by_files(self._index, part))
        return sorted(
            found, key=lambda each: (each.study_instance_uid, each.series_instance_uid, each.sop_instance_uid)
        )

    def delete(self, instances: Sequence[StoredInstance], progress: Callable[[int], None] = lambda count: None) -> int:
        """Remove instances from the index, delete their files, and return how many there still were.

        `progress` is called with the number of instances of each batch that is done.
        """
        require_complete(self._files)  # what the index lacks would come back
        removed = 0
        for batch in chunks(instances, BATCH):
            with self._audited("delete", batch):
                for part in chunks(batch, TOGETHER):
                    removed += self._delete(part)
                    progress(len(part))
        return removed

    def _delete(self, instances: Sequence[StoredInstance]) -> int:
        """Delete instances, also those that have been replaced since they were selected; return their number."""
        removed: list[StoredInstance] = []
        left = list(instances)
        while left:
            gone = self._delete_with_files(left)
            removed += gone
            left = self._replaced(left, gone)
        refresh(self._index, self._files, removed)
        return len(removed)

    def _delete_with_files(self, instances: Sequence[StoredInstance]) -> list[StoredInstance]:
        """Remove rows, then files, which are locked from before, so that none is taken for an orphan and adopted."""
        keys = [each.file_key for each in instances]
        with self._files.lock(keys):
            gone = writer.remove(self._index, [each.sop_instance_uid for each in instances], keys)
            for instance in gone:
                self._delete_file(instance.file_key)
        return gone

    def _replaced(self, wanted: Sequence[StoredInstance], gone: Sequence[StoredInstance]) -> list[StoredInstance]:
        """Return the instances that have not gone because they have another file now."""
        left = {each.sop_instance_uid for each in wanted} - {each.sop_instance_uid for each in gone}
        return writer.find_all(self._index, sorted(left)) if left else []

    @contextmanager
    def _audited(self, operation: str, instances: Sequence[StoredInstance]) -> Iterator[None]:
        """Record an operation on these instances, the `with` block, in the audit log."""
        comment = "interrupted"
        try:
            yield
            comment = ""
        except PacsError as error:
            comment = error.comment
            raise
        finally:
            outcome, subject = "failure" if comment else "success", subject_of(instances)
            self._auditor.write(
                Record(operation=operation, outcome=outcome, comment=comment, subject=subject, user=local_user())
            )

    def _delete_file(self, key: str) -> None:
        try:
            self._files.delete(key)
        except StorageUnavailable:
            self._publish(Notice(sentence=f"file {key} is not in the index and cannot be deleted: delete it by hand"))


def subject_of(instances: Sequence[StoredInstance]) -> Subject:
    """Return the subject of an audit record about these instances."""
    return Subject(
        patients=dict.fromkeys(each.patient_id for each in instances),
        studies=dict.fromkeys(each.study_instance_uid for each in instances),
        instances=[each.sop_instance_uid for each in instances],
    )


def _at_level(keys: Identifier, level: QueryLevel) -> Dataset:
    """Return the Identifier with these keys. Raises InvalidArgument."""
    identifier = data_set_of(keys)
    put_code(identifier, QUERY_LEVEL, level.name)
    return identifier


def _query(identifier: Dataset) -> Query:
    """Return the query that a tolerant server makes of an Identifier. Raises IdentifierError."""
    return parse_query(identifier, Root.PATIENT, TOLERANT, Negotiated(relational=True))


def _stated(identifier: Dataset) -> set[int]:
    """Return the tags of an Identifier that can be keys: all but the level, the character set and private creators."""
    creators = {tag for tag in identifier.keys() if tag.is_private_creator}  # noqa: SIM118
    return {int(tag) for tag in identifier.keys()} - creators - {QUERY_LEVEL, CHARACTER_SET}  # noqa: SIM118


def _refuse(tags: set[int], why: str) -> None:
    """Raise IdentifierError for the first of some tags."""
    for tag in sorted(tags):
        name = keyword_for_tag(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
        raise IdentifierError(f"{name} is {why}: leave it out", sorted(tags))
