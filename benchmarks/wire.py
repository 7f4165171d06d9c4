"""The bytes of PS3.8 PDUs and PS3.7 messages, as far as the benchmark's client, sink and limit need them."""

import socket as sockets
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence

from pydicom.datadict import tag_for_keyword

VERIFICATION = "1.2.840.10008.1.1"
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED_LITTLE = "1.2.840.10008.1.2.1.99"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"

ASSOCIATE_RQ, ASSOCIATE_AC, P_DATA, RELEASE_RQ, RELEASE_RP = 0x01, 0x02, 0x04, 0x05, 0x06
C_STORE_RQ, C_FIND_RQ, C_MOVE_RQ, RESPONSE = 0x0001, 0x0020, 0x0021, 0x8000
PENDING = (0xFF00, 0xFF01)

NO_DATA_SET, DATA_SET = 0x0101, 0x0001

MAX_PDU = 131_072
"""The longest P-DATA-TF that our client, sink and limit take, in bytes."""

Context = tuple[str, Sequence[str]]
"""A proposed abstract syntax with its transfer syntaxes; the IDs are 1, 3, 5, ... in their order."""


def acknowledge_at_once(socket: sockets.socket) -> None:
    """Delay no acknowledgement; the kernel forgets this wish, so it is made again and again."""
    if sys.platform == "linux":
        socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_QUICKACK, 1)


# --- associations ------------------------------------------------------------------------------------------------


def pdu(kind: int, body: bytes) -> bytes:
    """A PDU of this type."""
    return struct.pack(">BxL", kind, len(body)) + body


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def _user_information() -> bytes:
    return _item(0x50, _item(0x51, struct.pack(">L", MAX_PDU)) + _item(0x52, b"2.25.77"))


def associate_rq(called: str, contexts: Sequence[Context]) -> bytes:
    """An A-ASSOCIATE-RQ that proposes contexts."""
    body = struct.pack(">Hxx", 1) + called.encode().ljust(16) + b"BENCHMARK".ljust(16) + bytes(32)
    body += _item(0x10, b"1.2.840.10008.3.1.1.1")
    for place, (abstract, transfers) in enumerate(contexts):
        names = _item(0x30, abstract.encode()) + b"".join(_item(0x40, each.encode()) for each in transfers)
        body += _item(0x20, struct.pack(">Bxxx", 2 * place + 1) + names)
    return pdu(ASSOCIATE_RQ, body + _user_information())


def associate_ac(request: bytes) -> bytes:
    """The A-ASSOCIATE-AC that accepts all a request's body proposes, explicit VR little endian where it may choose."""
    body = request[:68] + _item(0x10, b"1.2.840.10008.3.1.1.1")
    for kind, value in items(request[68:]):
        if kind == 0x20:
            proposed = [name for inner, name in items(value[4:]) if inner == 0x40]
            explicit = EXPLICIT_LITTLE.encode()
            chosen = explicit if explicit in proposed else proposed[0]
            body += _item(0x21, struct.pack(">Bxxx", value[0]) + _item(0x40, chosen))
    return pdu(ASSOCIATE_AC, body + _user_information())


