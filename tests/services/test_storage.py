"""Storage of instances: S1 to S8 and P11 in docs/checklist.md."""

import hashlib
import io
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from pacs.dicom import part10
from pacs.dicom.syntaxes import DEFLATED_LITTLE, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, NATIVE, convert
from pacs.dimse.messages.status import brief
from pacs.errors import (
    DuplicateInstance,
    IndexUnavailable,
    InstanceConflict,
    InstanceUnreadable,
    MissingUID,
    NotSupported,
    OutOfResources,
    PacsError,
    SOPClassMismatch,
    SOPClassNotSupported,
    StorageUnavailable,
    UndecodableDataSet,
)
from pacs.files.local import LocalFiles
from pacs.index import writer
from pacs.index.database import Index
from pacs.index.raw_connections import RawConnections
from pacs.observability.events import Event, InstanceRefused, InstanceStored, Notice
from pacs.services.maintenance import Maintenance
from pacs.services.orphans import adopt
from pacs.services.storage import Storage, Stored
from tests import real_files
from tests.dicom.test_elements import element, nested

CT = "1.2.840.10008.5.1.4.1.1.2"
UID = "1.2.3"


def instance(changes: dict[int, bytes | None] | None = None) -> bytes:
    """Encode a small instance in Implicit VR Little Endian; None removes an element."""
    elements: dict[int, bytes | None] = {
        0x00080016: CT.encode() + b"\0",
        0x00080018: UID.encode() + b"\0",
        0x00080060: b"CT",
        0x00100010: b"DOE^JOHN",
        0x00100020: b"P1",
        0x0020000D: b"1.2.4\0",
        0x0020000E: b"1.2.5\0",
        0x00280010: b"\2\0",
        0x7FE00010: bytes(range(64)),
    }
    elements |= changes or {}
    return b"".join(element(tag, value) for tag, value in sorted(elements.items()) if value is not None)


class StorageSetup:
    """Storage over a real index and file store, with its events and access to its content."""

    def __init__(self, index: Index, root: Path) -> None:
        self.index = index
        self.root = root
        self.files = LocalFiles(root)
        self.events: list[Event] = []

    def storage(self, **options) -> Storage:
        """Return a storage with these options."""
        options.setdefault("files", self.files)
        return Storage(self.index, publish=self.events.append, **options)

    def tree(self) -> set[str]:
        """Return every file of the store, half-written ones too."""
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}

    def data(self, uid: str = UID) -> bytes:
        """Return the stored data set of an instance, after checks that hold for every stored file."""
        row = writer.find(self.index, uid)
        assert row is not None
        stored = (self.root / row.file_key).read_bytes()
        head = part10.read_file_meta(io.BytesIO(stored))
        data = stored[head.data_offset :]
        assert (row.size, row.data_offset) == (len(stored), head.data_offset)
        assert row.digest == head.digest == hashlib.sha256(data).hexdigest()
        assert (head.sop_instance_uid, head.sop_class_uid) == (uid, row.sop_class_uid)
        assert head.transfer_syntax == row.transfer_syntax
        return data

    def is_empty(self) -> bool:
        """Whether there is neither a file nor a row."""
        return self.tree() == set() and writer.find(self.index, UID) is None


@pytest.fixture
def archive(index: Index, tmp_path: Path) -> StorageSetup:
    """An empty archive."""
    return StorageSetup(index, tmp_path / "files")


def send(storage: Storage, data: bytes, syntax: str = IMPLICIT_LITTLE, uid: str = UID, sop_class: str = CT) -> Stored:
    """Store an instance as a C-STORE does."""
    with storage.receive(sop_class, uid, syntax, "MODALITY") as reception:
        for start in range(0, len(data), 1000):
            reception.write(memoryview(data)[start : start + 1000])
        return reception.finish()


def into(data: bytes, syntax: str) -> bytes:
    """Convert an implicit instance to another native transfer syntax."""
    return b"".join(convert(io.BytesIO(data), IMPLICIT_LITTLE, syntax))


