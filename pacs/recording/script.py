"""The file of a recording: a line of JSON for each thing that was said, in order.

Command elements and attributes go by their keywords in PS3.7 and PS3.6. The first line says what the file is:

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
from typing import Any, TextIO

from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset

from pacs.dimse.messages.command import RESPONSE, Command, CommandField, Value
from pacs.errors import RecordingUnusable
from pacs.recording.datasets import MOST_PIXELS, decoded, plain, rebuilt, zeros
from pacs.recording.pseudonyms import Pseudonyms
from pacs.recording.sniffer import Accepted, Answered, Ended, Heard, NotUnderstood, Proposed, Rejected, Requested, Said

VERSION = 1
COMMAND_FIELD = 0x0100

LEFT_OUT = ("CommandGroupLength", "CommandDataSetType")
"""Command elements that say nothing that the line does not."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message on tape. `abstract_syntax` is that of its presentation context."""

    side: str
    abstract_syntax: str
    command: Command
    data: Dataset | None


@dataclass(slots=True)
class Association:
    """An association on tape: what was asked for, what was answered, and what was said then, in order."""

    request: Requested | None = None
    answer: Accepted | Rejected | None = None
    messages: list[Message] = field(default_factory=list)


# --- writing -----------------------------------------------------------------------------------------------------


class Writer:
    """Writes a recording to `stream`, line by line as it is heard; every line is there when `witness` returns."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._pseudonyms = Pseudonyms()
        self._lock = threading.Lock()
        self.associations = 0
        self.messages = 0
        note = "names, texts, UIDs and dates are pseudonyms, pixels are zeros; see pacs/tape/pseudonyms.py"
        self._write({"pacs recording": VERSION, "note": note})

    def witness(self, association: int, at: float, heard: Heard) -> None:
        """One more thing that was said. Raises OSError when it cannot be written."""
        with self._lock:
            self.associations = max(self.associations, association)
            self.messages += isinstance(heard, Said)
            self._write({"at": round(at, 4), "association": association} | self._line(heard))

    def _write(self, line: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(line) + "\n")  # in ASCII: what a peer calls itself may move a cursor
        self._stream.flush()

    def _line(self, heard: Heard) -> dict[str, Any]:
        if isinstance(heard, Requested | Accepted):
            kind = "request" if isinstance(heard, Requested) else "accept"
            if isinstance(heard, Requested):
                self._pseudonyms.know((heard.calling_ae_title, heard.called_ae_title))
            told = asdict(heard)
            told["extended"] = {uid: information.hex() for uid, information in heard.extended.items()}
            return {kind: {name: value for name, value in told.items() if value not in ({}, "")}}
        if isinstance(heard, Rejected):
            return {"reject": asdict(heard)}
        if isinstance(heard, Said):
            return self._message(heard)
        if isinstance(heard, Ended):
            return {"from": heard.side, "end": heard.how}
        assert isinstance(heard, NotUnderstood)
        return {"from": heard.side, "not understood": heard.why}

    def _message(self, said: Said) -> dict[str, Any]:
        line: dict[str, Any] = {"from": said.side, "context": said.context.id, "what": _name(said.command)}
        line["command"] = self._command(said.command)
        if said.data is not None:
            line |= self._data(said)
        return line

    def _command(self, command: Command) -> dict[str, Any]:
        told: dict[str, Any] = {keyword_for_tag(tag): value for tag, value in sorted(command.elements.items())}
        told = {keyword: value for keyword, value in told.items() if keyword not in LEFT_OUT}
        for keyword, value in told.items():
            if keyword == "ErrorComment":
                told[keyword] = f"a comment of {len(str(value))} characters"
            elif isinstance(value, str):
                told[keyword] = self._pseudonyms.uid(value) if "UID" in keyword else self._pseudonyms.ae_title(value)
        return told

    def _data(self, said: Said) -> dict[str, Any]:
        assert said.data is not None
        try:
            dataset = decoded(said.data, said.size, said.context.transfer_syntax)
            return {"data": plain(self._pseudonyms.dataset(dataset))}
        except Exception as error:  # whatever bytes and values make pydicom stumble over
            return {"data": None, "unreadable": f"{said.size} bytes: {type(error).__name__}"}


def _name(command: Command) -> str:
    """What people call a command: C-FIND-RQ."""
    kind = "RSP" if command.is_response else "RQ"
    try:
        return f"{CommandField(command.field & ~RESPONSE).name.replace('_', '-')}-{kind}"
    except ValueError:
        return f"{command.field:04X}H-{kind}"


def _command(told: Mapping[str, Any]) -> Command:
    """The command set that a line tells of. Raises ValueError, KeyError."""
    elements: dict[int, Value] = {}
    for keyword, value in told.items():
        tag = tag_for_keyword(keyword)
        if tag is None or tag >> 16:
            raise ValueError(f"{keyword!r} is no command element of PS3.7")
        elements[tag] = tuple(value) if isinstance(value, list) else value
    command = Command(elements)
    if COMMAND_FIELD not in elements:
        raise ValueError("a command without CommandField")
    try:
        command.encode()
    except (struct.error, KeyError, TypeError, AttributeError):
        raise ValueError("a command element that is none of its VR") from None
    return command


# --- reading -----------------------------------------------------------------------------------------------------


def read(path: Path) -> list[Association]:
    """The associations of a recording, in the order in which they began. Raises RecordingUnusable, OSError."""
    associations: dict[int, Association] = {}
    left = MOST_PIXELS
    with path.open(encoding="utf-8") as stream:
        for number, text in enumerate(stream, 1):
            try:
                line = json.loads(text)
                left -= zeros(line)
                if left < 0:
                    raise ValueError(f"expected at most {MOST_PIXELS} bytes of pixels")
                _take(line, associations, is_first=number == 1)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise RecordingUnusable(f"{path.name}, line {number}: {_why(error)}") from error
    return list(associations.values())


def _why(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _take(line: Mapping[str, Any], associations: dict[int, Association], *, is_first: bool) -> None:
    """Take one line in. Raises ValueError, KeyError and TypeError for what is none."""
    if is_first:
        if line["pacs recording"] != VERSION:
            raise ValueError(f"expected a recording of version {VERSION}")
        return
    association = associations.setdefault(line["association"], Association())
    if "request" in line:
        association.request = _requested(line["request"])
    elif "accept" in line:
        association.answer = _accepted(line["accept"])
    elif "reject" in line:
        association.answer = Rejected(**line["reject"])
    elif "command" in line:
        association.messages.append(_message(line, association))


def _requested(told: Mapping[str, Any]) -> Requested:
    contexts = tuple(
        Proposed(each["id"], each["abstract_syntax"], tuple(each["transfer_syntaxes"])) for each in told["contexts"]
    )
    return Requested(**{**told, "contexts": contexts, "extended": _extended(told)})


def _accepted(told: Mapping[str, Any]) -> Accepted:
    return Accepted(
        **{**told, "contexts": tuple(Answered(**each) for each in told["contexts"]), "extended": _extended(told)}
    )


def _extended(told: Mapping[str, Any]) -> dict[str, bytes]:
    return {uid: bytes.fromhex(information) for uid, information in told.get("extended", {}).items()}


def _message(line: Mapping[str, Any], association: Association) -> Message:
    if association.request is None:
        raise ValueError("a message of an association that was not asked for")
    abstract = {each.id: each.abstract_syntax for each in association.request.contexts}
    data = line.get("data")
    return Message(
        side=line["from"],
        abstract_syntax=abstract[line["context"]],
        command=_command(line["command"]),
        data=rebuilt(data) if data is not None else None,
    )
