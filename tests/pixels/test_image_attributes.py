"""The attributes of converted images, and what is said about those that are missing or wrong."""

import zlib
from struct import pack
from typing import Any

import numpy
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.sequence import Sequence
from pydicom.uid import UID

from pacs.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from pacs.errors import NotSupported, UndecodableDataSet, UndecodablePixelData
from pacs.pixels import transfer_syntaxes as syntaxes
from tests.dicom.test_syntaxes import read
from tests.pixels.converting import (
    assert_in_order,
    changed,
    converted,
    converted_with_notices,
    encoded,
    overlaid,
    signed,
    with_icon,
)
from tests.pixels.samples import METHODS, native_sample, pixels_of, sample

RLE, JPEG_LS = syntaxes.RLE_LOSSLESS, syntaxes.JPEG_LS_LOSSLESS


def afterwards(data_set: Dataset, target: str = EXPLICIT_LITTLE) -> Dataset:
    """Return a data set in another transfer syntax, as pydicom reads it."""
    return read(converted(encoded(data_set), data_set.file_meta.TransferSyntaxUID, target), target)


def notices_of(data_set: Dataset) -> tuple[str, ...]:
    """Return the notices of the conversion of a data set."""
    return converted_with_notices(encoded(data_set), data_set.file_meta.TransferSyntaxUID, EXPLICIT_LITTLE)[1]


# --- colours and bits ---------------------------------------------------------------------------------------------

COLOURS = [
    (syntaxes.JPEG_BASELINE, "RGB", "YBR_FULL_422", "RGB"),
    (syntaxes.JPEG_2000_LOSSLESS, "RGB", "YBR_RCT", "RGB"),
    (syntaxes.JPEG_2000, "RGB", "YBR_ICT", "RGB"),
    (syntaxes.JPEG_XL, "RGB", "XYB", "RGB"),
    (RLE, "YBR_FULL", "YBR_FULL", "YBR_FULL"),
    (JPEG_LS, "YBR_FULL", "YBR_FULL", "YBR_FULL"),
    (JPEG_LS, "RGB", "RGB", "RGB"),
    (RLE, "PALETTE COLOR", "PALETTE COLOR", "PALETTE COLOR"),
    (RLE, "MONOCHROME1", "MONOCHROME1", "MONOCHROME1"),
]


@pytest.mark.parametrize(("syntax", "native", "before", "after"), COLOURS)
def test_photometric_interpretation_says_what_the_decoder_returned(syntax: str, native: str, before: str, after: str):
    """RGB where it converts the colours, else as it was."""
    made = sample(syntax, native)
    assert made.compressed.PhotometricInterpretation == before
    data_set = afterwards(made.compressed)
    assert data_set.PhotometricInterpretation == after
    assert data_set.get("PlanarConfiguration") == (0 if data_set.SamplesPerPixel == 3 else None)


@pytest.mark.parametrize("planar", [1, None])
def test_planar_configuration_is_that_of_the_decoded_pixels(planar: int | None):
    """0, colour by pixel, also where the compressed instance has another one or none."""
    data_set = afterwards(changed(sample(RLE, "RGB").compressed, PlanarConfiguration=planar))
    assert data_set.PlanarConfiguration == 0
    assert_in_order(data_set)


def test_planar_configuration_of_a_single_sample_is_not_touched():
    """It has no meaning there (PS3.3 C.7.6.3.1.3)."""
    assert afterwards(changed(sample(RLE).compressed, PlanarConfiguration=1)).PlanarConfiguration == 1


