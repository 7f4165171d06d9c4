"""What an instance said that is no more is said no more: the index is what the files are."""

import pytest

from pacs.dicom.levels import QueryLevel
from pacs.files.local import LocalFiles
from pacs.index import upkeep
from pacs.index.database import Index
from pacs.services.maintenance import Maintenance
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


def test_strangers_without_an_id_are_not_looked_at(house: House):
    """A patient who is known by a study alone is no relative of others who are."""
    one, other = series_of(1, 2, patient_id=""), series_of(2, 2, patient_id="")
    send(house.storage, *one, *other)
    removed = house.maintenance.instances({"StudyInstanceUID": one[0].StudyInstanceUID})
    assert [each.level.name for each in upkeep.parents(house.index, removed)] == ["PATIENT", "STUDY", "SERIES"]
