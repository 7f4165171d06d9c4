"""The attributes in which images of a series differ: they name the key that selects one image at each position."""

from collections.abc import Sequence

from pacs.client.series.planes import Plane, value_of

DIFFERENCES = (
    "ReferencedSegmentNumber", "EchoTime", "EffectiveEchoTime", "EchoNumbers", "TemporalPositionIdentifier",
    "TemporalPositionIndex", "TemporalPositionTimeOffset", "TriggerTime", "NominalPercentageOfCardiacPhase",
    "NominalCardiacTriggerDelayTime", "CardiacCyclePosition", "RespiratoryCyclePosition", "DiffusionBValue",
    "DiffusionGradientOrientation", "VelocityEncodingDirection", "InversionTime", "RepetitionTime", "FlipAngle",
    "StackID", "AcquisitionNumber", "FrameAcquisitionNumber", "ImageType", "FrameType", "ComplexImageComponent",
    "FrameLabel", "LUTLabel", "DoseSummationType", "DoseType", "EnergyWindowVector", "DetectorVector", "PhaseVector",
    "RotationVector", "RRIntervalVector", "TimeSlotVector", "AngularViewVector", "TimeSliceVector",
    "ReconstructionDiameter", "ConvolutionKernel", "ReconstructionAlgorithm", "FrameReferenceTime",
    "FrameReferenceDateTime", "AcquisitionDateTime", "FrameAcquisitionDateTime", "AcquisitionTime", "ContentTime",
    "KVP", "SOPClassUID", "InstanceNumber",
)  # fmt: skip
"""Attributes in which images at one position may differ; the first that distinguishes them is reported."""

ONE_IMAGE = (
    "ReferencedSegmentNumber", "EchoTime", "EffectiveEchoTime", "EchoNumbers", "TemporalPositionIdentifier",
    "TemporalPositionIndex", "DiffusionBValue", "ComplexImageComponent", "ConvolutionKernel", "Units", "RescaleType",
    "DoseUnits", "DoseType",
)  # fmt: skip
"""Attributes that tell what the pixels mean: slices that differ in one of them are several images, one after the other.

Attributes that may differ from slice to slice of one acquisition, such as times and counters, are not among them.
"""

MAX_VALUES = 5
"""Maximum number of values in an error message."""

_SAME = 0.05
"""Relative difference between two measured numbers up to which both mean the same, for rounding."""


def explain_difference(positions: Sequence[Sequence[Plane]]) -> tuple[str, str]:
    """Return the attribute that distinguishes images at one position, and its values; '' if there is none."""
    shared = [run for run in positions if len(run) > 1]
    found = next((each for each in DIFFERENCES if all(_tells_apart(each, run) for run in shared)), None)
    found = found or next((each for each in DIFFERENCES if any(len(_values(each, run)) > 1 for run in shared)), "")
    return found, _shown(found, shared[0]) if found else ""


def mixture(planes: Sequence[Plane]) -> tuple[str, str]:
    """Return the attribute of `ONE_IMAGE` in which slices differ, and its values; '' if there is none."""
    found = next((each for each in ONE_IMAGE if not _is_one(each, planes)), "")
    return found, _shown(found, planes) if found else ""


def _values(keyword: str, planes: Sequence[Plane]) -> list[str]:
    return list(dict.fromkeys(str(value_of(each.header, keyword)) for each in planes))


def _tells_apart(keyword: str, run: Sequence[Plane]) -> bool:
    return len(_values(keyword, run)) == len(run)


def _is_one(keyword: str, planes: Sequence[Plane]) -> bool:
    values = [value_of(each.header, keyword) for each in planes]
    if all(isinstance(each, float) for each in values):
        return bool(max(values) - min(values) <= _SAME * max(map(abs, values)))
    return len(_values(keyword, planes)) == 1


def _shown(keyword: str, planes: Sequence[Plane]) -> str:
    """Return the values, those of segments with their labels."""
    values = list(dict.fromkeys(_with_label(each, keyword) for each in planes))
    return f"{', '.join(values[:MAX_VALUES])}{', ...' if len(values) > MAX_VALUES else ''}"


def _with_label(plane: Plane, keyword: str) -> str:
    value, label = str(value_of(plane.header, keyword)), value_of(plane.header, "SegmentLabel")
    return f"{value} {str(label)!r}" if keyword == "ReferencedSegmentNumber" and label else value
