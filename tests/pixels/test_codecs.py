"""Frames of every transfer syntax decode to the pixels that they were made of, and encoded ones come back."""

from dataclasses import replace

import imagecodecs
import numpy
import pytest

from pacs.errors import NotSupported, UndecodablePixelData
from pacs.pixels import capabilities, codecs
from pacs.pixels import transfer_syntaxes as syntaxes
from pacs.pixels.frame_job import FrameJob
from tests.pixels.frames import as_array, attributes_of, decoded, frames_of
from tests.pixels.samples import LOSSLESS, SIZE, SYNTAXES, can_be_made, native_sample, pixels_of, sample

PICTURES = [
    ("MONOCHROME1", 8, False),
    ("MONOCHROME2", 2, False),
    ("MONOCHROME2", 7, True),
    ("MONOCHROME2", 8, True),
    ("MONOCHROME2", 10, False),
    ("MONOCHROME2", 12, False),
    ("MONOCHROME2", 12, True),
    ("MONOCHROME2", 13, True),
    ("MONOCHROME2", 16, False),
    ("MONOCHROME2", 16, True),
    ("MONOCHROME2", 32, False),
    ("MONOCHROME2", 32, True),
    ("MONOCHROME2", 64, False),
    ("PALETTE COLOR", 8, False),
    ("PALETTE COLOR", 16, False),
    ("RGB", 8, False),
    ("RGB", 12, False),
    ("RGB", 16, False),
    ("RGB", 32, False),
    ("YBR_FULL", 8, False),
]


def difference(one, other):
    """Return the largest difference of two arrays of samples."""
    assert one.shape == other.shape
    return int(abs(one.astype(numpy.int64) - other.astype(numpy.int64)).max())


def run(native, target):
    """Return a native frame of a data set in another transfer syntax, and its attributes."""
    stored = attributes_of(native)
    result = capabilities.encoded(stored, target)
    data = native.PixelData[: stored.frame_size]
    return codecs.run(FrameJob(data, syntaxes.NATIVE_FRAME, stored, target, result)), result


# --- decoding -------------------------------------------------------------------------------------------------------


def test_there_is_a_sample_of_every_transfer_syntax_that_is_decoded():
    """So that every test below concerns every transfer syntax."""
    assert set(SYNTAXES) == set(capabilities.DECODED)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_grey_pixels_are_those_that_were_encoded(syntax):
    """Within the stated difference for lossy syntaxes; the attributes stay."""
    made = sample(syntax, frames=2)
    pixels, attributes = decoded(made.compressed)
    assert difference(pixels, made.pixels) <= made.difference
    assert attributes == replace(attributes_of(made.native), number_of_frames=2)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_colours_are_those_that_were_encoded(syntax):
    """They are RGB afterwards, colour by pixel."""
    made = sample(syntax, "RGB")
    pixels, attributes = decoded(made.compressed)
    assert difference(pixels, made.pixels) <= made.difference
    assert attributes == attributes_of(made.native)


@pytest.mark.parametrize("syntax", [each for each in SYNTAXES if can_be_made(each, "MONOCHROME2", 16, is_signed=True)])
@pytest.mark.parametrize("bits", [8, 12, 13, 16])
def test_negative_pixels_are_negative_again(syntax, bits):
    """Most codestreams have no sign: it is the highest of Bits Stored."""
    made = sample(syntax, bits=bits, is_signed=True)
    assert made.pixels.min() < 0
    pixels, _ = decoded(made.compressed)
    assert difference(pixels, made.pixels) <= made.difference


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize("bits", [8, 10, 16])
def test_all_bits_of_lossless_syntaxes_are_exact(syntax, bits):
    """Whatever Bits Stored is."""
    made = sample(syntax, bits=bits)
    assert numpy.array_equal(decoded(made.compressed)[0], made.pixels)


# --- encoding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", capabilities.ENCODED)
@pytest.mark.parametrize(("photometric", "bits", "is_signed"), PICTURES)
def test_encoded_pixels_come_back_or_the_encoder_says_that_it_cannot(target, photometric, bits, is_signed):
    """The standard allows no more than 16 bits, and JPEG-LS no single one."""
    native = native_sample(photometric, bits, is_signed)
    stored = attributes_of(native)
    try:
        data, result = run(native, target)
    except NotSupported:
        assert stored.bits_allocated > 16 or (bits == 1 and target == syntaxes.JPEG_LS_LOSSLESS)
        return
    back, attributes = codecs.decode(data, target, result)
    assert back == native.PixelData[: stored.frame_size]
    assert attributes == stored