@pytest.mark.parametrize(("bits", "vr"), [(8, "OB"), (12, "OW"), (16, "OW"), (32, "OW")])
@pytest.mark.parametrize("is_signed", [False, True])
def test_vr_and_bits(bits: int, vr: str, is_signed: bool):
    """Native pixel data is OB up to 8 bits allocated, else OW (PS3.5 A.2); the bits are those of the instance."""
    made = sample(syntaxes.DEFLATED_FRAME, bits=bits, is_signed=is_signed)
    data_set = afterwards(made.compressed)
    assert vr == data_set["PixelData"].VR
    assert numpy.array_equal(pixels_of(data_set), made.pixels)
    for keyword in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        assert data_set[keyword] == made.native[keyword]
    assert afterwards(made.compressed, IMPLICIT_LITTLE).PixelData == data_set.PixelData


def test_an_odd_length_is_padded():
    """With one zero byte, after the last of several frames only."""
    made = sample(RLE, bits=8, frames=3, size=(3, 5))
    data_set = afterwards(made.compressed)
    assert len(data_set.PixelData) == 46
    assert numpy.array_equal(pixels_of(data_set), made.pixels)


WRITTEN_DIFFERENTLY: list[dict[str, Any]] = [
    {"HighBit": None},
    {"PixelRepresentation": None},
    {"Rows": ("IS", "48")},
    {"Rows": ("UL", 48)},
    {"Rows": ("SS", 48)},
    {"Rows": ("DS", "48.0")},
    {"Columns": [64, 1]},
    {"SamplesPerPixel": ("LO", "1")},
    {"PhotometricInterpretation": ("LO", "MONOCHROME2 ")},
    {"NumberOfFrames": ("US", 1)},
    {"NumberOfFrames": ""},
    {"NumberOfFrames": 0},
]


@pytest.mark.parametrize("attributes", WRITTEN_DIFFERENTLY, ids=str)
def test_attributes_with_unusual_encodings_are_understood(attributes: dict[str, Any]):
    """Whatever VR and multiplicity they have; what is missing but clear is added."""
    made = sample(JPEG_LS)
    data_set = afterwards(changed(made.compressed, **attributes))
    assert data_set.PixelData == made.native.PixelData
    assert (data_set.HighBit, data_set.PixelRepresentation) == (11, 0)
    assert_in_order(data_set)


def test_an_attribute_of_unknown_vr_is_understood():
    """UN, as an archive writes that did not know the element."""
    made = sample(JPEG_LS)
    data = encoded(made.compressed).replace(b"\x28\0\x10\0US\2\0", b"\x28\0\x10\0UN\0\0\2\0\0\0")
    assert read(converted(data, JPEG_LS, EXPLICIT_LITTLE), EXPLICIT_LITTLE).PixelData == made.native.PixelData


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"Rows": None}, "Rows (0028,0010) is missing"),
    ({"Columns": None}, "Columns (0028,0011) is missing"),
    ({"SamplesPerPixel": None}, "Samples per Pixel (0028,0002) is missing"),
    ({"PhotometricInterpretation": None}, "Photometric Interpretation (0028,0004) is missing"),
    ({"PhotometricInterpretation": ""}, "Photometric Interpretation (0028,0004) is missing"),
    ({"BitsAllocated": None}, "Bits Allocated (0028,0100) is missing"),
    ({"BitsStored": None}, "Bits Stored (0028,0101) is missing"),
    ({"Rows": ("LO", "many")}, "Rows (0028,0010) is missing"),
    ({"Rows": 0}, "Rows (0028,0010) is 0, which is not possible"),
    ({"Rows": ("SS", -48)}, "Rows (0028,0010) is -48, which is not possible"),
    ({"BitsAllocated": 13}, "Bits Allocated (0028,0100) is 13, which is not possible"),
    ({"BitsStored": 17}, "Bits Stored (0028,0101) is 17, more than Bits Allocated (0028,0100), 16"),
    ({"NumberOfFrames": 2}, "Pixel Data has 1 of 2 frames"),
]


