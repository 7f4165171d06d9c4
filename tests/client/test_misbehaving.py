"""PACS that report no counts, respond too early, send other instances than requested, hang, die, or ignore a cancel."""

import json
import re
import shutil
import socket
import threading
import time
from copy import deepcopy
from dataclasses import replace
from itertools import chain

import pytest
from click.testing import CliRunner
from pydicom import Dataset

from benchmarks.processes import free_port
from pacs import client
from pacs.cli import main
from pacs.client import Deadlines, Peer
from pacs.client.peer import CALLING_AE_TITLE, associate
from pacs.dicom import charset
from pacs.dicom.commitment import CommitmentReport, encode_report, parse_request
from pacs.dicom.dataset import raw
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.message import p_data
from pacs.dimse.scu import Requestor
from pacs.errors import (
    AssociationLost,
    DestinationUnreachable,
    NotSupported,
    OperationFailed,
    PacsError,
    PeerTimeout,
    StorageUnavailable,
    UndecodableDataSet,
)
from pacs.testing import study
from tests.client.scripted import answer, deliver, matches, scripted
from tests.raw import EXPLICIT, IMPLICIT, Raw, encoded
from tests.waiting import eventually

DATASETS = study(series=1, instances=4)
ASKED = {"StudyInstanceUID": DATASETS[0].StudyInstanceUID}


class Enough(Exception):
    """Raised by a progress callback."""


@pytest.fixture(autouse=True)
def _nothing_is_left_running():
    """After each test, no thread of the client runs and no port is open."""
    before = set(threading.enumerate())
    yield
    eventually(lambda: not [each for each in set(threading.enumerate()) - before if each.name.startswith("pacs-as")])


def hasty(pacs):
    """Return the same PACS with short deadlines."""
    return replace(pacs.peer, deadlines=Deadlines(response=0.5, cancel=0.5))


# --- responses and arrivals --------------------------------------------------------------------------------------


def test_a_pacs_that_sends_no_pendings_and_counts_nothing(tmp_path):
    """The result has the arrived instances, progress reports each arrival, and counts are None."""
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
    """The client waits for the announced instances, or for those that arrive soon if none are announced."""
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
    """Success becomes an error that says how many are missing and has those that arrived."""
    port = free_port()

    def move(association, message):
        deliver(port, DATASETS[:3])
        answer(association, message, 0x0000, completed=4, failed=0, warning=0)

    with scripted(move=move) as pacs, pytest.raises(OperationFailed, match=f"1 more than arrived.*{port}") as raised:
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=0.3)
    assert len(raised.value.retrieved.paths) == 3


def send_on(association, datasets):
    """Send data sets on the association of a C-GET; return the statuses of the responses."""
    statuses = []
    for number, each in enumerate(datasets, start=2):
        context = next(one for one in association.contexts.values() if one.abstract_syntax == each.SOPClassUID)
        association.send(context.id, store_of(each, number), encoded(each, context.transfer_syntax))
        statuses.append(association.receive(20).command.status)
    return statuses


@pytest.mark.parametrize("arriving", [0, 3])
def test_a_get_that_brings_less_than_the_pacs_says(tmp_path, arriving):
    """No advice about a move destination, which a C-GET does not have."""

    def get(association, message):
        send_on(association, DATASETS[:arriving])
        answer(association, message, 0x0000, completed=4, failed=0, warning=0)

    with scripted(get=get) as pacs, pytest.raises(OperationFailed) as raised:
        client.get(pacs.peer, ASKED, to=tmp_path)
    assert str(raised.value).endswith(
        f": the PACS reports sending {4 - arriving} more than arrived here: retrieve again, and look for its C-STORE "
        "sub-operations in the log of the PACS"
    )
    assert len(raised.value.retrieved.paths) == arriving


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("SeriesInstanceUID", "1.2.letters", "Missing or not valid: SeriesInstanceUID; found '1.2.letters'"),
        ("SeriesInstanceUID", "", "Missing or not valid: SeriesInstanceUID"),
        (
            "StudyInstanceUID",
            "1.2.3.4",
            "This instance is not among those that were asked for; its StudyInstanceUID is 1.2.3.4",
        ),
    ],
)
@pytest.mark.parametrize(
    ("status", "counts"),
    [
        (0xA702, {"completed": 0, "failed": 1, "warning": 0}),
        (0xB000, {"completed": 0, "failed": 1, "warning": 0}),
        (0x0000, {"completed": 1, "failed": 0, "warning": 0}),
        (0x0000, {}),
    ],
)
def test_a_refusal_by_this_client_is_explained(tmp_path, keyword, value, reason, status, counts):
    """First, and whether or not the PACS counts it: not the PACS is at fault."""
    refused = deepcopy(DATASETS[0])
    setattr(refused, keyword, value)

    def get(association, message):
        send_on(association, [refused])
        answer(association, message, status, **counts)

    with scripted(get=get) as pacs, pytest.raises(OperationFailed) as raised:
        client.get(pacs.peer, ASKED, to=tmp_path)
    assert str(raised.value).startswith(
        f"C-GET: instance {refused.SOPInstanceUID} was refused here: {reason}; it ended with status 0x{status:04X}, "
    )
    assert raised.value.cause.endswith(reason)