@pytest.mark.parametrize("target", capabilities.ENCODED)
def test_colour_by_plane_is_encoded_as_colour_by_pixel(target):
    """Planar Configuration 1 is 0 afterwards."""
    native = native_sample("RGB", 8)
    by_plane = native_sample("RGB", 8, PlanarConfiguration=1)
    by_plane.PixelData = pixels_of(native).transpose(0, 3, 1, 2).tobytes()
    data, result = run(by_plane, target)
    assert result.planar_configuration == 0
    assert codecs.decode(data, target, result)[0] == native.PixelData


@pytest.mark.parametrize("target", set(capabilities.ENCODED) - {syntaxes.RLE_LOSSLESS})
def test_pixels_beside_bits_stored_are_not_encoded(target):
    """A decoder would cut them off."""
    native = native_sample(bits=12)
    native.BitsStored, native.HighBit = 11, 10
    with pytest.raises(NotSupported):
        run(native, target)


@pytest.mark.parametrize("target", set(capabilities.ENCODED) - {syntaxes.RLE_LOSSLESS})
def test_pixels_with_overlays_are_not_encoded(target):
    """A decoder would extend the sign into them."""
    with pytest.raises(NotSupported):
        capabilities.encoded(replace(attributes_of(native_sample()), overlays_in_pixels=True), target)


def test_rle_keeps_the_overlays_in_unused_bits():
    """It encodes bytes, not numbers."""
    native = native_sample(bits=12)
    native.PixelData = (numpy.frombuffer(native.PixelData, "<u2") | 0x8000).tobytes()
    stored = replace(attributes_of(native), overlays_in_pixels=True)
    result = capabilities.encoded(stored, syntaxes.RLE_LOSSLESS)
    data = codecs.run(FrameJob(native.PixelData, syntaxes.NATIVE_FRAME, stored, syntaxes.RLE_LOSSLESS, result))
    assert codecs.decode(data, syntaxes.RLE_LOSSLESS, result)[0] == native.PixelData


@pytest.mark.parametrize("target", [syntaxes.HTJ2K_LOSSLESS, syntaxes.HTJ2K_LOSSLESS_RPCL])
@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_htj2k_says_bits_stored_and_another_decoder_agrees(target, is_signed, bits):
    """Although imagecodecs encodes 8 or 16 bits."""
    native = native_sample(bits=bits, is_signed=is_signed)
    data, _ = run(native, target)
    header = codecs.frame_header.read_frame_header(target, data)
    assert (header.precision, header.is_signed) == (bits, is_signed)
    assert numpy.array_equal(imagecodecs.jpeg2k_decode(data), pixels_of(native)[0])  # OpenJPEG, not OpenJPH


@pytest.mark.parametrize("size", [(3, 5), (100, 70), (200, 5000)])
def test_htj2k_rpcl_is_what_the_standard_demands(size):
    """PS3.5 10.18: RPCL, TLM, and a lowest resolution of at most 64 pixels."""
    data, _ = run(native_sample(size=size), syntaxes.HTJ2K_LOSSLESS_RPCL)
    header = dict(codecs.jpeg2000._main_header(data))
    assert header[codecs.jpeg2000.COD][1] == 2  # RPCL
    assert 0xFF55 in header  # TLM
    assert max(size) / 2 ** header[codecs.jpeg2000.COD][5] <= 64


def test_a_jpeg_ls_frame_begins_with_its_size():
    """There is no SPIFF header before it."""
    data, _ = run(native_sample(), syntaxes.JPEG_LS_LOSSLESS)
    assert data[:4] == b"\xff\xd8\xff\xf7"


# --- what decoders get wrong ----------------------------------------------------------------------------------------


def test_ten_bits_in_a_jpeg_of_twelve_are_clipped_not_wrapped():
    """A value of 1024 is as white as 1023, and not black."""
    made = sample(syntaxes.JPEG_EXTENDED, bits=12)
    made.compressed.BitsStored, made.compressed.HighBit = 10, 9
    pixels, _ = decoded(made.compressed)
    assert difference(pixels, numpy.minimum(made.pixels, 1023)) <= made.difference


def jpeg(level=98, **options):
    """Return a JPEG of colours, and the colours."""
    pixels = pixels_of(native_sample("RGB", 8))[0]
    return imagecodecs.jpeg8_encode(pixels, level=level, **options), pixels


def without_segments(data, *markers):
    """Return a JPEG without the application segments that name its colour space."""
    while data[3] in markers:
        data = data[:2] + data[4 + int.from_bytes(data[4:6], "big") :]
    return data


