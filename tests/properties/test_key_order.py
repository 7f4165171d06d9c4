"""The index is a function of the files: whatever the order in which they are added, removed and replaced.

A plain model says what the rows have to be: the lowest file key decides the study of a series and the patient of a
study; the first value of an element that is not empty counts.
"""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from sqlalchemy import select

from pacs.dicom import part10, row_elements
from pacs.dicom.levels import QueryLevel
from pacs.files.local import LocalFiles
from pacs.index import writer
from pacs.index.database import Index
from pacs.index.tables import TABLES, image, patient, series, study
from pacs.services.maintenance import Maintenance
from pacs.services.orphans import adopt
from pacs.services.parent_refresh import refresh
from pacs.services.reindex import Reindex
from pacs.services.stored_file import headers_of, read_stored_file
from tests import raw
from tests.index.instances import CT, dataset
from tests.upkeep import rows

PATIENT, STUDY, SERIES, IMAGE = QueryLevel

SAID = {PATIENT: "PatientComments", STUDY: "StudyDescription", SERIES: "SeriesDescription"}
"""The element of each level about which instances may disagree."""

VALUES = st.sampled_from([None, "", "A", "B", "C"])

INSTANCES = st.fixed_dictionaries(
    {
        "PatientID": st.sampled_from(["P1", "P1", "P1", "P1", "P2", "P3", ""]),
        "StudyInstanceUID": st.sampled_from(["1.2.1", "1.2.1", "1.2.1", "1.2.1", "1.2.2", "1.2.3"]),
        "SeriesInstanceUID": st.sampled_from(["1.3.1", "1.3.1", "1.3.2", "1.3.3"]),
        "SOPInstanceUID": st.integers(1, 7).map("1.4.{}".format),
        **dict.fromkeys(SAID.values(), VALUES),
    }
)
"""What an instance says; several may have the same SOP Instance UID."""

STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "add", "remove", "replace"]), st.integers(0, 99)), max_size=16
)


class Archive:
    """An index, and files that were all committed before any of them is added to it."""

    def __init__(self, index: Index, root: Path, said: list[dict[str, Any]]) -> None:
        self.index, self.files, self.root = index, LocalFiles(root), root
        self.said = dict(zip(map(key, range(len(said))), said, strict=True))
        self.added: dict[str, str] = {}
        """SOP Instance UIDs of the index, with the keys of their files."""
        for name, elements in self.said.items():
            write(root / name, dataset(**elements))
        with index.write() as connection:
            for table in reversed(TABLES.values()):
                connection.execute(table.delete())

    def do(self, step: str, number: int) -> None:
        """Add a file, remove an instance, or replace one by another file with it."""
        name = list(self.said)[number % len(self.said)]
        uid = self.said[name]["SOPInstanceUID"]
        known = self.added.get(uid)
        if not (self.root / name).exists():
            return
        if step == "add" and known is None:
            adopt(self.index, self.files, name)
            self.added[uid] = name
        elif step == "remove" and known is not None:
            Maintenance(self.index, self.files).delete(writer.find_all(self.index, [uid]))
            del self.added[uid]
        elif step == "replace" and known not in (None, name):
            former = writer.replace(self.index, read_stored_file(self.files, name), known, headers_of(self.files))
            header = headers_of(self.files)(former.file_key)
            self.files.delete(former.file_key)
            refresh(self.index, self.files, [former], header)
            self.added[uid] = name

    def check(self) -> None:
        """Check that the rows are those of the model."""
        assert placed(self.index) == model([self.said[name] | {"key": name} for name in sorted(self.added.values())])

    def check_rebuilt(self) -> None:
        """Check that a new index from the files would have the same rows, and that reindex says so."""
        for name in set(self.said) - set(self.added.values()):
            (self.root / name).unlink(missing_ok=True)
        before = rows(self.index)
        done = Reindex(self.index, self.files, grace=0).run()
        assert (done.added, done.corrected, done.removed, rows(self.index)) == (0, 0, 0, before)


def key(number: int) -> str:
    """Return a file key; a higher number has a higher key."""
    return f"2026/11/21/03/00000000-0000-7000-8000-{number:012x}.dcm"


