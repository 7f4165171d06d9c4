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
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, TextIO

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import UID

from pacs.dimse.command import RESPONSE, Command, CommandField, Value
from pacs.dimse.overhearing import (
    Accepted,
    Answered,
    Ended,
    Heard,
    NotUnderstood,
    Proposed,
    Rejected,
    Requested,
    Said,
)
from pacs.errors import RecordingUnusable
from pacs.tape.pseudonyms import Pseudonyms

VERSION = 1
FIRST_OF_PIXELS, PIXEL_DATA = 0x7FE00008, 0x7FE00010
MOST_PIXELS = 1 << 28
"""How many bytes of zeros stand for pixels, at most: of one instance that is recorded, and in all of a recording."""

MOST_INFLATED = 4 << 20
"""How much of a deflated data set is looked at, in bytes."""

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


# --- data sets ---------------------------------------------------------------------------------------------------


def decoded(data: bytes, size: int, transfer_syntax: str) -> Dataset:
    """The data set of a message of `size` bytes, of which `data` is the beginning; pixels are zeros of their length.

    Raises whatever the bytes make pydicom stumble over.
    """
    syntax = UID(transfer_syntax)
    if syntax.is_deflated:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, MOST_INFLATED)
        size = len(data)
    stream = BytesIO(data)
    implicit = syntax.is_implicit_VR
    found: list[BaseTag] = []

    def at_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        found.append(tag)
        return bool(tag >= FIRST_OF_PIXELS)

    dataset = read_dataset(stream, implicit, syntax.is_little_endian, stop_when=at_pixels)
    left = size - stream.tell() - (8 if implicit else 12)
    if found and found[-1] == PIXEL_DATA and left >= 0:
        dataset.add_new(PIXEL_DATA, "OW", bytes(min(left, MOST_PIXELS)))
    return dataset


def encoded(dataset: Dataset, transfer_syntax: str) -> bytes:
    """A data set in a transfer syntax; with compressed pixels, what stands for them is one fragment of zeros."""
    syntax = UID(transfer_syntax)
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = syntax.is_little_endian, syntax.is_implicit_VR
    if syntax.is_encapsulated and "PixelData" in dataset:
        dataset = Dataset(dataset)
        dataset.add_new("PixelData", "OB", encapsulate([bytes(dataset.PixelData)]))
        dataset["PixelData"].is_undefined_length = True
    write_dataset(stream, dataset)
    raw = stream.getvalue()
    if not syntax.is_deflated:
        return raw
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = packer.compress(raw) + packer.flush()
    return deflated + bytes(len(deflated) % 2)


def plain(dataset: Dataset) -> dict[str, Any]:
    """A data set by keywords, for JSON: texts and numbers, lists of them, items of sequences as the same again."""
    return {_key(element.tag): _plain(element) for element in dataset}


def _key(tag: BaseTag) -> str:
    """The keyword of an element, or gggg,eeee where that does not tell which of several it is: overlays."""
    keyword = keyword_for_tag(tag)
    return keyword if tag_for_keyword(keyword) == tag else f"{tag.group:04X},{tag.element:04X}"


def _plain(element: DataElement) -> Any:
    if element.VR == "SQ":
        return [plain(item) for item in element.value]
    if isinstance(element.value, bytes):
        return {"zeros": len(element.value)}
    values = list(element.value) if isinstance(element.value, MultiValue | list) else [element.value]
    told = [_told(each, element.VR) for each in values]
    return told[0] if len(told) == 1 else told


def _told(value: Any, vr: str) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, int | float) and vr not in ("IS", "DS") else str(value)


def rebuilt(told: Mapping[str, Any]) -> Dataset:
    """The data set that `plain` told of. Raises ValueError for what is none."""
    dataset = Dataset()
    for keyword, value in told.items():
        tag = tag_for_keyword(keyword) if "," not in keyword else int(keyword.replace(",", ""), 16)
        if not keyword or tag is None:
            raise ValueError(f"{keyword!r} is no keyword of PS3.6")
        dataset.add(_element(tag, dictionary_VR(tag).split(" or ")[-1], value))
    return dataset


def _element(tag: int, vr: str, value: Any) -> DataElement:
    if vr == "SQ":
        return DataElement(tag, vr, [rebuilt(item) for item in value])
    if isinstance(value, dict):
        return DataElement(tag, vr, bytes(value["zeros"]))
    if vr == "AT":
        value = [int(each) for each in (value if isinstance(value, list) else [value]) if each != ""]
    return DataElement(tag, vr, value, validation_mode=IGNORE)


# --- reading -----------------------------------------------------------------------------------------------------


def read(path: Path) -> list[Association]:
    """The associations of a recording, in the order in which they began. Raises RecordingUnusable, OSError."""
    associations: dict[int, Association] = {}
    left = MOST_PIXELS
    with path.open(encoding="utf-8") as stream:
        for number, text in enumerate(stream, 1):
            try:
                line = json.loads(text)
                left -= _zeros(line)
                if left < 0:
                    raise ValueError(f"expected at most {MOST_PIXELS} bytes of pixels")
                _take(line, associations, is_first=number == 1)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise RecordingUnusable(f"{path.name}, line {number}: {_why(error)}") from error
    return list(associations.values())


def _zeros(told: Any) -> int:
    """How many bytes of zeros a part of a line stands for. Raises ValueError for less than none."""
    if isinstance(told, list):
        return sum(map(_zeros, told))
    if not isinstance(told, dict):
        return 0
    zeros = int(told["zeros"]) if "zeros" in told else 0
    if zeros < 0:
        raise ValueError("fewer bytes than none")
    return zeros + sum(map(_zeros, told.values()))


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
