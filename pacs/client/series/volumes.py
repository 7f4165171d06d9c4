"""Whether the planes of a series make a volume; where they do not, why, and what to do about it."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from pacs.client.series.planes import DIFFERENCES, SAME_PLACE, Plane, Volume, along, value_of
from pacs.errors import NotAVolume

LEFT_OUT = 0.5
"""The part of the images that may be left out of a volume, as localizers are: with more nobody knows what is meant."""
OFF_PLACE = 0.1
"""The part of the spacing that a slice may lie off its place in equal steps: rounded positions do, gaps lie further."""

_MENDING = "name one more key, or ask for as_datasets=True"


def check(volume: Volume) -> str:
    """What is to be said about the images that are left out, '' where none are. Raises NotAVolume."""
    if not volume.planes[0].is_image:
        raise NotAVolume("The series has no images")
    images = [each for each in volume.others if each.is_image]
    if volume.is_in_space:
        _check_positions(volume.planes)
    if not images:
        return ""
    differing = {volume.planes[0].like(each) for each in images}
    named = ", ".join(sorted(each for each in differing if each))
    count = len(volume.planes) + len(images)
    if len(images) >= LEFT_OUT * count:
        raise NotAVolume(
            f"No more than {len(volume.planes)} of the {count} images are in one volume, they differ in {named}: "
            f"{_MENDING}"
        )
    return f"{len(images)} of {count} images are left out of the volume: they differ from the others in {named}"


def _check_positions(planes: Sequence[Plane]) -> None:
    """Raises NotAVolume for several images at one position, for unequal steps, and for a sheared stack."""
    place = along(planes[0])
    positions = _runs(planes, place)
    most = max(len(run) for run in positions)
    if most > 1:
        everywhere = "at each position" if all(len(run) == most for run in positions) else "at one position"
        raise NotAVolume(f"{most} images {everywhere}, {_difference(positions)}")
    if len(planes) > 1:
        _check_steps(planes, [place(plane) for plane in planes])


def _runs(planes: Sequence[Plane], place: Callable[[Plane], float]) -> list[list[Plane]]:
    """The planes by position."""
    runs = [[planes[0]]]
    for before, plane in pairwise(planes):
        if place(plane) - place(before) > SAME_PLACE:
            runs.append([])
        runs[-1].append(plane)
    return runs


def _difference(positions: list[list[Plane]]) -> str:
    """What tells the images at one position apart, and what to do."""
    shared = [run for run in positions if len(run) > 1]
    found = next((each for each in DIFFERENCES if all(_tells_apart(each, run) for run in shared)), None)
    found = found or next((each for each in DIFFERENCES if any(_tells_any(each, run) for run in shared)), None)
    if found is None:
        return f"and nothing tells them apart: {_MENDING}"
    values = list(dict.fromkeys(str(value_of(each.header, found)) for each in shared[0]))
    shown = f"{', '.join(values[:5])}{', ...' if len(values) > 5 else ''}"
    return f"they differ in {found} ({shown}): {_MENDING}"


def _tells_apart(keyword: str, run: list[Plane]) -> bool:
    return len({str(value_of(each.header, keyword)) for each in run}) == len(run)


def _tells_any(keyword: str, run: list[Plane]) -> bool:
    return len({str(value_of(each.header, keyword)) for each in run}) > 1


def _check_steps(planes: Sequence[Plane], places: list[float]) -> None:
    step = (places[-1] - places[0]) / (len(places) - 1)
    off = max(abs(place - places[0] - step * number) for number, place in enumerate(places))
    if off > OFF_PLACE * step:
        steps = [after - before for before, after in pairwise(places)]
        raise NotAVolume(
            f"The {len(places)} slices are {min(steps):.4g} to {max(steps):.4g} mm apart: some are missing or they lie "
            f"in unequal steps, and an image has one spacing ({_MENDING})"
        )
    _check_shear(planes, places)


def _check_shear(planes: Sequence[Plane], places: list[float]) -> None:
    """Slices that follow each other in another direction than their normal, by more than a pixel in all."""
    first, last = planes[0], planes[-1]
    moved = [b - a for a, b in zip(first.position or (), last.position or (), strict=True)]
    ahead = places[-1] - places[0]
    aside = sum((each - ahead * part) ** 2 for each, part in zip(moved, first.normal, strict=True)) ** 0.5
    if aside > max(first.spacing):
        raise NotAVolume(
            f"The slices are shifted against each other by {aside:.4g} mm in all, as with a tilted gantry, and an "
            "image is a box: ask for as_datasets=True"
        )
