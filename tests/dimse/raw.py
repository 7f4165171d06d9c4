"""The PDUs that tests of the server's association send, right and wrong ones."""

import socket
from collections.abc import Iterable, Sequence

from pacs.conformance.checks import wire
from pacs.conformance.checks.wire import VERIFICATION
from pacs.conformance.checks.wire import presentation_context as context_item  # noqa: F401  # for the tests
from tests import raw
from tests.raw import (  # noqa: F401  # for the tests
    EXPLICIT,
    IMPLICIT,
    ConnectionClosed,
    Raw,
    command_set,
    element,
    item,
    items,
    pdu,
)
from tests.raw import contexts as contexts_of  # noqa: F401  # for the tests
from tests.raw import us as number

CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG = "1.2.840.10008.1.2.4.50"

RQ, AC, RJ, DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
COMMAND, DATA_SET, LAST = wire.COMMAND, 0, wire.LAST

ALL = ((VERIFICATION, (IMPLICIT,)), (CT, (EXPLICIT, IMPLICIT)), (STUDY_FIND, (IMPLICIT,)))
ECHO_CONTEXT, CT_CONTEXT, FIND_CONTEXT = 1, 3, 5

pdv = wire.pdv
user_information = wire.user_information


def associate_rq(
    contexts: Iterable[tuple[str, Sequence[str]]] = ALL,
    *,
    called: str = "PACS",
    calling: str = "RAW",
    information: bytes | None = None,
    more: bytes = b"",
    **options: object,
) -> bytes:
    """Return an A-ASSOCIATE-RQ with context IDs 1, 3, 5, ...; `options` are those of `wire.associate_rq`."""
    numbered = [(2 * place + 1, *each) for place, each in enumerate(contexts)]
    user = (information or user_information()) + more
    return wire.associate_rq(numbered, called=called, calling=calling, user=user, **options)


def p_data(*pdvs: bytes) -> bytes:
    """Return a P-DATA-TF."""
    return pdu(DATA, b"".join(pdvs))


def uid(tag: int, value: str) -> bytes:
    """Return a UI element of group 0000."""
    return element(tag, value.encode())


def command(sop_class: str, field: int, message_id: int = 1, *, data_set: bool = False, more: bytes = b"") -> bytes:
    """Return the command set of a request."""
    body = uid(0x0002, sop_class) + number(0x0100, field) + number(0x0110, message_id)
    body += number(0x0700, 0) + number(0x0800, wire.DATA_SET if data_set else wire.NO_DATA_SET) + more
    return command_set([body])


def echo_rq(message_id: int = 1) -> bytes:
    """Return a C-ECHO-RQ as one P-DATA-TF."""
    return p_data(pdv(ECHO_CONTEXT, COMMAND | LAST, command(VERIFICATION, 0x0030, message_id)))


def find_rq(message_id: int = 1, identifier: bytes = b"\x08\x00\x52\x00\x06\x00\x00\x00STUDY ") -> bytes:
    """Return a C-FIND-RQ as one P-DATA-TF of two PDVs."""
    return p_data(
        pdv(FIND_CONTEXT, COMMAND | LAST, command(STUDY_FIND, 0x0020, message_id, data_set=True)),
        pdv(FIND_CONTEXT, DATA_SET | LAST, identifier),
    )


def cancel_rq(message_id: int = 1) -> bytes:
    """Return a C-CANCEL-RQ as one P-DATA-TF."""
    return raw.cancel(FIND_CONTEXT, message_id)


def store_rq(message_id: int = 1, instance: str = "1.2.3") -> bytes:
    """Return the command set of a C-STORE-RQ, whose data set is to follow, as one P-DATA-TF."""
    encoded = command(CT, 0x0001, message_id, data_set=True, more=uid(0x1000, instance))
    return p_data(pdv(CT_CONTEXT, COMMAND | LAST, encoded))


class Peer(Raw):
    """A connection to the server on which tests send PDUs one by one."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        super().__init__(port, timeout=10, host=host)

    def receive(self) -> tuple[int, bytes]:
        """Read a PDU; return its type and body, or (0, b'') when the connection was closed instead."""
        try:
            return self.pdu()
        except ConnectionClosed:
            return 0, b""

    def associate(self, **options: object) -> bytes:
        """Associate, and return the body of the A-ASSOCIATE-AC."""
        self.send(associate_rq(**options))
        kind, body = self.receive()
        assert kind == AC, f"PDU {kind} instead of an A-ASSOCIATE-AC"
        return body

    def response(self) -> dict[int, bytes]:
        """Read a response; return its command elements by element number, and its data set under 0xFFFF."""
        message = self.message()
        return message.elements if message.data is None else message.elements | {0xFFFF: message.data}

    def status(self) -> int:
        """Read a response; return its status."""
        return self.message().status

    def release(self) -> None:
        """Release the association, and see the server close the connection."""
        super().release()
        self.socket.shutdown(socket.SHUT_WR)
        assert self.receive() == (0, b"")

    def aborted(self) -> tuple[int, int]:
        """Read up to an A-ABORT, past P-DATA-TF; return its source and reason."""
        kind, body = self.receive()
        while kind == DATA:
            kind, body = self.receive()
        assert kind == ABORT, f"PDU {kind} instead of an A-ABORT"
        return body[2], body[3]


def information_of(accept: bytes) -> list[tuple[int, bytes]]:
    """Return the user information sub-items in the body of an A-ASSOCIATE-AC."""
    return [each for kind, body in items(accept[68:]) if kind == 0x50 for each in items(body)]
