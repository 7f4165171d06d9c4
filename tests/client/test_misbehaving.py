"""PACS that count nothing, answer too early, send what nobody asked for, hang, die, or ignore a cancel."""

import shutil
import threading
import time
import tracemalloc
from dataclasses import replace

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file

from benchmarks.processes import free_port
from pacs import client
from pacs.client import Deadlines, Peer
from pacs.client.peer import associate
from pacs.dicom.sop_classes import STORAGE
from pacs.dimse.command import CommandField
from pacs.dimse.scu import Requestor
from pacs.errors import (
    AssociationLost,
    NotSupported,
    OperationFailed,
    PeerTimeout,
    StorageUnavailable,
    UndecodableDataSet,
)
from pacs.testing import study, write
from tests.client.scripted import answer, deliver, matches, scripted
from tests.raw import EXPLICIT, encoded
from tests.waiting import eventually

DATASETS = study(series=1, instances=4)
ASKED = {"StudyInstanceUID": DATASETS[0].StudyInstanceUID}


class Enough(Exception):
    """Raised by who is told how far it is."""


@pytest.fixture(autouse=True)
def _nothing_is_left_running():
    """Whatever happened, no thread of ours is left and nobody listens any more."""
    before = set(threading.enumerate())
    yield
    eventually(lambda: not [each for each in set(threading.enumerate()) - before if each.name.startswith("pacs-as")])


def hasty(pacs):
    """The same PACS, called by somebody with little patience."""
    return replace(pacs.peer, deadlines=Deadlines(response=0.5, cancel=0.5))


# --- what is said, and when --------------------------------------------------------------------------------------


def test_a_pacs_that_sends_no_pendings_and_counts_nothing(tmp_path):
    """What arrived is returned, each arrival was told of, and nothing is known of counts."""
    port, told = free_port(), []

    def move(association, message):
        deliver(port, DATASETS)
        answer(association, message, 0x0000)

    with scripted(move=move) as pacs:
        got = client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, on_progress=told.append, wait=0.3)
    assert (len(got.paths), got.completed, got.failed) == (4, None, None)
    assert [told[-1].received, told[-1].completed, told[-1].total] == [4, None, None]


@pytest.mark.parametrize("counts", [{"completed": 4, "failed": 0, "warning": 0}, {}])
def test_a_pacs_that_answers_success_before_it_sends(tmp_path, counts):
    """What it announced, or what comes soon where it announced nothing, is waited for."""
    port = free_port()
    senders = []

    def move(association, message):
        answer(association, message, 0x0000, **counts)
        senders.append(threading.Timer(0.3, deliver, (port, DATASETS)))
        senders[0].start()

    with scripted(move=move) as pacs:
        got = client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=2)
        senders[0].join()
    assert len(got.paths) == 4


def test_a_pacs_that_sends_less_than_it_says(tmp_path):
    """Success is no success: the error says how many are missing, and has what came."""
    port = free_port()

    def move(association, message):
        deliver(port, DATASETS[:3])
        answer(association, message, 0x0000, completed=4, failed=0, warning=0)

    with scripted(move=move) as pacs, pytest.raises(OperationFailed, match=f"1 more than arrived.*{port}") as raised:
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=0.3)
    assert len(raised.value.retrieved.paths) == 3


def test_an_association_for_each_instance_and_from_whoever(tmp_path):
    """The sender needs not be the PACS that was asked, nor use one association."""
    port = free_port()

    def move(association, message):
        for number, each in enumerate(DATASETS):
            deliver(port, [each], calling=f"NODE{number}")
            answer(association, message, 0xFF00, remaining=3 - number, completed=1 + number, failed=0, warning=0)
        answer(association, message, 0x0000, completed=4, failed=0, warning=0)

    with scripted(move=move) as pacs:
        assert len(client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port).paths) == 4


