"""A DICOM client of bytes on a socket, which shares no code with the server and obeys nothing it does not want to."""

import socket as sockets
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

PIECE = 65536
"""Bytes of a data set that are sent in one PDU."""

C_STORE, C_GET, C_FIND, C_MOVE, C_ECHO, C_CANCEL = 0x0001, 0x0010, 0x0020, 0x0021, 0x0030, 0x0FFF


def item(kind: int, body: bytes) -> bytes:
    """An item or sub-item of an A-ASSOCIATE PDU."""
    return struct.pack(">BxH", kind, len(body)) + body


def pdu(kind: int, body: bytes) -> bytes:
    """A PDU of this type around a body."""
    return struct.pack(">BxL", kind, len(body)) + body


def associate_rq(
    contexts: Sequence[tuple[int, str, Sequence[str]]],
    *,
    calling: str = "RAW",
    called: str = "PACS",
    max_pdu: int = 16384,
    extra: bytes = b"",
    version: int = 1,
    application: str = APPLICATION_CONTEXT,
) -> bytes:
    """An A-ASSOCIATE-RQ PDU; `contexts` are (ID, abstract syntax, transfer syntaxes), `extra` are user sub-items."""
    body = struct.pack(">HH", version, 0) + called.encode().ljust(16) + calling.encode().ljust(16) + bytes(32)
    body += item(0x10, application.encode())
    for number, abstract, syntaxes in contexts:
        inner = item(0x30, abstract.encode()) + b"".join(item(0x40, each.encode()) for each in syntaxes)
        body += item(0x20, struct.pack(">Bxxx", number) + inner)
    user = item(0x51, struct.pack(">L", max_pdu)) + item(0x52, b"1.2.826.0.1.3680043.8.498.1") + extra
    return pdu(0x01, body + item(0x50, user))


def element(tag: int, value: bytes) -> bytes:
    """A command element."""
    padded = value + b"\0" * (len(value) % 2)
    return struct.pack("<HHL", 0, tag, len(padded)) + padded


def us(tag: int, value: int) -> bytes:
    """A command element of VR US."""
    return element(tag, struct.pack("<H", value))


def command_set(elements: Iterable[bytes]) -> bytes:
    """A command set of elements, with its group length."""
    body = b"".join(elements)
    return element(0x0000, struct.pack("<L", len(body))) + body


def pdv(context: int, data: bytes, *, command: bool, last: bool = True) -> bytes:
    """A P-DATA-TF PDU of one PDV."""
    header = (1 if command else 0) | (2 if last else 0)
    return pdu(0x04, struct.pack(">LBB", len(data) + 2, context, header) + data)


def encoded(dataset: Dataset, syntax: str = IMPLICIT) -> bytes:
    """A data set in implicit or explicit VR little endian."""
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, syntax == IMPLICIT
    write_dataset(out, dataset)
    return out.getvalue()


def request(
    kind: int, context: int, sop_class: str, message_id: int, data: bytes | None, extra: Iterable[bytes] = ()
) -> bytes:
    """The PDUs of a request, its data set in pieces that every server of the tests takes."""
    elements = [
        element(0x0002, sop_class.encode()),
        us(0x0100, kind),
        us(0x0110, message_id),
        us(0x0700, 0),
        us(0x0800, 0x0101 if data is None else 1),
        *extra,
    ]
    sent = [pdv(context, command_set(elements), command=True)]
    if data is not None:
        starts = range(0, len(data), PIECE) or [0]
        sent += [pdv(context, data[at : at + PIECE], command=False, last=at + PIECE >= len(data)) for at in starts]
    return b"".join(sent)


def success(context: int, command: dict[int, bytes]) -> bytes:
    """The PDU of a response to a request, without a data set, whose status is Success."""
    kind, message_id = (struct.unpack("<H", command[tag])[0] for tag in (0x0100, 0x0110))
    elements = [
        element(0x0002, command[0x0002]),
        us(0x0100, kind | 0x8000),
        us(0x0120, message_id),
        us(0x0800, 0x0101),
        us(0x0900, 0),
        element(0x1000, command[0x1000]),
    ]
    return pdv(context, command_set(elements), command=True)


def cancel(context: int, message_id: int) -> bytes:
    """The PDU of a C-CANCEL-RQ."""
    elements = [us(0x0100, C_CANCEL), us(0x0120, message_id), us(0x0800, 0x0101)]
    return pdv(context, command_set(elements), command=True)


