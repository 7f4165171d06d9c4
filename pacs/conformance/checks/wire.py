"""The bytes of an association (PS3.8 section 9, PS3.7 section 6.3), made and read here alone.

What judges a server shares no code with one: a mistake of this project's own encoder would not be seen with it.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
IMPLEMENTATION_CLASS_UID = b"2.25.115049901136962962696975256259999777924"

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)

C_STORE, C_GET, C_FIND, C_MOVE, C_ECHO, C_CANCEL = 0x0001, 0x0010, 0x0020, 0x0021, 0x0030, 0x0FFF
N_EVENT_REPORT, N_ACTION = 0x0100, 0x0130
RESPONSE = 0x8000
NO_DATA_SET = 0x0101

SOP_CLASS, REQUESTED_SOP_CLASS, FIELD, MESSAGE_ID, RESPONDING_TO = 0x0002, 0x0003, 0x0100, 0x0110, 0x0120
DESTINATION, PRIORITY, DATA_SET_TYPE, STATUS = 0x0600, 0x0700, 0x0800, 0x0900
OFFENDING_ELEMENT, ERROR_COMMENT = 0x0901, 0x0902
SOP_INSTANCE, REQUESTED_SOP_INSTANCE, EVENT_TYPE, ACTION_TYPE = 0x1000, 0x1001, 0x1002, 0x1008
REMAINING, COMPLETED, FAILED, WARNING = 0x1020, 0x1021, 0x1022, 0x1023
ORIGINATOR, ORIGINATOR_MESSAGE_ID = 0x1030, 0x1031
"""Elements of group 0000 by element number (PS3.7 E.1)."""

PENDING = (0xFF00, 0xFF01)

LONGEST_MESSAGE = 64 << 20
"""Bytes of a command set or data set that are taken."""

Value = int | str


class Malformed(Exception):
    """What came is not what the standard says it looks like."""


# --- PDUs and their items ------------------------------------------------------------------------------------------


def pdu(kind: int, body: bytes) -> bytes:
    """A PDU of this type around a body."""
    return struct.pack(">BxL", kind, len(body)) + body


def item(kind: int, body: bytes) -> bytes:
    """An item or sub-item of an A-ASSOCIATE PDU."""
    return struct.pack(">BxH", kind, len(body)) + body


def items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The items or sub-items in `data`: their types and bodies. Raises Malformed."""
    while data:
        if len(data) < 4:
            raise Malformed("an item of the A-ASSOCIATE PDU is cut off")
        kind, length = struct.unpack_from(">BxH", data)
        if len(data) < 4 + length:
            raise Malformed("an item of the A-ASSOCIATE PDU is longer than the PDU")
        yield kind, data[4 : 4 + length]
        data = data[4 + length :]


def text(raw: bytes) -> str:
    """A UID or AE title without its padding."""
    return raw.decode("latin-1").strip(" \0")


@dataclass(frozen=True)
class Offer:
    """What an A-ASSOCIATE-RQ proposes; the contexts are (abstract syntax, transfer syntaxes), with IDs 1, 3, 5 ..."""

    contexts: Sequence[tuple[str, Sequence[str]]]
    called: str
    calling: str
    roles: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    extended: Mapping[str, bytes] = field(default_factory=dict)
    max_pdu: int = 16384
    more: bytes = b""
    """Further sub-items of the user information, as bytes."""
    version: int = 1
    application: str = APPLICATION_CONTEXT

    def encode(self) -> bytes:
        """The A-ASSOCIATE-RQ."""
        body = struct.pack(">HH", self.version, 0) + self.called.encode().ljust(16) + self.calling.encode().ljust(16)
        body += bytes(32) + item(0x10, self.application.encode())
        for place, (abstract, syntaxes) in enumerate(self.contexts):
            inner = item(0x30, abstract.encode()) + b"".join(item(0x40, each.encode()) for each in syntaxes)
            body += item(0x20, struct.pack(">Bxxx", 2 * place + 1) + inner)
        return pdu(ASSOCIATE_RQ, body + user_information(self.max_pdu, self.roles, self.extended, self.more))