def test_two_moves_at_once_do_not_meet(tmp_path):
    """Each has its own port and folder."""
    ports = {"ONE": free_port(), "TWO": free_port()}
    parts = {"ONE": DATASETS[:2], "TWO": DATASETS[2:]}
    both = threading.Barrier(2, timeout=20)

    def move(association, message):
        both.wait()
        title = message.command.move_destination
        deliver(ports[title], parts[title])
        answer(association, message, 0x0000, completed=2, failed=0, warning=0)

    got = {}

    def run(title):
        got[title] = client.move_and_store(pacs.peer, ASKED, to=tmp_path / title, port=ports[title], ae_title=title)

    with scripted(move=move) as pacs:
        threads = [threading.Thread(target=run, args=(title,)) for title in ports]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    for title, part in parts.items():
        assert sorted(path.stem for path in got[title].paths) == sorted(each.SOPInstanceUID for each in part)


def test_instances_twice_are_one(tmp_path):
    """The second is answered with success, and counts for what was announced."""
    port = free_port()

    def move(association, message):
        assert deliver(port, [*DATASETS, *DATASETS]) == []
        answer(association, message, 0x0000, completed=8, failed=0, warning=0)

    with scripted(move=move) as pacs:
        got = client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port)
    assert (len(got.paths), got.completed) == (4, 8)


# --- failures ----------------------------------------------------------------------------------------------------


def failed_list(message, uids):
    """The data set of a final response with a Failed SOP Instance UID List."""
    identifier = Dataset()
    identifier.FailedSOPInstanceUIDList = uids
    return encoded(identifier, message.context.transfer_syntax)


def test_failed_instances_are_an_error_with_their_uids(tmp_path):
    """B000 with a failed list: what came is in the error."""
    port = free_port()

    def move(association, message):
        deliver(port, DATASETS[:2])
        failed = [each.SOPInstanceUID for each in DATASETS[2:]]
        answer(association, message, 0xB000, failed_list(message, failed), completed=2, failed=2, warning=0)

    with scripted(move=move) as pacs, pytest.raises(OperationFailed, match="one or more failures") as raised:
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port)
    assert raised.value.failed_uids == tuple(each.SOPInstanceUID for each in DATASETS[2:])
    assert (len(raised.value.retrieved.paths), raised.value.retrieved.failed) == (2, 2)


def test_warnings_alone_are_no_error(tmp_path):
    """B000 because the receiver had coerced something is a success with a warning."""
    port = free_port()

    def move(association, message):
        deliver(port, DATASETS)
        answer(association, message, 0xB000, completed=0, failed=0, warning=4)

    with scripted(move=move) as pacs:
        got = client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port)
    assert (got.status, got.warning, len(got.paths)) == (0xB000, 4, 4)


def test_a_failure_says_what_the_pacs_said(tmp_path):
    """Error Comment and Offending Element, and what 0xC123 means."""

    def move(association, message):
        answer(association, message, 0xC123, error_comment="disk on fire", offending_elements=[0x0020000D])

    with (
        scripted(move=move) as pacs,
        pytest.raises(OperationFailed, match=r"0xC123, .*unable to process.*disk on fire") as raised,
    ):
        client.move_and_store(pacs.peer, ASKED, to=tmp_path)
    assert raised.value.offending_elements == (0x0020000D,)
    assert raised.value.error_comment == "disk on fire"
    assert "0xC123, Failed: unable to process" in str(raised.value)


# --- what arrives ------------------------------------------------------------------------------------------------


def test_what_nobody_asked_for_is_refused_and_counted(tmp_path):
    """An instance of another study gets 0124 and no file."""
    port, refused = free_port(), []
    strange = study("OTHER^ONE", series=1, instances=1, patient_id="P2")

    def move(association, message):
        refused.extend(deliver(port, [*DATASETS, *strange]))
        answer(association, message, 0x0000, completed=5, failed=0, warning=0)

    with scripted(move=move) as pacs:
        got = client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port)
    assert (refused, got.unasked, len(got.paths)) == ([0x0124], 1, 4)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4


