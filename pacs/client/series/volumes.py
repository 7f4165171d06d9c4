"""Checks whether the planes of a series form a volume; if not, reports the reason and advice."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from pydicom import uid

from pacs.client.series.differences import explain_difference, mixture
from pacs.client.series.planes import SAME_POSITION_MM, Plane, Volume, distance_along_normal, value_of
from pacs.errors import NotAVolume

MAX_LEFT_OUT = 0.5
"""Maximum fraction of images outside the volume, such as localizers; above it, the volume is ambiguous."""
MAX_OFFSET = 0.1
"""Maximum offset of a slice from equal spacing, as a fraction of the spacing: more than rounding, less than a gap."""
ROUNDING_MM = 0.1
"""Maximum offset in each direction by coordinates that are rounded to 0.1 mm: of the slice and of the ends."""
MAX_ROUNDING_OFFSET = 0.24
"""The same as a fraction of the spacing: without one of its slices, a stack is off by a quarter or more."""
PERPENDICULAR = 0.03
"""Maximum deviation of the direction cosines from two perpendicular unit vectors: more than rounding to 0.01."""

IN_SPACE = frozenset(
    (
        uid.CTImageStorage, uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage,
        uid.MRImageStorage, uid.EnhancedMRImageStorage, uid.EnhancedMRColorImageStorage,
        uid.LegacyConvertedEnhancedMRImageStorage, uid.PositronEmissionTomographyImageStorage,
        uid.EnhancedPETImageStorage, uid.LegacyConvertedEnhancedPETImageStorage, uid.RTDoseStorage,
        uid.SegmentationStorage, "1.2.840.10008.5.1.4.1.1.66.7", uid.ParametricMapStorage,
        uid.XRay3DAngiographicImageStorage, uid.XRay3DCraniofacialImageStorage, uid.BreastTomosynthesisImageStorage,
        uid.EnhancedUSVolumeStorage,
    )
)  # fmt: skip
"""SOP Classes whose images have positions; several of them without one are no volume (66.7: Label Map Segmentation)."""

_ADVICE = "use load_datasets"
_KEY = f"add another key, or {_ADVICE}"


def check_volume(volume: Volume) -> str:
    """Return a warning about images outside the volume, '' if there are none. Raises NotAVolume."""
    if not volume.planes[0].is_image:
        raise NotAVolume("The series has no images")
    images = [each for each in volume.others if each.is_image]
    if volume.is_in_space:
        _check_axes(volume.planes[0])
        _check_positions(volume.planes)
    _check_placed(volume.planes)
    _check_mixture(volume.planes)
    return _left_out(volume, images) if images else ""


def without_positions(volume: Volume) -> str:
    """Return a warning about an order that is none in space, '' if there is none."""
    count = sum(each.unplaced_frames or 1 for each in volume.planes)
    if volume.is_in_space or count == 1:
        return ""
    return (
        f"The {count} images have no position: they are in the order of their numbers, and neither the third spacing "
        "nor the origin of the image is a place in the patient"
    )


def _left_out(volume: Volume, images: Sequence[Plane]) -> str:
    """Return how many images are outside the volume. Raises NotAVolume if most are."""
    differing = {volume.planes[0].difference_from(each) for each in images}
    named = ", ".join(sorted(each for each in differing if each))
    count = len(volume.planes) + len(images)
    if len(images) >= MAX_LEFT_OUT * count:
        raise NotAVolume(
            f"Only {len(volume.planes)} of the {count} images belong to one volume, they differ in {named}: {_KEY}"
        )
    return f"{len(images)} of {count} images do not belong to the volume: they differ from the others in {named}"


# --- what every volume has ---------------------------------------------------------------------------------------


def _check_axes(plane: Plane) -> None:
    """Raise NotAVolume for invalid direction cosines, or without a Pixel Spacing."""
    if plane.spacing is None:
        raise NotAVolume(f"The images have positions but no valid PixelSpacing: {_ADVICE}")
    assert plane.orientation is not None, "the plane is in space"
    rows, columns = plane.orientation[:3], plane.orientation[3:]
    off = (_dot(rows, rows) - 1, _dot(columns, columns) - 1, _dot(rows, columns))
    if max(map(abs, off)) > PERPENDICULAR:
        shown = "\\".join(f"{each:.4g}" for each in plane.orientation)
        raise NotAVolume(f"ImageOrientationPatient {shown} is not two perpendicular directions: {_ADVICE}")


def _check_placed(planes: Sequence[Plane]) -> None:
    """Raise NotAVolume for frames without positions in several files, or where the standard demands positions."""
    clips = [each for each in planes if each.unplaced_frames]
    unplaced = clips or [each for each in planes if each.position is None and len(planes) > 1]
    wrong = [each for each in unplaced if each.position is not None or value_of(each.header, "SOPClassUID") in IN_SPACE]
    if wrong:
        what = f"{clips[0].unplaced_frames} frames" if clips else f"{len(wrong)} images"
        raise NotAVolume(f"The {what} have no positions, so their distances are unknown: {_ADVICE}")
    if clips and len(planes) > 1:
        raise NotAVolume(
            f"{len(clips)} of {len(planes)} instances have several frames without positions: add InstanceNumber or "
            f"SOPInstanceUID to the keys, or {_ADVICE}"
        )


def _check_mixture(planes: Sequence[Plane]) -> None:
    """Raise NotAVolume if the slices are of several images, such as two echoes at different positions."""
    found, values = mixture(planes)
    if found:
        raise NotAVolume(f"The slices differ in {found} ({values}): add {found} to the keys, or {_ADVICE}")


# --- positions ---------------------------------------------------------------------------------------------------


def _check_positions(planes: Sequence[Plane]) -> None:
    """Raise NotAVolume for several images at one position, unequal steps, or a sheared stack."""
    place = distance_along_normal(planes[0])
    positions = _group_by_position(planes, place)
    most = max(len(run) for run in positions)
    if most > 1:
        everywhere = "at each position" if all(len(run) == most for run in positions) else "at one position"
        raise NotAVolume(f"{most} images {everywhere}, {_explained(positions)}")
    if len(planes) > 1:
        places = [place(plane) for plane in planes]
        _check_steps(places, rounding=ROUNDING_MM * sum(map(abs, planes[0].normal)))
        _check_shear(planes, places)


def _group_by_position(planes: Sequence[Plane], place: Callable[[Plane], float]) -> list[list[Plane]]:
    """Group the planes by position."""
    runs = [[planes[0]]]
    for before, plane in pairwise(planes):
        if place(plane) - place(before) > SAME_POSITION_MM:
            runs.append([])
        runs[-1].append(plane)
    return runs


def _explained(positions: list[list[Plane]]) -> str:
    """Describe how images at one position differ, with advice."""
    found, values = explain_difference(positions)
    if not found:
        return f"and no attribute distinguishes them: {_KEY}"
    return f"they differ in {found} ({values}): add {found} to the keys, or {_ADVICE}"


def _check_steps(places: list[float], rounding: float) -> None:
    step = (places[-1] - places[0]) / (len(places) - 1)
    off = max(abs(place - places[0] - step * number) for number, place in enumerate(places))
    if off > max(MAX_OFFSET * step, min(rounding, MAX_ROUNDING_OFFSET * step)):
        steps = [after - before for before, after in pairwise(places)]
        raise NotAVolume(
            f"The {len(places)} slices are {min(steps):.4g} to {max(steps):.4g} mm apart: slices are missing, or the "
            f"spacing is not constant as an image requires ({_KEY})"
        )


def _check_shear(planes: Sequence[Plane], places: list[float]) -> None:
    """Raise NotAVolume if a slice is shifted against the first one, across their normal, by more than a pixel."""
    first = planes[0]
    shift = max(_shift(first, plane, place - places[0]) for plane, place in zip(planes, places, strict=True))
    if shift > max(*(first.spacing or ()), ROUNDING_MM):
        raise NotAVolume(
            f"The slices are shifted against each other by {shift:.4g} mm, as with a tilted gantry, but an image is "
            f"rectangular: {_ADVICE}"
        )


def _shift(first: Plane, plane: Plane, ahead: float) -> float:
    """Return the distance of a plane from the normal through the first one, in millimetres."""
    moved = [b - a for a, b in zip(first.position or (), plane.position or (), strict=True)]
    return math.hypot(*(each - ahead * part for each, part in zip(moved, first.normal, strict=True)))


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
