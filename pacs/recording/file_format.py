"""The file format of a recording: one line of JSON for each event, in order.

Command elements and attributes are named by their keywords in PS3.7 and PS3.6. The first line identifies the format:

    {"pacs recording": 1, "note": "..."}
    {"at": 0.001, "association": 1, "request": {"calling_ae_title": "WS", "contexts": [...], ...}}
    {"at": 0.012, "association": 1, "accept": {...}}
    {"at": 0.020, "association": 1, "from": "requestor", "context": 1, "command": {...}, "data": {...}}
    {"at": 0.090, "association": 1, "from": "requestor", "end": "A-RELEASE-RQ"}
"""

import json
import struct
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset

from pacs.dimse.messages.command import RESPONSE, Command, CommandField, Value
from pacs.dimse.upper.user_information import ProposedContext
from pacs.errors import RecordingUnusable
from pacs.recording.datasets import MAX_PIXEL_BYTES, count_zeros, decode, from_json, to_json
from pacs.recording.pseudonyms import Pseudonyms
from pacs.recording.sniffer import (
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    AssociationEnd,
    ContextResult,
    InvalidData,
    SniffedEvent,
    SniffedMessage,
)
from pacs.support.regular_files import open_regular

VERSION = 1
COMMAND_FIELD = 0x0100

OMITTED = ("CommandGroupLength", "CommandDataSetType")
"""Command elements that the line does not need."""


@dataclass(frozen=True, slots=True)
class RecordedMessage:
    """A recorded message. `abstract_syntax` is that of its presentation context."""

    side: str
    abstract_syntax: str
    command: Command
    data: Dataset | None


@dataclass(slots=True)
class RecordedAssociation:
    """A recorded association: its request, the answer, and the messages in order."""

    request: AssociateRQ | None = None
    answer: AssociateAC | AssociateRJ | None = None
    messages: list[RecordedMessage] = field(default_factory=list)


# --- writing -----------------------------------------------------------------------------------------------------