@pytest.mark.parametrize(("attributes", "sentence"), CONTRADICTIONS, ids=str)
def test_missing_and_impossible_attributes_are_named(attributes: dict[str, Any], sentence: str):
    """The error names the attribute, in its tags too."""
    data_set = changed(sample(JPEG_LS).compressed, **attributes)
    with pytest.raises(UndecodablePixelData) as error:
        afterwards(data_set)
    assert error.value.comment == sentence
    assert error.value.tags


@pytest.mark.parametrize("attributes", [{"Rows": None}, {"BitsAllocated": 13}, {"NumberOfFrames": 2}], ids=str)
def test_native_pixels_that_cannot_be_encoded_are_not_damaged(attributes: dict[str, Any]):
    """NotSupported lets the sender use another native transfer syntax."""
    with pytest.raises(NotSupported):
        afterwards(changed(native_sample(), **attributes), JPEG_LS)


# --- frames -------------------------------------------------------------------------------------------------------


def test_surplus_frames_are_dropped_with_a_notice():
    """Number of Frames stays as declared."""
    made = sample(RLE, frames=3)
    made.compressed.NumberOfFrames = 2
    data_set = afterwards(made.compressed)
    assert data_set.NumberOfFrames == 2
    assert data_set.PixelData == made.native.PixelData[: 2 * 48 * 64 * 2]
    assert notices_of(made.compressed) == ("Pixel Data has 3 frames; those after the declared 2 were dropped",)


def test_surplus_frames_of_native_pixel_data_are_not_encoded():
    """The same for the other direction."""
    native = native_sample(frames=3)
    native.NumberOfFrames = 2
    _, notices = converted_with_notices(encoded(native), EXPLICIT_LITTLE, JPEG_LS)
    assert notices == ("Pixel Data has 3 frames; those after the declared 2 were dropped",)


def test_padding_is_no_surplus_frame():
    """Here a frame has one byte."""
    native = native_sample(bits=8)
    changed(native, Rows=1, Columns=1, NumberOfFrames=3, PixelData=b"abc\0")
    data, notices = converted_with_notices(encoded(native), EXPLICIT_LITTLE, RLE)
    assert notices == ()
    assert read(converted(data, RLE, EXPLICIT_LITTLE), EXPLICIT_LITTLE).PixelData == b"abc\0"


def test_a_damaged_frame_is_named():
    """By its number, when there are several."""
    made = sample(JPEG_LS, frames=3)
    frames = [*_frames(made.compressed)]
    frames[1] = frames[1][:100]
    made.compressed.PixelData = encapsulate(frames)
    with pytest.raises(UndecodablePixelData, match=r"^Frame 2 of 3: A compressed frame is truncated$"):
        afterwards(made.compressed)


def _frames(data_set: Dataset) -> list[bytes]:
    from pydicom.encaps import generate_frames

    return list(generate_frames(data_set.PixelData, number_of_frames=int(data_set.get("NumberOfFrames", 1))))


def test_offset_tables_are_removed():
    """Native pixel data has none; encoded frames are found by their fragments."""
    made = sample(RLE, frames=3)
    data, offsets, lengths = encapsulate_extended(_frames(made.compressed))
    made.compressed.PixelData = data
    made.compressed.ExtendedOffsetTable, made.compressed.ExtendedOffsetTableLengths = offsets, lengths
    made.compressed.add_new(0x7FE00003, "UV", len(data))
    for target in (EXPLICIT_LITTLE, JPEG_LS):
        data_set = afterwards(made.compressed, target)
        assert [each.tag for each in data_set.group_dataset(0x7FE0)] == [0x7FE00010]
    assert afterwards(made.compressed).PixelData == made.native.PixelData


