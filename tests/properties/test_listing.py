"""`pacs ls`, `delete` and `export` select what a C-FIND with the same keys finds: every VR, level and database."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click
import pytest
from pydicom import Dataset
from pydicom.datadict import DicomDictionary, dictionary_VR

from pacs import client
from pacs.cli.matching_keys import Selects, query_arguments
from pacs.dicom.attributes import ATTRIBUTES, NOT_KEYS, Attribute, Kept, attribute
from pacs.dicom.dataset import AMBIGUOUS
from pacs.dicom.identifier import BULK
from pacs.dicom.levels import QueryLevel
from pacs.errors import IdentifierError, OperationFailed
from pacs.testing import PacsServer, serving, study
from tests.databases import KINDS, fresh_database

VALUES: dict[str, tuple[str, str, str]] = {
    "AE": ("SCANNER 1", "scanner 1", "PACS"),
    "AS": ("030Y", "006M", "030M"),
    "AT": ("00100010", "00100020", "00280010"),
    "CS": ("CODE_1", "CODE_2", "OTHER"),
    "DA": ("20240131", "20240201", "19991231"),
    "DS": ("1.5", "-2", "10"),
    "DT": ("20240131120000", "20240201", "19991231235959.5+0100"),
    "FD": ("1.5", "-2.25", "10"),
    "FL": ("1.5", "-2.25", "10"),
    "IS": ("1", "-2", "512"),
    "LO": ("Kopf", "Köpfe", "HEAD"),
    "LT": ("a comment", "a\\b", "none"),
    "PN": ("DOE^JOHN", "Müller^Jörg", "山田^太郎"),
    "SH": ("S1", "S2", "T1"),
    "SL": ("1", "-2", "70000"),
    "SS": ("1", "-2", "512"),
    "ST": ("short", "shorter", "other"),
    "SV": ("1", "-2", "70000000000"),
    "TM": ("120000", "1330", "235959.5"),
    "UC": ("unlimited", "Unlimited", "other"),
    "UI": ("1.2.3", "1.2.4", "1.3"),
    "UL": ("1", "2", "70000"),
    "UR": ("http://a", "http://b", "urn:c"),
    "US": ("1", "2", "512"),
    "UT": ("text", "texts", "other"),
    "UV": ("1", "2", "70000000000"),
}
"""Three values of each VR that a key can have."""

NUMBERS = {"FD": float, "FL": float, **dict.fromkeys(("AT", "SL", "SS", "SV", "UL", "US", "UV"), int)}


@dataclass(frozen=True)
class Case:
    """A key, and the level at which it is asked for."""

    level: QueryLevel
    key: str

    def __str__(self) -> str:
        return f"{self.level.name} {self.key}"


# --- the attributes ----------------------------------------------------------------------------------------------


def examples() -> Iterator[Attribute]:
    """Yield an attribute of each VR at each level, of each kind of keeping: those in the index, then those in files."""
    seen = set()
    in_files = (attribute(tag) for tag in sorted(DicomDictionary) if 0x00080005 <= tag < 0x50000000)
    for each in [*ATTRIBUTES.values(), *filter(None, in_files)]:
        kind = (each.level, each.vr, each.kept)
        if kind not in seen and each.tag not in NOT_KEYS and not each.keyword.endswith("InstanceUID"):
            seen.add(kind)
            yield each


EXAMPLES = list(examples())


def value_of(each: Attribute, text: str) -> object:
    """Return a value for a data set."""
    if each.vr == "AT":
        return int(text, 16)
    return NUMBERS.get(each.vr, str)(text)


def instances() -> list[Dataset]:
    """Return instances of two patients, three studies, four series; each entity lacks some values."""
    made = []
    for patient, study_number, series in ((0, 0, 0), (0, 1, 1), (1, 2, 2), (1, 2, 3)):
        numbers = {0: patient, 1: study_number, 2: series}
        uid = f"1.2.9.{study_number}"
        for number, each in enumerate(
            study(series=1, instances=2, patient_id=f"P{patient}", character_set="ISO_IR 192")
        ):
            each.StudyInstanceUID, each.SeriesInstanceUID = uid, f"{uid}.{series}"
            each.SOPInstanceUID = each.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{series}.{number}"
            for known in EXAMPLES:
                give(each, known, numbers.get(known.level, 2 * series + number))
            made.append(each)
    return made


def give(dataset: Dataset, known: Attribute, number: int) -> None:
    """Set the value of an attribute of an entity; every fourth has none."""
    if known.kept is Kept.COMPUTED or known.keyword in ("PatientID", "SOPClassUID") or known.vr not in VALUES:
        return
    if number % 4 == 3:
        dataset.pop(known.tag, None)
    else:
        dataset.add_new(known.tag, known.vr, value_of(known, VALUES[known.vr][number % 4]))


def cases() -> Iterator[Case]:
    """Yield each key with its own values and variations of them at its level, and with one value above and below."""
    for each in EXAMPLES:
        for text in asked(each):
            yield Case(each.level, f"{each.keyword}={text}")
        for level in QueryLevel:
            if abs(level - each.level) == 1:
                yield Case(level, f"{each.keyword}={asked(each)[0]}")


def asked(each: Attribute) -> Sequence[str]:
    """Return the texts of a key."""
    if each.kept is Kept.COMPUTED:
        return {"UI": ("1.2.840.10008.5.1.4.1.1.2", "1.2"), "CS": ("CODE_1", "C*", "CODE_?", "NONE")}.get(
            each.vr, ("1", "2", "4")
        )
    if each.vr in BULK or each.vr in AMBIGUOUS:
        return ("1",)
    if each.keyword == "PatientID":
        return ("P0", "P?", "p0", "P0\\P1", "P9")
    if each.vr not in VALUES:
        return ("x",)
    first, second, _ = VALUES[each.vr]
    several = (f"{first}\\{second}",)
    match each.vr:
        case "DA":
            return (first, "20240131-", "2024-01-31", "2024", "20250101-20240101", *several)
        case "TM":
            return (first, "1200-1400", "13:30", "-")
        case "DT":
            return (first, "2024-", "2024-02-01")
        case "PN":
            return ("doe*", "Müller^*", "muller^jorg", "山田*", "*", *several)
        case vr if vr in ("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"):
            return (first, f"{first[:1]}*", f"{first[:-1]}?", "*", *several)
    return (first, "-2", "99", *several)


# --- the comparison ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=KINDS)
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacsServer]:
    """A running archive with these instances, on each kind of database."""
    folder = tmp_path_factory.mktemp("archive")
    with (
        fresh_database(request.param, request, folder) as url,
        serving(folder, {"database.url": url, "server.workers": 1}) as server,
    ):
        server.add(instances())
        yield server


def found_by_a_c_find(server: PacsServer, case: Case) -> set[str] | None:
    """Return the unique keys that a C-FIND finds, None where it is refused."""
    query = query_arguments([case.key, case.level.unique_key], "PATIENT", case.level)
    try:
        return {
            str(each[case.level.unique_key].value)
            for each in client.find(server.address, query.identifier, model="patient")
        }
    except OperationFailed:
        return None


def listed(server: PacsServer, case: Case) -> set[str] | None:
    """Return the unique keys that `pacs ls` lists, None where it is refused."""
    query = query_arguments([case.key, case.level.unique_key], level=case.level, selects=Selects.HERE)
    try:
        found = server.maintenance.entities(case.level, query.identifier)
        return {str(each[case.level.unique_key].value) for each in found}
    except IdentifierError:
        return None


def selected(server: PacsServer, case: Case) -> set[str] | None:
    """Return the instances that `pacs delete` selects, None where it is refused."""
    query = query_arguments([case.key], level=QueryLevel.IMAGE, selects=Selects.HERE)
    try:
        return {each.sop_instance_uid for each in server.maintenance.instances(query.identifier)}
    except IdentifierError:
        return None


def test_a_listing_is_a_c_find_for_every_vr_and_level(archive: PacsServer) -> None:
    """A key that a C-FIND ignores, and so finds everything, is refused; a deletion never selects more."""
    everything = {level: found_by_a_c_find(archive, Case(level, level.unique_key)) for level in QueryLevel}
    telling = set()
    for case in cases():
        try:
            here = listed(archive, case)
        except click.BadParameter:
            continue  # a value that no key of this VR can have
        there = found_by_a_c_find(archive, case)
        assert here == there or (here is None and there in (None, everything[case.level])), str(case)
        if case.level is QueryLevel.IMAGE:
            gone = selected(archive, case)
            assert gone == there or (gone is None and there in (None, everything[case.level])), str(case)
        if here and here != everything[case.level]:
            telling.add(dictionary_VR(case.key.partition("=")[0]))
    assert telling == set(VALUES), sorted(set(VALUES) - telling)
