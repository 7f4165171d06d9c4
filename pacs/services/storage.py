"""Storage of instances: from a C-STORE fragment by fragment, from a file, or from any other stream.

The steps are always in this order: the data set is written to the file store, checked, committed there durably,
committed to the index, acknowledged. Whatever step fails, neither a file nor a row is left, and the sender still has
the instance.
"""

import time
from collections.abc import Callable
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal, Self, TypeVar

from pydicom.datadict import keyword_for_tag

from pacs.dicom import part10
from pacs.dicom.bounds import DEFAULT_BOUNDS, DataSetBounds
from pacs.dicom.dataset_equality import are_comparable, differing
from pacs.dicom.header import PIXEL_DATA, SOP_CLASS_UID, SOP_INSTANCE_UID, Header, read_header
from pacs.dicom.pixel_length import PixelLengthCheck
from pacs.dicom.sop_classes import check_storable
from pacs.dicom.syntaxes import DEFLATED_LITTLE, FRAGMENTS_IN_NATIVE, KEPT, is_native
from pacs.dicom.values import is_uid
from pacs.errors import (
    DuplicateInstance,
    IndexUnavailable,
    InstanceConflict,
    InstanceUnreadable,
    MissingUID,
    NotAnInstance,
    NotDICOM,
    NotSupported,
    PacsError,
    SOPClassMismatch,
    StorageUnavailable,
    UndecodableDataSet,
)
from pacs.files.store import IncomingObject, ObjectStore
from pacs.index import writer
from pacs.index.database import Index, may_be_committed
from pacs.index.writer import NewInstance, StoredInstance
from pacs.observability.audit import Auditor, Record, Subject, local_user
from pacs.observability.events import Event, InstanceRefused, InstanceStored, Notice
from pacs.services.parent_refresh import refresh
from pacs.services.replaced import read_current
from pacs.services.stored_file import headers_of, read_stored_file
from pacs.support.regular_files import open_regular

Result = TypeVar("Result")

Duplicates = Literal["keep", "replace", "reject"]
"""What happens to an instance whose SOP Instance UID is stored already.

- `keep`: with the same attributes and values it is success, with others InstanceConflict; nothing is stored.
- `replace`: the newer instance replaces the older one.
- `reject`: DuplicateInstance.
"""

CHUNK = 1 << 18
"""Bytes copied at a time."""

STORED = "The SOP Instance is stored already"

MOST_NAMED = 5
"""How many differing elements of a duplicate are named."""

CHECK_BYTES = 64 << 20
"""How many bytes of a data set arrive between two checks of what is known before its end."""

RACES = 100
"""How often the row of an instance is tried while others add and remove the same instance."""

MOST_GROWING = 4096
"""How many growing series are remembered."""

LONGEST_UID = "1" * 64
"""Stands for a UID that is not known yet: no UID is longer (PS3.5 6.2)."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A durable instance, stored by this reception or, as a `duplicate`, before it."""

    sop_instance_uid: str
    size: int
    """Bytes of the data set."""
    duplicate: bool = False
    warnings: tuple[str, ...] = ()
    """Conflicts with its stored patient, study or series: status B000."""
    patient_id: str = field(default="", compare=False)
    """Patient ID, for the audit log."""
    study_instance_uid: str = field(default="", compare=False)