class RecordingWriter:
    """Writes a recording to `stream`; every line is flushed when `write` returns."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._pseudonyms = Pseudonyms()
        self._lock = threading.Lock()
        self.associations = 0
        self.messages = 0
        note = "names, texts, UIDs and dates are pseudonyms, pixels are zeros; see pacs/recording/pseudonyms.py"
        self._write({"pacs recording": VERSION, "note": note})

    def write(self, association: int, at: float, event: SniffedEvent) -> None:
        """Write one event. Raises OSError."""
        with self._lock:
            self.associations = max(self.associations, association)
            self.messages += isinstance(event, SniffedMessage)
            self._write({"at": round(at, 4), "association": association} | self._line(event))

    def _write(self, line: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(line) + "\n")  # in ASCII, because AE titles may contain control sequences
        self._stream.flush()

    def _line(self, event: SniffedEvent) -> dict[str, Any]:
        if isinstance(event, AssociateRQ | AssociateAC):
            kind = "request" if isinstance(event, AssociateRQ) else "accept"
            if isinstance(event, AssociateRQ):
                self._pseudonyms.keep_titles((event.calling_ae_title, event.called_ae_title))
            fields = asdict(event)
            fields["extended"] = {uid: information.hex() for uid, information in event.extended.items()}
            return {kind: {name: value for name, value in fields.items() if value not in ({}, "")}}
        if isinstance(event, AssociateRJ):
            return {"reject": asdict(event)}
        if isinstance(event, SniffedMessage):
            return self._message(event)
        if isinstance(event, AssociationEnd):
            return {"from": event.side, "end": event.how}
        assert isinstance(event, InvalidData)
        return {"from": event.side, "not understood": event.why}

    def _message(self, recorded: SniffedMessage) -> dict[str, Any]:
        line: dict[str, Any] = {"from": recorded.side, "context": recorded.context.id, "what": _name(recorded.command)}
        line["command"] = self._command(recorded.command)
        if recorded.data is not None:
            line |= self._data(recorded)
        return line

    def _command(self, command: Command) -> dict[str, Any]:
        fields: dict[str, Any] = {keyword_for_tag(tag): value for tag, value in sorted(command.elements.items())}
        fields = {keyword: value for keyword, value in fields.items() if keyword not in OMITTED}
        for keyword, value in fields.items():
            if keyword == "ErrorComment":
                fields[keyword] = f"a comment of {len(str(value))} characters"
            elif isinstance(value, str):
                fields[keyword] = self._pseudonyms.uid(value) if "UID" in keyword else self._pseudonyms.ae_title(value)
        return fields

    def _data(self, recorded: SniffedMessage) -> dict[str, Any]:
        assert recorded.data is not None
        try:
            dataset = decode(recorded.data, recorded.size, recorded.context.transfer_syntax)
            return {"data": to_json(self._pseudonyms.dataset(dataset))}
        except Exception as error:  # any exception of pydicom for invalid data
            return {"data": None, "unreadable": f"{recorded.size} bytes: {type(error).__name__}"}


def _name(command: Command) -> str:
    """Return the name of a command: C-FIND-RQ."""
    kind = "RSP" if command.is_response else "RQ"
    try:
        return f"{CommandField(command.field & ~RESPONSE).name.replace('_', '-')}-{kind}"
    except ValueError:
        return f"{command.field:04X}H-{kind}"


def _command(fields: Mapping[str, Any]) -> Command:
    """Return the command set of a line. Raises ValueError, KeyError."""
    elements: dict[int, Value] = {}
    for keyword, value in fields.items():
        tag = tag_for_keyword(keyword)
        if tag is None or tag >> 16:
            raise ValueError(f"{keyword!r} is not a command element of PS3.7")
        elements[tag] = tuple(value) if isinstance(value, list) else value
    command = Command(elements)
    if COMMAND_FIELD not in elements:
        raise ValueError("a command without CommandField")
    try:
        command.encode()
    except (struct.error, KeyError, TypeError, AttributeError):
        raise ValueError("a command element has an invalid value for its VR") from None
    return command


# --- reading -----------------------------------------------------------------------------------------------------


def read(path: Path) -> list[RecordedAssociation]:
    """Return the associations of a recording, in the order of their beginning. Raises RecordingUnusable."""
    try:
        with open_regular(path) as stream:
            return _associations(stream, path.name)
    except OSError as error:
        raise RecordingUnusable(f"{path} cannot be read ({error.strerror})") from error


def _associations(stream: BinaryIO, name: str) -> list[RecordedAssociation]:
    """Return the associations of a recording; `name` is that of its file. Raises RecordingUnusable."""
    associations: dict[int, RecordedAssociation] = {}
    left = MAX_PIXEL_BYTES
    for number, text in enumerate(stream, 1):
        try:
            line = json.loads(text.decode())
            left -= count_zeros(line)
            if left < 0:
                raise ValueError(f"expected at most {MAX_PIXEL_BYTES} bytes of pixels")
            _read_line(line, associations, is_first=number == 1)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RecordingUnusable(f"{name}, line {number}: {_reason(error)}") from error
    return list(associations.values())


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        why = error.msg if isinstance(error, json.JSONDecodeError) else "not in UTF-8"
        return f"expected a recording of `pacs record`, one JSON object per line ({why})"
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _read_line(line: Mapping[str, Any], associations: dict[int, RecordedAssociation], *, is_first: bool) -> None:
    """Process one line. Raises ValueError, KeyError and TypeError for an invalid line."""
    if is_first:
        if line["pacs recording"] != VERSION:
            raise ValueError(f"expected a recording of version {VERSION}")
        return
    association = associations.setdefault(line["association"], RecordedAssociation())
    if "request" in line:
        association.request = _requested(line["request"])
    elif "accept" in line:
        association.answer = _accepted(line["accept"])
    elif "reject" in line:
        association.answer = AssociateRJ(**line["reject"])
    elif "command" in line:
        association.messages.append(_message(line, association))


def _requested(fields: Mapping[str, Any]) -> AssociateRQ:
    contexts = tuple(
        ProposedContext(each["id"], each["abstract_syntax"], tuple(each["transfer_syntaxes"]))
        for each in fields["contexts"]
    )
    return AssociateRQ(**{**fields, "contexts": contexts, "extended": _extended(fields)})


def _accepted(fields: Mapping[str, Any]) -> AssociateAC:
    return AssociateAC(
        **{
            **fields,
            "contexts": tuple(ContextResult(**each) for each in fields["contexts"]),
            "extended": _extended(fields),
        }
    )


def _extended(fields: Mapping[str, Any]) -> dict[str, bytes]:
    return {uid: bytes.fromhex(information) for uid, information in fields.get("extended", {}).items()}


def _message(line: Mapping[str, Any], association: RecordedAssociation) -> RecordedMessage:
    if association.request is None:
        raise ValueError("a message of an association without a request")
    abstract = {each.id: each.abstract_syntax for each in association.request.contexts}
    data = line.get("data")
    return RecordedMessage(
        side=line["from"],
        abstract_syntax=abstract[line["context"]],
        command=_command(line["command"]),
        data=from_json(data) if data is not None else None,
    )
