"""Parent rows after deletion and replacement: values that only a removed instance had are removed."""

from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pacs.cli.values import tag_of, text_value
from pacs.dicom.levels import USUAL_KEYS, QueryLevel
from pacs.files.local import LocalFiles
from pacs.index import removal
from pacs.index.database import Index
from pacs.services.maintenance import Maintenance
from pacs.services.reindex import Reindex
from pacs.services.storage import Storage
from tests.upkeep import rows, send, series_of


class RefreshSetup:
    """An empty archive that replaces duplicates, and access to its rows."""

    def __init__(self, index: Index, files: LocalFiles) -> None:
        self.index = index
        self.storage = Storage(index, files, duplicates="replace")
        self.maintenance = Maintenance(index, files)

    def delete(self, *datasets) -> None:
        """Delete instances."""
        for each in datasets:
            self.maintenance.delete(self.maintenance.instances({"SOPInstanceUID": each.SOPInstanceUID}))

    def study(self) -> dict[str, str]:
        """Return the values of the only study."""
        (found,) = self.listed(QueryLevel.STUDY)
        return found

    def patients(self) -> list[str]:
        """Return the IDs of all patients."""
        return [each["PatientID"] for each in self.listed(QueryLevel.PATIENT)]

    def listed(self, level: QueryLevel) -> list[dict[str, str]]:
        """Return the usual values of all entities of a level."""
        keys = USUAL_KEYS[level]
        found = self.maintenance.entities(level, dict.fromkeys(keys))
        return [{keyword: text_value(each, tag_of(keyword)) for keyword in keys} for each in found]


@pytest.fixture
def archive(index: Index, tmp_path) -> RefreshSetup:
    """An empty archive, on each kind of database."""
    return RefreshSetup(index, LocalFiles(tmp_path / "files"))


def test_the_wrong_name_of_one_image_goes_with_it(archive: RefreshSetup):
    """After its deletion the name of the others is stored; values that only it had are empty again."""
    first, *others = series_of(1, 3, patient="RIGHT^NAME", StudyDescription="")
    first.PatientName, first.StudyDescription = "WRONG^NAME", "WRONG"
    send(archive.storage, first, *others)
    assert archive.study()["PatientName"] == "WRONG^NAME"
    archive.delete(first)
    assert (archive.study()["PatientName"], archive.study()["StudyDescription"]) == ("RIGHT^NAME", "")


def test_a_study_sent_again_for_another_patient_moves_to_that_patient(archive: RefreshSetup):
    """All instances are replaced with a corrected Patient ID, and the wrong patient is gone."""
    study = series_of(1, 4, patient_id="WRONG")
    (other,) = series_of(2, 1, patient_id="RIGHT", patient="RIGHT^NAME")
    send(archive.storage, other, *study)
    for each in study:
        each.PatientID, each.PatientName = "RIGHT", "RIGHT^NAME"
    send(archive.storage, *study[1:])
    assert sorted(archive.patients()) == ["RIGHT", "WRONG"]
    send(archive.storage, study[0])
    assert archive.patients() == ["RIGHT"]
    assert len(archive.maintenance.instances({"PatientID": "RIGHT"})) == 5


def test_where_all_instances_agree_rows_are_not_changed(archive: RefreshSetup):
    """The rows of the remaining instances are as before."""
    study = series_of(1, 5)
    send(archive.storage, *study)
    before = rows(archive.index)
    archive.delete(*study[:2])
    after = rows(archive.index)
    assert {name: after[name] for name in ("patient", "study", "series")} == {
        name: before[name] for name in ("patient", "study", "series")
    }


class CountingFiles(LocalFiles):
    """A file store that counts opened files."""

    opened = 0

    def open(self, key: str) -> BinaryIO:
        """As ever."""
        self.opened += 1
        return super().open(key)


def test_replacing_a_study_does_not_read_all_files_for_each_instance(index: Index, tmp_path: Path):
    """Each replacement reads the replaced file and the oldest remaining one, whatever single images have alone.

    Only when such an image is replaced itself, all others are read once.
    """
    files = CountingFiles(tmp_path / "files")
    archive = RefreshSetup(index, files)
    study = series_of(1, 12)
    study[-1].StudyDescription, study[-1].PatientComments = "OF ONE ALONE", "OF ONE ALONE"
    for each in study[:-1]:
        del each.StudyDescription
    send(archive.storage, *study)
    before = rows(archive.index)
    for each in study:
        each.InstanceNumber += 100
    files.opened = 0
    send(archive.storage, *study)
    assert files.opened == 2 * len(study) + len(study) - 1
    after = rows(archive.index)
    assert {name: after[name] for name in ("patient", "study", "series")} == {
        name: before[name] for name in ("patient", "study", "series")
    }
    assert {instance.file_key for instance in archive.maintenance.instances({})} == set(files.keys())


def test_where_a_study_disagrees_the_oldest_remaining_instance_counts(archive: RefreshSetup):
    """A replaced instance is the newest: the values of the oldest of the others come first."""
    study = series_of(1, 4)
    for number, each in enumerate(study):
        each.StudyDescription = f"FROM {number}"
    del study[1].StudyDescription
    send(archive.storage, *study)
    assert archive.study()["StudyDescription"] == "FROM 0"
    study[0].InstanceNumber += 100
    send(archive.storage, study[0])
    assert archive.study()["StudyDescription"] == "FROM 2"


SAID = st.sampled_from([None, "", "A", "B"])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.lists(st.tuples(st.integers(0, 4), SAID, SAID, SAID), min_size=5, max_size=14))
def test_whatever_is_replaced_the_index_equals_a_rebuilt_one(index: Index, tmp_path: Path, sent: list):
    """Five instances that agree or not, sent in any order and again: reindex has nothing to correct."""
    with index.write() as connection:
        for table in ("image", "series", "study", "patient"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    files = LocalFiles(tmp_path / str(len(list(tmp_path.iterdir()))))
    archive = RefreshSetup(index, files)
    study = series_of(1, 5)
    for number, (place, *values) in enumerate(sent):
        each = study[place]
        each.InstanceNumber = number
        for keyword, value in zip(("PatientComments", "StudyDescription", "SeriesDescription"), values, strict=True):
            if value is None:
                each.pop(keyword, None)
            else:
                setattr(each, keyword, value)
        send(archive.storage, each)
    before = rows(index)
    assert Reindex(index, files, newest=True, grace=0).run().corrected == 0
    assert rows(index) == before


def test_values_missing_in_the_newer_instance_are_removed(archive: RefreshSetup):
    """A value removed, emptied or changed is no longer that of the study."""
    for number, value in enumerate((None, "", "CHANGED"), 1):
        study = series_of(number, 3)
        for each in study:
            del each.StudyDescription
        study[0].StudyDescription = "WRONG"
        send(archive.storage, *study)
        if value is None:
            del study[0].StudyDescription
        else:
            study[0].StudyDescription = value
        send(archive.storage, study[0])
    studies = archive.listed(QueryLevel.STUDY)
    assert sorted(each["StudyDescription"] for each in studies) == ["", "", "CHANGED"]


def test_patients_without_an_id_are_not_read(archive: RefreshSetup):
    """A patient known by a study alone is not related to others."""
    one, other = series_of(1, 2, patient_id=""), series_of(2, 2, patient_id="")
    send(archive.storage, *one, *other)
    removed = archive.maintenance.instances({"StudyInstanceUID": one[0].StudyInstanceUID})
    with archive.index.write() as connection:
        parents = removal.lock_parents(connection, removed)
    assert [each.level.name for each in parents] == ["PATIENT", "STUDY", "SERIES"]