class Storage:
    """Stores instances, whatever protocol they come by. `bounds` limits the data sets.

    Its rules do not change: an instance that is being received while the server reloads is stored by those with which
    it began.
    """

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
        self.headers = headers_of(files)
        self._known = _KnownInstances(index)
        self._cleanup = _FileCleanup(index, files, publish)

    def under(self, duplicates: Duplicates, bounds: DataSetBounds, *, unknown_sop_classes: bool) -> Self:
        """Return a storage with other rules, which shares what it knows with this one."""
        other = copy(self)
        other.duplicates, other.bounds, other.unknown_sop_classes = duplicates, bounds, unknown_sop_classes
        return other

    def receive(
        self, sop_class_uid: str | None, sop_instance_uid: str | None, transfer_syntax: str, source_ae: str = ""
    ) -> "Reception":
        """Begin to store an instance whose data set follows; to be used in a `with` block.

        The UIDs are those that a command announces; None stands for one that only the data set has. Raises
        SOPClassNotSupported, NotSupported for the transfer syntax, MissingUID, StorageUnavailable.
        """
        announced = _Announced(_stripped(sop_class_uid), _stripped(sop_instance_uid), transfer_syntax, source_ae)
        try:
            if announced.sop_class_uid is not None:
                check_storable(announced.sop_class_uid, self.unknown_sop_classes)
            if transfer_syntax not in KEPT:
                raise NotSupported("Instances in this transfer syntax are not stored")
            if announced.sop_instance_uid is not None and not is_uid(announced.sop_instance_uid):
                raise MissingUID("The SOP Instance UID is not valid", [SOP_INSTANCE_UID])
            return Reception(self, announced, self._known, self._cleanup)
        except PacsError as error:
            self.publish_refusal(error, announced)
            raise

    def publish_refusal(self, error: PacsError, announced: "_Announced", header: Header | None = None) -> None:
        """Publish that an instance is refused, and note in the error which one."""
        event = announced.refusal(error, header)
        error.sop_instance_uid = event.sop_instance_uid
        self.publish(event)

    def import_file(self, path: Path) -> Stored:
        """Store a Part 10 file, or a data set in a native transfer syntax without preamble or File Meta Information.

        Raises InstanceUnreadable when the file cannot be read, and all that `receive` and `Reception.finish` do.
        """
        try:
            with open_regular(path) as file:
                stored = self._import(file)
        except OSError as error:
            raise InstanceUnreadable(f"The file cannot be read ({error.strerror})") from error
        except PacsError as error:
            if self._auditor.is_on and error.sop_instance_uid:
                self._auditor.write(_record_of_refused(error))
            raise
        if self._auditor.is_on:
            self._auditor.write(_record(stored))
        return stored

    def _import(self, file: BinaryIO) -> Stored:
        head = part10.find_data_set(file)
        header = self._read_header_of(file, head)
        file.seek(head.data_offset)
        with self.receive(
            header.sop_class_uid, header.sop_instance_uid, head.transfer_syntax, head.source_ae
        ) as reception:
            while piece := file.read(CHUNK):
                reception.write(piece)
            return reception.finish()

    def _read_header_of(self, file: BinaryIO, head: part10.FileMeta) -> Header:
        """Read the header of a file. Raises NotAnInstance, NotDICOM, SOPClassNotSupported, and publishes others."""
        try:
            check_storable(head.sop_class_uid, unknown=True)
            return _header_of(file, head)
        except (NotAnInstance, NotDICOM):
            raise
        except PacsError as error:
            uids = _stripped(head.sop_class_uid), _stripped(head.sop_instance_uid)
            self.publish_refusal(error, _Announced(*uids, head.transfer_syntax, head.source_ae))
            raise

    @property
    def has_uncertain_files(self) -> bool:
        """Whether there are files that may or may not be in a row: the next start has to find out."""
        return self._cleanup.has_uncertain_files

    def check_uncertain_files(self) -> None:
        """Delete the uncertain files that are in no row, as far as the index responds."""
        self._cleanup.check_uncertain_files()


