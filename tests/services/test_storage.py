"""Taking instances in: checklist 3.8 (S1-S8) and 5.1, issue 2 points 5 and 6."""

import hashlib
import io
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from pacs.dicom import part10
from pacs.dicom.syntaxes import DEFLATED_LITTLE, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, NATIVE, convert
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
from pacs.observability.events import Event, InstanceRefused, InstanceStored, Notice
from pacs.services.orphans import adopt
from pacs.services.storage import Storage, Stored
from tests import real_files
from tests.dicom.test_elements import element, nested

CT = "1.2.840.10008.5.1.4.1.1.2"
UID = "1.2.3"


def instance(changes: dict[int, bytes | None] | None = None) -> bytes:
    """A small instance in Implicit VR Little Endian; None takes an element away."""
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


class House:
    """A storage over real stores, with what it published and how to look into them."""

    def __init__(self, index: Index, root: Path) -> None:
        self.index = index
        self.root = root
        self.files = LocalFiles(root)
        self.events: list[Event] = []

    def storage(self, **options) -> Storage:
        """A storage with these options."""
        options.setdefault("files", self.files)
        return Storage(self.index, publish=self.events.append, **options)

    def tree(self) -> set[str]:
        """Every file there is, half-written ones too."""
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}

    def data(self, uid: str = UID) -> bytes:
        """The stored data set of an instance, after a look at everything that must be true of a stored one."""
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
def house(index: Index, tmp_path: Path) -> House:
    """An empty archive."""
    return House(index, tmp_path / "files")


def send(storage: Storage, data: bytes, syntax: str = IMPLICIT_LITTLE, uid: str = UID, sop_class: str = CT) -> Stored:
    """What a C-STORE does."""
    with storage.receive(sop_class, uid, syntax, "MODALITY") as reception:
        for start in range(0, len(data), 1000):
            reception.write(memoryview(data)[start : start + 1000])
        return reception.finish()


def into(data: bytes, syntax: str) -> bytes:
    """An implicit instance in another native transfer syntax."""
    return b"".join(convert(io.BytesIO(data), IMPLICIT_LITTLE, syntax))


