"""Frames are rendered as the standard says: pixel for pixel as by DCMTK and pydicom, up to the last rounding."""

import io
import random
from concurrent.futures import Future
from functools import cache
from itertools import product

import imagecodecs
import numpy
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence

from pacs.dicom import part10
from pacs.errors import Cancelled, InvalidArgument, NoPixelData, NotSupported, PacsError, UndecodablePixelData
from pacs.pixels.frames import Frames, Look
from pacs.pixels.pool import DecoderPool
from pacs.pixels.rendering import JPEG, PNG, Window
from tests.pixels.converting import InProcessPool, changed, overlaid
from tests.pixels.rendering import by_dcmtk, by_pydicom, frames_of, picture_of
from tests.pixels.samples import SYNTAXES, file_of, native_sample, pixels_of, sample
from tests.real_files import PART10, SAMPLE, CheckFiles, named

PYDICOM_ERRS = {
    "OBXXXX1A_expb.dcm", "OBXXXX1A_expb_2frame.dcm", "rtdose_expb.dcm", "rtdose_expb_1frame.dcm",  # words of big endian
    "eCT_Supplemental.dcm",  # the window is in the functional groups
}  # fmt: skip
DCMTK_ERRS = {"liver.dcm", "liver_expb.dcm", "liver_1frame.dcm", "liver_expb_1frame.dcm"}
"""Files that these render in another way than the standard says; in the last ones a single bit becomes half grey."""


@pytest.fixture
def check_files(request):
    """Run a check on the sample of the real files, or with --long on all."""
    return CheckFiles(is_long=request.config.getoption("--long"))


def assert_alike(picture, reference, most=1):
    """Assert that two pictures differ by no more than the rounding of the last bit."""
    assert picture.shape == reference.shape
    assert numpy.abs(picture.astype(int) - reference.astype(int)).max() <= most


@cache
def rendered(path):
    """Return the picture of a file, once for all tests; None for one that is not rendered."""
    try:
        return picture_of(path)
    except PacsError:
        return None


# --- real files, and other programs -------------------------------------------------------------------------------


def test_the_real_images_are_rendered(check_files):
    """All whose pixel data is complete and decoded; the others are refused with a sentence."""
    pictures = [rendered(path) for path in PART10 if check_files.is_long or path in SAMPLE]
    assert sum(each is not None for each in pictures) > (160 if check_files.is_long else 25)


def test_real_files_are_rendered_as_by_pydicom(check_files):
    """Pixel for pixel, up to one of 255 where it rounds another number."""

    def check(path):
        if rendered(path) is None:
            return
        try:
            reference = by_pydicom(path)
        except Exception:  # pydicom does not decode or scale it
            return
        assert_alike(rendered(path), reference)

    check_files(check, [path for path in PART10 if path.name not in PYDICOM_ERRS])


def test_real_files_are_rendered_as_by_dcmtk(check_files):
    """DCMTK truncates where this rounds, and converts YBR with coefficients of four digits."""

    def check(path):
        reference = by_dcmtk(path) if rendered(path) is not None else None
        if reference is not None:
            assert_alike(rendered(path), reference, most=2 if "ybr" in path.name else 1)

    check_files(check, [path for path in PART10 if path.name not in DCMTK_ERRS])


# --- grey -----------------------------------------------------------------------------------------------------------


def grey(bits=12, is_signed=False, photometric="MONOCHROME2", **attributes):
    """Return a native image."""
    return changed(native_sample(photometric, bits, is_signed), **attributes)


WINDOWS = [
    ("LINEAR", 1),
    ("LINEAR", 2),
    ("LINEAR", 300),
    ("LINEAR_EXACT", 0.25),
    ("LINEAR_EXACT", 300),
    ("SIGMOID", 300),
]


@pytest.mark.parametrize(("function", "width"), WINDOWS)
@pytest.mark.parametrize(("bits", "is_signed"), [(8, False), (12, True), (16, True), (16, False), (32, False)])
def test_windows_are_applied_as_by_pydicom(function, width, bits, is_signed):
    """To the output of the rescaling, with each VOI LUT function, and inverted for MONOCHROME1."""
    center = -1000 if is_signed else 90.5
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        image = grey(bits, is_signed, photometric, WindowCenter=center, WindowWidth=width, VOILUTFunction=function)
        assert_alike(picture_of(image), by_pydicom(image))
        if bits <= 16:
            rescaled = changed(image, RescaleSlope="0.75", RescaleIntercept="-20.5")
            assert_alike(picture_of(rescaled), by_pydicom(rescaled))


