"""Generated data, the same in each run: CT images of any size, and a population of studies for queries."""

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from benchmarks.client import Instance
from pacs import testing

SIDES = {"9 kB": 64, "512 kB": 512}
"""Rows and Columns of 16 bit pixels that make an instance of about this size."""

SPREAD = 7_046_029_254_386_353_131
"""Coprime to ten: multiplying by it modulo a power of ten maps no two numbers to one."""

_numbers = itertools.count(1)
"""Numbers the studies that this process sends."""


def next_number() -> int:
    """Return a number that this process has not used for a study."""
    return next(_numbers)


# --- data sets with places to fill -------------------------------------------------------------------------------


class Template:
    """An encoded data set in explicit VR little endian in which the values of some text elements can be replaced."""

    def __init__(self, encoded: bytes, prototype: Dataset, keywords: Sequence[str]) -> None:
        """Find the elements. Raises ValueError if `encoded` lacks an element of `keywords`."""
        self._heads: dict[str, bytes] = {}
        rest = encoded
        for keyword in sorted(keywords, key=lambda each: tag_for_keyword(each) or 0):
            before, found, rest = rest.partition(text_element(keyword, str(prototype[keyword].value)))
            if not found:
                raise ValueError(f"the prototype's {keyword} is not where it was expected")
            self._heads[keyword] = before
        self._tail = rest

    def fill(self, values: dict[str, str]) -> bytes:
        """Return the data set with these values, one for each keyword."""
        pieces = [head + text_element(keyword, values[keyword]) for keyword, head in self._heads.items()]
        return b"".join([*pieces, self._tail])


def text_element(keyword: str, value: str) -> bytes:
    """Return a text element of a short VR in explicit VR little endian."""
    group, element, vr = _head(keyword)
    encoded = value.encode() + ((b"\0" if vr == b"UI" else b" ") * (len(value) % 2))
    return struct.pack("<HH2sH", group, element, vr, len(encoded)) + encoded


@cache
def _head(keyword: str) -> tuple[int, int, bytes]:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return tag >> 16, tag & 0xFFFF, dictionary_VR(tag).encode()


def encode(dataset: Dataset) -> bytes:
    """Return a data set in explicit VR little endian."""
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, False
    write_dataset(out, dataset)
    return out.getvalue()


# --- images for ingest and retrieval -----------------------------------------------------------------------------


def uid(kind: int, number: int) -> str:
    """Return a UID of 26 characters; `kind` distinguishes studies, series and instances.

    Neighbours differ in every digit: dcmqrscp makes file names of UIDs by a hash that sees little more than their end.
    """
    return f"2.25.{kind}{number * SPREAD % 10**20:020}"


@dataclass(frozen=True)
class Images:
    """The images of a new study with one series, generated on demand from templates in turn."""

    number: int
    templates: Sequence[Template]
    count: int

    @property
    def study_instance_uid(self) -> str:
        """Its Study Instance UID."""
        return uid(1, self.number)

    def __iter__(self) -> Iterator[Instance]:
        shared = {
            "StudyInstanceUID": self.study_instance_uid,
            "SeriesInstanceUID": uid(2, self.number),
            "PatientID": f"PAT{self.number:07}",
            "AccessionNumber": f"ACC{self.number:07}",
        }
        for place in range(self.count):
            sop_instance_uid = uid(3, self.number * 10**7 + place)
            template = self.templates[place % len(self.templates)]
            yield sop_instance_uid, template.fill(shared | {"SOPInstanceUID": sop_instance_uid})


def images(size: str, count: int) -> Images:
    """Return a new study of `count` images of a size in `SIDES`."""
    return images_of([_template(size)], count)


def images_of(templates: Sequence[Template], count: int) -> Images:
    """Return a new study of `count` images made from templates."""
    return Images(next(_numbers), templates, count)


@cache
def _template(size: str) -> Template:
    return image_template(testing.study(series=1, instances=1, size=SIDES[size])[0])


def image_template(prototype: Dataset) -> Template:
    """Return the template of an image."""
    keywords = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "AccessionNumber")
    return Template(encode(prototype), prototype, keywords)


