"""Frames made to cost a decoder much memory or time: few bytes that claim, or become, many."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace

import imagecodecs
import numpy

from pacs.pixels import transfer_syntaxes as syntaxes
from pacs.pixels.image_pixel import ImagePixel
from tests.hostile.frames import Valid, valid_frames

JPEGS = (
    syntaxes.JPEG_BASELINE,
    syntaxes.JPEG_EXTENDED,
    syntaxes.JPEG_LOSSLESS,
    syntaxes.JPEG_LOSSLESS_SV1,
    syntaxes.JPEG_LS_LOSSLESS,
    syntaxes.JPEG_LS_NEAR_LOSSLESS,
)
JPEGS_2000 = (
    syntaxes.JPEG_2000_LOSSLESS,
    syntaxes.JPEG_2000,
    syntaxes.HTJ2K_LOSSLESS,
    syntaxes.HTJ2K_LOSSLESS_RPCL,
    syntaxes.HTJ2K,
)
JPEGS_XL = (syntaxes.JPEG_XL_LOSSLESS, syntaxes.JPEG_XL_RECOMPRESSION, syntaxes.JPEG_XL)
ABSURD = 40_000
"""Rows and columns that no frame has."""


def bombs(side: int, scans: int) -> Iterator[tuple[str, Valid]]:
    """Yield bombs with their names: `side` is the number of rows and columns of those that an instance may have."""
    for syntax in (*JPEGS, *JPEGS_2000, *JPEGS_XL):
        valid = valid_frames(syntax)[3]
        for claimed in (side, ABSURD if syntax not in JPEGS_XL else 8192):
            data = _claiming(syntax, valid.data, claimed)
            yield f"{syntax} claims {claimed}", replace(valid, data=data)
            yield f"{syntax} and its instance claim {claimed}", Valid(data, syntax, _sized(valid.stored, claimed))
    yield from _expanding(side)
    yield from jpeg_scans(side, scans)
    yield from _jpeg_ls_cut_off(side)
    yield from _jpeg_2000_structures(side)


def _sized(stored: ImagePixel, side: int) -> ImagePixel:
    return replace(stored, rows=side, columns=side)


def _claiming(syntax: str, data: bytes, side: int) -> bytes:
    """Return a frame whose header claims other rows and columns."""
    if syntax in JPEGS:
        return _jpeg_claiming(data, side)
    if syntax in JPEGS_2000:
        return data[:8] + struct.pack(">8L", side, side, 0, 0, side, side, 0, 0) + data[40:]
    return _jpeg_xl_claiming(data, side)


def _jpeg_claiming(data: bytes, side: int) -> bytes:
    """Write rows and columns into Start of Frame."""
    at = next(each for each in range(2, len(data)) if data[each] == 0xFF and data[each + 1] in (0xC0, 0xC1, 0xC3, 0xF7))
    return data[: at + 5] + struct.pack(">HH", side, side) + data[at + 9 :]


def _jpeg_xl_claiming(data: bytes, side: int) -> bytes:
    """Return a bare codestream whose two sizes are written in 13 bits each, before in 9 (ISO 18181-1 D.2)."""
    bits = int.from_bytes(data[data.index(b"\xff\x0a") + 2 :], "little")
    sizes = 1 << 1 | (side - 1) << 3 | 1 << 19 | (side - 1) << 21
    changed = sizes | bits >> 26 << 34
    return b"\xff\x0a" + changed.to_bytes(len(data) + 2, "little").rstrip(b"\0")


# --- what expands ----------------------------------------------------------------------------------------------------


def _expanding(side: int) -> Iterator[tuple[str, Valid]]:
    """Yield frames that become more than their instance has, or exactly that and a thousand times their size."""
    small = valid_frames(syntaxes.RLE_LOSSLESS)[1].stored
    runs = struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\x00" * (4 << 20)
    yield "RLE expands to 512 MiB", Valid(runs, syntaxes.RLE_LOSSLESS, small)
    segments = struct.pack("<16L", 15, *[64] * 15) + b"\x81\x00" * (1 << 20)
    yield "RLE with the same segment 15 times", Valid(segments, syntaxes.RLE_LOSSLESS, small)
    empty = struct.pack("<16L", 1, 64, *[0] * 14) + b"\x80" * (4 << 20)
    yield "RLE that never says anything", Valid(empty, syntaxes.RLE_LOSSLESS, _sized(small, side))
    zeros = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    deflated = (zeros.compress(bytes(1 << 20)) + zeros.flush(zlib.Z_FULL_FLUSH)) * 1024 + b"\x03\0"
    yield "a deflated GiB", Valid(deflated, syntaxes.DEFLATED_FRAME, small)
    yield "a deflated GiB in a large instance", Valid(deflated, syntaxes.DEFLATED_FRAME, _sized(small, side))
    grey = numpy.zeros((side, side), "u1")
    large = imagecodecs.jpegxl_encode(grey, lossless=True, effort=1, numthreads=1)
    yield "JPEG XL of one colour", Valid(large, syntaxes.JPEG_XL_LOSSLESS, small)
    yield "JPEG XL of one colour in a large instance", Valid(large, syntaxes.JPEG_XL_LOSSLESS, _sized(small, side))


# --- what takes long ------------------------------------------------------------------------------------------------


def jpeg_scans(side: int, count: int) -> Iterator[tuple[str, Valid]]:
    """Yield progressive JPEGs with thousands of scans, each of which goes over all blocks of the image."""
    head = valid_frames(syntaxes.JPEG_BASELINE)[0].data
    tables = head[: head.index(b"\xff\xda")]
    at = tables.index(b"\xff\xc0")
    progressive = tables[: at + 1] + b"\xc2" + tables[at + 2 :]
    scans = b"\xff\xda\0\x08\1\1\0\0\0\0\0" + b"\xff\xda\0\x08\1\1\0\1\5\0\0" * count
    data = _with_size(progressive, side) + scans + b"\xff\xd9"
    stored = _sized(valid_frames(syntaxes.JPEG_BASELINE)[0].stored, side)
    for syntax in (syntaxes.JPEG_BASELINE, syntaxes.JPEG_EXTENDED):
        yield f"{syntax} with {count} scans", Valid(data, syntax, stored)


def _with_size(tables: bytes, side: int) -> bytes:
    at = tables.index(b"\xff\xc2")
    return tables[: at + 5] + struct.pack(">HH", side, side) + tables[at + 9 :]


def _jpeg_ls_cut_off(side: int) -> Iterator[tuple[str, Valid]]:
    """Yield JPEG-LS frames cut off at many places, whose last bytes are nevertheless an End of Image."""
    grey = (numpy.add.outer(numpy.arange(side), numpy.arange(side)) % 251).astype("u1")
    data, stored = imagecodecs.jpegls_encode(grey), _sized(valid_frames(syntaxes.JPEG_LS_LOSSLESS)[1].stored, side)
    for part in (0.01, 0.1, 0.5, 0.9, 0.999):
        cut = data[: int(len(data) * part)]
        yield f"JPEG-LS with {part:.1%} of its data", Valid(cut, syntaxes.JPEG_LS_LOSSLESS, stored)
        for tail in (b"\xff\xd9", b"\xff\xff\xff\xd9", bytes(1000) + b"\xff\xd9", b"\xff" * 1000 + b"\xff\xd9"):
            name = f"JPEG-LS with {part:.1%} of its data and {len(tail)} bytes"
            yield name, Valid(cut + tail, syntaxes.JPEG_LS_LOSSLESS, stored)


def _jpeg_2000_structures(side: int) -> Iterator[tuple[str, Valid]]:
    """Yield JPEG 2000 frames with millions of tiles, thousands of components, layers and decompositions."""
    for syntax in JPEGS_2000:
        valid = valid_frames(syntax)[1]
        data, stored = valid.data, _sized(valid.stored, side)
        cod = data.index(b"\xff\x52")
        claimed = struct.pack(">4L", side, side, 0, 0)
        tiles = data[:8] + claimed + struct.pack(">4L", 1, 1, 0, 0) + data[40:]
        yield f"{syntax} with tiles of one pixel", Valid(tiles, syntax, stored)
        large = data[:8] + claimed + struct.pack(">4L", 2**31, 2**31, 0, 0) + data[40:]
        yield f"{syntax} with a tile of 2^62 pixels", Valid(large, syntax, stored)
        many = struct.pack(">HH", 38 + 3 * 16384, struct.unpack(">H", data[6:8])[0]) + data[8:40]
        components = data[:4] + many + struct.pack(">H", 16384) + b"\x07\1\1" * 16384 + data[45:]
        yield f"{syntax} with 16,384 components", Valid(components, syntax, valid.stored)
        layers = data[: cod + 6] + b"\xff\xff" + data[cod + 8 :]
        yield f"{syntax} with 65,535 layers", Valid(layers, syntax, valid.stored)
        levels = data[: cod + 9] + b"\x20" + data[cod + 10 :]
        yield f"{syntax} with 32 decompositions", Valid(levels, syntax, valid.stored)
        offset = data[:8] + struct.pack(">8L", 2**32 - 1, 2**32 - 1, *[2**32 - 1 - side] * 2, 1, 1, 0, 0) + data[40:]
        yield f"{syntax} at the end of the reference grid", Valid(offset, syntax, stored)
