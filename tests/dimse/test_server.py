"""The server as a whole: limits, many peers at once, failing handlers, draining and stopping."""

import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pacs.dimse.association.association import Association, AssociationLimits
from pacs.dimse.association.establishment import request
from pacs.dimse.messages.message import Command, CommandField, Message
from pacs.dimse.server import server as servers
from pacs.dimse.server.acceptor_policy import AcceptorPolicy
from pacs.dimse.server.association_slots import AssociationBounds, AssociationSlots
from pacs.dimse.server.server import DimseServer, Settings
from pacs.errors import AssociationRejected
from pacs.observability.events import AssociationAccepted, AssociationEnded, AssociationRequestRejected
from tests.dimse import raw
from tests.dimse.conftest import OURS_ALONE, Archive, Serve
from tests.dimse.raw import (
    COMMAND,
    CT_CONTEXT,
    ECHO_CONTEXT,
    FIND_CONTEXT,
    IMPLICIT,
    LAST,
    RJ,
    VERIFICATION,
    Peer,
    associate_rq,
    echo_rq,
    find_rq,
    p_data,
    pdv,
)
from tests.dimse.test_upper_layer import still_serves
from tests.programs import run
from tests.waiting import eventually

VERIFY = [(VERIFICATION, [IMPLICIT])]


# --- limits ------------------------------------------------------------------------------------------------------


def test_p7_silent_connections_take_no_slot(serve: Serve) -> None:
    """Ten silent sockets before a server that serves one association: echoes get through at once."""
    archive = serve(bounds=AssociationBounds(in_all=1))
    silent = [socket.create_connection(("127.0.0.1", archive.port)) for _ in range(10)]
    began = time.monotonic()
    still_serves(archive)
    run("echoscu", "127.0.0.1", archive.port)
    assert time.monotonic() - began < 5
    for each in silent:
        each.close()


def test_p7_a_silent_connection_is_closed_soon(serve: Serve) -> None:
    """After the negotiation time, not the idle time; so is one that sends its request byte by byte."""
    archive = serve(limits=AssociationLimits(negotiation=0.3))
    with Peer(archive.port) as silent, Peer(archive.port) as slow:
        slow.send(associate_rq()[:50])
        assert silent.receive()[0] in (0, raw.ABORT)
        assert slow.receive()[0] in (0, raw.ABORT)
    assert archive.ended_by(0) == []


def test_p7_of_too_many_silent_connections_the_oldest_is_closed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that sends a request is served, whatever the number of silent connections."""
    monkeypatch.setattr(servers, "MOST_UNASSOCIATED", 5)
    archive = serve()
    silent = [Peer(archive.port) for _ in range(5)]
    still_serves(archive)
    assert silent[0].receive()[0] in (0, raw.ABORT)
    silent[4].associate()
    for each in silent:
        each.socket.close()


def test_p7_silent_connections_are_counted_over_all_workers(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers share a listener: beyond their common limit, an oldest connection is closed."""
    monkeypatch.setattr(servers, "MOST_UNASSOCIATED", 6)
    slots = AssociationSlots(workers=2)
    settings = Settings(policy=AcceptorPolicy(transfer_syntaxes=()))
    supervisor, *workers = (DimseServer([("127.0.0.1", 0)], settings) for _ in range(3))
    supervisor.listen()
    for number, worker in enumerate(workers):
        worker.join([each.dup() for each in supervisor.listeners], slots.of(number))
    silent = [socket.create_connection(("127.0.0.1", supervisor.port), 20) for _ in range(7)]
    eventually(lambda: gone(silent))
    time.sleep(0.1)
    assert len(gone(silent)) == 1
    assert gone(silent)[0] in silent[:4]
    for each in silent:
        each.close()
    for server in (supervisor, *workers):
        server.stop()


def gone(connections: list[socket.socket]) -> list[socket.socket]:
    """Return the connections that the server has closed."""
    readable, _, _ = select.select(connections, [], [], 0)
    return readable