def test_refusals_of_one_reason_are_counted(tmp_path):
    """As of a PACS that has merged two studies; what was asked for is kept."""

    def get(association, message):
        moved = [deepcopy(each) for each in DATASETS[:3]]
        for each in moved:
            each.StudyInstanceUID = "1.2.3.4"
        assert send_on(association, [*moved, DATASETS[3]]) == [0x0124, 0x0124, 0x0124, 0x0000]
        answer(association, message, 0xB000, completed=1, failed=3, warning=0)

    with scripted(get=get) as pacs, pytest.raises(OperationFailed) as raised:
        client.get(pacs.peer, ASKED, to=tmp_path)
    assert f"C-GET: 3 instances, such as {DATASETS[0].SOPInstanceUID}, were refused here: " in str(raised.value)
    assert len(raised.value.retrieved.paths) == 1


def test_a_move_says_what_it_refused(tmp_path):
    """With the advice about other missing instances, and with the refused request."""
    port, wrong = free_port(), deepcopy(DATASETS[0])
    del wrong.SeriesInstanceUID

    def move(association, message):
        deliver(port, [wrong])
        answer(association, message, 0x0000, completed=3, failed=0, warning=0)

    with scripted(move=move) as pacs, pytest.raises(OperationFailed) as raised:
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=0.2)
    assert re.search(
        "C-MOVE: instance .* was refused here: Missing or not valid: SeriesInstanceUID; it ended with status 0x0000, "
        "Success: the PACS reports sending 3 more than arrived here",
        str(raised.value),
    )


def test_a_receiver_says_what_it_refused(tmp_path):
    """`receiving` ends without an error, because nobody asked for an instance."""
    wrong = deepcopy(DATASETS[0])
    wrong.StudyInstanceUID = "1.2.letters"
    with client.receiving(tmp_path) as receiver:
        assert receiver.refused == ""
        deliver(receiver.port, [wrong])
        assert receiver.refused.endswith("refused here: Missing or not valid: StudyInstanceUID; found '1.2.letters'")


def test_several_associations_from_another_sender(tmp_path):
    """The sender may be another AE than the PACS and may use several associations."""
    port = free_port()

    def move(association, message):
        for number, each in enumerate(DATASETS):
            deliver(port, [each], calling=f"NODE{number}")
            answer(association, message, 0xFF00, remaining=3 - number, completed=1 + number, failed=0, warning=0)
        answer(association, message, 0x0000, completed=4, failed=0, warning=0)

    with scripted(move=move) as pacs:
        assert len(client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port).paths) == 4


def test_progress_reports_a_large_instance_while_it_arrives(tmp_path):
    """Its bytes count before it is complete."""
    port, told = free_port(), []
    large = study(series=1, instances=1, size=3000)

    def move(association, message):
        deliver(port, large)
        answer(association, message, 0x0000, completed=1, failed=0, warning=0)

    with scripted(move=move) as pacs:
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, on_progress=told.append)
    assert [each for each in told if each.received == 0 and each.bytes >= 1 << 20]
    assert (told[-1].received, told[-1].bytes > 18_000_000) == (1, True)


