"""Finds the elements that decide how an image is displayed, while the data set is walked for another reason."""

from array import array
from collections.abc import Callable, Iterator

from pydicom.dataset import Dataset

from pacs.dicom.dataset import CHARACTER_SET, read
from pacs.dicom.elements import Encoding, Source, Token, TokenKind
from pacs.errors import UndecodableDataSet
from pacs.pixels.survey import Walk

SHARED_GROUPS, PER_FRAME_GROUPS = 0x52009229, 0x52009230
"""Shared and Per-Frame Functional Groups Sequence (PS3.3 C.7.6.16)."""

WANTED = frozenset(
    (CHARACTER_SET, 0x00080016, 0x00280120, 0x00280121, 0x00281040, *range(0x00281050, 0x00281057), 0x00281101,
     0x00281102, 0x00281103, 0x00281201, 0x00281202, 0x00281203, 0x00281221, 0x00281222, 0x00281223, 0x00283000,
     0x00283010, SHARED_GROUPS)
)  # fmt: skip
"""SOP Class, padding, Pixel Intensity Relationship, windows, rescaling, palettes, modality and VOI LUTs."""

MOST_BYTES = 4 << 20
"""Bytes of all these elements; what exceeds them is left out."""

_BEGINNINGS = (TokenKind.ELEMENT, TokenKind.SEQUENCE, TokenKind.ENCAPSULATED)


class DisplayElements:
    """The positions of these elements in a data set, which are read when they are needed."""

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self._read = read
        self._spans: list[tuple[int, int]] = []
        self._open: int | None = None
        self._encoding = self._item_encoding = Encoding()
        self._item_starts, self._item_ends = array("Q"), array("Q")

    def noting(self, walk: Walk) -> Walk:
        """Return a walk that yields the same tokens, and notes where the elements are."""

        def noted(source: Source, encoding: Encoding) -> Iterator[Token]:
            self._encoding = encoding
            for token in walk(source, encoding):
                if token.depth == 0 and token.kind in _BEGINNINGS:
                    self._close(token.start)
                    self._open = token.start if token.tag in WANTED else None
                elif token.depth == 1 and token.tag == PER_FRAME_GROUPS:
                    self._note_item(token, source.position)
                yield token
            self._close(source.position)

        return noted

    def _close(self, end: int) -> None:
        if self._open is not None:
            self._spans.append((self._open, end))

    def _note_item(self, token: Token, position: int) -> None:
        if token.kind is TokenKind.ITEM:
            self._item_starts.append(position)
            self._item_encoding = token.encoding
        elif token.kind is TokenKind.ITEM_END:
            self._item_ends.append(token.start)

    def data_set(self) -> Dataset:
        """Return the elements."""
        pieces, left = [], MOST_BYTES
        for start, end in self._spans:
            if end - start <= left:
                pieces.append(self._read(start, end - start))
                left -= end - start
        return _decoded(b"".join(pieces), self._encoding)

    def groups_of(self, frame: int) -> Dataset:
        """Return the functional groups of a frame, counted from 0; empty if it has none."""
        if frame >= len(self._item_ends):
            return Dataset()
        start, end = self._item_starts[frame], self._item_ends[frame]
        return _decoded(self._read(start, end - start), self._item_encoding) if end - start <= MOST_BYTES else Dataset()


def _decoded(data: bytes, encoding: Encoding) -> Dataset:
    try:
        return read(data, encoding)
    except UndecodableDataSet:  # what is damaged is not used: the pixels can be displayed without
        return Dataset()
