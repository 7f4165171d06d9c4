"""Whole data sets in another transfer syntax: real files, elements around the pixel data, frames in order."""

import io
import tempfile
from collections.abc import Container
from pathlib import Path

import numpy
import pydicom
import pytest
from _pytest.mark import ParameterSet
from pydicom.dataset import Dataset

from pacs.dicom import part10
from pacs.dicom.syntaxes import (
    DEFLATED_LITTLE,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    NATIVE,
)
from pacs.errors import NotSupported, OutOfResources, UndecodablePixelData
from pacs.pixels import transfer_syntaxes as syntaxes
from pacs.pixels.capabilities import DECODED, ENCODED
from tests import programs, real_files
from tests.dicom.test_syntaxes import read, values
from tests.pixels.converting import converted, encoded
from tests.pixels.samples import native_sample, pixels_of, sample

BIG = 400_000
"""Bytes of a file from which on it is tested with --long only."""

HTJ2K = {syntaxes.HTJ2K_LOSSLESS, syntaxes.HTJ2K_LOSSLESS_RPCL}
"""Transfer syntaxes that no other program of our tests decodes."""

PYDICOM_FAILS = {
    "emri_small_jpeg_2k_lossless_too_short.dcm": "it reads nothing of a file without the last delimiter",
    "J2K_pixelrep_mismatch.dcm": "it writes into a read-only array",
    "JPEG-lossy.dcm": "no plugin decodes 12 bits",
    "JPGExtended.dcm": "no plugin decodes 12 bits",
}
"""Files that pydicom 3.0.2 cannot read or decode with the plugins of our tests, and why."""

DAMAGED = {"JPEG2000-embedded-sequence-delimiter.dcm": "contradicts Rows and Columns"}
"""Files that nobody can decode, and what is said about them."""

DCMTK = {
    **dict.fromkeys(
        (syntaxes.JPEG_BASELINE, syntaxes.JPEG_EXTENDED, syntaxes.JPEG_LOSSLESS, syntaxes.JPEG_LOSSLESS_SV1), "dcmdjpeg"
    ),
    **dict.fromkeys((syntaxes.JPEG_LS_LOSSLESS, syntaxes.JPEG_LS_NEAR_LOSSLESS), "dcmdjpls"),
    syntaxes.RLE_LOSSLESS: "dcmdrle",
}
"""The programs of DCMTK that decompress."""

DCMTK_FAILS = {"SC_rgb_jpeg.dcm": "it has an invalid VR", "UN_sequence.dcm": "it has no pixel data"}
"""Files that DCMTK does not read, and why."""

DECIDED_BY_US = {0x00280106, 0x00280107, 0x00282110, 0x00282112, 0x00282114}
"""Attributes that pydicom and DCMTK leave as they are: the extremes of lossy pixels, and that they are lossy."""


def files(known: Container[str], excluded: Container[str]) -> list[ParameterSet]:
    """Return the compressed files of pydicom and pydicom-data in known transfer syntaxes."""
    return [
        pytest.param(path, id=path.name, marks=[pytest.mark.long] if path.stat().st_size > BIG else [])
        for path in real_files.PART10
        if real_files.transfer_syntax(path) in known and path.name not in excluded
    ]


def without_image_attributes(data_set: Dataset) -> list[tuple[int, object]]:
    """Return all values but the attributes that describe pixels, and the pixels."""
    return [each for each in values(data_set) if each[0] >> 16 not in (0x0028, 0x7FE0)]


def assert_same_as_pydicom(path: Path) -> None:
    """Convert a file, and compare everything with what pydicom makes of it."""
    data, syntax = real_files.data_set(path)
    ours = read(converted(data, syntax, EXPLICIT_LITTLE), EXPLICIT_LITTLE)
    if path.name in PYDICOM_FAILS:
        assert len(ours.PixelData) == pixels_of(ours).nbytes
        return
    theirs = pydicom.dcmread(path)
    assert without_image_attributes(ours) == without_image_attributes(theirs)
    if "PixelData" not in theirs:
        return
    theirs.decompress(generate_instance_uid=False)
    differing = {each.tag for each in theirs.group_dataset(0x28) if each.tag.element and each != ours.get(each.tag)}
    assert differing <= DECIDED_BY_US
    assert ours.PixelData == theirs.PixelData
    assert ours["PixelData"].VR == theirs["PixelData"].VR