def test_frames_of_one_bit_follow_each_other_without_padding():
    """Segmentations: 15 pixels of one frame and the next share a byte (PS3.5 8.1.1)."""
    frames = numpy.random.default_rng(1).integers(0, 2, (5, 3, 5))
    native = changed(native_sample(bits=8, frames=5, size=(3, 5)), BitsAllocated=1, BitsStored=1, HighBit=0)
    bits = numpy.packbits(frames.ravel(), bitorder="little").tobytes()
    native.PixelData = bits
    compressed = changed(native_sample(bits=8, frames=5, size=(3, 5)), BitsAllocated=1, BitsStored=1, HighBit=0)
    compressed.PixelData = encapsulate([_deflated(numpy.packbits(each.ravel(), bitorder="little")) for each in frames])
    compressed["PixelData"].is_undefined_length = True
    compressed.file_meta.TransferSyntaxUID = UID(syntaxes.DEFLATED_FRAME)
    data_set = afterwards(compressed)
    assert data_set.PixelData == bits
    assert numpy.array_equal(pixels_of(data_set), frames)


def _deflated(frame: numpy.ndarray) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(frame.tobytes()) + deflater.flush()


def test_four_gibibytes_of_pixels_are_refused():
    """No value of a defined length can be longer (PS3.5 7.1.1)."""
    made = sample(RLE, "RGB")
    changed(made.compressed, Rows=65535, Columns=65535)
    with pytest.raises(NotSupported, match=r"^Its pixel data would be 4 GiB or longer when it is not compressed$"):
        afterwards(made.compressed)


# --- loss ---------------------------------------------------------------------------------------------------------

LOSSY = [
    (syntaxes.JPEG_BASELINE, "ISO_10918_1"),
    (syntaxes.JPEG_EXTENDED, "ISO_10918_1"),
    (syntaxes.JPEG_LS_NEAR_LOSSLESS, "ISO_14495_1"),
    (syntaxes.JPEG_2000, "ISO_15444_1"),
    (syntaxes.HTJ2K, "ISO_15444_15"),
    (syntaxes.JPEG_XL, "ISO_18181_1"),
    (syntaxes.JPEG_XL_RECOMPRESSION, "ISO_10918_1"),
]


@pytest.mark.parametrize("before", [None, "00"])
@pytest.mark.parametrize(("syntax", "method"), LOSSY)
def test_lossy_compression_is_written_down(syntax: str, method: str, before: str | None):
    """When the instance does not say it: with method and ratio, because the copy no longer shows it."""
    made = sample(syntax, frames=2)
    if before is not None:
        made.compressed.LossyImageCompression = before
    data_set = afterwards(made.compressed)
    assert (data_set.LossyImageCompression, data_set.LossyImageCompressionMethod) == ("01", method)
    stored = sum(map(len, _frames(made.compressed)))
    assert float(data_set.LossyImageCompressionRatio) == pytest.approx(len(data_set.PixelData) / stored, abs=0.006)
    assert_in_order(data_set)


@pytest.mark.parametrize(
    ("lossy", "lossless"),
    [
        (syntaxes.JPEG_2000, syntaxes.JPEG_2000_LOSSLESS),
        (syntaxes.JPEG_LS_NEAR_LOSSLESS, JPEG_LS),
        (syntaxes.HTJ2K, syntaxes.HTJ2K_LOSSLESS),
    ],
)
def test_lossy_frames_in_a_lossless_syntax_are_noticed(lossy: str, lossless: str):
    """The codestream tells, not the transfer syntax."""
    made = sample(lossy).compressed
    made.file_meta.TransferSyntaxUID = UID(lossless)
    assert afterwards(made).LossyImageCompression == "01"


def test_once_lossy_always_lossy():
    """What the instance says about it stays."""
    attributes = {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": ["9.5", "3"],
        "LossyImageCompressionMethod": ["ISO_10918_1", "ISO_15444_1"],
    }
    for made in (sample(syntaxes.JPEG_BASELINE), sample(RLE)):
        data_set = afterwards(changed(made.compressed, **attributes))
        assert {keyword: data_set[keyword].value for keyword in attributes} == {
            "LossyImageCompression": "01",
            "LossyImageCompressionRatio": [9.5, 3],
            "LossyImageCompressionMethod": ["ISO_10918_1", "ISO_15444_1"],
        }