@dataclass
class Response:
    """A DIMSE message that came: its command elements by number, its data set's bytes and its presentation context."""

    elements: dict[int, bytes]
    data: bytes | None = None
    context: int = 0

    def number(self, tag: int) -> int | None:
        """A US element, None when it is not there."""
        return struct.unpack("<H", self.elements[tag])[0] if tag in self.elements else None

    def text(self, tag: int) -> str:
        """A text element without padding."""
        return self.elements.get(tag, b"").decode("latin-1").strip(" \0")

    @property
    def status(self) -> int:
        """The Status (0000,0900)."""
        found = self.number(0x0900)
        assert found is not None
        return found

    def dataset(self, syntax: str = IMPLICIT) -> Dataset:
        """The data set, decoded by pydicom."""
        return read_dataset(BytesIO(self.data or b""), syntax == IMPLICIT, True)


@dataclass
class Raw:
    """A connection to a server on this machine, from one of its addresses."""

    port: int
    timeout: float = 20
    source: str = "127.0.0.1"
    socket: sockets.socket = field(init=False)

    def __post_init__(self) -> None:
        self.socket = sockets.create_connection(("127.0.0.1", self.port), self.timeout, (self.source, 0))
        self.socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def send(self, *data: bytes) -> None:
        """Send bytes, in one packet as far as they fit."""
        self.socket.sendall(b"".join(data))

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes; raises ConnectionError when the server closes before."""
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("closed by the server")
            data += piece
        return data

    def pdu(self) -> tuple[int, bytes]:
        """The next PDU: its type and body."""
        kind, length = struct.unpack(">BxL", self.read(6))
        return kind, self.read(length)

    def associate(self, *contexts: tuple[int, str, Sequence[str]], **options: object) -> bytes:
        """Associate; the body of the A-ASSOCIATE-AC. Anything else fails the test."""
        self.send(associate_rq(contexts, **options))  # type: ignore[arg-type]
        kind, body = self.pdu()
        assert kind == 0x02, (kind, body)
        return body

    def message(self) -> Response:
        """The next DIMSE message."""
        return next(messages(self._values()))

    def _values(self) -> Iterator[bytes]:
        """The bodies of P-DATA-TF PDUs that come; anything else fails the test."""
        while True:
            kind, body = self.pdu()
            assert kind == 0x04, (kind, body)
            yield body

    def until_final(self) -> list[Response]:
        """The messages up to one whose status is not Pending."""
        found = [self.message()]
        while found[-1].status in (0xFF00, 0xFF01):
            found.append(self.message())
        return found

    def release(self) -> None:
        """Release, and expect the answer."""
        self.send(pdu(0x05, bytes(4)))
        assert self.pdu()[0] == 0x06


def pdvs(body: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The PDVs in the body of a P-DATA-TF PDU: context ID, message control header and fragment."""
    while body:
        length, context, header = struct.unpack_from(">LBB", body)
        yield context, header, body[6 : 4 + length]
        body = body[4 + length :]


def messages(bodies: Iterable[bytes]) -> Iterator[Response]:
    """The DIMSE messages in the bodies of P-DATA-TF PDUs that one side of an association sent."""
    fragments: list[bytes] = []
    message = Response({})
    for context, header, fragment in (each for body in bodies for each in pdvs(body)):
        fragments.append(fragment)
        if not header & 2:
            continue
        whole, fragments = b"".join(fragments), []
        if header & 1:
            message = Response(elements(whole), context=context)
        else:
            message.data = whole
        if not header & 1 or message.number(0x0800) == 0x0101:
            yield message


def items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The items or sub-items of an A-ASSOCIATE PDU: their types and bodies."""
    while data:
        kind, length = struct.unpack_from(">BxH", data)
        yield kind, data[4 : 4 + length]
        data = data[4 + length :]


def contexts(accept: bytes) -> dict[int, tuple[int, str]]:
    """The answers in the body of an A-ASSOCIATE-AC by context ID: result (PS3.8 Table 9-18) and transfer syntax."""
    answers = [body for kind, body in items(accept[68:]) if kind == 0x21]
    return {body[0]: (body[2], next(items(body[4:]))[1].decode().strip("\0")) for body in answers}


def elements(data: bytes) -> dict[int, bytes]:
    """The elements of a command set by element number."""
    found, offset = {}, 0
    while offset < len(data):
        _, tag, length = struct.unpack_from("<HHL", data, offset)
        found[tag] = data[offset + 8 : offset + 8 + length]
        offset += 8 + length
    return found
