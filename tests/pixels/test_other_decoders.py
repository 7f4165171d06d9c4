"""Compressed files of others decode to the same pixels as with DCMTK and GDCM, which share no code with imagecodecs.

All differences between two decoders that the files show are named here, with the decoder that is wrong.
"""

import logging
import warnings
from pathlib import Path

import numpy
import pydicom
import pytest

from pacs.pixels import capabilities
from pacs.pixels import transfer_syntaxes as syntaxes
from tests import programs
from tests.pixels.frames import decoded
from tests.pixels.samples import file_of, native_sample, pixels_of, sample
from tests.real_files import PART10, transfer_syntax

DCMTK = {
    syntaxes.JPEG_BASELINE: "dcmdjpeg",
    syntaxes.JPEG_EXTENDED: "dcmdjpeg",
    syntaxes.JPEG_LOSSLESS: "dcmdjpeg",
    syntaxes.JPEG_LOSSLESS_SV1: "dcmdjpeg",
    syntaxes.JPEG_LS_LOSSLESS: "dcmdjpls",
    syntaxes.JPEG_LS_NEAR_LOSSLESS: "dcmdjpls",
    syntaxes.RLE_LOSSLESS: "dcmdrle",
}
GDCM = {
    *DCMTK,
    syntaxes.JPEG_2000_LOSSLESS,
    syntaxes.JPEG_2000,
}

NOT_COMPARED = {
    "JPEG2000-embedded-sequence-delimiter.dcm",  # a Sequence Delimitation Item within the header of the codestream
    "emri_small_jpeg_2k_lossless_too_short.dcm",  # pydicom reads nothing of it, as its last delimiter is missing
    "UN_sequence.dcm",  # without pixel data
}
DCMTK_FAILS = {"SC_rgb_jpeg.dcm"}  # it has undefined length within a sequence of undefined VR
GDCM_WRONG = {
    "J2K_pixelrep_mismatch.dcm",  # GDCM believes the sign of the codestream, and has values beyond Bits Stored
    "SC_rgb_rle_16bit.dcm",  # GDCM exchanges the bytes of colours
    "SC_rgb_rle_16bit_2frame.dcm",
    "SC_rgb_rle_32bit.dcm",
    "SC_rgb_rle_32bit_2frame.dcm",
}
BIG = 400_000
"""Bytes of a file from which on it is tested with --long only."""

FILES = [path for path in PART10 if transfer_syntax(path) in capabilities.DECODED and path.name not in NOT_COMPARED]


def cases(known, excluded):
    """Return the files in the transfer syntaxes that a program knows, but for those that it gets wrong."""
    return [
        pytest.param(path, id=path.name, marks=[pytest.mark.long] if path.stat().st_size > BIG else [])
        for path in FILES
        if transfer_syntax(path) in known and path.name not in excluded
    ]