def test_two_simultaneous_moves_are_independent(tmp_path):
    """Each has its own port and folder."""
    ports = {"ONE": free_port(), "TWO": free_port()}
    parts = {"ONE": DATASETS[:2], "TWO": DATASETS[2:]}
    both = threading.Barrier(2, timeout=20)

    def move(association, message):
        both.wait()
        title = message.command.move_destination
        deliver(ports[title], parts[title], called=title)
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


def test_a_repeated_instance_counts_once(tmp_path):
    """The second is answered with success and counts as announced."""
    port = free_port()

    def move(association, message):
        assert deliver(port, [*DATASETS, *DATASETS]) == []
        answer(association, message, 0x0000, completed=8, failed=0, warning=0)

    with scripted(move=move) as pacs:
        got = client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port)
    assert (len(got.paths), got.completed) == (4, 8)


# --- failures ----------------------------------------------------------------------------------------------------


def failed_list(message, uids):
    """Return the data set of a final response with a Failed SOP Instance UID List."""
    identifier = Dataset()
    identifier.FailedSOPInstanceUIDList = uids
    return encoded(identifier, message.context.transfer_syntax)


def test_failed_instances_are_an_error_with_their_uids(tmp_path):
    """B000 with a failed list; the error has the arrived instances."""
    port = free_port()

    def move(association, message):
        deliver(port, DATASETS[:2])
        failed = [each.SOPInstanceUID for each in DATASETS[2:]]
        answer(association, message, 0xB000, failed_list(message, failed), completed=2, failed=2, warning=0)

    with scripted(move=move) as pacs, pytest.raises(OperationFailed, match="one or more failures") as raised:
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port)
    assert raised.value.failed_uids == tuple(each.SOPInstanceUID for each in DATASETS[2:])
    assert (len(raised.value.retrieved.paths), raised.value.retrieved.failed) == (2, 2)


NOT_ACCEPTED = "4 of 4 failed: it does not accept JPEG 2000 Image Compression"


@pytest.mark.parametrize(
    ("status", "comment", "is_advised"),
    [
        (0xA702, "", True),
        (0xA702, "4 of 4 failed: The peer cannot be reached: Connection refused", True),
        (0xA702, NOT_ACCEPTED, False),
        (0xC001, "", True),
        (0xC001, NOT_ACCEPTED, False),
        (0xA801, "Move destination is not among the peers", True),
    ],
)
def test_the_reason_of_the_pacs_is_shown_and_not_contradicted(tmp_path, status, comment, is_advised):
    """Advice about host and port is given only where they may be the reason, also for another destination."""

    def move(association, message):
        answer(association, message, status, error_comment=comment)

    with scripted(move=move) as pacs:
        with pytest.raises(OperationFailed, match=re.escape(comment) or "0x") as here:
            client.move_and_store(pacs.peer, ASKED, to=tmp_path)
        with pytest.raises(OperationFailed, match=re.escape(comment) or "0x") as elsewhere:
            client.move(pacs.peer, ASKED, destination="OTHER")
    assert ("port" in str(here.value)) == is_advised
    assert ("port" in str(elsewhere.value)) == (is_advised and status != 0xC001)


def test_a_pacs_that_has_reached_this_host_needs_no_advice_about_the_port(tmp_path):
    """Whatever failed afterwards, host and port are right."""
    port = free_port()

    def move(association, message):
        client.echo(Peer(CALLING_AE_TITLE, "127.0.0.1", port))
        answer(association, message, 0xA702)

    with scripted(move=move) as pacs, pytest.raises(OperationFailed, match="0xA702") as raised:
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port)
    assert raised.value.mending == ""


def test_a_transfer_syntax_that_this_host_does_not_accept_is_named(tmp_path):
    """The PACS proposes its images only in one of its own, and says no more than A702."""
    port = free_port()

    def move(association, message):
        with Raw(port) as sender:
            own, images = "1.2.826.0.1.3680043.8.498.1", "1.2.840.10008.5.1.4.1.1.2"
            sender.associate((1, images, [own]), (3, "1.2.840.10008.1.1", [IMPLICIT]), called=CALLING_AE_TITLE)
            sender.release()
        answer(association, message, 0xA702)

    with scripted(move=move) as pacs, pytest.raises(OperationFailed, match="0xA702") as raised:
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port)
    assert "proposed CT Image Storage only in 1.2.826.0.1.3680043.8.498.1, which is not accepted" in str(raised.value)
    assert "port" not in raised.value.mending


