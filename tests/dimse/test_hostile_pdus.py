"""Hostile and broken clients below the messages: PDUs cut anywhere, and any number of connections."""

import socket
import struct
import threading
import time

import pytest
from pynetdicom.pdu_primitives import A_ASSOCIATE, A_RELEASE

from pacs.dicom.syntaxes import KEPT
from pacs.dimse.association.association import AssociationLimits
from pacs.dimse.association.establishment import CallingAE
from pacs.dimse.server.acceptor_policy import AcceptorPolicy
from pacs.dimse.server.association_slots import AssociationBounds
from pacs.dimse.server.server import MOST_UNASSOCIATED
from pacs.dimse.upper.upper_layer import UpperLayer
from pacs.dimse.upper.wire import RECEIVE_BUFFER
from pacs.observability.events import AssociationRequestRejected
from tests.dimse.conftest import Serve
from tests.dimse.raw import CT, DATA, EXPLICIT, RELEASE_RP, RELEASE_RQ, Peer, associate_rq, echo_rq, item, pdu


def established() -> tuple[socket.socket, UpperLayer]:
    """Return a peer's end of a TCP connection, and the upper layer of an association at our end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname(), timeout=10)
        upper = UpperLayer(listener.accept()[0], is_requestor=False, artim=1, max_pdu=1 << 17)
    peer.sendall(associate_rq())
    request = taken(upper)
    assert isinstance(request, A_ASSOCIATE)
    caller = CallingAE(ae_title="RAW", called_ae_title="PACS", address="127.0.0.1")
    answer = AcceptorPolicy(transfer_syntaxes=KEPT).answer(request, caller, 1 << 17)
    assert isinstance(answer, tuple)
    upper.accept(answer[0])
    assert upper.take() is None
    return peer, upper


def taken(upper: UpperLayer) -> object:
    """Return the next indication of the upper layer, within ten seconds."""
    deadline = time.monotonic() + 10
    while (found := upper.take()) is None and time.monotonic() < deadline:
        upper.wire.fill() or time.sleep(0.001)
    return found


@pytest.mark.parametrize("arrived", range(7))
def test_p6_a_header_at_the_end_of_the_buffer_is_read_whole(arrived: int) -> None:
    """A PDU is read however few bytes of its header fit at the end of the buffer."""
    peer, upper = established()
    with peer:
        first = pdu(DATA, bytes(1 << 17))
        second = pdu(DATA, bytes(RECEIVE_BUFFER - len(first) - 6 - arrived))
        release = pdu(RELEASE_RQ, bytes(4))
        peer.sendall(first + second + release)
        while len(upper.wire.available) < RECEIVE_BUFFER:
            upper.wire.fill()
        found = [taken(upper) for _ in range(3)]
    upper.wire.close()
    assert isinstance(found[2], A_RELEASE)


# --- association requests ----------------------------------------------------------------------------------------

ABSTRACT = item(0x30, CT.encode())
TRANSFER = item(0x40, EXPLICIT.encode())


def proposing(*inside: bytes) -> bytes:
    """Return an A-ASSOCIATE-RQ that proposes one context with these items, besides the usual ones."""
    return associate_rq(more=item(0x20, struct.pack(">Bxxx", 99) + b"".join(inside)))


@pytest.mark.parametrize(
    "request_pdu",
    [
        proposing(TRANSFER),
        proposing(ABSTRACT, ABSTRACT, TRANSFER),
        proposing(ABSTRACT, *[item(0x40, b"1.2.%d" % each) for each in range(5000)]),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["no abstract syntax", "two of them", "a storm of transfer syntaxes", "HTTP"],
)
def test_an_invalid_association_request_is_aborted_with_one_event(
    serve: Serve, request_pdu: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The peer gets an A-ABORT; the log has one event and no traceback."""
    archive = serve(limits=AssociationLimits(artim=0.2))
    with Peer(archive.port) as peer:
        peer.send(request_pdu)
        peer.aborted()
        with archive.ended:
            assert archive.ended.wait_for(lambda: archive.events, timeout=10)
    (event,) = archive.events
    assert isinstance(event, AssociationRequestRejected)
    assert event.comment.startswith("The requestor sent no valid association request; ")
    assert not [each for each in caplog.records if each.name == "pacs"]


# --- connections -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", associate_rq() + pdu(RELEASE_RQ, bytes(4))], ids=["silent", "released"])
def test_p7_connections_without_an_association_are_bounded_before_it_and_after_it(serve: Serve, said: bytes) -> None:
    """Only a limited number of connections has a thread, and the next peer is served."""
    before = threading.active_count()
    archive = serve(limits=AssociationLimits(artim=60.0, negotiation=60.0), bounds=AssociationBounds(in_all=5))
    peers = []
    try:
        for _ in range(MOST_UNASSOCIATED + 60):
            peers.append(socket.create_connection(("127.0.0.1", archive.port), timeout=10))
            peers[-1].sendall(said)
        with Peer(archive.port) as peer:
            peer.associate()
            peer.send(echo_rq())
            assert peer.status() == 0x0000
            assert threading.active_count() - before <= MOST_UNASSOCIATED + 10
    finally:
        for each in peers:
            each.close()


def test_p7_input_after_the_release_is_read_for_the_artim_time_only(
    serve: Serve,
) -> None:
    """Bytes behind the release do not keep the connection open: it is closed after the ARTIM time."""
    archive = serve(limits=AssociationLimits(artim=0.3))
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(pdu(RELEASE_RQ, bytes(4)))
        assert peer.receive()[0] == RELEASE_RP
        deadline = time.monotonic() + 10
        with pytest.raises(OSError):  # noqa: PT011  (which one is the system's choice)
            while time.monotonic() < deadline:
                peer.send(bytes(1 << 16))
