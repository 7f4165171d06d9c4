"""Reads the UIDs of an arriving instance before the instance is stored, and compares two files."""

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

PEEK_BYTES = 1 << 16
"""Bytes of a data set that are read before anything is written; they contain the Study and Series Instance UID."""

STUDY, SERIES, INSTANCE = "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"

_MAX_UID_LENGTH = 66
_CHUNK_BYTES = 1 << 20

_KEYWORDS = {by_keyword(keyword).tag: keyword for keyword in (STUDY, SERIES)}


def instance_uid_of(command: Command) -> dict[str, str]:
    """Return the SOP Instance UID of a C-STORE request, by keyword. Raises MissingUID if it or the SOP Class is
    invalid.
    """
    sop_class, instance = command.affected_sop_class_uid or "", command.affected_sop_instance_uid or ""
    if not (is_uid(sop_class) and is_uid(instance)):
        raise MissingUID("The C-STORE request has no valid SOP Class and SOP Instance UID")
    return {INSTANCE: instance}


def peek_uids(beginning: bytes, transfer_syntax: str) -> dict[str, str]:
    """Return the Study and Series Instance UID, by keyword, as far as the beginning of a data set contains them."""
    encoding = encoding_of(transfer_syntax)
    found: dict[str, str] = {}
    with suppress(UndecodableDataSet):
        source = Source(BytesIO(beginning), encoding)
        for token in walk(source, encoding):
            if token.depth == 0 and token.tag > max(_KEYWORDS):
                break
            if token.kind is TokenKind.ELEMENT and token.depth == 0 and token.tag in _KEYWORDS:
                value = source.read(min(token.length, _MAX_UID_LENGTH))
                found[_KEYWORDS[token.tag]] = value.decode("latin-1").strip(" \0")
    return found


def is_same_instance(file: BinaryIO, path: Path) -> bool:
    """Return whether two files have the same data set in the same transfer syntax. Raises OSError."""
    with path.open("rb") as other:
        file.seek(0)
        if part10.read_file_meta(file).transfer_syntax != part10.read_file_meta(other).transfer_syntax:
            return False
        while True:
            one, two = file.read(_CHUNK_BYTES), other.read(_CHUNK_BYTES)
            if one != two:
                return False
            if not one:
                return True
