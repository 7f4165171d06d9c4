"""Take instances in: from a C-STORE fragment by fragment, or from a file. Success means durable.

The order is always: data set beside the others, checked, moved to its place durably, committed to the index, answered.
Whatever step fails, neither a file nor a row is left, and the sender still has the instance.
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Literal, Self

from pacs.dicom import part10
from pacs.dicom.bounds import DEFAULT_BOUNDS, DataSetBounds
from pacs.dicom.dataset_equality import is_same
from pacs.dicom.header import SOP_CLASS_UID, SOP_INSTANCE_UID, Header, read_header
from pacs.dicom.sop_classes import check_storable
from pacs.dicom.syntaxes import DEFLATED_LITTLE, KEPT
from pacs.dicom.values import is_uid
from pacs.errors import (
    DuplicateInstance,
    IndexUnavailable,
    InstanceConflict,
    InstanceUnreadable,
    MissingUID,
    NotSupported,
    PacsError,
    SOPClassMismatch,
    StorageUnavailable,
    UndecodableDataSet,
)
from pacs.files.store import IncomingObject, ObjectStore
from pacs.index import writer
from pacs.index.database import Index
from pacs.index.writer import NewInstance, StoredInstance
from pacs.observability.audit import Auditor, Record, Subject, local_user
from pacs.observability.events import Event, InstanceRefused, InstanceStored, Notice
from pacs.services.parent_refresh import refresh
from pacs.services.stored_file import arrival_of

Duplicates = Literal["keep", "replace", "reject"]
"""What becomes of an instance whose SOP Instance UID is known already.

- `keep`: the same attributes and values are answered with success, others with InstanceConflict; nothing is stored.
- `replace`: the newer one takes the older one's place.
- `reject`: DuplicateInstance.
"""

CHUNK = 1 << 18
"""Bytes copied at a time."""

RACES = 5
"""How often an instance is tried to be entered while others add and remove the same one."""

MOST_GROWING = 4096
"""How many series are remembered to grow."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Stored:
    """An instance that is durable, by this reception or, if it is a `duplicate`, since before."""

    sop_instance_uid: str
    size: int
    """Bytes of the data set."""
    duplicate: bool = False
    warnings: tuple[str, ...] = ()
    """Where it disagrees with what was known of its patient, study or series: status B000."""
    patient_id: str = field(default="", compare=False)
    study_instance_uid: str = field(default="", compare=False)
    """Whose it is, for the audit log."""