@pytest.fixture(autouse=True)
def _quiet():
    """Silence pydicom's warnings about these files."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def run(program: str, path: Path, folder: Path) -> pydicom.Dataset:
    """Decompress a file with a program, and return what it has written."""
    out = folder / "native.dcm"
    programs.run(program, *(["--raw"] if program == "gdcmconv" else []), path, out)
    return pydicom.dcmread(out, force=True)


def assert_same_pixels(ours, attributes, theirs, most=0):
    """Assert that samples and colour space are equal.

    GDCM leaves YBR_FULL, which is converted here; both leave what exceeds Bits Stored in near-lossless JPEG-LS.
    """
    samples = pixels_of(theirs)
    if not theirs.PixelRepresentation:
        samples = numpy.minimum(samples, (1 << theirs.BitsStored) - 1)
    if theirs.PhotometricInterpretation == "YBR_FULL" and attributes.photometric_interpretation == "RGB":
        samples, most = rgb(samples), 2
    else:
        assert theirs.PhotometricInterpretation == attributes.photometric_interpretation
    assert ours.shape == samples.shape
    assert abs(ours.astype(numpy.int64) - samples.astype(numpy.int64)).max() <= most


def rgb(ybr):
    """Return YBR_FULL as RGB (PS3.3 C.7.6.3.1.2)."""
    y, cb, cr = (ybr[..., index].astype(float) for index in range(3))
    cb, cr = cb - 128, cr - 128
    colours = numpy.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return numpy.clip(numpy.rint(colours), 0, 255).astype("u1")


@pytest.mark.parametrize("path", cases(DCMTK, DCMTK_FAILS))
def test_pixels_are_those_of_dcmtk(path, tmp_path):
    """Lossy ones too: to the bit."""
    theirs = run(DCMTK[transfer_syntax(path)], path, tmp_path)
    assert_same_pixels(*decoded(pydicom.dcmread(path, force=True)), theirs)


@pytest.mark.parametrize("path", cases(GDCM, GDCM_WRONG))
def test_pixels_are_those_of_gdcm(path, tmp_path):
    """To the bit, or within 2 where GDCM leaves YBR_FULL and the colours are computed here."""
    assert_same_pixels(*decoded(pydicom.dcmread(path, force=True)), run("gdcmconv", path, tmp_path))


@pytest.mark.parametrize(
    ("syntax", "photometric"),
    [
        *((syntax, "MONOCHROME2") for syntax in sorted(GDCM)),
        *((syntax, "RGB") for syntax in sorted(GDCM - {syntaxes.JPEG_EXTENDED})),  # its colours have 12 bits
    ],
)
def test_the_samples_are_those_of_others(syntax, photometric, tmp_path):
    """Both lossless processes, 12 bits and near-lossless too, of which there are few or no files."""
    made = sample(syntax, photometric)
    path = tmp_path / "sample.dcm"
    path.write_bytes(file_of(made.compressed))
    ours = decoded(made.compressed)
    for program in filter(None, (DCMTK.get(syntax), "gdcmconv")):
        assert_same_pixels(*ours, run(program, path, tmp_path))


@pytest.mark.parametrize(
    ("target", "encoder", "options"),
    [
        (syntaxes.JPEG_LOSSLESS_SV1, "dcmcjpeg", ["+e1"]),
        (syntaxes.JPEG_LOSSLESS, "dcmcjpeg", ["+el", "+sv", "6"]),
        (syntaxes.JPEG_LS_LOSSLESS, "dcmcjpls", ["+el"]),
        (syntaxes.JPEG_LS_LOSSLESS, "dcmcjpls", ["+el", "+il"]),
        (syntaxes.JPEG_LS_LOSSLESS, "dcmcjpls", ["+el", "+in"]),
        (syntaxes.RLE_LOSSLESS, "dcmcrle", []),
        (syntaxes.RLE_LOSSLESS, "gdcmconv", ["--rle"]),
        (syntaxes.JPEG_LOSSLESS_SV1, "gdcmconv", ["--jpeg"]),
        (syntaxes.JPEG_LS_LOSSLESS, "gdcmconv", ["--jpegls"]),
        (syntaxes.JPEG_2000_LOSSLESS, "gdcmconv", ["--j2k"]),
    ],
    ids=lambda each: "".join(each) if isinstance(each, list) else str(each),
)
@pytest.mark.parametrize(
    ("photometric", "bits", "is_signed"),
    [("MONOCHROME2", 8, False), ("MONOCHROME2", 12, True), ("MONOCHROME2", 16, False), ("RGB", 8, False)],
)
def test_lossless_pixels_of_other_encoders_are_exact(target, encoder, options, photometric, bits, is_signed, tmp_path):
    """Interleaved by sample, line or plane, and with a precision of 12 or 16 for 12 bits, as an encoder likes."""
    native = native_sample(photometric, bits, is_signed)
    source, made = tmp_path / "native.dcm", tmp_path / "made.dcm"
    source.write_bytes(file_of(native))
    programs.run(encoder, *options, source, made)
    compressed = pydicom.dcmread(made)
    assert compressed.file_meta.TransferSyntaxUID == target
    assert numpy.array_equal(decoded(compressed)[0], pixels_of(native))
