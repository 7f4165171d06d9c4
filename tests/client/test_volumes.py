"""The volumes that `load_series` builds, compared with what SimpleITK reads from the original files."""

import math
import random
from copy import deepcopy

import pytest
import SimpleITK
from pydicom import Dataset, Sequence, dcmread
from pydicom.uid import (
    CTImageStorage,
    NuclearMedicineImageStorage,
    RTDoseStorage,
    SegmentationStorage,
    generate_uid,
)

from pacs import client
from pacs.client import LeftOut, NotAVolume, WithoutPositions, load_datasets
from pacs.client.series.frames import read_planes
from pacs.client.series.planes import build_volume
from pacs.client.series.volumes import check_volume
from pacs.dicom.dataset import raw
from pacs.testing import study, write
from tests.client.images import CLOSE, read, same
from tests.real_files import named


@pytest.fixture
def load(known):
    """Store these files or data sets, and load the series of the first one."""

    def loaded(*what, how=client.load_series, **others):
        assert client.store(known.peer, *what).failed == ()
        first = what[0] if isinstance(what[0], Dataset) else dcmread(what[0], stop_before_pixels=True)
        return how(known.peer, SeriesInstanceUID=first.SeriesInstanceUID, **others)

    return loaded


def check(slices, folder):
    """Check the volume that the slices make, without an archive and without reading their pixels."""
    check_volume(build_volume(read_planes(write(slices, folder))))


def stack(count=6, *, orientation=(1, 0, 0, 0, 1, 0), step=2.5, start=(-10, 20, 30), places=None, **attributes):
    """Return a series whose slices follow each other along the normal, each with different pixels."""
    made = study(series=1, instances=count, PixelSpacing=[0.5, 0.75], **attributes)
    (a, b, c), (d, e, f) = orientation[:3], orientation[3:]
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    for number, each in enumerate(made):
        ahead = places[number] if places else number * step
        each.ImageOrientationPatient = [f"{part:.9g}" for part in orientation]
        each.ImagePositionPatient = [f"{at + ahead * part:.9g}" for at, part in zip(start, normal, strict=True)]
        pixels = [(number * 97 + place * 13) % 4096 for place in range(each.Rows * each.Columns)]
        each.PixelData = b"".join(pixel.to_bytes(2, "little") for pixel in pixels)
    return made


OBLIQUE = (
    math.cos(0.3),
    math.sin(0.3),
    0,
    -math.sin(0.3) * math.cos(0.5),
    math.cos(0.3) * math.cos(0.5),
    math.sin(0.5),
)

STACKS = {
    "axial": {},
    "reversed": {"step": -2.5},
    "sagittal": {"orientation": (0, 1, 0, 0, 0, -1)},
    "coronal": {"orientation": (1, 0, 0, 0, 0, -1)},
    "feet first": {"orientation": (-1, 0, 0, 0, 1, 0)},
    "oblique": {"orientation": OBLIQUE, "step": 0.8},
    "oblique, reversed": {"orientation": OBLIQUE, "step": -0.8},
    "a fractional slope": {"RescaleSlope": "0.25", "RescaleIntercept": "-10.5"},
    "no rescale": {"RescaleSlope": None, "RescaleIntercept": None},
    "signed": {"PixelRepresentation": 1},
    "rounded positions": {"places": [0, 1.3, 2.5, 3.8, 5.0, 6.3]},
}


@pytest.mark.parametrize("given", STACKS.values(), ids=list(STACKS))
def test_a_stack_equals_what_simpleitk_reads(load, tmp_path, given):
    """In any direction and any order of arrival."""
    slices = stack(**given)
    assert same(load(*random.sample(slices, len(slices))), read(tmp_path / "itk", slices))


