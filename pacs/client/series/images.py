"""A volume as a SimpleITK image. SimpleITK reads the pixels; the order is ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacs.client.series.planes import Plane, Volume, along, number_of, value_of
from pacs.errors import NotAVolume

if TYPE_CHECKING:
    import SimpleITK

_SCALES = ("RescaleSlope", "RescaleIntercept", "BitsStored", "PixelRepresentation")


def is_readable() -> bool:
    """Whether SimpleITK is installed."""
    try:
        import SimpleITK  # noqa: F401
    except ImportError:
        return False
    return True


def image_of(volume: Volume) -> "SimpleITK.Image":
    """The image of a volume that `volumes.check` has nothing against, where SimpleITK is installed.

    Raises NotAVolume for what SimpleITK cannot read as one.
    """
    planes = volume.planes
    try:
        if all(plane.frame is None for plane in planes):
            return _read(planes)
        return _joined(planes)
    except RuntimeError as error:
        raise NotAVolume(f"SimpleITK cannot read the images: {_last_line(error)}") from error


def _last_line(error: RuntimeError) -> str:
    return str(error).strip().rpartition("\n")[2]


def _read(planes: Sequence[Plane]) -> "SimpleITK.Image":
    """One file for each slice; or one file that is no enhanced one, and has all frames there are."""
    import SimpleITK

    several = [each for each in planes if number_of(each.header, "NumberOfFrames") > 1]
    if several:
        if len(planes) > 1:
            raise NotAVolume(
                f"{len(several)} of {len(planes)} instances have several frames and say nothing of their places: name "
                "InstanceNumber or SOPInstanceUID as well, or ask for as_datasets=True"
            )
        return SimpleITK.ReadImage(planes[0].path, imageIO="GDCMImageIO")
    reader = SimpleITK.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(plane.path) for plane in planes])
    pixel = _pixel(planes)
    if pixel is not None:
        reader.SetOutputPixelType(pixel)
    return reader.Execute()


def _pixel(planes: Sequence[Plane]) -> Any:
    """The type that takes the pixels of all slices, None for that of the first one.

    The reader takes the type of the first file for all of them, and GDCM chooses it by slope, intercept and bits.
    """
    if len({tuple(str(value_of(plane.header, keyword)) for keyword in _SCALES) for plane in planes}) == 1:
        return None
    import SimpleITK

    types = {_type_of(plane.path) for plane in planes}
    return SimpleITK.sitkFloat64 if len(types) > 1 else None


def _type_of(path: Path) -> int:
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return int(reader.GetPixelID())


# --- frames ------------------------------------------------------------------------------------------------------


def _joined(planes: Sequence[Plane]) -> "SimpleITK.Image":
    """Frames of enhanced instances, put into their order; position and spacing are those of the functional groups."""
    import SimpleITK

    _check_scales(planes)
    files = {path: SimpleITK.ReadImage(path, imageIO="GDCMImageIO") for path in dict.fromkeys(p.path for p in planes)}
    if len({image.GetPixelID() for image in files.values()}) > 1:
        files = {path: SimpleITK.Cast(image, SimpleITK.sitkFloat64) for path, image in files.items()}
    slices = [_slice(files[plane.path], plane) for plane in planes]
    thickness = files[planes[0].path].GetSpacing()[2]
    files.clear()
    image = SimpleITK.JoinSeries(slices)
    _place(image, planes, thickness)
    return image


def _slice(image: "SimpleITK.Image", plane: Plane) -> "SimpleITK.Image":
    """A frame, without its place."""
    found = image[:, :, plane.frame or 0]
    found.SetOrigin((0, 0))
    found.SetSpacing((1, 1))
    found.SetDirection((1, 0, 0, 1))
    return found


def _check_scales(planes: Sequence[Plane]) -> None:
    """GDCM applies the scale of the first frame to all. Raises NotAVolume where they have others."""
    for path in {plane.path for plane in planes}:
        own = [plane for plane in planes if plane.path == path]
        scales = {tuple(str(value_of(each.header, keyword)) for keyword in _SCALES) for each in own}
        if len(scales) > 1:
            raise NotAVolume("The frames have different RescaleSlope or RescaleIntercept: ask for as_datasets=True")


def _place(image: "SimpleITK.Image", planes: Sequence[Plane], thickness: float) -> None:
    first, last = planes[0], planes[-1]
    between_rows, between_columns = first.spacing
    if first.position is None or first.orientation is None:
        image.SetSpacing((between_columns, between_rows, 1.0))
        return
    step = thickness
    if len(planes) > 1:
        place = along(first)
        step = (place(last) - place(first)) / (len(planes) - 1)
    image.SetOrigin(first.position)
    image.SetSpacing((between_columns, between_rows, step))
    rows, columns, normal = first.orientation[:3], first.orientation[3:], first.normal
    image.SetDirection([each for axis in zip(rows, columns, normal, strict=True) for each in axis])