def test_an_empty_list_is_filled():
    """An instance that says 01 and not how is completed (PS3.3 requires method and ratio then)."""
    made = sample(syntaxes.JPEG_2000, LossyImageCompression="01", LossyImageCompressionRatio="7")
    data_set = afterwards(made.compressed)
    assert (data_set.LossyImageCompressionRatio, data_set.LossyImageCompressionMethod) == (7, "ISO_15444_1")


def test_earlier_lossy_steps_stay_in_the_lists():
    """The new one is the last (PS3.3 C.7.6.1.1.5)."""
    made = sample(syntaxes.JPEG_2000, LossyImageCompressionRatio="7", LossyImageCompressionMethod="ISO_10918_1")
    data_set = afterwards(made.compressed)
    assert data_set.LossyImageCompressionMethod == ["ISO_10918_1", "ISO_15444_1"]
    assert data_set.LossyImageCompressionRatio[0] == 7


@pytest.mark.parametrize("syntax", [RLE, JPEG_LS, syntaxes.JPEG_2000_LOSSLESS, syntaxes.JPEG_XL_LOSSLESS])
def test_lossless_compression_leaves_no_trace(syntax: str):
    """Nor is a 00 changed."""
    data_set = afterwards(changed(sample(syntax).compressed, LossyImageCompression="00"))
    assert data_set.LossyImageCompression == "00"
    assert "LossyImageCompressionMethod" not in data_set


@pytest.mark.parametrize(
    ("syntax", "photometric", "are_kept"),
    [
        (RLE, "MONOCHROME2", True),
        (RLE, "RGB", True),
        (syntaxes.JPEG_2000_LOSSLESS, "RGB", False),
        (syntaxes.JPEG_BASELINE, "MONOCHROME2", False),
    ],
)
def test_smallest_and_largest_values_are_kept_while_true(syntax: str, photometric: str, are_kept: bool):
    """They are removed when values were lost, or are those of other colours now."""
    extremes = {"SmallestImagePixelValue": ("US", 0), "LargestImagePixelValue": ("US", 250)}
    series = {"SmallestPixelValueInSeries": ("US", 0), "LargestPixelValueInSeries": ("US", 250)}
    data_set = afterwards(changed(sample(syntax, photometric).compressed, **extremes, **series))
    assert {keyword for keyword in extremes | series if keyword in data_set} == (
        {*extremes, *series} if are_kept else set()
    )


# --- overlays, icons, float pixels --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("syntax", [RLE, JPEG_LS, syntaxes.JPEG_LOSSLESS_SV1, syntaxes.JPEG_2000_LOSSLESS])
def test_overlays_in_unused_bits_survive(syntax: str, is_signed: bool):
    """Neither masked nor overwritten by the sign (PS3.5 8.1.2), where the codestream has all 16 bits."""
    native = changed(overlaid(), PixelRepresentation=int(is_signed))
    words = numpy.frombuffer(native.PixelData, "<u2").reshape(48, 64)
    compressed = changed(overlaid(), PixelRepresentation=int(is_signed))
    compressed.PixelData = encapsulate([METHODS[syntax].encode(words, 16, False)])
    compressed["PixelData"].VR = "OB"
    compressed["PixelData"].is_undefined_length = True
    compressed.file_meta.TransferSyntaxUID = UID(syntax)
    assert afterwards(compressed).PixelData == native.PixelData
    assert afterwards(compressed)[0x60000102].value == 15


@pytest.mark.parametrize("target", [JPEG_LS, syntaxes.JPEG_2000_LOSSLESS])
def test_overlays_in_unused_bits_are_not_encoded(target: str):
    """Where the codec has room for the pixels only."""
    with pytest.raises(NotSupported):
        afterwards(overlaid(), target)


