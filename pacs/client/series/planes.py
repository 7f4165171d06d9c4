"""The images of a series in the order of space: which make the volume, where each lies, and what is in the way.

A plane is a single-frame instance, or a frame of an enhanced multi-frame one. Its place is Image Position (Patient)
projected on the normal of Image Orientation (Patient) (PS3.3 C.7.6.2.1.1): neither Instance Numbers nor file names say
where an image lies.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.multival import MultiValue

Vector = tuple[float, ...]

PARALLEL = 1e-3
"""How far direction cosines may lie apart and be the same direction: rounded values do."""
SAME_PLACE = 1e-3
"""Millimetres within which two images are at one position."""

_GEOMETRY = ("Rows", "Columns", "SamplesPerPixel", "FrameOfReferenceUID", "PixelSpacing", "ImageOrientationPatient")
"""What the images of one volume have in common."""
DIFFERENCES = (
    "EchoTime", "EffectiveEchoTime", "EchoNumbers", "AcquisitionNumber", "TemporalPositionIdentifier",
    "TemporalPositionIndex", "TriggerTime", "NominalPercentageOfCardiacPhase", "NominalCardiacTriggerDelayTime",
    "CardiacCyclePosition", "DiffusionBValue", "DiffusionGradientOrientation", "InversionTime", "RepetitionTime",
    "FlipAngle", "StackID", "ImageType", "FrameType", "ComplexImageComponent", "ReconstructionDiameter",
    "ConvolutionKernel", "FrameReferenceTime", "AcquisitionDateTime", "AcquisitionTime", "ContentTime", "KVP",
    "SOPClassUID", "InstanceNumber",
)  # fmt: skip
"""In what images at one position may differ; the first that tells them apart is named."""
_FRAMES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "NumberOfFrames")
_OTHERS = (
    "SpecificCharacterSet", "ImagePositionPatient", "RescaleSlope", "RescaleIntercept", "BitsStored",
    "PixelRepresentation", "SOPInstanceUID",
)  # fmt: skip
_READ = [*_GEOMETRY, *DIFFERENCES, *_FRAMES, *_OTHERS]


@dataclass(frozen=True, slots=True)
class Plane:
    """One image: its file, its frame (None: all of the file), and what its header says, functional groups included."""

    path: Path
    frame: int | None
    header: Dataset
    geometry: tuple[Any, ...]
    """The values of what the images of one volume have in common."""
    position: Vector | None
    """Image Position (Patient) in millimetres, None without it or its orientation."""
    orientation: Vector | None
    """The direction cosines of rows and columns."""

    @classmethod
    def of(cls, path: Path, frame: int | None, header: Dataset) -> "Plane":
        """The plane that a header speaks of."""
        geometry = tuple(_comparable(value_of(header, keyword)) for keyword in _GEOMETRY)
        orientation = _numbers(header, "ImageOrientationPatient", 6)
        position = _numbers(header, "ImagePositionPatient", 3) if orientation is not None else None
        return cls(path, frame, header, geometry, position, orientation)

    @property
    def normal(self) -> Vector:
        """The direction in which slices follow each other. Only for a plane with an orientation."""
        assert self.orientation is not None, "only planes in space are stacked"
        (a, b, c), (d, e, f) = self.orientation[:3], self.orientation[3:]
        return (b * f - c * e, c * d - a * f, a * e - b * d)

    @property
    def spacing(self) -> Vector:
        """Pixel Spacing: between rows, between columns, in millimetres."""
        return _numbers(self.header, "PixelSpacing", 2) or (1.0, 1.0)

    @property
    def is_image(self) -> bool:
        """Whether it has pixels."""
        return "Rows" in self.header

    @property
    def rank(self) -> tuple[int, str, int]:
        """Its order where space does not tell: Instance Number, UID, frame."""
        return number_of(self.header, "InstanceNumber"), str(value_of(self.header, "SOPInstanceUID")), self.frame or 0

    def like(self, other: "Plane") -> str | None:
        """None where both can be in one volume, else the keyword of what differs."""
        for keyword, mine, theirs in zip(_GEOMETRY, self.geometry, other.geometry, strict=True):
            if mine != theirs and not _is_near(mine, theirs):
                return keyword
        return None if (self.position is None) == (other.position is None) else "ImagePositionPatient"


@dataclass(frozen=True, slots=True)
class Volume:
    """The planes of a volume in order, and those that are none of its slices."""

    planes: tuple[Plane, ...]
    others: tuple[Plane, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in the order of their first slice, then those of the others; each once."""
        return tuple(dict.fromkeys(plane.path for plane in (*self.planes, *self.others)))

    @property
    def is_in_space(self) -> bool:
        """Whether its slices have positions."""
        return self.planes[0].position is not None


