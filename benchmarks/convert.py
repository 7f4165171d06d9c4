"""C-MOVE of compressed images to a sink that accepts only uncompressed transfer syntaxes.

The images are one CT slice of pydicom-data, `693_UNCR.dcm`, moved sideways from image to image.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

import imagecodecs
import numpy as np
import rle
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate

from benchmarks import client, data, wire
from benchmarks.bench import Archive, Bench, Better, Line, Row
from benchmarks.peers import System
from benchmarks.retrieve import move_study
from pacs import testing

SLICE = "693_UNCR.dcm"
DISTINCT = 10
"""The number of different images; a study repeats them."""

Frame = np.ndarray[tuple[int, int], np.dtype[np.uint16]]


@dataclass(frozen=True)
class Compression:
    """A transfer syntax, how a frame is encoded in it without loss, and the measured systems."""

    key: str
    title: str
    transfer_syntax: str
    encode: Callable[[Frame], bytes]
    systems: Sequence[str] = ("pacs", "pacs-postgres", "orthanc", "orthanc-tuned", "orthanc-gdcm")


COMPRESSIONS = (
    Compression("jls", "JPEG-LS", "1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode),
    Compression(
        "jpeg",
        "JPEG lossless",
        "1.2.840.10008.1.2.4.70",
        lambda frame: imagecodecs.jpeg8_encode(frame, lossless=True, predictor=1, bitspersample=16),
    ),
    Compression(
        "j2k",
        "JPEG 2000 lossless",
        "1.2.840.10008.1.2.4.90",
        lambda frame: imagecodecs.jpeg2k_encode(frame, codecformat="J2K", reversible=True),
    ),
    Compression(
        "htj2k",
        "HTJ2K lossless",
        "1.2.840.10008.1.2.4.201",
        lambda frame: imagecodecs.htj2k_encode(frame, reversible=True),
        systems=("pacs", "pacs-postgres"),
    ),
    Compression(
        "rle",
        "RLE",
        "1.2.840.10008.1.2.5",
        lambda frame: rle.encode_pixel_data(
            frame.tobytes(), byteorder="<", rows=512, columns=512, samples_per_pixel=1, bits_allocated=16
        ),
    ),
)


def convert(bench: Bench) -> Iterator[Row]:
    """Measure a C-MOVE of 100 compressed instances of 512 kB on one association, for each transfer syntax."""
    count = bench.of(100, 5)
    with bench.archives(*COMPRESSIONS[0].systems, uncompressed=True) as started:
        for each in COMPRESSIONS:
            archives = [archive for archive in started if archive.name in each.systems]
            title = f"C-MOVE of {count} × 512 kB, {each.title} to uncompressed"
            line = Line(f"convert.{each.key}", title, "ms", Better.LESS)
            yield from bench.interleave([line], archives, partial(_move, each, count))


def _move(compression: Compression, count: int, archive: Archive, _run: int) -> list[float]:
    store = partial(_store_study, compression=compression, count=count)
    return [move_study(archive.system, archive.once(compression.key, store), count) * 1e3]


def _store_study(system: System, compression: Compression, count: int) -> str:
    """Store a new study of compressed images and return its Study Instance UID."""
    images = data.images_of(_templates(compression), count)
    context = (wire.CT_IMAGE_STORAGE, [compression.transfer_syntax])
    client.store(system.port, system.ae_title, [images], context=context)
    return images.study_instance_uid


@cache
def _templates(compression: Compression) -> Sequence[data.Template]:
    """Return the compressed images, without UIDs."""
    slice_ = dcmread(str(get_testdata_file(SLICE))).pixel_array.astype(int)
    frames = [np.roll(slice_ - slice_.min(), 7 * place, axis=1).astype(np.uint16) for place in range(DISTINCT)]
    return [_template(compression.encode(frame)) for frame in frames]


def _template(encoded: bytes) -> data.Template:
    prototype = testing.study(series=1, instances=1, size=512)[0]
    prototype.BitsStored, prototype.HighBit = 16, 15
    prototype.PixelData = encapsulate([bytes(encoded)])
    prototype["PixelData"].VR = "OB"
    prototype["PixelData"].is_undefined_length = True
    return data.image_template(prototype)
