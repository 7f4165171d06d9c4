"""The headers of frames say what the frames are, and damaged ones raise only the errors that callers expect."""

import io
from contextlib import suppress
from struct import pack

import imagecodecs
import numpy
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from pacs.errors import NotSupported, UndecodablePixelData
from pacs.pixels import transfer_syntaxes as syntaxes
from pacs.pixels.frame_header import check_end, read_frame_header
from tests.pixels.frames import frames_of
from tests.pixels.samples import SIZE, SYNTAXES, sample

FRAMES = {syntax: frames_of(sample(syntax, "RGB").compressed)[0] for syntax in SYNTAXES}
WITH_SIZE = [syntax for syntax in SYNTAXES if syntax not in {syntaxes.RLE_LOSSLESS, syntaxes.DEFLATED_FRAME}]
LOSSY = {
    syntaxes.JPEG_BASELINE,
    syntaxes.JPEG_EXTENDED,
    syntaxes.JPEG_LS_NEAR_LOSSLESS,
    syntaxes.JPEG_2000,
    syntaxes.HTJ2K,
    syntaxes.JPEG_XL,
    syntaxes.JPEG_XL_RECOMPRESSION,
}


@pytest.mark.parametrize("syntax", WITH_SIZE)
def test_a_header_says_size_samples_and_bits(syntax):
    """In all transfer syntaxes but RLE and deflated frames."""
    header = read_frame_header(syntax, FRAMES[syntax])
    assert (header.rows, header.columns, header.components, header.precision) == (*SIZE, 3, 8)
    assert (header.is_lossy is True) == (syntax in LOSSY)


def test_rle_says_the_number_of_segments():
    """One for each byte of each sample."""
    assert read_frame_header(syntaxes.RLE_LOSSLESS, FRAMES[syntaxes.RLE_LOSSLESS]).components == 3


@pytest.mark.parametrize("syntax", [syntaxes.JPEG_2000_LOSSLESS, syntaxes.HTJ2K_LOSSLESS])
@pytest.mark.parametrize(("bits", "is_signed"), [(10, False), (12, True), (16, True)])
def test_jpeg_2000_says_its_sign(syntax, bits, is_signed):
    """As JPEG 2000 alone does."""
    (frame,) = frames_of(sample(syntax, bits=bits, is_signed=is_signed).compressed)
    assert read_frame_header(syntax, frame).is_signed == is_signed


def test_a_jp2_file_is_read_like_its_codestream():
    """DICOM allows the codestream only, but there are such frames."""
    file = io.BytesIO()
    Image.new("RGB", (70, 50)).save(file, "JPEG2000")
    header = read_frame_header(syntaxes.JPEG_2000, file.getvalue())
    assert (header.rows, header.columns, header.components, header.precision) == (50, 70, 3, 8)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (256, 256), (3, 4), (300, 400), (90, 160), (33, 47), (1000, 9000)])
@pytest.mark.parametrize("is_in_container", [False, True])
def test_jpeg_xl_says_its_size_in_few_bits(size, is_in_container):
    """Small ones, ratios, and every range of numbers."""
    for bits, dtype in ((8, "u1"), (12, "u2"), (16, "u2")):
        made = imagecodecs.jpegxl_encode(
            numpy.zeros(size, dtype), lossless=True, bitspersample=bits, effort=1, usecontainer=is_in_container
        )
        header = read_frame_header(syntaxes.JPEG_XL_LOSSLESS, made)
        assert (header.rows, header.columns, header.components, header.precision) == (*size, 1, bits)


def test_jpeg_xl_with_what_dicom_does_not_have_is_not_decoded():
    """Transparency and floating point."""
    for pixels in (numpy.zeros((8, 8, 4), "u1"), numpy.zeros((8, 8), "f4")):
        with pytest.raises(NotSupported):
            read_frame_header(syntaxes.JPEG_XL, imagecodecs.jpegxl_encode(pixels, lossless=True))


def test_jpeg_with_arithmetic_coding_is_not_decoded():
    """Its process is none of those of DICOM."""
    frame = FRAMES[syntaxes.JPEG_BASELINE].replace(b"\xff\xc0", b"\xff\xc9", 1)
    with pytest.raises(NotSupported):
        read_frame_header(syntaxes.JPEG_BASELINE, frame)


def test_a_point_transform_makes_lossless_jpeg_lossy():
    """The lowest bits are not in the codestream."""
    frame = bytearray(frames_of(sample(syntaxes.JPEG_LOSSLESS).compressed)[0])
    scan = frame.index(b"\xff\xda")
    frame[scan + 1 + frame[scan + 3]] = 1
    assert not read_frame_header(
        syntaxes.JPEG_LOSSLESS, frames_of(sample(syntaxes.JPEG_LOSSLESS).compressed)[0]
    ).is_lossy
    assert read_frame_header(syntaxes.JPEG_LOSSLESS, bytes(frame)).is_lossy


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_whole_frame_has_its_end(syntax):
    """With padding to an even length too."""
    check_end(syntax, FRAMES[syntax])
    check_end(syntax, FRAMES[syntax] + b"\0")


def test_jpeg_2000_without_end_of_codestream_is_whole():
    """If its last tile-part is there."""
    frame = FRAMES[syntaxes.JPEG_2000_LOSSLESS].rstrip(b"\0")
    assert frame.endswith(b"\xff\xd9")
    check_end(syntaxes.JPEG_2000_LOSSLESS, frame[:-2])
    with pytest.raises(UndecodablePixelData):
        check_end(syntaxes.JPEG_2000_LOSSLESS, frame[:-40])


@given(st.sampled_from(SYNTAXES), st.data())
def test_damaged_headers_raise_no_other_error(syntax, data):
    """Whatever was cut off, changed or inserted."""
    frame = bytearray(FRAMES[syntax])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(300, len(frame))))
        frame[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    with suppress(UndecodablePixelData, NotSupported):
        read_frame_header(syntax, bytes(frame))
        check_end(syntax, bytes(frame))


@given(st.sampled_from(SYNTAXES), st.binary(max_size=200))
@example(syntaxes.JPEG_XL, b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a" + pack(">IIQ", 1, 0x6A786C63, 1))
@example(syntaxes.JPEG_2000, b"\0\0\0\x0cjP  " + pack(">IIQ", 1, 0, 2))
@example(syntaxes.JPEG_BASELINE, b"\xff\xd8\xff\xe0\0\0")
def test_no_header_at_all_raises_no_other_error(syntax, frame):
    """Lengths of zero and beyond the end among them."""
    with suppress(UndecodablePixelData, NotSupported):
        read_frame_header(syntax, frame)
        check_end(syntax, frame)


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (syntaxes.JPEG_BASELINE, b"\xff\xd8" + b"\xff" * 1_000_000),
        (syntaxes.JPEG_BASELINE, b"\xff\xd8" + b"\xff\xfe\0\2" * 250_000),
        (syntaxes.JPEG_2000, FRAMES[syntaxes.JPEG_2000][:51] + b"\xff\x64\0\2" * 250_000),
        (syntaxes.JPEG_XL, b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a" + b"\0\0\0\x08jxlp" * 125_000),
    ],
    ids=["fill bytes", "comments", "comments of JPEG 2000", "boxes"],
)
def test_an_endless_header_is_given_up(syntax, frame):
    """The server reads headers itself."""
    with pytest.raises(UndecodablePixelData):
        read_frame_header(syntax, frame)