class TestWhatIsStored:
    """Bit for bit what was sent, with everything the index can be rebuilt from."""

    def test_the_data_set_is_kept_bit_for_bit(self, house: House):
        """The stored data set is what arrived; size, digest and offsets agree between file and row."""
        assert send(house.storage(), instance()) == Stored(UID, len(instance()))
        assert house.data() == instance()

    def test_the_head_says_who_sent_it_and_when(self, house: House):
        """The sending AE and the arrival time stand in the file and in the event."""
        send(house.storage(), instance())
        (key,) = house.tree()
        head = part10.read_file_meta(io.BytesIO((house.root / key).read_bytes()))
        assert head.source_ae == "MODALITY"
        assert head.received_at is not None
        assert key.startswith(datetime.fromtimestamp(head.received_at / 1e6, UTC).strftime("%Y/%m/%d/%H/"))
        assert house.events == [
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
    def test_bytes_out_are_bytes_in_however_they_were_fragmented(self, house: House, cuts: list[int], pixels: bytes):
        """Any fragmentation of any data set gives the same stored bytes."""
        data = instance({0x7FE00010: pixels})
        edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        with house.storage(duplicates="replace").receive(CT, UID, IMPLICIT_LITTLE) as reception:
            for start, end in pairwise(edges):
                reception.write(data[start:end])
            reception.finish()
        assert house.data() == data
        assert len(house.tree()) == 1

    @pytest.mark.parametrize("syntax", NATIVE)
    def test_every_native_syntax_is_kept_as_it_is(self, house: House, syntax: str):
        """Nothing is converted on its way in."""
        send(house.storage(), into(instance(), syntax), syntax)
        assert house.data() == into(instance(), syntax)

    def test_an_instance_without_patient_id_is_stored(self, house: House):
        """An empty Patient ID is no reason to refuse."""
        send(house.storage(), instance({0x00100020: b""}))
        assert house.data() == instance({0x00100020: b""})

    def test_a_conflicting_parent_is_a_warning(self, house: House):
        """A study under a second patient is stored untouched, with B000 and an event that says so."""
        storage = house.storage()
        send(storage, instance())
        other = instance({0x00080018: b"1.2.9\0", 0x00100020: b"P2"})
        stored = send(storage, other, uid="1.2.9")
        assert len(stored.warnings) == 1
        assert "P2" not in stored.warnings[0]
        assert house.data("1.2.9") == other
        assert isinstance(house.events[-1], InstanceStored)
        assert house.events[-1].warnings == stored.warnings

    @pytest.mark.parametrize("group", [0x0000, 0x0002])
    @pytest.mark.parametrize("where", ["first", "last", "both"])
    def test_s4_group_0002_in_a_data_set_is_not_stored(self, house: House, group: int, where: str):
        """What is no part of a data set is left out wherever it stands; digest and size are those of what is kept."""
        intruder = element(group << 16 | 0x0010, b"1.2.840.10008.1.2\0") + element(group << 16 | 0x0013, b"NOBODY")
        before, after = (intruder if where in (each, "both") else b"" for each in ("first", "last"))
        send(house.storage(), before + instance() + after)
        assert house.data() == instance()
        assert len(house.tree()) == 1

    def test_s4_group_0002_in_a_deflated_data_set_is_refused(self, house: House):
        """It cannot be left out without compressing anew what has to stay as it was."""
        data = element(0x00020010, b"1.2.840.10008.1.2\0") + instance()
        with pytest.raises(UndecodableDataSet):
            send(house.storage(), into(data, DEFLATED_LITTLE), DEFLATED_LITTLE)
        assert house.is_empty()


class TestWhatIsRefused:
    """Each refusal by its name, with the elements at fault, and nothing left behind."""

    def refuse(self, house: House, error: type[PacsError], *arguments, **options) -> PacsError:
        """Send and see it refused without a trace but an event that says so."""
        with pytest.raises(error) as refused:
            send(house.storage(**options), *arguments)
        assert house.is_empty()
        assert len(refused.value.comment) <= 64
        (event,) = house.events
        assert isinstance(event, InstanceRefused)
        assert event.sop_instance_uid in ("", UID, "1.2.33")
        assert (event.error, event.comment) == (error.__name__, refused.value.comment)
        return refused.value

    @pytest.mark.parametrize(
        ("uid", "sop_class", "tags"),
        [("1.2.33", CT, (0x00080018,)), (UID, CT[:-1] + "4", (0x00080016,)),
         ("1.2.33", CT[:-1] + "4", (0x00080016, 0x00080018))],
    )  # fmt: skip
    def test_s1_the_data_set_must_be_what_the_command_names(self, house: House, uid: str, sop_class: str, tags):
        """Another SOP Class or Instance in the data set is SOPClassMismatch, and the error names the elements."""
        error = self.refuse(house, SOPClassMismatch, instance(), IMPLICIT_LITTLE, uid, sop_class)
        assert error.tags == tags

    @pytest.mark.parametrize("tag", [0x00080018, 0x0020000D, 0x0020000E])
    @pytest.mark.parametrize("value", [None, b"", b"../../x"])
    def test_s2_no_uid_no_storage(self, house: House, tag: int, value: bytes | None):
        """Without Study, Series or SOP Instance UID there is no place for an instance."""
        assert self.refuse(house, MissingUID, instance({tag: value})).tags == (tag,)

    @pytest.mark.parametrize("uid", ["", "../ESCAPED", "/etc/x", "1.2.3\n", "1" * 65, "a.b"])
    def test_p11_a_command_with_an_impossible_uid_is_refused(self, house: House, uid: str):
        """A SOP Instance UID that is none is refused before a byte is taken."""
        assert self.refuse(house, MissingUID, instance(), IMPLICIT_LITTLE, uid).tags == (0x00080018,)

    @pytest.mark.parametrize(
        "data",
        [b"", b"garbage", instance()[:-1], nested(100) + instance(), into(instance(), EXPLICIT_LITTLE),
         into(instance(), EXPLICIT_BIG)],
        ids=["nothing", "garbage", "cut off", "nested", "explicit", "big endian"],
    )  # fmt: skip
    def test_s3_what_is_no_data_set_in_its_syntax_is_refused(self, house: House, data: bytes):
        """Empty, damaged, too deep or in another transfer syntax than announced."""
        self.refuse(house, UndecodableDataSet if data else MissingUID, data)

    @pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.7.1", "1.2.3", ""])
    def test_a_syntax_that_is_not_kept_is_refused(self, house: House, syntax: str):
        """JPIP, SMPTE and unknown transfer syntaxes."""
        self.refuse(house, NotSupported, instance(), syntax)

    @pytest.mark.parametrize("sop_class", ["1.2.840.10008.5.1.4.38.1", "1.2.840.10008.1.3.10", "1.2.3.4.5"])
    def test_s8_classes_that_are_not_kept_are_refused(self, house: House, sop_class: str):
        """Non-Patient Objects, a DICOMDIR and unknown classes."""
        error = self.refuse(house, SOPClassNotSupported, instance(), IMPLICIT_LITTLE, UID, sop_class)
        assert error.tags == (0x00080016,)

    def test_s8_unknown_classes_are_kept_when_switched_on(self, house: House):
        """A private SOP Class is stored then, a Non-Patient Object still not."""
        storage = house.storage(unknown_sop_classes=True)
        send(storage, instance({0x00080016: b"1.2.3.4.5\0"}), sop_class="1.2.3.4.5")
        assert writer.find(house.index, UID) is not None
        with pytest.raises(SOPClassNotSupported):
            send(storage, instance(), sop_class="1.2.840.10008.5.1.4.38.1")

    def test_a_sender_that_vanishes_leaves_nothing(self, house: House):
        """Without finish the reception is discarded."""
        with pytest.raises(ConnectionError), house.storage().receive(CT, UID, IMPLICIT_LITTLE) as reception:
            reception.write(instance()[:50])
            raise ConnectionError
        assert house.is_empty()


class TestUidsThatAreNotAnnounced:
    """A stream whose UIDs only its data set has, as in STOW-RS."""

    @pytest.mark.parametrize(
        ("sop_class", "uid"), [(None, None), (CT, None), (None, UID)], ids=["neither", "class", "instance"]
    )
    def test_they_are_taken_from_the_data_set(self, house: House, sop_class: str | None, uid: str | None):
        """File, row, result and event have the UIDs, and the file can be read as one with announced UIDs."""
        data = instance()
        with house.storage().receive(sop_class, uid, IMPLICIT_LITTLE, "MODALITY") as reception:
            reception.write(data)
            assert reception.finish() == Stored(UID, len(data))
        assert house.data() == data
        (event,) = house.events
        assert (event.sop_class_uid, event.sop_instance_uid) == (CT, UID)
        before = writer.find(house.index, UID)
        writer.remove(house.index, [UID])
        adopt(house.index, house.files, before.file_key)
        assert writer.find(house.index, UID) == before

    @pytest.mark.parametrize("length", [3, 4, 63, 64])
    def test_a_uid_of_any_length_fits(self, house: House, length: int):
        """The File Meta Information is padded to the length that was set aside, and pydicom reads it."""
        uid = "1." + "2" * (length - 2)
        with house.storage().receive(None, None, IMPLICIT_LITTLE) as reception:
            reception.write(instance({0x00080018: uid.encode() + b"\0" * (length % 2)}))
            reception.finish()
        house.data(uid)
        row = writer.find(house.index, uid)
        file_meta = pydicom.dcmread(house.root / row.file_key).file_meta
        assert file_meta.MediaStorageSOPInstanceUID == uid
        assert 132 + 12 + file_meta.FileMetaInformationGroupLength == row.data_offset

    @pytest.mark.parametrize(
        ("changes", "error"),
        [({0x00080018: None}, MissingUID), ({0x00080016: b"1.2.3.4.5\0"}, SOPClassNotSupported)],
    )
    def test_what_is_refused_when_announced_is_refused_when_not(self, house: House, changes, error: type[PacsError]):
        """Without a SOP Instance UID, or of a SOP Class that is not stored here; the event names what is known."""
        with pytest.raises(error), house.storage().receive(None, None, IMPLICIT_LITTLE) as reception:
            reception.write(instance(changes))
            reception.finish()
        assert house.is_empty()
        assert isinstance(house.events[-1], InstanceRefused)

    def test_an_announced_uid_is_still_compared(self, house: House):
        """One of the two is enough for SOPClassMismatch."""
        with pytest.raises(SOPClassMismatch), house.storage().receive(None, "1.2.33", IMPLICIT_LITTLE) as reception:
            reception.write(instance())
            reception.finish()
        assert house.is_empty()


class TestDuplicates:
    """The same SOP Instance UID again: S6, S7 and the three policies."""

    @pytest.mark.parametrize("policy", ["keep", "replace"])
    def test_s6_the_identical_instance_again_is_success(self, house: House, policy: str):
        """Nothing is stored a second time, and the event says that it was a duplicate."""
        storage = house.storage(duplicates=policy)
        send(storage, instance())
        before = house.tree()
        assert send(storage, instance()) == Stored(UID, len(instance()), duplicate=True)
        assert house.tree() == before
        assert isinstance(house.events[-1], InstanceStored)
        assert house.events[-1].duplicate

    def test_reject_refuses_even_the_identical_instance(self, house: House):
        """Any known UID is DuplicateInstance."""
        send(house.storage(), instance())
        with pytest.raises(DuplicateInstance):
            send(house.storage(duplicates="reject"), instance())
        assert house.data() == instance()
        assert len(house.tree()) == 1

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
    def test_s6_the_same_values_in_another_encoding_are_success(self, house: House, again: bytes, syntax: str):
        """Native encodings, group lengths and padding do not make another instance; the first one stays."""
        storage = house.storage()
        send(storage, instance())
        assert send(storage, again, syntax).duplicate
        assert house.data() == instance()
        assert len(house.tree()) == 1

    @pytest.mark.parametrize(
        "changes",
        [{0x00100010: b"DOE^JANE"}, {0x7FE00010: bytes(64)}, {0x00100030: b"20000101"}, {0x00080060: None},
         {0x00280010: b"\3\0"}, {0x7FE00010: bytes(range(62))}, {0x00100010: b" DOE^JOHN "}],
    )  # fmt: skip
    def test_s7_other_content_under_the_same_uid_is_a_conflict(self, house: House, changes: dict[int, bytes | None]):
        """Nothing is stored, the sender still has it, and the first one is untouched."""
        storage = house.storage()
        send(storage, instance())
        for syntax in NATIVE:
            with pytest.raises(InstanceConflict):
                send(storage, into(instance(changes), syntax), syntax)
        assert house.data() == instance()
        assert len(house.tree()) == 1

    def test_a_compressed_and_a_native_instance_are_a_conflict(self, house: House):
        """Pixels are not decoded to be compared."""
        storage = house.storage()
        send(storage, instance())
        with pytest.raises(InstanceConflict):
            send(storage, into(instance(), EXPLICIT_LITTLE), "1.2.840.10008.1.2.5")

    def test_replace_puts_the_newer_in_the_place_of_the_older(self, house: House):
        """The newer one is found, and the older one's file is gone."""
        storage = house.storage(duplicates="replace")
        send(storage, instance())
        newer = instance({0x00080060: b"MR"})
        assert not send(storage, newer).duplicate
        assert house.data() == newer
        assert len(house.tree()) == 1

    def test_replace_has_the_newer_before_the_older_goes(self, house: House):
        """While the older file is deleted the index knows the newer one already."""
        send(house.storage(), instance())
        old = next(iter(house.tree()))
        found: list[str] = []
        files = Failing(house.files)
        files.before["delete"] = lambda: found.append(writer.find(house.index, UID).file_key)
        send(house.storage(files=files, duplicates="replace"), instance({0x00080060: b"MR"}))
        assert found
        assert found != [old]

    def test_an_older_file_that_cannot_be_deleted_is_told(self, house: House):
        """The newer instance is stored all the same, and the administrator learns which file is left."""
        send(house.storage(), instance())
        files = Failing(house.files, "delete", StorageUnavailable("no"))
        send(house.storage(files=files, duplicates="replace"), instance({0x00080060: b"MR"}))
        assert any(isinstance(event, Notice) and "delete it by hand" in event.sentence for event in house.events)

    @pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"short")])
    def test_the_same_bytes_mend_a_damaged_instance(self, house: House, damage: Callable[[Path], object]):
        """Success means stored: where the file is gone or cut off, the instance sent again takes its place."""
        send(house.storage(), instance())
        damage(house.root / next(iter(house.tree())))
        assert not send(house.storage(), instance()).duplicate
        assert house.data() == instance()
        assert len(house.tree()) == 1

    def test_a_damaged_instance_is_not_overwritten_by_another_one(self, house: House):
        """With other content nothing can be compared: refused."""
        send(house.storage(), instance())
        (house.root / next(iter(house.tree()))).unlink()
        with pytest.raises(InstanceUnreadable):
            send(house.storage(), instance({0x00080060: b"MR"}))