@pytest.mark.parametrize("hostile", ["../../../etc/x", "/etc/x", "..", "1.2.3/../..", "", "1.2\n3"])
def test_no_path_is_made_of_what_a_peer_sent(tmp_path, hostile):
    """A data set whose UIDs are no UIDs is refused, and nothing is left of it."""
    to = tmp_path / "to"
    broken = study(series=1, instances=1)[0]
    broken.StudyInstanceUID = hostile
    with client.receiving(to) as receiver:
        assert deliver(receiver.port, [broken]) == [0xA901]
        assert receiver.arrived == ()
    assert list(to.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


def test_garbage_is_refused(tmp_path):
    """Bytes that are no data set, and a data set of another instance than the request."""
    ct = DATASETS[0].SOPClassUID
    with client.receiving(tmp_path) as receiver:
        association = associate(Peer("X", "127.0.0.1", receiver.port), [(ct, (EXPLICIT,))])
        requestor = Requestor(association, 20)
        for data, expected in ((b"\x08\x00\x05\x00CS\xff\x00zz", 0xC000), (encoded(DATASETS[0], EXPLICIT), 0xA900)):
            exchange = requestor.ask(
                CommandField.C_STORE, requestor.context(ct), data, priority=0, affected_sop_instance_uid="1.2.3"
            )
            assert exchange.final().command.status == expected
        association.release()
        assert receiver.arrived == ()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_nothing_ends_the_move_with_its_reason(tmp_path):
    """The sender is told A700, the PACS that it is cancelled, and the caller which folder and why."""
    port, refused, to = free_port(), [], tmp_path / "to"
    cancelled = threading.Event()

    def move(association, message):
        shutil.rmtree(to)
        refused.extend(deliver(port, DATASETS[:1]))
        with association.operation(message) as cancellation:
            eventually(lambda: association.attend() or cancellation.requested)
            cancelled.set()
        answer(association, message, 0xFE00)

    with scripted(move=move) as pacs, pytest.raises(StorageUnavailable, match="No such file"):
        client.move_and_store(pacs.peer, ASKED, to=to, port=port)
    assert cancelled.is_set()
    assert refused == [0xA700]


# --- who hangs or dies -------------------------------------------------------------------------------------------


def silent(association, message):
    """Say nothing until the association ends."""
    association.receive(20)


def test_a_pacs_that_does_not_answer_is_not_waited_for_for_ever(tmp_path):
    """Each verb gives it up when its deadline is over."""
    with scripted(move=silent, get=silent, find=silent, store=silent, commit=silent) as pacs:
        peer = hasty(pacs)
        began = time.monotonic()
        with pytest.raises(PeerTimeout):
            list(client.find(peer, ASKED))
        with pytest.raises(PeerTimeout):
            client.move_and_store(peer, ASKED, to=tmp_path)
        with pytest.raises(PeerTimeout):
            client.get(peer, ASKED, to=tmp_path)
        with pytest.raises(PeerTimeout):
            client.commit(peer, DATASETS)
        (failed,) = client.store(peer, DATASETS[0]).failed
        assert failed.status is None
        assert time.monotonic() - began < 20


def test_a_pacs_that_dies_is_told_of(tmp_path):
    """In the middle of the answers, with what came before it."""

    def die(association, message):
        matches(association, message, [Dataset()])
        association.abort()

    with scripted(move=die, get=die, find=die) as pacs:
        found = client.find(pacs.peer, ASKED)
        next(found)
        with pytest.raises(AssociationLost):
            next(found)
        for retrieve in (client.move_and_store, client.get):
            with pytest.raises(AssociationLost):
                retrieve(pacs.peer, ASKED, to=tmp_path)


def test_arrivals_are_signs_of_life(tmp_path):
    """A PACS that sends slowly and says nothing meanwhile is not given up."""
    port = free_port()

    def move(association, message):
        for each in DATASETS:
            time.sleep(0.3)
            deliver(port, [each])
        answer(association, message, 0x0000, completed=4, failed=0, warning=0)

    with scripted(move=move) as pacs:
        assert len(client.move_and_store(hasty(pacs), ASKED, to=tmp_path, port=port).paths) == 4


# --- who ignores a cancel ----------------------------------------------------------------------------------------


def endless(association, message):
    """Answer Pending until the peer is gone."""
    while association.is_established:
        answer(association, message, 0xFF00, remaining=9, completed=1, failed=0, warning=0)
        time.sleep(0.01)


def test_a_pacs_that_ignores_a_cancel_is_left(tmp_path):
    """After its time for the final response the association is aborted; the exception is the callback's."""

    def stop(progress):
        raise Enough

    with scripted(move=endless, get=endless) as pacs:
        for retrieve in (client.move_and_store, client.get):
            began = time.monotonic()
            with pytest.raises(Enough):
                retrieve(hasty(pacs), ASKED, to=tmp_path, on_progress=stop)
            assert time.monotonic() - began < 10
        assert set(pacs.ends(2)) == {"A-ABORT"}


def test_a_find_without_end_can_be_left():
    """Breaking out of the loop cancels it; a PACS that goes on is aborted."""

    def find(association, message):
        while association.is_established:
            matches(association, message, [Dataset()])

    with scripted(find=find) as pacs:
        for _ in client.find(hasty(pacs), ASKED):
            break
        assert pacs.ends() == ["A-ABORT"]


def test_the_first_match_is_there_when_it_came():
    """Not when all have come: the second is only sent once the first was seen; and the cancel arrives."""
    seen, cancelled = threading.Event(), threading.Event()

    def find(association, message):
        with association.operation(message) as cancellation:
            matches(association, message, [Dataset()])
            assert seen.wait(20)
            matches(association, message, [Dataset()])
            eventually(lambda: association.attend() or cancellation.requested)
            cancelled.set()
        answer(association, message, 0xFE00)

    with scripted(find=find) as pacs:
        found = client.find(pacs.peer, ASKED)
        next(found)
        seen.set()
        next(found)
        found.close()
        assert cancelled.is_set()
        assert pacs.ends() == ["A-RELEASE"]


def test_an_answer_that_is_no_data_set_ends_a_find():
    """The association is released all the same."""

    def find(association, message):
        answer(association, message, 0xFF00, b"\xff" * 11)
        answer(association, message, 0x0000)

    with scripted(find=find) as pacs:
        with pytest.raises(UndecodableDataSet):
            list(client.find(pacs.peer, ASKED))
        assert pacs.ends() == ["A-RELEASE"]


def test_a_model_that_is_refused_is_said(tmp_path):
    """A storage SCP takes no query."""
    with client.receiving(tmp_path) as receiver, pytest.raises(NotSupported, match="no presentation context"):
        list(client.find(f"X@127.0.0.1:{receiver.port}", ASKED))


def test_pendings_that_count_and_a_final_response_that_does_not(tmp_path):
    """The most that was ever announced is waited for."""
    port, senders = free_port(), []

    def move(association, message):
        deliver(port, DATASETS[:1])
        answer(association, message, 0xFF00, remaining=3, completed=1, failed=0, warning=0)
        answer(association, message, 0x0000)
        senders.append(threading.Timer(0.3, deliver, (port, DATASETS[1:])))
        senders[0].start()

    with scripted(move=move) as pacs:
        assert len(client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=3).paths) == 4
        senders[0].join()