@pytest.mark.parametrize("given", [{}, {"step": -2.5}, {"orientation": OBLIQUE}])
def test_every_slice_is_at_its_image_position(load, given):
    """The first pixel of each slice is at Image Position (Patient), and belongs to that slice."""
    slices = stack(**given)
    image = load(*slices)
    for each in slices:
        index = image.TransformPhysicalPointToIndex([float(part) for part in each.ImagePositionPatient])
        assert index[:2] == (0, 0)
        assert image.TransformIndexToPhysicalPoint(index) == pytest.approx(tuple(each.ImagePositionPatient), abs=1e-5)
        assert image[index] == int.from_bytes(each.PixelData[:2], "little") - 1024


def test_instance_numbers_do_not_determine_positions(load, tmp_path):
    """Shuffled numbers change nothing; data sets are in the order of the image."""
    slices = stack()
    for number, each in zip((3, 1, 6, 2, 5, 4), slices, strict=True):
        each.InstanceNumber = number
    assert same(load(*slices), read(tmp_path / "itk", slices))
    found = load(*slices, how=load_datasets)
    assert [each.SOPInstanceUID for each in found] == [each.SOPInstanceUID for each in slices]


def test_each_slice_has_its_own_slope(load):
    """As in PET: no value is truncated to the type of the first slice."""
    slices = stack(count=3)
    for each, slope in zip(slices, ("1", "0.5", "0.25"), strict=True):
        each.RescaleSlope, each.RescaleIntercept = slope, "0"
    image = load(*slices)
    for number, (each, slope) in enumerate(zip(slices, (1, 0.5, 0.25), strict=True)):
        assert image[1, 0, number] == int.from_bytes(each.PixelData[2:4], "little") * slope


def test_the_spacing_is_that_of_all_slices(load):
    """Rounded steps of 1.2 and 1.3 mm average 1.26 mm; each slice is close to its position."""
    assert load(*stack(places=[0, 1.3, 2.5, 3.8, 5.0, 6.3])).GetSpacing()[2] == pytest.approx(1.26, abs=CLOSE)


def test_invalid_values_are_ignored(load, tmp_path):
    """An invalid number is treated as absent."""
    slices = stack()
    for each in slices:
        each[0x00200013] = raw(0x00200013, "IS", b"none")
    assert same(load(*slices), read(tmp_path / "itk", slices))


def test_a_single_slice_is_a_volume_of_one(load, tmp_path):
    """With three dimensions."""
    (only,) = stack(count=1)
    image = load(only)
    assert image.GetSize() == (8, 8, 1)
    assert same(image, read(tmp_path / "itk", [only]))


def test_without_positions_instance_numbers_determine_the_order(load):
    """As in secondary captures: 2 before 10."""
    slices = study(modality="OT", series=1, instances=11)
    for number, each in enumerate(slices):
        each.PixelData = bytes([number, 0]) * 64
    with pytest.warns(WithoutPositions, match="The 11 images have no position: .* in the order of their numbers"):
        image = load(*reversed(slices))
    assert [image[0, 0, number] for number in range(11)] == list(range(11))


# --- real files --------------------------------------------------------------------------------------------------


def test_a_real_series_equals_what_simpleitk_reads(load, tmp_path):
    """CT slices of 2.5 mm, numbered from the head down."""
    slices = [dcmread(path) for path in sorted(named("2062").parent.iterdir())]
    assert len(slices) == 5
    image = load(*slices)
    assert same(image, read(tmp_path / "itk", slices))
    assert image.GetSpacing()[2] == 2.5


REAL = (
    "CT_small.dcm", "MR_small_RLE.dcm", "MR2_J2KI.dcm", "JPEG2000.dcm", "JPEG-LL.dcm", "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_gdcm_KY.dcm", "SC_rgb_16bit.dcm", "rtdose.dcm", "liver.dcm", "badVR.dcm",
)  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_a_real_image_equals_what_simpleitk_reads(load, name):
    """Compressed images, colours, frames with positions."""
    assert same(load(named(name)), SimpleITK.ReadImage(named(name), imageIO="GDCMImageIO"))