def test_another_destination_may_lack_a_transfer_syntax(tmp_path):
    """A PACS that gives no reason may be unable to connect, or to convert: both are said."""

    def move(association, message):
        answer(association, message, 0xA702)

    with scripted(move=move) as pacs, pytest.raises(OperationFailed, match="0xA702") as raised:
        client.move(pacs.peer, ASKED, destination="OTHER")
    assert "that it is listening, and that it accepts SOP Class and transfer syntax" in raised.value.mending


def test_warnings_alone_are_no_error(tmp_path):
    """B000 after a coercion at the receiver is a success with a warning."""
    port = free_port()

    def move(association, message):
        deliver(port, DATASETS)
        answer(association, message, 0xB000, completed=0, failed=0, warning=4)

    with scripted(move=move) as pacs:
        got = client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port)
    assert (got.status, got.warning, len(got.paths)) == (0xB000, 4, 4)


def test_a_failure_has_the_details_of_the_response(tmp_path):
    """Error Comment, Offending Element, and the meaning of 0xC123."""

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


# --- arriving instances ------------------------------------------------------------------------------------------


def test_unrequested_instances_are_refused_and_counted(tmp_path):
    """An instance of another study gets 0124 and no file."""
    port, refused = free_port(), []
    strange = study("OTHER^ONE", series=1, instances=1, patient_id="P2")

    def move(association, message):
        refused.extend(deliver(port, [*DATASETS, *strange]))
        answer(association, message, 0x0000, completed=4, failed=0, warning=0)

    with scripted(move=move) as pacs:
        got = client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port)
    assert (refused, got.unasked, len(got.paths)) == ([0x0124], 1, 4)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4


@pytest.mark.parametrize("hostile", ["../../../etc/x", "/etc/x", "..", "1.2.3/../..", "", "1.2\n3"])
def test_invalid_uids_do_not_become_a_path(tmp_path, hostile):
    """A data set with invalid UIDs is refused and leaves no file."""
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


def test_an_unwritable_folder_ends_the_move_with_its_reason(tmp_path):
    """The sender gets A700, the PACS a cancel, and the caller the folder and the reason."""
    port, refused, to = free_port(), [], tmp_path / "to"
    cancelled = threading.Event()

    def move(association, message):
        shutil.rmtree(to)
        refused.extend(deliver(port, DATASETS[:1]))
        with association.operation(message) as cancellation:
            eventually(lambda: association.process_input() or cancellation.requested)
            cancelled.set()
        answer(association, message, 0xFE00)

    with scripted(move=move) as pacs, pytest.raises(StorageUnavailable, match="No such file"):
        client.move_and_store(pacs.peer, ASKED, to=to, port=port)
    assert cancelled.is_set()
    assert refused == [0xA700]


# --- silent and lost peers ---------------------------------------------------------------------------------------


def silent(association, message):
    """Send nothing until the association ends."""
    association.receive(20)


def test_a_silent_pacs_times_out(tmp_path):
    """Each operation ends at its deadline."""
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


def test_a_lost_association_raises(tmp_path):
    """In the middle of the responses; the error has those received before."""

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


def test_arrivals_restart_the_deadline(tmp_path):
    """A PACS that sends slowly without any response does not time out."""
    port = free_port()

    def move(association, message):
        for each in DATASETS:
            time.sleep(0.6)
            deliver(port, [each])
        answer(association, message, 0x0000, completed=4, failed=0, warning=0)

    with scripted(move=move) as pacs:
        peer = replace(pacs.peer, deadlines=Deadlines(response=1.5))
        assert len(client.move_and_store(peer, ASKED, to=tmp_path, port=port).paths) == 4


# --- cancel ------------------------------------------------------------------------------------------------------


def endless(association, message):
    """Send Pending responses until the peer is gone."""
    while association.is_established:
        answer(association, message, 0xFF00, remaining=9, completed=1, failed=0, warning=0)
        time.sleep(0.01)