class TestWhatIsStored:
    """Stored instances are bit for bit those that were sent, and the index can be rebuilt from them."""

    def test_the_data_set_is_kept_bit_for_bit(self, archive: StorageSetup):
        """The stored data set is the one that arrived; size, digest and offset agree in file and row."""
        assert send(archive.storage(), instance()) == Stored(UID, len(instance()))
        assert archive.data() == instance()

    def test_the_file_meta_has_sender_and_time(self, archive: StorageSetup):
        """The AE title of the sender and the arrival time are in the file and in the event."""
        send(archive.storage(), instance())
        (key,) = archive.tree()
        head = part10.read_file_meta(io.BytesIO((archive.root / key).read_bytes()))
        assert head.source_ae == "MODALITY"
        assert head.received_at is not None
        assert abs(head.received_at / 1e6 - time.time()) < 60
        assert archive.events == [
            InstanceStored(
                sop_instance_uid=UID,
                series_instance_uid="1.2.5",
                study_instance_uid="1.2.4",
                sop_class_uid=CT,
                transfer_syntax=IMPLICIT_LITTLE,
                size=len(instance()),
                source_ae="MODALITY",
            )
        ]

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(cuts=st.lists(st.integers(0, 400), max_size=20), pixels=st.binary(max_size=200))
    def test_bytes_out_are_bytes_in_however_they_were_fragmented(
        self, archive: StorageSetup, cuts: list[int], pixels: bytes
    ):
        """Any fragmentation of any data set gives the same stored bytes."""
        data = instance({0x7FE00010: pixels})
        edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        with archive.storage(duplicates="replace").receive(CT, UID, IMPLICIT_LITTLE) as reception:
            for start, end in pairwise(edges):
                reception.write(data[start:end])
            reception.finish()
        assert archive.data() == data
        assert len(archive.tree()) == 1

    @pytest.mark.parametrize("syntax", NATIVE)
    def test_every_native_syntax_is_kept_as_it_is(self, archive: StorageSetup, syntax: str):
        """Nothing is converted when it is stored."""
        send(archive.storage(), into(instance(), syntax), syntax)
        assert archive.data() == into(instance(), syntax)

    def test_an_instance_without_patient_id_is_stored(self, archive: StorageSetup):
        """An empty Patient ID is no reason to refuse."""
        send(archive.storage(), instance({0x00100020: b""}))
        assert archive.data() == instance({0x00100020: b""})

    def test_a_conflicting_parent_is_a_warning(self, archive: StorageSetup):
        """A study of a second patient is stored unchanged, with B000 and a warning in the event."""
        storage = archive.storage()
        send(storage, instance())
        other = instance({0x00080018: b"1.2.9\0", 0x00100020: b"P2"})
        stored = send(storage, other, uid="1.2.9")
        assert len(stored.warnings) == 1
        assert "P2" not in stored.warnings[0]
        assert archive.data("1.2.9") == other
        assert isinstance(archive.events[-1], InstanceStored)
        assert archive.events[-1].warnings == stored.warnings

    @pytest.mark.parametrize("group", [0x0000, 0x0002])
    @pytest.mark.parametrize("where", ["first", "last", "both"])
    def test_s4_group_0002_in_a_data_set_is_not_stored(self, archive: StorageSetup, group: int, where: str):
        """Foreign groups are left out wherever they are; digest and size are those of the stored data set."""
        intruder = element(group << 16 | 0x0010, b"1.2.840.10008.1.2\0") + element(group << 16 | 0x0013, b"NOBODY")
        before, after = (intruder if where in (each, "both") else b"" for each in ("first", "last"))
        send(archive.storage(), before + instance() + after)
        assert archive.data() == instance()
        assert len(archive.tree()) == 1

    def test_s4_group_0002_in_a_deflated_data_set_is_refused(self, archive: StorageSetup):
        """It cannot be left out without compressing the data set again."""
        data = element(0x00020010, b"1.2.840.10008.1.2\0") + instance()
        with pytest.raises(UndecodableDataSet):
            send(archive.storage(), into(data, DEFLATED_LITTLE), DEFLATED_LITTLE)
        assert archive.is_empty()


