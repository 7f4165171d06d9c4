"""Listing and deleting instances."""

from collections.abc import Sequence
from pathlib import Path

import pydicom
import pytest

from pacs.dicom.levels import USUAL_KEYS, QueryLevel
from pacs.errors import IdentifierError, InvalidArgument, StorageUnavailable
from pacs.files.local import LocalFiles
from pacs.index import writer
from pacs.index.database import Index
from pacs.observability.events import Event, Notice
from pacs.services.maintenance import Maintenance
from pacs.services.storage import Storage
from tests import real_files
from tests.services.test_storage import FailingFiles

NAMES = ("CT_small.dcm", "MR_small.dcm", "rtplan.dcm", "test-SR.dcm")


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    """The file store."""
    return LocalFiles(tmp_path / "files")


@pytest.fixture
def datasets(index: Index, files: LocalFiles) -> Sequence[pydicom.Dataset]:
    """The data sets in the archive."""
    storage = Storage(index, files)
    for name in NAMES:
        storage.import_file(real_files.named(name))
    return [pydicom.dcmread(real_files.named(name)) for name in NAMES]


@pytest.fixture
def maintenance(index: Index, files: LocalFiles, datasets: Sequence[pydicom.Dataset]) -> Maintenance:
    """The service over an archive with four instances of four patients."""
    return Maintenance(index, files)


@pytest.mark.parametrize("level", QueryLevel)
def test_everything_is_listed_at_every_level(maintenance: Maintenance, datasets, level: QueryLevel):
    """Each entity once, with the attributes that are asked for."""
    found = list(maintenance.entities(level, dict.fromkeys(USUAL_KEYS[level])))
    assert len(found) == 4
    assert all(keyword in each for each in found for keyword in USUAL_KEYS[level])
    assert {each.PatientID for each in found} == {each.PatientID for each in datasets}


def test_listed_values_are_those_of_the_instances(maintenance: Maintenance, datasets):
    """Names, dates and counts."""
    keys = {"PatientName": "CompressedSamples^CT1"} | dict.fromkeys(USUAL_KEYS[QueryLevel.STUDY][3:])
    (study,) = maintenance.entities(QueryLevel.STUDY, keys)
    ct = datasets[0]
    assert study.StudyInstanceUID == ct.StudyInstanceUID
    assert study.StudyDate == ct.StudyDate
    assert study.ModalitiesInStudy == "CT"
    assert study.NumberOfStudyRelatedInstances == 1


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        ({}, 4),
        ({"PatientName": "compressed*"}, 2),
        ({"PatientID": "1CT1"}, 1),
        ({"StudyDate": "20040101-20041231"}, 2),
        ({"Modality": "CT\\MR"}, 2),
        ({"PatientID": "nobody"}, 0),
        ({"PatientID": "1CT1", "Modality": "MR"}, 0),
        ({"Rows": 128}, 1),
        ({"Columns": "64\\128"}, 2),
        ({"SamplesPerPixel": "1"}, 2),
        ({"KVP": "120"}, 1),
        ({"KVP": "120", "Rows": "64"}, 0),
        ({"StudyDate": "2004-01-19"}, 1),
        ({"StudyDate": "20050101-20040101"}, 0),
        ({"ModalitiesInStudy": "MR"}, 1),
    ],
)
def test_a_selection_matches_as_a_query_does(maintenance: Maintenance, selection: dict[str, str], count: int):
    """Wild cards, ranges, lists, several keys together, binary numbers, and keys that only the files have."""
    assert len(maintenance.instances(selection)) == count


@pytest.mark.parametrize(
    "selection",
    [
        {"PatientsName": "X"}, {"PatientID": ""}, {"PatientID": "*"}, {"PixelData": "x"}, {"PixelData": b"x"},
        {"\x1b[31m": "x"}, {"SpecificCharacterSet": "ISO_IR 100"}, {"TimezoneOffsetFromUTC": "+0100"},
        {"InstanceAvailability": "ONLINE"}, {"0009,1001": "x"}, {"PatientID": "1CT1", "StudyID": ""},
        {"ReferencedStudySequence": [{}]}, {"ReferencedStudySequence.PixelData": b"x"}, {"StudyDate": "yesterday"},
    ],
)  # fmt: skip
def test_a_selection_that_would_be_ignored_is_refused(maintenance: Maintenance, selection: dict[str, str]):
    """A key that cannot select must never select everything."""
    with pytest.raises((IdentifierError, InvalidArgument)) as refused:
        maintenance.instances(selection)
    assert refused.value.comment.isprintable()


def test_a_listing_refuses_keys_that_a_query_of_its_level_ignores(maintenance: Maintenance):
    """With a value or without."""
    for level, keys in ((QueryLevel.STUDY, {"Modality": "CT"}), (QueryLevel.SERIES, {"KVP": ""})):
        with pytest.raises(IdentifierError, match="is no key of"):
            maintenance.entities(level, keys)


def test_deleted_instances_are_gone_with_their_files_and_parents(
    maintenance: Maintenance, files: LocalFiles, index: Index
):
    """Rows, files and patients without children; the others stay."""
    chosen = maintenance.instances({"Modality": "CT\\MR"})
    done: list[int] = []
    assert maintenance.delete(chosen, done.append) == 2
    assert sum(done) == 2
    assert [writer.find(index, each.sop_instance_uid) for each in chosen] == [None, None]
    assert len(list(files.keys())) == 2
    assert len(list(maintenance.entities(QueryLevel.PATIENT, {}))) == 2


def test_deleting_twice_does_no_harm(maintenance: Maintenance):
    """Instances that are gone already are not counted."""
    chosen = maintenance.instances({"Modality": "CT"})
    assert (maintenance.delete(chosen), maintenance.delete(chosen)) == (1, 0)


def test_a_file_that_cannot_be_deleted_is_reported(index: Index, files: LocalFiles, maintenance: Maintenance):
    """The row is gone, and a notice names the file that is left."""
    events: list[Event] = []
    failing = FailingFiles(files, "delete", StorageUnavailable("no"))
    chosen = maintenance.instances({"Modality": "CT"})
    assert Maintenance(index, failing, publish=events.append).delete(chosen) == 1
    (event,) = events
    assert isinstance(event, Notice)
    assert chosen[0].file_key in event.sentence