@pytest.mark.parametrize("target", [EXPLICIT_LITTLE, IMPLICIT_LITTLE, syntaxes.JPEG_2000_LOSSLESS])
def test_an_encapsulated_icon_becomes_native(target: str):
    """In each target: nested pixel data need not be compressed (PS3.5 A.4)."""
    icon = sample(syntaxes.JPEG_BASELINE, "RGB")
    made = with_icon(sample(syntaxes.JPEG_BASELINE, frames=2).compressed, icon.compressed)
    (item,) = afterwards(made, target).IconImageSequence
    assert item.PhotometricInterpretation == "RGB"
    assert abs(pixels_of(item).astype(int) - icon.pixels).max() <= icon.difference
    assert "LossyImageCompression" not in item


@pytest.mark.parametrize("source", [syntaxes.JPEG_BASELINE, EXPLICIT_LITTLE])
def test_a_native_icon_stays_as_it_is(source: str):
    """Both in a compressed instance and in one that is compressed now."""
    image = sample(syntaxes.JPEG_BASELINE).compressed if source != EXPLICIT_LITTLE else native_sample()
    icon = native_sample(bits=8, size=(16, 16))
    made = with_icon(image, icon)
    for target in (EXPLICIT_LITTLE, JPEG_LS):
        (item,) = afterwards(made, target).IconImageSequence
        assert item.PixelData == icon.PixelData


def test_a_damaged_icon_is_refused():
    """The instance is not converted without it."""
    icon = sample(JPEG_LS, size=(16, 16)).compressed
    del icon.Rows
    with pytest.raises(UndecodablePixelData, match=r"^Rows \(0028,0010\) is missing$"):
        afterwards(with_icon(sample(JPEG_LS).compressed, icon))


@pytest.mark.parametrize("keyword", ["FloatPixelData", "DoubleFloatPixelData"])
def test_float_pixels_are_never_encoded(keyword: str):
    """They stay as they are in each native transfer syntax."""
    native = native_sample(bits=32)
    setattr(native, keyword, native.PixelData)
    del native.PixelData
    assert afterwards(native, IMPLICIT_LITTLE)[keyword].value == native[keyword].value
    with pytest.raises(NotSupported, match=r"^Float pixel data is never compressed$"):
        afterwards(native, JPEG_LS)
    data = encoded(native)
    assert converted(data, JPEG_LS, EXPLICIT_LITTLE) == data


def test_an_instance_without_pixels_is_not_encoded():
    """Its native transfer syntaxes are enough for it."""
    native = changed(native_sample(), PixelData=None)
    with pytest.raises(NotSupported, match=r"^It has no pixel data to encode in JPEG-LS Lossless Image Compression$"):
        afterwards(native, JPEG_LS)


# --- digital signatures -------------------------------------------------------------------------------------------


NOTICE = "Digital signatures over changed elements were removed"


def test_signatures_over_pixel_data_are_removed():
    """With their MAC parameters, and a notice; others stay."""
    made = signed(sample(RLE).compressed, [0x7FE00010, 0x00280010], [0x00100010, 0x00080018])
    data_set = afterwards(made)
    assert [item.MACIDNumber for item in data_set.DigitalSignaturesSequence] == [1]
    assert [item.MACIDNumber for item in data_set.MACParametersSequence] == [1]
    assert notices_of(made) == (NOTICE,)


def test_the_sequences_disappear_with_the_last_signature():
    """None is left empty."""
    data_set = afterwards(signed(sample(RLE).compressed, [0x7FE00010], [0x7FE00010, 0x00100010]))
    assert "DigitalSignaturesSequence" not in data_set
    assert "MACParametersSequence" not in data_set


def test_the_notice_comes_once():
    """Also when an item has signatures too."""
    icon = signed(sample(RLE, size=(16, 16)).compressed, [0x7FE00010])
    made = with_icon(sample(RLE).compressed, icon)
    made.IconImageSequence[0].MACParametersSequence = icon.MACParametersSequence
    made.IconImageSequence[0].DigitalSignaturesSequence = icon.DigitalSignaturesSequence
    signed(made, [0x7FE00010])
    assert notices_of(made) == (NOTICE,)
    (item,) = afterwards(made).IconImageSequence
    assert "DigitalSignaturesSequence" not in item


