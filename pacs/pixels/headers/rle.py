"""The header of RLE (PS3.5 Annex G)."""

from struct import unpack

from pacs.errors import UndecodablePixelData
from pacs.pixels.headers.header import FrameHeader

MOST_SEGMENTS = 15


def read_rle(head: bytes) -> FrameHeader:
    """Read the number of segments, and check where they begin."""
    if len(head) < 64:
        raise UndecodablePixelData("The header of an RLE frame is truncated")
    count, *offsets = unpack("<16I", head[:64])
    starts = offsets[:count]
    if not 0 < count <= MOST_SEGMENTS or starts[0] != 64 or starts != sorted(starts):
        raise UndecodablePixelData("The header of an RLE frame is damaged")
    return FrameHeader(rows=0, columns=0, components=count, precision=0, is_lossy=False)