def at_once(count: int, work: Callable[[int], object]) -> list[object]:
    """What `work` returns or raises in so many threads that begin together."""
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
    """The same instance from several senders at the same time: one row, one file, every answer true."""

    @pytest.mark.parametrize("policy", ["keep", "replace"])
    def test_identical_instances(self, house: House, policy: str):
        """Eight senders of the same bytes all succeed, one of them is the one that stored it."""
        storage = house.storage(duplicates=policy)
        results = at_once(8, lambda _: send(storage, instance()))
        assert sorted(result.duplicate for result in results) == [False] + [True] * 7
        assert house.data() == instance()
        assert len(house.tree()) == 1

    def test_different_instances_under_one_uid(self, house: House):
        """One is stored, seven are told of the conflict."""
        storage = house.storage()
        results = at_once(8, lambda number: send(storage, instance({0x00200013: b"%d " % number})))
        assert sum(isinstance(result, InstanceConflict) for result in results) == 7
        winner = next(number for number, result in enumerate(results) if isinstance(result, Stored))
        assert house.data() == instance({0x00200013: b"%d " % winner})
        assert len(house.tree()) == 1

    def test_different_instances_that_replace_each_other(self, house: House):
        """All succeed, one of them is there in the end, whole, and no file is left of the others."""
        storage = house.storage(duplicates="replace")
        results = at_once(8, lambda number: send(storage, instance({0x00200013: b"%d " % number})))
        assert all(isinstance(result, Stored) for result in results)
        assert house.data() in [instance({0x00200013: b"%d " % number}) for number in range(8)]
        assert len(house.tree()) == 1

    def test_different_instances_of_one_study(self, house: House):
        """Everything sent at once is there afterwards."""
        storage = house.storage()
        uids = [f"1.2.3.{number}" for number in range(8)]
        datas = [instance({0x00080018: uid.encode() + b"\0" * (len(uid) % 2)}) for uid in uids]
        at_once(8, lambda number: send(storage, datas[number], uid=uids[number]))
        assert [house.data(uid) for uid in uids] == datas
        assert len(house.tree()) == 8


