"""The header of JPEG 2000 (ISO 15444-1) and of High-Throughput JPEG 2000 (ISO 15444-15)."""

from collections.abc import Iterator

from pacs.errors import NotSupported, UndecodablePixelData
from pacs.pixels.headers.header import MOST_SEGMENTS, FrameHeader, boxes, unsigned

JP2_SIGNATURE = b"\0\0\0\x0cjP  "
CAP, SIZ, COD, SOT, SOD, EOC = 0xFF50, 0xFF51, 0xFF52, 0xFF90, 0xFF93, 0xFFD9
SSIZ = 42
"""Where the precision of the first component is in a codestream; each has three bytes."""


def read_jpeg2000(head: bytes) -> FrameHeader:
    """Read the main header of a codestream, or of one in a JP2 file."""
    data = bare(head)
    segments = dict(_main_header(data))
    siz, cod = segments.get(SIZ, b""), segments.get(COD, b"")
    right, bottom, left, top = (unsigned(siz, offset, 4) for offset in (2, 6, 10, 14))
    components = unsigned(siz, 34, 2)
    if right <= left or bottom <= top or not components:
        raise UndecodablePixelData("A JPEG 2000 frame does not say its size")
    unsigned(siz, 36, 3 * components)
    depths = set(siz[36 : 36 + 3 * components : 3])
    if len(depths) > 1 or set(siz[37 : 36 + 3 * components]) - depths - {1}:
        raise NotSupported("JPEG 2000 with components of different size or precision is not decoded")
    if any(siz[offset] != 1 for index in range(components) for offset in (37 + 3 * index, 38 + 3 * index)):
        raise NotSupported("JPEG 2000 with subsampled components is not decoded")
    depth = depths.pop()
    return FrameHeader(
        rows=bottom - top,
        columns=right - left,
        components=components,
        precision=(depth & 0x7F) + 1,
        is_signed=bool(depth & 0x80),
        is_lossy=True if unsigned(cod, 9, 1) == 0 else None,
        is_ycbcr=unsigned(cod, 4, 1) == 1 and components >= 3,
    )


def bare(data: bytes) -> bytes:
    """Return the codestream, taken out of its JP2 file if it is in one."""
    if not data.startswith(JP2_SIGNATURE):
        return data
    found = next((data[start:end] for kind, start, end in boxes(data) if kind == b"jp2c"), None)
    if found is None:
        raise UndecodablePixelData("A JP2 file contains no codestream")
    return found


def is_high_throughput(codestream: bytes) -> bool:
    """Whether a codestream has the marker of Part 15."""
    return any(marker == CAP for marker, _ in _main_header(codestream))


def has_end(data: bytes) -> bool:
    """Whether all tile-parts are complete. Many encoders forget End of FrameHeader, and it is not needed."""
    codestream = bare(data)
    offset = _first_tile(codestream)
    while codestream[offset : offset + 2] == b"\xff\x90":
        length = int.from_bytes(codestream[offset + 6 : offset + 10], "big")
        if length == 0:  # it extends to the end
            return codestream.rstrip(b"\0").endswith(b"\xff\xd9")
        offset += max(length, 14)
    return offset <= len(codestream)


def with_precision(codestream: bytes, bits: int, is_signed: bool) -> bytes:
    """Return a codestream whose main header says another precision, as the header of each component does."""
    changed = bytearray(codestream)
    components = unsigned(codestream, SSIZ - 2, 2)
    changed[SSIZ : SSIZ + 3 * components : 3] = bytes([bits - 1 | is_signed << 7]) * components
    return bytes(changed)


def _first_tile(codestream: bytes) -> int:
    return 2 + sum(4 + len(segment) for _, segment in _main_header(codestream))


def _main_header(codestream: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of the segments before the first tile."""
    if codestream[:4] != b"\xff\x4f\xff\x51":
        raise UndecodablePixelData("A JPEG 2000 frame does not begin with Start of FrameHeader and its size")
    offset = 2
    for _ in range(MOST_SEGMENTS):
        marker = unsigned(codestream, offset, 2)
        if marker == SOT:
            return
        length = unsigned(codestream, offset + 2, 2)
        if marker < 0xFF00 or length < 2:
            raise UndecodablePixelData("The header of a JPEG 2000 frame is damaged")
        unsigned(codestream, offset + 2 + length - 1, 1)
        yield marker, codestream[offset + 4 : offset + 2 + length]
        offset += 2 + length
    raise UndecodablePixelData(f"A JPEG 2000 frame has more than {MOST_SEGMENTS} segments before its first tile")