def test_signatures_over_other_changed_attributes_are_removed():
    """Photometric Interpretation becomes RGB; Lossy Image Compression is added where there was none."""
    made = signed(sample(syntaxes.JPEG_BASELINE, "RGB").compressed, [0x00280004], [0x00280010])
    assert [item.MACIDNumber for item in afterwards(made).DigitalSignaturesSequence] == [1]


def test_a_signature_over_a_sequence_with_a_changed_item_is_removed():
    """Here the sequence is the icon's."""
    icon = sample(JPEG_LS, size=(16, 16)).compressed
    made = signed(with_icon(sample(JPEG_LS).compressed, icon), [0x00880200], [0x00100010])
    assert [item.MACIDNumber for item in afterwards(made).DigitalSignaturesSequence] == [1]


def test_a_signature_without_its_parameters_is_removed():
    """Nothing tells what it signs."""
    made = signed(sample(RLE).compressed, [0x00100010])
    del made.MACParametersSequence
    assert "DigitalSignaturesSequence" not in afterwards(made)


@pytest.mark.parametrize("change", [{"DataElementsSigned": None}, {"MACIDNumber": 1}], ids=str)
def test_a_signature_with_unclear_parameters_is_removed(change: dict[str, Any]):
    """They do not say what it signs, or two say it."""
    made = signed(sample(RLE).compressed, [0x7FE00010], [0x00100010])
    for item in made.MACParametersSequence:
        changed(item, **change)
    assert "DigitalSignaturesSequence" not in {
        each.keyword
        for each in afterwards(changed(made, DigitalSignaturesSequence=Sequence([made.DigitalSignaturesSequence[1]])))
    }


def test_signatures_stay_when_nothing_changes():
    """An instance without compressed pixels is only encoded again."""
    made = signed(changed(sample(RLE).compressed, PixelData=None), [0x00100010, 0x00280010])
    assert len(afterwards(made).DigitalSignaturesSequence) == 1
    assert notices_of(made) == ()


# --- structure ----------------------------------------------------------------------------------------------------


def _raw_element(tag: int, vr: bytes, value: bytes) -> bytes:
    return pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr, 0, len(value)) + value


def test_native_pixel_data_in_a_compressed_syntax_is_taken_as_it_is():
    """If its length is that of the attributes."""
    native = native_sample()
    data = encoded(native)
    assert converted(data, JPEG_LS, EXPLICIT_LITTLE) == data
    assert converted(converted(data, RLE, JPEG_LS), JPEG_LS, EXPLICIT_LITTLE) == data


@pytest.mark.parametrize("length", [6142, 6146])
def test_native_pixel_data_of_another_length_in_a_compressed_syntax_is_refused(length: int):
    """It may be a frame that was not encapsulated."""
    native = native_sample()
    native.PixelData = native.PixelData.ljust(length, b"\0")[:length]
    with pytest.raises(UndecodablePixelData) as error:
        converted(encoded(native), JPEG_LS, EXPLICIT_LITTLE)
    assert error.value.comment == f"Pixel Data has {length} bytes, but its attributes say 6144"


def test_pixel_data_occurs_once():
    """Nothing tells which of two is meant."""
    data = encoded(sample(JPEG_LS).compressed)
    pixels = data[data.index(b"\xe0\x7f\x10\0OB") :]
    with pytest.raises(UndecodablePixelData, match=r"^Pixel Data \(7FE0,0010\) occurs twice in a data set$"):
        converted(data + pixels, JPEG_LS, EXPLICIT_LITTLE)


