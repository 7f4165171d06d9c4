"""What an instance said that is no more is said no more: the index is what the files are."""

from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pacs.dicom.levels import QueryLevel
from pacs.files.local import LocalFiles
from pacs.index import upkeep
from pacs.index.database import Index
from pacs.services.maintenance import Maintenance
from pacs.services.reindex import Reindex
from pacs.services.storage import Storage
from tests.upkeep import rows, send, series_of


class House:
    """An empty archive that replaces, and what it says."""

    def __init__(self, index: Index, files: LocalFiles) -> None:
        self.index = index
        self.storage = Storage(index, files, duplicates="replace")
        self.maintenance = Maintenance(index, files)

    def delete(self, *datasets) -> None:
        """Delete instances."""
        for each in datasets:
            self.maintenance.delete(self.maintenance.instances({"SOPInstanceUID": each.SOPInstanceUID}))

    def study(self) -> dict[str, str]:
        """What is said of the only study."""
        (found,) = self.maintenance.entities(QueryLevel.STUDY, {})
        return found

    def patients(self) -> list[str]:
        """The IDs of all patients."""
        return [each["PatientID"] for each in self.maintenance.entities(QueryLevel.PATIENT, {})]


@pytest.fixture
def house(index: Index, tmp_path) -> House:
    """An empty archive, on each kind of database."""
    return House(index, LocalFiles(tmp_path / "files"))


def test_the_wrong_name_of_one_image_goes_with_it(house: House):
    """Once it is deleted the others' is said; what it alone had filled is empty again."""
    first, *others = series_of(1, 3, patient="RIGHT^NAME", StudyDescription="")
    first.PatientName, first.StudyDescription = "WRONG^NAME", "WRONG"
    send(house.storage, first, *others)
    assert house.study()["PatientName"] == "WRONG^NAME"
    house.delete(first)
    assert (house.study()["PatientName"], house.study()["StudyDescription"]) == ("RIGHT^NAME", "")


def test_a_study_that_is_sent_again_for_another_patient_is_that_patients_then(house: House):
    """Every instance replaced under a corrected Patient ID: the study moves, and the wrong patient is gone."""
    study = series_of(1, 4, patient_id="WRONG")
    (other,) = series_of(2, 1, patient_id="RIGHT", patient="RIGHT^NAME")
    send(house.storage, other, *study)
    for each in study:
        each.PatientID, each.PatientName = "RIGHT", "RIGHT^NAME"
    send(house.storage, *study[1:])
    assert sorted(house.patients()) == ["RIGHT", "WRONG"]
    send(house.storage, study[0])
    assert house.patients() == ["RIGHT"]
    assert len(house.maintenance.instances({"PatientID": "RIGHT"})) == 5


def test_where_all_agree_nothing_is_written_but_what_goes(house: House):
    """Rows of those that stay are as they were."""
    study = series_of(1, 5)
    send(house.storage, *study)
    before = rows(house.index)
    house.delete(*study[:2])
    after = rows(house.index)
    assert {name: after[name] for name in ("patient", "study", "series")} == {
        name: before[name] for name in ("patient", "study", "series")
    }


class Counting(LocalFiles):
    """Files that count how often one of them is opened."""

    opened = 0

    def open(self, key: str) -> BinaryIO:
        """As ever."""
        self.opened += 1
        return super().open(key)


def test_a_study_that_is_sent_again_does_not_read_all_files_for_each(index: Index, tmp_path: Path):
    """Whatever one image alone says, each costs a look at the file that goes and one at the oldest that is left.

    Only when that image itself is sent again all others are asked, once.
    """
    files = Counting(tmp_path / "files")
    house = House(index, files)
    study = series_of(1, 12)
    study[-1].StudyDescription, study[-1].PatientComments = "OF ONE ALONE", "OF ONE ALONE"
    for each in study[:-1]:
        del each.StudyDescription
    send(house.storage, *study)
    before = rows(house.index)
    for each in study:
        each.InstanceNumber += 100
    files.opened = 0
    send(house.storage, *study)
    assert files.opened == 2 * len(study) + len(study) - 1
    after = rows(house.index)
    assert {name: after[name] for name in ("patient", "study", "series")} == {
        name: before[name] for name in ("patient", "study", "series")
    }
    assert {instance.file_key for instance in house.maintenance.instances({})} == set(files.keys())


def test_where_a_study_disagrees_what_was_sent_again_is_said_by_the_next(house: House):
    """The one that is sent again is the newest then: what the oldest of the others says comes first."""
    study = series_of(1, 4)
    for number, each in enumerate(study):
        each.StudyDescription = f"FROM {number}"
    del study[1].StudyDescription
    send(house.storage, *study)
    assert house.study()["StudyDescription"] == "FROM 0"
    study[0].InstanceNumber += 100
    send(house.storage, study[0])
    assert house.study()["StudyDescription"] == "FROM 2"


SAID = st.sampled_from([None, "", "A", "B"])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.lists(st.tuples(st.integers(0, 4), SAID, SAID, SAID), min_size=5, max_size=14))
def test_whatever_is_replaced_by_what_the_index_is_what_the_files_say(index: Index, tmp_path: Path, sent: list):
    """Five instances that agree or do not, sent in any order and again: reindex has nothing to correct."""
    with index.write() as connection:
        for table in ("image", "series", "study", "patient"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    files = LocalFiles(tmp_path / str(len(list(tmp_path.iterdir()))))
    house = House(index, files)
    study = series_of(1, 5)
    for number, (place, *values) in enumerate(sent):
        each = study[place]
        each.InstanceNumber = number
        for keyword, value in zip(("PatientComments", "StudyDescription", "SeriesDescription"), values, strict=True):
            if value is None:
                each.pop(keyword, None)
            else:
                setattr(each, keyword, value)
        send(house.storage, each)
    before = rows(index)
    assert Reindex(index, files, newest=True, grace=0).run().corrected == 0
    assert rows(index) == before


def test_what_the_newer_one_does_not_say_any_more_goes(house: House):
    """A value taken away, emptied or changed is no more said of the study."""
    for number, value in enumerate((None, "", "CHANGED"), 1):
        study = series_of(number, 3)
        for each in study:
            del each.StudyDescription
        study[0].StudyDescription = "WRONG"
        send(house.storage, *study)
        if value is None:
            del study[0].StudyDescription
        else:
            study[0].StudyDescription = value
        send(house.storage, study[0])
    said = house.maintenance.entities(QueryLevel.STUDY, {})
    assert sorted(each["StudyDescription"] for each in said) == ["", "", "CHANGED"]


def test_strangers_without_an_id_are_not_looked_at(house: House):
    """A patient who is known by a study alone is no relative of others who are."""
    one, other = series_of(1, 2, patient_id=""), series_of(2, 2, patient_id="")
    send(house.storage, *one, *other)
    removed = house.maintenance.instances({"StudyInstanceUID": one[0].StudyInstanceUID})
    assert [each.level.name for each in upkeep.parents(house.index, removed)] == ["PATIENT", "STUDY", "SERIES"]
