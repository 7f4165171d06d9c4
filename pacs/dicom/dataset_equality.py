"""Compares two data sets: they are the same when they have the same attributes with the same values.

A sender may send an instance again in another native transfer syntax, or with other padding, group lengths or
delimiters. It is still the same instance (docs/checklist.md S6). Any other difference makes another one (S7).
"""

from collections.abc import Iterator
from itertools import zip_longest
from typing import BinaryIO

from pacs.dicom.elements import Source, Token, TokenKind, encoding_of, walk
from pacs.dicom.header import NOT_IN_A_DATA_SET
from pacs.dicom.syntaxes import CHUNK, is_native, resolved, value

TEXT_VRS = frozenset(
    ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT")
)
"""The VRs whose values may have padding without meaning: spaces, or NUL in UI (PS3.5 6.2)."""

TRAILING_PADDING = 0xFFFCFFFC

_WITH_VALUE = frozenset((TokenKind.ELEMENT, TokenKind.FRAGMENT))


def is_same(first: BinaryIO, first_syntax: str, second: BinaryIO, second_syntax: str) -> bool:
    """Whether the data sets at the positions of two files have the same attributes and values, in constant memory.

    In different transfer syntaxes they are never the same when one of them is compressed. Raises UndecodableDataSet.
    """
    if first_syntax != second_syntax and not (is_native(first_syntax) and is_native(second_syntax)):
        return False
    pairs = zip_longest(_ComparedTokens(first, first_syntax), _ComparedTokens(second, second_syntax))
    return all(one is not None and other is not None and _is_same_token(one, other) for one, other in pairs)


class _ComparedTokens:
    """The tokens of a data set that are compared, each with the source to read its value from."""

    def __init__(self, file: BinaryIO, transfer_syntax: str) -> None:
        self._encoding = encoding_of(transfer_syntax)
        self._source = Source(file, self._encoding)

    def __iter__(self) -> Iterator[tuple[Token, Source]]:
        for token in walk(self._source, self._encoding):
            if not _is_irrelevant(token):
                yield token, self._source


def _is_irrelevant(token: Token) -> bool:
    is_group_length = token.kind is TokenKind.ELEMENT and token.tag & 0xFFFF == 0
    return is_group_length or token.tag == TRAILING_PADDING or token.tag >> 16 in NOT_IN_A_DATA_SET


def _is_same_token(first: tuple[Token, Source], second: tuple[Token, Source]) -> bool:
    one, other = first[0], second[0]
    if one.kind is not other.kind or one.tag != other.tag:
        return False
    if one.kind not in _WITH_VALUE:
        return True
    if _is_text(one, other) and max(one.length, other.length) <= CHUNK:
        return first[1].read(one.length).rstrip(b" \0") == second[1].read(other.length).rstrip(b" \0")
    values = (value(source, token, resolved(token, signed=False), True) for token, source in (first, second))
    return _is_same_value(*values)


def _is_text(one: Token, other: Token) -> bool:
    """Whether the values are text, by the VRs that the senders declared."""
    declared = {token.vr for token in (one, other) if token.vr != "UN"}
    return bool(declared) and declared <= TEXT_VRS


def _is_same_value(first: Iterator[bytes], second: Iterator[bytes]) -> bool:
    """Whether two long values are equal, except for a padding byte."""
    for one, other in zip_longest(first, second, fillvalue=b""):
        if one != other:
            is_padded = _is_padded(*sorted((one, other), key=len))
            return is_padded and not next(first, b"") and not next(second, b"")
    return True


def _is_padded(shorter: bytes, longer: bytes) -> bool:
    return len(shorter) % 2 == 1 and longer in (shorter + b"\0", shorter + b" ")
