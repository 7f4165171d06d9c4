"""Checks what section 3.4 of the conformance statement says about converted instances, on a running server."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate_extended, generate_fragments
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet

from pacs.dicom.syntaxes import EXPLICIT_LITTLE
from pacs.pixels import transfer_syntaxes as syntaxes
from pacs.testing import serving
from tests.dicom.test_syntaxes import read
from tests.docs.statement import covers
from tests.pixels.converting import encoded, overlaid, signed, with_icon
from tests.pixels.samples import native_sample, pixels_of, sample

RLE, JPEG_LS, JPEG = syntaxes.RLE_LOSSLESS, syntaxes.JPEG_LS_LOSSLESS, syntaxes.JPEG_BASELINE


_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Iterator[Any]:
    """A running archive."""
    with serving(tmp_path_factory.mktemp("archive")) as archive:
        yield archive


class Sent:
    """What a C-GET that accepts one transfer syntax receives of an instance."""

    def __init__(self, archive: Any, data_set: Dataset, accepted: str = EXPLICIT_LITTLE) -> None:
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = f"2.25.{next(_numbers)}"
        self.stored = encoded(data_set)
        self.accepted = accepted
        self.arrived: list[bytes] = []
        self._store(archive, data_set)
        self.comment = self._get(archive, data_set, accepted)

    @property
    def data_set(self) -> Dataset:
        """The received data set."""
        (data,) = self.arrived
        return read(data, self.accepted)

    def _store(self, archive: Any, data_set: Dataset) -> None:
        syntax = data_set.file_meta.TransferSyntaxUID
        with archive.storage.receive(data_set.SOPClassUID, data_set.SOPInstanceUID, syntax, "TEST") as reception:
            reception.write(self.stored)
            reception.finish()

    def _get(self, archive: Any, data_set: Dataset, accepted: str) -> str:
        """Return the Error Comment."""
        ae = AE("REQUESTOR")
        ae.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
        ae.add_requested_context(data_set.SOPClassUID, accepted)
        role = build_role(data_set.SOPClassUID, scp_role=True)
        association = ae.associate(
            "127.0.0.1", archive.port, ae_title="PACS", ext_neg=[role], evt_handlers=[(evt.EVT_C_STORE, self._take)]
        )
        keys = Dataset()
        keys.QueryRetrieveLevel, keys.StudyInstanceUID = "IMAGE", data_set.StudyInstanceUID
        keys.SeriesInstanceUID, keys.SOPInstanceUID = data_set.SeriesInstanceUID, data_set.SOPInstanceUID
        *_, (final, _) = association.send_c_get(keys, StudyRootQueryRetrieveInformationModelGet)
        association.release()
        return str(final.get("ErrorComment", ""))

    def _take(self, event: Any) -> int:
        self.arrived.append(event.request.DataSet.getvalue())
        return 0x0000


def assert_is_not_sent(archive: Any, data_set: Dataset, comment: str, accepted: str = EXPLICIT_LITTLE) -> None:
    """Assert that a C-GET fails for an instance, and that its Error Comment has these words."""
    sent = Sent(archive, data_set, accepted)
    assert not sent.arrived
    assert comment in sent.comment


@covers(
    "A converted instance keeps its UIDs, its private elements and all other elements",
    "The stored instance does not change",
)
def test_all_other_elements_stay(archive):
    """The stored one is sent as it is to a requestor that accepts its transfer syntax."""
    made = sample(RLE).compressed
    made.private_block(0x0029, "MAKER", create=True).add_new(0x10, "LO", "private")
    sent = Sent(archive, made)
    kept = [each for each in made if each.tag.group not in (0x0028, 0x7FE0)]
    assert [each for each in sent.data_set if each.tag.group not in (0x0028, 0x7FE0)] == kept
    again = Sent(archive, made, RLE)
    assert again.arrived == [again.stored]


@covers("Decoded pixel data have Planar Configuration 0, and VR OB up to 8 Bits Allocated, else OW")
@pytest.mark.parametrize(("photometric", "vr"), [("RGB", "OB"), ("MONOCHROME2", "OW")])
def test_decoded_pixel_data(archive, photometric, vr):
    """Colour by pixel."""
    made = sample(RLE, photometric)
    if photometric == "RGB":
        made.compressed.PlanarConfiguration = 1
    data_set = Sent(archive, made.compressed).data_set
    assert vr == data_set["PixelData"].VR
    assert data_set.get("PlanarConfiguration", 0) == 0
    assert numpy.array_equal(pixels_of(data_set), made.pixels)


@covers(
    "Photometric Interpretation becomes RGB where the decoder converts colours: in JPEG, JPEG 2000, HTJ2K and JPEG XL"
)
@pytest.mark.parametrize("syntax", [JPEG, syntaxes.JPEG_2000, syntaxes.HTJ2K_LOSSLESS, syntaxes.JPEG_XL])
def test_colours_become_rgb(archive, syntax):
    """Whatever they were."""
    made = sample(syntax, "RGB").compressed
    assert made.PhotometricInterpretation != "RGB"
    assert Sent(archive, made).data_set.PhotometricInterpretation == "RGB"


@covers("In RLE, JPEG-LS and lossless JPEG YBR_FULL stays")
@pytest.mark.parametrize("syntax", [RLE, JPEG_LS, syntaxes.JPEG_LOSSLESS_SV1])
def test_colours_stay(archive, syntax):
    """Their decoders convert nothing."""
    assert Sent(archive, sample(syntax, "YBR_FULL").compressed).data_set.PhotometricInterpretation == "YBR_FULL"


@covers("Encoded pixel data have one fragment for each frame, and a Basic Offset Table that has one entry")
@pytest.mark.parametrize(("frames", "table"), [(1, bytes(4)), (3, b"")])
def test_encoded_pixel_data(archive, frames, table):
    """The first item is the Basic Offset Table."""
    data_set = Sent(archive, native_sample(frames=frames), JPEG_LS).data_set
    assert data_set.PixelData[4:8] == len(table).to_bytes(4, "little")
    assert data_set.PixelData[8 : 8 + len(table)] == table
    assert len(list(generate_fragments(data_set.PixelData[8 + len(table) :]))) == frames


@covers("Overlays in unused bits stay in native pixel data and in RLE; other encoders refuse them")
def test_overlays_and_float_pixel_data(archive):
    """What an encoder refuses fails alone."""
    native = overlaid()
    compressed = Sent(archive, overlaid(), RLE).data_set
    compressed.file_meta.MediaStorageSOPClassUID = compressed.SOPClassUID
    assert Sent(archive, compressed).data_set.PixelData == native.PixelData
    assert_is_not_sent(archive, overlaid(), "it does not accept Explicit VR Little Endian", JPEG_LS)
    floats = native_sample(bits=32)
    floats.FloatPixelData = floats.PixelData
    del floats.PixelData
    for target in (RLE, JPEG_LS):
        assert_is_not_sent(archive, floats, "", target)


@covers("Pixel data in sequence items, such as icons, become native")
def test_icons(archive):
    """In the same conversion."""
    icon = sample(JPEG_LS, size=(16, 16))
    (item,) = Sent(archive, with_icon(sample(JPEG_LS).compressed, icon.compressed)).data_set.IconImageSequence
    assert numpy.array_equal(pixels_of(item), icon.pixels)


@covers("If frames were compressed with loss, Lossy Image Compression becomes 01, with method and ratio")
def test_lossy_compression(archive):
    """Earlier steps stay before it."""
    made = sample(JPEG, LossyImageCompressionMethod="ISO_15444_1", LossyImageCompressionRatio="3").compressed
    data_set = Sent(archive, made).data_set
    assert data_set.LossyImageCompression == "01"
    assert data_set.LossyImageCompressionMethod == ["ISO_15444_1", "ISO_10918_1"]
    made.LossyImageCompression = "01"
    del made.LossyImageCompressionRatio
    again = Sent(archive, made).data_set
    assert (again.LossyImageCompression, again.LossyImageCompressionMethod) == ("01", "ISO_15444_1")
    assert again.LossyImageCompressionRatio == data_set.LossyImageCompressionRatio[1]


@covers("Smallest and Largest Pixel Value, of the image, plane and series, are removed")
def test_extremes(archive):
    """They stay where no value changes."""
    for syntax, is_kept in ((JPEG, False), (RLE, True)):
        made = sample(syntax, SmallestImagePixelValue=0, LargestPixelValueInSeries=255).compressed
        for keyword in ("SmallestImagePixelValue", "LargestPixelValueInSeries"):
            made[keyword].VR = "US"
        data_set = Sent(archive, made).data_set
        assert ("SmallestImagePixelValue" in data_set, "LargestPixelValueInSeries" in data_set) == (is_kept, is_kept)


@covers(
    "Offset tables, group lengths, and digital signatures over changed elements with their MAC parameters are removed"
)
def test_what_is_removed(archive):
    """The signature over the name of the patient stays."""
    made = signed(sample(RLE, frames=2).compressed, [0x7FE00010], [0x00100010])
    frames = [fragment for fragment in generate_fragments(made.PixelData) if fragment][1:]
    made.PixelData, made.ExtendedOffsetTable, made.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    made.add_new(0x00080000, "UL", 1234)
    data_set = Sent(archive, made).data_set
    assert not {0x00080000, 0x7FE00001, 0x7FE00002} & {int(each.tag) for each in data_set}
    assert [item.MACIDNumber for item in data_set.DigitalSignaturesSequence] == [1]


@covers("An instance is not converted if its pixel data are damaged, have fewer frames than Number of Frames")
def test_what_is_not_converted(archive):
    """It fails alone, with the reason."""
    damaged, short, wrong = (sample(JPEG_LS, frames=2).compressed for _ in range(3))
    damaged.PixelData = damaged.PixelData[:60] + bytes(20) + damaged.PixelData[80:]
    assert_is_not_sent(archive, damaged, "")
    short.NumberOfFrames = 5
    assert_is_not_sent(archive, short, "2 of 5 frames")
    wrong.Rows = 47
    assert_is_not_sent(archive, wrong, "Rows")
    huge = sample(RLE, "RGB").compressed
    huge.Rows = huge.Columns = 65535
    assert_is_not_sent(archive, huge, "it does not accept RLE Lossless")


@covers("Frames after the declared number are dropped")
def test_surplus_frames(archive):
    """Number of Frames is right afterwards."""
    made = sample(JPEG_LS, frames=3)
    made.compressed.NumberOfFrames = 2
    data_set = Sent(archive, made.compressed).data_set
    assert numpy.array_equal(pixels_of(data_set), made.pixels[:2])
