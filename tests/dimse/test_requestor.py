"""Association requests to pynetdicom, to DCMTK, to our own server, and to peers that misbehave."""

import contextlib
import hashlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import AllStoragePresentationContexts, build_context, build_role

from pacs.dimse.association.association import Association, AssociationLimits
from pacs.dimse.association.establishment import request
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.message import Message
from pacs.dimse.upper.waiting import WaitContext
from pacs.errors import AssociationLost, AssociationRejected, Cancelled, DestinationUnreachable, PeerTimeout
from pacs.support.cancellation import Cancellation
from tests.dimse import raw
from tests.dimse.conftest import OURS_ALONE, Serve
from tests.dimse.raw import CT, EXPLICIT, IMPLICIT, STUDY_FIND, VERIFICATION, Peer, cancel_rq, find_rq, item, pdu
from tests.dimse.test_association import AT_ONCE, CANCELLED, PENDING, SUCCESS
from tests.programs import free_port, run, storescp

HOST = "127.0.0.1"
VERIFY = [(VERIFICATION, [IMPLICIT])]
STORE = [(CT, [EXPLICIT]), (CT, [IMPLICIT])]


def instance(size: int = 0) -> bytes:
    """Return a small CT instance in Explicit VR Little Endian, with `size` bytes in a private element."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT, "1.2.3.4"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.PatientID = "1.2.3", "1.2.3.1", "P"
    if size:
        block = dataset.private_block(0x0099, "PACS TEST", create=True)
        block.add_new(0x01, "OB", bytes(range(256)) * (size // 256))
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, False
    write_dataset(out, dataset)
    return out.getvalue()


def store_rq(message_id: int = 1) -> Command:
    """Return a C-STORE-RQ for that instance."""
    return Command.request(CommandField.C_STORE, message_id, CT, affected_sop_instance_uid="1.2.3.4", priority=0)


def answered(association: Association, timeout: float = 10) -> Command:
    """Return the next response."""
    message = association.receive(timeout)
    assert message is not None, association.ended_by
    return message.command


@contextlib.contextmanager
def pynetdicom_scp(**options: object) -> Iterator[tuple[int, list[bytes]]]:
    """Run pynetdicom's storage and verification SCP; yield its port and the data sets it received."""
    received: list[bytes] = []

    def handle(event: evt.Event) -> int:
        received.append(event.request.DataSet.getvalue())
        return 0x0000

    ae = AE("THEIRS")
    ae.supported_contexts = [*AllStoragePresentationContexts[:10], build_context(VERIFICATION), build_context(CT)]
    for name, value in options.items():
        setattr(ae, name, value)
    server = ae.start_server((HOST, 0), block=False, evt_handlers=[(evt.EVT_C_STORE, handle)])
    try:
        yield server.socket.getsockname()[1], received
    finally:
        server.shutdown()


@pytest.mark.parametrize("max_pdu", [4096, 512, 16_382, 0])
def test_pynetdicom_receives_what_we_store(max_pdu: int) -> None:
    """Bit for bit, in PDUs of its maximum length."""
    data = instance(300_000)
    with pynetdicom_scp(maximum_pdu_size=max_pdu) as (port, received):
        association = request(HOST, port, "OURS", "THEIRS", STORE)
        assert association.max_pdu == max_pdu
        contexts = sorted(association.contexts.values(), key=lambda each: each.id)
        assert [each.transfer_syntax for each in contexts] == [EXPLICIT, IMPLICIT]
        assert all(each.as_scu and not each.as_scp for each in contexts)
        for message_id in (1, 2):
            chunks = (data[at : at + 1000] for at in range(0, len(data), 1000))
            association.send(contexts[0].id, store_rq(message_id), chunks)
            response = answered(association)
            assert (response.status, response.responding_to) == (SUCCESS, message_id)
        association.release()
        assert association.ended_by == "A-RELEASE"
    assert received == [data, data]


def test_dcmtk_receives_what_we_store(tmp_path: Path) -> None:
    """Bit for bit, with the Move Originator that it logs."""
    data = instance(1000)
    with storescp(tmp_path / "out") as theirs:
        association = request(HOST, theirs.port, "OURS", theirs.ae_title, STORE)
        command = Command.request(
            CommandField.C_STORE,
            1,
            CT,
            affected_sop_instance_uid="1.2.3.4",
            priority=0,
            move_originator_ae_title="ASKER",
            move_originator_message_id=77,
        )
        association.send(1, command, data)
        assert answered(association).status == SUCCESS
        association.release()
        assert [path.read_bytes().endswith(data) for path in theirs.files()] == [True]
    log = theirs.log.read_text()
    assert "ASKER" in log
    assert "77" in log