@pytest.mark.parametrize("path", files(DECODED, DAMAGED))
def test_real_files_become_what_pydicom_makes_of_them(path: Path):
    """Pixels, attributes and all other elements, of every compressed file of pydicom and pydicom-data."""
    assert_same_as_pydicom(path)


@pytest.mark.parametrize("path", files(DCMTK, DCMTK_FAILS))
def test_real_files_become_what_dcmtk_makes_of_them(path: Path, tmp_path: Path):
    """All elements, but that DCMTK writes 8 bits as OW, keeps extremes, and writes no ratio and method."""
    data, syntax = real_files.data_set(path)
    programs.run(DCMTK[syntax], path, tmp_path / "native.dcm")
    theirs = pydicom.dcmread(tmp_path / "native.dcm")
    ours = read(converted(data, syntax, EXPLICIT_LITTLE), EXPLICIT_LITTLE)
    tags = {tag for tag in {*ours.keys(), *theirs.keys()} if tag.element}
    differing = {tag for tag in tags if tag not in ours or tag not in theirs or ours[tag].value != theirs[tag].value}
    assert differing <= DECIDED_BY_US


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_real_files_are_refused(name: str):
    """With the reason."""
    data, syntax = real_files.data_set(real_files.named(name))
    with pytest.raises(UndecodablePixelData, match=DAMAGED[name]):
        converted(data, syntax, EXPLICIT_LITTLE)


# --- every transfer syntax ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", NATIVE)
@pytest.mark.parametrize("source", DECODED)
def test_each_compressed_syntax_becomes_each_native_one(source: str, target: str):
    """All frames, in order, and the attributes of an instance that was never compressed."""
    made = sample(source, frames=3)
    data_set = read(converted(encoded(made.compressed), source, target), target)
    assert without_image_attributes(data_set) == without_image_attributes(made.native)
    big = target == EXPLICIT_BIG
    pixels = numpy.frombuffer(data_set.PixelData, ">u2" if big else "<u2") if data_set.BitsAllocated == 16 else None
    found = pixels.reshape(made.pixels.shape) if pixels is not None else pixels_of(data_set)
    assert abs(found.astype(int) - made.pixels).max() <= made.difference
    for keyword in ("PhotometricInterpretation", "BitsStored", "HighBit", "PixelRepresentation", "NumberOfFrames"):
        assert data_set[keyword] == made.native[keyword]


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "RGB"])
@pytest.mark.parametrize("target", ENCODED)
@pytest.mark.parametrize("source", NATIVE)
def test_each_native_syntax_becomes_each_encoded_one(source: str, target: str, photometric: str):
    """pydicom decodes what is written, except HTJ2K, and the conversion back returns the same bytes."""
    native = native_sample(photometric, 8 if photometric == "RGB" else 12, frames=3)
    original = encoded(native)
    in_source = converted(original, EXPLICIT_LITTLE, source)
    data = converted(in_source, source, target)
    data_set = read(data, target)
    assert without_image_attributes(data_set) == without_image_attributes(native)
    if target not in HTJ2K:
        data_set.decompress(generate_instance_uid=False)
        assert numpy.array_equal(pixels_of(data_set), pixels_of(native))
    assert converted(data, target, EXPLICIT_LITTLE) == original


@pytest.mark.parametrize("target", ENCODED)
@pytest.mark.parametrize("source", DECODED)
def test_each_compressed_syntax_becomes_each_encoded_one(source: str, target: str):
    """The pixels are those that the source decodes to."""
    made = sample(source, frames=2)
    data = encoded(made.compressed)
    again = converted(data, source, target)
    if source == target:
        assert again == data
    assert converted(again, target, EXPLICIT_LITTLE) == converted(data, source, EXPLICIT_LITTLE)


@pytest.mark.parametrize("source", ["1.2.840.10008.1.2.4.92", "1.2.840.10008.1.2.4.100"])
def test_syntaxes_that_are_not_decoded_are_refused_by_name(source: str):
    """JPEG 2000 Part 2 and video are sent as stored only."""
    made = sample(syntaxes.JPEG_2000_LOSSLESS)
    with pytest.raises(NotSupported, match=r"^(JPEG 2000 Part 2|MPEG2).* is not converted into Explicit VR"):
        converted(encoded(made.compressed, source), source, EXPLICIT_LITTLE)


