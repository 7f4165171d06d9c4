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

LAST = 1 << 32
"""Higher than any tag."""

_BEGIN = frozenset((TokenKind.ELEMENT, TokenKind.SEQUENCE, TokenKind.ENCAPSULATED))

_WITH_VALUE = frozenset((TokenKind.ELEMENT, TokenKind.FRAGMENT))


def is_same(first: BinaryIO, first_syntax: str, second: BinaryIO, second_syntax: str) -> bool:
    """Whether the data sets at the positions of two files have the same attributes and values, in constant memory.

    In different transfer syntaxes they are never the same when one of them is compressed. Raises UndecodableDataSet.
    """
    if not are_comparable(first_syntax, second_syntax):
        return False
    return next(differing(first, first_syntax, second, second_syntax), None) is None


def are_comparable(first_syntax: str, second_syntax: str) -> bool:
    """Whether data sets in two transfer syntaxes can have the same values: in equal or native ones."""
    return first_syntax == second_syntax or (is_native(first_syntax) and is_native(second_syntax))


def differing(first: BinaryIO, first_syntax: str, second: BinaryIO, second_syntax: str) -> Iterator[int]:
    """Yield the tags of the elements that differ or are missing in one of the data sets; of a sequence its own tag.

    As `is_same`, for transfer syntaxes that are comparable.
    """
    one, other = _ComparedTokens(first, first_syntax), _ComparedTokens(second, second_syntax)
    while one.token is not None or other.token is not None:
        if one.tag == other.tag:
            tag = one.tag
            if not _is_same_element(one, other):
                yield tag
        else:
            lower = one if one.tag < other.tag else other
            yield lower.tag
            lower.pass_element()


class _ComparedTokens:
    """The tokens of a data set that are compared: `token` is the current one, whose value `source` can read."""

    def __init__(self, file: BinaryIO, transfer_syntax: str) -> None:
        encoding = encoding_of(transfer_syntax)
        self.source = Source(file, encoding)
        self._tokens = (token for token in walk(self.source, encoding) if not _is_irrelevant(token))
        self.token = next(self._tokens, None)

    @property
    def tag(self) -> int:
        """The tag of the current token, at the end higher than any."""
        return self.token.tag if self.token is not None else LAST

    @property
    def is_at_element(self) -> bool:
        """Whether an element of the data set itself begins here, or it ends."""
        return self.token is None or (self.token.depth == 0 and self.token.kind in _BEGIN)

    def advance(self) -> None:
        """Go on to the next token."""
        self.token = next(self._tokens, None)

    def pass_element(self) -> None:
        """Go on to the next element of the data set itself."""
        self.advance()
        while not self.is_at_element:
            self.advance()


def _is_same_element(one: _ComparedTokens, other: _ComparedTokens) -> bool:
    """Whether two elements with the same tag are the same; pass both."""
    is_same = _is_same_token(one, other)
    one.advance()
    other.advance()
    while not (one.is_at_element or other.is_at_element):
        is_same = is_same and _is_same_token(one, other)
        one.advance()
        other.advance()
    if not (one.is_at_element and other.is_at_element):
        is_same = False
        (other if one.is_at_element else one).pass_element()
    return is_same


def _is_irrelevant(token: Token) -> bool:
    is_group_length = token.kind is TokenKind.ELEMENT and token.tag & 0xFFFF == 0
    return is_group_length or token.tag == TRAILING_PADDING or token.tag >> 16 in NOT_IN_A_DATA_SET


def _is_same_token(first: _ComparedTokens, second: _ComparedTokens) -> bool:
    one, other = first.token, second.token
    if one is None or other is None:
        return one is other
    if one.kind is not other.kind or one.tag != other.tag:
        return False
    if one.kind not in _WITH_VALUE:
        return True
    if _is_text(one, other) and max(one.length, other.length) <= CHUNK:
        return first.source.read(one.length).rstrip(b" \0") == second.source.read(other.length).rstrip(b" \0")
    return _is_same_value(_canonical(first.source, one), _canonical(second.source, other))


def _canonical(source: Source, token: Token) -> Iterator[bytes]:
    """Return the value of a token in little endian, in pieces."""
    return value(source, token, resolved(token, signed=False), True)


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