# --- what is stored ----------------------------------------------------------------------------------------------


def test_what_is_left_goes_on_another_association_when_one_is_lost():
    """The instance that was on its way fails, without a status."""
    seen = []

    def store(association, message):
        message.drain()
        seen.append(message.command.affected_sop_instance_uid)
        if len(seen) == 2:
            association.abort()
        else:
            answer(association, message, 0x0000)

    with scripted(store=store) as pacs:
        sent = client.store(pacs.peer, *DATASETS)
        assert (sent.completed, [each.what for each in sent.failed]) == (3, [DATASETS[1]])
        assert len(pacs.ends(2)) == 2


def test_a_peer_that_ends_every_association_is_given_up():
    """After two in a row that came to nothing."""

    def store(association, message):
        association.abort()

    with scripted(store=store) as pacs:
        sent = client.store(pacs.peer, *DATASETS)
        assert (sent.completed, len(sent.failed)) == (0, 4)
        assert len(pacs.ends(2)) == 2


def test_an_exception_while_storing_ends_the_association(tmp_path):
    """Between two data sets as well as in the middle of a large one; it comes out unchanged."""
    large = study(series=1, instances=1, size=2000)

    def stop(progress):
        if progress.completed == 1 or progress.bytes > 3 << 20:
            raise Enough

    def store(association, message):
        message.drain()
        answer(association, message, 0x0000)

    with scripted(store=store) as pacs:
        with pytest.raises(Enough):
            client.store(pacs.peer, *DATASETS, on_progress=stop)
        with pytest.raises(Enough):
            client.store(pacs.peer, *large, on_progress=stop)
        assert pacs.ends(2) == ["A-RELEASE", "A-ABORT"]