class TestWhatIsRefused:
    """Each refusal has its own error, with the elements at fault, and leaves nothing."""

    def refuse(self, archive: StorageSetup, error: type[PacsError], *arguments, **options) -> PacsError:
        """Send an instance, and check that it is refused and leaves an event only."""
        with pytest.raises(error) as refused:
            send(archive.storage(**options), *arguments)
        assert archive.is_empty()
        assert len(brief(refused.value.comment)) <= 64
        (event,) = archive.events
        assert isinstance(event, InstanceRefused)
        assert event.sop_instance_uid in ("", UID, "1.2.33")
        assert (event.error, event.comment) == (type(refused.value).__name__, refused.value.comment)
        return refused.value

    @pytest.mark.parametrize(
        ("uid", "sop_class", "tags"),
        [("1.2.33", CT, (0x00080018,)), (UID, CT[:-1] + "4", (0x00080016,)),
         ("1.2.33", CT[:-1] + "4", (0x00080016, 0x00080018))],
    )  # fmt: skip
    def test_s1_the_data_set_must_be_what_the_command_names(
        self, archive: StorageSetup, uid: str, sop_class: str, tags
    ):
        """Another SOP Class or Instance in the data set is SOPClassMismatch with the elements."""
        error = self.refuse(archive, SOPClassMismatch, instance(), IMPLICIT_LITTLE, uid, sop_class)
        assert error.tags == tags

    @pytest.mark.parametrize("tag", [0x00080018, 0x0020000D, 0x0020000E])
    @pytest.mark.parametrize("value", [None, b"", b"../../x"])
    def test_s2_no_uid_no_storage(self, archive: StorageSetup, tag: int, value: bytes | None):
        """Without Study, Series or SOP Instance UID an instance is refused."""
        assert self.refuse(archive, MissingUID, instance({tag: value})).tags == (tag,)

    @pytest.mark.parametrize("uid", ["", "../ESCAPED", "/etc/x", "1.2.3\n", "1" * 65, "a.b"])
    def test_p11_a_command_with_an_invalid_uid_is_refused(self, archive: StorageSetup, uid: str):
        """Before a byte is received."""
        assert self.refuse(archive, MissingUID, instance(), IMPLICIT_LITTLE, uid).tags == (0x00080018,)

    @pytest.mark.parametrize(
        "data",
        [b"", b"garbage", instance()[:-1], nested(100) + instance(), into(instance(), EXPLICIT_LITTLE),
         into(instance(), EXPLICIT_BIG)],
        ids=["nothing", "garbage", "cut off", "nested", "explicit", "big endian"],
    )  # fmt: skip
    def test_s3_an_invalid_data_set_is_refused(self, archive: StorageSetup, data: bytes):
        """Empty, damaged, too deep, or in another transfer syntax than announced."""
        self.refuse(archive, UndecodableDataSet if data else MissingUID, data)

    @pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.7.1", "1.2.3", ""])
    def test_an_unsupported_transfer_syntax_is_refused(self, archive: StorageSetup, syntax: str):
        """JPIP, SMPTE and unknown transfer syntaxes."""
        self.refuse(archive, NotSupported, instance(), syntax)

    @pytest.mark.parametrize("sop_class", ["1.2.840.10008.5.1.4.38.1", "1.2.840.10008.1.3.10", "1.2.3.4.5"])
    def test_s8_unsupported_sop_classes_are_refused(self, archive: StorageSetup, sop_class: str):
        """Non-Patient Objects, a DICOMDIR and unknown classes."""
        error = self.refuse(archive, SOPClassNotSupported, instance(), IMPLICIT_LITTLE, UID, sop_class)
        assert error.tags == (0x00080016,)

    def test_s8_unknown_sop_classes_are_stored_if_configured(self, archive: StorageSetup):
        """A private SOP Class is stored then, a Non-Patient Object is not."""
        storage = archive.storage(unknown_sop_classes=True)
        send(storage, instance({0x00080016: b"1.2.3.4.5\0"}), sop_class="1.2.3.4.5")
        assert writer.find(archive.index, UID) is not None
        with pytest.raises(SOPClassNotSupported):
            send(storage, instance(), sop_class="1.2.840.10008.5.1.4.38.1")

    def test_a_sender_that_vanishes_leaves_nothing(self, archive: StorageSetup):
        """Without `finish` the reception is discarded."""
        with pytest.raises(ConnectionError), archive.storage().receive(CT, UID, IMPLICIT_LITTLE) as reception:
            reception.write(instance()[:50])
            raise ConnectionError
        assert archive.is_empty()