def test_pixel_data_before_its_attributes_is_decoded():
    """Elements out of order stay out of order."""
    made = sample(JPEG_LS)
    data = encoded(made.compressed)
    at = data.index(b"\xe0\x7f\x10\0OB")
    data_set = read(converted(data[at:] + data[:at], JPEG_LS, EXPLICIT_LITTLE), EXPLICIT_LITTLE)
    assert data_set.PixelData == made.native.PixelData
    assert data_set.Rows == 48


def test_elements_after_the_pixel_data_stay():
    """And the zero bytes that some writers add are left out."""
    data = encoded(sample(JPEG_LS).compressed)
    trailing = _raw_element(0xFFFCFFFC, b"OB", bytes(10))
    assert converted(data + trailing, JPEG_LS, EXPLICIT_LITTLE).endswith(trailing)
    assert converted(data + bytes(7), JPEG_LS, EXPLICIT_LITTLE) == converted(data, JPEG_LS, EXPLICIT_LITTLE)


def test_group_lengths_are_left_out():
    """They would be wrong afterwards."""
    data = encoded(sample(JPEG_LS).compressed)
    with_length = pack("<HH2sHL", 8, 0, b"UL", 4, 1234) + data
    assert converted(with_length, JPEG_LS, EXPLICIT_LITTLE) == converted(data, JPEG_LS, EXPLICIT_LITTLE)


def test_private_and_unknown_elements_stay():
    """Also with values of VR UN."""
    made = sample(JPEG_LS).compressed
    made.private_block(0x0029, "MAKER", create=True).add_new(0x10, "UN", b"1234")
    made.private_block(0x7FE1, "MAKER", create=True).add_new(0x10, "OB", b"behind")
    data_set = afterwards(made)
    assert data_set[0x00291010].value == b"1234"
    assert data_set[0x7FE11010].value == b"behind"
    assert_in_order(data_set)


def test_implicit_vrs_in_a_compressed_syntax_are_accepted():
    """Some writers omit them (docs/checklist.md S3)."""
    made = sample(JPEG_LS)
    made.compressed.SmallestImagePixelValue = 0
    implicit = converted(encoded(changed(native_sample(), PixelData=None)), EXPLICIT_LITTLE, IMPLICIT_LITTLE)
    fragments = encoded(made.compressed)
    at = fragments.index(b"\xe0\x7f\x10\0OB")
    data = implicit + fragments[at : at + 4] + fragments[at + 8 :]
    data_set = read(converted(data, JPEG_LS, EXPLICIT_LITTLE), EXPLICIT_LITTLE)
    assert data_set.PixelData == made.native.PixelData
    assert data_set.Rows == 48


def test_fragments_in_a_native_syntax_are_refused():
    """As the conversion between native transfer syntaxes does."""
    with pytest.raises(UndecodableDataSet, match=r"^Pixel data is in fragments, but its transfer syntax is native$"):
        converted(encoded(sample(JPEG_LS).compressed), EXPLICIT_LITTLE, JPEG_LS)


def test_other_elements_in_fragments_are_refused():
    """Nothing says what they are."""
    data = encoded(sample(JPEG_LS).compressed)
    fragments = data[data.index(b"\xe0\x7f\x10\0OB") + 12 :]
    private = pack("<HH2sHL", 0x7FE1, 0x1010, b"OB", 0, 0xFFFFFFFF) + fragments
    with pytest.raises(NotSupported, match=r"^An element other than Pixel Data is in fragments$"):
        converted(data + private, JPEG_LS, EXPLICIT_LITTLE)


@pytest.mark.parametrize("cut", [40, 9])
def test_a_truncated_data_set_is_refused(cut: int):
    """As when it is stored."""
    data = encoded(sample(JPEG_LS).compressed)
    with pytest.raises(UndecodableDataSet, match=r"^The data set ends in the middle of an element"):
        converted(data[:-cut], JPEG_LS, EXPLICIT_LITTLE)
