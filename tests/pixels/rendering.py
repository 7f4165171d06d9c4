"""Pictures of data sets, rendered in this process, and the same by other programs."""

import io
import re
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

from pacs.dicom import part10
from pacs.pixels.frames import Frames, Look
from pacs.pixels.rendering import RAW, LookupTable
from tests.pixels.converting import InProcessPool
from tests.pixels.samples import file_of
from tests.programs import needs

Picture = numpy.ndarray[Any, Any]


@contextmanager
def frames_of(what: Dataset | Path | bytes) -> Iterator[Frames]:
    """Open the frames of a data set or of a file."""
    data = what.read_bytes() if isinstance(what, Path) else file_of(what) if isinstance(what, Dataset) else what
    file = io.BytesIO(data)
    head = part10.find_data_set(file)
    with closing(Frames(file, head.transfer_syntax, InProcessPool())) as frames:  # type: ignore[arg-type]
        yield frames


def picture_of(what: Dataset | Path | bytes, frame: int = 1, **look: Any) -> Picture:
    """Return the samples of a rendered frame."""
    with frames_of(what) as frames:
        chosen = Look(form=RAW, **look)
        made = frames.picture(chosen)
        shape = (made.rows, made.columns) + ((3,) if made.samples_per_pixel == 3 else ())
        return numpy.frombuffer(frames.rendered(frame, chosen), "u1").reshape(shape)


def by_dcmtk(path: Path) -> Picture | None:
    """Return the first frame as `dcmj2pnm` renders it, without overlays; None if it cannot."""
    with frames_of(path) as frames:
        choices, bits = frames.display.choices(0), frames.attributes.bits_stored
    option = ["-W"] if bits <= 8 else ["+Wm"]
    if choices:
        option = ["+Wl" if isinstance(choices[0].voi, LookupTable) else "+Wi", "1"]
    done = subprocess.run([needs("dcmj2pnm"), "-q", "+op", "-O", *option, path], capture_output=True, check=False)
    head = re.match(rb"P([56])\s+(\d+)\s+(\d+)\s+255\s", done.stdout)
    if head is None:
        return None
    samples, columns, rows = (3 if head[1] == b"6" else 1), int(head[2]), int(head[3])
    picture = numpy.frombuffer(done.stdout[head.end() :], "u1")
    return picture.reshape((rows, columns, 3) if samples == 3 else (rows, columns))


def by_pydicom(what: Path | Dataset, frame: int = 1) -> Picture:
    """Return a frame as pydicom renders it, by floating point numbers which are rounded at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = what if isinstance(what, Dataset) else pydicom.dcmread(what)
        pixels = pixel_array(dataset, index=frame - 1)
        return numpy.floor(_shares(pixels, dataset) * 255 + 0.5).astype("u1")


def _shares(pixels: Picture, dataset: Dataset) -> Picture:
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(pixels, dataset)
        return colours / ((1 << dataset.RedPaletteColorLookupTableDescriptor[2]) - 1)
    if dataset.SamplesPerPixel > 1:
        return pixels / ((1 << dataset.BitsStored) - 1)
    values = apply_modality_lut(pixels, dataset)
    shares = _windowed(values, dataset) if "WindowCenter" in dataset or "VOILUTSequence" in dataset else None
    if shares is None and values is pixels and dataset.BitsStored <= 8:
        codes = 1 << dataset.BitsStored
        shares = (values + codes / 2 * dataset.PixelRepresentation) / (codes - 1)
    if shares is None:
        shares = (values.astype("f8") - values.min()) / max(1e-300, float(values.max()) - float(values.min()))
    return 1 - shares if dataset.PhotometricInterpretation == "MONOCHROME1" else shares


def _windowed(values: Picture, dataset: Dataset) -> Picture:
    """Return pydicom's result, which is in the range of the stored values, as shares of that range."""
    lowest, highest = 0.0, float((1 << dataset.BitsStored) - 1)
    if "VOILUTSequence" in dataset:
        highest = (1 << dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
    elif "ModalityLUTSequence" in dataset:
        highest = (1 << dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    else:
        if dataset.PixelRepresentation:
            lowest, highest = -(highest + 1) / 2, (highest - 1) / 2
        if "RescaleSlope" in dataset:
            slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
            lowest, highest = lowest * slope + intercept, highest * slope + intercept
    return (apply_voi_lut(values, dataset) - lowest) / (highest - lowest)
