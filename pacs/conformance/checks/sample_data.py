"""The instances that the checks store: the same ones for the same prefix, which tells them from other data.

A second run stores the same instances again. Patient IDs begin with the prefix, and UIDs with a root derived from it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset

from pacs.conformance.checks import wire

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
SC = "1.2.840.10008.5.1.4.1.1.7"
MODALITIES = {CT: "CT", MR: "MR", SC: "OT"}
RLE = "1.2.840.10008.1.2.5"

MANY = 40
"""The number of instances in the study for cancels."""

PROBES = 9
"""The number of further instances that checks store; a server may refuse some of them."""


@dataclass(frozen=True)
class SampleInstance:
    """A data set and the transfer syntax that it is stored in."""

    dataset: Dataset
    syntax: str = wire.EXPLICIT

    @property
    def uid(self) -> str:
        """The SOP Instance UID."""
        return str(self.dataset.SOPInstanceUID)

    @property
    def sop_class(self) -> str:
        """The SOP Class UID."""
        return str(self.dataset.SOPClassUID)

    def encode(self) -> bytes:
        """Return the data set in its transfer syntax."""
        return wire.encoded(self.dataset, self.syntax)


@dataclass(frozen=True)
class SampleStudy:
    """A study of the samples: attribute values, and its series as (SOP Class, number of instances)."""

    label: str
    patient: str
    name: str
    date: str
    time: str
    accession: str = ""
    id: str = ""
    description: str = ""
    series: Sequence[tuple[str, int]] = ((CT, 1),)
    charset: str | Sequence[str] = ""
    syntax: str = wire.EXPLICIT


ALPHA = "Pacsrun^Alpha^Middle"

STUDIES = (
    SampleStudy(
        "1", "1", ALPHA, "20200115", "101530.250", "ACC-a1", "Id-11", "Chest 100%_[x]", series=((CT, 2), (MR, 1))
    ),
    SampleStudy("2", "1", ALPHA, "20200120", "2230", "acc-a1", "id-11", "Abdomen"),
    SampleStudy("3", "1", ALPHA, "20200131", "235959"),
    SampleStudy("4", "1", ALPHA, "20210601", "08", "ACC_a1", "Other_22", "Abdomen", series=((SC, 1),)),
    SampleStudy(
        "5", "2", "Pacsrun-Yamada^Tarou=山田^太郎=やまだ^たろう", "20200201", "120000", "ACC-5", "5",
        charset=("", "ISO 2022 IR 87"),
    ),
    SampleStudy("6", "3", "Pacsrun-Müller^Jürgen", "20200202", "120000", "ACC-6", "6", charset="ISO_IR 100"),
    SampleStudy("7", "4", "Pacsrun-Ωmega^Σofia", "20200203", "120000", "ACC-7", "7", charset="ISO_IR 192"),
    SampleStudy("8", "5", "Pacsrun^Rle", "20200204", "120000", "ACC-8", "8", series=((SC, 1),), syntax=RLE),
    SampleStudy("9", "6", "Pacsrun^Many", "20200205", "120000", "ACC-9", "9", series=((SC, MANY),)),
)  # fmt: skip

LABELS = frozenset(each.label for each in STUDIES)


@dataclass
class SampleData:
    """The samples of a run with one prefix, such as PACSRUN."""

    prefix: str = "PACSRUN"
    root: str = field(init=False)
    """The prefix of all UIDs."""
    _studies: dict[str, list[SampleInstance]] = field(default_factory=dict, init=False, repr=False)
    """The studies built so far, by label."""

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.prefix.encode()).digest()[:12]
        self.root = f"2.25.{int.from_bytes(digest, 'big')}."

    def __iter__(self) -> Iterator[SampleInstance]:
        for each in STUDIES:
            yield from self.study(each.label)

    def patient_id(self, number: str) -> str:
        """Return the Patient ID of a patient of the samples."""
        return f"{self.prefix}-{number}"

    def uid(self, *places: object) -> str:
        """Return the UID of a study, series or instance, given the label of the study and numbers from 1."""
        return self.root + ".".join(map(str, places))

    def label(self, study_uid: str) -> str:
        """Return the label of a study, '' if it does not belong to the samples."""
        return study_uid.removeprefix(self.root) if study_uid.startswith(self.root) else ""

    def study(self, label: str) -> list[SampleInstance]:
        """Return the instances of a study, which are not to be changed: they are built once."""
        if label not in self._studies:
            self._studies[label] = self._build(label)
        return self._studies[label]

    def _build(self, label: str) -> list[SampleInstance]:
        study = next(each for each in STUDIES if each.label == label)
        return [
            SampleInstance(self._instance(study, sop_class, place, number), study.syntax)
            for place, (sop_class, count) in enumerate(study.series, 1)
            for number in range(1, count + 1)
        ]

    def instance(self, label: str, series: int = 1, number: int = 1) -> SampleInstance:
        """Return one instance."""
        return next(each for each in self.study(label) if each.uid == self.uid(label, series, number))

    def probe(self, place: int, **attributes: Any) -> SampleInstance:
        """Return an instance for a check to store, in a study of its own under patient S; attributes are by keyword."""
        study = SampleStudy(str(100 + place), "S", "Pacsrun^Probe", "20200301", "120000", f"ACC-{100 + place}")
        dataset = self._instance(study, CT, 1, 1)
        for keyword, value in attributes.items():
            if value is None:
                del dataset[keyword]
            else:
                setattr(dataset, keyword, value)
        return SampleInstance(dataset)

    def _instance(self, study: SampleStudy, sop_class: str, series: int, number: int) -> Dataset:
        dataset = Dataset()
        if study.charset:
            dataset.SpecificCharacterSet = study.charset if isinstance(study.charset, str) else list(study.charset)
        self._describe(dataset, study)
        dataset.SOPClassUID = sop_class
        dataset.Modality = MODALITIES[sop_class]
        dataset.SOPInstanceUID = self.uid(study.label, series, number)
        dataset.SeriesInstanceUID = self.uid(study.label, series)
        dataset.SeriesNumber = series + 6
        dataset.InstanceNumber = number
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.RequestAttributesSequence = [_requested("S1", "R1"), _requested("S2", "R2")]
        private = dataset.private_block(0x0009, "PACS CONFORMANCE RUN", create=True)
        private.add_new(0x01, "LO", "a private value")
        private.add_new(0x02, "OB", b"\x00\x01\xfe\xff")
        _picture(dataset, 64 if study.label == "1" else 8, study.syntax)
        return dataset

    def _describe(self, dataset: Dataset, study: SampleStudy) -> None:
        dataset.PatientName = study.name
        dataset.PatientID = self.patient_id(study.patient)
        dataset.PatientBirthDate = "19700101"
        dataset.PatientSex = "O"
        dataset.StudyInstanceUID = self.uid(study.label)
        dataset.StudyDate = study.date
        dataset.StudyTime = study.time
        dataset.AccessionNumber = study.accession
        dataset.StudyID = study.id
        dataset.ReferringPhysicianName = "Welby^Marcus"
        if study.description:
            dataset.StudyDescription = study.description


def _requested(step: str, procedure: str) -> Dataset:
    item = Dataset()
    item.ScheduledProcedureStepID = step
    item.RequestedProcedureID = procedure
    return item


def _picture(dataset: Dataset, size: int, syntax: str) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = dataset.Columns = size
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    if syntax == RLE:
        dataset.add_new(0x7FE00010, "OB", _run_lengths(size * size))
        dataset["PixelData"].is_undefined_length = True
    else:
        dataset.add_new(0x7FE00010, "OW", b"\x10\x02" * size * size)


def _run_lengths(pixels: int) -> bytes:
    """Return a 16-bit frame of equal pixels in RLE (PS3.5 Annex G), after an empty Basic Offset Table."""
    assert pixels <= 128, "one run holds no more"
    runs = [bytes((257 - pixels, value)) for value in (0x02, 0x10)]
    head = b"".join(each.to_bytes(4, "little") for each in (2, 64, 66)).ljust(64, b"\0")
    frame = head + b"".join(runs)
    tag = b"\xfe\xff\x00\xe0"
    return tag + bytes(4) + tag + len(frame).to_bytes(4, "little") + frame
