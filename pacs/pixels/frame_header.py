"""Headers of compressed frames: their size, precision and colour, read before anything is decoded.

So a frame that claims more pixels than its instance has is never given to a decoder.
"""

from collections.abc import Callable

from pacs.errors import NotSupported, UndecodablePixelData
from pacs.pixels import transfer_syntaxes as syntaxes
from pacs.pixels.headers import jpeg, jpeg2000, jpegxl, rle
from pacs.pixels.headers.header import FrameHeader

__all__ = ["FrameHeader", "check_end", "read_frame_header"]


def _no_header(_: bytes) -> FrameHeader:
    return FrameHeader(rows=0, columns=0, components=0, precision=0, is_lossy=False)


_READERS: dict[str, Callable[[bytes], FrameHeader]] = {
    syntaxes.JPEG_BASELINE: jpeg.read_jpeg,
    syntaxes.JPEG_EXTENDED: jpeg.read_jpeg,
    syntaxes.JPEG_LOSSLESS: jpeg.read_jpeg,
    syntaxes.JPEG_LOSSLESS_SV1: jpeg.read_jpeg,
    syntaxes.JPEG_LS_LOSSLESS: jpeg.read_jpeg,
    syntaxes.JPEG_LS_NEAR_LOSSLESS: jpeg.read_jpeg,
    syntaxes.JPEG_2000_LOSSLESS: jpeg2000.read_jpeg2000,
    syntaxes.JPEG_2000: jpeg2000.read_jpeg2000,
    syntaxes.HTJ2K_LOSSLESS: jpeg2000.read_jpeg2000,
    syntaxes.HTJ2K_LOSSLESS_RPCL: jpeg2000.read_jpeg2000,
    syntaxes.HTJ2K: jpeg2000.read_jpeg2000,
    syntaxes.JPEG_XL_LOSSLESS: jpegxl.read_jpegxl,
    syntaxes.JPEG_XL_RECOMPRESSION: jpegxl.read_jpegxl,
    syntaxes.JPEG_XL: jpegxl.read_jpegxl,
    syntaxes.RLE_LOSSLESS: rle.read_rle,
    syntaxes.DEFLATED_FRAME: _no_header,
}

_ENDS: dict[Callable[[bytes], FrameHeader], Callable[[bytes], bool]] = {
    jpeg.read_jpeg: jpeg.has_end,
    jpeg2000.read_jpeg2000: jpeg2000.has_end,
}


def read_frame_header(transfer_syntax: str, head: bytes) -> FrameHeader:
    """Read the header of a frame from its first bytes.

    Raises UndecodablePixelData when there is none, NotSupported for a codestream that no decoder here takes.
    """
    reader = _READERS.get(transfer_syntax)
    if reader is None:
        raise NotSupported("Pixel data in this transfer syntax is not decoded")
    return reader(head)


def check_end(transfer_syntax: str, frame: bytes) -> None:
    """Raise UndecodablePixelData if a frame has been cut off, where that is quickly seen.

    Decoders fill what is missing with grey, and some do not end.
    """
    has_end = _ENDS.get(_READERS[transfer_syntax])
    if has_end is not None and not has_end(frame):
        raise UndecodablePixelData("A compressed frame is truncated")