@pytest.mark.parametrize("name", ["SC_rgb_expb_2frame.dcm", "color3d_jpeg_baseline.dcm"])
def test_a_real_clip_equals_what_simpleitk_reads(load, name):
    """Frames that are no slices, with a warning that their distance means nothing."""
    with pytest.warns(WithoutPositions, match="nor the origin of the image is a place in the patient"):
        image = load(named(name))
    assert same(image, SimpleITK.ReadImage(named(name), imageIO="GDCMImageIO"))


@pytest.mark.parametrize("name", ["RLE", "jpeg_2k_lossless", "jpeg_ls_lossless", "big_endian"])
def test_real_frames_equal_those_of_the_uncompressed_file(load, name):
    """The frames of an enhanced MR image without positions, whose file has copies in other transfer syntaxes."""
    with pytest.raises(NotAVolume, match="The 10 frames have no positions, so their distances are unknown"):
        load(named(f"emri_small_{name}.dcm"))
    (found,) = load(named(f"emri_small_{name}.dcm"), how=load_datasets)
    assert (found.pixel_array == dcmread(named("emri_small.dcm")).pixel_array).all()


def test_real_series_that_are_no_volumes_are_refused(load):
    """Missing slices; a localizer in three planes; no pixels. Their data sets can still be loaded."""
    for name, count, why in (
        ("17106", 4, "1.25 to 202.5 mm apart"),
        ("4950", 3, "Only 1 of the 3 images .* ImageOrientationPatient"),
        ("IM000000", 50, "has no images"),
    ):
        files = [named(name), *named(name).parent.iterdir()]
        with pytest.raises(NotAVolume, match=why):
            load(*files)
        assert len(load(*files, how=load_datasets)) == count


# --- several frames ----------------------------------------------------------------------------------------------


def enhanced(slices, **attributes):
    """Return one enhanced instance with the slices as frames and their positions in functional groups."""
    made = deepcopy(slices[0])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleIntercept"):
        del made[keyword]
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.NumberOfFrames = len(slices)
    made.SharedFunctionalGroupsSequence = [
        _groups(slices[0], ("PixelMeasuresSequence", "PixelSpacing", "SliceThickness"))
    ]
    scale = ("PixelValueTransformationSequence", "RescaleSlope", "RescaleIntercept")
    place, turn = (
        ("PlanePositionSequence", "ImagePositionPatient"),
        ("PlaneOrientationSequence", "ImageOrientationPatient"),
    )
    for each in slices:
        each.RescaleSlope = each.get("RescaleSlope") or "1"
    made.PerFrameFunctionalGroupsSequence = [_groups(each, scale, place, turn) for each in slices]
    made.PixelData = b"".join(each.PixelData for each in slices)
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def _groups(dataset, *groups):
    made = Dataset()
    for sequence, *keywords in groups:
        item = Dataset()
        for keyword in keywords:
            setattr(item, keyword, dataset[keyword].value)
        setattr(made, sequence, Sequence([item]))
    return made


@pytest.mark.parametrize("given", [{}, {"orientation": OBLIQUE, "step": 0.8}, {"orientation": (0, 1, 0, 0, 0, -1)}])
def test_frames_are_slices(load, tmp_path, given):
    """In order they equal what SimpleITK reads of the file; shuffled, what it reads of single slices."""
    slices = stack(**given)
    for each in slices:
        each.RescaleSlope = "1"
    ordered = enhanced(slices)
    (file,) = write([ordered], tmp_path / "ordered")
    image = load(ordered)
    assert same(image, SimpleITK.ReadImage(file, imageIO="GDCMImageIO"))
    assert same(image, read(tmp_path / "itk", slices))


def test_real_frames_are_at_the_positions_of_simpleitk(load):
    """SimpleITK stores these frames against their normal in a left-handed image; here they follow the normal."""
    file = named("eCT_Supplemental.dcm")
    image = load(file)
    assert same(SimpleITK.Flip(image, (False, False, True)), SimpleITK.ReadImage(file, imageIO="GDCMImageIO"))


