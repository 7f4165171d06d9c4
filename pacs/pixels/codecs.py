"""Decode and encode single frames. Runs in the decoder processes only: it imports NumPy and the codecs."""

import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy
from numpy.typing import NDArray
from rle import rle

from pacs.errors import NotSupported, UndecodablePixelData
from pacs.pixels import capabilities, frame_header, renderer
from pacs.pixels import transfer_syntaxes as syntaxes
from pacs.pixels.frame_header import FrameHeader
from pacs.pixels.frame_job import FrameJob
from pacs.pixels.headers import jpeg, jpeg2000, jpegxl
from pacs.pixels.image_pixel import ImagePixel

Samples = NDArray[Any]
"""Numbers, indexed by row, column, and sample if there are several."""


def run(job: FrameJob) -> bytes:
    """Return the frame of a job in its target transfer syntax, `job.result.frame_size` bytes if native, or rendered.

    Raises UndecodablePixelData when the codestream is damaged or contradicts `job.stored`; NotSupported when the
    target cannot represent the frame.
    """
    native, attributes = job.data, job.stored
    if job.source != syntaxes.NATIVE_FRAME:
        native, attributes = decode(job.data, job.source, job.stored)
    if len(native) != attributes.frame_size:
        raise UndecodablePixelData(f"A frame has {len(native)} bytes instead of {attributes.frame_size}")
    if job.rendering is not None:
        return renderer.rendered(native, attributes, job.rendering, job.result, job.target)
    if job.target == syntaxes.NATIVE_FRAME:
        _check_result(job.result, attributes)
        return native
    _check_result(job.result, capabilities.encoded(attributes, job.target))
    return encode(native, attributes, job.target)


def decode(data: bytes, source: str, stored: ImagePixel) -> tuple[bytes, ImagePixel]:
    """Return a native frame and its attributes. Nothing is decoded whose header contradicts the attributes."""
    header = frame_header.read_frame_header(source, data)
    attributes = capabilities.decoded(source, stored, header)
    frame_header.check_end(source, data)
    try:
        return _DECODERS[source](data, stored, header), attributes
    except (RuntimeError, ValueError, TypeError, zlib.error) as error:  # the codecs raise these for damaged data
        raise UndecodablePixelData("A compressed frame is damaged") from error


def encode(native: bytes, attributes: ImagePixel, target: str) -> bytes:
    """Return the codestream of a native frame."""
    return _ENCODERS[target](_samples(native, attributes), attributes)


def _check_result(expected: ImagePixel, found: ImagePixel) -> None:
    if expected.photometric_interpretation != found.photometric_interpretation:
        raise UndecodablePixelData("The colour spaces of the frames differ")


# --- decoders -------------------------------------------------------------------------------------------------------


def _decode_jpeg(data: bytes, stored: ImagePixel, header: FrameHeader) -> bytes:
    """Convert YCbCr to RGB if the header says that it is, or says nothing and the attribute does."""
    if header.components == 1:
        return _at_bits_allocated(imagecodecs.jpeg8_decode(data), stored, header)
    says_ycbcr = stored.photometric_interpretation.startswith("YBR")
    is_ycbcr = says_ycbcr if header.is_ycbcr is None else header.is_ycbcr
    samples = imagecodecs.jpeg8_decode(data, colorspace="YCBCR" if is_ycbcr else "RGB", outcolorspace="RGB")
    return _at_bits_allocated(samples, stored, header)


def _decode_jpeg_lossless(data: bytes, stored: ImagePixel, header: FrameHeader) -> bytes:
    """Decode without any conversion of colours."""
    colours = "RGB" if header.components == 3 else None
    return _at_bits_allocated(imagecodecs.jpeg8_decode(data, colorspace=colours, outcolorspace=colours), stored, header)


def _decode_jpeg_ls(data: bytes, stored: ImagePixel, header: FrameHeader) -> bytes:
    return _at_bits_allocated(imagecodecs.jpegls_decode(data), stored, header)


def _decode_jpeg_2000(data: bytes, stored: ImagePixel, header: FrameHeader) -> bytes:
    """Decode with OpenJPEG, Part 15 too."""
    return _at_bits_allocated(imagecodecs.jpeg2k_decode(jpeg2000.bare(data), planar=False), stored, header)


def _decode_htj2k_lossless(data: bytes, stored: ImagePixel, header: FrameHeader) -> bytes:
    """Decode with OpenJPH, which is three times as fast, if nothing was lost: overshoots of lossy data would wrap."""
    bare = jpeg2000.bare(data)
    if header.is_lossy or not jpeg2000.is_high_throughput(bare):
        return _decode_jpeg_2000(data, stored, header)
    return _at_bits_allocated(imagecodecs.htj2k_decode(bare, planar=False), stored, header)


