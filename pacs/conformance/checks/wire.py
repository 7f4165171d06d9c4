"""The bytes of an association (PS3.8 section 9, PS3.7 section 6.3), for the checks, the tests and the benchmarks.

They share no code with the server (`pacs.dimse`): a mistake in its encoder would not be seen by a decoder with the same
mistake. Functions that encode take bytes as they are, so that tests can also send what the standard forbids.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
DATA_SET, NO_DATA_SET = 0x0001, 0x0101
"""Values of Command Data Set Type (0000,0800)."""

SOP_CLASS, REQUESTED_SOP_CLASS, FIELD, MESSAGE_ID, RESPONDING_TO = 0x0002, 0x0003, 0x0100, 0x0110, 0x0120
DESTINATION, PRIORITY, DATA_SET_TYPE, STATUS = 0x0600, 0x0700, 0x0800, 0x0900
OFFENDING_ELEMENT, ERROR_COMMENT = 0x0901, 0x0902
SOP_INSTANCE, REQUESTED_SOP_INSTANCE, EVENT_TYPE, ACTION_TYPE = 0x1000, 0x1001, 0x1002, 0x1008
REMAINING, COMPLETED, FAILED, WARNING = 0x1020, 0x1021, 0x1022, 0x1023
ORIGINATOR, ORIGINATOR_MESSAGE_ID = 0x1030, 0x1031
"""Elements of group 0000 by element number (PS3.7 E.1)."""

PENDING = (0xFF00, 0xFF01)

COMMAND, LAST = 1, 2
"""Bits of a message control header: the fragment is of a command set, and the last one."""

LONGEST_MESSAGE = 64 << 20
"""The longest command set or data set that is accepted, in bytes."""

Value = int | str | bytes


class Malformed(Exception):
    """Received bytes do not have the structure that the standard defines."""


# --- PDUs and their items ------------------------------------------------------------------------------------------


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """Return a PDU; `length` is announced instead of the length of the body."""
    return struct.pack(">BxL", kind, len(body) if length is None else length) + body


def pdus(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield types and bodies of the PDUs in the recorded bytes of one side."""
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from(">BxL", data, at)
        yield kind, bytes(data[at + 6 : at + 6 + length])
        at += 6 + length


def item(kind: int, body: bytes) -> bytes:
    """Return an item or sub-item of an A-ASSOCIATE PDU."""
    return struct.pack(">BxH", kind, len(body)) + body