@pytest.mark.parametrize("order", [(5, 4, 3, 2, 1, 0), (3, 1, 4, 0, 5, 2)])
def test_frames_are_sorted_by_position(load, tmp_path, order):
    """Reversed and shuffled."""
    slices = stack(orientation=OBLIQUE)
    for each in slices:
        each.RescaleSlope = "1"
    assert same(load(enhanced([slices[number] for number in order])), read(tmp_path / "itk", slices))


def test_an_enhanced_instance_of_one_frame_is_a_volume_of_one(load):
    """At the position in its functional groups."""
    slices = stack(count=1, RescaleSlope="1")
    image = load(enhanced(slices))
    assert (image.GetSize(), image.GetOrigin()) == ((8, 8, 1), (-10, 20, 30))
    assert image[1, 0, 0] == 13 - 1024


def test_the_frames_of_several_instances_make_one_volume(load, tmp_path):
    """As in a concatenation."""
    slices = stack()
    for each in slices:
        each.RescaleSlope = "1"
    assert same(load(enhanced(slices[3:]), enhanced(slices[:3])), read(tmp_path / "itk", slices))


def test_frames_of_different_scales_are_refused(load):
    """GDCM applies the first scale to all."""
    slices = stack()
    for number, each in enumerate(slices):
        each.RescaleSlope = str(number + 1)
    with pytest.raises(NotAVolume, match="different RescaleSlope"):
        load(enhanced(slices))


def test_multi_frame_instances_without_positions_are_not_combined(load):
    """Two clips of an examination."""
    clips = [dcmread(named("SC_rgb_2frame.dcm")) for _ in range(2)]
    clips[1].SOPInstanceUID = clips[1].file_meta.MediaStorageSOPInstanceUID = generate_uid()
    clips[1].InstanceNumber = 2
    with pytest.raises(NotAVolume, match="2 of 2 instances have several frames"):
        load(*clips)
    with pytest.warns(WithoutPositions):
        assert load(*clips, InstanceNumber=2).GetSize() == (100, 100, 2)


# --- doses, nuclear medicine and segmentations -------------------------------------------------------------------


def frames_of(slices, sop_class, **attributes):
    """Return one instance with the slices as frames and no functional groups: the position is that of the first."""
    made = deepcopy(slices[0])
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = sop_class
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.NumberOfFrames = len(slices)
    made.PixelData = b"".join(each.PixelData for each in slices)
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        made.pop(keyword, None)
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def plain(**given):
    """Return a stack whose pixels are stored as they are meant."""
    return stack(RescaleSlope="1", RescaleIntercept="0", **given)


def dose(slices, offsets):
    """Return the slices as an RT Dose with these grid frame offsets."""
    return frames_of(slices, RTDoseStorage, FrameIncrementPointer=0x3004000C, DoseGridScaling="1",
                     GridFrameOffsetVector=offsets)  # fmt: skip


@pytest.mark.parametrize(
    ("given", "offsets"),
    [
        ({"step": 2}, [0, 2, 4, 6, 8, 10]),
        ({"step": -2}, [0, -2, -4, -6, -8, -10]),
        ({"step": 2}, [30, 32, 34, 36, 38, 40]),
        ({"step": 2, "orientation": OBLIQUE}, [0, 2, 4, 6, 8, 10]),
        ({"places": [0, 1.2, 2.5, 3.8, 5.0, 6.2]}, [0, 1.2, 2.5, 3.8, 5.0, 6.2]),
    ],
)
def test_the_planes_of_a_dose_are_slices(load, tmp_path, given, offsets):
    """At their offsets along the normal, or at z coordinates, in either direction."""
    slices = plain(**given)
    image, expected = load(dose(slices, offsets)), read(tmp_path / "itk", slices)
    assert image.GetSize() == expected.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(image, name)() == pytest.approx(getattr(expected, name)(), abs=1e-5), name
    assert (SimpleITK.GetArrayFromImage(image) == SimpleITK.GetArrayFromImage(expected)).all()


