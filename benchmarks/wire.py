"""The messages that the benchmark's client, sink and limit send, made with the codec of the conformance checks."""

import socket as sockets
import struct
import sys
from collections.abc import Container, Iterable, Mapping, Sequence

from pydicom.datadict import tag_for_keyword

from pacs.conformance.checks import wire
from pacs.conformance.checks.wire import (
    C_STORE,
    COMMAND,
    DATA_SET,
    DATA_SET_TYPE,
    EXPLICIT,
    FIELD,
    LAST,
    MESSAGE_ID,
    NO_DATA_SET,
    PRIORITY,
    RESPONDING_TO,
    RESPONSE,
    SOP_CLASS,
    SOP_INSTANCE,
    STATUS,
    command_set,
    command_value,
)

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"

EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED_LITTLE = "1.2.840.10008.1.2.1.99"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"

TRANSFER_SYNTAXES_NOT_SUPPORTED = 4

MAX_PDU = 131_072
"""The longest P-DATA-TF that client, sink and limit accept, in bytes."""

FAR_WINDOW = "FARWINDOW"
"""The AE title by which the sink accepts an asynchronous operations window without limit."""

ProposedContext = tuple[str, Sequence[str]]
"""An abstract syntax with its transfer syntaxes; the IDs are 1, 3, 5, ... in their order."""


def acknowledge_at_once(socket: sockets.socket) -> None:
    """Send the next acknowledgements without delay; the kernel resets this option, so it is set after each read."""
    if sys.platform == "linux":
        socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_QUICKACK, 1)


def associate_rq(called: str, contexts: Sequence[ProposedContext], receives: Iterable[str] = ()) -> bytes:
    """Return an A-ASSOCIATE-RQ that proposes contexts, and the role of SCP for SOP Classes that it receives."""
    roles = dict.fromkeys(receives, (0, 1))
    return wire.AssociateRequest(contexts, called, "BENCHMARK", roles, max_pdu=MAX_PDU).encode()


def associate_ac(request: bytes, accepted: Container[str] | None = None) -> bytes:
    """Return the A-ASSOCIATE-AC that accepts all contexts of a request, preferably in explicit VR little endian.

    With `accepted` contexts without one of these transfer syntaxes are rejected.
    """
    window = [wire.item(0x53, bytes(4))] if request[4:20].strip() == FAR_WINDOW.encode() else []
    results = {}
    for kind, body in wire.items(request[68:]):
        if kind == 0x20:
            proposed = [wire.without_padding(name) for inner, name in wire.items(body[4:]) if inner == 0x40]
            usable = [each for each in proposed if accepted is None or each in accepted]
            result = 0 if usable else TRANSFER_SYNTAXES_NOT_SUPPORTED
            results[body[0]] = (result, EXPLICIT if EXPLICIT in usable else (usable or proposed)[0])
    return wire.associate_ac(request, results, *window, max_pdu=MAX_PDU)


def number_of(command: bytes, tag: int) -> int:
    """Return the value of an element of VR US of a command set. Raises KeyError."""
    return int.from_bytes(command_value(command, tag), "little")


def store_command(sop_instance_uid: str, message_id: int, sop_class: str = CT_IMAGE_STORAGE) -> bytes:
    """Return the command set of a C-STORE-RQ."""
    elements = {SOP_CLASS: sop_class, FIELD: C_STORE, MESSAGE_ID: message_id, PRIORITY: 0}
    return command_set(elements | {DATA_SET_TYPE: DATA_SET, SOP_INSTANCE: sop_instance_uid})


def store_rq(
    context: int,
    sop_instance_uid: str,
    message_id: int,
    data: bytes,
    longest: int,
    *,
    sop_class: str = CT_IMAGE_STORAGE,
) -> bytes:
    """Return all PDUs of a C-STORE-RQ; `longest` is the maximum length of a PDU."""
    command = wire.fragment(context, COMMAND | LAST, store_command(sop_instance_uid, message_id, sop_class))
    return command + wire.fragments(context, 0, data, longest)


def store_rsp(context: int, command: bytes) -> bytes:
    """Return the PDU that answers a C-STORE-RQ with success."""
    elements = {
        SOP_CLASS: command_value(command, SOP_CLASS),
        FIELD: C_STORE | RESPONSE,
        RESPONDING_TO: number_of(command, MESSAGE_ID),
        DATA_SET_TYPE: NO_DATA_SET,
        STATUS: 0,
        SOP_INSTANCE: command_value(command, SOP_INSTANCE),
    }
    return wire.fragment(context, COMMAND | LAST, command_set(elements))


def query_rq(kind: int, context: int, model: str, keys: bytes, destination: str = "") -> bytes:
    """Return all PDUs of the first C-FIND-RQ or C-MOVE-RQ of an association, with an encoded Identifier."""
    elements: dict[int, wire.Value] = {SOP_CLASS: model, FIELD: kind, MESSAGE_ID: 1, PRIORITY: 0}
    if destination:
        elements[wire.DESTINATION] = destination
    return wire.p_data(context, elements | {DATA_SET_TYPE: DATA_SET}, keys, 0)


def identifier(level: str, keys: Mapping[str, str]) -> bytes:
    """Return an Identifier in implicit VR little endian; a key with an empty value is a return key."""
    elements = []
    for keyword, value in {"QueryRetrieveLevel": level, **keys}.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        padded = value.encode() + (b"\0" if keyword.endswith("UID") else b" ") * (len(value) % 2)
        elements.append((tag, struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(padded)) + padded))
    return b"".join(element for _, element in sorted(elements))