def items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield types and bodies of the items or sub-items in `data`. Raises Malformed."""
    while data:
        if len(data) < 4:
            raise Malformed("an item of the A-ASSOCIATE PDU is truncated")
        kind, length = struct.unpack_from(">BxH", data)
        if len(data) < 4 + length:
            raise Malformed("an item of the A-ASSOCIATE PDU is longer than the PDU")
        yield kind, data[4 : 4 + length]
        data = data[4 + length :]


def without_padding(raw: bytes) -> str:
    """Return a UID or AE title without its padding."""
    return raw.decode("latin-1").strip(" \0")


def presentation_context(number: int, abstract: str, syntaxes: Iterable[str]) -> bytes:
    """Return a Presentation Context Item of an A-ASSOCIATE-RQ."""
    names = item(0x30, abstract.encode()) + b"".join(item(0x40, each.encode()) for each in syntaxes)
    return item(0x20, struct.pack(">Bxxx", number) + names)


def role_selection(uid: str, scu: int, scp: int) -> bytes:
    """Return an SCP/SCU Role Selection Sub-item."""
    return item(0x54, struct.pack(">H", len(uid)) + uid.encode() + bytes((scu, scp)))


def extended_negotiation(uid: str, information: bytes) -> bytes:
    """Return a SOP Class Extended Negotiation Sub-item."""
    return item(0x56, struct.pack(">H", len(uid)) + uid.encode() + information)


def user_information(max_pdu: int = 16384, *more: bytes) -> bytes:
    """Return a User Information Item with a maximum PDU length, the implementation class and further sub-items."""
    own = item(0x51, struct.pack(">L", max_pdu)) + item(0x52, IMPLEMENTATION_CLASS_UID)
    return item(0x50, own + b"".join(more))


def associate_rq(
    contexts: Iterable[tuple[int, str, Iterable[str]]],
    *,
    called: str,
    calling: str,
    user: bytes,
    version: int = 1,
    application: str = APPLICATION_CONTEXT,
) -> bytes:
    """Return an A-ASSOCIATE-RQ; `contexts` are (ID, abstract syntax, transfer syntaxes), `user` comes last."""
    body = struct.pack(">HH", version, 0) + called.encode().ljust(16) + calling.encode().ljust(16) + bytes(32)
    proposed = b"".join(presentation_context(*each) for each in contexts)
    return pdu(ASSOCIATE_RQ, body + item(0x10, application.encode()) + proposed + user)


def associate_ac(request: bytes, results: Mapping[int, tuple[int, str]], *more: bytes, max_pdu: int = 16384) -> bytes:
    """Return the A-ASSOCIATE-AC to the body of a request; `results` are those of `AssociateAccept`."""
    answers = b"".join(
        item(0x21, bytes((number, 0, result, 0)) + item(0x40, syntax.encode()))
        for number, (result, syntax) in results.items()
    )
    head = request[:68] + item(0x10, APPLICATION_CONTEXT.encode())
    return pdu(ASSOCIATE_AC, head + answers + user_information(max_pdu, *more))


@dataclass(frozen=True)
class AssociateRequest:
    """The content of an A-ASSOCIATE-RQ; contexts are (abstract syntax, transfer syntaxes), with IDs 1, 3, 5 ..."""

    contexts: Sequence[tuple[str, Sequence[str]]]
    called: str
    calling: str
    roles: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Proposed roles as (SCU, SCP) by SOP Class."""
    extended: Mapping[str, bytes] = field(default_factory=dict)
    """Extended negotiation by SOP Class."""
    max_pdu: int = 16384
    more: bytes = b""
    """Further user information sub-items."""
    version: int = 1
    application: str = APPLICATION_CONTEXT

    def encode(self) -> bytes:
        """Return the PDU."""
        numbered = ((2 * place + 1, *each) for place, each in enumerate(self.contexts))
        roles = (role_selection(uid, *each) for uid, each in self.roles.items())
        extended = (extended_negotiation(*each) for each in self.extended.items())
        user = user_information(self.max_pdu, *roles, *extended, self.more)
        names = {"called": self.called, "calling": self.calling, "application": self.application}
        return associate_rq(numbered, **names, user=user, version=self.version)


def user_identity(user: str = "", passcode: str = "", token: str = "") -> bytes:
    """Return the User Identity sub-item (PS3.7 D.3.3.7.1) of a user, b"" without one."""
    if not (user or token):
        return b""
    kind = 5 if token else 2 if passcode else 1
    primary, secondary = (token or user).encode(), passcode.encode()
    lengths = (struct.pack(">H", len(each)) + each for each in (primary, secondary))
    return item(0x58, bytes([kind, 0]) + b"".join(lengths))


@dataclass
class AssociateAccept:
    """The content of an A-ASSOCIATE-AC."""

    results: dict[int, tuple[int, str]] = field(default_factory=dict)
    """Result (PS3.8 Table 9-18) and transfer syntax by presentation context ID, in the order of the PDU."""
    max_pdu: int = 0
    implementation: str = ""
    """Implementation Version Name."""
    roles: dict[str, tuple[int, int]] = field(default_factory=dict)
    extended: dict[str, bytes] = field(default_factory=dict)
    window: tuple[int, int] | None = None
    """Asynchronous operations window."""
    has_user_response: bool = False

    @classmethod
    def decode(cls, body: bytes) -> "AssociateAccept":
        """Return the content of the body of an A-ASSOCIATE-AC. Raises Malformed."""
        accept = cls()
        try:
            for kind, inner in items(body[68:]):
                if kind == 0x21:
                    syntax = next((without_padding(each) for sub, each in items(inner[4:]) if sub == 0x40), "")
                    accept.results[inner[0]] = (inner[2], syntax)
                elif kind == 0x50:
                    for sub, each in items(inner):
                        accept._read(sub, each)
        except (struct.error, IndexError):
            raise Malformed("an item of the A-ASSOCIATE-AC is too short") from None
        return accept

    def _read(self, kind: int, body: bytes) -> None:
        if kind == 0x51:
            self.max_pdu = struct.unpack(">L", body)[0]
        elif kind == 0x55:
            self.implementation = without_padding(body)
        elif kind == 0x53:
            self.window = struct.unpack(">HH", body)
        elif kind == 0x54:
            uid, rest = _uid_and_rest(body)
            self.roles[uid] = (rest[0], rest[1])
        elif kind == 0x56:
            uid, information = _uid_and_rest(body)
            self.extended[uid] = information
        elif kind == 0x59:
            self.has_user_response = True