def jpeg_colours(data, photometric):
    """Decode a JPEG whose Photometric Interpretation is as given."""
    stored = replace(attributes_of(native_sample("RGB", 8)), photometric_interpretation=photometric)
    frame, attributes = codecs.decode(data, syntaxes.JPEG_BASELINE, stored)
    assert attributes.photometric_interpretation == "RGB"
    return as_array(frame, attributes)


def test_rgb_without_markers_is_rgb():
    """Whatever libjpeg guesses by the component identifiers."""
    data, pixels = jpeg(colorspace="RGB", outcolorspace="RGB")
    bare = without_segments(data, 0xE0, 0xEE)
    place = bare.index(b"\xff\xc0")
    identifiers = bytearray(bare)
    identifiers[place + 10 : place + 19 : 3] = b"\0\1\2"
    scan = bare.index(b"\xff\xda")
    identifiers[scan + 5 : scan + 11 : 2] = b"\0\1\2"
    assert difference(jpeg_colours(bytes(identifiers), "RGB"), pixels) <= 12


def test_ybr_without_markers_is_ybr():
    """Photometric Interpretation says so."""
    data, pixels = jpeg(subsampling="444")
    assert difference(jpeg_colours(without_segments(data, 0xE0, 0xEE), "YBR_FULL"), pixels) <= 12


def test_rgb_with_a_jfif_marker_is_ybr():
    """JFIF knows no RGB."""
    data, pixels = jpeg(subsampling="444")
    assert data[6:10] == b"JFIF"
    assert difference(jpeg_colours(data, "RGB"), pixels) <= 12


def test_rgb_that_is_subsampled_is_ybr():
    """Nobody subsamples green and blue."""
    data, pixels = jpeg(subsampling="420")
    assert difference(jpeg_colours(without_segments(data, 0xE0, 0xEE), "RGB"), pixels) <= 16


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_adobes_marker_is_believed(photometric):
    """Whatever Photometric Interpretation says."""
    data, pixels = jpeg(colorspace="RGB", outcolorspace="RGB")
    assert data[6:11] == b"Adobe"
    assert difference(jpeg_colours(data, photometric), pixels) <= 12


def test_a_recompressed_jpeg_decodes_as_the_jpeg_does():
    """JPEG XL's own decoding differs by up to 9."""
    data, _ = jpeg(subsampling="420")
    stored = replace(attributes_of(native_sample("RGB", 8)), photometric_interpretation="YBR_FULL_422")
    recompressed = imagecodecs.jpegxl_encode_jpeg(data, usecontainer=True)
    expected, attributes = codecs.decode(data, syntaxes.JPEG_BASELINE, stored)
    assert codecs.decode(recompressed, syntaxes.JPEG_XL_RECOMPRESSION, stored) == (expected, attributes)


def test_lossy_htj2k_does_not_wrap_what_overshoots():
    """imagecodecs wraps it with OpenJPH."""
    pixels = numpy.where(numpy.arange(64 * 64).reshape(64, 64) % 7 > 3, 255, 0).astype("u1")
    data = imagecodecs.htj2k_encode(pixels, 0.01, reversible=False)
    stored = attributes_of(native_sample(bits=8, size=(64, 64)))
    frame, attributes = codecs.decode(data, syntaxes.HTJ2K, stored)
    assert difference(as_array(frame, attributes), pixels) <= 8


def test_an_unsigned_codestream_of_signed_pixels_is_signed():
    """Pixel Representation is right where a JPEG 2000 header contradicts it."""
    made = sample(syntaxes.JPEG_2000_LOSSLESS, bits=13, is_signed=True)
    unsigned = (made.pixels[0] & 0x1FFF).astype("u2")
    data = imagecodecs.jpeg2k_encode(unsigned, level=0, codecformat="J2K", bitspersample=13, reversible=True)
    frame, _ = codecs.decode(data, syntaxes.JPEG_2000_LOSSLESS, attributes_of(made.native))
    assert frame == made.native.PixelData


def test_frames_of_one_bit_are_inflated():
    """They stay packed, each padded to whole bytes."""
    bits = numpy.arange(15 * 7).reshape(15, 7) % 3 == 0
    packed = numpy.packbits(bits.ravel(), bitorder="little").tobytes()
    native = native_sample(bits=8, size=(15, 7))
    native.BitsAllocated = native.BitsStored = 1
    native.HighBit = 0
    stored = attributes_of(native)
    deflated = codecs.zlib.compressobj(wbits=-15)
    data = deflated.compress(packed) + deflated.flush()
    assert codecs.decode(data, syntaxes.DEFLATED_FRAME, stored) == (packed, stored)
    lossless = imagecodecs.jpeg2k_encode(
        bits.astype("u1"), level=0, codecformat="J2K", bitspersample=1, reversible=True
    )
    assert codecs.decode(lossless, syntaxes.JPEG_2000_LOSSLESS, stored)[0] == packed