def test_a_pacs_that_ignores_a_cancel_is_aborted(tmp_path):
    """After the deadline for the final response the association is aborted, and the exception of the callback is
    raised.
    """

    def stop(progress):
        raise Enough

    with scripted(move=endless, get=endless) as pacs:
        for retrieve in (client.move_and_store, client.get):
            began = time.monotonic()
            with pytest.raises(Enough):
                retrieve(hasty(pacs), ASKED, to=tmp_path, on_progress=stop)
            assert time.monotonic() - began < 10
        assert set(pacs.ends(2)) == {"A-ABORT"}


def test_an_endless_find_can_be_stopped():
    """Leaving the loop cancels the query; a PACS that continues is aborted."""

    def find(association, message):
        while association.is_established:
            matches(association, message, [Dataset()])

    with scripted(find=find) as pacs:
        for _ in client.find(hasty(pacs), ASKED):
            break
        assert pacs.ends() == ["A-ABORT"]


def test_a_match_is_yielded_when_it_arrives():
    """The second match is sent only after the client has yielded the first; the cancel arrives."""
    seen, cancelled = threading.Event(), threading.Event()

    def find(association, message):
        with association.operation(message) as cancellation:
            matches(association, message, [Dataset()])
            assert seen.wait(20)
            matches(association, message, [Dataset()])
            eventually(lambda: association.process_input() or cancellation.requested)
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


def test_a_limit_cancels():
    """As soon as the last match within the limit has arrived; the association is released."""
    cancelled = threading.Event()

    def find(association, message):
        with association.operation(message) as cancellation:
            while not cancellation.requested:
                matches(association, message, [Dataset()])
            cancelled.set()
        answer(association, message, 0xFE00)

    with scripted(find=find) as pacs:
        assert len(list(client.find(pacs.peer, ASKED, limit=3))) == 3
        assert cancelled.is_set()
        assert pacs.ends() == ["A-RELEASE"]


def test_an_undecodable_match_ends_a_find():
    """The association is still released."""

    def find(association, message):
        answer(association, message, 0xFF00, b"\xff" * 11)
        answer(association, message, 0x0000)

    with scripted(find=find) as pacs:
        with pytest.raises(UndecodableDataSet):
            list(client.find(pacs.peer, ASKED))
        assert pacs.ends() == ["A-RELEASE"]


def test_a_refused_information_model_raises(tmp_path):
    """A storage SCP accepts no query."""
    with client.receiving(tmp_path) as receiver, pytest.raises(NotSupported, match="no presentation context"):
        list(client.find(f"X@127.0.0.1:{receiver.port}", ASKED))


def test_pendings_that_count_and_a_final_response_that_does_not(tmp_path):
    """The client waits for the largest announced number."""
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


# --- other protocols ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x02\x00\xff\xff\xff\xff", bytes(64)])
def test_other_protocols_are_detected_in_time(said):
    """Whether it sends other data or closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answering = threading.Thread(target=say, args=(listener, said))
        answering.start()
        with pytest.raises(PacsError):
            client.echo(f"X@127.0.0.1:{listener.getsockname()[1]}")
        answering.join()


def say(listener, said):
    """Accept one connection, send some bytes and close it."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(20)
        connection.recv(4096)
        connection.sendall(said)


