"""Instances with known pixels in each transfer syntax with compressed frames, made without `pacs.pixels`.

`sample(transfer_syntax)` returns one instance twice, compressed and native; `SYNTAXES` are those there are.
"""

import zlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import imagecodecs
import numpy
import pynetdicom  # noqa: F401  it makes JPEG XL and Deflated Image Frame Compression known to pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import RLELosslessEncoder
from pydicom.uid import ExplicitVRLittleEndian
from rle import rle

from pacs.pixels import transfer_syntaxes as syntaxes
from pacs.testing import study
from pacs.testing.builders import uid

Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True)
class Sample:
    """One instance, compressed and native, both complete and with File Meta Information."""

    compressed: Dataset
    native: Dataset
    difference: int
    """The largest difference of a decoded sample from the native one; 0 for lossless syntaxes."""

    @property
    def transfer_syntax(self) -> str:
        """The transfer syntax of the compressed one."""
        return str(self.compressed.file_meta.TransferSyntaxUID)

    @property
    def pixels(self) -> Array:
        """The native samples, indexed by frame, row, column, and sample if there are several."""
        return pixels_of(self.native)


def file_of(dataset: Dataset) -> bytes:
    """Return the Part 10 file of a data set."""
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def pixels_of(dataset: Dataset) -> Array:
    """Return native samples, indexed by frame, row, column, and sample if there are several; planes are undone."""
    kind = "i" if dataset.PixelRepresentation else "u"
    frames, samples = int(dataset.get("NumberOfFrames", 1)), dataset.SamplesPerPixel
    shape = [frames, dataset.Rows, dataset.Columns] + ([samples] if samples > 1 else [])
    count = int(numpy.prod(shape))
    if dataset.BitsAllocated == 1:
        return numpy.unpackbits(numpy.frombuffer(dataset.PixelData, "u1"), bitorder="little")[:count].reshape(shape)
    words = numpy.frombuffer(dataset.PixelData, f"<{kind}{dataset.BitsAllocated // 8}", count)
    if samples > 1 and dataset.PlanarConfiguration:
        return words.reshape(frames, samples, dataset.Rows, dataset.Columns).transpose(0, 2, 3, 1)
    return words.reshape(shape)


@dataclass(frozen=True)
class _Method:
    """How frames are made for one transfer syntax."""

    encode: Callable[[Array, int, bool], bytes]
    """Called with samples, Bits Stored, and whether they are RGB."""
    colour: str = "RGB"
    """The Photometric Interpretation of RGB afterwards."""
    bits: int = 12
    grey: int = 0
    """The most that a sample of 8 bits differs afterwards, if it is not a colour."""
    colour_samples: int = 0
    is_absolute: bool = False
    """Whether samples of more bits differ by no more."""

    def difference(self, bits: int, is_colour: bool) -> int:
        """Return the most that a sample of so many bits differs."""
        return (self.colour_samples if is_colour else self.grey) << (0 if self.is_absolute else max(0, bits - 8))


def _jpeg(samples: Array, bits: int, _: bool) -> bytes:
    return imagecodecs.jpeg8_encode(samples, level=98, bitspersample=8 if bits == 8 else 12, subsampling="444")


def _jpeg_422(samples: Array, bits: int, _: bool) -> bytes:
    return imagecodecs.jpeg8_encode(samples, level=98, bitspersample=bits, subsampling="422")


def _jpeg_lossless(predictor: int) -> Callable[[Array, int, bool], bytes]:
    def encode(samples: Array, bits: int, _: bool) -> bytes:
        unsigned = samples.view(f"u{samples.itemsize}") & numpy.array((1 << bits) - 1, f"u{samples.itemsize}")
        return imagecodecs.jpeg8_encode(unsigned, lossless=True, predictor=predictor, bitspersample=bits)

    return encode


def _jpeg_ls(near: int) -> Callable[[Array, int, bool], bytes]:
    def encode(samples: Array, bits: int, _: bool) -> bytes:
        unsigned = samples.view(f"u{samples.itemsize}") & numpy.array((1 << bits) - 1, f"u{samples.itemsize}")
        return imagecodecs.jpegls_encode(unsigned, near)

    return encode


def _jpeg_2000(samples: Array, bits: int, is_rgb: bool) -> bytes:
    options = {"codecformat": "J2K", "bitspersample": bits, "mct": is_rgb}
    return imagecodecs.jpeg2k_encode(samples, level=0, reversible=True, **options)


def _jpeg_2000_lossy(samples: Array, bits: int, is_rgb: bool) -> bytes:
    options = {"codecformat": "J2K", "bitspersample": bits, "mct": is_rgb}
    return imagecodecs.jpeg2k_encode(samples, level=60, reversible=False, **options)


def _htj2k(samples: Array, _: int, is_rgb: bool) -> bytes:
    return imagecodecs.htj2k_encode(samples, reversible=True, planar=False, rgb=is_rgb)