@pytest.mark.parametrize(
    ("offsets", "why"),
    [
        ([0, 2, 4, 9, 11, 13], "6 slices are 2 to 5 mm apart"),
        ([0, 2, 4, 4, 6, 8], "2 images at one position"),
        ([5, 7, 9, 11, 13, 15], "The 6 frames have no positions"),
        ([0, 2, 4], "The 6 frames have no positions"),
        (None, "The 6 frames have no positions"),
    ],
)
def test_a_dose_with_other_offsets_is_refused(tmp_path, offsets, why):
    """Unequal, repeated, from an unknown place, or too few."""
    with pytest.raises(NotAVolume, match=why):
        check([dose(plain(step=2), offsets)], tmp_path)


def test_reconstructed_slices_of_nuclear_medicine_are_a_volume(load, tmp_path):
    """By the position of the first one, slice numbers and spacing; two time slots are told apart."""
    slices = plain(step=3)
    detector = Dataset()
    detector.ImagePositionPatient = slices[0].ImagePositionPatient
    detector.ImageOrientationPatient = slices[0].ImageOrientationPatient
    numbers = {"SliceVector": [1, 2, 3] * 2, "TimeSlotVector": [1] * 3 + [2] * 3, "SpacingBetweenSlices": "3"}
    spect = frames_of([*slices[:3], *slices[:3]], NuclearMedicineImageStorage, **numbers)
    spect.DetectorInformationSequence = [detector]
    del spect.ImagePositionPatient, spect.ImageOrientationPatient
    with pytest.raises(NotAVolume, match=r"2 images at each position, they differ in TimeSlotVector \(1, 2\)"):
        load(spect)
    image = load(spect, TimeSlotVector=2)
    assert (image.GetSpacing(), image.GetOrigin()) == ((0.75, 0.5, 3), (-10, 20, 30))
    assert image.GetSize() == (8, 8, 3)


def segmentation(places, numbers):
    """Return a segmentation with a frame of a segment at each of these places."""
    frames = plain(count=len(places), places=places)
    made = enhanced(frames)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    made.SegmentSequence = [Dataset(), Dataset()]
    for number, (each, label) in enumerate(zip(made.SegmentSequence, ("Liver", "Spleen"), strict=True), 1):
        each.SegmentNumber, each.SegmentLabel = number, label
    for groups, number in zip(made.PerFrameFunctionalGroupsSequence, numbers, strict=True):
        groups.SegmentIdentificationSequence = [Dataset()]
        groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber = number
    return made


@pytest.mark.parametrize(
    ("places", "numbers", "why"),
    [
        ([0, 1, 2, 0, 1, 2], [1, 1, 1, 2, 2, 2], "2 images at each position, they differ in ReferencedSegmentNumber"),
        ([0, 1, 2, 2, 3, 4], [1, 1, 1, 2, 2, 2], "2 images at one position, they differ in ReferencedSegmentNumber"),
        ([0, 1, 2, 3, 4, 5], [1, 1, 1, 2, 2, 2], "The slices differ in ReferencedSegmentNumber"),
    ],
)
def test_segments_are_told_apart_by_their_number(load, places, numbers, why):
    """One above the other too; a key selects one, by number or by label."""
    both = segmentation(places, numbers)
    with pytest.raises(NotAVolume, match=rf"{why} \(1 'Liver', 2 'Spleen'\): add ReferencedSegmentNumber to the keys"):
        load(both)
    assert load(both, ReferencedSegmentNumber=2).GetSize() == (8, 8, 3)
    assert load(both, SegmentLabel="Liver").GetOrigin() == (-10, 20, 30)


# --- series that are no volume -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attributes", [{"NumberOfFrames": 6}, {"NumberOfFrames": 6, "ImagePositionPatient": None}], ids=["one", "none"]
)
def test_frames_of_a_ct_without_positions_are_refused(load, attributes):
    """One position for all of them is not enough."""
    with pytest.raises(
        NotAVolume, match="The 6 frames have no positions, so their distances are unknown: use load_dat"
    ):
        load(frames_of(stack(), CTImageStorage, **attributes))


