"""A peer that writes its PDUs byte by byte, valid or invalid. It shares no code with the server."""

import socket
import struct
from types import TracebackType
from typing import Self

from tests.raw import EXPLICIT, IMPLICIT, command_set, element, item, items
from tests.raw import contexts as contexts_of  # noqa: F401  # for the tests beside this file
from tests.raw import elements as parse
from tests.raw import us as number

VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG = "1.2.840.10008.1.2.4.50"

RQ, AC, RJ, DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
COMMAND, DATA_SET, LAST = 1, 0, 2

ALL = ((VERIFICATION, (IMPLICIT,)), (CT, (EXPLICIT, IMPLICIT)), (STUDY_FIND, (IMPLICIT,)))
ECHO_CONTEXT, CT_CONTEXT, FIND_CONTEXT = 1, 3, 5


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """Return a PDU; `length` may differ from that of its body."""
    return struct.pack(">BxL", kind, len(body) if length is None else length) + body


def context_item(context_id: int, abstract: str, transfer: tuple[str, ...]) -> bytes:
    """Return the item of a proposed presentation context."""
    syntaxes = b"".join(item(0x40, each.encode()) for each in transfer)
    return item(0x20, bytes([context_id, 0, 0, 0]) + item(0x30, abstract.encode()) + syntaxes)


def user_information(max_pdu: int = 16384, *more: bytes) -> bytes:
    """Return the User Information item with a maximum length and further sub-items."""
    return item(0x50, item(0x51, struct.pack(">L", max_pdu)) + item(0x52, b"1.2.3.4") + b"".join(more))


def associate_rq(
    contexts: tuple[tuple[str, tuple[str, ...]], ...] = ALL,
    *,
    called: str = "PACS",
    calling: str = "RAW",
    application_context: str = "1.2.840.10008.3.1.1.1",
    version: int = 1,
    information: bytes | None = None,
    more: bytes = b"",
) -> bytes:
    """Return an A-ASSOCIATE-RQ with context IDs 1, 3, 5, ..."""
    proposed = b"".join(context_item(2 * n + 1, *each) for n, each in enumerate(contexts))
    fixed = struct.pack(">Hxx", version) + called.ljust(16).encode() + calling.ljust(16).encode() + bytes(32)
    items = item(0x10, application_context.encode()) + proposed + (information or user_information()) + more
    return pdu(RQ, fixed + items)


def pdv(context_id: int, control: int, data: bytes, length: int | None = None) -> bytes:
    """Return a Presentation Data Value; `length` may be wrong."""
    return struct.pack(">LBB", len(data) + 2 if length is None else length, context_id, control) + data


def p_data(*pdvs: bytes) -> bytes:
    """Return a P-DATA-TF."""
    return pdu(DATA, b"".join(pdvs))


def uid(tag: int, value: str) -> bytes:
    """Return a UI element of group 0000."""
    return element(tag, value.encode() + b"\0" * (len(value) % 2))


def command(sop_class: str, field: int, message_id: int = 1, *, data_set: bool = False, more: bytes = b"") -> bytes:
    """Return the command set of a request."""
    body = uid(0x0002, sop_class) + number(0x0100, field) + number(0x0110, message_id)
    body += number(0x0700, 0) + number(0x0800, 0x0001 if data_set else 0x0101) + more
    return command_set([body])


def echo_rq(message_id: int = 1) -> bytes:
    """Return a whole C-ECHO-RQ as one P-DATA-TF."""
    return p_data(pdv(ECHO_CONTEXT, COMMAND | LAST, command(VERIFICATION, 0x0030, message_id)))


def find_rq(message_id: int = 1, identifier: bytes = b"\x08\x00\x52\x00\x06\x00\x00\x00STUDY ") -> bytes:
    """Return a whole C-FIND-RQ as one P-DATA-TF of two PDVs."""
    return p_data(
        pdv(FIND_CONTEXT, COMMAND | LAST, command(STUDY_FIND, 0x0020, message_id, data_set=True)),
        pdv(FIND_CONTEXT, DATA_SET | LAST, identifier),
    )


def cancel_rq(message_id: int = 1) -> bytes:
    """Return a C-CANCEL-RQ as one P-DATA-TF."""
    body = number(0x0100, 0x0FFF) + number(0x0120, message_id) + number(0x0800, 0x0101)
    return p_data(pdv(FIND_CONTEXT, COMMAND | LAST, command_set([body])))


def store_rq(message_id: int = 1, instance: str = "1.2.3") -> bytes:
    """Return the command of a C-STORE-RQ; its data set must follow."""
    encoded = command(CT, 0x0001, message_id, data_set=True, more=uid(0x1000, instance))
    return p_data(pdv(CT_CONTEXT, COMMAND | LAST, encoded))


class Peer:
    """A TCP connection to the server, driven by hand."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((host, port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.socket.close()

    def send(self, *pdus: bytes) -> None:
        """Write PDUs in one packet, if they fit."""
        self.socket.sendall(b"".join(pdus))

    def read(self, count: int) -> bytes:
        """Return exactly so many bytes, fewer only at the end of the connection."""
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                break
            data += more
        return data

    def receive(self) -> tuple[int, bytes]:
        """Return type and body of the next PDU; (0, b'') when the connection was closed."""
        head = self.read(6)
        if len(head) < 6:
            return 0, b""
        kind, length = struct.unpack(">BxL", head)
        return kind, self.read(length)

    def associate(self, **options: object) -> bytes:
        """Associate and return the body of the A-ASSOCIATE-AC."""
        self.send(associate_rq(**options))  # type: ignore[arg-type]
        kind, body = self.receive()
        assert kind == AC, f"PDU {kind} came instead of an A-ASSOCIATE-AC"
        return body

    def response(self) -> dict[int, bytes]:
        """Return the command elements of the next response, raw, by element number; its data set is under 0xFFFF."""
        elements, data, kept = {}, b"", b""
        while True:
            kind, body = self.receive()
            assert kind == DATA, f"PDU {kind} came instead of a P-DATA-TF"
            while body:
                length, _, control = struct.unpack_from(">LBB", body)
                fragment, body = body[6 : 4 + length], body[4 + length :]
                if not control & COMMAND:
                    data += fragment
                    if control & LAST:
                        return elements | {0xFFFF: data}
                    continue
                kept += fragment
                if control & LAST:
                    elements = parse(kept)
                    if elements[0x0800] == b"\x01\x01":
                        return elements

    def status(self) -> int:
        """Return the status of the next response."""
        value: int = struct.unpack("<H", self.response()[0x0900])[0]
        return value

    def release(self) -> None:
        """Release, and check that the connection is closed in order."""
        self.send(pdu(RELEASE_RQ, bytes(4)))
        assert self.receive()[0] == RELEASE_RP
        self.socket.shutdown(socket.SHUT_WR)
        assert self.receive() == (0, b"")

    def aborted(self) -> tuple[int, int]:
        """Return source and reason of the A-ABORT that must come next; other data of a response may precede it."""
        kind, body = self.receive()
        while kind == DATA:
            kind, body = self.receive()
        assert kind == ABORT, f"PDU {kind} came instead of an A-ABORT"
        return body[2], body[3]


def information_of(accept: bytes) -> list[tuple[int, bytes]]:
    """Return the sub-items of the User Information in the body of an A-ASSOCIATE-AC."""
    return [each for kind, body in items(accept[68:]) if kind == 0x50 for each in items(body)]
