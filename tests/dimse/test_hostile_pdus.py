"""What hostile and broken clients do below the messages: PDUs cut anywhere, connections without end."""

import socket
import time

import pytest
from pynetdicom.pdu_primitives import A_ASSOCIATE, A_RELEASE

from pacs.dicom.syntaxes import KEPT
from pacs.dimse.negotiation import AcceptorPolicy
from pacs.dimse.upper_layer import UpperLayer
from pacs.dimse.wire import RECEIVE_BUFFER
from tests.dimse.raw import DATA, RELEASE_RQ, associate_rq, pdu


def established() -> tuple[socket.socket, UpperLayer]:
    """A peer's end of a TCP connection, and the upper layer of an association at our end of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname(), timeout=10)
        upper = UpperLayer(listener.accept()[0], is_requestor=False, artim=1, max_pdu=1 << 17)
    peer.sendall(associate_rq())
    request = taken(upper)
    assert isinstance(request, A_ASSOCIATE)
    answer = AcceptorPolicy(ae_title="PACS", transfer_syntaxes=KEPT).answer(request, "127.0.0.1", 1 << 17)
    assert isinstance(answer, tuple)
    upper.accept(answer[0])
    assert upper.take() is None
    return peer, upper


def taken(upper: UpperLayer) -> object:
    """The next thing the upper layer has to say, within ten seconds."""
    deadline = time.monotonic() + 10
    while (found := upper.take()) is None and time.monotonic() < deadline:
        upper.wire.fill() or time.sleep(0.001)
    return found


@pytest.mark.parametrize("arrived", range(7))
def test_p6_a_header_that_the_end_of_the_buffer_cuts_is_read_when_its_rest_comes(arrived: int) -> None:
    """However few bytes of a header fit behind what came before it, its PDU is understood and nobody waits in vain."""
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