class Storage:
    """The way in, for any mouth. `bounds` is what a data set may be made of."""

    def __init__(
        self,
        index: Index,
        files: ObjectStore,
        *,
        duplicates: Duplicates = "keep",
        unknown_sop_classes: bool = False,
        bounds: DataSetBounds = DEFAULT_BOUNDS,
        publish: Callable[[Event], None] = lambda event: None,
        auditor: Auditor | None = None,
    ) -> None:
        self.index = index
        self.files = files
        self.duplicates = duplicates
        self.bounds = bounds
        self.publish = publish
        self._auditor = auditor or Auditor()
        self.unknown_sop_classes = unknown_sop_classes
        self._growing: set[str] = set()
        """The series whose last instance was new."""
        self._doubts: dict[str, str] = {}
        """Files of which it is not known if they are in a row, with their SOP Instance UIDs."""

    def receive(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax: str, source_ae: str = ""
    ) -> "Reception":
        """Begin to take an instance in, under the UIDs its command names. Use what is returned in a `with` block.

        Raises SOPClassNotSupported, NotSupported for the transfer syntax, MissingUID, StorageUnavailable.
        """
        named = Named(sop_class_uid.strip(" \0"), sop_instance_uid.strip(" \0"), transfer_syntax, source_ae)
        try:
            check_storable(named.sop_class_uid, self.unknown_sop_classes)
            if transfer_syntax not in KEPT:
                raise NotSupported("Its transfer syntax is not kept here")
            if not is_uid(named.sop_instance_uid):
                raise MissingUID("The SOP Instance UID is no UID", [SOP_INSTANCE_UID])
            return Reception(self, named)
        except PacsError as error:
            self.refused(named, error)
            raise

    def import_file(self, path: Path) -> Stored:
        """Take in a Part 10 file, or a bare data set in a native transfer syntax; the preamble may be missing.

        Raises InstanceUnreadable when the file cannot be read, and all that `receive` and `Reception.finish` do.
        """
        try:
            with path.open("rb") as file:
                stored = self._import(file)
        except OSError as error:
            raise InstanceUnreadable(f"The file cannot be read ({error.strerror})") from error
        if self._auditor.is_on:
            self._auditor.write(_record(stored))
        return stored

    def _import(self, file: BinaryIO) -> Stored:
        head = _head_of(file)
        check_storable(head.sop_class_uid, unknown=True)
        header = _header_of(file, head)
        file.seek(head.data_offset)
        with self.receive(
            header.sop_class_uid, header.sop_instance_uid, head.transfer_syntax, head.source_ae
        ) as reception:
            while piece := file.read(CHUNK):
                reception.write(piece)
            return reception.finish()

    def known(self, header: Header) -> StoredInstance | None:
        """The stored instance with this UID, as far as it is worth a look: not where only new ones have come lately.

        If there is one nevertheless, it is met when the row is entered. Raises IndexUnavailable.
        """
        uid = header.sop_instance_uid
        if header.series_instance_uid in self._growing or not writer.is_known(self.index, uid):
            return None
        return writer.find(self.index, uid)

    def note(self, header: Header, *, is_new: bool) -> None:
        """Remember whether a series grows, or is sent again."""
        if not is_new:
            self._growing.discard(header.series_instance_uid)
            return
        if len(self._growing) >= MOST_GROWING:
            self._growing.clear()
        self._growing.add(header.series_instance_uid)

    def refused(self, named: "Named", error: PacsError) -> None:
        """Tell everybody that an instance was not taken in."""
        self.publish(
            InstanceRefused(
                sop_class_uid=named.sop_class_uid,
                source_ae=named.source_ae,
                error=type(error).__name__,
                comment=error.comment,
            )
        )

    @property
    def has_uncertain_files(self) -> bool:
        """Whether there are files of which it is not known if they are in a row: the next start has to find out."""
        return bool(self._doubts)

    def leave_in_doubt(self, key: str, header: Header) -> None:
        """Keep a file whose row was perhaps committed: a row without its file is worse than a file without one."""
        self._doubts[key] = header.sop_instance_uid
        self.note(header, is_new=False)  # the next of its series asks the index before it makes a file

    def check_uncertain_files(self) -> None:
        """Delete those of the files in doubt that are in no row, as far as the index answers."""
        for key, uid in tuple(self._doubts.items()):
            try:
                found = writer.find(self.index, uid)
            except IndexUnavailable:
                return
            is_ours = self._doubts.pop(key, None) is not None  # other threads may be here
            if is_ours and (found is None or found.file_key != key):
                self.discard(key)

    def discard(self, key: str) -> None:
        """Delete a file that is in no row. One that cannot be deleted now is nobody's harm, but is told."""
        try:
            self.files.delete(key)
        except StorageUnavailable:
            self.publish(Notice(sentence=f"file {key} could not be deleted and is in no row: delete it by hand"))

    def forget(self, former: StoredInstance) -> None:
        """Delete the file of an instance that was replaced, and have its study say no more what it alone had said.

        What fails is told.
        """
        try:
            said = arrival_of(self.files, former.file_key, verify=False).header
        except (InstanceUnreadable, UndecodableDataSet):
            said = None
        self.discard(former.file_key)
        try:
            refresh(self.index, self.files, [former], said)
        except PacsError as error:
            sentence = f"what was replaced may still be said of its study ({error.comment}): run `pacs reindex`"
            self.publish(Notice(sentence=sentence))


def _record(stored: Stored) -> Record:
    subject = Subject(
        patients=[stored.patient_id], studies=[stored.study_instance_uid], instances=[stored.sop_instance_uid]
    )
    return Record(operation="import", outcome="success", subject=subject, user=local_user())


def _head_of(file: BinaryIO) -> part10.FileMeta:
    """What a file says about its data set; `file` stands at the data set then."""
    try:
        head = part10.read_file_meta(file)
    except UndecodableDataSet:
        file.seek(0)
        head = part10.FileMeta("", "", "", "", None, None, 0)
    if head.transfer_syntax:
        return head
    guess = part10.guess_transfer_syntax(file)
    return part10.FileMeta(head.sop_class_uid, "", guess, head.source_ae, None, None, head.data_offset)