def lut(first, bits, entries, explanation="", vr="US"):
    """Return an item of a Modality or VOI LUT Sequence."""
    item = Dataset()
    item.add_new(0x00283002, "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    if explanation:
        item.LUTExplanation = explanation
    value = list(entries) if vr == "US" else numpy.array(entries, "<u2").tobytes()
    item.add_new(0x00283006, vr, value)
    return item


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_lookup_tables_are_applied_as_by_pydicom(vr):
    """The values below and above a table have its first and last entry."""
    curve = [int(65535 * (each / 4095) ** 0.5) for each in range(4096)]
    for image in (grey(12), grey(12, is_signed=True)):
        first = -700 if image.PixelRepresentation else 0
        image.VOILUTSequence = Sequence([lut(first, 16, curve, vr=vr)])
        assert_alike(picture_of(image), by_pydicom(image))
    modality = grey(12, WindowCenter=5000, WindowWidth=9000)
    modality.ModalityLUTSequence = Sequence([lut(100, 16, [each >> 2 for each in curve[:3000]], vr=vr)])
    assert_alike(picture_of(modality), by_pydicom(modality))


def test_a_table_of_65536_entries_is_applied():
    """Its number of entries is 0, and it is longer than other values that are read."""
    image = grey(16)
    image.VOILUTSequence = Sequence([lut(0, 16, range(65535, -1, -1), vr="OW")])
    assert_alike(picture_of(image), 255 - numpy.floor(pixels_of(image)[0] / 65535 * 255 + 0.5))


def test_a_window_is_chosen_by_number_explanation_or_value():
    """A VOI LUT comes before the windows of the image."""
    image = grey(WindowCenter=[100, 2000], WindowWidth=[200, 400], WindowCenterWidthExplanation=["LUNG", "BONE"])
    image.VOILUTSequence = Sequence([lut(0, 8, [7] * 4096, "FLAT")])
    with frames_of(image) as frames:
        assert [each.name for each in frames.display.choices(0)] == ["FLAT", "LUNG", "BONE"]
    assert set(picture_of(image).ravel()) == set(picture_of(image, window="flat").ravel()) == {7}
    assert (picture_of(image, window="2") == picture_of(image, window=Window(100, 200))).all()
    assert (picture_of(image, window="bone") == picture_of(image, window=Window(2000, 400))).all()
    with pytest.raises(
        InvalidArgument, match=r"no window 'brain': expected CENTER,WIDTH or one of auto, 1 \(FLAT\), 2 \(LUNG\)"
    ):
        picture_of(image, window="brain")


@pytest.mark.parametrize(
    "window", [Window(0, 0.5), Window(0, 0, "LINEAR_EXACT"), Window(0, 1, "CUBIC"), Window(float("nan"), 9)]
)
def test_an_impossible_window_is_refused(window):
    """As an argument."""
    with pytest.raises(InvalidArgument):
        picture_of(grey(), window=window)


def test_an_impossible_window_of_the_image_is_not_used():
    """The next one is, or all values."""
    image = grey(WindowCenter=[5, 900], WindowWidth=[0, 800])
    assert (picture_of(image) == picture_of(image, window=Window(900, 800))).all()
    assert (picture_of(grey(WindowCenter=5, WindowWidth=-1)) == picture_of(grey(), window="auto")).all()


def test_without_a_window_all_values_are_shown_except_for_padding():
    """An image of at most 8 bits is shown as it is."""
    image = grey(12)
    pixels = pixels_of(image).astype("<u2") // 2 + 500
    pixels[0, 0, :] = 0
    image.PixelData = pixels.tobytes()
    assert picture_of(image)[1:].min() > 20
    image.PixelPaddingValue, image.PixelPaddingRangeLimit = 0, 10
    assert (picture_of(image)[1:].min(), picture_of(image).max()) == (0, 255)
    few = grey(8)
    few.PixelData = (pixels_of(few) // 2).astype("u1").tobytes()
    assert (picture_of(few) == pixels_of(few)[0]).all()
    assert picture_of(few, window="auto").max() == 255


def test_bits_beside_bits_stored_do_not_count():
    """Such as overlays in unused bits."""
    image = overlaid()
    clean = changed(overlaid(), PixelData=(pixels_of(image).astype("<u2") & 0xFFF).tobytes())
    assert (picture_of(image) == picture_of(clean)).all()


def test_angiography_with_a_logarithmic_relationship_is_not_made_linear():
    """Its modality LUT is for measurements (PS3.3 C.8.7.1.1.2)."""
    image = grey(12)
    image.ModalityLUTSequence = Sequence([lut(0, 12, range(4095, -1, -1))])
    image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.12.1"
    shown = {value: picture_of(changed(image, PixelIntensityRelationship=value)) for value in ("LIN", "LOG")}
    assert (shown["LOG"] == 255 - shown["LIN"]).all()


# --- functional groups ----------------------------------------------------------------------------------------------


def item(**attributes):
    """Return an item of a sequence."""
    return changed(Dataset(), **attributes)


def transformations(center, intercept):
    """Return functional groups with a window and a rescaling."""
    voi = item(WindowCenter=center, WindowWidth=500)
    rescaling = item(RescaleIntercept=intercept, RescaleSlope=1)
    return item(FrameVOILUTSequence=Sequence([voi]), PixelValueTransformationSequence=Sequence([rescaling]))


def test_each_frame_has_the_window_and_the_rescaling_of_its_functional_groups():
    """Those of the frame come before those of all frames, and both before those of the data set."""
    image = changed(native_sample("MONOCHROME2", 12, frames=3), WindowCenter=9, WindowWidth=9)
    image.SharedFunctionalGroupsSequence = Sequence([transformations(700, -300)])
    assert (picture_of(image, 3) == picture_of(image, 3, window=Window(700, 500))).all()
    image.PerFrameFunctionalGroupsSequence = Sequence([transformations(500, -100 * each) for each in range(3)])
    plain = native_sample("MONOCHROME2", 12, frames=3)
    for frame in (1, 2, 3):
        expected = picture_of(plain, frame, window=Window(500 + 100 * (frame - 1), 500))
        assert (picture_of(image, frame) == expected).all()


def test_a_real_image_has_its_window_in_functional_groups():
    """Of Enhanced CT."""
    with frames_of(named("eCT_Supplemental.dcm")) as frames:
        assert frames.display.choices(0)
        assert len({frames.rendered(1, Look(window=window)) for window in (None, "1", "auto")}) == 2


# --- colour ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize(("photometric", "bits"), [("RGB", 8), ("RGB", 12), ("RGB", 16), ("YBR_FULL", 8)])
def test_colours_are_rendered_as_by_pydicom(photometric, planar, bits):
    """By pixel and by plane; more than 8 bits are reduced."""
    image = native_sample("RGB", bits)
    pixels = pixels_of(image)
    if planar:
        image.PixelData = numpy.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).tobytes()
    image = changed(image, PhotometricInterpretation=photometric, PlanarConfiguration=planar)
    assert_alike(picture_of(image), by_pydicom(image))


def ybr(matrix, rgb, black=0):
    """Convert RGB to Y, Cb and Cr as PS3.3 C.7.6.3.1.2 says."""
    return rgb @ numpy.array(matrix).T + [black, 128, 128]


FULL = [(0.2990, 0.5870, 0.1140), (-0.1687, -0.3313, 0.5000), (0.5000, -0.4187, -0.0813)]
PARTIAL = [(0.2568, 0.5041, 0.0979), (-0.1482, -0.2910, 0.4392), (0.4392, -0.3678, -0.0714)]


@pytest.mark.parametrize(
    ("photometric", "matrix", "black"), [("YBR_FULL_422", FULL, 0), ("YBR_PARTIAL_422", PARTIAL, 16)]
)
def test_subsampled_native_colours_come_back(photometric, matrix, black):
    """Two neighbours of the same colour, since they share Cb and Cr."""
    rgb = numpy.repeat(pixels_of(native_sample("RGB", 8))[0][:, ::2], 2, axis=1)
    encoded = numpy.rint(ybr(matrix, rgb, black)).clip(0, 255).astype("u1")
    words = numpy.stack([encoded[:, ::2, 0], encoded[:, 1::2, 0], encoded[:, ::2, 1], encoded[:, ::2, 2]], axis=-1)
    image = changed(native_sample("RGB", 8), PhotometricInterpretation=photometric, PixelData=words.tobytes())
    assert_alike(picture_of(image), rgb, most=3)


def palette(*, bits=8, count=256, first=0, segmented=None):
    """Return an image with three different palettes of words."""
    image = native_sample("PALETTE COLOR", 8)
    for number, colour in enumerate(("Red", "Green", "Blue")):
        entries = [(each * (number + 1) * 3 + 7) % (1 << bits) for each in range(count)]
        setattr(image, f"{colour}PaletteColorLookupTableDescriptor", [count, first, bits])
        name = f"{colour}PaletteColorLookupTableData"
        if segmented is not None:
            delattr(image, name) if name in image else None
            name, entries = f"Segmented{name}", segmented
        setattr(image, name, numpy.array(entries, "<u2").tobytes())
    return image


@pytest.mark.parametrize(("bits", "count", "first"), [(16, 256, 0), (16, 100, 50)])
def test_palettes_are_applied_as_by_pydicom(bits, count, first):
    """Values outside of a palette have its first and last entry."""
    image = palette(bits=bits, count=count, first=first)
    assert_alike(picture_of(image), by_pydicom(image))


def test_a_segmented_palette_is_expanded_as_by_pydicom():
    """With discrete, linear and indirect segments."""
    words = [0, 3, 0, 9000, 20000, 1, 100, 60000, 0, 2, 5, 65535, 1, 50, 300, 2, 2, 5, 0]
    image = palette(bits=16, count=256, segmented=words)
    assert_alike(picture_of(image), by_pydicom(image))


@pytest.mark.parametrize("words", [[0], [1, 5, 9], [7, 1, 1], [0, 1, 5, 2, 9, 9, 9], [0, 1, 5, 2, 1, 3, 0]])
def test_a_damaged_segmented_palette_is_refused(words):
    """It ends, whatever it says."""
    with pytest.raises(UndecodablePixelData, match="segmented palette"):
        picture_of(palette(bits=16, segmented=words))


@pytest.mark.parametrize("attribute", ["RedPaletteColorLookupTableData", "BluePaletteColorLookupTableDescriptor"])
def test_an_image_without_its_palette_is_refused(attribute):
    """It cannot be guessed."""
    with pytest.raises(UndecodablePixelData, match="palette"):
        picture_of(changed(palette(), **{attribute: None}))


@pytest.mark.parametrize("photometric", ["HSV", "CMYK", "YBR_PARTIAL_420"])
def test_other_colours_are_refused(photometric):
    """With their name."""
    with pytest.raises(NotSupported, match=photometric):
        picture_of(changed(native_sample("RGB", 8), PhotometricInterpretation=photometric))


# --- frames, forms and sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_frames_are_read_one_by_one_in_every_transfer_syntax(syntax):
    """Stored, native and rendered; the next frame is not read."""
    made = sample(syntax, frames=2)
    with frames_of(made.compressed) as frames:
        native, attributes = frames.native(2)
        assert len(native) == attributes.frame_size
        assert len(frames) == 2
        assert frames.stored(2) != native
        both = {frames.rendered(number) for number in (1, 2)}
    assert len(both) == 2
    if made.difference == 0:
        assert native == pixels_of(made.native)[1].tobytes()
        assert (picture_of(made.compressed, 2) == picture_of(made.native, 2)).all()


def test_a_frame_that_there_is_not_is_refused():
    """They are counted from 1."""
    for frame in (0, -1, 3):
        with pytest.raises(InvalidArgument, match=f"no frame {frame}: the image has 2"):
            picture_of(native_sample("MONOCHROME2", 12, frames=2), frame)


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "RGB"])
def test_a_frame_becomes_png_or_jpeg(photometric):
    """PNG without loss, JPEG with the given quality."""
    image = native_sample(photometric, 8)
    with frames_of(image) as frames:
        png, jpeg = (frames.rendered(1, Look(form=form)) for form in (PNG, JPEG))
        small = frames.rendered(1, Look(form=JPEG, quality=10))
    assert (imagecodecs.png_decode(png) == picture_of(image)).all()
    assert_alike(imagecodecs.jpeg8_decode(jpeg), picture_of(image), most=60)
    assert len(small) < len(jpeg)


