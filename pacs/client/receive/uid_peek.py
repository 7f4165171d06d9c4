"""What an instance that arrives says of itself before it is read, and whether two files hold the same one."""

from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pacs.dicom import part10
from pacs.dicom.attributes import by_keyword
from pacs.dicom.elements import Source, TokenKind, encoding_of, walk
from pacs.dicom.values import is_uid
from pacs.dimse.messages.command import Command
from pacs.errors import MissingUID, UndecodableDataSet

BEGINNING = 1 << 16
"""Bytes of a data set that are looked at before anything is written: the UIDs of study and series are among them."""

STUDY, SERIES, INSTANCE = "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"

_LONGEST_UID = 66
_STEP = 1 << 20

_KEYWORDS = {by_keyword(keyword).tag: keyword for keyword in (STUDY, SERIES)}


def named_in(command: Command) -> dict[str, str]:
    """The SOP Instance UID of a C-STORE request, by its keyword. Raises MissingUID where it or its class is none."""
    sop_class, instance = command.affected_sop_class_uid or "", command.affected_sop_instance_uid or ""
    if not (is_uid(sop_class) and is_uid(instance)):
        raise MissingUID("The C-STORE request names no valid SOP Instance")
    return {INSTANCE: instance}


def uids_in(beginning: bytes, transfer_syntax: str) -> dict[str, str]:
    """The UIDs of study and series, by keyword, as far as the beginning of a data set reaches and can be read."""
    encoding = encoding_of(transfer_syntax)
    found: dict[str, str] = {}
    with suppress(UndecodableDataSet):
        source = Source(BytesIO(beginning), encoding)
        for token in walk(source, encoding):
            if token.depth == 0 and token.tag > max(_KEYWORDS):
                break
            if token.kind is TokenKind.ELEMENT and token.depth == 0 and token.tag in _KEYWORDS:
                value = source.read(min(token.length, _LONGEST_UID))
                found[_KEYWORDS[token.tag]] = value.decode("latin-1").strip(" \0")
    return found


def is_same(file: BinaryIO, path: Path) -> bool:
    """Whether two files have the same data set in the same transfer syntax, whoever sent it. Raises OSError."""
    with path.open("rb") as other:
        file.seek(0)
        if part10.read_file_meta(file).transfer_syntax != part10.read_file_meta(other).transfer_syntax:
            return False
        while True:
            one, two = file.read(_STEP), other.read(_STEP)
            if one != two:
                return False
            if not one:
                return True
