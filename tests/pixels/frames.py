"""Frames of data sets, converted by `pacs.pixels.codecs` in this process."""

from itertools import islice

import numpy
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames

from pacs.pixels import codecs
from pacs.pixels.image_pixel import ImagePixel


def attributes_of(dataset: Dataset) -> ImagePixel:
    """Return the attributes that a decoder needs."""
    return ImagePixel(
        rows=dataset.Rows,
        columns=dataset.Columns,
        samples_per_pixel=dataset.SamplesPerPixel,
        photometric_interpretation=dataset.PhotometricInterpretation,
        planar_configuration=dataset.get("PlanarConfiguration", 0) or 0,
        bits_allocated=dataset.BitsAllocated,
        bits_stored=dataset.BitsStored,
        high_bit=dataset.HighBit,
        pixel_representation=dataset.PixelRepresentation,
        number_of_frames=int(dataset.get("NumberOfFrames", 1) or 1),
    )


def frames_of(dataset: Dataset, most: int | None = None) -> list[bytes]:
    """Return the first frames of compressed pixel data."""
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    return list(islice(generate_frames(dataset.PixelData, number_of_frames=count), most))


def decoded(dataset: Dataset, most: int | None = None) -> tuple[numpy.ndarray, ImagePixel]:
    """Decode the first frames of a data set; return their samples and the attributes of the result."""
    stored, syntax = attributes_of(dataset), str(dataset.file_meta.TransferSyntaxUID)
    results = [codecs.decode(frame, syntax, stored) for frame in frames_of(dataset, most)]
    return numpy.stack([as_array(frame, attributes) for frame, attributes in results]), results[0][1]


def as_array(native: bytes, attributes: ImagePixel) -> numpy.ndarray:
    """Return the samples of a native frame, colour by pixel."""
    if attributes.bits_allocated == 1:
        bits = numpy.unpackbits(numpy.frombuffer(native, "u1"), bitorder="little")
        return bits[: attributes.rows * attributes.columns].reshape(attributes.rows, attributes.columns)
    return codecs._samples(native, attributes)
