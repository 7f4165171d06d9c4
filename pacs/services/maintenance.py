"""Listing, deleting and exporting instances, for `pacs ls`, `pacs delete` and `pacs export`.

Entities are selected by attribute values as in a C-FIND, with wild cards, ranges and lists:
`{"PatientName": "DOE*", "StudyDate": "20260101-"}`.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
from pacs.errors import IdentifierError, InstanceDamaged, InstanceMissing, PacsError, StorageUnavailable
from pacs.files.store import ObjectStore
from pacs.index import search, writer
from pacs.index.database import Index
from pacs.index.writer import StoredInstance
from pacs.observability.audit import Auditor, Record, Subject, local_user
from pacs.observability.events import Event, Notice
from pacs.observability.logging import printable
from pacs.services.completeness import require_complete
from pacs.services.parent_refresh import refresh
from pacs.services.replaced import read_current
from pacs.services.retrieve import damaged, verify
from pacs.support.cancellation import Cancellation
from pacs.support.chunks import chunks
from pacs.support.suggestion import suggestion

PATIENT, STUDY, SERIES, IMAGE = QueryLevel

KEYWORDS = [each.keyword for each in ATTRIBUTES.values()]

BATCH = 500
"""Instances recorded in one line of the audit log."""

TOGETHER = 100
"""Instances removed from the index in one transaction, with the locks of their files held."""

CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export."""

    instances: int
    size: int
    """Bytes."""


class Maintenance:
    """Lists, deletes and exports instances. Selections map keywords of PS3.6 to values.

    All methods raise IdentifierError for a selection that is not valid, and IndexUnavailable.
    """

    def __init__(
        self,
        index: Index,
        files: ObjectStore,
        *,
        verify: bool = False,
        publish: Callable[[Event], None] = lambda event: None,
        auditor: Auditor | None = None,
    ) -> None:
        """With `verify` the digest of each instance is compared before it is exported."""
        self._index = index
        self._files = files
        self._verify = verify
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
            outcome = "failure" if comment else "success"
            subject = Subject(
                patients=dict.fromkeys(each.patient_id for each in instances),
                studies=dict.fromkeys(each.study_instance_uid for each in instances),
                instances=[each.sop_instance_uid for each in instances],
            )
            self._auditor.write(
                Record(operation=operation, outcome=outcome, comment=comment, subject=subject, user=local_user())
            )

    def _delete_file(self, key: str) -> None:
        try:
            self._files.delete(key)
        except StorageUnavailable:
            self._publish(Notice(sentence=f"file {key} is not in the index and cannot be deleted: delete it by hand"))

    def export(
        self, instances: Sequence[StoredInstance], folder: Path, progress: Callable[[int], None] = lambda count: None
    ) -> Exported:
        """Copy instances as Part 10 files to `folder`/patient/study/series/instance.dcm, over older copies.

        Received names are made safe first. Raises InstanceUnreadable when a stored file cannot be read,
        StorageUnavailable when the folder cannot be written; files copied until then stay.
        """
        size = 0
        for batch in chunks(instances, BATCH):
            with self._audited("export", batch):
                for instance in batch:
                    size += self._copy_current(instance, folder)
                    progress(1)
        return Exported(len(instances), size)

    def _copy_current(self, instance: StoredInstance, folder: Path) -> int:
        """Copy an instance, or what has replaced it since it was selected; return the size."""
        size = read_current(
            instance,
            lambda each: self._copy(each, folder.joinpath(*_path_of(each))),
            lambda: writer.find(self._index, instance.sop_instance_uid),
        )
        if size is None:
            raise InstanceMissing("an instance was deleted since it was selected: run the command again")
        return size

    def _require_undamaged(self, instance: StoredInstance) -> None:
        try:
            verify(self._files, instance)
        except InstanceDamaged as error:
            raise InstanceDamaged(damaged(instance)) from error

    def _copy(self, instance: StoredInstance, target: Path) -> int:
        partial = target.with_suffix(".part")
        if self._verify:
            self._require_undamaged(instance)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._files.open(instance.file_key) as source, partial.open("wb") as copy:
                while piece := source.read(CHUNK):
                    copy.write(piece)
                size = copy.tell()
            os.replace(partial, target)
        except OSError as error:
            raise StorageUnavailable(
                f"cannot write the exported files ({error.strerror}); choose another DEST"
            ) from error
        return size


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


_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def safe_name(text: str) -> str:
    """Make a name of a file or folder from `text`: valid on any system, in this folder, not empty and not hidden."""
    name = _UNSAFE.sub("_", text).strip("._-")[:64].rstrip("._-")
    return f"_{name}" if not name or _RESERVED.fullmatch(name) else name


def _path_of(instance: StoredInstance) -> Sequence[str]:
    folders = (instance.patient_id, instance.study_instance_uid, instance.series_instance_uid)
    return (*map(safe_name, folders), safe_name(instance.sop_instance_uid) + ".dcm")
