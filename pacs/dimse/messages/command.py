"""Encoding and decoding of command sets (PS3.7 6.3, E).

A command set is always Implicit VR Little Endian (PS3.7 6.3.1) and small. It is decoded by a table, in bounded memory.
"""

import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import overload

from pacs.dimse.upper.pdus import shown
from pacs.errors import ProtocolViolation

Value = int | str | tuple[int, ...]

MAX_COMMAND = 1 << 16
"""The longest command set that is read, in bytes; the longest legal one today is shorter than two KiB."""

MAX_ERROR_COMMENT = 64


class CommandField(IntEnum):
    """The Command Field (0000,0100) of the requests (PS3.7 E.1); a response has bit 15 set as well."""

    C_STORE = 0x0001
    C_GET = 0x0010
    C_FIND = 0x0020
    C_MOVE = 0x0021
    C_ECHO = 0x0030
    N_EVENT_REPORT = 0x0100
    N_GET = 0x0110
    N_SET = 0x0120
    N_ACTION = 0x0130
    N_CREATE = 0x0140
    N_DELETE = 0x0150
    C_CANCEL = 0x0FFF


def operation_name(field: int) -> str:
    """Return the name of a Command Field, such as "C-STORE"; "other" for an unknown one."""
    try:
        return CommandField(field).name.replace("_", "-", 1)
    except ValueError:
        return "other"


RESPONSE = 0x8000
NO_DATA_SET = 0x0101
_DATA_SET_FOLLOWS = 0x0001

_GROUP_LENGTH = 0x0000
_AFFECTED_SOP_CLASS = 0x0002
_REQUESTED_SOP_CLASS = 0x0003
_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_RESPONDING_TO = 0x0120
_MOVE_DESTINATION = 0x0600
_PRIORITY = 0x0700
DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_OFFENDING_ELEMENT = 0x0901
_ERROR_COMMENT = 0x0902
_AFFECTED_SOP_INSTANCE = 0x1000
_REQUESTED_SOP_INSTANCE = 0x1001
_EVENT_TYPE = 0x1002
_ACTION_TYPE = 0x1008
_REMAINING, _COMPLETED, _FAILED, _WARNING = 0x1020, 0x1021, 0x1022, 0x1023
_MOVE_ORIGINATOR = 0x1030
_MOVE_ORIGINATOR_MESSAGE_ID = 0x1031

_VR: dict[int, str] = {
    _GROUP_LENGTH: "UL",
    _AFFECTED_SOP_CLASS: "UI",
    _REQUESTED_SOP_CLASS: "UI",
    _FIELD: "US",
    _MESSAGE_ID: "US",
    _RESPONDING_TO: "US",
    _MOVE_DESTINATION: "AE",
    _PRIORITY: "US",
    DATA_SET_TYPE: "US",
    _STATUS: "US",
    _OFFENDING_ELEMENT: "AT",
    _ERROR_COMMENT: "LO",
    0x0903: "US",
    _AFFECTED_SOP_INSTANCE: "UI",
    _REQUESTED_SOP_INSTANCE: "UI",
    _EVENT_TYPE: "US",
    0x1005: "AT",
    _ACTION_TYPE: "US",
    _REMAINING: "US",
    _COMPLETED: "US",
    _FAILED: "US",
    _WARNING: "US",
    _MOVE_ORIGINATOR: "AE",
    _MOVE_ORIGINATOR_MESSAGE_ID: "US",
}
"""The known elements of group 0000 (PS3.7 E.1) and their VR; others are ignored."""

_NUMBER = {"US": struct.Struct("<H"), "UL": struct.Struct("<L")}
_OF_REQUEST = frozenset((_FIELD, DATA_SET_TYPE, _MESSAGE_ID))
_OF_RESPONSE = frozenset((_FIELD, DATA_SET_TYPE, _RESPONDING_TO, _STATUS))
_OF_CANCEL = frozenset((_FIELD, DATA_SET_TYPE, _RESPONDING_TO))
"""The required elements of a command of each kind."""

_HEADER = struct.Struct("<HHL")
_US_ELEMENT = struct.Struct("<HHLH")
_GROUP_LENGTH_ELEMENT = struct.Struct("<HHLL")


def _decode_value(vr: str, raw: bytes) -> Value:
    """Decode the value of an element; US and UL must have exactly one. Raises struct.error."""
    if vr in _NUMBER:
        number: int = _NUMBER[vr].unpack(raw)[0]
        return number
    if vr == "AT":
        halves = struct.unpack(f"<{len(raw) // 2}H", raw)
        return tuple(group << 16 | element for group, element in zip(halves[::2], halves[1::2], strict=False))
    # Latin-1 preserves every byte; callers that need a valid UID check it.
    return raw.decode("latin-1").strip(" \0")