# --- reading -----------------------------------------------------------------------------------------------------


def planes_of(paths: Iterable[Path], keywords: Iterable[Any] = ()) -> list[Plane]:
    """The planes in these files, read without pixels; `keywords` are read as well (keywords or tags)."""
    tags = [*(tag_for_keyword(keyword) for keyword in _READ), *keywords]
    return list(chain.from_iterable(_planes(path, tags) for path in paths))


def _planes(path: Path, tags: list[Any]) -> Iterator[Plane]:
    header = dcmread(path, stop_before_pixels=True, specific_tags=tags)
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        yield Plane.of(path, None, header)
        return
    shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    common = Dataset({tag: header[tag] for tag in header.keys() if header[tag].VR != "SQ"})  # noqa: SIM118
    _flatten(shared[0], common)
    for number, groups in enumerate(frames):
        own = Dataset(dict(common.items()))
        _flatten(groups, own)
        yield Plane.of(path, number, own)


def _flatten(groups: Dataset, into: Dataset) -> None:
    """Put what functional groups say, and the sequences in them, beside each other: no keyword has two meanings."""
    for element in groups:
        if element.VR != "SQ":
            into[element.tag] = element
        elif len(element.value) == 1:
            _flatten(element.value[0], into)


def value_of(header: Dataset, keyword: str) -> Any:
    """The value of an attribute, None where it is absent, empty, or breaks the rules of its VR."""
    try:
        return None if keyword not in header or header[keyword].is_empty else header[keyword].value
    except (ValueError, TypeError, ArithmeticError):
        return None


def number_of(header: Dataset, keyword: str) -> int:
    """The integer of an attribute, 0 without one."""
    found = value_of(header, keyword)
    return int(found) if isinstance(found, int) else 0


def _numbers(header: Dataset, keyword: str, count: int) -> Vector | None:
    """The values of an attribute with so many numbers, None where it has not."""
    value = _comparable(value_of(header, keyword))
    return value if isinstance(value, tuple) and len(value) == count else None


def _comparable(value: Any) -> Any:
    """A value, a list of numbers as a tuple of them."""
    if not isinstance(value, MultiValue | list):
        return value
    try:
        return tuple(float(each) for each in value)
    except ValueError:
        return str(value)


def _is_near(one: Any, other: Any) -> bool:
    """Whether two lists of numbers are the same but for rounding."""
    if not isinstance(one, tuple) or not isinstance(other, tuple) or len(one) != len(other):
        return False
    return all(abs(a - b) <= PARALLEL for a, b in zip(one, other, strict=True))


# --- order -------------------------------------------------------------------------------------------------------


def volume_of(planes: Sequence[Plane]) -> Volume:
    """The largest group of planes that can be in one volume, in its order, and the others, by Instance Number.

    Whether the planes of the volume follow each other as they should is for `volumes.check` to say.
    """
    groups: list[list[Plane]] = []
    for plane in sorted(planes, key=lambda each: each.rank):
        own = next(
            (group for group in groups if plane.is_image == group[0].is_image and not plane.like(group[0])), None
        )
        if own is None:
            groups.append([plane])
        else:
            own.append(plane)
    groups.sort(key=lambda group: (group[0].is_image, len(group)), reverse=True)
    largest, *rest = groups
    return Volume(tuple(_in_order(largest)), tuple(chain.from_iterable(rest)))


def _are_together(one: Plane, other: Plane) -> bool:
    return one.like(other) is None and one.is_image == other.is_image


def _in_order(planes: list[Plane]) -> list[Plane]:
    """Planes along their normal; those without positions, or at one position, stay in their order."""
    if planes[0].position is None:
        return planes
    place = along(planes[0])
    return sorted(planes, key=lambda plane: round(place(plane) / SAME_PLACE))


def along(first: Plane) -> Callable[[Plane], float]:
    """How far a plane lies along the normal of the first one, in millimetres."""
    normal = first.normal
    return lambda plane: _dot(plane.position or (), normal)


def _dot(one: Vector, other: Vector) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
