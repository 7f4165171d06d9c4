"""Which transfer syntaxes are decoded and encoded, and what the attributes are afterwards."""

from dataclasses import dataclass, replace

from pacs.dicom.syntaxes import NATIVE
from pacs.errors import NotSupported, UndecodablePixelData
from pacs.pixels.frame_header import FrameHeader
from pacs.pixels.image_pixel import BITS_ALLOCATED, ImagePixel
from pacs.pixels.transfer_syntaxes import (
    DEFLATED_FRAME,
    HTJ2K,
    HTJ2K_LOSSLESS,
    HTJ2K_LOSSLESS_RPCL,
    JPEG_2000,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    JPEG_LOSSLESS_SV1,
    JPEG_LS_LOSSLESS,
    JPEG_LS_NEAR_LOSSLESS,
    JPEG_XL,
    JPEG_XL_LOSSLESS,
    JPEG_XL_RECOMPRESSION,
    RLE_LOSSLESS,
)

KEEPS_COLOUR = {"YBR_FULL_422": "YBR_FULL"}
"""Decoders that return the samples as they are: none of these codestreams can be subsampled."""

JPEG_COLOUR = dict.fromkeys(
    ("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"), "RGB"
)
JPEG_2000_COLOUR = {"YBR_ICT": "RGB", "YBR_RCT": "RGB", "YBR_FULL_422": "YBR_FULL"}
JPEG_XL_COLOUR = {"XYB": "RGB", "YBR_ICT": "RGB", "YBR_RCT": "RGB", "YBR_FULL_422": "RGB"}
RECOMPRESSED_COLOUR = JPEG_XL_COLOUR | JPEG_COLOUR

COLOUR_DECODED: dict[str, dict[str, str]] = {
    HTJ2K_LOSSLESS: JPEG_2000_COLOUR,
    HTJ2K_LOSSLESS_RPCL: JPEG_2000_COLOUR,
    JPEG_2000_LOSSLESS: JPEG_2000_COLOUR,
    JPEG_LS_LOSSLESS: KEEPS_COLOUR,
    JPEG_LOSSLESS_SV1: KEEPS_COLOUR,
    JPEG_LOSSLESS: KEEPS_COLOUR,
    JPEG_XL_LOSSLESS: JPEG_XL_COLOUR,
    RLE_LOSSLESS: KEEPS_COLOUR,
    DEFLATED_FRAME: {},
    HTJ2K: JPEG_2000_COLOUR,
    JPEG_2000: JPEG_2000_COLOUR,
    JPEG_LS_NEAR_LOSSLESS: KEEPS_COLOUR,
    JPEG_XL: JPEG_XL_COLOUR,
    JPEG_XL_RECOMPRESSION: RECOMPRESSED_COLOUR,
    JPEG_EXTENDED: JPEG_COLOUR,
    JPEG_BASELINE: JPEG_COLOUR,
}
"""Photometric Interpretation afterwards where it changes, for each transfer syntax."""

DECODED: tuple[str, ...] = tuple(COLOUR_DECODED)
"""The transfer syntaxes with compressed frames that can be decoded."""


@dataclass(frozen=True, slots=True)
class _Encoder:
    """The images that an encoder represents without loss and the standard allows (PS3.5 8.2.2, 8.2.3, 8.2.4)."""

    keeps_unused_bits: bool = False
    """Whether bits outside Bits Stored come back: it encodes bytes, not numbers."""
    rgb: str = "RGB"
    """The Photometric Interpretation of its codestreams for RGB."""
    ybr_full: tuple[int, ...] = (8, 16)
    """Bits Allocated of YBR_FULL."""
    least_bits: int = 1


ENCODERS: dict[str, _Encoder] = {
    JPEG_LS_LOSSLESS: _Encoder(ybr_full=(8,), least_bits=2),
    HTJ2K_LOSSLESS: _Encoder(rgb="YBR_RCT"),
    HTJ2K_LOSSLESS_RPCL: _Encoder(rgb="YBR_RCT"),
    JPEG_2000_LOSSLESS: _Encoder(rgb="YBR_RCT"),
    RLE_LOSSLESS: _Encoder(ybr_full=(8,), keeps_unused_bits=True),
}

