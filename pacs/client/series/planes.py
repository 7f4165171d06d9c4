"""The planes of a series, sorted by position.

A plane is a single-frame instance or a frame of a multi-frame instance (`frames.py`). Its position is Image Position
(Patient) projected on the normal of Image Orientation (Patient) (PS3.3 C.7.6.2.1.1). Instance Numbers and file names
are no substitute for it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.multival import MultiValue

Vector = tuple[float, ...]

PARALLEL = 1e-3
"""Maximum difference between direction cosines of the same direction, for rounding."""
SAME_POSITION_MM = 1e-3
"""Millimetres within which two images are at one position."""

GEOMETRY = ("Rows", "Columns", "SamplesPerPixel", "FrameOfReferenceUID", "PixelSpacing", "ImageOrientationPatient")
"""Attributes that the images of one volume have in common."""


@dataclass(frozen=True, slots=True)
class Plane:
    """One image: its file, its frame (None: the whole file), and its header with the functional groups merged in."""

    path: Path
    frame: int | None
    header: Dataset
    geometry: tuple[Any, ...]
    """Values of the attributes that the images of one volume have in common."""
    position: Vector | None
    """Image Position (Patient) in millimetres, None if it or the orientation is missing."""
    orientation: Vector | None
    """Direction cosines of rows and columns."""

    @classmethod
    def of(cls, path: Path, frame: int | None, header: Dataset) -> "Plane":
        """Return the plane that a header describes."""
        geometry = tuple(_comparable(value_of(header, keyword)) for keyword in GEOMETRY)
        orientation = numbers_of(header, "ImageOrientationPatient", 6)
        position = numbers_of(header, "ImagePositionPatient", 3) if orientation is not None else None
        return cls(path, frame, header, geometry, position, orientation)

    @property
    def normal(self) -> Vector:
        """The direction in which slices follow each other; only for a plane with an orientation."""
        assert self.orientation is not None, "the plane has no orientation"
        (a, b, c), (d, e, f) = self.orientation[:3], self.orientation[3:]
        normal = (b * f - c * e, c * d - a * f, a * e - b * d)
        length = math.hypot(*normal) or 1.0  # direction cosines may be rounded
        return tuple(part / length for part in normal)

    @property
    def spacing(self) -> Vector | None:
        """Pixel Spacing: between rows, between columns, in millimetres; None if it is missing or not positive."""
        found = numbers_of(self.header, "PixelSpacing", 2)
        return found if found is not None and min(found) > 0 else None

    @property
    def unplaced_frames(self) -> int:
        """The number of frames of a file whose frames have no positions of their own, otherwise 0."""
        frames = number_of(self.header, "NumberOfFrames")
        return frames if self.frame is None and frames > 1 else 0

    @property
    def is_image(self) -> bool:
        """Whether it has pixels."""
        return "Rows" in self.header

    @property
    def rank(self) -> tuple[int, str, int]:
        """Sort key for planes without position: Instance Number, UID, frame."""
        return number_of(self.header, "InstanceNumber"), str(value_of(self.header, "SOPInstanceUID")), self.frame or 0

    def difference_from(self, other: "Plane") -> str | None:
        """Return the keyword of the first difference, None if both planes can belong to one volume."""
        for keyword, mine, theirs in zip(GEOMETRY, self.geometry, other.geometry, strict=True):
            if mine != theirs and not _is_near(mine, theirs):
                return keyword
        return None if (self.position is None) == (other.position is None) else "ImagePositionPatient"


@dataclass(frozen=True, slots=True)
class Volume:
    """The planes of a volume in order, and the planes outside of it."""

    planes: tuple[Plane, ...]
    others: tuple[Plane, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files in the order of their first slice, then those of the other planes, without duplicates."""
        return tuple(dict.fromkeys(plane.path for plane in (*self.planes, *self.others)))

    @property
    def is_in_space(self) -> bool:
        """Whether its slices have positions."""
        return self.planes[0].position is not None


# --- values ------------------------------------------------------------------------------------------------------


def value_of(header: Dataset, keyword: str) -> Any:
    """Return the value of an attribute, None if it is absent, empty, or invalid for its VR."""
    try:
        return None if keyword not in header or header[keyword].is_empty else header[keyword].value
    except (ValueError, TypeError, ArithmeticError):
        return None


def number_of(header: Dataset, keyword: str) -> int:
    """Return the integer value of an attribute, 0 if it has none."""
    found = value_of(header, keyword)
    return int(found) if isinstance(found, int) else 0


def numbers_of(header: Dataset, keyword: str, count: int) -> Vector | None:
    """Return the values of an attribute with this many numbers, otherwise None."""
    value = _comparable(value_of(header, keyword))
    return value if isinstance(value, tuple) and len(value) == count else None


def _comparable(value: Any) -> Any:
    """Return the value, with a list of numbers as a tuple."""
    if not isinstance(value, MultiValue | list):
        return value
    try:
        return tuple(float(each) for each in value)
    except ValueError:
        return str(value)


def _is_near(one: Any, other: Any) -> bool:
    """Return whether two tuples of numbers are equal except for rounding."""
    if not isinstance(one, tuple) or not isinstance(other, tuple) or len(one) != len(other):
        return False
    return all(abs(a - b) <= PARALLEL for a, b in zip(one, other, strict=True))


# --- order -------------------------------------------------------------------------------------------------------


def build_volume(planes: Sequence[Plane]) -> Volume:
    """Return the largest group of planes that can form one volume, in order, and the others by Instance Number.

    `volumes.check_volume` checks the positions.
    """
    groups: list[list[Plane]] = []
    for plane in sorted(planes, key=lambda each: each.rank):
        own = next(
            (group for group in groups if plane.is_image == group[0].is_image and not plane.difference_from(group[0])),
            None,
        )
        if own is None:
            groups.append([plane])
        else:
            own.append(plane)
    groups.sort(key=lambda group: (group[0].is_image, len(group)), reverse=True)
    largest, *rest = groups
    return Volume(tuple(_in_order(largest)), tuple(chain.from_iterable(rest)))


def _in_order(planes: list[Plane]) -> list[Plane]:
    """Sort planes along their normal; those without a position, or at the same position, keep their order."""
    if planes[0].position is None:
        return planes
    place = distance_along_normal(planes[0])
    return sorted(planes, key=lambda plane: round(place(plane) / SAME_POSITION_MM))


def distance_along_normal(first: Plane) -> Callable[[Plane], float]:
    """Return a function: the position of a plane along the normal of the first one, in millimetres."""
    normal = first.normal
    return lambda plane: _dot(plane.position or (), normal)


def _dot(one: Vector, other: Vector) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
