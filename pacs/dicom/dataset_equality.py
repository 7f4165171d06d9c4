"""Whether two data sets say the same: the same attributes with the same values, however they are encoded.

A sender that sends an instance again may have taken another native transfer syntax, other padding, group lengths or
delimiters; nothing of that makes it another instance (checklist S6). Everything else does (S7).
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
"""The VRs whose values are padded with spaces, or UI with NUL, which mean nothing (PS3.5 6.2)."""

TRAILING_PADDING = 0xFFFCFFFC

_WITH_VALUE = frozenset((TokenKind.ELEMENT, TokenKind.FRAGMENT))


def is_same(first: BinaryIO, first_syntax: str, second: BinaryIO, second_syntax: str) -> bool:
    """Whether the data sets at which two files stand have the same attributes and values, in constant memory.

    Two data sets in different transfer syntaxes are never the same when one of them is compressed. Raises
    UndecodableDataSet.
    """
    if first_syntax != second_syntax and not (is_native(first_syntax) and is_native(second_syntax)):
        return False
    steps = zip_longest(_Steps(first, first_syntax), _Steps(second, second_syntax))
    return all(one is not None and other is not None and _is_same_step(one, other) for one, other in steps)


class _Steps:
    """The tokens of a data set that mean something, each with the source its value can be read from."""

    def __init__(self, file: BinaryIO, transfer_syntax: str) -> None:
        self._encoding = encoding_of(transfer_syntax)
        self._source = Source(file, self._encoding)

    def __iter__(self) -> Iterator[tuple[Token, Source]]:
        for token in walk(self._source, self._encoding):
            if not _means_nothing(token):
                yield token, self._source


def _means_nothing(token: Token) -> bool:
    is_group_length = token.kind is TokenKind.ELEMENT and token.tag & 0xFFFF == 0
    return is_group_length or token.tag == TRAILING_PADDING or token.tag >> 16 in NOT_IN_A_DATA_SET


def _is_same_step(first: tuple[Token, Source], second: tuple[Token, Source]) -> bool:
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
    """Whether the values are text by what either sender declared, else by PS3.6."""
    declared = {token.vr for token in (one, other) if token.vr != "UN"}
    return bool(declared) and declared <= TEXT_VRS


def _is_same_value(first: Iterator[bytes], second: Iterator[bytes]) -> bool:
    """Whether two long values are equal, but for the one byte that makes an odd length even."""
    for one, other in zip_longest(first, second, fillvalue=b""):
        if one != other:
            is_padded = _is_padded(*sorted((one, other), key=len))
            return is_padded and not next(first, b"") and not next(second, b"")
    return True


def _is_padded(shorter: bytes, longer: bytes) -> bool:
    return len(shorter) % 2 == 1 and longer in (shorter + b"\0", shorter + b" ")