def test_what_no_context_is_accepted_for_is_listed():
    """A receiver that takes no JPEG refuses the context of those alone."""

    def store(association, message):
        message.drain()
        answer(association, message, 0x0000)

    jpeg = study(series=1, instances=1, transfer_syntax="1.2.840.10008.1.2.4.50", patient_id="J")
    with scripted(syntaxes=[EXPLICIT], store=store) as pacs:
        sent = client.store(pacs.peer, *DATASETS, *jpeg)
    assert sent.completed == 4
    assert [(each.what, each.status) for each in sent.failed] == [(jpeg[0], None)]
    assert "1.2.840.10008.1.2.4.50" in sent.failed[0].comment


def test_data_sets_stream_from_their_files_and_into_them(tmp_path):
    """Neither sending nor receiving takes memory in proportion to their size."""
    (path,) = write(study(series=1, instances=1, size=4000), tmp_path / "out")
    assert path.stat().st_size > 30 << 20
    with client.receiving(tmp_path / "in") as receiver:
        tracemalloc.start()
        told = []
        try:
            sent = client.store(f"X@127.0.0.1:{receiver.port}", path, on_progress=told.append)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (sent.completed, len(receiver.arrived)) == (1, 1)
    assert peak < 8 << 20
    assert len({each.bytes for each in told}) > 20
    assert dcmread(receiver.arrived[0]).PixelData == dcmread(path).PixelData


def test_files_without_file_meta_information_are_stored(tmp_path):
    """In implicit and explicit VR alike: bare data sets, with or without preamble."""
    (tmp_path / "implicit").write_bytes(encoded(DATASETS[0]))
    (tmp_path / "explicit").write_bytes(encoded(DATASETS[1], EXPLICIT))
    (tmp_path / "preamble").write_bytes(bytes(128) + b"DICM" + encoded(DATASETS[2], EXPLICIT))
    with client.receiving(tmp_path / "in") as receiver:
        sent = client.store(f"X@127.0.0.1:{receiver.port}", tmp_path)
        assert (sent.completed, sent.failed, sent.skipped) == (3, (), 0)
        assert sorted(dcmread(path).InstanceNumber for path in receiver.arrived) == [1, 2, 3]


def test_a_dicomdir_is_skipped_in_a_folder_and_refused_by_name(tmp_path):
    """It is no instance, whatever its File Meta Information says."""
    path = get_testdata_file("DICOMDIR")
    shutil.copy(path, tmp_path / "DICOMDIR")
    write(DATASETS[:1], tmp_path / "images")
    with client.receiving(tmp_path / "in") as receiver:
        peer = f"X@127.0.0.1:{receiver.port}"
        assert client.store(peer, tmp_path).skipped == 1
        assert [each.status for each in client.store(peer, tmp_path / "DICOMDIR").failed] == [None]


def test_many_sop_classes_go_on_several_associations(tmp_path):
    """No more than 128 contexts fit on one; every instance arrives."""
    datasets = []
    for number, sop_class in enumerate(sorted(STORAGE)[:90]):
        (dataset,) = study(series=1, instances=1, modality="OT", patient_id=f"P{number}")
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
        datasets.append(dataset)
    with client.receiving(tmp_path / "in") as receiver:
        assert client.store(f"X@127.0.0.1:{receiver.port}", iter(datasets)).completed == 90
        assert len(receiver.arrived) == 90