class TestUidsThatAreNotAnnounced:
    """A stream whose UIDs only its data set has, as in STOW-RS."""

    @pytest.mark.parametrize(
        ("sop_class", "uid"), [(None, None), (CT, None), (None, UID)], ids=["neither", "class", "instance"]
    )
    def test_uids_are_taken_from_the_data_set(self, archive: StorageSetup, sop_class: str | None, uid: str | None):
        """File, row, result and event have the UIDs, and the file can be read like any other."""
        data = instance()
        with archive.storage().receive(sop_class, uid, IMPLICIT_LITTLE, "MODALITY") as reception:
            reception.write(data)
            assert reception.finish() == Stored(UID, len(data))
        assert archive.data() == data
        (event,) = archive.events
        assert (event.sop_class_uid, event.sop_instance_uid) == (CT, UID)
        before = writer.find(archive.index, UID)
        writer.remove(archive.index, [UID])
        adopt(archive.index, archive.files, before.file_key)
        assert writer.find(archive.index, UID) == before

    @pytest.mark.parametrize("length", [3, 4, 63, 64])
    def test_a_uid_of_any_length_fits(self, archive: StorageSetup, length: int):
        """The File Meta Information is padded to its reserved length, and pydicom reads it."""
        uid = "1." + "2" * (length - 2)
        with archive.storage().receive(None, None, IMPLICIT_LITTLE) as reception:
            reception.write(instance({0x00080018: uid.encode() + b"\0" * (length % 2)}))
            reception.finish()
        archive.data(uid)
        row = writer.find(archive.index, uid)
        file_meta = pydicom.dcmread(archive.root / row.file_key).file_meta
        assert file_meta.MediaStorageSOPInstanceUID == uid
        assert 132 + 12 + file_meta.FileMetaInformationGroupLength == row.data_offset

    @pytest.mark.parametrize(
        ("changes", "error"),
        [({0x00080018: None}, MissingUID), ({0x00080016: b"1.2.3.4.5\0"}, SOPClassNotSupported)],
    )
    def test_refusals_are_the_same_without_announced_uids(self, archive: StorageSetup, changes, error: type[PacsError]):
        """Without a SOP Instance UID, or of an unsupported SOP Class."""
        with pytest.raises(error), archive.storage().receive(None, None, IMPLICIT_LITTLE) as reception:
            reception.write(instance(changes))
            reception.finish()
        assert archive.is_empty()
        assert isinstance(archive.events[-1], InstanceRefused)

    def test_an_announced_uid_is_still_compared(self, archive: StorageSetup):
        """One of the two UIDs is enough for SOPClassMismatch."""
        with pytest.raises(SOPClassMismatch), archive.storage().receive(None, "1.2.33", IMPLICIT_LITTLE) as reception:
            reception.write(instance())
            reception.finish()
        assert archive.is_empty()