def _encode_element(tag: int, value: Value) -> bytes:
    vr = _VR[tag]
    if vr == "US":
        return _US_ELEMENT.pack(0, tag, 2, value)
    raw = _encode_value(vr, value)
    return _HEADER.pack(0, tag, len(raw)) + raw


def _encode_value(vr: str, value: Value) -> bytes:
    if isinstance(value, int):
        return _NUMBER[vr].pack(value)
    if isinstance(value, tuple):
        return b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in value)
    raw = value.encode("latin-1", "replace")
    return raw if len(raw) % 2 == 0 else raw + (b"\0" if vr == "UI" else b" ")


class _Number:
    """A US element; None when it is missing."""

    def __init__(self, tag: int) -> None:
        self._tag = tag

    @overload
    def __get__(self, command: None, owner: type) -> "_Number": ...
    @overload
    def __get__(self, command: "Command", owner: type) -> int | None: ...
    def __get__(self, command: "Command | None", owner: type) -> "int | _Number | None":
        if command is None:
            return self
        value = command.elements.get(self._tag)
        return value if isinstance(value, int) else None


class _Required:
    """A US element that `Command.decode` requires."""

    def __init__(self, tag: int) -> None:
        self._tag = tag

    @overload
    def __get__(self, command: None, owner: type) -> "_Required": ...
    @overload
    def __get__(self, command: "Command", owner: type) -> int: ...
    def __get__(self, command: "Command | None", owner: type) -> "int | _Required":
        if command is None:
            return self
        value = command.elements[self._tag]
        assert isinstance(value, int)
        return value


class _Text:
    """A UI, AE or LO element without its padding; None when it is missing or has no value."""

    def __init__(self, tag: int) -> None:
        self._tag = tag

    @overload
    def __get__(self, command: None, owner: type) -> "_Text": ...
    @overload
    def __get__(self, command: "Command", owner: type) -> str | None: ...
    def __get__(self, command: "Command | None", owner: type) -> "str | _Text | None":
        if command is None:
            return self
        value = command.elements.get(self._tag)
        return value if isinstance(value, str) and value else None


