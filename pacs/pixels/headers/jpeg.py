"""The headers of JPEG (ISO 10918-1) and JPEG-LS (ISO 14495-1), which share their markers."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pacs.errors import NotSupported, UndecodablePixelData
from pacs.pixels.headers.header import MOST_SEGMENTS, FrameHeader, unsigned

SOS, FILL = 0xDA, 0xFF
LOSSLESS, JPEG_LS = 0xC3, 0xF7
FRAMES = {0xC0, 0xC1, 0xC2, LOSSLESS, JPEG_LS}
"""Start of Frame: baseline, extended, progressive, lossless, all with Huffman coding, and JPEG-LS."""

NOT_DECODED = {0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
"""Start of Frame: hierarchical, or with arithmetic coding."""

WITHOUT_LENGTH = {0x01, *range(0xD0, 0xDA)}
"""Markers that are not before the first scan: temporary, restart, start and end of image."""

RGB_IDENTIFIERS = (b"RGB", b"rgb")


@dataclass
class _Segments:
    """What the segments before the first scan say."""

    process: int = 0
    precision: int = 0
    rows: int = 0
    columns: int = 0
    identifiers: bytes = b""
    sampling: set[int] = field(default_factory=set)
    is_jfif: bool = False
    adobe_transform: int | None = None
    scan: bytes = b""


def read_jpeg(head: bytes) -> FrameHeader:
    """Read the header of a JPEG or JPEG-LS codestream."""
    found = _segments(head)
    components = len(found.identifiers)
    if not found.process or not found.rows or not found.columns or not components:
        raise UndecodablePixelData("A JPEG frame does not say its size")
    return FrameHeader(
        rows=found.rows,
        columns=found.columns,
        components=components,
        precision=found.precision,
        is_lossy=_is_lossy(found),
        is_ycbcr=_is_ycbcr(found) if components == 3 and found.process not in {LOSSLESS, JPEG_LS} else None,
    )


def has_end(data: bytes) -> bool:
    """Whether a codestream has its End of Image. No marker looks like it in the coded data (ISO 10918-1 F.1.2.3)."""
    return b"\xff\xd9" in data[-1024:] or b"\xff\xd9" in data


def without_spiff(data: bytes) -> bytes:
    """Return a JPEG-LS codestream without the SPIFF header that CharLS writes, which DICOM does not use."""
    offset = 2
    while data[offset : offset + 2] == b"\xff\xe8":
        offset += 2 + unsigned(data, offset + 2, 2)
    return data[:2] + data[offset:]


def _segments(head: bytes) -> _Segments:
    found = _Segments()
    for marker, segment in _walk(head):
        if marker in FRAMES:
            _read_frame(found, marker, segment)
        elif marker in NOT_DECODED:
            raise NotSupported("JPEG with hierarchical or arithmetic coding is not decoded")
        elif marker == 0xE0 and segment.startswith(b"JFIF\0"):
            found.is_jfif = True
        elif marker == 0xEE and segment.startswith(b"Adobe") and len(segment) >= 12:
            found.adobe_transform = segment[11]
        elif marker == SOS:
            found.scan = segment
    return found


def _walk(head: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of the segments, the first Start of Scan last."""
    if head[:2] != b"\xff\xd8":
        raise UndecodablePixelData("A JPEG frame does not begin with Start of Image")
    offset = 2
    for _ in range(MOST_SEGMENTS):
        marker = unsigned(head, offset + 1, 1)
        if head[offset] != 0xFF or marker in WITHOUT_LENGTH:
            raise UndecodablePixelData("The header of a JPEG frame is damaged")
        if marker == FILL:
            offset += 1
            continue
        length = unsigned(head, offset + 2, 2)
        unsigned(head, offset + 2 + length - 1, 1)
        yield marker, head[offset + 4 : offset + 2 + length]
        if marker == SOS:
            return
        offset += 2 + max(length, 2)
    raise UndecodablePixelData(f"A JPEG frame has more than {MOST_SEGMENTS} segments before its first scan")


def _read_frame(found: _Segments, marker: int, segment: bytes) -> None:
    if found.process:
        raise UndecodablePixelData("A JPEG frame contains several images")
    found.process = marker
    found.precision = unsigned(segment, 0, 1)
    found.rows, found.columns = unsigned(segment, 1, 2), unsigned(segment, 3, 2)
    count = unsigned(segment, 5, 1)
    unsigned(segment, 6, 3 * count)
    found.identifiers = segment[6 : 6 + 3 * count : 3]
    found.sampling = set(segment[7 : 6 + 3 * count : 3])


def _is_lossy(found: _Segments) -> bool:
    """NEAR of JPEG-LS, and the point transform of lossless JPEG, say how much they lose."""
    if found.process == JPEG_LS:
        return len(found.scan) >= 3 and found.scan[-3] > 0
    if found.process == LOSSLESS:
        return len(found.scan) >= 1 and found.scan[-1] & 0x0F > 0
    return True


def _is_ycbcr(found: _Segments) -> bool | None:
    """As libjpeg decides, but no guess by component identifiers: without markers Photometric Interpretation is right.

    Subsampled components are YCbCr whatever Adobe's marker says, as nobody subsamples green.
    """
    if found.identifiers in RGB_IDENTIFIERS:
        return False
    if found.is_jfif or len(found.sampling) > 1:
        return True
    return found.adobe_transform > 0 if found.adobe_transform is not None else None