def _uid_and_rest(body: bytes) -> tuple[str, bytes]:
    length = struct.unpack_from(">H", body)[0]
    return without_padding(body[2 : 2 + length]), body[2 + length :]


# --- messages ------------------------------------------------------------------------------------------------------


def command_set(elements: Mapping[int, Value]) -> bytes:
    """Return a command set in Implicit VR Little Endian, with its group length."""
    return with_group_length(b"".join(command_element(tag, elements[tag]) for tag in sorted(elements)))


def with_group_length(elements: bytes) -> bytes:
    """Return encoded command elements after their group length."""
    return command_element(0x0000, struct.pack("<L", len(elements))) + elements


def command_element(tag: int, value: Value) -> bytes:
    """Return an element of group 0000; numbers are of VR US, bytes are padded with NUL."""
    if isinstance(value, int):
        raw = struct.pack("<H", value)
    else:
        raw = value.encode("latin-1") if isinstance(value, str) else value
        has_spaces = isinstance(value, str) and tag in (DESTINATION, ORIGINATOR, ERROR_COMMENT)
        raw += (b" " if has_spaces else b"\0") * (len(raw) % 2)
    return struct.pack("<HHL", 0, tag, len(raw)) + raw


def command_elements(data: bytes) -> dict[int, bytes]:
    """Return the values of a command set by element number. Raises Malformed."""
    found, offset = {}, 0
    while offset < len(data):
        if len(data) - offset < 8:
            raise Malformed("an element of the command set is truncated")
        group, tag, length = struct.unpack_from("<HHL", data, offset)
        if group:
            raise Malformed(f"the command set contains an element ({group:04X},{tag:04X})")
        if offset + 8 + length > len(data):
            raise Malformed("an element of the command set is longer than the command set")
        found[tag] = data[offset + 8 : offset + 8 + length]
        offset += 8 + length
    return found


def command_value(data: bytes, tag: int) -> bytes:
    """Return the value of one element of a command set, without decoding the others. Raises KeyError."""
    at = 0
    while at < len(data):
        _, found, length = struct.unpack_from("<HHL", data, at)
        if found == tag:
            return data[at + 8 : at + 8 + length]
        at += 8 + length
    raise KeyError(f"the command set has no (0000,{tag:04X})")


@dataclass
class DimseMessage:
    """A DIMSE message: raw values of its command set by element number, its data set and presentation context ID."""

    elements: dict[int, bytes]
    context: int = 0
    data: bytes | None = None

    def number(self, tag: int) -> int | None:
        """Return the value of an element of VR US, None if it is absent or has another length."""
        raw = self.elements.get(tag, b"")
        return int.from_bytes(raw, "little") if len(raw) == 2 else None

    def text(self, tag: int) -> str:
        """Return a UID, AE title or text without padding, '' if it is absent."""
        return without_padding(self.elements.get(tag, b""))

    @property
    def field(self) -> int:
        """The Command Field (0000,0100), 0 if it is absent."""
        return self.number(FIELD) or 0

    @property
    def status(self) -> int:
        """The Status (0000,0900). Raises Malformed if it is absent."""
        found = self.number(STATUS)
        if found is None:
            raise Malformed("a response has no Status (0000,0900)")
        return found

    @property
    def is_pending(self) -> bool:
        """Whether further responses follow."""
        return self.status in PENDING

    @property
    def has_data_set(self) -> bool:
        """Whether the command set announces a data set."""
        return self.number(DATA_SET_TYPE) != NO_DATA_SET

    def dataset(self, syntax: str = IMPLICIT) -> Dataset:
        """Return the decoded data set. Raises Malformed."""
        return decoded(self.data, syntax)

    def response(self, status: int) -> dict[int, Value]:
        """Return the command elements of a response to this request."""
        elements: dict[int, Value] = {FIELD: self.field | RESPONSE, RESPONDING_TO: self.number(MESSAGE_ID) or 0}
        uids = {tag: self.text(tag) for tag in (SOP_CLASS, SOP_INSTANCE) if tag in self.elements}
        numbers = {EVENT_TYPE: self.number(EVENT_TYPE) or 0} if EVENT_TYPE in self.elements else {}
        return elements | uids | numbers | {DATA_SET_TYPE: NO_DATA_SET, STATUS: status}


