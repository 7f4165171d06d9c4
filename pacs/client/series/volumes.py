"""Checks whether the planes of a series form a volume; if not, reports the reason and advice."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from pacs.client.series.planes import DIFFERENCES, SAME_POSITION_MM, Plane, Volume, distance_along_normal, value_of
from pacs.errors import NotAVolume

MAX_LEFT_OUT = 0.5
"""Maximum fraction of images outside the volume, such as localizers; above it, the volume is ambiguous."""
MAX_OFFSET = 0.1
"""Maximum offset of a slice from equal spacing, as a fraction of the spacing: more than rounding, less than a gap."""

_ADVICE = "add another key, or use as_datasets=True"


def check_volume(volume: Volume) -> str:
    """Return a warning about images outside the volume, '' if there are none. Raises NotAVolume."""
    if not volume.planes[0].is_image:
        raise NotAVolume("The series has no images")
    images = [each for each in volume.others if each.is_image]
    if volume.is_in_space:
        _check_positions(volume.planes)
    if not images:
        return ""
    differing = {volume.planes[0].difference_from(each) for each in images}
    named = ", ".join(sorted(each for each in differing if each))
    count = len(volume.planes) + len(images)
    if len(images) >= MAX_LEFT_OUT * count:
        raise NotAVolume(
            f"Only {len(volume.planes)} of the {count} images belong to one volume, they differ in {named}: {_ADVICE}"
        )
    return f"{len(images)} of {count} images do not belong to the volume: they differ from the others in {named}"


def _check_positions(planes: Sequence[Plane]) -> None:
    """Raise NotAVolume for several images at one position, unequal steps, or a sheared stack."""
    place = distance_along_normal(planes[0])
    positions = _group_by_position(planes, place)
    most = max(len(run) for run in positions)
    if most > 1:
        everywhere = "at each position" if all(len(run) == most for run in positions) else "at one position"
        raise NotAVolume(f"{most} images {everywhere}, {_explain_difference(positions)}")
    if len(planes) > 1:
        _check_steps(planes, [place(plane) for plane in planes])


def _group_by_position(planes: Sequence[Plane], place: Callable[[Plane], float]) -> list[list[Plane]]:
    """Group the planes by position."""
    runs = [[planes[0]]]
    for before, plane in pairwise(planes):
        if place(plane) - place(before) > SAME_POSITION_MM:
            runs.append([])
        runs[-1].append(plane)
    return runs


def _explain_difference(positions: list[list[Plane]]) -> str:
    """Describe how images at one position differ, with advice."""
    shared = [run for run in positions if len(run) > 1]
    found = next((each for each in DIFFERENCES if all(_tells_apart(each, run) for run in shared)), None)
    found = found or next((each for each in DIFFERENCES if any(_tells_any(each, run) for run in shared)), None)
    if found is None:
        return f"and no attribute distinguishes them: {_ADVICE}"
    values = list(dict.fromkeys(str(value_of(each.header, found)) for each in shared[0]))
    shown = f"{', '.join(values[:5])}{', ...' if len(values) > 5 else ''}"
    return f"they differ in {found} ({shown}): {_ADVICE}"


def _tells_apart(keyword: str, run: list[Plane]) -> bool:
    return len({str(value_of(each.header, keyword)) for each in run}) == len(run)


def _tells_any(keyword: str, run: list[Plane]) -> bool:
    return len({str(value_of(each.header, keyword)) for each in run}) > 1


def _check_steps(planes: Sequence[Plane], places: list[float]) -> None:
    step = (places[-1] - places[0]) / (len(places) - 1)
    off = max(abs(place - places[0] - step * number) for number, place in enumerate(places))
    if off > MAX_OFFSET * step:
        steps = [after - before for before, after in pairwise(places)]
        raise NotAVolume(
            f"The {len(places)} slices are {min(steps):.4g} to {max(steps):.4g} mm apart: slices are missing, or the "
            f"spacing is not constant as an image requires ({_ADVICE})"
        )
    _check_shear(planes, places)


def _check_shear(planes: Sequence[Plane], places: list[float]) -> None:
    """Raise NotAVolume if the slices are shifted against their normal by more than a pixel in total."""
    first, last = planes[0], planes[-1]
    moved = [b - a for a, b in zip(first.position or (), last.position or (), strict=True)]
    ahead = places[-1] - places[0]
    shift = sum((each - ahead * part) ** 2 for each, part in zip(moved, first.normal, strict=True)) ** 0.5
    if shift > max(first.spacing):
        raise NotAVolume(
            f"The slices are shifted against each other by {shift:.4g} mm in total, as with a tilted gantry, but an "
            "image is rectangular: use as_datasets=True"
        )