class TestDuplicates:
    """The same SOP Instance UID again: S6, S7 (docs/checklist.md) and the three policies."""

    @pytest.mark.parametrize("policy", ["keep", "replace"])
    def test_s6_the_identical_instance_again_is_success(self, archive: StorageSetup, policy: str):
        """Nothing is stored a second time, and the event is that of a duplicate."""
        storage = archive.storage(duplicates=policy)
        send(storage, instance())
        before = archive.tree()
        assert send(storage, instance()) == Stored(UID, len(instance()), duplicate=True)
        assert archive.tree() == before
        assert isinstance(archive.events[-1], InstanceStored)
        assert archive.events[-1].duplicate

    def test_reject_refuses_even_the_identical_instance(self, archive: StorageSetup):
        """Any known UID is DuplicateInstance."""
        send(archive.storage(), instance())
        with pytest.raises(DuplicateInstance):
            send(archive.storage(duplicates="reject"), instance())
        assert archive.data() == instance()
        assert len(archive.tree()) == 1

    @pytest.mark.parametrize(
        ("again", "syntax"),
        [
            *((into(instance(), syntax), syntax) for syntax in NATIVE),
            (element(0x00080000, b"\1\2\3\4") + instance(), IMPLICIT_LITTLE),
            (instance({0x00100010: b"DOE^JOHN  "}), IMPLICIT_LITTLE),
            (instance({0x00080018: b"1.2.3 "}), IMPLICIT_LITTLE),
            (instance() + element(0xFFFCFFFC, b"\0" * 100), IMPLICIT_LITTLE),
        ],
    )
    def test_s6_the_same_values_in_another_encoding_are_success(self, archive: StorageSetup, again: bytes, syntax: str):
        """Native encodings, group lengths and padding make no difference; the first instance stays."""
        storage = archive.storage()
        send(storage, instance())
        assert send(storage, again, syntax).duplicate
        assert archive.data() == instance()
        assert len(archive.tree()) == 1

    @pytest.mark.parametrize(
        "changes",
        [{0x00100010: b"DOE^JANE"}, {0x7FE00010: bytes(64)}, {0x00100030: b"20000101"}, {0x00080060: None},
         {0x00280010: b"\3\0"}, {0x7FE00010: bytes(range(62))}, {0x00100010: b" DOE^JOHN "}],
    )  # fmt: skip
    def test_s7_other_content_under_the_same_uid_is_a_conflict(
        self, archive: StorageSetup, changes: dict[int, bytes | None]
    ):
        """Nothing is stored, and the first instance is unchanged."""
        storage = archive.storage()
        send(storage, instance())
        for syntax in NATIVE:
            with pytest.raises(InstanceConflict):
                send(storage, into(instance(changes), syntax), syntax)
        assert archive.data() == instance()
        assert len(archive.tree()) == 1

    def test_a_compressed_and_a_native_instance_are_a_conflict(self, archive: StorageSetup):
        """Pixels are not decoded for a comparison."""
        storage = archive.storage()
        send(storage, instance())
        with pytest.raises(InstanceConflict):
            send(storage, into(instance(), EXPLICIT_LITTLE), "1.2.840.10008.1.2.5")

    def test_replace_replaces_the_older_instance(self, archive: StorageSetup):
        """The newer one is found, and the file of the older one is gone."""
        storage = archive.storage(duplicates="replace")
        send(storage, instance())
        newer = instance({0x00080060: b"MR"})
        assert not send(storage, newer).duplicate
        assert archive.data() == newer
        assert len(archive.tree()) == 1

    def test_replace_has_the_newer_instance_before_the_older_is_deleted(self, archive: StorageSetup):
        """While the older file is deleted the index has the newer instance already."""
        send(archive.storage(), instance())
        old = next(iter(archive.tree()))
        found: list[str] = []
        files = FailingFiles(archive.files)
        files.before["delete"] = lambda: found.append(writer.find(archive.index, UID).file_key)
        send(archive.storage(files=files, duplicates="replace"), instance({0x00080060: b"MR"}))
        assert found
        assert found != [old]

    def test_an_older_file_that_cannot_be_deleted_is_reported(self, archive: StorageSetup):
        """The newer instance is stored, and a notice names the file that is left."""
        send(archive.storage(), instance())
        files = FailingFiles(archive.files, "delete", StorageUnavailable("no"))
        send(archive.storage(files=files, duplicates="replace"), instance({0x00080060: b"MR"}))
        assert any(isinstance(event, Notice) and "delete it by hand" in event.sentence for event in archive.events)

    @pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"short")])
    def test_the_same_bytes_replace_a_damaged_instance(self, archive: StorageSetup, damage: Callable[[Path], object]):
        """Where the file is missing or cut off, the instance sent again replaces it: success means stored."""
        send(archive.storage(), instance())
        damage(archive.root / next(iter(archive.tree())))
        assert not send(archive.storage(), instance()).duplicate
        assert archive.data() == instance()
        assert len(archive.tree()) == 1

    def test_an_instance_deleted_while_it_is_compared_is_stored(self, archive: StorageSetup):
        """It has other content, and is gone when its file is opened: that is no conflict any more."""
        send(archive.storage(), instance())
        files = FailingFiles(archive.files)
        service = Maintenance(archive.index, archive.files)
        files.before["open"] = lambda: service.delete(service.instances({}))
        other = instance({0x00080060: b"MR"})
        assert not send(archive.storage(files=files), other).duplicate
        assert archive.data() == other

    def test_a_damaged_instance_is_not_overwritten_by_another_one(self, archive: StorageSetup):
        """Other content cannot be compared and is refused."""
        send(archive.storage(), instance())
        (archive.root / next(iter(archive.tree()))).unlink()
        with pytest.raises(InstanceUnreadable):
            send(archive.storage(), instance({0x00080060: b"MR"}))


def at_once(count: int, work: Callable[[int], object]) -> list[object]:
    """Call `work` in threads that begin together, and return its results or errors."""
    start = threading.Barrier(count)
    results: list[object] = [None] * count

    def run(number: int) -> None:
        start.wait()
        try:
            results[number] = work(number)
        except PacsError as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class TestManyAtOnce:
    """The same instance from several senders at once: one row, one file, every response true."""

    @pytest.mark.parametrize("policy", ["keep", "replace"])
    def test_identical_instances(self, archive: StorageSetup, policy: str):
        """Eight senders of the same bytes all succeed, and one of them stored it."""
        storage = archive.storage(duplicates=policy)
        results = at_once(8, lambda _: send(storage, instance()))
        assert sorted(result.duplicate for result in results) == [False] + [True] * 7
        assert archive.data() == instance()
        assert len(archive.tree()) == 1

    def test_different_instances_under_one_uid(self, archive: StorageSetup):
        """One is stored, seven are refused with the conflict."""
        storage = archive.storage()
        results = at_once(8, lambda number: send(storage, instance({0x00200013: b"%d " % number})))
        assert sum(isinstance(result, InstanceConflict) for result in results) == 7
        winner = next(number for number, result in enumerate(results) if isinstance(result, Stored))
        assert archive.data() == instance({0x00200013: b"%d " % winner})
        assert len(archive.tree()) == 1

    def test_different_instances_that_replace_each_other(self, archive: StorageSetup):
        """All succeed, one of them is there in the end, complete, and no file of the others is left."""
        storage = archive.storage(duplicates="replace")
        results = at_once(8, lambda number: send(storage, instance({0x00200013: b"%d " % number})))
        assert all(isinstance(result, Stored) for result in results)
        assert archive.data() in [instance({0x00200013: b"%d " % number}) for number in range(8)]
        assert len(archive.tree()) == 1

    def test_different_instances_of_one_study(self, archive: StorageSetup):
        """All instances sent at once are stored."""
        storage = archive.storage()
        uids = [f"1.2.3.{number}" for number in range(8)]
        datas = [instance({0x00080018: uid.encode() + b"\0" * (len(uid) % 2)}) for uid in uids]
        at_once(8, lambda number: send(storage, datas[number], uid=uids[number]))
        assert [archive.data(uid) for uid in uids] == datas
        assert len(archive.tree()) == 8


