"""What highdicom makes, with the encoders of pydicom's plugins, decodes to the pixels that it was given."""

import importlib.util
import warnings

import numpy
import pytest
from pydicom.sr.codedict import codes

from pacs.pixels import transfer_syntaxes as syntaxes
from pacs.testing import study
from tests import programs
from tests.pixels.frames import decoded
from tests.pixels.samples import native_sample, pixels_of

highdicom = pytest.importorskip("highdicom", reason="highdicom needs pyjpegls, which has no wheel for Python 3.14")

LOSSLESS = [syntaxes.RLE_LOSSLESS, syntaxes.JPEG_2000_LOSSLESS, syntaxes.JPEG_LS_LOSSLESS]
LOSSY = [(syntaxes.JPEG_BASELINE, 60), (syntaxes.JPEG_2000, 60), (syntaxes.JPEG_LS_NEAR_LOSSLESS, 3)]

CODED_COLOUR = {
    syntaxes.JPEG_2000_LOSSLESS: "YBR_RCT",
    syntaxes.JPEG_2000: "YBR_ICT",
    syntaxes.JPEG_BASELINE: "YBR_FULL_422",
}


@pytest.fixture(autouse=True)
def _quiet():
    """Silence its warnings about names; its encoder of JPEG 2000 is a plugin of pydicom."""
    if not importlib.util.find_spec("pylibjpeg"):
        programs.missing("pylibjpeg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def secondary_capture(pixels, photometric, syntax):
    """Return an instance of Secondary Capture."""
    return highdicom.sc.SCImage(
        pixel_array=pixels,
        photometric_interpretation=CODED_COLOUR.get(syntax, photometric) if photometric == "RGB" else photometric,
        bits_allocated=8 * pixels.itemsize,
        coordinate_system="PATIENT",
        study_instance_uid=highdicom.UID(),
        series_instance_uid=highdicom.UID(),
        series_number=1,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="highdicom",
        patient_orientation=("L", "P"),
        transfer_syntax_uid=syntax,
    )


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize(("photometric", "bits"), [("MONOCHROME2", 8), ("MONOCHROME2", 16), ("RGB", 8)])
def test_lossless_captures_are_exact(syntax, photometric, bits):
    """Grey in 8 and 16 bits, and colours."""
    pixels = pixels_of(native_sample(photometric, bits))
    ours, attributes = decoded(secondary_capture(pixels[0], photometric, syntax))
    assert numpy.array_equal(ours, pixels)
    assert attributes.photometric_interpretation == photometric


@pytest.mark.parametrize(("syntax", "most"), LOSSY)
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "RGB"])
def test_lossy_captures_are_close(syntax, most, photometric):
    """Its quality is not ours to choose: this finds exchanged colours, not details."""
    pixels = pixels_of(native_sample(photometric, 8))
    ours, attributes = decoded(secondary_capture(pixels[0], photometric, syntax))
    assert abs(ours.astype(int) - pixels.astype(int)).mean() <= 4
    assert abs(ours.astype(int) - pixels.astype(int)).max() <= most
    assert attributes.photometric_interpretation == photometric


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [("BINARY", syntaxes.JPEG_2000_LOSSLESS), *(("FRACTIONAL", each) for each in LOSSLESS)],
)
def test_segmentations_are_exact(kind, syntax):
    """In 8 bits, and in one bit, which only JPEG 2000 can have."""
    images = study(modality="CT", series=1, instances=3, size=64)
    mask = numpy.zeros((3, 64, 64), bool)
    mask[:, 10:30, 5:50] = True
    mask[1, 12, :] = True
    segmentation = highdicom.seg.Segmentation(
        source_images=images,
        pixel_array=mask,
        segmentation_type=kind,
        segment_descriptions=[highdicom.seg.SegmentDescription(1, "all", codes.SCT.Organ, codes.SCT.Organ, "MANUAL")],
        series_instance_uid=highdicom.UID(),
        series_number=1,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="highdicom",
        manufacturer_model_name="highdicom",
        software_versions="1",
        device_serial_number="1",
        max_fractional_value=1,
        transfer_syntax_uid=syntax,
    )
    ours, attributes = decoded(segmentation)
    assert attributes.bits_allocated == (1 if kind == "BINARY" else 8)
    assert numpy.array_equal(ours, mask)
