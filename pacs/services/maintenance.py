"""Selecting, listing and deleting instances, for `pacs ls`, `pacs delete` and `pacs export`.

Entities are selected by attribute values as in a C-FIND, with wild cards, ranges and lists:
`{"PatientName": "DOE*", "StudyDate": "20260101-"}`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from pacs.dicom import row_elements
from pacs.dicom.attributes import ATTRIBUTES, Kept, by_keyword
from pacs.dicom.charset import UTF_8
from pacs.dicom.dataset import EXPLICIT_LITTLE, View, labelled, raw
from pacs.dicom.identifier import parse_query
from pacs.dicom.levels import USUAL_KEYS, QueryLevel, Root
from pacs.dicom.matching_mode import TOLERANT, Negotiated
from pacs.dicom.query import Match, Query
from pacs.dicom.values import stripped
from pacs.errors import IdentifierError, PacsError, StorageUnavailable
from pacs.files.store import ObjectStore
from pacs.index import search, writer
from pacs.index.database import Index
from pacs.index.writer import StoredInstance
from pacs.observability.audit import Auditor, Record, Subject, local_user
from pacs.observability.events import Event, Notice
from pacs.observability.logging import printable
from pacs.services.completeness import require_complete
from pacs.services.parent_refresh import refresh
from pacs.support.cancellation import Cancellation
from pacs.support.chunks import chunks
from pacs.support.suggestion import suggestion

PATIENT, STUDY, SERIES, IMAGE = QueryLevel

KEYWORDS = [each.keyword for each in ATTRIBUTES.values()]

BATCH = 500
"""Instances recorded in one line of the audit log."""

TOGETHER = 100
"""Instances removed from the index in one transaction, with the locks of their files held."""


class Maintenance:
    """Selects, lists and deletes instances. Selections map keywords of PS3.6 to values.

    All methods raise IdentifierError for a selection that is not valid, and IndexUnavailable.
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
        self._publish = publish
        self._auditor = auditor or Auditor()

    def entities(self, level: QueryLevel, selection: Mapping[str, str]) -> Iterator[dict[str, str]]:
        """Yield the selected patients, studies, series or instances, with the texts of `USUAL_KEYS`, '' for none."""
        matches = search.matches(self._index, _query(level, selection, USUAL_KEYS[level]), Cancellation())
        return ({keyword: _text(match, keyword) for keyword in USUAL_KEYS[level]} for match in matches)

    def instances(self, selection: Mapping[str, str]) -> list[StoredInstance]:
        """Return the selected instances."""
        return list(search.instances(self._index, _query(IMAGE, selection), Cancellation()))

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


def _query(level: QueryLevel, selection: Mapping[str, str], returned: Sequence[str] = ()) -> Query:
    """Return the query of a selection. No key is ignored, because a deletion has to select exactly."""
    stated = {"SpecificCharacterSet": UTF_8[0], "QueryRetrieveLevel": level.name}
    elements = [_element(*each) for each in (stated | dict.fromkeys(returned, "") | dict(selection)).items()]
    identifier = labelled(Dataset({each.tag: each for each in elements}), EXPLICIT_LITTLE, UTF_8)
    query = parse_query(identifier, Root.PATIENT, TOLERANT, Negotiated(relational=True))
    decided = {key.attribute.tag for key in query.keys if key.attribute.kept is not Kept.FILE}
    for keyword, text in selection.items():
        if tag_for_keyword(keyword) not in decided and not query.nothing_matches:
            why = (
                "matches everything: leave it out" if not text.strip("* ") else f"selects nothing at {level.name} level"
            )
            raise IdentifierError(f"{keyword}={printable(text, 30)} {why}")
    return query


def _element(keyword: str, text: str) -> RawDataElement:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise IdentifierError(f"{printable(keyword, 30)} is not a keyword of PS3.6{suggestion(keyword, KEYWORDS)}")
    return raw(tag, dictionary_VR(tag), text.encode())


def _text(match: Match, keyword: str) -> str:
    """Return the text of an attribute of a match, several values joined by backslashes."""
    if keyword in match.computed:
        value = match.computed[keyword]
        return str(value) if isinstance(value, int) else "\\".join(value)
    attribute = by_keyword(keyword)
    texts = View.of(row_elements.decode(match.kept[attribute.level])).texts(attribute)
    return "\\".join(stripped(attribute.vr, text) for text in texts)