def test_several_slices_without_positions_are_refused(load):
    """Their number is an order, but no distance. A single one is an image."""
    slices = stack(count=3)
    for each in slices:
        del each.ImagePositionPatient
    with pytest.raises(NotAVolume, match="The 3 images have no positions, so their distances are unknown"):
        load(*slices)
    assert load(slices[0], InstanceNumber=1).GetSize() == (8, 8, 1)


@pytest.mark.parametrize("step", [0.3, 0.45, 0.625, 1.25])
@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), OBLIQUE])
def test_positions_rounded_to_a_tenth_of_a_millimetre_are_a_volume(tmp_path, step, orientation):
    """Every coordinate of every slice, also of thin slices."""
    slices = stack(count=20, step=step, orientation=orientation)
    for each in slices:
        each.ImagePositionPatient = [f"{float(part):.1f}" for part in each.ImagePositionPatient]
    check(slices, tmp_path)


def test_rounded_direction_cosines_do_not_change_the_spacing(load):
    """Two digits of 0.7071 are 0.4 % too long."""
    slices = stack(step=3, orientation=(0.71, 0.71, 0, 0, 0, 1))
    for number, each in enumerate(slices):
        each.ImagePositionPatient = [number * 3 * 0.5**0.5, -number * 3 * 0.5**0.5, 0]
    assert load(*slices).GetSpacing()[2] == pytest.approx(3, abs=1e-3)


@pytest.mark.parametrize("count", [4, 5, 20])
@pytest.mark.parametrize("step", [0.25, 0.5, 3])
def test_a_gap_of_one_slice_is_no_rounding(tmp_path, count, step):
    """In the middle of few and of many slices, thin and thick."""
    places = [number * step for number in range(count + 1) if number != count // 2]
    with pytest.raises(NotAVolume, match="slices are missing"):
        check(stack(count=count, places=places), tmp_path)


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"PixelSpacing": None}, "positions but no valid PixelSpacing"),
        ({"PixelSpacing": [0, 0]}, "positions but no valid PixelSpacing"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, r"ImageOrientationPatient 0\\0\\0\\0\\0\\0 is not two perp"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "is not two perpendicular directions"),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 2, 0]}, "is not two perpendicular directions"),
    ],
)
def test_invalid_geometry_is_refused(tmp_path, attributes, why):
    """Instead of being replaced by millimetres that nobody measured."""
    slices = stack()
    for each in slices:
        for keyword, value in attributes.items():
            setattr(each, keyword, value)
    with pytest.raises(NotAVolume, match=why):
        check(slices, tmp_path)


@pytest.mark.parametrize(
    ("keyword", "one", "other"),
    [
        ("EchoTime", "10", "20"),
        ("EchoNumbers", 1, 2),
        ("DiffusionBValue", 0.0, 1000.0),
        ("ConvolutionKernel", "A", "B"),
    ],
)
def test_two_images_in_one_stack_are_refused(tmp_path, keyword, one, other):
    """At alternate positions: each of them has half of the slices."""
    slices = stack(modality="MR")
    for number, each in enumerate(slices):
        setattr(each, keyword, other if number % 2 else one)
    with pytest.raises(NotAVolume, match=rf"The slices differ in {keyword} \(.*\): add {keyword} to the keys"):
        check(slices, tmp_path / "both")
    check(slices[1::2], tmp_path / "one")


def test_values_that_vary_within_one_acquisition_are_no_difference(tmp_path):
    """Times, counters, and an echo time that is not quite the same."""
    slices = stack(modality="MR")
    for number, each in enumerate(slices):
        each.EchoTime, each.AcquisitionTime, each.TriggerTime = f"{10 + number / 100}", f"10150{number}", str(number)
    check(slices, tmp_path)