class Command:
    """A command set (PS3.7 6.3): its elements by element number of group 0000, and attributes for the usual ones.

    Text values are as the peer sent them, without padding; UIDs are not checked.
    """

    __slots__ = ("elements",)

    field = _Required(_FIELD)
    message_id = _Required(_MESSAGE_ID)
    """Of a request; a response and a C-CANCEL have `responding_to` instead."""
    responding_to = _Required(_RESPONDING_TO)
    status = _Required(_STATUS)
    """Of a response."""
    priority = _Number(_PRIORITY)
    affected_sop_class_uid = _Text(_AFFECTED_SOP_CLASS)
    requested_sop_class_uid = _Text(_REQUESTED_SOP_CLASS)
    affected_sop_instance_uid = _Text(_AFFECTED_SOP_INSTANCE)
    requested_sop_instance_uid = _Text(_REQUESTED_SOP_INSTANCE)
    event_type = _Number(_EVENT_TYPE)
    action_type = _Number(_ACTION_TYPE)
    move_destination = _Text(_MOVE_DESTINATION)
    move_originator_ae_title = _Text(_MOVE_ORIGINATOR)
    move_originator_message_id = _Number(_MOVE_ORIGINATOR_MESSAGE_ID)
    error_comment = _Text(_ERROR_COMMENT)
    remaining = _Number(_REMAINING)
    completed = _Number(_COMPLETED)
    failed = _Number(_FAILED)
    warning = _Number(_WARNING)

    def __init__(self, elements: Mapping[int, Value]) -> None:
        self.elements = dict(elements)

    @property
    def name(self) -> str:
        """The name of the message, such as "C-STORE-RSP"."""
        return f"{operation_name(self.field & ~RESPONSE)}-{'RSP' if self.is_response else 'RQ'}"

    def violation_as_response(self, field: int, message_ids: Collection[int]) -> str:
        """Return why this is no response to one of the requests with these Message IDs, '' if it is one."""
        if self.field != field | RESPONSE:
            return f"it came where a {operation_name(field)}-RSP was due"
        if self.responding_to not in message_ids:
            due = " or ".join(map(str, sorted(message_ids)))
            return f"(0000,0120) Message ID {self.responding_to} came where {due} was due"
        return ""

    @property
    def is_response(self) -> bool:
        """Whether this is a response."""
        return bool(self.field & RESPONSE)

    @property
    def is_pending(self) -> bool:
        """Whether this is a response that is followed by others (PS3.7 C.1.4: FF00, FF01)."""
        return self.elements.get(_STATUS) in (0xFF00, 0xFF01)

    @property
    def has_data_set(self) -> bool:
        """Whether a data set follows (Command Data Set Type, 0000,0800)."""
        return self.elements.get(DATA_SET_TYPE) != NO_DATA_SET

    @property
    def sop_class_uid(self) -> str | None:
        """The Affected or, in some N- services, Requested SOP Class UID."""
        return self.affected_sop_class_uid or self.requested_sop_class_uid

    @property
    def offending_elements(self) -> tuple[int, ...]:
        """The tags of Offending Element (0000,0901)."""
        value = self.elements.get(_OFFENDING_ELEMENT)
        return value if isinstance(value, tuple) else ()

    def encode(self) -> bytes:
        """Encode the command set in Implicit VR Little Endian, group length first (PS3.7 6.3.1)."""
        encoded = b"".join([_encode_element(tag, self.elements[tag]) for tag in sorted(self.elements) if tag])
        return _GROUP_LENGTH_ELEMENT.pack(0, _GROUP_LENGTH, 4, len(encoded)) + encoded

    @classmethod
    def decode(cls, data: bytes) -> "Command":
        """Decode a command set. Raises ProtocolViolation when it is invalid or lacks a required element."""
        elements: dict[int, Value] = {}
        offset = 0
        try:
            while offset < len(data):
                group, tag, length = _HEADER.unpack_from(data, offset)
                offset += _HEADER.size + length
                if group != 0 or offset > len(data) or tag in elements:
                    raise _violation(data)
                vr = _VR.get(tag)
                if vr == "US" and length == 2:  # most elements
                    elements[tag] = data[offset - 2] | data[offset - 1] << 8
                elif vr is not None:
                    elements[tag] = _decode_value(vr, data[offset - length : offset])
        except struct.error:
            raise _violation(data) from None
        return cls._complete(elements, data)

    @classmethod
    def _complete(cls, elements: dict[int, Value], data: bytes) -> "Command":
        """Return a command that has all elements required for its kind. Raises ProtocolViolation."""
        field = elements.get(_FIELD, 0)
        assert isinstance(field, int), "the Command Field is of VR US"
        required = _OF_CANCEL if field == CommandField.C_CANCEL else _OF_RESPONSE if field & RESPONSE else _OF_REQUEST
        missing = required - elements.keys()
        if missing:
            names = ", ".join(f"(0000,{tag:04X})" for tag in sorted(missing))
            raise ProtocolViolation(f"command set has no {names}: {shown(data)}", sorted(missing))
        return cls(elements)

    @classmethod
    def request(cls, field: int, message_id: int, sop_class_uid: str, **fields: Value) -> "Command":
        """Return a request of `sop_class_uid`; `fields` are further elements by the attribute names of this class."""
        elements: dict[int, Value] = {_AFFECTED_SOP_CLASS: sop_class_uid, _FIELD: field, _MESSAGE_ID: message_id}
        return cls(elements | {_REQUEST_FIELDS[name]: value for name, value in fields.items()})

    @classmethod
    def action(cls, message_id: int, sop_class_uid: str, sop_instance_uid: str, action_type: int) -> "Command":
        """Return an N-ACTION-RQ (PS3.7 10.3.5), which has Requested instead of Affected SOP Class and Instance UIDs."""
        return cls(
            {
                _REQUESTED_SOP_CLASS: sop_class_uid,
                _FIELD: CommandField.N_ACTION,
                _MESSAGE_ID: message_id,
                _REQUESTED_SOP_INSTANCE: sop_instance_uid,
                _ACTION_TYPE: action_type,
            }
        )

    @classmethod
    def cancel(cls, message_id: int) -> "Command":
        """Return a C-CANCEL-RQ for the request `message_id` (PS3.7 9.3.2.3)."""
        return cls({_FIELD: CommandField.C_CANCEL, _RESPONDING_TO: message_id})

    def response(
        self,
        status: int,
        *,
        error_comment: str = "",
        offending_elements: Iterable[int] = (),
        remaining: int | None = None,
        completed: int | None = None,
        failed: int | None = None,
        warning: int | None = None,
    ) -> "Command":
        """Return the response to this request, with a status, its related fields and sub-operation counts.

        `announcing` sets whether a data set follows. The Error Comment is cut at 64 characters; characters that are
        invalid in an LO are replaced.
        """
        elements: dict[int, Value] = {
            _FIELD: self.field | RESPONSE,
            _RESPONDING_TO: self.message_id,
            _STATUS: status,
        }
        for tag, source in _ECHOED:
            if source in self.elements:
                elements.setdefault(tag, self.elements[source])
        counts = {_REMAINING: remaining, _COMPLETED: completed, _FAILED: failed, _WARNING: warning}
        elements |= {tag: count for tag, count in counts.items() if count is not None}
        if tags := tuple(offending_elements):
            elements[_OFFENDING_ELEMENT] = tags
        if error_comment:
            elements[_ERROR_COMMENT] = _as_lo(error_comment)
        return Command(elements)

    def changed(self, **fields: Value | None) -> "Command":
        """Return a copy with other values of elements, by attribute name; None removes an element."""
        elements = dict(self.elements)
        for name, value in fields.items():
            if value is None:
                elements.pop(_FIELDS[name], None)
            else:
                elements[_FIELDS[name]] = _as_lo(value) if name == "error_comment" and isinstance(value, str) else value
        return Command(elements)

    def announcing(self, *, data_set: bool) -> "Command":
        """Set the Command Data Set Type, which says whether a data set follows. Return this command."""
        self.elements[DATA_SET_TYPE] = _DATA_SET_FOLLOWS if data_set else NO_DATA_SET
        return self


