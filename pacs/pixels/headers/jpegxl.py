"""The header of JPEG XL (ISO 18181-1), bare or in a container (ISO 18181-2)."""

from pacs.errors import NotSupported, UndecodablePixelData
from pacs.pixels.headers.header import FrameHeader, boxes

CONTAINER = b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a"
MOST_HEADER = 256
"""The bytes that a header is searched in; the fields that are read need fewer than 64."""

RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
SIZES = ((1, 9), (1, 13), (1, 18), (1, 30))
INTEGER_DEPTHS = ((8, 0), (10, 0), (12, 0), (1, 6))
EXTRA_CHANNELS = ((0, 0), (1, 0), (2, 4), (1, 12))
ENUM = ((0, 0), (1, 0), (2, 4), (18, 6))
GREY = 1


class _Bits:
    """The fields of a header, least significant bit first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "little")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise UndecodablePixelData("The header of a JPEG XL frame is truncated")
        value = self._value & ((1 << count) - 1)
        self._value >>= count
        return value

    def choice(self, ranges: tuple[tuple[int, int], ...]) -> int:
        """Return a number in one of four ranges (U32 of the standard), each an offset and a count of bits."""
        offset, count = ranges[self.take(2)]
        return offset + self.take(count)


def read_jpegxl(head: bytes) -> FrameHeader:
    """Read size and metadata of a codestream, or of one in a container."""
    data = _bare(head)
    if data[:2] != b"\xff\x0a":
        raise UndecodablePixelData("A JPEG XL frame does not begin with its signature")
    bits = _Bits(data[2:MOST_HEADER])
    rows, columns = _size(bits)
    if bits.take(1):  # everything as by default: 8 bits, XYB
        return FrameHeader(rows, columns, 3, 8, is_lossy=True)
    if bits.take(1):
        is_turned = _extra_fields(bits)
        rows, columns = (columns, rows) if is_turned else (rows, columns)
    if bits.take(1):
        raise NotSupported("JPEG XL with floating point samples is not decoded")
    precision = bits.choice(INTEGER_DEPTHS)
    bits.take(1)
    if bits.choice(EXTRA_CHANNELS):
        raise NotSupported("JPEG XL with extra channels is not decoded")
    is_xyb = bits.take(1)
    is_grey = not bits.take(1) and not bits.take(1) and bits.choice(ENUM) == GREY
    return FrameHeader(
        rows,
        columns,
        components=1 if is_grey else 3,
        precision=precision,
        is_lossy=True if is_xyb or is_recompressed(head) else None,  # XYB is never exact
        is_ycbcr=is_recompressed(head) and not is_grey,
    )


def is_recompressed(data: bytes) -> bool:
    """Whether a JPEG codestream can be reconstructed."""
    return data.startswith(CONTAINER) and any(kind == b"jbrd" for kind, _, _ in boxes(data))


def _bare(data: bytes) -> bytes:
    """Return the beginning of the codestream, whose parts may be in several boxes."""
    if not data.startswith(CONTAINER):
        return data
    parts = {b"jxlc": 0, b"jxlp": 4}
    return b"".join(data[start + parts[kind] : end][:MOST_HEADER] for kind, start, end in boxes(data) if kind in parts)


def _size(bits: _Bits) -> tuple[int, int]:
    is_small = bits.take(1)
    rows = 8 * (bits.take(5) + 1) if is_small else bits.choice(SIZES)
    width, height = RATIOS[bits.take(3)]
    if width:
        return rows, rows * width // height
    return rows, 8 * (bits.take(5) + 1) if is_small else bits.choice(SIZES)


def _extra_fields(bits: _Bits) -> bool:
    """Read orientation; return whether rows and columns are exchanged."""
    orientation = bits.take(3) + 1
    if bits.take(1):
        _size(bits)
    if bits.take(2):
        raise NotSupported("JPEG XL with a preview or an animation is not decoded")
    return orientation > 4