class FailingFiles:
    """A file store with one failing step, and functions to call before steps."""

    def __init__(self, files: LocalFiles, step: str = "", error: BaseException | None = None) -> None:
        self._files = files
        self.step, self.error = step, error
        self.before: dict[str, Callable[[], object]] = {}

    def go(self, step: str) -> None:
        """Let a step begin, or fail."""
        self.before.get(step, lambda: None)()
        if step == self.step and self.error is not None:
            raise self.error

    def create(self, head_size: int) -> "_FailingIncoming":
        """Create an incoming object whose steps may fail too."""
        self.go("create")
        return _FailingIncoming(self, self._files.create(head_size))

    def __getattr__(self, name: str):
        real = getattr(self._files, name)

        def step(*arguments):
            self.go(name)
            return real(*arguments)

        return step


class _FailingIncoming:
    def __init__(self, files: FailingFiles, incoming) -> None:
        self._failing, self._incoming = files, incoming

    def __getattr__(self, name: str):
        return getattr(self._incoming, name)

    def write(self, data) -> None:
        self._failing.go("write")
        self._incoming.write(data)

    def body(self):
        self._failing.go("body")
        return self._incoming.body()

    def commit(self, head: bytes) -> None:
        self._failing.go("commit")
        self._incoming.commit(head)
        self._failing.go("committed")

    def __enter__(self):
        return self

    def __exit__(self, *exc: object) -> None:
        self._incoming.__exit__(*exc)


class RefusingDriver:
    """A connection of a driver that refuses statements with a text, or the commit."""

    def __init__(self, driver: Any, refused: str, error: Exception) -> None:
        self._driver, self._refused, self._error = driver, refused, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def execute(self, statement: str, *parameters: Any) -> Any:
        """Execute a statement, or refuse it."""
        if self._refused in statement:
            raise self._error
        return self._driver.execute(statement, *parameters)

    def commit(self) -> None:
        """Commit, or refuse to."""
        if self._refused == "COMMIT":
            raise self._error
        self._driver.commit()


@contextmanager
def failing_statements(index: Index, refused: str) -> Iterator[None]:
    """Make the database refuse statements with this text, in the `with` block, on all connections."""
    engine = index._engine

    def refuse(connection, cursor, statement, *_: object) -> None:
        if refused in statement:
            raise OperationalError(statement, None, Exception("no"))

    def refuse_commit(connection) -> None:
        raise OperationalError("COMMIT", None, Exception("no"))

    def use(self: RawConnections, work: Any) -> Any:
        error = engine.dialect.loaded_dbapi.OperationalError("no")
        return real(self, lambda driver: work(RefusingDriver(driver, refused, error)))

    real = RawConnections.use
    name, listener = ("commit", refuse_commit) if refused == "COMMIT" else ("before_cursor_execute", refuse)
    event.listen(engine, name, listener)
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(RawConnections, "use", use)
            yield
    finally:
        event.remove(engine, name, listener)


def gone(*_: object) -> None:
    """Stand for a database that does not respond."""
    raise IndexUnavailable("The index does not answer")


