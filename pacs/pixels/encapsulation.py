"""Finds the frames of encapsulated Pixel Data among its fragments (PS3.5 A.4), and writes encapsulated frames.

Only positions are in memory. Offset tables are used when they agree with the fragments; otherwise frames are found by
their number, or by the first and last bytes of each fragment.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from struct import pack

from pacs.dicom.elements import ITEM, SEQUENCE_DELIMITER
from pacs.errors import UndecodablePixelData
from pacs.pixels.tags import PIXEL_DATA

_JPEG_2000 = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL ")
_RLE = tuple(pack("<LL", segments, 64) for segments in range(1, 16))

_STARTS = {
    "1.2.840.10008.1.2.5": _RLE,
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{end}" for end in (110, 111, 112)), _JPEG_XL),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{end}" for end in (90, 91, 92, 93, 201, 202, 203)), _JPEG_2000),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{end}" for end in (50, 51, 57, 70, 80, 81)), (b"\xff\xd8\xff",)),
}
"""The first bytes of a frame. Within a frame they do not occur at the start of a fragment, except by damage."""

_ENDING = frozenset(syntax for syntax, starts in _STARTS.items() if starts not in (_RLE, _JPEG_XL))

_END = b"\xff\xd9"
"""The last bytes of a JPEG, JPEG-LS or JPEG 2000 frame (EOI, EOC), before padding."""

_LONGEST = 0xFFFFFFFE

_PADDING = 16
"""The bytes after the end marker of a frame that may be padding."""

Read = Callable[[int, int], bytes]
"""Reads bytes of a data set by offset and length."""


class Fragments:
    """The positions of the fragments of one encapsulated Pixel Data; the first one is the Basic Offset Table."""

    def __init__(self) -> None:
        self._offsets = array("Q")
        self._lengths = array("Q")

    def __len__(self) -> int:
        """Return the number of fragments without the Basic Offset Table."""
        return max(0, len(self._offsets) - 1)

    @property
    def size(self) -> int:
        """The bytes of all fragments without the Basic Offset Table."""
        return sum(self._lengths[1:])

    def append(self, offset: int, length: int) -> None:
        """Add the next fragment, by the offset of its value in the data set."""
        self._offsets.append(offset)
        self._lengths.append(length)

    def frames(self, wanted: int, syntax: str, read: Read, extended: tuple[int, int] | None) -> "EncapsulatedFrames":
        """Return the frames, at least `wanted`. `extended` is the position of an Extended Offset Table.

        Raises UndecodablePixelData when there are fewer, or when nothing tells where each of them begins.
        """
        starts = self._frame_starts(wanted, syntax, read, extended)
        if len(starts) < wanted:
            raise UndecodablePixelData(f"Pixel Data has {len(starts)} of {wanted} frames", [PIXEL_DATA])
        return EncapsulatedFrames(self._offsets, self._lengths, starts, read)

    def _frame_starts(self, wanted: int, syntax: str, read: Read, extended: tuple[int, int] | None) -> Sequence[int]:
        """Return the index of the first fragment of each frame."""
        tables = [self._by_table(*extended, 8, read)] if extended else []
        if len(self._offsets):
            tables.append(self._by_table(self._offsets[0], self._lengths[0], 4, read))
        filled = [index for index in range(1, len(self._offsets)) if self._lengths[index]]
        for starts in (*tables, filled):
            if len(starts) == wanted:
                return starts
        found = self._by_codestreams(filled, wanted, syntax, read)
        if found or len(filled) < wanted:
            return found or filled
        if wanted == 1:
            return filled[:1]
        if surplus := [starts for starts in tables if len(starts) > wanted]:
            return surplus[0]
        comment = f"Pixel Data has {len(filled)} fragments for {wanted} frames, and no valid offset table"
        raise UndecodablePixelData(comment, [PIXEL_DATA])

    def _by_table(self, position: int, length: int, width: int, read: Read) -> Sequence[int]:
        """Return the first fragments by an offset table; none if it does not agree with the fragments."""
        if not length or length % width or length // width > len(self):
            return ()
        table = read(position, length)
        offsets = [
            int.from_bytes(table[at : at + width], "little") + self._offsets[1] for at in range(0, length, width)
        ]
        starts = [bisect_left(self._offsets, offset) for offset in offsets]
        is_valid = starts[0] == 1 and all(a < b for a, b in pairwise(starts)) and starts[-1] < len(self._offsets)
        return starts if is_valid and offsets == [self._offsets[index] for index in starts] else ()

    def _by_codestreams(self, filled: Sequence[int], wanted: int, syntax: str, read: Read) -> Sequence[int]:
        """Return the first fragments by the first bytes of codestreams, else by their last bytes; none if unclear."""
        starts = [index for index in filled if self._begins(index, _STARTS.get(syntax, ()), read)]
        if starts[:1] != filled[:1]:
            starts = []
        if syntax not in _ENDING or not filled or len(starts) >= wanted:
            return starts
        after_ends = [filled[at] for at, index in enumerate(filled[:-1], 1) if self._ends(index, read)]
        by_ends = [filled[0], *after_ends]
        return by_ends if len(by_ends) >= wanted else starts

    def _begins(self, index: int, starts: tuple[bytes, ...], read: Read) -> bool:
        return read(self._offsets[index], min(self._lengths[index], 12)).startswith(starts)

    def _ends(self, index: int, read: Read) -> bool:
        length = min(self._lengths[index], _PADDING)
        return _END in read(self._offsets[index] + self._lengths[index] - length, length)


class EncapsulatedFrames:
    """The frames of encapsulated Pixel Data."""

    def __init__(self, offsets: Sequence[int], lengths: Sequence[int], starts: Sequence[int], read: Read) -> None:
        self._offsets = offsets
        self._lengths = lengths
        self._starts = starts
        self._read = read

    def __len__(self) -> int:
        """Return the number of frames, which may be more than were wanted."""
        return len(self._starts)

    def read(self, frame: int, most: int | None = None) -> bytes:
        """Read a frame, its fragments joined; with `most` only its first bytes."""
        pieces: list[bytes] = []
        remaining = self.size(frame) if most is None else most
        for index in self._fragments(frame):
            pieces.append(self._read(self._offsets[index], min(self._lengths[index], remaining)))
            remaining -= len(pieces[-1])
        return b"".join(pieces)

    def size(self, frame: int) -> int:
        """Return the bytes of a frame."""
        return sum(self._lengths[index] for index in self._fragments(frame))

    def _fragments(self, frame: int) -> range:
        is_last = frame + 1 == len(self._starts)
        return range(self._starts[frame], len(self._offsets) if is_last else self._starts[frame + 1])


def encapsulated(frames: Iterable[bytes], is_single: bool) -> Iterator[bytes]:
    """Yield the value of encapsulated Pixel Data, one fragment a frame.

    The Basic Offset Table is empty for several frames, whose sizes are not known before they are encoded.
    """
    yield _fragment(bytes(4) if is_single else b"")
    for frame in frames:
        if len(frame) > _LONGEST:
            raise UndecodablePixelData("An encoded frame is 4 GiB or longer", [PIXEL_DATA])
        yield _fragment(frame)
    yield pack("<HHL", SEQUENCE_DELIMITER >> 16, SEQUENCE_DELIMITER & 0xFFFF, 0)


def _fragment(value: bytes) -> bytes:
    padding = len(value) % 2
    return pack("<HHL", ITEM >> 16, ITEM & 0xFFFF, len(value) + padding) + value + bytes(padding)
