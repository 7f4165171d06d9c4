"""The shapes of what is stored: how large an image is, and how images make series and studies.

A message is encoded once for each kind of image. For each image only the UIDs, the numbers of the patient and of the
order, and the Message ID are written over, so that the sender costs as little processor time as it can.
"""

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from pydicom import Dataset

from benchmarks import wire
from benchmarks.data import encode, uid
from benchmarks.wire import ProposedContext
from pacs import testing
from pacs.conformance.checks.wire import EXPLICIT, command_element

STORAGE = "1.2.840.10008.5.1.4.1.1"


@dataclass(frozen=True)
class Kind:
    """A kind of study: its images, all alike, and how many are in a series and in the study."""

    modality: str
    sop_class: str
    rows: int
    columns: int
    images: int = 1
    """Images of a series."""
    series: int = 1
    """Series of a study."""
    bytes_per_pixel: int = 2
    frames: int = 1

    @property
    def size(self) -> int:
        """The length of Pixel Data in bytes."""
        return self.rows * self.columns * self.bytes_per_pixel * self.frames


@dataclass(frozen=True)
class Shape:
    """The studies that an association sends, of these kinds in turn."""

    key: str
    title: str
    studies: Sequence[Kind]
    in_bytes: bool = True
    """Whether the rate is in megabytes instead of instances."""

    @property
    def kinds(self) -> Sequence[Kind]:
        """The different kinds."""
        return tuple(dict.fromkeys(self.studies))

    @property
    def contexts(self) -> list[ProposedContext]:
        """The presentation contexts that an association needs."""
        return [(sop_class, [EXPLICIT]) for sop_class in dict.fromkeys(kind.sop_class for kind in self.kinds)]


def _ct(side: int, images: int, series: int = 1) -> Kind:
    return Kind("CT", f"{STORAGE}.2", side, side, images, series)


CR = Kind("CR", f"{STORAGE}.1", 2140, 1760, 2)
DX = Kind("DX", f"{STORAGE}.1.1", 2500, 2048, 2)
US = Kind("US", f"{STORAGE}.6.1", 480, 640, 30, bytes_per_pixel=3)
MG = Kind("MG", f"{STORAGE}.1.2", 3328, 2560, 4)
CT = _ct(512, 100, 3)
MR = Kind("MR", f"{STORAGE}.4", 256, 256, 40, 5)
XA = Kind("XA", f"{STORAGE}.12.1", 1024, 1024, bytes_per_pixel=1, frames=30)

DEPARTMENT = (DX, US, CT, DX, CR, US, DX, MR, DX, US, CR, CT, DX, US, MG, DX, CR, US, DX, CT)
"""Twenty studies of a department; `docs/benchmarks.md` names the sources of the proportions."""

SHAPES = {
    shape.key: shape
    for shape in (
        Shape("one-a-study", "9 kB, one image a study", [_ct(64, 1)], in_bytes=False),
        Shape("5-a-series", "9 kB, 5 images a series", [_ct(64, 5, 4)], in_bytes=False),
        Shape("300-a-series", "9 kB, 300 images a series", [_ct(64, 300)], in_bytes=False),
        Shape("ct-512kB", "CT of 512 kB", [_ct(512, 300)]),
        Shape("multiframe-30MB", "multi-frame of 30 MB", [XA]),
        Shape("department", "a department's mix", DEPARTMENT),
    )
}


# --- messages ----------------------------------------------------------------------------------------------------

_FIELDS = {
    "StudyInstanceUID": uid(1, 1),
    "SeriesInstanceUID": uid(2, 1),
    "SOPInstanceUID": uid(3, 1),
    "PatientID": "P000000000001",
    "AccessionNumber": "A000000000001",
}
"""The values that differ between images, with the values that they have in the encoded message: all of one length."""

MESSAGE_ID = 0xF7F7
"""The Message ID of the encoded message."""

SHARED = 1 << 16
"""Pixel data longer than this is kept once for all associations, and sent by a second write."""


class Message:
    """An encoded C-STORE-RQ in which the identifying values are written over."""

    def __init__(self, kind: Kind, context: int, longest_pdu: int) -> None:
        whole = _whole(kind, context, longest_pdu)
        cut = whole.index(b"\xe0\x7f\x10\x00") + 8 if kind.size > SHARED else len(whole)
        self.head = bytearray(whole[:cut])
        self.pixels = memoryview(whole)[cut:]
        self._places = {each: _places(self.head, value.encode()) for each, value in _FIELDS.items()}
        self._message_id = _places(self.head, command_element(wire.MESSAGE_ID, MESSAGE_ID))[0] + 8

    def fill(self, values: dict[str, bytes], message_id: int) -> None:
        """Write the values of an image into the head."""
        for each, value in values.items():
            for place in self._places[each]:
                self.head[place : place + len(value)] = value
        self.head[self._message_id : self._message_id + 2] = message_id.to_bytes(2, "little")


def _places(data: bytes | bytearray, value: bytes) -> list[int]:
    found = [match.start() for match in re.finditer(re.escape(value), data)]
    assert found, f"{value!r} is not in the first PDUs"
    return found


@cache
def _whole(kind: Kind, context: int, longest_pdu: int) -> bytes:
    return wire.store_rq(
        context, _FIELDS["SOPInstanceUID"], MESSAGE_ID, encoded(kind), longest_pdu, sop_class=kind.sop_class
    )


@cache
def encoded(kind: Kind) -> bytes:
    """Return the data set of an image of a kind."""
    return encode(_prototype(kind))


def _prototype(kind: Kind) -> Dataset:
    """Return an image of a kind with incompressible pixels."""
    image = testing.study(modality="CT", series=1, instances=1, size=8)[0]
    image.Modality, image.SOPClassUID = kind.modality, kind.sop_class
    image.Rows, image.Columns = kind.rows, kind.columns
    image.BitsAllocated = 16 if kind.bytes_per_pixel == 2 else 8
    if kind.bytes_per_pixel == 3:
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    if kind.frames > 1:
        image.NumberOfFrames = kind.frames
    image.PixelData = random.Random(kind.size).randbytes(kind.size)
    image["PixelData"].VR = "OW" if kind.bytes_per_pixel == 2 else "OB"
    for keyword, value in _FIELDS.items():
        setattr(image, keyword, value)
    return image


# --- the images of an association --------------------------------------------------------------------------------

STUDIES = 10**6
"""The most studies of one association; their numbers are consecutive."""


def identities(shape: Shape, first: int) -> Iterator[tuple[Kind, dict[str, bytes]]]:
    """Yield the kinds and identifying values of images without end, of studies numbered from `first` on."""
    turns = itertools.cycle(shape.studies)
    for _ in range(first // STUDIES * 7 % len(shape.studies)):  # associations do not all send the same kind at once
        next(turns)
    for number, kind in zip(itertools.count(first), turns, strict=False):
        study = {
            "StudyInstanceUID": uid(1, number).encode(),
            "PatientID": f"P{number:012}".encode(),
            "AccessionNumber": f"A{number:012}".encode(),
        }
        for series, image in itertools.product(range(kind.series), range(kind.images)):
            place = series * kind.images + image
            values = {} if place else study  # what is in the message already is not written again
            if not image:
                values = values | {"SeriesInstanceUID": uid(2, number * 100 + series).encode()}
            yield kind, values | {"SOPInstanceUID": uid(3, number * 10**5 + place).encode()}