def test_several_images_at_each_position_need_another_key(load, tmp_path):
    """Two echoes: the error names the attribute that differs, and that attribute works as a key."""
    slices = stack(count=8, modality="MR", places=[0, 1, 2, 3, 0, 1, 2, 3])
    for each in slices[4:]:
        each.EchoTime = "20"
    with pytest.raises(NotAVolume, match=r"2 images at each position, they differ in EchoTime \(10.0, 20\): add"):
        load(*slices)
    assert same(load(*slices, EchoTime=20), read(tmp_path / "itk", slices[4:]))
    found = load(*slices, how=load_datasets)
    assert [(each.ImagePositionPatient[2], int(each.EchoTime)) for each in found[:4]] == [
        (30, 10), (30, 20), (31, 10), (31, 20),
    ]  # fmt: skip


def test_a_duplicate_image_is_refused(load):
    """At one position only; by its number if nothing else differs."""
    slices = stack(places=[0, 1, 2, 2, 3, 4])
    for each in slices:
        del each.ContentTime
    with pytest.raises(NotAVolume, match=r"2 images at one position, they differ in InstanceNumber \(3, 4\)"):
        load(*slices)


def test_frames_at_one_position_differ_in_functional_groups(load, tmp_path):
    """Two phases in one instance; a key selects its frames."""
    slices = stack(places=[0, 1, 2, 0, 1, 2], RescaleSlope="1")
    both = enhanced(slices)
    for number, groups in enumerate(both.PerFrameFunctionalGroupsSequence):
        groups.FrameContentSequence = [Dataset()]
        groups.FrameContentSequence[0].TemporalPositionIndex = 1 + number // 3
    with pytest.raises(NotAVolume, match=r"2 images at each position, they differ in TemporalPositionIndex \(1, 2\)"):
        load(both)
    assert same(load(both, TemporalPositionIndex=2), read(tmp_path / "itk", slices[3:]))


@pytest.mark.parametrize("places", [[0, 1, 2, 4, 5, 6], [0, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 8]])
def test_a_missing_slice_is_refused(load, places):
    """In the middle or at an end."""
    with pytest.raises(NotAVolume, match=r"slices are 1 to .* mm apart: slices are missing"):
        load(*stack(places=places))


def test_a_tilted_gantry_is_refused(load):
    """The slices are shifted against each other."""
    slices = stack()
    for number, each in enumerate(slices):
        each.ImagePositionPatient[1] = 20 + number * 0.5
    with pytest.raises(NotAVolume, match=r"shifted against each other by 2\.5 mm"):
        load(*slices)


def test_a_slice_that_is_shifted_sideways_is_refused(load):
    """Though the first and the last one are not."""
    slices = stack()
    slices[3].ImagePositionPatient[0] = 5
    with pytest.raises(NotAVolume, match=r"shifted against each other by 15 mm"):
        load(*slices)


@pytest.mark.parametrize(
    ("keyword", "value"), [("ImageOrientationPatient", [0, 1, 0, 0, 0, -1]), ("PixelSpacing", [1, 1])]
)
def test_a_localizer_is_left_out_with_a_warning(load, tmp_path, keyword, value):
    """An image with another orientation or size than most; it is the last of the data sets."""
    slices = stack()
    localizer = stack(count=7)[6]
    localizer.InstanceNumber = 0
    setattr(localizer, keyword, value)
    with pytest.warns(LeftOut, match=f"1 of 7 images do not belong to the volume: .* {keyword}"):
        image = load(localizer, *slices)
    assert same(image, read(tmp_path / "itk", slices))
    assert load(localizer, *slices, how=load_datasets)[-1].SOPInstanceUID == localizer.SOPInstanceUID


def test_unreadable_pixels_are_an_error(load):
    """Pixels that do not match their transfer syntax, and none at all."""
    with pytest.raises(NotAVolume, match=r"cannot be decompressed .*: use load_datasets"):
        load(*study(series=1, instances=2, transfer_syntax="1.2.840.10008.1.2.4.50"))
    without = study(series=1, instances=2, number=2)
    for each in without:
        del each.PixelData
    with pytest.raises(NotAVolume, match="SimpleITK cannot read the images"):
        load(*without)