def test_pynetdicom_and_dcmtk_store_to_us(serve: Serve, tmp_path: Path) -> None:
    """Both are served, and their instances arrive unchanged."""
    archive = serve()
    data = instance(200_000)
    path = tmp_path / "one.dcm"
    path.write_bytes(raw_part10(data))
    run("storescu", "-xe", HOST, archive.port, path)
    ae = AE("PYNET")
    ae.add_requested_context(CT, EXPLICIT)
    theirs = ae.associate(HOST, archive.port)
    assert theirs.send_c_store(str(path)).Status == SUCCESS
    theirs.release()
    run("echoscu", HOST, archive.port)
    assert archive.ended_by(3) == ["A-RELEASE"] * 3
    assert [each[0] for each in archive.received] == ["STORESCU", "PYNET"]
    assert {each[1] for each in archive.received} == {EXPLICIT}
    assert archive.received[1][3] == hashlib.sha256(data).hexdigest()


def raw_part10(data: bytes) -> bytes:
    """Return a Part 10 file with an Explicit VR Little Endian data set, its head written by hand."""

    def ui(element: int, value: str) -> bytes:
        padded = value.encode() + b"\0" * (len(value) % 2)
        return struct.pack("<HH2sH", 2, element, b"UI", len(padded)) + padded

    meta = struct.pack("<HH2sHLH", 2, 1, b"OB", 0, 2, 0x0100) + ui(2, CT) + ui(3, "1.2.3.4") + ui(0x10, EXPLICIT)
    meta += ui(0x12, "1.2.3")
    return bytes(128) + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(meta)) + meta + data


def test_the_requestor_can_offer_the_scp_role(serve: Serve) -> None:
    """As in a C-GET: the acceptor sends a C-STORE on the requestor's association."""

    def get(association: Association, message: Message) -> None:
        message.read(1000)
        context = next(each for each in association.contexts.values() if each.abstract_syntax == CT)
        assert context.as_scu
        association.send(context.id, store_rq(1), instance())
        stored = association.receive(10)
        assert stored is not None
        association.send(message.context.id, message.command.response(stored.command.status))

    archive = serve(find=get)
    contexts = [(STUDY_FIND, [EXPLICIT]), (CT, [EXPLICIT])]
    association = request(HOST, archive.port, "OURS", "PACS", contexts, roles={CT: (False, True)})
    assert (association.contexts[3].as_scp, association.contexts[3].as_scu) == (True, False)
    association.send(1, Command.request(CommandField.C_FIND, 5, STUDY_FIND, priority=0), b"\0\0")
    message = association.receive(10)
    assert message is not None
    assert message.command.field == CommandField.C_STORE
    assert message.read(10_000) == instance()
    association.send(3, message.command.response(0xB000))
    assert answered(association).status == 0xB000
    association.release()


def test_pynetdicom_gets_instances_on_its_own_association(serve: Serve) -> None:
    """Both sides agree on the roles."""
    received: list[bytes] = []

    def get(association: Association, message: Message) -> None:
        message.read(1000)
        context = next(each for each in association.contexts.values() if each.abstract_syntax == CT)
        for number in range(3):
            association.send(context.id, store_rq(number + 1), instance())
            assert answered(association).status == SUCCESS
        association.send(message.context.id, message.command.response(SUCCESS, completed=3, failed=0, warning=0))

    def handle(event: evt.Event) -> int:
        received.append(event.request.DataSet.getvalue())
        return 0x0000

    archive = serve(get=get)
    study_get = "1.2.840.10008.5.1.4.1.2.2.3"
    ae = AE("PYNET")
    ae.add_requested_context(study_get)
    ae.add_requested_context(CT, EXPLICIT)
    handlers = [(evt.EVT_C_STORE, handle)]
    theirs = ae.associate(HOST, archive.port, ext_neg=[build_role(CT, scp_role=True)], evt_handlers=handlers)
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    statuses = [status.Status for status, _ in theirs.send_c_get(identifier, study_get)]
    theirs.release()
    assert statuses == [SUCCESS]
    assert received == [instance()] * 3