class TestFailingSteps:
    """Whichever step fails: the right error, no stray file or row, and the same instance can be sent again."""

    @pytest.mark.parametrize("step", ["create", "write", "body", "commit"])
    def test_of_the_file_store(self, archive: StorageSetup, step: str):
        """StorageUnavailable, which is A7xx, and nothing is left."""
        files = FailingFiles(archive.files, step, StorageUnavailable("No space left for files"))
        with pytest.raises(StorageUnavailable):
            send(archive.storage(files=files), instance())
        assert archive.is_empty()
        send(archive.storage(), instance())
        assert archive.data() == instance()

    @pytest.mark.parametrize("statement", ["INSERT INTO patient", "INSERT INTO study", "INSERT INTO series",
                                           "INSERT INTO image", "COMMIT"])  # fmt: skip
    def test_of_the_index(self, archive: StorageSetup, statement: str, monkeypatch):
        """The database fails anywhere in the transaction: the durable file is deleted again."""
        add = writer.add

        def failing(index: Index, arrival: writer.NewInstance, headers) -> tuple[str, ...]:
            with failing_statements(index, statement):
                return add(index, arrival, headers)

        monkeypatch.setattr(writer, "add", failing)
        with pytest.raises(OutOfResources):
            send(archive.storage(), instance())
        assert archive.is_empty()
        monkeypatch.undo()
        send(archive.storage(), instance())
        assert archive.data() == instance()

    def test_of_the_index_that_does_not_respond(self, archive: StorageSetup, monkeypatch):
        """IndexUnavailable, and no file once it responds again."""
        storage = archive.storage()
        monkeypatch.setattr(writer, "add", gone)
        monkeypatch.setattr(writer, "find", gone)
        monkeypatch.setattr(writer, "is_in_row", gone)
        with pytest.raises(IndexUnavailable):
            send(storage, instance())
        storage.check_uncertain_files()
        assert storage.has_uncertain_files
        monkeypatch.undo()
        storage.check_uncertain_files()
        assert not storage.has_uncertain_files
        assert archive.is_empty()

    def test_of_the_index_after_a_commit(self, archive: StorageSetup, monkeypatch):
        """The row is committed, then the index does not respond: the row keeps its file. The sender may send again."""
        add = writer.add

        def committed(index: Index, arrival: writer.NewInstance, headers) -> None:
            add(index, arrival, headers)
            gone()

        storage = archive.storage()
        monkeypatch.setattr(writer, "add", committed)
        monkeypatch.setattr(writer, "find", gone)
        with pytest.raises(IndexUnavailable):
            send(storage, instance())
        monkeypatch.undo()
        assert archive.data() == instance()
        assert send(storage, instance()).duplicate
        storage.check_uncertain_files()
        assert archive.data() == instance()

    @pytest.mark.parametrize("policy", ["keep", "replace"])
    def test_a_commit_without_a_response_counts(self, archive: StorageSetup, policy: str, monkeypatch):
        """When the connection breaks after the commit, the row is there: the file must not be deleted."""
        send(archive.storage(), instance())
        uid = UID if policy == "replace" else "1.2.9"
        name = "replace" if policy == "replace" else "add"
        real = getattr(writer, name)

        def broken(index: Index, arrival: writer.NewInstance, *rest) -> None:
            real(index, arrival, *rest)
            raise IndexUnavailable("the connection broke")

        monkeypatch.setattr(writer, name, broken)
        other = instance({0x00080018: uid.encode() + b"\0", 0x00080060: b"MR"})
        assert not send(archive.storage(duplicates=policy), other, uid=uid).duplicate
        assert archive.data(uid) == other
        assert len(archive.tree()) == (1 if policy == "replace" else 2)

    @pytest.mark.parametrize("step", ["create", "write", "body", "commit", "committed"])
    def test_by_an_interruption(self, archive: StorageSetup, step: str):
        """An error that is not ours leaves no half-written file; a committed file is in no row."""
        files = FailingFiles(archive.files, step, KeyboardInterrupt())
        with suppress(KeyboardInterrupt):
            send(archive.storage(files=files), instance())
        assert writer.find(archive.index, UID) is None
        assert not any(key.startswith("incoming") for key in archive.tree())

    def test_of_two_replacements_the_file_that_was_committed_later_stays(self, archive: StorageSetup, monkeypatch):
        """Whichever row is committed first: the other instance counts as replaced, and leaves no file."""
        storage, real = archive.storage(duplicates="replace"), archive.files.lock
        send(storage, instance())
        later = instance({0x00080060: b"MR"})

        def replaced_before(keys: list[str]):
            monkeypatch.setattr(archive.files, "lock", real)
            send(archive.storage(duplicates="replace"), later)
            return real(keys)

        monkeypatch.setattr(archive.files, "lock", replaced_before)
        assert not send(storage, instance({0x00080060: b"CR"})).duplicate
        assert archive.data() == later
        assert len(archive.tree()) == 1

    def test_a_removal_just_before_the_replacement(self, archive: StorageSetup, monkeypatch):
        """An instance deleted while its replacement arrives is stored as a new one."""
        send(archive.storage(), instance())
        real = writer.replace

        def removed_before(index: Index, arrival: writer.NewInstance, former_key: str, headers):
            former = writer.remove(index, [UID])
            for each in former:
                archive.files.delete(each.file_key)
            return real(index, arrival, former_key, headers)

        monkeypatch.setattr(writer, "replace", removed_before)
        newer = instance({0x00080060: b"MR"})
        send(archive.storage(duplicates="replace"), newer)
        assert archive.data() == newer
        assert len(archive.tree()) == 1


