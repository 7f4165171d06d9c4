"""The unit of work of a decoder process: one frame."""

from dataclasses import dataclass

from pacs.pixels.image_pixel import ImagePixel


@dataclass(frozen=True, slots=True)
class FrameJob:
    """Convert one frame from one transfer syntax into another.

    A native frame is in little endian, and one of `bits_allocated` 1 is padded to whole bytes. A compressed frame is
    one codestream, its fragments joined.
    """

    data: bytes
    source: str
    """The transfer syntax of `data`; for a native frame Explicit VR Little Endian."""
    stored: ImagePixel
    """The attributes that the instance has."""
    target: str
    """The transfer syntax of the result; for a native frame Explicit VR Little Endian."""
    result: ImagePixel
    """The attributes of the result."""