def _htj2k_rpcl(samples: Array, _: int, is_rgb: bool) -> bytes:
    return imagecodecs.htj2k_encode(samples, reversible=True, planar=False, rgb=is_rgb, tlm=True, tilepart=1)


def _htj2k_lossy(samples: Array, _: int, is_rgb: bool) -> bytes:
    return imagecodecs.htj2k_encode(samples, 0.0001, reversible=False, planar=False, rgb=is_rgb)


def _jpeg_xl(samples: Array, bits: int, _: bool) -> bytes:
    return imagecodecs.jpegxl_encode(samples, lossless=True, bitspersample=bits, numthreads=1)


def _jpeg_xl_lossy(samples: Array, bits: int, _: bool) -> bytes:
    return imagecodecs.jpegxl_encode(samples, distance=0.1, lossless=False, bitspersample=bits, numthreads=1)


def _jpeg_xl_recompressed(samples: Array, bits: int, _: bool) -> bytes:
    return imagecodecs.jpegxl_encode_jpeg(_jpeg_422(samples, bits, True), usecontainer=True, numthreads=1)


def _rle(samples: Array, bits: int, _: bool) -> bytes:
    """Encode with pydicom's own encoder; it refuses more than 16 bits, which the standard does not allow."""
    if bits > 16:
        return bytes(rle.encode_frame(samples.tobytes(), *samples.shape, 1, 8 * samples.itemsize, "<"))
    return RLELosslessEncoder.encode(
        samples.tobytes(),
        rows=samples.shape[0],
        columns=samples.shape[1],
        samples_per_pixel=3 if samples.ndim == 3 else 1,
        photometric_interpretation="RGB" if samples.ndim == 3 else "MONOCHROME2",
        bits_allocated=8 * samples.itemsize,
        bits_stored=8 * samples.itemsize,
        pixel_representation=0,
        number_of_frames=1,
        planar_configuration=0,
        encoding_plugin="pydicom",
    )


def _deflated(samples: Array, bits: int, _: bool) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    native = numpy.packbits(samples, bitorder="little") if bits == 1 else samples
    return deflater.compress(native.tobytes()) + deflater.flush()


METHODS = {
    syntaxes.JPEG_BASELINE: _Method(_jpeg_422, "YBR_FULL_422", 8, 4, 12),
    syntaxes.JPEG_EXTENDED: _Method(_jpeg, "YBR_FULL", 12, 1, 6),
    syntaxes.JPEG_LOSSLESS: _Method(_jpeg_lossless(predictor=6)),
    syntaxes.JPEG_LOSSLESS_SV1: _Method(_jpeg_lossless(predictor=1)),
    syntaxes.JPEG_LS_LOSSLESS: _Method(_jpeg_ls(near=0)),
    syntaxes.JPEG_LS_NEAR_LOSSLESS: _Method(_jpeg_ls(near=3), "RGB", 12, 3, 3, is_absolute=True),
    syntaxes.JPEG_2000_LOSSLESS: _Method(_jpeg_2000, "YBR_RCT"),
    syntaxes.JPEG_2000: _Method(_jpeg_2000_lossy, "YBR_ICT", 12, 3, 8),
    syntaxes.JPEG_XL_LOSSLESS: _Method(_jpeg_xl),
    syntaxes.JPEG_XL_RECOMPRESSION: _Method(_jpeg_xl_recompressed, "YBR_FULL_422", 8, 4, 12),
    syntaxes.JPEG_XL: _Method(_jpeg_xl_lossy, "XYB", 12, 1, 4),
    syntaxes.HTJ2K_LOSSLESS: _Method(_htj2k, "YBR_RCT"),
    syntaxes.HTJ2K_LOSSLESS_RPCL: _Method(_htj2k_rpcl, "YBR_RCT"),
    syntaxes.HTJ2K: _Method(_htj2k_lossy, "YBR_ICT", 12, 2, 1),
    syntaxes.RLE_LOSSLESS: _Method(_rle),
    syntaxes.DEFLATED_FRAME: _Method(_deflated),
}

SYNTAXES = tuple(METHODS)
"""The transfer syntaxes of which there are samples: all that are decoded."""

LOSSLESS = tuple(syntax for syntax, method in METHODS.items() if method.grey == 0)


def can_be_made(transfer_syntax: str, photometric: str, bits: int, is_signed: bool = False) -> bool:
    """Whether an encoder here makes it, and the standard allows it (PS3.5 8.2)."""
    if bits == 1:
        return transfer_syntax in {syntaxes.JPEG_2000_LOSSLESS, syntaxes.DEFLATED_FRAME}
    if bits > 16:
        return transfer_syntax in {syntaxes.RLE_LOSSLESS, syntaxes.DEFLATED_FRAME}
    if photometric in {"PALETTE COLOR", "YBR_FULL"} or is_signed:
        return transfer_syntax in set(LOSSLESS) - {syntaxes.JPEG_XL_LOSSLESS} or (
            photometric == "MONOCHROME2" and transfer_syntax in {syntaxes.JPEG_2000, syntaxes.HTJ2K}
        )
    most = {syntaxes.JPEG_BASELINE: 8, syntaxes.JPEG_XL_RECOMPRESSION: 8, syntaxes.JPEG_EXTENDED: 12}
    return bits <= most.get(transfer_syntax, 16)