class Failing:
    """A file store, real but for one step: what is to happen before a step, and which step is to fail."""

    def __init__(self, files: LocalFiles, step: str = "", error: BaseException | None = None) -> None:
        self._files = files
        self.step, self.error = step, error
        self.before: dict[str, Callable[[], object]] = {}

    def go(self, step: str) -> None:
        """Let a step begin, or fail."""
        self.before.get(step, lambda: None)()
        if step == self.step and self.error is not None:
            raise self.error

    def create(self, head_size: int, arrived: datetime) -> "_FailingIncoming":
        """An incoming object whose steps may fail too."""
        self.go("create")
        return _FailingIncoming(self, self._files.create(head_size, arrived))

    def __getattr__(self, name: str):
        real = getattr(self._files, name)

        def step(*arguments):
            self.go(name)
            return real(*arguments)

        return step


class _FailingIncoming:
    def __init__(self, files: Failing, incoming) -> None:
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


@contextmanager
def failing_statements(index: Index, beginning: str) -> Iterator[None]:
    """While the block runs, the database refuses statements that begin like this."""
    engine = index._engine

    def refuse(connection, cursor, statement, *_: object) -> None:
        if statement.lstrip().startswith(beginning):
            raise OperationalError(statement, None, Exception("no"))

    def refuse_commit(connection) -> None:
        raise OperationalError("COMMIT", None, Exception("no"))

    name, listener = ("commit", refuse_commit) if beginning == "COMMIT" else ("before_cursor_execute", refuse)
    event.listen(engine, name, listener)
    try:
        yield
    finally:
        event.remove(engine, name, listener)