def test_a_picture_is_reduced_to_a_size_in_its_proportions():
    """Each pixel is the mean of those it stands for; it is never enlarged."""
    image = grey(8)
    whole = picture_of(image)
    assert whole.shape == (48, 64)
    half = picture_of(image, size=(32, 32))
    assert_alike(half, whole.reshape(24, 2, 32, 2).mean(axis=(1, 3)))
    assert picture_of(image, size=(32, 1000)).shape == (24, 32)
    assert picture_of(image, size=(7, 5)).shape == (5, 7)
    assert picture_of(image, size=(1000, 1000)).shape == (48, 64)
    assert picture_of(native_sample("RGB", 8), size=(10, 10)).shape == (8, 10, 3)


def test_an_instance_without_pixel_data_says_so():
    """Float pixel data is not rendered."""
    with pytest.raises(NoPixelData, match="no pixel data"):
        picture_of(changed(grey(), PixelData=None))
    with pytest.raises(NoPixelData, match="Float"):
        picture_of(changed(grey(), PixelData=None, FloatPixelData=("OF", bytes(48 * 64 * 4))))


def test_a_frame_is_rendered_in_a_decoder_process():
    """With the same result as here, whatever the rendering is made of."""
    images = [grey(), palette(bits=16), changed(grey(), VOILUTSequence=Sequence([lut(0, 8, range(256))]))]
    with DecoderPool(1) as pool:
        for image, window in product(images, (None, "auto", Window(80, 90, "SIGMOID"))):
            file = io.BytesIO(file_of(image))
            head = part10.read_file_meta(file)
            frames = Frames(file, head.transfer_syntax, pool)
            with frames_of(image) as here:
                assert frames.rendered(1, Look(window=window)) == here.rendered(1, Look(window=window))