# --- damage and bombs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_frame_cut_in_half_is_undecodable(syntax):
    """No decoder fills the rest with grey."""
    made = sample(syntax)
    frame = frames_of(made.compressed)[0]
    for cut in (0, 1, 20, len(frame) // 2):
        with pytest.raises(UndecodablePixelData):
            codecs.run(
                FrameJob(
                    frame[:cut],
                    syntax,
                    attributes_of(made.compressed),
                    syntaxes.NATIVE_FRAME,
                    attributes_of(made.native),
                )
            )


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_frame_of_another_size_is_refused_before_it_is_decoded(syntax):
    """The header contradicts the attributes."""
    made = sample(syntax)
    stored = replace(attributes_of(made.compressed), rows=40)
    with pytest.raises(UndecodablePixelData):
        codecs.run(
            FrameJob(frames_of(made.compressed)[0], syntax, stored, syntaxes.NATIVE_FRAME, attributes_of(made.native))
        )


def test_a_panic_of_the_rle_decoder_is_an_error_of_the_frame():
    """pylibjpeg-rle panics on a segment that is longer than the frame."""
    made = sample(syntaxes.RLE_LOSSLESS)
    stored = replace(attributes_of(made.compressed), rows=SIZE[0] - 1)
    with pytest.raises(UndecodablePixelData):
        codecs.decode(frames_of(made.compressed)[0], syntaxes.RLE_LOSSLESS, stored)


def test_rle_of_one_bit_is_packed():
    """A segment has a byte for each pixel, as pylibjpeg-rle and pydicom write it."""
    bits = numpy.arange(15 * 7).reshape(15, 7) % 3 == 0
    stored = attributes_of(native_sample(bits=1, size=(15, 7)))
    data = bytes(codecs.rle.encode_frame(bits.astype("u1").tobytes(), 15, 7, 1, 1, "<"))
    packed = numpy.packbits(bits.ravel(), bitorder="little").tobytes()
    assert codecs.decode(data, syntaxes.RLE_LOSSLESS, stored) == (packed, stored)


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT"])
@pytest.mark.parametrize("syntax", [syntaxes.JPEG_BASELINE, syntaxes.JPEG_XL_RECOMPRESSION, syntaxes.JPEG_2000])
def test_what_decodes_to_rgb_is_called_rgb(syntax, photometric):
    """Whatever kind of YCbCr the attribute names."""
    made = sample(syntax, "RGB")
    made.compressed.PhotometricInterpretation = photometric
    pixels, attributes = decoded(made.compressed)
    assert attributes.photometric_interpretation == "RGB"
    assert difference(pixels, made.pixels) <= made.difference


@pytest.mark.parametrize("syntax", [syntaxes.JPEG_XL_LOSSLESS, syntaxes.JPEG_XL])
def test_a_recompressed_jpeg_in_another_jpeg_xl_is_rgb(syntax):
    """It is reconstructed there too."""
    made = sample(syntaxes.JPEG_XL_RECOMPRESSION, "RGB")
    made.compressed.PhotometricInterpretation = "YBR_FULL"
    made.compressed.file_meta.TransferSyntaxUID = syntax
    pixels, attributes = decoded(made.compressed)
    assert attributes.photometric_interpretation == "RGB"
    assert difference(pixels, made.pixels) <= made.difference


@pytest.mark.parametrize(("bits", "is_signed"), [(5, True), (7, False), (10, True), (12, True), (12, False)])
def test_jpeg_ls_of_any_precision_is_decoded(bits, is_signed):
    """The sign is the highest of its bits, if there are fewer than Bits Allocated."""
    jpeg_ls = pytest.importorskip("jpeg_ls", reason="pyjpegls has no wheel for Python 3.14")
    native = native_sample(bits=bits, is_signed=is_signed)
    stored, (pixels,) = attributes_of(native), pixels_of(native)
    data = jpeg_ls.encode_pixel_data(
        (pixels.view(f"u{pixels.itemsize}") & ((1 << bits) - 1)).tobytes(),
        rows=stored.rows,
        columns=stored.columns,
        samples_per_pixel=1,
        bits_stored=bits,
        bits_allocated=stored.bits_allocated,
    )
    assert codecs.frame_header.read_frame_header(syntaxes.JPEG_LS_LOSSLESS, bytes(data)).precision == bits
    assert codecs.decode(bytes(data), syntaxes.JPEG_LS_LOSSLESS, stored) == (native.PixelData, stored)
