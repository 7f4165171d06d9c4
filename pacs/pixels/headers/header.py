"""What the headers of all codestreams have in common: the record of one, and reading within bounds."""

from dataclasses import dataclass

from pacs.errors import UndecodablePixelData

MOST_SEGMENTS = 4096
"""The segments of a header that are read: no encoder writes a hundred, and the server reads headers itself."""


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """The header of a compressed frame; None or 0 for what a transfer syntax does not say."""

    rows: int
    columns: int
    components: int
    """Samples of a pixel; for RLE the number of segments."""
    precision: int
    """Bits of a sample."""
    is_signed: bool | None = None
    is_lossy: bool | None = None
    """Whether the method loses something; None if the header does not say."""
    is_ycbcr: bool | None = None
    """Whether the samples are YCbCr, which the decoder converts to RGB: by markers, component identifiers, subsampling
    or the multiple component transformation; None if the header does not say."""


def unsigned(data: bytes, offset: int, size: int) -> int:
    """Return the big-endian number at an offset; raises UndecodablePixelData beyond the end."""
    if offset + size > len(data):
        raise UndecodablePixelData("The header of a compressed frame is truncated")
    return int.from_bytes(data[offset : offset + size], "big")


def boxes(data: bytes) -> list[tuple[bytes, int, int]]:
    """Return type, start and end of the boxes of a file of JPEG 2000 or JPEG XL (ISO 15444-1 I.4)."""
    found: list[tuple[bytes, int, int]] = []
    offset = 0
    while offset + 8 <= len(data) and len(found) < MOST_SEGMENTS:
        size, header = unsigned(data, offset, 4), 8
        if size == 1:
            size, header = unsigned(data, offset + 8, 8), 16
        end = offset + size if size else len(data)
        if end < offset + header:
            raise UndecodablePixelData("A box of a compressed frame has an impossible length")
        found.append((data[offset + 4 : offset + 8], offset + header, min(end, len(data))))
        offset = end
    return found
