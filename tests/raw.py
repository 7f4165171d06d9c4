"""A DICOM client that writes PDUs as bytes, so that tests can also send what the standard forbids.

The codec is that of the conformance checks, which shares no code with the server.
"""

import socket as sockets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pacs.conformance.checks import wire
from pacs.conformance.checks.wire import (  # noqa: F401  # for the tests
    APPLICATION_CONTEXT,
    C_CANCEL,
    C_ECHO,
    C_FIND,
    C_GET,
    C_MOVE,
    C_STORE,
    EXPLICIT,
    IMPLICIT,
    AssociateAccept,
    DimseMessage,
    MessageAssembler,
    encoded,
    item,
    items,
    pdu,
    pdus,
    pdvs,
)
from pacs.conformance.checks.wire import command_element as element
from pacs.conformance.checks.wire import command_element as us

PIECE = 65536
"""Bytes of a data set in one PDU; every server of the tests accepts such PDUs."""

Response = DimseMessage


def associate_rq(
    contexts: Sequence[tuple[int, str, Sequence[str]]],
    *,
    calling: str = "RAW",
    called: str = "PACS",
    max_pdu: int = 16384,
    extra: bytes = b"",
    **options: object,
) -> bytes:
    """Return an A-ASSOCIATE-RQ; `extra` are user information sub-items, `options` those of `wire.associate_rq`."""
    user = wire.user_information(max_pdu, extra)
    return wire.associate_rq(contexts, calling=calling, called=called, user=user, **options)


def contexts(accept: bytes) -> dict[int, tuple[int, str]]:
    """Return result and transfer syntax by context ID from the body of an A-ASSOCIATE-AC."""
    return AssociateAccept.decode(accept).results


def command_set(elements: Iterable[bytes]) -> bytes:
    """Return a command set of encoded elements, in their order."""
    return wire.with_group_length(b"".join(elements))


def pdv(context: int, data: bytes, *, command: bool, last: bool = True) -> bytes:
    """Return a P-DATA-TF PDU of one PDV."""
    return wire.fragment(context, command * wire.COMMAND | last * wire.LAST, data)


def request(
    kind: int, context: int, sop_class: str, message_id: int, data: bytes | None, extra: Iterable[bytes] = ()
) -> bytes:
    """Return the PDUs of a request; `extra` are further command elements."""
    elements = [
        element(0x0002, sop_class.encode()),
        us(0x0100, kind),
        us(0x0110, message_id),
        us(0x0700, 0),
        us(0x0800, wire.NO_DATA_SET if data is None else wire.DATA_SET),
        *extra,
    ]
    sent = pdv(context, command_set(elements), command=True)
    return sent if data is None else sent + wire.fragments(context, 0, data, PIECE + 6)


def success(context: int, command: dict[int, bytes]) -> bytes:
    """Return the PDU of a response with Success to a request with these command elements."""
    return pdv(context, wire.command_set(DimseMessage(command).response(0)), command=True)


def cancel(context: int, message_id: int) -> bytes:
    """Return the PDU of a C-CANCEL-RQ."""
    elements = {wire.FIELD: C_CANCEL, wire.RESPONDING_TO: message_id, wire.DATA_SET_TYPE: wire.NO_DATA_SET}
    return pdv(context, wire.command_set(elements), command=True)


def messages(bodies: Iterable[bytes]) -> Iterator[DimseMessage]:
    """Yield the DIMSE messages in the bodies of P-DATA-TF PDUs of one side of an association."""
    assembler = MessageAssembler()
    for body in bodies:
        found = (assembler.add(*each) for each in pdvs(body))
        yield from (each for each in found if each is not None)


class ConnectionClosed(ConnectionError):
    """The server closed the connection where a PDU was expected."""


@dataclass
class Raw:
    """A connection to a server; `source` is the address of this end."""

    port: int
    timeout: float = 20
    source: str = ""
    host: str = "127.0.0.1"
    socket: sockets.socket = field(init=False)

    def __post_init__(self) -> None:
        self.socket = sockets.create_connection((self.host, self.port), self.timeout, (self.source, 0))
        self.socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        self._assembler = MessageAssembler()
        self._ready: list[DimseMessage] = []

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def send(self, *data: bytes) -> None:
        """Send bytes with one system call."""
        self.socket.sendall(b"".join(data))

    def read(self, count: int) -> bytes:
        """Read exactly `count` bytes. Raises ConnectionClosed."""
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionClosed("closed by the server")
            data += piece
        return data

    def pdu(self) -> tuple[int, bytes]:
        """Read a PDU; return its type and body."""
        head = self.read(6)
        return head[0], self.read(int.from_bytes(head[2:], "big"))

    def associate(self, *contexts: tuple[int, str, Sequence[str]], **options: object) -> bytes:
        """Associate, and return the body of the A-ASSOCIATE-AC. Any other answer fails the test."""
        self.send(associate_rq(contexts, **options))  # type: ignore[arg-type]
        kind, body = self.pdu()
        assert kind == wire.ASSOCIATE_AC, (kind, body)
        return body

    def message(self) -> DimseMessage:
        """Read a DIMSE message; any PDU but P-DATA-TF fails the test."""
        while not self._ready:
            kind, body = self.pdu()
            assert kind == wire.P_DATA, f"PDU {kind} instead of a P-DATA-TF: {body!r}"
            found = (self._assembler.add(*each) for each in pdvs(body))
            self._ready += [each for each in found if each is not None]
        return self._ready.pop(0)

    def until_final(self) -> list[DimseMessage]:
        """Read the responses up to the first one that is not Pending."""
        found = [self.message()]
        while found[-1].is_pending:
            found.append(self.message())
        return found

    def release(self) -> None:
        """Release the association."""
        self.send(pdu(wire.RELEASE_RQ, bytes(4)))
        assert self.pdu()[0] == wire.RELEASE_RP
