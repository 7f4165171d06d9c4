"""Reads the planes in files: one of a single-frame instance, and one for each frame whose position is known.

Positions of frames are in functional groups (PS3.3 C.7.6.16), in the Grid Frame Offset Vector of a dose (C.8.8.3.2), or
follow from the slice numbers of reconstructed nuclear medicine images (C.8.4.15).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword

from pacs.client.series.differences import DIFFERENCES, ONE_IMAGE
from pacs.client.series.planes import GEOMETRY, Plane, Vector, number_of, numbers_of, value_of

_VECTORS = (
    "EnergyWindowVector", "DetectorVector", "PhaseVector", "RotationVector", "RRIntervalVector", "TimeSlotVector",
    "SliceVector", "AngularViewVector", "TimeSliceVector",
)  # fmt: skip
"""Attributes of nuclear medicine images with a value for each frame."""
_FRAMES = (
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "NumberOfFrames", "GridFrameOffsetVector",
    "SpacingBetweenSlices", "DetectorInformationSequence", "SegmentSequence", *_VECTORS,
)  # fmt: skip
_OTHERS = ("SpecificCharacterSet", "ImagePositionPatient", "RescaleSlope", "RescaleIntercept", "BitsStored",
           "PixelRepresentation", "SOPInstanceUID")  # fmt: skip
_READ = tuple(dict.fromkeys((*GEOMETRY, *DIFFERENCES, *ONE_IMAGE, *_FRAMES, *_OTHERS)))


def read_planes(paths: Iterable[Path], keywords: Iterable[Any] = ()) -> list[Plane]:
    """Return the planes in these files, without pixels; `keywords` (or tags) are read in addition."""
    tags = [*filter(None, map(tag_for_keyword, _READ)), *keywords]
    return list(chain.from_iterable(_planes(path, tags) for path in paths))


def _planes(path: Path, tags: list[Any]) -> Iterator[Plane]:
    header: Dataset = dcmread(path, stop_before_pixels=True, specific_tags=tags)
    if header.get("PerFrameFunctionalGroupsSequence"):
        yield from _with_functional_groups(path, header)
        return
    frames = number_of(header, "NumberOfFrames")
    if frames > 1 and any(keyword in header for keyword in _VECTORS):
        header = _with_detector(header)
    whole = Plane.of(path, None, header)
    distances = _distances(whole, frames) if frames > 1 and whole.position is not None else None
    yield from _at_distances(whole, distances) if distances is not None else (whole,)


# --- functional groups -------------------------------------------------------------------------------------------


def _with_functional_groups(path: Path, header: Dataset) -> Iterator[Plane]:
    shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    labels = _segment_labels(header)
    common = _without_sequences(header)
    _flatten(shared[0], common)
    for number, groups in enumerate(header.PerFrameFunctionalGroupsSequence):
        own = Dataset(dict(common.items()))
        _flatten(groups, own)
        if label := labels.get(number_of(own, "ReferencedSegmentNumber")):
            own.add_new("SegmentLabel", "LO", label)
        yield Plane.of(path, number, own)


def _without_sequences(header: Dataset) -> Dataset:
    return Dataset({tag: header[tag] for tag in header.keys() if header[tag].VR != "SQ"})  # noqa: SIM118


def _flatten(groups: Dataset, into: Dataset) -> None:
    """Copy the elements of functional groups and of the sequences in them to one level; no keyword has two meanings."""
    for element in groups:
        if element.VR != "SQ":
            into[element.tag] = element
        elif len(element.value) == 1:
            _flatten(element.value[0], into)


def _segment_labels(header: Dataset) -> Mapping[int, str]:
    """Return the label of each segment of a segmentation, by Segment Number."""
    segments = header.get("SegmentSequence") or ()
    return {number_of(each, "SegmentNumber"): str(value_of(each, "SegmentLabel") or "") for each in segments}


# --- doses and nuclear medicine ----------------------------------------------------------------------------------


def _with_detector(header: Dataset) -> Dataset:
    """Add the position of the first slice, which reconstructed nuclear medicine images have in their detector."""
    detectors = header.get("DetectorInformationSequence")
    found = _without_sequences(header)
    if detectors and "SliceVector" in header:
        _flatten(_without_sequences(detectors[0]), found)
    return found


def _distances(whole: Plane, frames: int) -> Vector | None:
    """Return how far each frame is from the first position along the normal, None if that is not known."""
    offsets = numbers_of(whole.header, "GridFrameOffsetVector", frames)
    if offsets is not None:
        return _of_a_grid(whole, offsets)
    slices, step = numbers_of(whole.header, "SliceVector", frames), value_of(whole.header, "SpacingBetweenSlices")
    if slices is None or not isinstance(step, int | float):
        return None
    return tuple((number - 1) * step for number in slices)


def _of_a_grid(whole: Plane, offsets: Vector) -> Vector | None:
    """Return the distances that a Grid Frame Offset Vector gives: relative ones, or z coordinates of axial planes."""
    if offsets[0] == 0:
        return offsets
    along_z = whole.normal[2]
    assert whole.position is not None, "the distances start from a position"
    if abs(abs(along_z) - 1) > 1e-3 or abs(offsets[0] - whole.position[2]) > 1e-3:
        return None
    return tuple((each - offsets[0]) * round(along_z) for each in offsets)


def _at_distances(whole: Plane, distances: Vector) -> Iterator[Plane]:
    """Yield the frames of an instance at these distances from its position, each with its own values of vectors."""
    assert whole.position is not None, "the distances start from a position"
    vectors = {each: numbers_of(whole.header, each, len(distances)) for each in _VECTORS}
    for number, ahead in enumerate(distances):
        own = Dataset(dict(whole.header.items()))
        for keyword, values in vectors.items():
            if values is not None:
                own.add_new(keyword, "US", int(values[number]))
        position = tuple(at + ahead * part for at, part in zip(whole.position, whole.normal, strict=True))
        yield replace(whole, frame=number, header=own, position=position)