def gone(*_: object) -> None:
    """A database that does not answer."""
    raise IndexUnavailable("The index does not answer")


class TestAStepThatFails:
    """Whichever step fails: the right error, no stray file, no stray row, and the same instance can be sent again."""

    @pytest.mark.parametrize("step", ["create", "write", "body", "commit"])
    def test_of_the_file_store(self, house: House, step: str):
        """StorageUnavailable goes up, which is A7xx, and nothing is left."""
        files = Failing(house.files, step, StorageUnavailable("No space left for files"))
        with pytest.raises(StorageUnavailable):
            send(house.storage(files=files), instance())
        assert house.is_empty()
        send(house.storage(), instance())
        assert house.data() == instance()

    @pytest.mark.parametrize("statement", ["INSERT INTO patient", "INSERT INTO study", "INSERT INTO series",
                                           "INSERT INTO image", "COMMIT"])  # fmt: skip
    def test_of_the_index(self, house: House, statement: str, monkeypatch):
        """A database that fails anywhere in the transaction: the file that was durable already is deleted again."""
        add = writer.add

        def failing(index: Index, arrival: writer.NewInstance) -> tuple[str, ...]:
            with failing_statements(index, statement):
                return add(index, arrival)

        monkeypatch.setattr(writer, "add", failing)
        with pytest.raises(OutOfResources):
            send(house.storage(), instance())
        assert house.is_empty()
        monkeypatch.undo()
        send(house.storage(), instance())
        assert house.data() == instance()

    def test_of_the_index_when_it_is_gone_altogether(self, house: House, monkeypatch):
        """A database that answers nothing: IndexUnavailable, and no file once it answers again."""
        storage = house.storage()
        monkeypatch.setattr(writer, "add", gone)
        monkeypatch.setattr(writer, "find", gone)
        with pytest.raises(IndexUnavailable):
            send(storage, instance())
        storage.check_uncertain_files()
        assert storage.has_uncertain_files
        monkeypatch.undo()
        storage.check_uncertain_files()
        assert not storage.has_uncertain_files
        assert house.is_empty()

    def test_of_the_index_when_it_is_gone_after_a_commit(self, house: House, monkeypatch):
        """It has committed the row and says nothing any more: the row keeps its file, the sender may send again."""
        add = writer.add

        def committed(index: Index, arrival: writer.NewInstance) -> None:
            add(index, arrival)
            gone()

        storage = house.storage()
        monkeypatch.setattr(writer, "add", committed)
        monkeypatch.setattr(writer, "find", gone)
        with pytest.raises(IndexUnavailable):
            send(storage, instance())
        monkeypatch.undo()
        assert house.data() == instance()
        assert send(storage, instance()).duplicate
        storage.check_uncertain_files()
        assert house.data() == instance()

    @pytest.mark.parametrize("policy", ["keep", "replace"])
    def test_a_commit_that_went_well_without_an_answer_counts(self, house: House, policy: str, monkeypatch):
        """When the connection breaks after the commit, the row is there: the file must not be deleted."""
        send(house.storage(), instance())
        uid = UID if policy == "replace" else "1.2.9"
        name = "replace" if policy == "replace" else "add"
        real = getattr(writer, name)

        def broken(index: Index, arrival: writer.NewInstance) -> None:
            real(index, arrival)
            raise IndexUnavailable("the connection broke")

        monkeypatch.setattr(writer, name, broken)
        other = instance({0x00080018: uid.encode() + b"\0", 0x00080060: b"MR"})
        assert not send(house.storage(duplicates=policy), other, uid=uid).duplicate
        assert house.data(uid) == other
        assert len(house.tree()) == (1 if policy == "replace" else 2)

    @pytest.mark.parametrize("step", ["create", "write", "body", "commit", "committed"])
    def test_by_an_interruption(self, house: House, step: str):
        """Even what is no error of ours leaves no half-written file; what was committed to disk is in no row."""
        files = Failing(house.files, step, KeyboardInterrupt())
        with suppress(KeyboardInterrupt):
            send(house.storage(files=files), instance())
        assert writer.find(house.index, UID) is None
        assert not any(key.startswith("incoming") for key in house.tree())

    def test_a_file_that_was_taken_in_before_its_row_was_entered_stays(self, house: House, monkeypatch):
        """Where the file of a row was missing, a repair may have given the row this one: nothing goes."""
        send(house.storage(), instance())
        (house.root / writer.find(house.index, UID).file_key).unlink()
        real = writer.replace

        def repaired_before(index: Index, arrival: writer.NewInstance):
            monkeypatch.setattr(writer, "replace", real)
            adopt(index, house.files, arrival.file_key)
            return real(index, arrival)

        monkeypatch.setattr(writer, "replace", repaired_before)
        send(house.storage(), instance())
        assert house.data() == instance()

    def test_a_removal_between_the_look_and_the_replacement(self, house: House, monkeypatch):
        """An instance deleted while its replacement arrives is simply stored."""
        send(house.storage(), instance())
        real = writer.replace

        def removed_before(index: Index, arrival: writer.NewInstance):
            former = writer.remove(index, [UID])
            for each in former:
                house.files.delete(each.file_key)
            return real(index, arrival)

        monkeypatch.setattr(writer, "replace", removed_before)
        newer = instance({0x00080060: b"MR"})
        send(house.storage(duplicates="replace"), newer)
        assert house.data() == newer
        assert len(house.tree()) == 1