def test_a_frame_that_is_damaged_is_named_and_costs_no_other_one():
    """Its number is in the error."""
    made = sample("1.2.840.10008.1.2.4.90", frames=3).compressed
    frames = list(generate_frames(made.PixelData, number_of_frames=3))
    made.PixelData = encapsulate([frames[0], frames[1][: len(frames[1]) // 2], frames[2]])
    with frames_of(made) as opened:
        assert opened.rendered(1) != opened.rendered(3)
        with pytest.raises(UndecodablePixelData, match="Frame 2 of 3: A compressed frame is truncated"):
            opened.rendered(2)


def test_a_frame_that_is_no_longer_wanted_is_cancelled():
    """The error of the wait is raised, and the decoder does not do the job."""
    futures = []

    class Queue(InProcessPool):
        def submit(self, job):
            futures.append(Future())
            return futures[-1]

    def cancel(future):
        raise Cancelled("The requestor cancelled")

    file = io.BytesIO(file_of(grey()))
    head = part10.read_file_meta(file)
    frames = Frames(file, head.transfer_syntax, Queue(), cancel)
    with pytest.raises(Cancelled):
        frames.rendered(1)
    assert [each.cancelled() for each in futures] == [True]


# --- hostile ----------------------------------------------------------------------------------------------------------


def test_damaged_images_are_rendered_or_refused():
    """Any byte before the pixels may be another one: there is a picture, or an error of ours."""
    chance = random.Random(17)
    originals = [
        file_of(palette()),
        file_of(grey(WindowCenter=5, WindowWidth=9)),
        named("eCT_Supplemental.dcm").read_bytes(),
    ]
    for original in originals:
        end = original.index(b"\xe0\x7f\x10\0")
        for _ in range(60):
            data = bytearray(original)
            for _ in range(chance.randrange(1, 6)):
                data[chance.randrange(132, end)] = chance.randrange(256)
            try:
                picture_of(bytes(data))
            except PacsError:
                continue