def write_files(folder: Path, count: int) -> list[Path]:
    """Write Part 10 files of a new study of 9 kB images."""
    patient = f"FILES{next(_numbers)}"
    study = testing.study(patient_id=patient, series=1, instances=count, size=SIDES["9 kB"])
    return testing.write(study, folder / patient)


# --- a population of studies -------------------------------------------------------------------------------------

SYLLABLES = ("BER", "DAL", "FEN", "GOR", "HIL", "KAM", "LIN", "MOR", "NIE", "ROS", "SAN", "TOL", "VAN", "WEI", "ZAN")
FAMILIES = tuple("".join(parts) for parts in itertools.product(SYLLABLES, SYLLABLES, ("", "MANN", "SEN")))
GIVEN = (
    "ANNA", "BELA", "CARL", "DORA", "EMIL", "FRED", "GINA", "HANS", "IDA", "JUAN", "KARL", "LENA", "MARK", "NINA",
    "OLAF", "PAUL", "RITA", "SVEN", "TINA", "UTE", "VERA", "WIM", "YVES", "ZOE", "ADAM", "BRIT", "CORA", "DIRK", "ELSA",
    "FINN", "GRETA", "HUGO", "INES", "JOHN", "KATE", "LARS", "MARY", "NOAH", "OLGA", "PETER", "ROSA", "STEN", "TOM",
)  # fmt: skip
MIDDLE = ("", "A", "B", "M", "ANNA", "J", "JOSEF", "K", "L", "P", "R", "S", "T", "W")
MONTHS = tuple(f"{year}{month:02}" for year in range(2016, 2026) for month in range(1, 13))
MODALITIES = ("CT", "PT")


@dataclass(frozen=True)
class Study:
    """A study of the population: one patient, one or two series of one image each."""

    number: int

    @property
    def patient(self) -> dict[str, str]:
        """The values of the patient."""
        return {"PatientID": f"P{self.number:09}", "PatientName": self.name}

    @property
    def study(self) -> dict[str, str]:
        """The values of the study."""
        return {
            "StudyInstanceUID": uid(4, self.number),
            "StudyDate": self.date,
            "AccessionNumber": f"A{self.number:09}",
        }

    @property
    def series(self) -> list[dict[str, str]]:
        """The values of each series and its image."""
        return [
            {
                "SeriesInstanceUID": uid(5, 2 * self.number + place),
                "SOPInstanceUID": uid(6, 2 * self.number + place),
                "Modality": MODALITIES[place],
            }
            for place in range(1 + self.number % 2)
        ]

    @property
    def name(self) -> str:
        """The name of the patient: family, given, and often a middle name."""
        mixed = self.number * 2654435761 % 2**32
        family, rest = FAMILIES[mixed % len(FAMILIES)], mixed // len(FAMILIES)
        given, rest = GIVEN[rest % len(GIVEN)], rest // len(GIVEN)
        return f"{family}^{given}^{MIDDLE[rest % len(MIDDLE)]}".rstrip("^")

    @property
    def date(self) -> str:
        """The date, within ten years, on one of the first 28 days of a month."""
        mixed = self.number * 40503 % 2**20
        return f"{MONTHS[mixed % len(MONTHS)]}{mixed // len(MONTHS) % 28 + 1:02}"


PLACES = ("PatientID", "PatientName", "StudyInstanceUID", "StudyDate", "AccessionNumber", "SeriesInstanceUID",
          "SOPInstanceUID", "Modality")  # fmt: skip


def population(count: int) -> Iterator[Instance]:
    """Yield the images of the first `count` studies."""
    prototype = population_prototype()
    template = Template(encode(prototype), prototype, PLACES)
    for study in map(Study, range(count)):
        for series in study.series:
            yield series["SOPInstanceUID"], template.fill(study.patient | study.study | series)


def population_prototype() -> Dataset:
    """Return an image of the population before its values are replaced."""
    return testing.study(series=1, instances=1, size=8)[0]


@cache
def bytes_of(size: str) -> int:
    """Return the length of the data set of an image of a size in `SIDES`, in bytes."""
    return len(next(iter(images(size, 1)))[1])