def test_one_association_too_many_is_rejected_with_2_3_2(serve: Serve) -> None:
    """And accepted again after one has ended."""
    archive = serve(bounds=AssociationBounds(in_all=2))
    first, second, third = (Peer(archive.port) for _ in range(3))
    first.associate()
    second.associate()
    third.send(associate_rq())
    kind, body = third.receive()
    assert (kind, tuple(body[1:])) == (RJ, (2, 3, 2))
    first.release()
    eventually(lambda: archive.server.associations == 1)
    still_serves(archive)
    rejected = [each for each in archive.events if isinstance(each, AssociationRequestRejected)]
    assert [(each.result, each.source, each.reason, each.calling_ae_title) for each in rejected] == [(2, 3, 2, "RAW")]
    for each in (first, second, third):
        each.socket.close()


def test_a_rejected_association_takes_no_slot(serve: Serve) -> None:
    """Unknown callers cannot take the slots of known ones."""
    archive = serve(bounds=AssociationBounds(in_all=1), access=OURS_ALONE)
    for _ in range(5):
        with pytest.raises(AssociationRejected, match="called"):
            request("127.0.0.1", archive.port, "OURS", "NOBODY", VERIFY)
    still_serves(archive)


def test_health_checks_leave_nothing_behind(serve: Serve) -> None:
    """After a hundred connections that open and close there is no thread, slot or event."""
    archive = serve(bounds=AssociationBounds(in_all=1))
    before = threading.active_count()
    for _ in range(100):
        socket.create_connection(("127.0.0.1", archive.port)).close()
    eventually(lambda: threading.active_count() <= before)
    assert archive.events == []
    still_serves(archive)


# --- dispatch ----------------------------------------------------------------------------------------------------


def test_an_operation_without_a_handler_is_answered_with_0211(serve: Serve) -> None:
    """C-FIND here, and N-ACTION; the association goes on, and their data sets are discarded."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(find_rq(4))
        assert peer.status() == 0x0211
        action = raw.command(VERIFICATION, 0x0130, 5)
        peer.send(p_data(pdv(ECHO_CONTEXT, COMMAND | LAST, action)))
        response = peer.response()
        assert response[0x0900] == b"\x11\x02"
        assert response[0x0120] == b"\x05\0"
        assert response[0x0100] == b"\x30\x81"
        peer.send(echo_rq(6))
        assert peer.status() == 0x0000


def test_a_sop_class_that_is_not_the_context_s_is_answered_with_0122(serve: Serve) -> None:
    """Another SOP Class, or none."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.associate()
        for context_id, sop_class in ((ECHO_CONTEXT, raw.CT), (FIND_CONTEXT, VERIFICATION), (CT_CONTEXT, "")):
            peer.send(p_data(pdv(context_id, COMMAND | LAST, raw.command(sop_class, 0x0030))))
            assert peer.status() == 0x0122
        peer.send(echo_rq())
        assert peer.status() == 0x0000


def test_a_request_in_a_role_that_was_not_negotiated_is_answered_with_0122(serve: Serve) -> None:
    """The requestor negotiated to be SCP only."""
    archive = serve()
    role = raw.item(0x54, bytes([0, len(raw.CT)]) + raw.CT.encode() + b"\0\1")
    with Peer(archive.port) as peer:
        peer.associate(information=raw.user_information(16384, role))
        peer.send(raw.store_rq(), p_data(pdv(CT_CONTEXT, LAST, b"\0\0")))
        assert peer.status() == 0x0122