def _header_of(file: BinaryIO, head: part10.FileMeta) -> Header:
    """What the index wants from a file; one that cannot be read and never said it is a DICOM file is called none."""
    try:
        return read_header(file, head.transfer_syntax)
    except (UndecodableDataSet, MissingUID) as error:
        if head.data_offset:
            raise
        raise UndecodableDataSet("No DICOM file: neither a File Meta Information nor a data set") from error


@dataclass(frozen=True, slots=True)
class Named:
    """What a command says of the instance that follows."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    source_ae: str

    def head(self, received_at: int) -> bytes:
        """The File Meta Information that says the same."""
        return part10.build_file_meta(
            self.sop_class_uid, self.sop_instance_uid, self.transfer_syntax, self.source_ae, received_at=received_at
        )


class Reception:
    """One instance on its way in. Leaving the `with` block without `finish()` discards it without a trace."""

    def __init__(self, storage: Storage, named: Named) -> None:
        self._storage = storage
        self._named = named
        self._received_at = time.time_ns() // 1000
        self._head = named.head(self._received_at)
        self._incoming = self._create()
        self._is_in_doubt = False
        """Whether there may be a row of it, although it could not be entered."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._incoming.__exit__(kind, error, trace)
        if isinstance(error, PacsError):
            self._storage.refused(self._named, error)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append the next bytes of the data set. Raises StorageUnavailable."""
        self._incoming.write(data)

    def finish(self) -> Stored:
        """Check the whole, make it durable and enter it into the index.

        Raises SOPClassMismatch, MissingUID, UndecodableDataSet, DuplicateInstance, InstanceConflict,
        StorageUnavailable, IndexUnavailable; then nothing of it is left.
        """
        header = self._checked()
        known = self._storage.known(header)
        try:
            stored = self._enter(header, known)
        except (DuplicateInstance, InstanceConflict):
            self._storage.note(header, is_new=False)
            raise
        self._storage.note(header, is_new=known is None and not stored.duplicate)
        self._storage.check_uncertain_files()
        self._storage.publish(
            InstanceStored(
                sop_class_uid=header.sop_class_uid,
                transfer_syntax=self._named.transfer_syntax,
                size=stored.size,
                source_ae=self._named.source_ae,
                duplicate=stored.duplicate,
                warnings=stored.warnings,
            )
        )
        return stored

    def _create(self) -> IncomingObject:
        arrived = _EPOCH + timedelta(microseconds=self._received_at)
        return self._storage.files.create(len(self._head), arrived)

    # --- what arrived ----------------------------------------------------------------------------------------

    def _checked(self) -> Header:
        """The header of what arrived, which is what the command named and has nothing in it that must not be."""
        header = self._read_header()
        if header.intruders:
            self._leave_out(header.intruders)
            header = self._read_header()
        tags = {SOP_CLASS_UID: self._named.sop_class_uid, SOP_INSTANCE_UID: self._named.sop_instance_uid}
        found = {SOP_CLASS_UID: header.sop_class_uid, SOP_INSTANCE_UID: header.sop_instance_uid}
        wrong = [tag for tag, uid in tags.items() if found[tag] != uid]
        if wrong:
            raise SOPClassMismatch("The data set is not the instance its command names", wrong)
        return header

    def _read_header(self) -> Header:
        with closing(self._incoming.body()) as body:
            return read_header(body, self._named.transfer_syntax, self._storage.bounds)

    def _leave_out(self, intruders: tuple[tuple[int, int], ...]) -> None:
        """Copy what arrived without elements that are no part of a data set (checklist S4)."""
        if self._named.transfer_syntax == DEFLATED_LITTLE:
            raise UndecodableDataSet("Groups 0000 and 0002 are no part of a data set")
        before, self._incoming = self._incoming, self._create()
        with before, closing(before.body()) as body:
            start = 0
            for begin, end in (*intruders, (before.size, before.size)):
                body.seek(start)
                while start < begin:
                    piece = body.read(min(CHUNK, begin - start))
                    start += len(piece)
                    self._incoming.write(piece)
                start = end

    # --- into the archive ------------------------------------------------------------------------------------

    def _enter(self, header: Header, known: StoredInstance | None) -> Stored:
        if known is not None and self._is_duplicate(known, self._incoming.body):
            return self._stored(header, duplicate=True)
        digest = self._incoming.digest
        self._incoming.commit(part10.with_digest(self._head, digest))
        arrival = NewInstance(
            header=header,
            file_key=self._incoming.key,
            size=len(self._head) + self._incoming.size,
            digest=digest,
            transfer_syntax=self._named.transfer_syntax,
            data_offset=len(self._head),
            received_at=self._received_at,
            source_ae=part10.ae_title(self._named.source_ae),  # as the file says it
        )
        try:
            return self._enter_row(arrival, known)
        except BaseException:
            if self._is_in_doubt:
                self._storage.leave_in_doubt(arrival.file_key, header)
            else:
                self._storage.discard(arrival.file_key)
            raise

    def _enter_row(self, arrival: NewInstance, known: StoredInstance | None) -> Stored:
        """Commit the row, whoever adds or removes the same instance meanwhile."""
        header, index = arrival.header, self._storage.index
        for _ in range(RACES):
            try:
                warnings = self._add_or_replace(arrival, known)
                return self._stored(header, warnings=warnings)
            except (DuplicateInstance, InstanceUnreadable):
                known = writer.find(index, header.sop_instance_uid)
            if known is not None and known.file_key == arrival.file_key:
                return self._stored(header)  # another process found the file before its row was committed
            if known is not None and self._is_duplicate(known, lambda: self._reopen(arrival)):
                self._storage.discard(arrival.file_key)
                return self._stored(header, duplicate=True)
        raise IndexUnavailable("Too many send and delete this instance at once")

    def _stored(self, header: Header, *, duplicate: bool = False, warnings: tuple[str, ...] = ()) -> Stored:
        uid, size = header.sop_instance_uid, self._incoming.size
        return Stored(uid, size, duplicate, warnings, header.patient_id, header.study_instance_uid)

    def _add_or_replace(self, arrival: NewInstance, known: StoredInstance | None) -> tuple[str, ...]:
        index, warnings, former = self._storage.index, (), known
        try:
            if known is None:
                return writer.add(index, arrival)
            former = writer.replace(index, arrival)
        except IndexUnavailable:
            # Whether it was committed is not known, when the connection broke at the commit.
            self._is_in_doubt = True
            found = writer.find(index, arrival.header.sop_instance_uid)
            self._is_in_doubt = False
            if found is None or found.file_key != arrival.file_key:
                raise
        if former is not None and former.file_key != arrival.file_key:  # another process may have entered ours before
            self._storage.forget(former)
        return warnings

    def _reopen(self, arrival: NewInstance) -> BinaryIO:
        file = self._storage.files.open(arrival.file_key)
        file.seek(arrival.data_offset)
        return file

    # --- duplicates ------------------------------------------------------------------------------------------

    def _is_duplicate(self, known: StoredInstance, body: Callable[[], BinaryIO]) -> bool:
        """Whether the known instance is to stay and answers for this one; False when this one is to take its place.

        Raises DuplicateInstance, InstanceConflict.
        """
        policy = self._storage.duplicates
        if policy == "reject":
            raise DuplicateInstance("The SOP Instance is stored already", [SOP_INSTANCE_UID])
        if known.digest == self._incoming.digest and known.transfer_syntax == self._named.transfer_syntax:
            return self._is_whole(known)
        if policy == "replace":
            return False
        with closing(body()) as ours, closing(self._storage.files.open(known.file_key)) as theirs:
            theirs.seek(known.data_offset)
            if not is_same(ours, self._named.transfer_syntax, theirs, known.transfer_syntax):
                raise InstanceConflict("The SOP Instance is stored already with other content", [SOP_INSTANCE_UID])
        return True

    def _is_whole(self, known: StoredInstance) -> bool:
        """Whether the file of a known instance is there in its full length; if not, the same bytes may mend it."""
        try:
            whole = self._storage.files.size(known.file_key) == known.size
        except InstanceUnreadable:
            whole = False
        if not whole:
            self._storage.publish(Notice(sentence=f"file {known.file_key} was damaged and is sent again: replaced"))
        return whole
