"""Violations of the protocol by acceptors, move destinations and senders: each is named, with the side at fault.

Those of requestors: test_upper_layer.py.
"""

import socket
from pathlib import Path

import pytest

from pacs import client
from pacs.errors import AssociationLost
from pacs.observability.events import SubOperationFinished
from pacs.testing import serving, study
from tests.archives import take_in
from tests.dimse import raw
from tests.dimse.raw import COMMAND, EXPLICIT, LAST, VERIFICATION, Peer, p_data, pdu, pdv
from tests.dimse.test_requestor import HOST, accepting, acceptor, read_pdu, until_closed
from tests.dimse.test_retrieve import move


def responding(field: int, number: int, code: int = 0) -> bytes:
    """Return a response to message `number` on the first context, as one P-DATA-TF."""
    body = raw.uid(2, VERIFICATION) + raw.number(0x100, field) + raw.number(0x120, number)
    return p_data(pdv(1, COMMAND | LAST, body + raw.number(0x800, 0x0101) + raw.number(0x900, code)))


VIOLATIONS = {
    "C-ECHO-RSP of the acceptor: (0000,0120) Message ID 7 came where 1 was due": responding(0x8030, 7),
    "C-FIND-RSP of the acceptor: it came where a C-ECHO-RSP was due": responding(0x8020, 1),
    "C-ECHO-RSP of the acceptor: (0000,0900) Status is Pending (FF00), and the operation has no Pending responses": (
        responding(0x8030, 1, 0xFF00)
    ),
    "P-DATA-TF of the acceptor: PDV of a command set is in presentation context 9, which was not accepted: 09 03": (
        p_data(pdv(9, COMMAND | LAST, b""))
    ),
    "A-ASSOCIATE-RJ of the acceptor: it is unexpected: 03 00 00 00 00 04": pdu(raw.RJ, bytes(4)),
}


@pytest.mark.parametrize("what", VIOLATIONS)
def test_p18_a_violation_of_the_acceptor_is_named(what: str) -> None:
    """By the exception of the requestor, with the side at fault."""

    def behave(connection: socket.socket) -> None:
        accepting(connection)
        read_pdu(connection)
        connection.sendall(VIOLATIONS[what])
        until_closed(connection)

    with acceptor(behave) as port, pytest.raises(AssociationLost) as lost:
        client.echo(client.Peer("THEIRS", HOST, port))
    assert f": protocol violation; {what}" in lost.value.comment


def test_p18_a_violation_of_a_move_destination_is_in_the_log(tmp_path: Path) -> None:
    """In the line of the sub-operation that failed."""

    def behave(connection: socket.socket) -> None:
        accepting(connection, transfer=EXPLICIT)
        while read_pdu(connection)[1][5] != LAST:
            pass
        connection.sendall(responding(0x8001, 9))
        until_closed(connection)

    comments = []
    datasets = study(series=1, instances=1)
    with acceptor(behave) as port:
        settings = {"peers": [{"ae_title": "THEIRS", "host": HOST, "port": port}]}
        with serving(tmp_path, settings) as archive:
            archive.events.subscribe(
                lambda event: comments.append(event.comment) if isinstance(event, SubOperationFinished) else None
            )
            take_in(archive, datasets)
            move(archive, "THEIRS", StudyInstanceUID=datasets[0].StudyInstanceUID)
    assert "C-STORE-RSP of the acceptor: (0000,0120) Message ID 9 came where 1 was due" in comments[0]


def test_p18_a_violation_of_a_sender_is_in_the_log_of_the_client(tmp_path: Path, caplog) -> None:
    """Of a receiver, for a PDU that is none and for a message that is none."""
    with client.receiving(tmp_path) as receiver:
        for sent in (b"", b"GET / HTTP/1.1\r\n\r\n"):
            with Peer(receiver.port) as peer:
                if not sent:
                    peer.associate(called="PACSCU")
                peer.send(sent or p_data(pdv(9, COMMAND | LAST, b"")))
                peer.aborted()
    assert "PDV of a command set is in presentation context 9, which was not accepted: 09 03" in caplog.text
    assert "PDU of the requestor: its type 47 is none of PS3.8" in caplog.text
