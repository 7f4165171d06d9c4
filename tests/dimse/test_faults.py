"""Every fault makes a DCMTK program react; the tests check what the program prints."""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from pacs.observability.events import FaultFired, OperationFinished
from pacs.testing import Fault, serving, storing, study, write
from tests.programs import needs
from tests.programs import run as run_program
from tests.raw import C_ECHO, IMPLICIT, Raw, request
from tests.waiting import eventually

STUDY = study(series=2, instances=3)
UID = STUDY[0].StudyInstanceUID
HOST = "127.0.0.1"
STUDY_KEYS = ("-S", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={UID}")
MOVE = ("-d", "-td", 20, "-aem", "STORAGE_SCP", *STUDY_KEYS)


@dataclass(frozen=True)
class Target:
    """A server, its move destination, and a folder for files."""

    server: object
    scp: object
    folder: Path

    @property
    def at(self):
        """Its address as arguments of DCMTK programs."""
        return (HOST, self.server.port)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One server for all tests; each test adds its own faults."""
    needs("echoscu")
    folder = tmp_path_factory.mktemp("faults")
    with serving(folder / "server", {"limits.pending_seconds": 1}, watched=True) as server, storing() as scp:
        server.add_peer(scp.ae_title, scp.host, scp.port)
        server.add(STUDY)
        yield Target(server, scp, folder)


@pytest.fixture
def target(running):
    """The server without faults and without records."""
    running.server.faults.clear()
    running.server.received.clear()
    running.scp.faults.clear()
    running.scp.clear()
    return running


# --- requests -----------------------------------------------------------------------------------------------------


def echo(target, *options):
    """Run a C-ECHO."""
    return run_program("echoscu", "-v", "-ta", 1, "-td", 1, *options, *target.at, check=False)


def pynetdicom_echo(target):
    """Run a C-ECHO with pynetdicom, which expects a complete response at once."""
    ae = AE()
    ae.dimse_timeout = 0.5
    ae.add_requested_context(Verification)
    association = ae.associate(*target.at)
    answer = association.send_c_echo()
    association.abort()
    return f"status {answer.Status:04X}" if answer else "no answer in time"


def find(target, *options):
    """Run a C-FIND with six matches."""
    keys = ("-k", "QueryRetrieveLevel=IMAGE", "-k", f"StudyInstanceUID={UID}", "-k", "SeriesInstanceUID")
    others = ("-k", "SOPInstanceUID", "-k", "PatientName")
    return run_program("findscu", "-d", "-S", "-td", 5, *keys, *others, *options, *target.at, check=False)


def find_and_cancel(target):
    """Run a C-FIND that is cancelled at its second response."""
    return find(target, "--cancel", 2)


def move(target):
    """Run a C-MOVE of six instances."""
    return run_program("movescu", *MOVE, *target.at, check=False)


def move_nothing(target):
    """Run a C-MOVE of an unknown study."""
    keys = ("-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2.3")
    return run_program("movescu", "-d", "-td", 5, "-aem", "STORAGE_SCP", *keys, *target.at, check=False)


def move_and_cancel(target):
    """Run a C-MOVE that is cancelled at its first Pending response."""
    return run_program("movescu", *MOVE, "--cancel", 1, *target.at, check=False)


def get(target):
    """Run a C-GET of six instances."""
    folder = tempfile.mkdtemp(dir=target.folder)
    return run_program("getscu", "-d", "-td", 5, "-od", folder, *STUDY_KEYS, *target.at, check=False)


def store(target):
    """Run a C-STORE of a new instance, in several PDUs."""
    (file,) = write(study(series=1, instances=1, patient_id="NEW", size=200), target.folder / "new")
    return run_program("storescu", "-v", "-td", 5, "--max-send-pdu", 16384, *target.at, file, check=False)


# --- effects ------------------------------------------------------------------------------------------------------

ABORTED = "Peer aborted Association"


@dataclass(frozen=True)
class Case:
    """A fault, the program that it applies to, and what that program prints and does not print."""

    fault: Fault
    ask: Callable[..., str]
    says: tuple[str, ...]
    never: tuple[str, ...] = ()


def answer(number):
    """Return what findscu prints for a response."""
    return f"Received Find Response {number}\n"


def case(fault, ask, *says, never=()):
    """Return one case."""
    return Case(fault, ask, says, never)


CASES = [
    case(Fault("association", reject=(1, 1, 7)), echo, "Rejected Permanent", "Called AE Title Not Recognized"),
    case(Fault("association", reject=(2, 3, 2)), echo, "Rejected Transient", "Local Limit Exceeded"),
    case(Fault("association", reject=(1, 2, 9)), echo, "Rejected Permanent", "Service Provider (ACSE Related)"),
    case(Fault("association", refuse=("1.2.840.10008.1.1",)), echo, "No Acceptable Presentation Contexts"),
    case(
        Fault("association", refuse=("1.2.840.10008.5.1.4.1.2.*",), refuse_result=1),
        find, "No Acceptable Presentation Contexts", "User Rejection",
    ),
    case(Fault("association", delay=3), echo, "network read timeout"),
    case(Fault("association", drop_sent=1), echo, "Association Request Failed", ABORTED),
    case(Fault("association", abort_sent=1), echo, "Association Request Failed", ABORTED),
    case(Fault("association", drop_received=2), echo, "Echo Failed", ABORTED),
    case(Fault("association", abort_received=2), echo, "Echo Failed", ABORTED),
    case(Fault("C-ECHO", status=0x0211), echo, "0x211"),
    case(Fault("C-ECHO", silent=True), echo, "DIMSE No data available (timeout"),
    case(Fault("C-ECHO", delay=3), echo, "DIMSE No data available (timeout"),
    case(Fault("C-ECHO", jitter=50_000), echo, "DIMSE No data available (timeout"),
    case(Fault("C-ECHO", bytes_per_second=40), pynetdicom_echo, "no answer in time"),
    case(Fault("C-ECHO", truncate=1), echo, "PDV lengths don't add up"),
    case(Fault("C-ECHO", garble=1), echo, "DIMSE: receiveCommand: cmdSet->read() Failed"),
    case(Fault("C-ECHO", message_id=99), echo, "Unexpected Response MsgId: 99 (expected: 1)"),
    case(Fault("C-ECHO", duplicate="final"), echo, "Received Echo Response (Success)", "P-Data PDU arrived"),
    case(
        Fault("C-FIND", status=0xA700, comment="Full up", offending=(0x00100020,)),
        find, "0xa700", "[Full up ]", "(0010,0020)", never=(answer(1),),
    ),
    case(Fault("C-FIND", status=0xC001, after=2), find, answer(2), "0xc001", never=("Find Response 3\n",)),
    case(Fault("C-FIND", final_status=0xA900), find, answer(6), "0xa900"),
    case(Fault("C-FIND", pending_status=0xFF01), find, "0xff01"),
    case(Fault("C-FIND", pendings="none"), find, "0x0000", never=(answer(1),)),
    case(Fault("C-FIND", pendings="every 2"), find, answer(3), "0x0000", never=(answer(4),)),
    case(Fault("C-FIND", pendings="at the end", delay=0.2), find, answer(6), "0x0000"),
    case(Fault("C-FIND", duplicate="pendings"), find, answer(12), "0x0000"),
    case(Fault("C-FIND", character_set="ISO_IR 144"), find, "(0008,0005) CS [ISO_IR 144]"),
    case(Fault("C-FIND", delay_each=0.2), find_and_cancel, "0xfe00"),
    case(Fault("C-FIND", delay_each=0.2, ignore_cancel=True), find_and_cancel, answer(6), "0x0000"),
    case(Fault("C-FIND", drop_sent=3), find, answer(1), ABORTED, never=(answer(2),)),
    case(Fault("C-FIND", abort_sent=5), find, answer(2), ABORTED, never=(answer(3),)),
    case(Fault("C-FIND", garble=2), find, "DIMSE Failed to receive message"),
    case(Fault("C-MOVE", status=0xA801), move, "MoveDestinationUnknown"),
    case(Fault("C-MOVE", status=0xA702, after=3), move, "Received Move Response 3", "0xa702"),
    case(Fault("C-MOVE", final_status=0xB000), move, "Completed Suboperations       : 6", "0xb000"),
    case(Fault("C-MOVE", no_match=0xC000), move_nothing, "0xc000"),
    case(Fault("C-MOVE", counts="missing"), move, "Completed Suboperations       : none"),
    case(
        Fault("C-MOVE", fail="from 1", failure_status=0xC000, counts="zero at failure"),
        move, "0xc000", "Completed Suboperations       : 0",
    ),
    case(Fault("C-MOVE", counts="wrong"), move, "Completed Suboperations       : 13"),
    case(Fault("C-MOVE", pendings="none"), move, "Received Final Move Response", never=("Move Response 1",)),
    case(Fault("C-MOVE", fail="every 3"), move, "Failed Suboperations          : 2", "FailedSOPInstanceUIDList"),
    case(Fault("C-MOVE", fail=0.5), move, "Failed Suboperations          : 3", "Completed Suboperations       : 3"),
    case(Fault("C-MOVE", fail="from 1"), move, "Failed Suboperations          : 6", "0xa702"),
    case(Fault("C-MOVE", fail=2, failed_list="missing"), move, "0xb000", never=("FailedSOPInstanceUIDList",)),
    case(
        Fault("C-MOVE", fail=2, failed_list="wrong"),
        move, "FailedSOPInstanceUIDList", never=(STUDY[1].SOPInstanceUID + "] #",),
    ),
    case(
        Fault("C-MOVE", fail=3, stop_at_failure=True),
        move, "Completed Suboperations       : 2", "0xa702", never=("Completed Suboperations       : 3",),
    ),
    case(Fault("C-MOVE", success_first=True), move, "0x0000: Success", never=("Move Response 1",)),
    case(Fault("C-MOVE", hang_destination=0.5), move, "0xa702", "Failed Suboperations          : 6"),
    case(Fault("C-GET", fail=(1, 2)), get, "Number of Failed Suboperations    : 2"),
    case(Fault("C-GET", status=0xC001), get, "UnableToProcess"),
    case(Fault("C-GET", abort_sent=4), get, ABORTED),
    case(Fault("C-STORE", full_disk=True), store, "Refused: OutOfResources"),
    case(Fault("C-STORE", status=0xA900), store, "DataSetDoesNotMatchSOPClass"),
    case(Fault("C-STORE", final_status=0xB000), store, "CoercionOfDataElements"),
    case(Fault("C-STORE", drop_received=3), store, "Store Failed", ABORTED),
    case(Fault("C-STORE", abort_received=3), store, "Store Failed", ABORTED),
]  # fmt: skip


def name(each):
    """Return the name of a case."""
    said = ", ".join(f"{key}={value}" for key, value in each.fault.effects.items())
    return f"{each.fault.operation} {said}"


@pytest.mark.parametrize("each", CASES, ids=name)
def test_a_client_reacts_to_each_fault(target, each):
    """A DCMTK program prints the effect of the fault."""
    armed = target.server.faults.add(each.fault)
    said = each.ask(target)
    assert armed.fired == 1, said[-3000:]
    assert [text for text in each.says if text not in said] == [], said[-3000:]
    assert [text for text in each.never if text in said] == [], said[-3000:]
    if each.fault.success_first:
        target.scp.wait_for(6)  # or another test would get them


def test_each_fault_has_a_case():
    """The table above has every field of the model."""
    shown = {key for each in CASES for key in each.fault.effects}
    assert {each.name for each in fields(Fault) if "does" in each.metadata} - shown == set()


@pytest.fixture
def events_of_test(target):
    """The events of the server during a test."""
    events = []
    unsubscribe = target.server.events.subscribe(events.append)
    yield events
    unsubscribe()


def finished(target, events_of_test):
    """Return the finished operations of the test's first association; operations of an earlier test may end later."""
    mine = [each.id for each in target.server.received.associations[:1]]
    return [each for each in events_of_test if isinstance(each, OperationFinished) and each.association in mine]


@pytest.mark.parametrize(
    ("fault", "ask", "status"),
    [
        (Fault("C-ECHO", status=0x0122, comment="Not today"), echo, 0x0122),
        (Fault("C-FIND", status=0xA700, after=2), find, 0xA700),
        (Fault("C-MOVE", status=0xA702, after=3), move, 0xA702),
        (Fault("C-FIND", final_status=0xC001), find, 0xC001),
        (Fault("C-MOVE", fail=(1, 6), final_status=0x0000), move, 0x0000),
        (Fault("C-MOVE", no_match=0xC000), move_nothing, 0xC000),
        (Fault("C-STORE", full_disk=True, failure_status=0xC123), store, 0xC123),
        (Fault("C-MOVE", stop_at_failure=True, fail=1), move, 0xA702),
        (Fault("C-ECHO", silent=True), echo, 0xFE00),
        (Fault("C-ECHO", drop_sent=1), echo, 0xFE00),
        (Fault("C-FIND", drop_sent=4), find, 0xFF00),
    ],
    ids=lambda each: getattr(each, "__name__", None) or repr(each),
)
def test_the_log_has_the_status_that_was_sent(target, events_of_test, fault, ask, status):
    """Not the status of the handler; FE00 for an operation without a response."""
    target.server.faults.add(fault)
    ask(target)
    assert eventually(lambda: finished(target, events_of_test))
    assert [(each.kind, each.status) for each in finished(target, events_of_test)] == [(fault.operation, status)]


@pytest.mark.parametrize(
    ("fault", "comment"),
    [
        (Fault("C-ECHO", final_status=0x0122, comment="Not today"), "Not today"),
        (Fault("C-ECHO", silent=True), "a fault suppressed the response"),
    ],
    ids=repr,
)
def test_the_log_has_the_error_comment_that_was_sent(target, events_of_test, fault, comment):
    """Or says that there was no response."""
    target.server.faults.add(fault)
    echo(target)
    assert eventually(lambda: finished(target, events_of_test))
    assert finished(target, events_of_test)[0].comment == comment


def test_the_log_has_two_results_of_a_move_with_success_first(target, events_of_test):
    """Once after the response and once after the sub-operations, both with the status that was sent."""
    target.server.faults.add(Fault("C-MOVE", success_first=True, fail=1))
    move(target)
    assert eventually(lambda: len(finished(target, events_of_test)) == 2)
    assert [each.status for each in finished(target, events_of_test)] == [0x0000, 0x0000]
    assert finished(target, events_of_test)[1].counts["failed"] == 1


def test_the_log_has_each_fault_that_applied(target, events_of_test):
    """A warning for each, with its number, the AE titles, the operation, and the effects."""
    target.server.faults.add(Fault("C-FIND", status=0xA700))
    first = target.server.faults.add(Fault(calling="ECHOSCU", status=0x0122, delay=0.01))
    second = target.server.faults.add(Fault("C-ECHO", nth="every 2", comment="Not today"))
    third = target.server.faults.add(Fault("association", calling="EVIL*", reject=(2, 3, 2)))
    for options in [(), (), ("-aet", "EVIL")]:
        echo(target, *options)
    fired = [each for each in events_of_test if isinstance(each, FaultFired)]
    assert [(each.fault, each.kind, each.calling_ae_title, each.does) for each in fired] == [
        (first.place, "C-ECHO", "ECHOSCU", "status=0x0122, delay=0.01"),
        (first.place, "C-ECHO", "ECHOSCU", "status=0x0122, delay=0.01"),
        (second.place, "C-ECHO", "ECHOSCU", "comment='Not today'"),
        (third.place, "association", "EVIL", "reject=(2, 3, 2)"),
    ]
    assert {each.level for each in fired} == {logging.WARNING}


def test_the_log_says_that_a_fault_has_no_effect(target, events_of_test):
    """It applied, and counts."""
    armed = target.server.faults.add(Fault(fail=1))
    assert "Success" in echo(target)
    assert armed.fired == 1
    assert [each.does for each in events_of_test if isinstance(each, FaultFired)] == ["no effect on this operation"]


@pytest.mark.parametrize("ask", [echo, find, move, get, store], ids=lambda each: each.__name__)
def test_without_faults_nothing_changes(target, ask):
    """Observation changes nothing."""
    said = ask(target)
    assert "Success" in said
    assert not [line for line in said.splitlines() if line.startswith(("E:", "F:", "W:"))], said


def test_success_first_still_sends_everything(target):
    """After the response, and after the requestor has released its association."""
    target.server.faults.add(Fault("C-MOVE", success_first=True))
    move(target)
    arrived = target.scp.wait_for(6)
    assert {each.sop_instance_uid for each in arrived} == {each.SOPInstanceUID for each in STUDY}
    assert {each.move_originator for each in arrived} == {("MOVESCU", 1)}


def test_an_ignored_cancel_is_recorded(target):
    """The retrieve continues, and the cancel is recorded."""
    target.server.faults.add(Fault("C-MOVE", ignore_cancel=True, delay_each=0.1))
    move_and_cancel(target)
    (cancelled,) = target.server.received.c_cancel
    assert (cancelled.operation, cancelled.status) == ("C-MOVE", 0x0000)
    assert len(target.scp.wait_for(6)) == 6


def test_failing_instances_are_not_sent(target):
    """The counts and the failed list match what was sent."""
    target.server.faults.add(Fault("C-MOVE", fail=(1, 6)))
    said = move(target)
    sent = {each.sop_instance_uid for each in target.scp.instances}
    missing = {each.SOPInstanceUID for each in STUDY} - sent
    assert len(missing) == 2
    assert all(each in said for each in missing)


def test_a_full_disk_keeps_nothing(target):
    """Neither a file nor a row; the sender still has the instance."""
    target.server.faults.add(Fault("C-STORE", full_disk=True))
    store(target)
    said = run_program(
        "findscu", "-v", "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID=NEW", *target.at, check=False
    )
    assert answer(1) not in said


def test_the_storage_scp_takes_faults(target):
    """The storage SCP takes faults too: one of its responses makes the final status of the move a warning."""
    armed = target.scp.faults.add(Fault("C-STORE", nth=2, status=0xA700))
    said = move(target)
    assert armed.fired == 1
    assert "Failed Suboperations          : 1" in said
    assert "0xb000" in said


def test_a_destination_that_drops_its_association_gets_another(target):
    """The instance is sent again on a new association, and the others after it."""
    target.scp.faults.add(Fault("C-STORE", nth=2, drop_received=1))
    said = move(target)
    assert "Failed Suboperations          : 0" in said
    assert eventually(lambda: len(target.scp.received.associations) == 2)


def test_slow_bytes_end_with_the_client(target):
    """A stopped server, or one whose client is gone, does not finish a slow response."""
    target.server.faults.add(Fault("C-ECHO", bytes_per_second=1))
    with Raw(target.server.port) as client:
        client.associate((1, str(Verification), [IMPLICIT]))
        client.send(request(C_ECHO, 1, str(Verification), 1, None))
        client.read(1)
    assert target.server.received.wait_for_ends()[0].ended_by == "connection lost"