def write(path: Path, elements: Dataset) -> None:
    """Write a file as the archive does."""
    body = raw.encoded(elements, raw.EXPLICIT)
    meta = part10.build_file_meta(CT, elements.SOPInstanceUID, raw.EXPLICIT, "TEST", received_at=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(part10.with_digest(meta, sha256(body).hexdigest()) + body)


# --- the model ----------------------------------------------------------------------------------------------------

Placed = dict[QueryLevel, dict[Any, Any]]
"""For each level what identifies a row, with what identifies the row above it, and the value of `SAID`."""


def model(said: list[dict[str, Any]]) -> Placed:
    """Return the rows that instances make, in the order of their keys."""
    study_of: dict[str, str] = {}
    for each in said:
        study_of.setdefault(each["SeriesInstanceUID"], each["StudyInstanceUID"])
    at_home = [each for each in said if study_of[each["SeriesInstanceUID"]] == each["StudyInstanceUID"]]
    patient_of: dict[str, tuple[str, str]] = {}
    for each in at_home:
        patient_of.setdefault(each["StudyInstanceUID"], whose(each))
    own = [each for each in at_home if patient_of[each["StudyInstanceUID"]] == whose(each)]
    return {
        PATIENT: {one: (None, value(PATIENT, [each for each in own if whose(each) == one])) for one in map(whose, own)},
        STUDY: {
            uid: (above, value(STUDY, [each for each in at_home if each["StudyInstanceUID"] == uid]))
            for uid, above in patient_of.items()
        },
        SERIES: {
            uid: (above, value(SERIES, [each for each in said if each["SeriesInstanceUID"] == uid]))
            for uid, above in study_of.items()
        },
        IMAGE: {each["SOPInstanceUID"]: (each["SeriesInstanceUID"], each["key"]) for each in said},
    }


def whose(said: dict[str, Any]) -> tuple[str, str]:
    """Return what identifies the patient of an instance."""
    return said["PatientID"], "" if said["PatientID"] else said["StudyInstanceUID"]


def value(level: QueryLevel, said: list[dict[str, Any]]) -> str | None:
    """Return the first value that is not empty; None when the element is in no instance."""
    values = [each[SAID[level]] for each in said if each[SAID[level]] is not None]
    return next((each for each in values if each), "" if values else None)


def placed(index: Index) -> Placed:
    """Return the rows of an index as the model does; check that their columns have the values of their elements."""
    found: Placed = {}
    with index.read() as connection:
        for level, identity, above, joined in (
            (PATIENT, (patient.c.patient_id, patient.c.apart), (), patient),
            (STUDY, (study.c.study_instance_uid,), (patient.c.patient_id, patient.c.apart), study.join(patient)),
            (SERIES, (series.c.series_instance_uid,), (study.c.study_instance_uid,), series.join(study)),
        ):
            chosen = select(*identity, *above, TABLES[level].c.kept).select_from(joined)
            found[level] = {
                _one(each[: len(identity)]): (_one(each[len(identity) : -1]), _value(level, each[-1]))
                for each in connection.execute(chosen)
            }
            for each in connection.execute(select(TABLES[level])).mappings():
                expected = row_elements.columns(level, each["kept"])
                assert {name: each[name] for name in expected if name != "patient_id"} == {
                    name: text for name, text in expected.items() if name not in ("patient_id", "issuer_of_patient_id")
                } | ({"issuer_of_patient_id": ""} if level is PATIENT else {})
        images = select(image.c.sop_instance_uid, series.c.series_instance_uid, image.c.file_key)
        rest = connection.execute(images.select_from(image.join(series)))
        found[IMAGE] = {uid: (above, name) for uid, above, name in rest}
    return found


def _one(values: tuple[Any, ...]) -> Any:
    return tuple(values) if len(values) > 1 else values[0] if values else None


def _value(level: QueryLevel, kept: bytes) -> str | None:
    element = row_elements.decode(kept).get(SAID[level])
    return element if element is None else str(element)


# --- the property -------------------------------------------------------------------------------------------------


@pytest.fixture
def archive_of(index: Index, tmp_path: Path) -> Callable[[list[dict[str, Any]]], Archive]:
    """Return a function that makes an archive with an empty index and files."""
    made = iter(range(1_000_000))

    return lambda said: Archive(index, tmp_path / f"files{next(made)}", said)


def check(archive: Archive, steps: list[tuple[str, int]]) -> None:
    """Check the rows after each step."""
    for step in steps:
        archive.do(*step)
        archive.check()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(said=st.lists(INSTANCES, min_size=3, max_size=8), steps=STEPS)
def test_the_rows_are_those_of_the_files_in_the_order_of_their_keys(archive_of, said, steps):
    """Instances that disagree about patient, study and elements, added in any order, removed and replaced."""
    check(archive_of(said), steps)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(said=st.lists(INSTANCES, min_size=3, max_size=8), steps=STEPS)
def test_they_are_on_postgresql_too(archive_of, said, steps):
    """The same on PostgreSQL, which takes longer."""
    check(archive_of(said), steps)


@pytest.mark.long
@pytest.mark.timeout(1800)
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(said=st.lists(INSTANCES, min_size=2, max_size=14), steps=STEPS)
def test_the_rows_are_those_of_the_files_in_the_order_of_their_keys_at_length(archive_of, said, steps):
    """The same with many more instances."""
    check(archive_of(said), steps)


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(said=st.lists(INSTANCES, min_size=5, max_size=10), steps=STEPS)
def test_reindex_has_nothing_to_correct(archive_of, said, steps):
    """Whatever was added, removed and replaced in whatever order."""
    archive = archive_of(said)
    for step in steps:
        archive.do(*step)
    archive.check_rebuilt()
