"""Adding and removing instances: identity, conflicts, merging, and concurrent senders."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import func, select

from pacs.dicom import row_elements
from pacs.errors import DuplicateInstance, InstanceUnreadable, StorageUnavailable
from pacs.index import writer
from pacs.index.database import Index
from pacs.index.tables import TABLES, image, patient, series, study
from tests.databases import opened
from tests.index.instances import dataset, instance_of, new_instance


def _counts(index: Index) -> tuple[int, ...]:
    with index.read() as connection:
        return tuple(
            connection.execute(select(func.count()).select_from(table)).scalar_one() for table in TABLES.values()
        )


def _column(index: Index, column):
    with index.read() as connection:
        return connection.execute(select(column).order_by(column)).scalars().all()


def test_an_instance_adds_a_row_at_every_level(index: Index):
    """One instance is one image of one series of one study of one patient, and is found again."""
    assert writer.add(index, new_instance()) == ()
    assert _counts(index) == (1, 1, 1, 1)
    found = writer.find(index, "1.2.1.1.1")
    assert found == writer.StoredInstance(
        sop_instance_uid="1.2.1.1.1",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        study_instance_uid="1.2.1",
        series_instance_uid="1.2.1.1",
        patient_id="P1",
        transfer_syntax="1.2.840.10008.1.2.1",
        file_key="2026/11/21/03/1.2.1.1.1.dcm",
        size=new_instance().size,
        digest="00" * 32,
        data_offset=500,
        bulk_offset=None,
    )
    assert writer.find(index, "1.2.3.4") is None


def test_a_known_instance_is_refused_and_leaves_no_trace(index: Index):
    """A second instance with the same UID is a duplicate, regardless of its patient."""
    writer.add(index, new_instance())
    with pytest.raises(DuplicateInstance):
        writer.add(index, new_instance(PatientID="P2", StudyInstanceUID="1.9", SeriesInstanceUID="1.9.1"))
    assert _counts(index) == (1, 1, 1, 1)


def test_k6_the_issuer_is_part_of_the_identity(index: Index):
    """The same Patient ID of two issuers is two patients; without an issuer it is a third."""
    for number, issuer in enumerate(("HOSPITAL", "CLINIC", None, "HOSPITAL"), 1):
        uid = f"1.2.{number}"
        writer.add(
            index,
            new_instance(number, StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.1", IssuerOfPatientID=issuer),
        )
    assert _counts(index) == (3, 4, 4, 4)
    assert _column(index, patient.c.issuer_of_patient_id) == ["", "CLINIC", "HOSPITAL"]


@pytest.mark.parametrize("unknown", [None, "", "  ", "A\\B"])
def test_k1_without_a_patient_id_each_study_has_its_own_patient(index: Index, unknown):
    """Without a valid Patient ID each study has its own patient, so that unknown patients are never merged."""
    for number, uid in enumerate(("1.2.1", "1.2.1", "1.2.2"), 1):
        named = dataset(number, StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.1", PatientID=None)
        if unknown is not None:
            named.PatientID = unknown
        assert writer.add(index, instance_of(named)) == ()
    assert _counts(index) == (2, 2, 2, 3)
    assert _column(index, patient.c.apart) == ["1.2.1", "1.2.2"]


def test_a_study_stays_with_its_first_patient(index: Index):
    """The image is in the study, no second patient is added, and the conflict names no patient."""
    writer.add(index, new_instance(1, PatientName="DOE^JOHN"))
    told = writer.add(index, new_instance(2, PatientID="P2", PatientName="ROE^JANE", PatientSex="F"))
    assert told == ("Study is known under another patient",)
    assert _counts(index) == (1, 1, 1, 2)
    assert _column(index, patient.c.patient_name) == ["doe^john"]
    assert _column(index, patient.c.patient_sex) == [None]


def test_a_series_stays_in_its_first_study(index: Index):
    """The image is in its series, no second study is added, and no elements of the other study are merged."""
    writer.add(index, new_instance(1))
    told = writer.add(index, new_instance(2, StudyInstanceUID="1.2.2", StudyDescription="KNEE"))
    assert told == ("Series is known under another study",)
    assert _counts(index) == (1, 1, 1, 2)
    assert _column(index, study.c.study_description) == [None]


def test_the_first_received_value_stays_and_empty_ones_are_filled(index: Index):
    """Later instances fill empty elements of patient, study and series, and change no others."""
    writer.add(index, new_instance(1, PatientName="DOE^JOHN", StudyDate="", Modality="CT"))
    writer.add(index, new_instance(2, PatientName="DOE^JACK", StudyDate="20200101", PatientSex="M", SeriesNumber=3))
    assert _column(index, patient.c.patient_name) == ["doe^john"]
    assert _column(index, patient.c.patient_sex) == ["M"]
    assert _column(index, study.c.study_date) == ["20200101"]
    assert _column(index, series.c.series_number) == [3]
    assert _column(index, series.c.modality) == ["CT"]
    (blob,) = _column(index, patient.c.kept)
    assert str(row_elements.decode(blob).PatientName) == "DOE^JOHN"


def test_a_lower_key_decides_although_it_is_added_later(index: Index):
    """The study moves to the patient of the lowest key, and the older value of an element replaces the newer one."""
    later = new_instance(2, PatientID="P2", StudyDescription="LATER", SeriesDescription="OF ONE ALONE")
    earlier = new_instance(1, PatientID="P1", StudyDescription="EARLIER")
    assert writer.add(index, later) == ()
    told = writer.add(index, earlier, {later.file_key: later.header}.__getitem__)
    assert told == ("Study is known under another patient",)
    assert _column(index, patient.c.patient_id) == ["P1"]
    assert _column(index, study.c.study_description) == ["EARLIER"]
    assert _column(index, series.c.series_description) == ["OF ONE ALONE"]


def test_an_instance_that_cannot_be_compared_is_not_added(index: Index):
    """When the file of another one cannot be read, nothing is committed."""
    writer.add(index, new_instance(2, PatientID="P2"))

    def failing(_key: str):
        raise StorageUnavailable("the disk fails")

    with pytest.raises(StorageUnavailable):
        writer.add(index, new_instance(1), failing)
    assert _counts(index) == (1, 1, 1, 1)
    assert _column(index, patient.c.patient_id) == ["P2"]


def test_k5_computed_elements_of_an_instance_are_not_kept(index: Index):
    """Received numbers of related instances are not in the row."""
    writer.add(index, new_instance(1, NumberOfStudyRelatedInstances=99, ModalitiesInStudy="MR"))
    (blob,) = _column(index, study.c.kept)
    assert set(row_elements.decode(blob).keys()) == {0x0020000D}


def test_a_value_that_does_not_fit_its_column_makes_its_row_irregular(index: Index):
    """Several values, an invalid date or a too long text leave the column NULL and mark the row."""
    writer.add(index, new_instance(1, StudyDescription="X" * 5000))
    with index.read() as connection:
        row = connection.execute(select(study.c.study_description, study.c.irregular)).one()
    assert tuple(row) == (None, True)


def test_long_identifiers_in_any_script_can_be_indexed(index: Index):
    """The longest Patient ID, issuer and name of a column, in characters that do not compress."""
    long = "".join(chr(0x4E00 + (number * 7919) % 20000) for number in range(340))
    writer.add(index, new_instance(PatientID=long, IssuerOfPatientID=long[::-1], PatientName=long))
    assert _column(index, patient.c.patient_id) == [long]


def test_replace_puts_the_new_instance_in_place_of_the_old(index: Index):
    """The old instance is returned so that its file can be deleted; there is still one image."""
    writer.add(index, new_instance(1, PatientName="OLD"))
    newer = instance_of(dataset(1, PatientName="NEW"), file_key="2026/11/21/04/newer.dcm")
    former = writer.replace(index, newer, "2026/11/21/03/1.2.1.1.1.dcm")
    assert former.file_key == "2026/11/21/03/1.2.1.1.1.dcm"
    found = writer.find(index, "1.2.1.1.1")
    assert found is not None
    assert found.file_key == "2026/11/21/04/newer.dcm"
    assert _counts(index) == (1, 1, 1, 1)
    assert _column(index, patient.c.patient_name) == ["new"]


def test_replacing_a_missing_instance_changes_nothing(index: Index):
    """It raises, and the caller may add the instance."""
    with pytest.raises(InstanceUnreadable):
        writer.replace(index, new_instance(), "2026/11/21/03/1.2.1.1.1.dcm")
    assert _counts(index) == (0, 0, 0, 0)


def test_an_instance_that_was_replaced_meanwhile_is_not_replaced(index: Index):
    """Whoever has looked at another file than the row has now looks again."""
    writer.add(index, new_instance(1))
    with pytest.raises(InstanceUnreadable):
        writer.replace(index, instance_of(dataset(1), file_key="newer"), "2026/11/21/03/older.dcm")
    assert _column(index, image.c.file_key) == ["2026/11/21/03/1.2.1.1.1.dcm"]


def test_remove_also_removes_parents_without_children(index: Index):
    """The last image of a series removes the series, the last of a study the study and patient; others stay."""
    writer.add(index, new_instance(1))
    writer.add(index, new_instance(2))
    writer.add(index, new_instance(3, SeriesInstanceUID="1.2.1.2"))
    writer.add(index, new_instance(4, PatientID="P2", StudyInstanceUID="1.2.2", SeriesInstanceUID="1.2.2.1"))
    assert [each.sop_instance_uid for each in writer.remove(index, ["1.2.1.1.1", "1.2.1.1.3", "1.1.1"])] == [
        "1.2.1.1.1",
        "1.2.1.1.3",
    ]
    assert _counts(index) == (2, 2, 2, 2)
    writer.remove(index, ["1.2.1.1.2", "1.2.1.1.4"])
    assert _counts(index) == (0, 0, 0, 0)
    assert writer.remove(index, []) == []


def test_touch_sets_the_last_use(index: Index):
    """Only the given instances have a last use afterwards, in microseconds."""
    writer.add(index, new_instance(1))
    writer.add(index, new_instance(2))
    writer.touch(index, ["1.2.1.1.2"], 1_795_000_000_000_001)
    with index.read() as connection:
        used = connection.execute(select(image.c.last_used_at).order_by(image.c.sop_instance_uid)).scalars().all()
    assert used == [None, 1_795_000_000_000_001]


# --- many at once ------------------------------------------------------------------------------------------------

SENDERS = 32


def test_32_threads_with_the_first_instances_of_a_patient_make_one_patient(index: Index):
    """One patient, one study, one series and an image for each sender."""
    new_instances = [new_instance(number, PatientName="DOE^JOHN") for number in range(1, SENDERS + 1)]
    barrier = Barrier(SENDERS)

    def send(each: writer.NewInstance) -> tuple[str, ...]:
        barrier.wait()
        return writer.add(index, each)

    with ThreadPoolExecutor(SENDERS) as pool:
        assert list(pool.map(send, new_instances)) == [()] * SENDERS
    assert _counts(index) == (1, 1, 1, SENDERS)


def test_of_concurrent_senders_of_one_instance_one_adds_it_and_the_others_fail(index: Index):
    """One sender adds the SOP Instance UID; each of the others gets DuplicateInstance."""
    barrier = Barrier(8)

    def send(number: int) -> bool:
        each = instance_of(dataset(1), file_key=f"2026/11/21/03/{number}.dcm")
        barrier.wait()
        try:
            writer.add(index, each)
        except DuplicateInstance:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(send, range(8))) == 1
    assert _counts(index) == (1, 1, 1, 1)


def test_concurrent_adding_and_removing_leaves_no_childless_parent(index: Index):
    """Senders and removers work on one series, and only parents with children remain."""

    def come_and_go(sender: int) -> None:
        for number in range(5):
            uid = f"1.2.1.1.{sender}{number}"
            writer.add(index, new_instance(SOPInstanceUID=uid, PatientComments="x" if number % 2 else None))
            writer.remove(index, [uid])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(come_and_go, range(1, 7)))
    assert _counts(index) == (0, 0, 0, 0)


SENDER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pacs.index import writer
from pacs.index.database import Index
from tests.index.instances import new_instance

index = Index(sys.argv[1])
new_instances = [new_instance(int(number)) for number in sys.argv[2:]]
print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(8) as pool:
    assert list(pool.map(lambda each: writer.add(index, each), new_instances)) == [()] * 8
index.close()
"""


def test_senders_in_separate_processes_make_one_patient(database_url: str):
    """Four processes of eight senders at once on a patient's first instances: one patient, one study, one series."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SENDER, database_url, *map(str, range(first, first + 8))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in range(1, 33, 8)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[1] or process.returncode for process in processes] == [0] * 4
    with opened(database_url) as index:
        assert _counts(index) == (1, 1, 1, 32)
