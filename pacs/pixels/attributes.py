"""The attributes of images: read from a data set, and what changes in them when the pixel data is converted."""

from struct import pack

from pacs.errors import UndecodablePixelData
from pacs.pixels import transfer_syntaxes as syntaxes
from pacs.pixels.image_pixel import ImagePixel
from pacs.pixels.survey import SurveyedDataSet
from pacs.pixels.tags import (
    ALLOCATED,
    COLUMNS,
    EXTREMES,
    HIGH_BIT,
    LOSSY,
    LOSSY_METHOD,
    LOSSY_RATIO,
    NUMBER_OF_FRAMES,
    OVERLAY_DATA,
    PHOTOMETRIC,
    PLANAR,
    REPRESENTATION,
    ROWS,
    SAMPLES,
    STORED,
    is_overlay,
)

_NAMES = {
    SAMPLES: "Samples per Pixel", PHOTOMETRIC: "Photometric Interpretation", ROWS: "Rows", COLUMNS: "Columns",
    ALLOCATED: "Bits Allocated", STORED: "Bits Stored", HIGH_BIT: "High Bit",
}  # fmt: skip

_METHODS = {
    f"1.2.840.10008.1.2.4.{end}": method
    for method, ends in {
        "ISO_10918_1": (50, 51, 57, 70, 111),  # 111 recompresses a JPEG without further loss
        "ISO_14495_1": (80, 81),
        "ISO_15444_1": (90, 91),
        "ISO_15444_15": (201, 202, 203),
        "ISO_18181_1": (110, 112),
    }.items()
    for end in ends
}
"""Lossy Image Compression Method (PS3.3 C.7.6.1.1.5.1) of transfer syntaxes; lossless ones may hold lossy frames."""

_ALWAYS_LOSSY = frozenset((syntaxes.JPEG_BASELINE, syntaxes.JPEG_EXTENDED, syntaxes.JPEG_XL_RECOMPRESSION))

Changes = dict[int, tuple[str, bytes] | None]
"""New VR and value, in little endian, of each element that changes; None for an element that is removed."""


def read_image_pixel(data_set: SurveyedDataSet) -> ImagePixel:
    """Return the attributes of the pixel data of a data set.

    Raises UndecodablePixelData for one that is missing or impossible.
    """
    stored, allocated = _required(data_set, STORED), _required(data_set, ALLOCATED)
    if allocated != 1 and allocated % 8:
        raise _impossible(ALLOCATED, allocated)
    if stored > allocated:
        comment = f"{_named(STORED)} is {stored}, more than {_named(ALLOCATED)}, {allocated}"
        raise UndecodablePixelData(comment, [STORED, ALLOCATED])
    high_bit = _number(data_set, HIGH_BIT, stored - 1)
    return ImagePixel(
        rows=_required(data_set, ROWS),
        columns=_required(data_set, COLUMNS),
        samples_per_pixel=_required(data_set, SAMPLES),
        photometric_interpretation=_photometric(data_set),
        planar_configuration=_number(data_set, PLANAR, 0),
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high_bit,
        pixel_representation=_number(data_set, REPRESENTATION, 0),
        number_of_frames=max(1, _number(data_set, NUMBER_OF_FRAMES, 1)),
        overlays_in_pixels=_has_overlays_in_pixels(data_set, stored, high_bit),
    )


def _required(data_set: SurveyedDataSet, tag: int) -> int:
    value = data_set.values.get(tag)
    if value is None or value.number is None:
        raise UndecodablePixelData(f"{_named(tag)} is missing", [tag])
    if value.number <= 0:
        raise _impossible(tag, value.number)
    return value.number


def _impossible(tag: int, number: int) -> UndecodablePixelData:
    return UndecodablePixelData(f"{_named(tag)} is {number}, which is not possible", [tag])


def _named(tag: int) -> str:
    return f"{_NAMES[tag]} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _number(data_set: SurveyedDataSet, tag: int, default: int) -> int:
    number = data_set.values[tag].number if tag in data_set.values else None
    return default if number is None else number


def _photometric(data_set: SurveyedDataSet) -> str:
    text = data_set.values[PHOTOMETRIC].texts[0] if PHOTOMETRIC in data_set.values else ""
    if not text:
        raise UndecodablePixelData(f"{_named(PHOTOMETRIC)} is missing", [PHOTOMETRIC])
    return text


def _has_overlays_in_pixels(data_set: SurveyedDataSet, stored: int, high_bit: int) -> bool:
    """Return whether an overlay without Overlay Data is in bits that are not used by pixels (PS3.5 8.1.2)."""
    positions = [tag for tag in data_set.values if is_overlay(tag)]
    embedded = [tag for tag in positions if tag & 0xFFFF0000 | OVERLAY_DATA not in data_set]
    return any(not high_bit - stored < _number(data_set, tag, high_bit) <= high_bit for tag in embedded)


def changes(data_set: SurveyedDataSet, result: ImagePixel) -> Changes:
    """Return what changes in the attributes of a data set so that they describe `result`."""
    numbers = {
        SAMPLES: result.samples_per_pixel, ROWS: result.rows, COLUMNS: result.columns, ALLOCATED: result.bits_allocated,
        STORED: result.bits_stored, HIGH_BIT: result.high_bit, REPRESENTATION: result.pixel_representation,
    }  # fmt: skip
    if result.samples_per_pixel > 1:
        numbers[PLANAR] = result.planar_configuration
    changed: Changes = {
        tag: ("US", pack("<H", number)) for tag, number in numbers.items() if _number(data_set, tag, -1) != number
    }
    if _photometric(data_set) != result.photometric_interpretation:
        changed |= {PHOTOMETRIC: ("CS", _padded(result.photometric_interpretation))} | dict.fromkeys(EXTREMES)
    return changed


def is_lossy(syntax: str, codestream_is_lossy: bool | None) -> bool:
    """Return whether a transfer syntax, or a frame in it, has lost information."""
    return syntax in _ALWAYS_LOSSY or (syntax in _METHODS and codestream_is_lossy is True)


def lossy_changes(data_set: SurveyedDataSet, syntax: str, ratio: float) -> Changes:
    """Return what changes in the attributes of an image that was compressed with loss.

    This compression is added behind earlier ones in the lists, unless Lossy Image Compression is 01: then it is one of
    them, and only an empty list gets it.
    """
    is_known = LOSSY in data_set.values and data_set.values[LOSSY].texts[0] == "01"
    changed: Changes = dict.fromkeys(EXTREMES)
    if not is_known:
        changed[LOSSY] = ("CS", b"01")
    for tag, vr, text in ((LOSSY_RATIO, "DS", f"{ratio:.2f}"), (LOSSY_METHOD, "CS", _METHODS[syntax])):
        earlier = list(filter(None, data_set.values[tag].texts)) if tag in data_set.values else []
        if not (is_known and earlier):
            changed[tag] = (vr, _padded("\\".join([*earlier, text])))
    return changed


def _padded(text: str) -> bytes:
    return (text + " " * (len(text) % 2)).encode("latin-1")