class TestImport:
    """Files are stored through the same steps."""

    def test_a_part_10_file_is_stored_like_a_c_store(self, archive: StorageSetup, tmp_path: Path):
        """Data set, digest and UIDs are the same; the sender is that of its File Meta Information."""
        data, syntax = real_files.data_set(real_files.named("CT_small.dcm"))
        stored = archive.storage().import_file(real_files.named("CT_small.dcm"))
        assert stored.size == len(data)
        assert archive.data(stored.sop_instance_uid) == data
        assert writer.find(archive.index, stored.sop_instance_uid).transfer_syntax == syntax
        assert archive.storage().import_file(real_files.named("CT_small.dcm")).duplicate

    @pytest.mark.parametrize("syntax", [IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG])
    def test_a_bare_data_set_is_stored(self, archive: StorageSetup, tmp_path: Path, syntax: str):
        """Without preamble and File Meta Information, in the transfer syntax that its first element shows."""
        (tmp_path / "bare").write_bytes(into(instance(), syntax))
        archive.storage().import_file(tmp_path / "bare")
        assert archive.data() == into(instance(), syntax)
        assert writer.find(archive.index, UID).transfer_syntax == syntax

    @pytest.mark.parametrize("length", [1, 7, 8, 512])
    @pytest.mark.parametrize("syntax", [IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG])
    def test_s4_zero_bytes_after_a_data_set_are_left_out(
        self, archive: StorageSetup, tmp_path: Path, syntax: str, length: int
    ):
        """Some writers fill up a block; from a file and from a C-STORE."""
        data = into(instance(), syntax)
        (tmp_path / "filled").write_bytes(data + b"\0" * length)
        archive.storage().import_file(tmp_path / "filled")
        assert archive.data() == data
        assert send(archive.storage(), data + b"\0" * length, syntax).duplicate

    @pytest.mark.parametrize("start", [128, 132])
    def test_a_missing_preamble_is_tolerated(self, archive: StorageSetup, tmp_path: Path, start: int):
        """DICM or group 0002 may come first."""
        head = part10.build_file_meta(CT, UID, IMPLICIT_LITTLE, "ELSEWHERE", received_at=0)
        (tmp_path / "bare").write_bytes((head + instance())[start:])
        archive.storage().import_file(tmp_path / "bare")
        assert archive.data() == instance()

    def test_a_dicomdir_is_refused_by_name(self, archive: StorageSetup):
        """A directory is no instance."""
        with pytest.raises(SOPClassNotSupported, match="DICOMDIR"):
            archive.storage().import_file(next(path for path in real_files.FILES if path.name == "DICOMDIR"))
        assert archive.is_empty()

    def test_other_files_are_refused_by_name(self, archive: StorageSetup, tmp_path: Path):
        """Texts, archives, empty files and noise have named errors."""
        noise = random.Random(1).randbytes(5000)
        for number, content in enumerate([b"", b"hello\n" * 100, b"PK\3\4" + noise, noise, b"\0" * 5000]):
            path = tmp_path / str(number)
            path.write_bytes(content)
            with pytest.raises((UndecodableDataSet, MissingUID)):
                archive.storage().import_file(path)
        assert archive.is_empty()

    def test_a_file_that_cannot_be_read_is_a_named_error(self, archive: StorageSetup, tmp_path: Path):
        """Missing files and folders are InstanceUnreadable."""
        for path in (tmp_path / "missing", tmp_path):
            with pytest.raises(InstanceUnreadable):
                archive.storage().import_file(path)

    def test_every_bundled_file_is_stored_or_refused_by_name(self, archive: StorageSetup):
        """Stored bit for bit, or refused with a named error; no stray file. Colliding UIDs are replaced."""
        storage = archive.storage(duplicates="replace", unknown_sop_classes=True)
        stored = 0
        for path in real_files.FILES:
            try:
                result = storage.import_file(path)
            except PacsError:
                continue
            stored += 1
            if path in real_files.PART10:
                assert archive.data(result.sop_instance_uid) == real_files.data_set(path)[0]
        assert stored > 150
        rows = {key for key in archive.files.keys()}  # noqa: C416, SIM118
        assert rows == archive.tree()