def test_a_response_without_a_request_ends_the_association(serve: Serve) -> None:
    """A response without a request breaks the protocol."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.associate()
        response = raw.uid(2, VERIFICATION) + raw.number(0x100, 0x8030) + raw.number(0x120, 1)
        response += raw.number(0x800, 0x0101) + raw.number(0x900, 0)
        peer.send(p_data(pdv(ECHO_CONTEXT, COMMAND | LAST, response)))
        assert peer.aborted() == (0, 0)
    assert archive.violation() == "C-ECHO-RSP of the requestor: (0000,0120) Message ID 1 is that of no request"


def test_a_failing_handler_ends_only_its_association(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """The failure is logged, the peer gets an A-ABORT, and the process goes on."""

    def fail(association: Association, message: Message) -> None:
        raise RuntimeError(f"on {association.id}, {message.context.id}")

    archive = serve(find=fail)
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(find_rq())
        assert peer.aborted() == (0, 0)
    assert archive.ended_by() == ["aborted here"]
    assert "a handler failed" in caplog.text
    still_serves(archive)


# --- many at once ------------------------------------------------------------------------------------------------


def test_many_peers_are_served_at_once(serve: Serve) -> None:
    """Sixteen requestors by eight threads, each on its own association with several echoes."""
    archive = serve()

    def echo(number: int) -> list[int]:
        association = request("127.0.0.1", archive.port, f"SCU{number}", "PACS", VERIFY)
        found = []
        for message_id in range(1, 6):
            association.send(1, Command.request(CommandField.C_ECHO, message_id, VERIFICATION))
            answer = association.receive(20)
            found.append(answer.command.status if answer is not None else -1)
        association.release()
        return found

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(echo, range(16))) == [[0x0000] * 5] * 16
    assert archive.ended_by(16) == ["A-RELEASE"] * 16
    titles = {each.calling_ae_title for each in archive.events if isinstance(each, AssociationAccepted)}
    assert titles == {f"SCU{number}" for number in range(16)}
    ended = [each for each in archive.events if isinstance(each, AssociationEnded)]
    assert [dict(each.counts) for each in ended] == [{"C-ECHO": 5}] * 16


def test_several_addresses_are_listened_on() -> None:
    """IPv6, too, if the machine has it."""
    addresses = [("127.0.0.1", 0)]
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            addresses.append(("::1", 0))
    except OSError:
        pass
    server = DimseServer(addresses, Settings(policy=AcceptorPolicy(transfer_syntaxes=(IMPLICIT,))))
    server.start()
    try:
        for (host, _), port in zip(addresses, server.ports, strict=True):
            request(host, port, "OURS", "PACS", VERIFY).release()
    finally:
        server.stop()


def test_an_address_in_use_is_an_error(serve: Serve) -> None:
    """And no listener stays on the other addresses."""
    taken = serve().port
    settings = Settings(policy=AcceptorPolicy(transfer_syntaxes=()))
    server = DimseServer([("127.0.0.1", 0), ("127.0.0.1", taken)], settings)
    with pytest.raises(OSError, match="in use"):
        server.start()


# --- the end -----------------------------------------------------------------------------------------------------


def waiting(archive: Archive) -> tuple[Peer, Peer]:
    """One peer with a running operation, and one idle peer."""
    amid, idle = Peer(archive.port), Peer(archive.port)
    amid.associate()
    idle.associate()
    amid.send(find_rq())
    return amid, idle


def test_draining_lets_associations_end_and_accepts_no_more(serve: Serve) -> None:
    """Draining ends with the last operation, before its time limit."""
    go_on, begun = threading.Event(), threading.Event()

    def find(association: Association, message: Message) -> None:
        message.read(1000)
        begun.set()
        go_on.wait(20)
        association.send(message.context.id, message.command.response(0x0000))

    archive = serve(find=find)
    port = archive.port
    with Peer(port) as peer:
        peer.associate()
        peer.send(find_rq())
        assert begun.wait(10)
        done: list[bool] = []
        drain = threading.Thread(target=lambda: done.append(archive.server.drain(30)))
        drain.start()
        time.sleep(0.1)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port)).close()
        go_on.set()
        assert peer.status() == 0x0000
        peer.release()
        drain.join(20)
    assert done == [True]


def test_draining_is_bounded_and_stopping_aborts_the_rest(serve: Serve) -> None:
    """Busy and idle peers get an A-ABORT; the running operation is cancelled."""
    reasons: list[str | None] = []

    def find(association: Association, message: Message) -> None:
        message.read(1000)
        stop = threading.Event()
        with association.operation(message) as cancellation:
            try:
                with cancellation.interrupting(stop.set):
                    stop.wait(30)
            finally:
                reasons.append(cancellation.reason)

    archive = serve(find=find)
    amid, idle = waiting(archive)
    eventually(lambda: archive.server.associations == 2)
    time.sleep(0.1)
    assert archive.server.drain(0.2) is False
    archive.server.stop()
    assert sorted(archive.ended_by(2)) == ["aborted here", "aborted here"]
    assert amid.aborted() == (0, 0)
    assert idle.aborted() == (0, 0)
    assert reasons == ["aborted here"]
    assert not [each for each in threading.enumerate() if each.name in ("pacs-accept", "pacs-association")]
    for each in (amid, idle):
        each.socket.close()


def test_stopping_twice_is_stopping(serve: Serve) -> None:
    """Also for a server that was never started."""
    archive = serve()
    archive.server.stop()
    archive.server.stop()
