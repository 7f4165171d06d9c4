"""Which transfer syntaxes are decoded and encoded, and what the attributes are afterwards."""

from pacs.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE, NATIVE
from pacs.pixels.codestream import Codestream
from pacs.pixels.image_pixel import ImagePixel

DECODED: tuple[str, ...] = ()
"""The transfer syntaxes with compressed frames that can be decoded."""

ENCODED: tuple[str, ...] = ()
"""The transfer syntaxes that can be encoded, all lossless, in order of preference."""


def is_convertible(source: str, target: str) -> bool:
    """Return whether instances in a transfer syntax are converted into another one, if their pixel data allows it."""
    return source in (*NATIVE, *DECODED) and target in (EXPLICIT_LITTLE, IMPLICIT_LITTLE, *ENCODED)


def decoded(source: str, stored: ImagePixel, codestream: Codestream) -> ImagePixel:
    """Return the attributes of native pixel data decoded from frames with such a header.

    Raises UndecodablePixelData when the header contradicts the attributes, NotSupported for what cannot be decoded.
    """
    raise NotImplementedError(source, stored, codestream)


def encoded(native: ImagePixel, target: str) -> ImagePixel:
    """Return the attributes of native pixel data once it is encoded in `target`.

    Raises NotSupported when `target` cannot represent it without loss.
    """
    raise NotImplementedError(native, target)