def test_a_silent_connection_times_out():
    """At the negotiation deadline."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = Peer("X", "127.0.0.1", listener.getsockname()[1], deadlines=Deadlines(negotiation=0.3))
        with pytest.raises(DestinationUnreachable, match="does not answer"):
            client.echo(peer)


def store_of(dataset, message_id):
    """Return the C-STORE request for a data set."""
    return Command.request(
        CommandField.C_STORE,
        message_id,
        dataset.SOPClassUID,
        priority=0,
        affected_sop_instance_uid=dataset.SOPInstanceUID,
    )


def test_a_sender_that_dies_leaves_nothing(tmp_path):
    """Half an instance leaves no file; another association still stores its instances."""
    port = free_port()

    def move(association, message):
        sender = associate(Peer("PACSCU", "127.0.0.1", port), [(DATASETS[0].SOPClassUID, (EXPLICIT,))])
        context = Requestor(sender, 20).context(DATASETS[0].SOPClassUID)
        command = store_of(DATASETS[0], 1).announcing(data_set=True).encode()
        begun = p_data(context.id, command, (encoded(DATASETS[0], EXPLICIT),), 256)
        sender.send_prepared([list(chain.from_iterable(begun))[:6]])
        sender.close()
        deliver(port, DATASETS[1:])
        answer(association, message, 0xB000, completed=3, failed=1, warning=0)

    with scripted(move=move) as pacs, pytest.raises(OperationFailed) as raised:
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port)
    assert len(raised.value.retrieved.paths) == 3
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3


def test_a_report_for_another_request_is_refused(tmp_path):
    """It is answered with processing failure, so that it is sent again; the report for our request is accepted."""
    answered = []

    def commit(association, message):
        asked = parse_request(message.read(1 << 20), message.context.transfer_syntax, 9)
        answer(association, message, 0x0000)
        for transaction in ("1.2.3", asked.transaction_uid):
            command = Command.request(
                CommandField.N_EVENT_REPORT,
                1,
                message.context.abstract_syntax,
                event_type=1,
                affected_sop_instance_uid="1.2.840.10008.1.20.1.1",
            )
            report = CommitmentReport(transaction, asked.references, ())
            association.send(message.context.id, command, encode_report(report, "X", message.context.transfer_syntax))
            answered.append(association.receive(20).command.status)

    with scripted(commit=commit) as pacs:
        assert len(client.commit(pacs.peer, DATASETS, timeout=20).committed) == 4
        eventually(lambda: len(answered) == 2)
    assert answered == [0x0110, 0x0000]


def test_a_get_with_unrequested_instances_that_ends_early(tmp_path):
    """The rules of a C-MOVE also apply on the single association of a C-GET."""
    strange = study("OTHER^ONE", series=1, instances=1, patient_id="P2")

    statuses = []

    def get(association, message):
        statuses.extend(send_on(association, (*DATASETS[:2], *strange)))
        association.abort()

    with scripted(get=get) as pacs, pytest.raises(AssociationLost):
        client.get(pacs.peer, ASKED, to=tmp_path)
    assert statuses == [0, 0, 0x0124]
    assert len(list(tmp_path.rglob("*.dcm"))) == 2


# --- character sets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 144", "Люкceмбypг"),
        ("ISO_IR 100", "Müller^Jörg"),
        ("\\ISO 2022 IR 87", "Yamada=山田"),
        ("GB18030", "王^小东"),
    ],
)
@pytest.mark.parametrize("stated", [None, b""], ids=["absent", "empty"])
def test_the_character_set_of_answers_that_name_none_can_be_given(character_set, name, stated):
    """For a PACS that sends its own character set and does not say which."""
    match = Dataset()
    if stated is not None:
        match[0x00080005] = raw(0x00080005, "CS", stated)
    match[0x00100010] = raw(0x00100010, "PN", charset.encode(name, charset.parse(character_set)))

    def find(association, message):
        matches(association, message, [match])
        answer(association, message, 0x0000)

    with scripted(find=find) as pacs:
        (found,) = client.find(replace(pacs.peer, character_set=character_set), {"PatientName": "", **ASKED})
        words = ["find", str(pacs.peer), "-k", "PatientName", "-k", "StudyInstanceUID=1.2", "--charset", character_set]
        ran = CliRunner().invoke(main, [*words, "--json"])
    assert found.PatientName == name
    assert name.partition("=")[0] in str(json.loads(ran.stdout))


def test_a_stated_character_set_counts(tmp_path):
    """Not the given one."""
    match = Dataset()
    match.SpecificCharacterSet, match.PatientName = "ISO_IR 192", "Jörg"

    def find(association, message):
        matches(association, message, [match])
        answer(association, message, 0x0000)

    with scripted(find=find) as pacs:
        (found,) = client.find(replace(pacs.peer, character_set="ISO_IR 144"), {"PatientName": "", **ASKED})
    assert found.PatientName == "Jörg"
    with pytest.raises(client.InvalidArgument, match=r"A character set is one of .*ISO_IR 192, .*not 'klingon'"):
        replace(pacs.peer, character_set="klingon")