class TestImport:
    """Files come in through the same ingest."""

    def test_a_part_10_file_is_stored_like_a_c_store(self, house: House, tmp_path: Path):
        """Data set, digest and UIDs are the same; the sender is the one its head names."""
        data, syntax = real_files.data_set(real_files.named("CT_small.dcm"))
        stored = house.storage().import_file(real_files.named("CT_small.dcm"))
        assert stored.size == len(data)
        assert house.data(stored.sop_instance_uid) == data
        assert writer.find(house.index, stored.sop_instance_uid).transfer_syntax == syntax
        assert house.storage().import_file(real_files.named("CT_small.dcm")).duplicate

    @pytest.mark.parametrize("syntax", [IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG])
    def test_a_bare_data_set_is_understood(self, house: House, tmp_path: Path, syntax: str):
        """A file without preamble and File Meta Information is read in the syntax its first element shows."""
        (tmp_path / "bare").write_bytes(into(instance(), syntax))
        house.storage().import_file(tmp_path / "bare")
        assert house.data() == into(instance(), syntax)
        assert writer.find(house.index, UID).transfer_syntax == syntax

    @pytest.mark.parametrize("length", [1, 7, 8, 512])
    @pytest.mark.parametrize("syntax", [IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG])
    def test_s4_zero_bytes_behind_a_data_set_are_left_out(self, house: House, tmp_path: Path, syntax: str, length: int):
        """Some writers fill up a block: the data set is stored without, from a file as from a C-STORE."""
        data = into(instance(), syntax)
        (tmp_path / "filled").write_bytes(data + b"\0" * length)
        house.storage().import_file(tmp_path / "filled")
        assert house.data() == data
        assert send(house.storage(), data + b"\0" * length, syntax).duplicate

    @pytest.mark.parametrize("start", [128, 132])
    def test_a_missing_preamble_is_tolerated(self, house: House, tmp_path: Path, start: int):
        """DICM or group 0002 may come first."""
        head = part10.build_file_meta(CT, UID, IMPLICIT_LITTLE, "ELSEWHERE", received_at=0)
        (tmp_path / "bare").write_bytes((head + instance())[start:])
        house.storage().import_file(tmp_path / "bare")
        assert house.data() == instance()

    def test_a_dicomdir_is_refused_by_name(self, house: House):
        """A directory is no instance."""
        with pytest.raises(SOPClassNotSupported, match="DICOMDIR"):
            house.storage().import_file(next(path for path in real_files.FILES if path.name == "DICOMDIR"))
        assert house.is_empty()

    def test_what_is_no_dicom_file_is_refused(self, house: House, tmp_path: Path):
        """Texts, archives, empty files and noise have names for what is wrong with them."""
        noise = random.Random(1).randbytes(5000)
        for number, content in enumerate([b"", b"hello\n" * 100, b"PK\3\4" + noise, noise, b"\0" * 5000]):
            path = tmp_path / str(number)
            path.write_bytes(content)
            with pytest.raises((UndecodableDataSet, MissingUID)):
                house.storage().import_file(path)
        assert house.is_empty()

    def test_a_file_that_cannot_be_read_is_named(self, house: House, tmp_path: Path):
        """Missing files and folders are InstanceUnreadable."""
        for path in (tmp_path / "missing", tmp_path):
            with pytest.raises(InstanceUnreadable):
                house.storage().import_file(path)

    def test_every_bundled_file_is_stored_or_refused_by_name(self, house: House):
        """Bit for bit stored, or an error of ours; nothing stray. Colliding UIDs are replaced."""
        storage = house.storage(duplicates="replace", unknown_sop_classes=True)
        stored = 0
        for path in real_files.FILES:
            try:
                result = storage.import_file(path)
            except PacsError:
                continue
            stored += 1
            if path in real_files.PART10:
                assert house.data(result.sop_instance_uid) == real_files.data_set(path)[0]
        assert stored > 150
        rows = {key for key in house.files.keys()}  # noqa: C416, SIM118
        assert rows == house.tree()