def user_information(
    max_pdu: int, roles: Mapping[str, tuple[int, int]], extended: Mapping[str, bytes], more: bytes = b""
) -> bytes:
    """The User Information Item: longest PDU, who we are, roles as (SCU, SCP) and extended negotiation by SOP Class."""
    own = item(0x51, struct.pack(">L", max_pdu)) + item(0x52, IMPLEMENTATION_CLASS_UID)
    for uid, (scu, scp) in roles.items():
        own += item(0x54, struct.pack(">H", len(uid)) + uid.encode() + bytes((scu, scp)))
    for uid, information in extended.items():
        own += item(0x56, struct.pack(">H", len(uid)) + uid.encode() + information)
    return item(0x50, own + more)


@dataclass
class Answer:
    """What an A-ASSOCIATE-AC says."""

    results: dict[int, tuple[int, str]] = field(default_factory=dict)
    """Result (PS3.8 Table 9-18) and transfer syntax by presentation context ID, in the order they came in."""
    max_pdu: int = 0
    implementation: str = ""
    roles: dict[str, tuple[int, int]] = field(default_factory=dict)
    extended: dict[str, bytes] = field(default_factory=dict)
    window: tuple[int, int] | None = None
    has_user_response: bool = False

    @classmethod
    def decode(cls, body: bytes) -> "Answer":
        """Read the body of an A-ASSOCIATE-AC. Raises Malformed."""
        answer = cls()
        try:
            for kind, inner in items(body[68:]):
                if kind == 0x21:
                    syntax = next((text(each) for sub, each in items(inner[4:]) if sub == 0x40), "")
                    answer.results[inner[0]] = (inner[2], syntax)
                elif kind == 0x50:
                    for sub, each in items(inner):
                        answer._take(sub, each)
        except (struct.error, IndexError):
            raise Malformed("an item of the A-ASSOCIATE-AC is too short") from None
        return answer

    def _take(self, kind: int, body: bytes) -> None:
        if kind == 0x51:
            self.max_pdu = struct.unpack(">L", body)[0]
        elif kind == 0x55:
            self.implementation = text(body)
        elif kind == 0x53:
            self.window = struct.unpack(">HH", body)
        elif kind == 0x54:
            uid, rest = _uid_and_rest(body)
            self.roles[uid] = (rest[0], rest[1])
        elif kind == 0x56:
            uid, self_information = _uid_and_rest(body)
            self.extended[uid] = self_information
        elif kind == 0x59:
            self.has_user_response = True


def _uid_and_rest(body: bytes) -> tuple[str, bytes]:
    length = struct.unpack_from(">H", body)[0]
    return text(body[2 : 2 + length]), body[2 + length :]


# --- messages ------------------------------------------------------------------------------------------------------


def command_set(elements: Mapping[int, Value]) -> bytes:
    """A command set in Implicit VR Little Endian, group length first."""
    body = b"".join(_element(tag, elements[tag]) for tag in sorted(elements))
    return _element_of_bytes(0x0000, struct.pack("<L", len(body))) + body


def _element(tag: int, value: Value) -> bytes:
    if isinstance(value, int):
        return _element_of_bytes(tag, struct.pack("<H", value))
    raw = value.encode("latin-1")
    padding = b" " if tag in (DESTINATION, ORIGINATOR, ERROR_COMMENT) else b"\0"
    return _element_of_bytes(tag, raw + padding * (len(raw) % 2))


def _element_of_bytes(tag: int, raw: bytes) -> bytes:
    return struct.pack("<HHL", 0, tag, len(raw)) + raw


def elements(data: bytes) -> dict[int, bytes]:
    """The elements of a command set by element number. Raises Malformed."""
    found, offset = {}, 0
    while offset < len(data):
        if len(data) - offset < 8:
            raise Malformed("an element of the command set is cut off")
        group, tag, length = struct.unpack_from("<HHL", data, offset)
        if group:
            raise Malformed(f"there is an element ({group:04X},{tag:04X}) in a command set")
        if offset + 8 + length > len(data):
            raise Malformed("an element of the command set is longer than that")
        found[tag] = data[offset + 8 : offset + 8 + length]
        offset += 8 + length
    return found