def _violation(data: bytes) -> ProtocolViolation:
    """Return the error for the first invalid element of a command set."""
    offset, tags = 0, set[int]()
    while (what := _fault(data, offset, tags)) == "":
        offset += _HEADER.size + _HEADER.unpack_from(data, offset)[2]
    return ProtocolViolation(f"command set {what}: {shown(data[offset:])}")


def _fault(data: bytes, offset: int, tags: set[int]) -> str:
    """Return what is wrong with an element of a command set, '' for nothing; add its tag to those before it."""
    if len(data) - offset < _HEADER.size:
        return "ends within the header of an element"
    group, tag, length = _HEADER.unpack_from(data, offset)
    name, rest = f"has ({group:04X},{tag:04X})", len(data) - offset - _HEADER.size
    if group != 0:
        return f"{name}, which is not of group 0000"
    if tag in tags:
        return f"{name} twice"
    if length > rest:
        return f"{name} with a length of {length}, beyond its end"
    vr = _VR.get(tag, "")
    if vr:
        tags.add(tag)
    is_wrong = length % 2 if vr == "AT" else vr in _NUMBER and length != _NUMBER[vr].size
    return f"{name} of VR {vr} with a length of {length}" if is_wrong else ""


class Template:
    """A command set that is encoded once, except for the elements that change from message to message.

    `changing` are the attribute names of those elements; their values in `command` do not matter.
    """

    def __init__(self, command: Command, *, data_set: bool, changing: Sequence[str]) -> None:
        elements = command.announcing(data_set=data_set).elements
        tags = sorted(tag for tag in elements if tag)
        self._parts = [_encode_element(tag, elements[tag]) for tag in tags]
        self._positions = [(tags.index(_FIELDS[name]), _FIELDS[name]) for name in changing]

    def encode(self, *values: Value) -> bytes:
        """Encode the command set with these values, in the order of `changing`."""
        parts = self._parts.copy()
        for (position, tag), value in zip(self._positions, values, strict=True):
            parts[position] = _encode_element(tag, value)
        encoded = b"".join(parts)
        return _GROUP_LENGTH_ELEMENT.pack(0, _GROUP_LENGTH, 4, len(encoded)) + encoded


_ECHOED = (
    (_AFFECTED_SOP_CLASS, _AFFECTED_SOP_CLASS),
    (_AFFECTED_SOP_CLASS, _REQUESTED_SOP_CLASS),
    (_AFFECTED_SOP_INSTANCE, _AFFECTED_SOP_INSTANCE),
    (_AFFECTED_SOP_INSTANCE, _REQUESTED_SOP_INSTANCE),
    (_ACTION_TYPE, _ACTION_TYPE),
)
"""The elements that a response copies: (element of the response, element of the request)."""

_FIELDS = {
    "message_id": _MESSAGE_ID,
    "responding_to": _RESPONDING_TO,
    "status": _STATUS,
    "error_comment": _ERROR_COMMENT,
    "offending_elements": _OFFENDING_ELEMENT,
    "event_type": _EVENT_TYPE,
    "affected_sop_instance_uid": _AFFECTED_SOP_INSTANCE,
    "remaining": _REMAINING,
    "completed": _COMPLETED,
    "failed": _FAILED,
    "warning": _WARNING,
}
"""The elements that `Command.changed` and `Template` may change."""

_REQUEST_FIELDS = {
    "priority": _PRIORITY,
    "affected_sop_instance_uid": _AFFECTED_SOP_INSTANCE,
    "event_type": _EVENT_TYPE,
    "move_destination": _MOVE_DESTINATION,
    "move_originator_ae_title": _MOVE_ORIGINATOR,
    "move_originator_message_id": _MOVE_ORIGINATOR_MESSAGE_ID,
}


def _as_lo(text: str) -> str:
    """Return `text` as one value of an LO in the default character set."""
    plain = text.encode("ascii", "replace").decode("ascii").replace("\\", "/")
    return "".join(each if each.isprintable() else " " for each in plain)[:MAX_ERROR_COMMENT].rstrip()