def _decode_jpeg_xl(data: bytes, stored: ImagePixel, header: FrameHeader) -> bytes:
    """Reconstruct a recompressed JPEG, since JPEG XL's own decoding of it differs by several values."""
    if not jpegxl.is_recompressed(data):
        return _at_bits_allocated(imagecodecs.jpegxl_decode(data, numthreads=1), stored, header)
    original = bytes(imagecodecs.jpegxl_decode_jpeg(data, numthreads=1))
    inner = jpeg.read_jpeg(original)
    if (inner.rows, inner.columns, inner.components) != (header.rows, header.columns, header.components):
        raise UndecodablePixelData("A JPEG XL frame contradicts the JPEG that it contains")
    return _decode_jpeg(original, stored, inner)


def _decode_rle(data: bytes, stored: ImagePixel, _: FrameHeader) -> bytes:
    """Interleave the samples, which RLE keeps in planes; bits stay as they are."""
    pixels, bits = stored.rows * stored.columns, stored.bits_allocated
    planes = numpy.frombuffer(_rle_planes(data, pixels, bits), f"<u{max(1, bits // 8)}")
    if bits == 1:
        return _packed(planes)
    return numpy.stack(list(planes.reshape(stored.samples_per_pixel, pixels)), axis=-1).tobytes()