ENCODED: tuple[str, ...] = tuple(ENCODERS)
"""The transfer syntaxes that can be encoded, all lossless, in order of preference."""

SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3, "YBR_FULL": 3}
"""Samples per Pixel of the Photometric Interpretations that can be encoded (PS3.5 8.2)."""


def is_convertible(source: str, target: str) -> bool:
    """Return whether instances in a transfer syntax are converted into another one, if their pixel data allows it."""
    return source in (*NATIVE, *DECODED) and target in (*NATIVE, *ENCODED)


def decoded(source: str, stored: ImagePixel, codestream: FrameHeader) -> ImagePixel:
    """Return the attributes of native pixel data decoded from frames with such a header.

    Raises UndecodablePixelData when the header contradicts the attributes, NotSupported for what cannot be decoded.
    """
    if source not in COLOUR_DECODED:
        raise NotSupported("Pixel data in this transfer syntax is not decoded")
    _check_attributes(stored)
    _check_header(source, stored, codestream)
    if source == DEFLATED_FRAME:
        return stored
    photometric = stored.photometric_interpretation
    colour = "RGB" if codestream.is_ycbcr else COLOUR_DECODED[source].get(photometric, photometric)
    return replace(stored, photometric_interpretation=colour, planar_configuration=0)


def encoded(native: ImagePixel, target: str) -> ImagePixel:
    """Return the attributes of native pixel data once it is encoded in `target`.

    Raises NotSupported when `target` cannot represent it without loss.
    """
    encoder = ENCODERS.get(target)
    if encoder is None:
        raise NotSupported("Pixel data is not encoded in this transfer syntax")
    _check_encodable(native, encoder)
    colour = encoder.rgb if native.photometric_interpretation == "RGB" else native.photometric_interpretation
    return replace(native, photometric_interpretation=colour, planar_configuration=0)


def _check_attributes(stored: ImagePixel) -> None:
    if stored.bits_allocated not in BITS_ALLOCATED:
        raise NotSupported(f"Compressed pixel data with Bits Allocated {stored.bits_allocated} is not decoded")
    if not 0 < stored.bits_stored <= stored.bits_allocated or not stored.rows or not stored.columns:
        raise UndecodablePixelData("Bits Stored, Rows or Columns of compressed pixel data are impossible")


def _check_header(source: str, stored: ImagePixel, codestream: FrameHeader) -> None:
    expected = stored.samples_per_pixel
    if source == RLE_LOSSLESS:
        expected *= max(1, stored.bits_allocated // 8)
    _compare("Rows and Columns", (stored.rows, stored.columns), (codestream.rows, codestream.columns))
    _compare("Samples per Pixel" if source != RLE_LOSSLESS else "Bits Allocated", expected, codestream.components)
    if codestream.precision > stored.bits_allocated:
        raise UndecodablePixelData(
            f"A compressed frame has {codestream.precision} bits a sample, Bits Allocated is {stored.bits_allocated}"
        )


def _compare(what: str, attribute: object, header: object) -> None:
    if header not in (0, (0, 0), attribute):
        raise UndecodablePixelData(f"A compressed frame contradicts {what}; it says {header} instead of {attribute}")


def _check_encodable(native: ImagePixel, encoder: _Encoder) -> None:
    colour, samples = native.photometric_interpretation, native.samples_per_pixel
    if SAMPLES.get(colour) != samples:
        raise NotSupported(f"{colour} with {samples} samples per pixel is not encoded")
    if native.bits_allocated not in (encoder.ybr_full if colour == "YBR_FULL" else (8, 16)):
        raise NotSupported(f"{colour} with Bits Allocated {native.bits_allocated} is not encoded")
    if not colour.startswith("MONOCHROME") and native.pixel_representation:
        raise NotSupported(f"Signed {colour} is not encoded")
    if not encoder.least_bits <= native.bits_stored <= native.bits_allocated:
        raise NotSupported(f"Bits Stored {native.bits_stored} is not encoded")
    if not encoder.keeps_unused_bits and (native.overlays_in_pixels or native.high_bit != native.bits_stored - 1):
        raise NotSupported("Pixels with bits beside Bits Stored are not encoded")
