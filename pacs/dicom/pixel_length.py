"""Notices native pixel data of 4 GiB or more while its data set arrives: its length does not fit into 32 bits.

Writers truncate the length or leave it undefined. Both are seen as soon as everything before the pixel data has
arrived (decision 98); the end of the data set shows it, too, but costs 4 GiB.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import BinaryIO

from pacs.dicom.bounds import DataSetBounds
from pacs.dicom.elements import LONGEST, PIXELS, TOO_LONG, UNDEFINED, Source, Token, encoding_of, walk
from pacs.dicom.syntaxes import is_native
from pacs.errors import UndecodableDataSet

_NUMBER_OF_FRAMES = 0x00280008
_FACTORS = frozenset((0x00280002, _NUMBER_OF_FRAMES, 0x00280010, 0x00280011, 0x00280100))
"""Samples per Pixel, Number of Frames, Rows, Columns and Bits Allocated."""
_LONGEST_FACTOR = 16


class PixelLengthCheck:
    """Checks a data set in this transfer syntax repeatedly while it arrives."""

    def __init__(self, transfer_syntax: str, bounds: DataSetBounds) -> None:
        self._bounds = bounds
        self._encoding = encoding_of(transfer_syntax)
        self._is_checked = is_native(transfer_syntax) and not self._encoding.deflated
        self._end: int | None = None
        """The offset after the pixel data according to its length; its beginning if the length is undefined."""
        self._tag = 0
        self._next_search = 0

    def check(self, size: int, body: Callable[[], BinaryIO]) -> None:
        """Check the first `size` bytes, which `body` opens.

        Raises UndecodableDataSet for pixel data that is too long, or too many elements before it.

        The end of pixel data whose attributes do not tell its length may be 4 GiB behind where it should be.
        """
        if not self._is_checked:
            return
        if self._end is None and size >= self._next_search:
            self._next_search = 2 * size  # each search begins at the first element
            with closing(body()) as file:
                self._search(Source(file, self._encoding, is_whole=False))
        if self._end is not None and size - self._end > LONGEST:
            raise UndecodableDataSet(TOO_LONG, [self._tag])

    def _search(self, source: Source) -> None:
        """Search for the pixel data. Raises UndecodableDataSet if its length is what the attributes say, truncated."""
        bits = 1
        for token in self._bounds.limited(self._beginning(source)):
            if token.depth:
                continue
            if token.tag in PIXELS:
                self._tag, self._end = token.tag, source.position + (token.length if token.length != UNDEFINED else 0)
                if bits // 8 > LONGEST and token.length in (UNDEFINED, bits // 8 & 0xFFFFFFFF):
                    raise UndecodableDataSet(TOO_LONG, [token.tag])
                return
            if token.tag in _FACTORS:
                bits *= self._number(token.tag, source.peek(min(token.length, _LONGEST_FACTOR)))

    def _beginning(self, source: Source) -> Iterator[Token]:
        """Yield the tokens up to the first error, which is reported at the end of the data set."""
        with suppress(UndecodableDataSet):
            yield from walk(source, self._encoding)

    def _number(self, tag: int, value: bytes) -> int:
        if tag != _NUMBER_OF_FRAMES:
            return int.from_bytes(value, "little" if self._encoding.little else "big")
        text = value.decode("latin-1").strip(" \0")
        return int(text) if text.isdecimal() else 1