def _rle_planes(data: bytes, pixels: int, bits: int) -> bytes:
    try:
        return bytes(rle.decode_frame(data, pixels, bits, "<"))
    except (Exception, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of Rust, for example of a segment that is too long
        raise ValueError(str(error)) from error


def _decode_deflated(data: bytes, stored: ImagePixel, _: FrameHeader) -> bytes:
    """Inflate no more than a frame."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    return inflater.decompress(data, stored.frame_size + 1)


def _at_bits_allocated(samples: Samples, stored: ImagePixel, header: FrameHeader) -> bytes:
    """Return samples as native words: with the sign of the data set, without what exceeds its bits."""
    if samples.ndim > 2 and samples.shape[-1] == 1:
        samples = samples[..., 0]
    expected = (stored.rows, stored.columns, *([stored.samples_per_pixel] if stored.samples_per_pixel > 1 else []))
    if samples.shape != expected:
        raise UndecodablePixelData(f"A frame decodes to {samples.shape} instead of {expected}")
    if stored.bits_allocated == 1:
        return _packed(samples)
    return _with_sign(samples, stored, header).astype(_word(stored), copy=False).tobytes()


def _with_sign(samples: Samples, stored: ImagePixel, header: FrameHeader) -> Samples:
    bits = min(stored.bits_stored, header.precision or stored.bits_stored)
    is_signed = bool(stored.pixel_representation)
    if stored.overlays_in_pixels:
        return samples
    if bool(header.is_signed) == is_signed:
        overshoots = header.is_lossy and header.precision > stored.bits_stored
        return samples.clip(*_limits(stored)) if overshoots else samples
    unused = 8 * samples.itemsize - bits
    words = samples.view(f"u{samples.itemsize}") << unused
    return words.view(f"i{samples.itemsize}") >> unused if is_signed else words >> unused


def _packed(samples: Samples) -> bytes:
    return numpy.packbits(samples.astype(bool).ravel(), bitorder="little").tobytes()


_DECODERS: dict[str, Callable[[bytes, ImagePixel, FrameHeader], bytes]] = {
    syntaxes.JPEG_BASELINE: _decode_jpeg,
    syntaxes.JPEG_EXTENDED: _decode_jpeg,
    syntaxes.JPEG_LOSSLESS: _decode_jpeg_lossless,
    syntaxes.JPEG_LOSSLESS_SV1: _decode_jpeg_lossless,
    syntaxes.JPEG_LS_LOSSLESS: _decode_jpeg_ls,
    syntaxes.JPEG_LS_NEAR_LOSSLESS: _decode_jpeg_ls,
    syntaxes.JPEG_2000_LOSSLESS: _decode_jpeg_2000,
    syntaxes.JPEG_2000: _decode_jpeg_2000,
    syntaxes.HTJ2K_LOSSLESS: _decode_htj2k_lossless,
    syntaxes.HTJ2K_LOSSLESS_RPCL: _decode_htj2k_lossless,
    syntaxes.HTJ2K: _decode_jpeg_2000,
    syntaxes.JPEG_XL_LOSSLESS: _decode_jpeg_xl,
    syntaxes.JPEG_XL_RECOMPRESSION: _decode_jpeg_xl,
    syntaxes.JPEG_XL: _decode_jpeg_xl,
    syntaxes.RLE_LOSSLESS: _decode_rle,
    syntaxes.DEFLATED_FRAME: _decode_deflated,
}


# --- encoders -------------------------------------------------------------------------------------------------------


def _encode_rle(samples: Samples, attributes: ImagePixel) -> bytes:
    rows, columns, bits = attributes.rows, attributes.columns, attributes.bits_allocated
    return bytes(rle.encode_frame(samples.tobytes(), rows, columns, attributes.samples_per_pixel, bits, "<"))


def _encode_jpeg_ls(samples: Samples, attributes: ImagePixel) -> bytes:
    """Encode the native words with the bits of the sign, since imagecodecs says 8 or 16 bits, never Bits Stored."""
    words = _checked(samples, attributes).view(f"u{samples.itemsize}")
    return jpeg.without_spiff(bytes(imagecodecs.jpegls_encode(words, 0)))


def _encode_jpeg_2000(samples: Samples, attributes: ImagePixel) -> bytes:
    return bytes(
        imagecodecs.jpeg2k_encode(
            _checked(samples, attributes),
            level=0,
            codecformat="J2K",
            planar=False,
            bitspersample=attributes.bits_stored,
            reversible=True,
            mct=attributes.photometric_interpretation == "RGB",
            numthreads=1,
        )
    )


def _encode_htj2k(samples: Samples, attributes: ImagePixel, **options: Any) -> bytes:
    """Encode numbers shifted to be signed, and say Bits Stored in the header.

    imagecodecs says 8 or 16 bits always. With signed numbers the precision is only what the header says; a decoder of
    unsigned ones undoes the shift that the standard demands (ISO 15444-1 G.1).
    """
    is_signed = bool(attributes.pixel_representation)
    words = _checked(samples, attributes)
    if not is_signed:
        words = words - words.dtype.type(1 << (attributes.bits_stored - 1))
    made = imagecodecs.htj2k_encode(
        words.view(f"i{words.itemsize}"),
        reversible=True,
        planar=False,
        rgb=attributes.photometric_interpretation == "RGB",
        **options,
    )
    return jpeg2000.with_precision(bytes(made), attributes.bits_stored, is_signed)


def _encode_htj2k_rpcl(samples: Samples, attributes: ImagePixel) -> bytes:
    """Encode what PS3.5 10.18 demands: RPCL, which OpenJPH always uses, lengths of tile-parts, a base up to 64 wide."""
    longest = max(attributes.rows, attributes.columns)
    halvings = max(5, (longest - 1).bit_length() - 6)
    resolutions = int(imagecodecs.HTJ2K.TILEPART.RESOLUTIONS)
    return _encode_htj2k(samples, attributes, tlm=True, tilepart=resolutions, resolutions=halvings)


def _samples(native: bytes, attributes: ImagePixel) -> Samples:
    """Return the numbers of a native frame, colour by pixel."""
    words = numpy.frombuffer(native, _word(attributes))
    rows, columns, samples = attributes.rows, attributes.columns, attributes.samples_per_pixel
    if samples == 1:
        return words.reshape(rows, columns)
    if attributes.planar_configuration:
        return numpy.ascontiguousarray(words.reshape(samples, rows, columns).transpose(1, 2, 0))
    return words.reshape(rows, columns, samples)


def _checked(samples: Samples, attributes: ImagePixel) -> Samples:
    """Return the samples if all are within Bits Stored; raises NotSupported else, since they would change."""
    low, high = _limits(attributes)
    if samples.min() < low or samples.max() > high:
        raise NotSupported("Pixels exceed Bits Stored, and cannot be encoded")
    return samples


def _limits(attributes: ImagePixel) -> tuple[int, int]:
    """Return the lowest and the highest value of Bits Stored."""
    half = 1 << (attributes.bits_stored - 1)
    return (-half, half - 1) if attributes.pixel_representation else (0, 2 * half - 1)


def _word(attributes: ImagePixel) -> str:
    return f"<{'i' if attributes.pixel_representation else 'u'}{attributes.bits_allocated // 8}"


_ENCODERS: dict[str, Callable[[Samples, ImagePixel], bytes]] = {
    syntaxes.JPEG_LS_LOSSLESS: _encode_jpeg_ls,
    syntaxes.HTJ2K_LOSSLESS: _encode_htj2k,
    syntaxes.HTJ2K_LOSSLESS_RPCL: _encode_htj2k_rpcl,
    syntaxes.JPEG_2000_LOSSLESS: _encode_jpeg_2000,
    syntaxes.RLE_LOSSLESS: _encode_rle,
}