SIZE = (48, 64)
"""Rows and columns of the samples."""


def sample(
    transfer_syntax: str,
    photometric: str = "MONOCHROME2",
    *,
    bits: int | None = None,
    is_signed: bool = False,
    frames: int = 1,
    size: tuple[int, int] = SIZE,
    **attributes: Any,
) -> Sample:
    """Return an instance in a transfer syntax; `photometric` is that of its native pixels.

    `bits` are Bits Stored, by default 8 for colours and JPEG baseline, else 12. Raises ValueError unless `can_be_made`.
    """
    method = METHODS[transfer_syntax]
    is_colour = photometric in {"RGB", "YBR_FULL"}
    bits = bits or (8 if is_colour or photometric == "PALETTE COLOR" else method.bits)
    if not can_be_made(transfer_syntax, photometric, bits, is_signed):
        raise ValueError(f"no sample of {photometric} with {bits} bits in {transfer_syntax}")
    native = native_sample(photometric, bits, is_signed, frames, size, **attributes)
    compressed = deepcopy(native)
    compressed.file_meta.TransferSyntaxUID = transfer_syntax
    if photometric == "RGB":
        compressed.PhotometricInterpretation = method.colour
    is_rgb = photometric == "RGB"
    made = [method.encode(numpy.ascontiguousarray(each), bits, is_rgb) for each in pixels_of(native)]
    compressed.PixelData = encapsulate(made)
    compressed["PixelData"].VR = "OB"
    compressed["PixelData"].is_undefined_length = True
    return Sample(compressed, native, method.difference(bits, is_colour))


def native_sample(
    photometric: str = "MONOCHROME2",
    bits: int = 12,
    is_signed: bool = False,
    frames: int = 1,
    size: tuple[int, int] = SIZE,
    **attributes: Any,
) -> Dataset:
    """Return an instance in Explicit VR Little Endian whose pixels use all of Bits Stored."""
    (dataset,) = study(modality="OT", series=1, instances=1, patient_id=f"{photometric}/{bits}/{is_signed}/{frames}")
    dataset.PatientID = "PIXELS"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    samples = 3 if photometric in {"RGB", "YBR_FULL"} else 1
    allocated = next(each for each in (1, 8, 16, 32, 64) if bits <= each)
    pixels = numpy.stack([_picture(size, samples, bits, is_signed, number) for number in range(frames)])
    dataset.update(
        {
            "PhotometricInterpretation": photometric,
            "SamplesPerPixel": samples,
            "Rows": size[0],
            "Columns": size[1],
            "BitsAllocated": allocated,
            "BitsStored": bits,
            "HighBit": bits - 1,
            "PixelRepresentation": int(is_signed),
        }
    )
    if samples > 1:
        dataset.PlanarConfiguration = 0
    if frames > 1:
        dataset.NumberOfFrames = frames
    if photometric == "PALETTE COLOR":
        _add_palette(dataset)
    if bits == 1:
        data = numpy.packbits(pixels.astype(bool), bitorder="little").tobytes()
    else:
        data = pixels.astype(f"<{'i' if is_signed else 'u'}{allocated // 8}").tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if allocated > 8 else "OB"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.SOPInstanceUID = uid(f"{photometric}/{bits}/{is_signed}/{frames}/{size}/{sorted(attributes)}")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def _picture(size: tuple[int, int], samples: int, bits: int, is_signed: bool, number: int) -> Array:
    """Return smooth shades with a bright square, whose lowest and highest values are those of the bits."""
    rows, columns = numpy.mgrid[0 : size[0], 0 : size[1]]
    planes = [
        (numpy.sin((rows + 3 * plane) / 17 + number) + numpy.cos((columns - 5 * plane) / 23)) / 4 + 0.5
        for plane in range(samples)
    ]
    picture = numpy.stack(planes, axis=-1) if samples > 1 else planes[0]
    picture[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 0.9
    low, high = picture.min(), picture.max()
    scaled = (picture - low) / (high - low) * (2.0 ** min(bits, 52) - 1)
    whole = numpy.rint(scaled).astype(numpy.uint64) << numpy.uint64(max(0, bits - 52))
    return whole.astype(numpy.int64) - (1 << (bits - 1)) if is_signed else whole


def _add_palette(dataset: Dataset) -> None:
    for colour, shift in (("Red", 0), ("Green", 1), ("Blue", 2)):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        table = ((numpy.arange(256) * (257 >> shift)) & 0xFFFF).astype("<u2").tobytes()
        setattr(dataset, f"{colour}PaletteColorLookupTableData", table)
