"""What the beginning of a data set that arrives says of it, and whether two files hold the same one."""

from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pacs.dicom import part10
from pacs.dicom.attributes import by_keyword
from pacs.dicom.elements import Kind, Source, encoding_of, walk
from pacs.errors import UndecodableDataSet

BEGINNING = 1 << 16
"""Bytes of a data set that are looked at before anything is written: the UIDs of study and series are among them."""

_LONGEST_UID = 66
_STEP = 1 << 20

_KEYWORDS = {by_keyword(keyword).tag: keyword for keyword in ("StudyInstanceUID", "SeriesInstanceUID")}


def uids_in(beginning: bytes, transfer_syntax: str) -> dict[str, str]:
    """The UIDs of study and series, by keyword, as far as the beginning of a data set reaches and can be read."""
    encoding = encoding_of(transfer_syntax)
    found: dict[str, str] = {}
    with suppress(UndecodableDataSet):
        source = Source(BytesIO(beginning), encoding)
        for token in walk(source, encoding):
            if token.depth == 0 and token.tag > max(_KEYWORDS):
                break
            if token.kind is Kind.ELEMENT and token.depth == 0 and token.tag in _KEYWORDS:
                value = source.read(min(token.length, _LONGEST_UID))
                found[_KEYWORDS[token.tag]] = value.decode("latin-1").strip(" \0")
    return found


def is_same(file: BinaryIO, path: Path) -> bool:
    """Whether two files have the same data set in the same transfer syntax, whoever sent it. Raises OSError."""
    with path.open("rb") as other:
        file.seek(0)
        if part10.read_head(file).transfer_syntax != part10.read_head(other).transfer_syntax:
            return False
        while True:
            one, two = file.read(_STEP), other.read(_STEP)
            if one != two:
                return False
            if not one:
                return True
