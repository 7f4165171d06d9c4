"""Reads a volume as a SimpleITK image. SimpleITK decodes the pixels; this package determines the order."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacs.client.series.planes import Plane, Volume, distance_along_normal, value_of
from pacs.errors import NotAVolume, PackageMissing

if TYPE_CHECKING:
    import SimpleITK

_SCALES = ("RescaleSlope", "RescaleIntercept", "BitsStored", "PixelRepresentation")


def check_installed() -> None:
    """Raise PackageMissing without SimpleITK."""
    if find_spec("SimpleITK") is None:
        raise PackageMissing("load_series needs SimpleITK: run `pip install SimpleITK`, or use load_datasets")


def read_image(volume: Volume) -> "SimpleITK.Image":
    """Return the image of a volume that `volumes.check_volume` accepts; SimpleITK must be installed.

    Raises NotAVolume if SimpleITK cannot read it.
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
    """Read one file per slice, or one multi-frame file without functional groups."""
    import SimpleITK

    if planes[0].unplaced_frames:
        return SimpleITK.ReadImage(planes[0].path, imageIO="GDCMImageIO")
    reader = SimpleITK.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(plane.path) for plane in planes])
    pixel = _pixel(planes)
    if pixel is not None:
        reader.SetOutputPixelType(pixel)
    return reader.Execute()


def _pixel(planes: Sequence[Plane]) -> Any:
    """Return the pixel type that fits all slices, None for that of the first slice.

    The reader uses the type of the first file for all, and GDCM chooses it by slope, intercept and bits stored.
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
    """Read frames in the order of the planes, with the geometry of the planes."""
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
    """Return a frame without its geometry."""
    found = image[:, :, plane.frame or 0]
    found.SetOrigin((0, 0))
    found.SetSpacing((1, 1))
    found.SetDirection((1, 0, 0, 1))
    return found


def _check_scales(planes: Sequence[Plane]) -> None:
    """Raise NotAVolume for different rescale values: GDCM applies those of the first frame to all frames."""
    for path in {plane.path for plane in planes}:
        own = [plane for plane in planes if plane.path == path]
        scales = {tuple(str(value_of(each.header, keyword)) for keyword in _SCALES) for each in own}
        if len(scales) > 1:
            raise NotAVolume("The frames have different RescaleSlope or RescaleIntercept: use load_datasets")


def _place(image: "SimpleITK.Image", planes: Sequence[Plane], thickness: float) -> None:
    first, last = planes[0], planes[-1]
    between_rows, between_columns = first.spacing or (1.0, 1.0)
    if first.position is None or first.orientation is None:
        image.SetSpacing((between_columns, between_rows, 1.0))
        return
    step = thickness
    if len(planes) > 1:
        place = distance_along_normal(first)
        step = (place(last) - place(first)) / (len(planes) - 1)
    image.SetOrigin(first.position)
    image.SetSpacing((between_columns, between_rows, step))
    rows, columns, normal = first.orientation[:3], first.orientation[3:], first.normal
    image.SetDirection([each for axis in zip(rows, columns, normal, strict=True) for each in axis])
