"""Helpers for tests of maintenance: an archive with various instances, and all rows of its index."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from pydicom import Dataset
from sqlalchemy import select

from pacs import testing
from pacs.errors import PacsError
from pacs.files.local import LocalFiles
from pacs.index.database import Index
from pacs.index.tables import image, patient, series, study
from pacs.services.maintenance import Maintenance
from pacs.services.storage import Storage
from tests import raw, real_files

IDENTITY = [patient.c.patient_id, patient.c.issuer_of_patient_id, patient.c.apart]
SMALL = 20_000
"""Maximum size of the stored real files in bytes."""

SURROGATES = {"id", "patient_fk", "study_fk", "series_fk"}


def rows(index: Index, *, used: bool = True) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table without surrogate keys, behind what identifies the row above it.

    Without `used` also without when an instance was used last.
    """
    hidden = SURROGATES | (set() if used else {"last_used_at"})
    above = {
        patient: (patient, []),
        study: (study.join(patient), IDENTITY),
        series: (series.join(study), [study.c.study_instance_uid]),
        image: (image.join(series), [series.c.series_instance_uid]),
    }
    with index.read() as connection:
        return {
            table.name: sorted(
                map(tuple, connection.execute(
                    select(*parent, *(each for each in table.c if each.name not in hidden)).select_from(joined)
                )),
                key=repr,
            )
            for table, (joined, parent) in above.items()
        }  # fmt: skip


def send(storage: Storage, *datasets: Dataset) -> None:
    """Store data sets as a C-STORE would."""
    for each in datasets:
        with storage.receive(each.SOPClassUID, each.SOPInstanceUID, raw.EXPLICIT, "MODALITY") as reception:
            reception.write(raw.encoded(each, raw.EXPLICIT))
            reception.finish()


def series_of(number: int, instances: int = 3, **attributes: Any) -> list[Dataset]:
    """Return the data sets of one study with one series."""
    return testing.study(series=1, instances=instances, number=number, **attributes)


def populate(index: Index, files: LocalFiles) -> Storage:
    """Store the small real files and the instances of `mix`; return the storage service."""
    storage = Storage(index, files, duplicates="replace")
    for path in real_files.FILES:
        if path.stat().st_size < SMALL:
            with suppress(PacsError):
                storage.import_file(path)
    mix(index, files, storage)
    return storage


def mix(index: Index, files: LocalFiles, storage: Storage) -> None:
    """Store instances that disagree, are replaced, or are deleted."""
    disagree(storage)
    delete_some(index, files, storage)


def disagree(storage: Storage) -> None:
    """Store instances of one study with different attributes of patient, study and series."""
    first, second, third = series_of(1, patient_id="DISAGREES", StudyDescription="", BodyPartExamined="")
    second.PatientName, second.StudyDescription, second.SeriesDescription = "OTHER^NAME", "FILLED", "OTHER"
    third.PatientID, third.BodyPartExamined = "SOMEBODY ELSE", "CHEST"
    (elsewhere,) = series_of(2, 1, patient_id="DISAGREES")
    elsewhere.SeriesInstanceUID = first.SeriesInstanceUID
    (nobody,) = series_of(3, 1, patient_id="")
    (foreign,) = series_of(4, 1, patient="Müller^Jörg", patient_id="ÄÖ", character_set="ISO_IR 100")
    (odd,) = series_of(5, 1, patient_id="ODD", StudyDescription="X" * 3000)
    send(storage, first, second, third, elsewhere, nobody, foreign, odd)


def delete_some(index: Index, files: LocalFiles, storage: Storage) -> None:
    """Delete a study, and of another one delete the first instance and replace the last."""
    gone, left = series_of(6, patient_id="GONE"), series_of(7, patient_id="LEFT")
    send(storage, *gone, *left)
    maintenance = Maintenance(index, files)
    maintenance.delete(maintenance.instances({"PatientID": "GONE"}))
    maintenance.delete(maintenance.instances({"SOPInstanceUID": left[0].SOPInstanceUID}))
    left[2].InstanceNumber = 77
    send(storage, left[2])
    wrong = series_of(8, 4, patient_id="WRONG", patient="WRONG^NAME", StudyDescription="WRONG", StationName="ONE")
    wrong[2].StationName = "TWO"
    for each in wrong[1:]:
        each.PatientID, each.PatientName, each.StudyDescription = "RIGHT", "RIGHT^NAME", ""
    send(storage, *wrong)
    maintenance.delete(maintenance.instances({"SOPInstanceUID": wrong[0].SOPInstanceUID}))


def tree(root: Path) -> dict[str, bytes]:
    """Return the content of every stored file of an archive by key."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("[0-9]*/*/*/*/*") if path.is_file()}