def test_extended_negotiation_comes_back_agreed(serve: Serve) -> None:
    """Both sides have the same bytes."""
    archive = serve()
    association = request(
        HOST, archive.port, "OURS", "PACS", [(STUDY_FIND, [IMPLICIT])], extended={STUDY_FIND: b"\1\1\1\1"}
    )
    assert association.extended == {STUDY_FIND: b"\1\1\1\0"}
    assert association.negotiated(STUDY_FIND).fuzzy_names
    association.release()


# --- peers that refuse -------------------------------------------------------------------------------------------


def test_a_rejection_has_result_source_and_reason(serve: Serve) -> None:
    """As an unreachable destination, in words that fit into an Error Comment."""
    archive = serve(access=OURS_ALONE)
    with pytest.raises(AssociationRejected) as caught:
        request(HOST, archive.port, "OURS", "NOBODY", VERIFY)
    assert (caught.value.result, caught.value.source, caught.value.reason) == (1, 1, 7)
    assert "called AE title not recognized" in caught.value.comment
    assert len(caught.value.comment) <= 64
    assert isinstance(caught.value, DestinationUnreachable)


def test_the_rejection_of_dcmtk_is_read(tmp_path: Path) -> None:
    """storescp with --refuse gives no reason."""
    with storescp(tmp_path / "out", "STORE_SCP", "--refuse") as theirs, pytest.raises(AssociationRejected) as caught:
        request(HOST, theirs.port, "OURS", "STORE_SCP", VERIFY)
    assert caught.value.result == 1


def test_a_port_without_a_listener_is_unreachable() -> None:
    """The message has the reason of the system."""
    with pytest.raises(DestinationUnreachable, match="refused"):
        request(HOST, free_port(), "OURS", "THEIRS", VERIFY)


def test_a_host_that_does_not_exist_is_unreachable() -> None:
    """A name under .invalid never resolves."""
    with pytest.raises(DestinationUnreachable, match="unknown host"):
        request("nowhere.invalid", 104, "OURS", "THEIRS", VERIFY)