@dataclass
class Message:
    """A DIMSE message: the raw values of its command set by element number, its data set's bytes, its context's ID."""

    elements: dict[int, bytes]
    context: int = 0
    data: bytes | None = None

    def number(self, tag: int) -> int | None:
        """A US element, None when it is not there or none."""
        raw = self.elements.get(tag, b"")
        return int.from_bytes(raw, "little") if len(raw) == 2 else None

    def text(self, tag: int) -> str:
        """A UI, AE or LO element without padding, '' when it is not there."""
        return text(self.elements.get(tag, b""))

    @property
    def field(self) -> int:
        """The Command Field (0000,0100), 0 when it is not there."""
        return self.number(FIELD) or 0

    @property
    def status(self) -> int:
        """The Status (0000,0900). Raises Malformed when there is none."""
        found = self.number(STATUS)
        if found is None:
            raise Malformed("a response has no Status (0000,0900)")
        return found

    @property
    def is_pending(self) -> bool:
        """Whether others will follow."""
        return self.status in PENDING

    @property
    def has_data_set(self) -> bool:
        """Whether the command says that a data set follows."""
        return self.number(DATA_SET_TYPE) != NO_DATA_SET

    def response(self, status: int) -> dict[int, Value]:
        """The elements of a response to this request."""
        says: dict[int, Value] = {FIELD: self.field | RESPONSE, RESPONDING_TO: self.number(MESSAGE_ID) or 0}
        uids = {tag: self.text(tag) for tag in (SOP_CLASS, SOP_INSTANCE) if tag in self.elements}
        numbers = {EVENT_TYPE: self.number(EVENT_TYPE) or 0} if EVENT_TYPE in self.elements else {}
        return says | uids | numbers | {DATA_SET_TYPE: NO_DATA_SET, STATUS: status}


def p_data(context: int, command: Mapping[int, Value], data: bytes | None, max_pdu: int) -> bytes:
    """The P-DATA-TF PDUs of a message, none longer than the peer takes (0 is any)."""
    sent = _fragments(context, 1, command_set(command), max_pdu)
    return sent if data is None else sent + _fragments(context, 0, data, max_pdu)


def _fragments(context: int, kind: int, data: bytes, max_pdu: int) -> bytes:
    piece = min(max_pdu or 16384, 16384) - 6
    starts = range(0, len(data), piece) or [0]
    return b"".join(
        fragment(context, kind | (2 if at + piece >= len(data) else 0), data[at : at + piece]) for at in starts
    )


def fragment(context: int, header: int, data: bytes) -> bytes:
    """A P-DATA-TF PDU of one PDV; bit 0 of the header says command, bit 1 that it is the last fragment."""
    return pdu(P_DATA, struct.pack(">LBB", len(data) + 2, context, header) + data)


def values(body: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The PDVs in the body of a P-DATA-TF: context ID, message control header, fragment. Raises Malformed."""
    while body:
        length = struct.unpack_from(">L", body)[0] if len(body) >= 6 else 0
        if length < 2 or 4 + length > len(body):
            raise Malformed("a PDV is longer than its PDU, or has no header")
        yield body[4], body[5], body[6 : 4 + length]
        body = body[4 + length :]


class Assembly:
    """Puts fragments together into messages."""

    def __init__(self) -> None:
        self._fragments: list[bytes] = []
        self._held = 0
        self._begun: Message | None = None

    def take(self, context: int, header: int, piece: bytes) -> Message | None:
        """Take a fragment in; the message it completes. Raises Malformed."""
        self._fragments.append(piece)
        self._held += len(piece)
        if self._held > LONGEST_MESSAGE:
            raise Malformed(f"a message is longer than {LONGEST_MESSAGE} bytes")
        if not header & 2:
            return None
        whole, self._fragments, self._held = b"".join(self._fragments), [], 0
        if header & 1:
            message = Message(elements(whole), context)
            self._begun = message if message.has_data_set else None
            return None if self._begun else message
        if self._begun is None:
            raise Malformed("a data set came that no command had said would follow")
        message, self._begun = self._begun, None
        message.data = whole
        return message


# --- data sets -----------------------------------------------------------------------------------------------------


def encoded(dataset: Dataset, syntax: str = IMPLICIT) -> bytes:
    """A data set in Implicit VR Little Endian or, for every other transfer syntax used here, explicit."""
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, syntax == IMPLICIT
    write_dataset(out, dataset)
    return bytes(out.getvalue())


def decoded(data: bytes | None, syntax: str = IMPLICIT) -> Dataset:
    """The data set in `data`. Raises Malformed when it cannot be read."""
    try:
        return Dataset(read_dataset(BytesIO(data or b""), syntax == IMPLICIT, True))
    except Exception as error:  # pydicom raises what it meets
        raise Malformed(f"a data set cannot be read: {type(error).__name__}") from error