def items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The items or sub-items of an A-ASSOCIATE PDU: their types and bodies."""
    while data:
        kind, length = struct.unpack_from(">BxH", data)
        yield kind, data[4 : 4 + length]
        data = data[4 + length :]


def accepted(answer: bytes) -> list[int]:
    """The context IDs that the body of an A-ASSOCIATE-AC accepts."""
    return [body[0] for kind, body in items(answer[68:]) if kind == 0x21 and body[2] == 0]


def longest_pdu(answer: bytes) -> int:
    """The longest P-DATA-TF that the sender of this A-ASSOCIATE body takes; ours where it takes any."""
    user = next(body for kind, body in items(answer[68:]) if kind == 0x50)
    length = next(struct.unpack(">L", body)[0] for kind, body in items(user) if kind == 0x51)
    return length or MAX_PDU


# --- messages ----------------------------------------------------------------------------------------------------


def command_set(elements: Mapping[int, int | str | bytes]) -> bytes:
    """A command set: numbers are of VR US, texts are UIDs, bytes stand as they are."""
    body = b"".join(_command_element(tag, value) for tag, value in elements.items())
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def _command_element(tag: int, value: int | str | bytes) -> bytes:
    encoded = (
        struct.pack("<H", value) if isinstance(value, int) else value.encode() if isinstance(value, str) else value
    )
    padded = encoded + b"\0" * (len(encoded) % 2)
    return struct.pack("<HHL", 0, tag, len(padded)) + padded


def p_data(context: int, data: bytes, *, command: bool, longest: int) -> bytes:
    """The P-DATA-TF PDUs of a command set or data set, one PDV each."""
    piece = longest - 6
    kind = 1 if command else 0
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)]
    last = len(pieces) - 1
    return b"".join(fragment(context, each, kind | (2 if at == last else 0)) for at, each in enumerate(pieces))


def fragment(context: int, data: bytes, header: int) -> bytes:
    """A P-DATA-TF PDU of one PDV with this message control header."""
    return struct.pack(">BxLLBB", P_DATA, len(data) + 6, len(data) + 2, context, header) + data


def store_command(sop_instance_uid: str, message_id: int) -> bytes:
    """The command set of a C-STORE-RQ of a CT image."""
    return command_set(
        {
            0x0002: CT_IMAGE_STORAGE,
            0x0100: C_STORE_RQ,
            0x0110: message_id,
            0x0700: 0,
            0x0800: DATA_SET,
            0x1000: sop_instance_uid,
        }
    )


def store_rq(context: int, sop_instance_uid: str, message_id: int, data: bytes, longest: int) -> bytes:
    """All PDUs of a C-STORE-RQ of a CT image."""
    command = p_data(context, store_command(sop_instance_uid, message_id), command=True, longest=longest)
    return command + p_data(context, data, command=False, longest=longest)


def query_rq(kind: int, context: int, model: str, keys: bytes, destination: str = "") -> bytes:
    """All PDUs of the first C-FIND-RQ or C-MOVE-RQ with an encoded Identifier."""
    elements: dict[int, int | str | bytes] = {0x0002: model, 0x0100: kind, 0x0110: 1}
    if destination:
        elements[0x0600] = destination.encode().ljust(len(destination) + len(destination) % 2)
    command = command_set(elements | {0x0700: 0, 0x0800: DATA_SET})
    return p_data(context, command, command=True, longest=MAX_PDU) + p_data(
        context, keys, command=False, longest=MAX_PDU
    )


def store_rsp(command: bytes) -> bytes:
    """The command set that answers a C-STORE-RQ's with success."""
    return command_set(
        {
            0x0002: value_of(command, 0x0002),
            0x0100: C_STORE_RQ | RESPONSE,
            0x0120: number_of(command, 0x0110),
            0x0800: NO_DATA_SET,
            0x0900: 0,
            0x1000: value_of(command, 0x1000),
        }
    )


def value_of(command: bytes, tag: int) -> bytes:
    """The value of an element of a command set. Raises KeyError."""
    at = 0
    while at < len(command):
        _, element, length = struct.unpack_from("<HHL", command, at)
        if element == tag:
            return command[at + 8 : at + 8 + length]
        at += 8 + length
    raise KeyError(f"the command has no (0000,{tag:04X})")


def number_of(command: bytes, tag: int) -> int:
    """The value of an element of VR US of a command set. Raises KeyError."""
    return int.from_bytes(value_of(command, tag), "little")


def pdvs(body: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The PDVs in the body of a P-DATA-TF: context ID, message control header, fragment."""
    at = 0
    while at < len(body):
        length, context, header = struct.unpack_from(">LBB", body, at)
        yield context, header, body[at + 6 : at + 4 + length]
        at += 4 + length


def identifier(level: str, keys: Mapping[str, str]) -> bytes:
    """An Identifier in implicit VR little endian; an empty value asks for what is there."""
    elements = []
    for keyword, value in {"QueryRetrieveLevel": level, **keys}.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        padded = value.encode() + (b"\0" if keyword.endswith("UID") else b" ") * (len(value) % 2)
        elements.append((tag, struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(padded)) + padded))
    return b"".join(element for _, element in sorted(elements))
