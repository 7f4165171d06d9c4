"""Render single frames: from stored values to samples of 8 bits. Runs in the decoder processes only."""

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy
from numpy.typing import NDArray

from pacs.errors import NotSupported
from pacs.pixels.image_pixel import ImagePixel
from pacs.pixels.rendering import JPEG, PNG, LookupTable, Rendering, Rescale, Window

Array = NDArray[Any]

MOST_TABLE_BITS = 16
"""Bits Stored up to which each possible value is transformed once; with more, each value of the frame."""

BLOCK = 1 << 20
"""Pixels of a colour image that are converted at once, as floating point numbers."""

PNG_LEVEL = 1
"""Of zlib: the highest level takes ten times as long, for a tenth less."""

_YBR_FULL = ((0.2990, 0.5870, 0.1140), (-0.1687, -0.3313, 0.5000), (0.5000, -0.4187, -0.0813))
_YBR_PARTIAL = ((0.2568, 0.5041, 0.0979), (-0.1482, -0.2910, 0.4392), (0.4392, -0.3678, -0.0714))
"""RGB to Y, Cb and Cr (PS3.3 C.7.6.3.1.2)."""


def rendered(native: bytes, image: ImagePixel, rendering: Rendering, result: ImagePixel, form: str) -> bytes:
    """Return a native frame as a picture of the size of `result`, encoded in `form`. Raises NotSupported."""
    picture = _fitted(render(native, image, rendering), result.rows, result.columns)
    if form == PNG:
        return bytes(imagecodecs.png_encode(picture, level=PNG_LEVEL))
    if form == JPEG:
        return bytes(imagecodecs.jpeg8_encode(picture, level=rendering.quality))
    return picture.tobytes()


def render(native: bytes, image: ImagePixel, rendering: Rendering) -> Array:
    """Return the samples of 8 bits, indexed by row, column, and colour if there are several. Raises NotSupported."""
    photometric = image.photometric_interpretation
    if photometric in _COLOURS and image.samples_per_pixel == 3:
        return _COLOURS[photometric](native, image)
    if photometric == "PALETTE COLOR" and image.samples_per_pixel == 1:
        return _coloured(_codes(native, image), image, rendering).reshape(image.rows, image.columns, 3)
    if photometric in ("MONOCHROME1", "MONOCHROME2") and image.samples_per_pixel == 1:
        return _grey(_codes(native, image), image, rendering).reshape(image.rows, image.columns)
    samples = image.samples_per_pixel
    raise NotSupported(f"Images in {photometric} with {samples} samples per pixel are not rendered")


# --- one sample a pixel ---------------------------------------------------------------------------------------------


def _codes(native: bytes, image: ImagePixel) -> Array:
    """Return the bits of each pixel as unsigned numbers, without what is beside Bits Stored."""
    if image.bits_allocated == 1:
        bits: Array = numpy.unpackbits(numpy.frombuffer(native, "u1"), bitorder="little")
        return bits[: image.rows * image.columns]
    words = numpy.frombuffer(native, f"<u{image.bits_allocated // 8}")
    unused = min(max(0, image.high_bit + 1 - image.bits_stored), image.bits_allocated - image.bits_stored)
    codes: Array = (words >> words.dtype.type(unused)) & words.dtype.type((1 << image.bits_stored) - 1)
    return codes


def _grey(codes: Array, image: ImagePixel, rendering: Rendering) -> Array:
    """Apply modality, VOI and presentation to each value there is, instead of to each pixel."""
    values, places, is_present = _values(codes, image)
    outputs = _modality(values, rendering.modality)
    if rendering.voi is None and rendering.padding is not None:
        lowest, highest = rendering.padding
        is_padding = (values >= lowest) & (values <= highest)
        is_present = is_present & ~is_padding if (is_present & ~is_padding).any() else is_present
    shares = _voi(outputs, rendering.voi or _whole_range(outputs[is_present]))
    if image.photometric_interpretation == "MONOCHROME1":
        shares = 1 - shares
    return _eight_bits(shares)[places]


def _coloured(codes: Array, image: ImagePixel, rendering: Rendering) -> Array:
    values, places, _ = _values(codes, image)
    channels = [_eight_bits(_looked_up(values, table) / ((1 << table.bits) - 1)) for table in rendering.palette]
    return numpy.stack(channels, axis=-1)[places]


def _values(codes: Array, image: ImagePixel) -> tuple[Array, Array, Array]:
    """Return the values that a frame may have, the place of each pixel's among them, and which of them it has."""
    if image.bits_stored <= MOST_TABLE_BITS:
        numbers, places = numpy.arange(1 << image.bits_stored), codes
        is_present = numpy.bincount(codes, minlength=len(numbers)) > 0
    else:
        numbers, places = numpy.unique(codes, return_inverse=True)
        is_present = numpy.ones(len(numbers), bool)
    values = numbers.astype("f8")
    if image.pixel_representation:
        values[numbers >= 1 << (image.bits_stored - 1)] -= float(1 << image.bits_stored)
    return values, places, is_present