def p_data(context: int, command: Mapping[int, Value], data: bytes | None, max_pdu: int) -> bytes:
    """Return the P-DATA-TF PDUs of a message; `max_pdu` is that of the receiver, 0 for no maximum."""
    length = min(max_pdu or 16384, 16384)
    sent = fragments(context, COMMAND, command_set(command), length)
    return sent if data is None else sent + fragments(context, 0, data, length)


def fragments(context: int, header: int, data: bytes, max_pdu: int) -> bytes:
    """Return a whole command set or data set as P-DATA-TF PDUs of one PDV each, none longer than `max_pdu`."""
    length = max_pdu - 6
    starts = range(0, len(data), length) or [0]
    return b"".join(
        fragment(context, header | (LAST if at + length >= len(data) else 0), data[at : at + length]) for at in starts
    )


def fragment(context: int, header: int, data: bytes) -> bytes:
    """Return a P-DATA-TF PDU of one PDV."""
    return struct.pack(">BxLLBB", P_DATA, len(data) + 6, len(data) + 2, context, header) + data


def pdv(context: int, header: int, data: bytes, length: int | None = None) -> bytes:
    """Return a Presentation Data Value; `length` is announced instead of its own."""
    return struct.pack(">LBB", len(data) + 2 if length is None else length, context, header) + data


def pdvs(body: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the PDVs in the body of a P-DATA-TF: context ID, message control header, fragment. Raises Malformed."""
    at = 0
    while at < len(body):
        length = struct.unpack_from(">L", body, at)[0] if len(body) - at >= 6 else 0
        if length < 2 or at + 4 + length > len(body):
            raise Malformed("a PDV is longer than its PDU, or has no header")
        yield body[at + 4], body[at + 5], body[at + 6 : at + 4 + length]
        at += 4 + length


class MessageAssembler:
    """Assembles the messages of one side of an association from fragments."""

    def __init__(self) -> None:
        self._fragments: list[bytes] = []
        self._size = 0
        self._command: DimseMessage | None = None
        """The message whose data set is being received."""

    def add(self, context: int, header: int, piece: bytes) -> DimseMessage | None:
        """Add a fragment; return the message if it completes one. Raises Malformed."""
        self._fragments.append(piece)
        self._size += len(piece)
        if self._size > LONGEST_MESSAGE:
            raise Malformed(f"a message is longer than {LONGEST_MESSAGE} bytes")
        if not header & LAST:
            return None
        whole, self._fragments, self._size = b"".join(self._fragments), [], 0
        if header & COMMAND:
            message = DimseMessage(command_elements(whole), context)
            self._command = message if message.has_data_set else None
            return None if self._command else message
        if self._command is None:
            raise Malformed("a data set arrived that no command set had announced")
        message, self._command = self._command, None
        message.data = whole
        return message


# --- data sets -----------------------------------------------------------------------------------------------------


def encoded(dataset: Dataset, syntax: str = IMPLICIT) -> bytes:
    """Return a data set in Implicit VR Little Endian or, for any other transfer syntax, in explicit VR."""
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, syntax == IMPLICIT
    write_dataset(out, dataset)
    return bytes(out.getvalue())


def decoded(data: bytes | None, syntax: str = IMPLICIT) -> Dataset:
    """Return the data set in `data`. Raises Malformed if it cannot be read."""
    try:
        return read_dataset(BytesIO(data or b""), syntax == IMPLICIT, True)
    except Exception as error:  # pydicom raises what it meets
        raise Malformed(f"a data set cannot be decoded: {type(error).__name__}") from error