@contextlib.contextmanager
def acceptor(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listen, accept one connection and call `behave` with it."""
    with socket.create_server((HOST, 0)) as listener:

        def run_it() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(20)
                with contextlib.suppress(OSError):
                    behave(connection)

        thread = threading.Thread(target=run_it)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(30)


def read_pdu(connection: socket.socket) -> tuple[int, bytes]:
    """Return type and body of one PDU."""
    head = connection.recv(6, socket.MSG_WAITALL)
    if len(head) < 6:
        return 0, b""
    kind, length = struct.unpack(">BxL", head)
    return kind, connection.recv(length, socket.MSG_WAITALL) if length else b""


def accepting(connection: socket.socket, result: int = 0, transfer: str = IMPLICIT, max_pdu: int = 16384) -> None:
    """Read the request and accept its first context, by hand."""
    read_pdu(connection)
    context = item(0x21, bytes([1, 0, result, 0]) + item(0x40, transfer.encode()))
    items = item(0x10, b"1.2.840.10008.3.1.1.1") + context + raw.user_information(max_pdu)
    connection.sendall(pdu(raw.AC, struct.pack(">Hxx", 1) + bytes(64) + items))


def until_closed(connection: socket.socket) -> None:
    """Read until the other side ends."""
    while connection.recv(4096):
        pass


def answering_with(answer: bytes) -> Callable[[socket.socket], None]:
    """Answer the first PDU with these bytes."""

    def behave(connection: socket.socket) -> None:
        read_pdu(connection)
        connection.sendall(answer)
        until_closed(connection)

    return behave


def taking_nothing(connection: socket.socket) -> None:
    """Accept, with a maximum length of four bytes."""
    accepting(connection, max_pdu=4)
    until_closed(connection)


MISBEHAVIOUR: dict[str, Callable[[socket.socket], None]] = {
    "closes at once": lambda connection: connection.close(),
    "aborts": answering_with(pdu(raw.ABORT, bytes(4))),
    "sends data": answering_with(raw.echo_rq()),
    "sends garbage": answering_with(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "announces 4 GiB": answering_with(pdu(raw.AC, b"", 2**32 - 1)),
    "takes no PDUs": taking_nothing,
}


@pytest.mark.parametrize("behave", MISBEHAVIOUR.values(), ids=MISBEHAVIOUR.keys())
def test_a_peer_with_another_answer_is_unreachable(behave: Callable[[socket.socket], None]) -> None:
    """For any other PDU instead of an A-ASSOCIATE-AC."""
    with acceptor(behave) as port, pytest.raises(DestinationUnreachable):
        request(HOST, port, "OURS", "THEIRS", VERIFY)


def test_a_peer_that_never_answers_is_aborted() -> None:
    """After the negotiation time, with an A-ABORT."""
    with acceptor(until_closed) as port:
        began = time.monotonic()
        with pytest.raises(DestinationUnreachable, match="does not answer"):
            request(HOST, port, "OURS", "THEIRS", VERIFY, limits=AssociationLimits(negotiation=0.3))
        assert time.monotonic() - began < AT_ONCE


def test_a_transfer_syntax_that_was_not_proposed_is_not_used() -> None:
    """An unproposed transfer syntax is no acceptance; nor is a rejected context."""
    for result, transfer in ((0, EXPLICIT), (3, IMPLICIT)):

        def behave(connection: socket.socket, result: int = result, transfer: str = transfer) -> None:
            accepting(connection, result, transfer)
            until_closed(connection)

        with acceptor(behave) as port:
            association = request(HOST, port, "OURS", "THEIRS", VERIFY)
            assert association.contexts == {}
            association.abort()
            association.close()


def test_releases_that_collide_end_well_for_the_requestor() -> None:
    """PS3.8 7.2.2.7: the requestor confirms first, and waits for the acceptor's confirmation."""
    seen: list[int] = []

    def behave(connection: socket.socket) -> None:
        accepting(connection)
        seen.append(read_pdu(connection)[0])
        connection.sendall(pdu(raw.RELEASE_RQ, bytes(4)))
        seen.append(read_pdu(connection)[0])
        connection.sendall(pdu(raw.RELEASE_RP, bytes(4)))
        until_closed(connection)

    with acceptor(behave) as port:
        association = request(HOST, port, "OURS", "THEIRS", VERIFY)
        association.release()
        assert association.ended_by == "A-RELEASE"
    assert seen == [raw.RELEASE_RQ, raw.RELEASE_RP]


def test_v10_a_destination_that_closes_is_lost() -> None:
    """During the wait for its response, and during a write."""
    with acceptor(accepting) as port:
        association = request(HOST, port, "OURS", "THEIRS", VERIFY)
        assert association.receive(10) is None
        assert association.ended_by == "connection lost"
        with pytest.raises(AssociationLost):
            association.send(1, Command.request(CommandField.C_ECHO, 1, VERIFICATION))
        association.close()


# --- destinations that hang, and requesters that cancel ----------------------------------------------------------


def hanging(connection: socket.socket) -> None:
    """Accept, and never read or write again."""
    accepting(connection)
    time.sleep(0.1)
    connection.recv(1, socket.MSG_PEEK)
    stop_hanging.wait(20)


stop_hanging = threading.Event()


@pytest.fixture
def black_hole() -> Iterator[int]:
    """Return the port of a destination that accepts associations and then hangs."""
    stop_hanging.clear()
    with acceptor(hanging) as port:
        try:
            yield port
        finally:
            stop_hanging.set()


def test_a_destination_that_does_not_answer_times_out(black_hole: int) -> None:
    """PeerTimeout, and the association is aborted."""
    association = request(HOST, black_hole, "OURS", "THEIRS", VERIFY)
    association.send(1, Command.request(CommandField.C_ECHO, 1, VERIFICATION))
    with pytest.raises(PeerTimeout):
        association.receive(0.2)
    assert association.ended_by == "timeout"
    association.close()


def test_a_destination_that_does_not_read_times_out(black_hole: int) -> None:
    """The write deadline holds for both roles."""
    association = request(HOST, black_hole, "OURS", "THEIRS", VERIFY, limits=AssociationLimits(write=0.3))
    with pytest.raises(PeerTimeout):
        association.send(1, store_rq(), (bytes(1 << 20) for _ in range(100)))
    association.close()


@pytest.mark.parametrize("stage", ["connecting", "sending", "receiving"])
def test_x6_a_cancel_reaches_an_operation_whose_destination_hangs(serve: Serve, stage: str) -> None:
    """The requestor's socket is read during the wait for the destination; then the grace runs."""
    reached = threading.Event()
    why: list[str | None] = []

    def move(association: Association, message: Message) -> None:
        message.read(1000)
        with association.operation(message) as cancellation:
            wait_context = WaitContext(cancellation, sources=(association,), grace=0.2)
            with pytest.raises(Cancelled):
                to_nowhere(wait_context, stage, reached)
            why.append(cancellation.reason)
            association.send(message.context.id, message.command.response(CANCELLED))

    archive = serve(find=move)
    stop_hanging.clear()
    behave = until_stopped if stage == "connecting" else hanging
    with acceptor(behave) as port, Peer(archive.port) as peer:
        ports[:] = [port]
        peer.associate()
        peer.send(find_rq())
        assert reached.wait(10)
        time.sleep(0.2)
        began = time.monotonic()
        peer.send(cancel_rq())
        assert peer.status() == CANCELLED
        assert time.monotonic() - began < AT_ONCE
        stop_hanging.set()
    assert why == ["C-CANCEL"]


ports: list[int] = []


def until_stopped(connection: socket.socket) -> None:
    """Never answer, not even the association request."""
    assert connection
    stop_hanging.wait(20)


def to_nowhere(wait_context: WaitContext, stage: str, reached: threading.Event) -> None:
    """Wait for the destination at one stage of a sub-operation."""
    if stage == "connecting":
        reached.set()
        request(
            HOST,
            ports[0],
            "OURS",
            "THEIRS",
            VERIFY,
            limits=AssociationLimits(negotiation=30),
            wait_context=wait_context,
        )
        return
    association = request(HOST, ports[0], "OURS", "THEIRS", VERIFY, wait_context=wait_context)
    try:
        reached.set()
        if stage == "sending":
            association.send(1, store_rq(), (bytes(1 << 20) for _ in range(1000)), wait_context=wait_context)
        else:
            association.send(1, Command.request(CommandField.C_ECHO, 1, VERIFICATION), wait_context=wait_context)
            association.receive(30, wait_context=wait_context)
    finally:
        association.close()


def test_v7_pending_responses_go_out_while_a_destination_hangs(serve: Serve) -> None:
    """The tick is called during the wait for the destination."""

    def move(association: Association, message: Message) -> None:
        message.read(1000)
        with association.operation(message) as cancellation:

            def tick() -> None:
                association.send(message.context.id, message.command.response(PENDING))

            wait_context = WaitContext(cancellation, sources=(association,), every=0.05, tick=tick)
            destination = request(HOST, ports[0], "OURS", "THEIRS", VERIFY, wait_context=wait_context)
            destination.send(1, Command.request(CommandField.C_ECHO, 1, VERIFICATION), wait_context=wait_context)
            with pytest.raises(PeerTimeout):
                destination.receive(0.5, wait_context=wait_context)
            destination.close()
            association.send(message.context.id, message.command.response(0xA702))

    archive = serve(find=move)
    stop_hanging.clear()
    with acceptor(hanging) as port, Peer(archive.port) as peer:
        ports[:] = [port]
        peer.associate()
        peer.send(find_rq())
        found = [peer.status()]
        while found[-1] == PENDING:
            found.append(peer.status())
        stop_hanging.set()
    assert 3 <= found.count(PENDING) <= 11
    assert found[-1] == 0xA702


def test_v7_pending_responses_go_out_between_the_messages_of_one_association(serve: Serve) -> None:
    """As in a C-GET: the source of the wait context is the association that is waited for."""

    def get(association: Association, message: Message) -> None:
        message.read(1000)
        with association.operation(message) as cancellation:

            def tick() -> None:
                association.send(message.context.id, message.command.response(PENDING))

            wait_context = WaitContext(cancellation, sources=(association,), every=0.05, tick=tick)
            association.send(3, store_rq(7), instance(), wait_context=wait_context)
            stored = association.receive(20, wait_context=wait_context)
            assert stored is not None
            association.send(message.context.id, message.command.response(stored.command.status))

    archive = serve(find=get)
    contexts = [(STUDY_FIND, [EXPLICIT]), (CT, [EXPLICIT])]
    association = request(HOST, archive.port, "OURS", "PACS", contexts, roles={CT: (False, True)})
    association.send(1, Command.request(CommandField.C_FIND, 5, STUDY_FIND, priority=0), b"\0\0")
    stored = association.receive(10)
    assert stored is not None
    assert stored.read(10_000) == instance()
    assert [answered(association).status for _ in range(3)] == [PENDING] * 3
    association.send(3, stored.command.response(SUCCESS))
    final = answered(association)
    while final.status == PENDING:
        final = answered(association)
    assert final.status == SUCCESS
    association.release()


def test_a_cancelled_wait_context_keeps_a_request_from_connecting() -> None:
    """No association begins for an operation that is over."""
    cancellation = Cancellation()
    cancellation.cancel("A-ABORT")
    with pytest.raises(Cancelled):
        request(HOST, free_port(), "OURS", "THEIRS", VERIFY, wait_context=WaitContext(cancellation, grace=5.0))