@pytest.mark.parametrize("source", DECODED)
@pytest.mark.parametrize("target", [EXPLICIT_LITTLE, IMPLICIT_LITTLE])
def test_a_data_set_without_pixels_is_only_encoded_again(source: str, target: str):
    """Such as a structured report that is sent with a compressed transfer syntax."""
    native = native_sample()
    del native.PixelData
    assert converted(encoded(native), source, target) == converted(encoded(native), EXPLICIT_LITTLE, target)


@pytest.mark.parametrize("source", NATIVE)
def test_bytes_in_words_are_read_in_their_order(source: str):
    """Pixels of 8 bits in OW are exchanged in big endian, and frames of odd length begin in the middle of a word."""
    native = native_sample(bits=8, frames=3, size=(3, 5))
    native["PixelData"].VR = "OW"
    in_source = converted(encoded(native), EXPLICIT_LITTLE, source)
    assert (native.PixelData[:6] in in_source) == (source not in {EXPLICIT_BIG, DEFLATED_LITTLE})
    data = converted(converted(in_source, source, syntaxes.RLE_LOSSLESS), syntaxes.RLE_LOSSLESS, EXPLICIT_LITTLE)
    assert read(data, EXPLICIT_LITTLE).PixelData == native.PixelData


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch):
    """A deflated instance is inflated to a temporary file, so that its frames can be read one by one."""
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: io.FileIO("/dev/full", "r+"))
    data = converted(encoded(native_sample()), EXPLICIT_LITTLE, DEFLATED_LITTLE)
    with pytest.raises(OutOfResources, match=r"^No temporary file can be written: No space left on device$"):
        converted(data, DEFLATED_LITTLE, syntaxes.RLE_LOSSLESS)


# --- other programs read it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED_LITTLE, *ENCODED])
def test_dcmtk_and_gdcm_read_what_is_written(target: str, tmp_path: Path):
    """dcmdump accepts each element, and GDCM decodes the same pixels where it can."""
    made = sample(syntaxes.JPEG_LOSSLESS_SV1, frames=2)
    data = converted(encoded(made.compressed), syntaxes.JPEG_LOSSLESS_SV1, target)
    made.native.file_meta.TransferSyntaxUID = target
    path = tmp_path / "converted.dcm"
    head = part10.build_file_meta(made.native.SOPClassUID, made.native.SOPInstanceUID, target, "PACS", received_at=0)
    path.write_bytes(head + data)
    dumped = programs.run("dcmdump", "-q", path)
    assert "BitsStored" in dumped
    assert not [line for line in dumped.splitlines() if line.startswith(("W:", "E:"))]
    if target not in HTJ2K:
        assert numpy.array_equal(_decoded_by_gdcm(path).reshape(made.pixels.shape), made.pixels)


def _decoded_by_gdcm(path: Path) -> numpy.ndarray:
    gdcm = pytest.importorskip("gdcm")
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    return numpy.frombuffer(reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape"), "<u2")


def test_elements_that_do_not_change_are_copied_as_they_are():
    """Their bytes are the same before, between and after those that change, also in sequences of a defined length."""
    native = native_sample("RGB")
    native.ReferencedStudySequence = [Dataset(), Dataset()]
    native.ReferencedStudySequence[0].ReferencedSOPInstanceUID = "1.2.3"
    native.add_new(0x7FE10010, "LO", "AFTER")
    native.add_new(0x7FE11001, "UN", b"x" * 200_000)
    before = encoded(native)
    after = converted(before, EXPLICIT_LITTLE, syntaxes.JPEG_2000_LOSSLESS)
    photometric, rows, pixels = b"\x28\x00\x04\x00CS", b"\x28\x00\x10\x00US", b"\xe0\x7f\x10\x00O"
    assert after[: after.index(photometric)] == before[: before.index(photometric)]
    assert after[after.index(rows) : after.index(pixels)] == before[before.index(rows) : before.index(pixels)]
    assert after[after.index(b"\xe1\x7f\x10\x00LO") :] == before[before.index(b"\xe1\x7f\x10\x00LO") :]