def _modality(values: Array, modality: Rescale | LookupTable) -> Array:
    if isinstance(modality, LookupTable):
        return _looked_up(values, modality)
    rescaled: Array = values * modality.slope + modality.intercept
    return rescaled


def _looked_up(values: Array, table: LookupTable) -> Array:
    entries = numpy.frombuffer(table.words, "<u2").astype("f8")
    found: Array = entries[numpy.clip(numpy.rint(values) - table.first, 0, len(entries) - 1).astype(int)]
    return found


def _whole_range(values: Array) -> Window:
    """Return the window from the lowest to the highest value."""
    lowest, highest = float(values.min()), float(values.max())
    return Window((lowest + highest + 1) / 2, highest - lowest + 1)


def _voi(values: Array, voi: Window | LookupTable) -> Array:
    """Return the outputs as shares of the whole range, from 0 to 1."""
    if isinstance(voi, LookupTable):
        return _looked_up(values, voi) / ((1 << voi.bits) - 1)
    center, width = voi.center, voi.width
    if voi.function == "SIGMOID":
        with numpy.errstate(over="ignore"):
            return 1 / (1 + numpy.exp(-4 * (values - center) / width))
    if voi.function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype("f8")
    return numpy.clip((values - center) / width + 0.5, 0, 1)


def _eight_bits(shares: Array) -> Array:
    return numpy.floor(shares * 255 + 0.5).astype("u1")


# --- several samples a pixel ----------------------------------------------------------------------------------------


def _rgb(native: bytes, image: ImagePixel) -> Array:
    samples = _samples(native, image)
    return samples if image.bits_stored == 8 else _by_blocks(samples, lambda block: block, image)


def _ybr_full(native: bytes, image: ImagePixel) -> Array:
    return _by_blocks(_samples(native, image), _inverse(_YBR_FULL, 0, image), image)


def _ybr_full_422(native: bytes, image: ImagePixel) -> Array:
    return _by_blocks(_from_422(native, image), _inverse(_YBR_FULL, 0, image), image)


def _ybr_partial_422(native: bytes, image: ImagePixel) -> Array:
    return _by_blocks(_from_422(native, image), _inverse(_YBR_PARTIAL, 16, image), image)


_COLOURS: dict[str, Callable[[bytes, ImagePixel], Array]] = {
    "RGB": _rgb,
    "YBR_FULL": _ybr_full,
    "YBR_FULL_422": _ybr_full_422,
    "YBR_PARTIAL_422": _ybr_partial_422,
}


def _samples(native: bytes, image: ImagePixel) -> Array:
    """Return the samples, colour by pixel."""
    codes = _codes(native, image)
    if image.planar_configuration:
        return codes.reshape(3, image.rows, image.columns).transpose(1, 2, 0)
    return codes.reshape(image.rows, image.columns, 3)


def _from_422(native: bytes, image: ImagePixel) -> Array:
    """Return Y, Cb and Cr of each pixel; two neighbours share Cb and Cr (PS3.3 C.7.6.3.1.2)."""
    pairs = _codes(native, image).reshape(image.rows, image.columns // 2, 4)
    first, second = pairs[..., [0, 2, 3]], pairs[..., [1, 2, 3]]
    return numpy.stack([first, second], axis=2).reshape(image.rows, image.columns, 3)


def _inverse(matrix: tuple[tuple[float, ...], ...], black: int, image: ImagePixel) -> Callable[[Array], Array]:
    """Return the conversion of Y, Cb and Cr to RGB."""
    back = numpy.linalg.inv(numpy.array(matrix)).T.astype("f4")
    scale = 1 << max(0, image.bits_stored - 8)
    offsets = numpy.array([black * scale, 128 * scale, 128 * scale], "f4")
    return lambda block: (block - offsets) @ back


def _by_blocks(samples: Array, convert: Callable[[Array], Array], image: ImagePixel) -> Array:
    """Convert colours block by block, since floating point numbers take several times the memory, and scale them."""
    picture = numpy.empty(samples.shape, "u1")
    factor = numpy.float32(255 / ((1 << image.bits_stored) - 1))
    step = max(1, BLOCK // image.columns)
    for at in range(0, image.rows, step):
        block = convert(samples[at : at + step].astype("f4")) * factor
        picture[at : at + step] = numpy.clip(block + 0.5, 0, 255)
    return picture


# --- size -----------------------------------------------------------------------------------------------------------


def _fitted(picture: Array, rows: int, columns: int) -> Array:
    """Return a picture of this size, which is not larger: each pixel is the mean of those it stands for."""
    for axis, length in enumerate((rows, columns)):
        present = picture.shape[axis]
        if length >= present:
            continue
        edges = numpy.arange(length + 1) * present // length
        sums = numpy.add.reduceat(picture, edges[:-1], axis=axis, dtype="u4")
        counts = numpy.diff(edges).astype("u4").reshape([-1 if each == axis else 1 for each in range(picture.ndim)])
        picture = ((sums + counts // 2) // counts).astype("u1")
    return numpy.ascontiguousarray(picture)