class _KnownInstances:
    """Looks up stored instances, except in series that grow: there a new instance is expected."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._growing: set[str] = set()
        """The series whose last instance was new."""

    def find(self, header: Header) -> StoredInstance | None:
        """Return the stored instance with this SOP Instance UID, None also where its series grows.

        In a growing series a duplicate is found when the row is added. Raises IndexUnavailable.
        """
        uid = header.sop_instance_uid
        if header.series_instance_uid in self._growing or not writer.is_known(self._index, uid):
            return None
        return writer.find(self._index, uid)

    def note(self, header: Header, *, is_new: bool) -> None:
        """Note whether an instance of a series was new, or the series is being sent again."""
        if not is_new:
            self._growing.discard(header.series_instance_uid)
            return
        if len(self._growing) >= MOST_GROWING:
            self._growing.clear()
        self._growing.add(header.series_instance_uid)


class _FileCleanup:
    """Deletes files that belong to no row, and remembers those of which that is uncertain. Thread-safe."""

    def __init__(self, index: Index, files: ObjectStore, publish: Callable[[Event], None]) -> None:
        self._index, self._files, self._publish = index, files, publish
        self._uncertain: dict[str, StoredInstance | None] = {}
        """Keys of files that may be in a row, and the instances that they have replaced then."""

    @property
    def has_uncertain_files(self) -> bool:
        """Whether there are files that may or may not be in a row."""
        return bool(self._uncertain)

    def keep_uncertain(self, key: str, former: StoredInstance | None) -> None:
        """Keep a file whose row may have been committed: a row without a file is worse than a file without a row.

        `former` is the instance that it has replaced in that case.
        """
        self._uncertain[key] = former

    def check_uncertain_files(self) -> None:
        """Delete the uncertain files that are in no row, as far as the index responds."""
        for key, former in tuple(self._uncertain.items()):
            try:
                self._check(key, former)
            except (IndexUnavailable, StorageUnavailable):
                return
            self._uncertain.pop(key, None)  # other threads check too

    def _check(self, key: str, former: StoredInstance | None) -> None:
        """Delete an uncertain file, or the instance that it has replaced; others may have adopted either meanwhile."""
        with self._files.lock([key]):
            is_in_row = writer.is_in_row(self._index, key)
            if not is_in_row:
                self.delete(key)
        if is_in_row and former is not None:
            with self._files.lock([former.file_key]):
                if not writer.is_in_row(self._index, former.file_key):
                    self.remove_replaced(former)

    def delete(self, key: str) -> None:
        """Delete a file that is in no row, and locked. A failure is published and does no other harm."""
        try:
            self._files.delete(key)
        except StorageUnavailable:
            self._publish(Notice(sentence=f"file {key} is not in the index and cannot be deleted: delete it by hand"))

    def remove_replaced(self, former: StoredInstance) -> None:
        """Delete the locked file of a replaced instance, and what its study has from it alone.

        A failure is published.
        """
        try:
            header = read_stored_file(self._files, former.file_key, verify=False).header
        except (InstanceUnreadable, StorageUnavailable, UndecodableDataSet):
            header = None
        self.delete(former.file_key)
        try:
            refresh(self._index, self._files, [former], header)
        except PacsError as error:
            sentence = f"a study may still have values of a replaced instance ({error.comment}): run `pacs reindex`"
            self._publish(Notice(sentence=sentence))


def _record(stored: Stored) -> Record:
    subject = Subject(
        patients=[stored.patient_id], studies=[stored.study_instance_uid], instances=[stored.sop_instance_uid]
    )
    return Record(operation="import", outcome="success", subject=subject, user=local_user())


def _record_of_refused(error: PacsError) -> Record:
    subject = Subject(instances=[error.sop_instance_uid])
    return Record(operation="import", outcome="failure", subject=subject, comment=error.comment, user=local_user())


def _header_of(file: BinaryIO, head: part10.FileMeta) -> Header:
    """Read the header of a file."""
    try:
        return read_header(file, head.transfer_syntax)
    except (UndecodableDataSet, MissingUID) as error:
        raise part10.file_error(error, head) from error


def _differences(first: BinaryIO, first_syntax: str, second: BinaryIO, second_syntax: str) -> str:
    """Return which elements of two data sets differ, without values; '' if none does."""
    if not are_comparable(first_syntax, second_syntax):
        return "the transfer syntax differs"
    found = [_name(tag) for tag in islice(differing(first, first_syntax, second, second_syntax), MOST_NAMED + 1)]
    if len(found) > MOST_NAMED:
        return f"{', '.join(found[:MOST_NAMED])} and others differ"
    listed = " and ".join(filter(None, (", ".join(found[:-1]), *found[-1:])))
    return f"{listed} {'differ' if found[1:] else 'differs'}" if found else ""


def _name(tag: int) -> str:
    return keyword_for_tag(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _stripped(uid: str | None) -> str | None:
    return uid.strip(" \0") if uid is not None else None


@dataclass(frozen=True, slots=True)
class _Announced:
    """What is known of an instance before its data set; a UID is None when only the data set has it."""

    sop_class_uid: str | None
    sop_instance_uid: str | None
    transfer_syntax: str
    source_ae: str

    def file_meta(self, received_at: int) -> bytes:
        """Return the File Meta Information; without UIDs it is as long as any with UIDs."""
        return part10.build_file_meta(
            self.sop_class_uid or LONGEST_UID,
            self.sop_instance_uid or LONGEST_UID,
            self.transfer_syntax,
            self.source_ae,
            received_at=received_at,
        )

    def refusal(self, error: PacsError, header: Header | None = None) -> InstanceRefused:
        """Return the event of a refused instance; a text that is no UID is not quoted."""
        uid = header.sop_instance_uid if header is not None else self.sop_instance_uid or ""
        return InstanceRefused(
            sop_class_uid=self.sop_class_uid or (header.sop_class_uid if header is not None else ""),
            sop_instance_uid=uid if is_uid(uid) else "",
            series_instance_uid=header.series_instance_uid if header is not None else "",
            study_instance_uid=header.study_instance_uid if header is not None else "",
            source_ae=self.source_ae,
            error=type(error).__name__,
            comment=error.comment,
        )


class Reception:
    """An instance that is being received. Leaving the `with` block without `finish()` discards it without a trace."""

    def __init__(self, storage: Storage, announced: _Announced, known: _KnownInstances, cleanup: _FileCleanup) -> None:
        self._storage, self._known, self._cleanup = storage, known, cleanup
        self._announced = announced
        self._received_at = time.time_ns() // 1000
        self._file_meta = announced.file_meta(self._received_at)
        self._incoming = self._create()
        self._pixel_length = PixelLengthCheck(announced.transfer_syntax, storage.bounds)
        self._next_check = CHECK_BYTES
        self._header: Header | None = None
        """Once the data set is checked."""
        self._may_have_row = False
        """Whether the row may have been committed although that failed."""
        self._former: StoredInstance | None = None
        """The instance that this one replaces."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._incoming.__exit__(kind, error, trace)
        if isinstance(error, PacsError):
            self._storage.publish_refusal(error, self._announced, self._header)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append the next bytes of the data set.

        Raises StorageUnavailable, and UndecodableDataSet for pixel data that is certain to be refused at the end.
        """
        self._incoming.write(data)
        if self._incoming.size >= self._next_check:
            self._check_beginning()

    def _check_beginning(self) -> None:
        self._next_check = self._incoming.size + CHECK_BYTES
        self._storage.files.require_free()
        self._pixel_length.check(self._incoming.size, self._incoming.body)

    def finish(self) -> Stored:
        """Check the instance, make it durable and add it to the index.

        Raises SOPClassMismatch, SOPClassNotSupported, MissingUID, UndecodableDataSet, DuplicateInstance,
        InstanceConflict, InstanceUnreadable when a stored duplicate cannot be read, StorageUnavailable,
        IndexUnavailable; then nothing of the instance is left.
        """
        header = self._header = self._checked()
        found = self._known.find(header)
        try:
            stored = self._store(header, found)
        except (DuplicateInstance, InstanceConflict):
            self._known.note(header, is_new=False)
            raise
        self._known.note(header, is_new=found is None and not stored.duplicate)
        self._cleanup.check_uncertain_files()
        self._storage.publish(
            InstanceStored(
                sop_instance_uid=header.sop_instance_uid,
                series_instance_uid=header.series_instance_uid,
                study_instance_uid=header.study_instance_uid,
                sop_class_uid=header.sop_class_uid,
                transfer_syntax=self._announced.transfer_syntax,
                size=stored.size,
                source_ae=self._announced.source_ae,
                duplicate=stored.duplicate,
                warnings=stored.warnings,
            )
        )
        return stored

    def _create(self) -> IncomingObject:
        return self._storage.files.create(len(self._file_meta))

    # --- checks ----------------------------------------------------------------------------------------------

    def _checked(self) -> Header:
        """Return the header of the data set, which is the announced instance and has no foreign groups left."""
        header = self._read_header()
        if header.misplaced:
            self._leave_out(header.misplaced)
            header = self._read_header()
        if header.has_fragments and is_native(self._announced.transfer_syntax):
            raise UndecodableDataSet(FRAGMENTS_IN_NATIVE, [PIXEL_DATA])
        pairs = {
            SOP_CLASS_UID: (self._announced.sop_class_uid, header.sop_class_uid),
            SOP_INSTANCE_UID: (self._announced.sop_instance_uid, header.sop_instance_uid),
        }
        wrong = [tag for tag, (announced, found) in pairs.items() if announced not in (None, found)]
        if wrong:
            raise SOPClassMismatch("The data set is not the instance its command names", wrong)
        if self._announced.sop_class_uid is None:
            check_storable(header.sop_class_uid, self._storage.unknown_sop_classes)
        return header

    def _read_header(self) -> Header:
        with closing(self._incoming.body()) as body:
            return read_header(body, self._announced.transfer_syntax, self._storage.bounds)

    def _leave_out(self, intruders: tuple[tuple[int, int], ...]) -> None:
        """Copy the data set without elements of foreign groups (S4 in docs/checklist.md)."""
        if self._announced.transfer_syntax == DEFLATED_LITTLE:
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

    # --- file and row --------------------------------------------------------------------------------------

    def _store(self, header: Header, known: StoredInstance | None) -> Stored:
        """Commit the file, then the row, unless `known` is the same instance."""
        known, is_duplicate = self._compared(known, self._incoming.body)
        if is_duplicate:
            return self._stored(header, duplicate=True)
        digest = self._incoming.digest
        self._incoming.commit(part10.with_digest(self._file_meta_of(header), digest))
        arrival = NewInstance(
            header=header,
            file_key=self._incoming.key,
            size=len(self._file_meta) + self._incoming.size,
            digest=digest,
            transfer_syntax=self._announced.transfer_syntax,
            data_offset=len(self._file_meta),
            received_at=self._received_at,
            source_ae=part10.ae_title(self._announced.source_ae),  # as the file says it
        )
        try:
            return self._add_row(arrival, known)
        except BaseException:
            if self._may_have_row:
                self._cleanup.keep_uncertain(arrival.file_key, self._former)
                self._known.note(header, is_new=False)  # so that the next of its series is looked up first
            else:
                self._cleanup.delete(arrival.file_key)
            raise

    def _file_meta_of(self, header: Header) -> bytes:
        """Return the File Meta Information, with UIDs that were not announced taken from the header."""
        if None not in (self._announced.sop_class_uid, self._announced.sop_instance_uid):
            return self._file_meta
        return part10.build_file_meta(
            header.sop_class_uid,
            header.sop_instance_uid,
            self._announced.transfer_syntax,
            self._announced.source_ae,
            received_at=self._received_at,
            size=len(self._file_meta),
        )

    def _add_row(self, arrival: NewInstance, known: StoredInstance | None) -> Stored:
        """Commit the row, also while others add and remove the same instance."""
        header, index = arrival.header, self._storage.index
        for _ in range(RACES):
            try:
                warnings = self._add_or_replace(arrival, known)
                return self._stored(header, warnings=warnings)
            except (DuplicateInstance, InstanceUnreadable):
                known = writer.find(index, header.sop_instance_uid)
            if known is not None and known.file_key == arrival.file_key:
                return self._stored(header)  # the commit that seemed to fail
            known, is_duplicate = self._compared(known, lambda: self._reopen(arrival))
            if is_duplicate:
                self._cleanup.delete(arrival.file_key)
                return self._stored(header, duplicate=True)
            if known is not None and self._is_replaced(arrival, known):
                self._cleanup.delete(arrival.file_key)
                return self._stored(header)
        raise IndexUnavailable("Too many associations store and delete this instance at once")

    def _stored(self, header: Header, *, duplicate: bool = False, warnings: tuple[str, ...] = ()) -> Stored:
        uid, size = header.sop_instance_uid, self._incoming.size
        return Stored(uid, size, duplicate, warnings, header.patient_id, header.study_instance_uid)

    def _add_or_replace(self, arrival: NewInstance, known: StoredInstance | None) -> tuple[str, ...]:
        index, headers = self._storage.index, self._storage.headers
        if known is None:
            return self._committed(arrival, lambda: writer.add(index, arrival, headers)) or ()
        with self._storage.files.lock([known.file_key]):  # until it is deleted, so that it is never an orphan to adopt
            self._former = known
            self._committed(arrival, lambda: writer.replace(index, arrival, known.file_key, headers))
            self._cleanup.remove_replaced(known)
        return ()

    def _committed(self, arrival: NewInstance, commit: Callable[[], Result]) -> Result | None:
        """Return the result of `commit`; None when it failed, but has committed the row.

        If the connection broke at the commit, only a look at the row tells, and the database may commit even after it.
        """
        self._may_have_row = True
        try:
            return commit()
        except IndexUnavailable as error:
            found = writer.find(self._storage.index, arrival.header.sop_instance_uid)
            if found is not None and found.file_key == arrival.file_key:
                return None
            self._may_have_row = may_be_committed(error)
            raise
        except (DuplicateInstance, InstanceUnreadable, StorageUnavailable):
            self._may_have_row = False
            raise

    def _is_replaced(self, arrival: NewInstance, known: StoredInstance) -> bool:
        """Whether an instance whose file was committed later has replaced this one already."""
        return self._storage.duplicates == "replace" and known.file_key > arrival.file_key

    def _reopen(self, arrival: NewInstance) -> BinaryIO:
        file = self._storage.files.open(arrival.file_key)
        file.seek(arrival.data_offset)
        return file

    # --- duplicates ------------------------------------------------------------------------------------------

    def _compared(
        self, known: StoredInstance | None, body: Callable[[], BinaryIO]
    ) -> tuple[StoredInstance | None, bool]:
        """Return the stored instance, which may be newer than `known`, and whether this one is a duplicate of it."""
        if known is None:
            return None, False
        uid = known.sop_instance_uid
        found = read_current(
            known,
            lambda now: (now, self._is_duplicate(now, body)),
            lambda: writer.find(self._storage.index, uid),
        )
        return found or (None, False)

    def _is_duplicate(self, known: StoredInstance, body: Callable[[], BinaryIO]) -> bool:
        """Whether the known instance is the same and stays; False when this one replaces it.

        Raises DuplicateInstance, InstanceConflict, InstanceUnreadable.
        """
        policy = self._storage.duplicates
        if policy == "reject":
            raise DuplicateInstance(
                f'{STORED}; storage.duplicates is "reject", so they are not compared', [SOP_INSTANCE_UID]
            )
        if known.digest == self._incoming.digest and known.transfer_syntax == self._announced.transfer_syntax:
            return self._is_whole(known)
        if policy == "replace":
            return False
        with closing(body()) as received, closing(self._storage.files.open(known.file_key)) as stored:
            stored.seek(known.data_offset)
            differences = _differences(received, self._announced.transfer_syntax, stored, known.transfer_syntax)
        if differences:
            sentence = f"{STORED} with other content; {differences}, the stored one is kept (storage.duplicates)"
            raise InstanceConflict(sentence, [SOP_INSTANCE_UID])
        return True

    def _is_whole(self, known: StoredInstance) -> bool:
        """Whether the file of a known instance has its full size; if not, the same bytes replace it."""
        try:
            whole = self._storage.files.size(known.file_key) == known.size
        except InstanceUnreadable:
            whole = False
        if not whole and writer.find(self._storage.index, known.sop_instance_uid) == known:
            self._storage.publish(
                Notice(
                    sentence=f"file {known.file_key} was damaged: replaced by the same instance, which was sent again"
                )
            )
        return whole
