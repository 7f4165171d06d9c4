"""The header of an instance: docs/checklist.md S1-S4 and the bad values of 5.2."""

import io
import tracemalloc
from pathlib import Path
from struct import pack

import pydicom
import pytest

from pacs.dicom import row_elements
from pacs.dicom.attributes import ATTRIBUTES
from pacs.dicom.header import Header, read_attributes, read_header
from pacs.dicom.levels import QueryLevel
from pacs.dicom.syntaxes import DEFLATED_LITTLE, EXPLICIT_LITTLE, IMPLICIT_LITTLE, NATIVE, convert
from pacs.errors import MissingUID, PacsError, UndecodableDataSet
from tests import real_files
from tests.dicom.test_elements import DAMAGED, element, nested
from tests.real_files import CheckFiles

UIDS = {0x00080016: b"1.2.840.10008.5.1.4.1.1.2", 0x00080018: b"1.2.3", 0x0020000D: b"1.2.4", 0x0020000E: b"1.2.5"}
UID_KEYWORDS = {"StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"}
HAS_BAD_UIDS = {"bad_sequence.dcm"}
"""The file whose UIDs are hashes."""


def instance(changes: dict[int, bytes | None] | None = None) -> bytes:
    """A minimal instance in Implicit VR Little Endian; None takes an element away."""
    elements = {**UIDS, 0x00100020: b"P1"} | (changes or {})
    return b"".join(element(tag, value) for tag, value in sorted(elements.items()) if value is not None)


def header(data: bytes, transfer_syntax: str = IMPLICIT_LITTLE) -> Header:
    """The header of a data set in memory."""
    return read_header(io.BytesIO(data), transfer_syntax)


def test_header_of_real_files_has_the_values_that_pydicom_reads(check_files: CheckFiles):
    """UIDs and Patient ID are pydicom's, and the row elements are those of their level."""
    check_files(compare_header, [path for path in real_files.PART10 if path.name not in DAMAGED])


def compare_header(path: Path) -> None:
    """Compare the header of a file, if it has all UIDs, with what pydicom reads."""
    dataset = pydicom.dcmread(path, force=True)
    if path.name in HAS_BAD_UIDS or not set(dataset.dir()) >= UID_KEYWORDS:
        return
    found = header(*real_files.data_set(path))
    assert found.sop_instance_uid == dataset.SOPInstanceUID
    assert found.sop_class_uid == dataset.SOPClassUID
    assert found.study_instance_uid == dataset.StudyInstanceUID
    assert found.series_instance_uid == dataset.SeriesInstanceUID
    assert found.patient_id == str(dataset.get("PatientID") or "").strip()
    for level in QueryLevel:
        tags = set(row_elements.decode(found.kept[level]).keys())
        assert tags <= {tag for tag, attribute in ATTRIBUTES.items() if attribute.level is level}


@pytest.mark.parametrize("target", NATIVE)
@pytest.mark.parametrize("name", ["CT_small.dcm", "rtplan.dcm", "test-SR.dcm", "MR_small_bigendian.dcm"])
def test_the_same_instance_has_the_same_header_in_every_native_syntax(name: str, target: str):
    """The header does not depend on the encoding of the instance."""
    data, source = real_files.data_set(real_files.named(name))
    explicit = b"".join(convert(io.BytesIO(data), source, EXPLICIT_LITTLE))
    first, other = (
        header(explicit, EXPLICIT_LITTLE),
        header(b"".join(convert(io.BytesIO(data), source, target)), target),
    )
    assert other.kept == first.kept
    assert (other.patient_id, other.issuer) == (first.patient_id, first.issuer)


@pytest.mark.parametrize("tag", UIDS)
@pytest.mark.parametrize(
    "value", [None, b"", b"  ", b"not a UID", b"../../etc", b"1.2\\1.3", b"1." * 40 + b"1", b"1.2\n"]
)
def test_s2_an_instance_without_a_uid_is_refused(tag: int, value: bytes | None):
    """Missing, empty and impossible UIDs are MissingUID, and the error names the element."""
    with pytest.raises(MissingUID) as refused:
        header(instance({tag: value}))
    assert refused.value.tags == (tag,)


def test_s2_every_missing_uid_is_named():
    """The error lists all offending elements at once."""
    with pytest.raises(MissingUID) as refused:
        header(element(0x00100020, b"P1"))
    assert refused.value.tags == tuple(UIDS)


@pytest.mark.parametrize("value", [b"1.2.3\0", b"1.2.3 ", b" 1.2.3", b"1.2.3\0\0"])
def test_m2_padding_does_not_belong_to_a_uid(value: bytes):
    """NUL and illegal spaces around a UID are not kept."""
    assert header(instance({0x00080018: value})).sop_instance_uid == "1.2.3"


@pytest.mark.parametrize("value", [None, b"", b"    "])
def test_an_instance_without_patient_id_has_an_empty_one(value: bytes | None):
    """Unknown is '', never a made-up value."""
    assert header(instance({0x00100020: value})).patient_id == ""


def test_patient_id_and_issuer_have_no_padding():
    """Identity is compared without padding (K6, M2)."""
    found = header(instance({0x00100020: b" P1 ", 0x00100021: b"HOSPITAL "}))
    assert (found.patient_id, found.issuer) == ("P1", "HOSPITAL")


@pytest.mark.parametrize("depth", [65, 1_000, 100_000])
def test_p10_a_deeply_nested_instance_is_refused(depth: int):
    """Nesting beyond the limit is UndecodableDataSet."""
    with pytest.raises(UndecodableDataSet):
        header(nested(depth))


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_truncated_instance_is_refused(cut: int):
    """No prefix of an instance is accepted, unless it ends between two elements."""
    whole = instance()
    with pytest.raises(PacsError):
        header(whole[:-cut])


def test_elements_of_groups_0000_and_0002_are_ignored_and_reported():
    """S4: they do not belong to the instance, and the header has their ranges."""
    intruder = element(0x00020003, b"9.9.9 ") + element(0x00020010, b"1.2.840.10008.1.2.5 ")
    command = element(0x00001000, b"9.9.9 ")
    found = header(command + intruder + instance())
    assert found.sop_instance_uid == "1.2.3"
    assert found.misplaced[0][0] == 0
    assert found.misplaced[-1][1] == len(command + intruder)
    assert header(instance()).misplaced == ()


@pytest.mark.parametrize(
    ("tag", "length", "is_bulk"),
    [(0x7FE00010, 2, True), (0x00420011, 2, True), (0x00111001, 70_000, True), (0x00111001, 60_000, False),
     (0x00204000, 70_000, False), (0x60003000, 70_000, True), (0x56000020, 4, True)],
)  # fmt: skip
def test_the_first_bulk_element_is_found(tag: int, length: int, is_bulk: bool):
    """Pixel Data and its like always, other bytes when they are long, texts never."""
    before = instance({each: None for each in UIDS if each > tag})
    data = instance({tag: b"x" * length})
    offset = len(instance({each: None for each in (*UIDS, 0x00100020) if each > tag})) if before else 0
    assert header(data).bulk_offset == (offset if is_bulk else None)


def test_a_deflated_instance_has_no_bulk_offset():
    """Offsets into an inflated data set are of no use in the stored one."""
    deflated = b"".join(convert(io.BytesIO(instance({0x7FE00010: b"xx"})), IMPLICIT_LITTLE, DEFLATED_LITTLE))
    assert header(deflated, DEFLATED_LITTLE).bulk_offset is None


def test_a_large_instance_costs_no_memory(tmp_path: Path):
    """Bulk data, and a text of 16 MiB, are skipped."""
    path = tmp_path / "large"
    path.write_bytes(instance({0x00102180: b"x" * (16 << 20), 0x7FE00010: bytes(64 << 20)}))
    with path.open("rb") as file:
        tracemalloc.start()
        found = read_header(file, IMPLICIT_LITTLE)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 << 20
    assert found.sop_instance_uid == "1.2.3"


@pytest.mark.parametrize(
    "changes",
    [{0x00080020: b"00000000"}, {0x00080020: b"20209999"}, {0x00100010: b"a=b=c=d=e=f=g"},
     {0x00200011: b"99999999999999"}, {0x00280030: b"NaN\\1"}, {0x00080005: b"KLINGON "}, {0x00080005: b"\xff\xfe"},
     {0x00100010: b"\x1b$B\x80\x80"},
     {0x00280010: b"\1"}, {0x00100020: b"A\\B "}, {0x00100020: b"A\0B "}, {0x00100020: b"x" * 5000}],
)  # fmt: skip
def test_an_instance_with_invalid_values_is_accepted(changes: dict[int, bytes | None]):
    """Bad dates, numbers, names and character sets (5.2 item 6) are kept unchanged."""
    assert header(instance(changes)).sop_instance_uid == "1.2.3"


def test_single_attributes_are_read_from_a_data_set():
    """Only requested attributes are returned, if the instance has them."""
    data, transfer_syntax = real_files.data_set(real_files.named("CT_small.dcm"))
    found = read_attributes(io.BytesIO(data), transfer_syntax, {0x00180060, 0x00080100, 0x00080090})
    assert str(found.KVP) == "120"
    assert {0x00180060} <= set(found.keys()) <= {0x00180060, 0x00080090, 0x00080005, 0x00280103}


def test_a_sequence_is_read_with_its_items():
    """An attribute of VR SQ is complete."""
    data, transfer_syntax = real_files.data_set(real_files.named("rtplan.dcm"))
    found = read_attributes(io.BytesIO(data), transfer_syntax, {0x300A0070})
    expected = pydicom.dcmread(real_files.named("rtplan.dcm")).FractionGroupSequence
    assert [item.FractionGroupNumber for item in found.FractionGroupSequence] == [
        item.FractionGroupNumber for item in expected
    ]


def test_m17_a_private_attribute_is_found_in_any_block_of_its_creator():
    """Blocks of a private group differ from instance to instance: all candidates come with their creators."""
    data = element(0x00110010, b"SOMEBODY") + element(0x00110011, b"ACME")
    data += element(0x00111001, b"no") + element(0x00111101, b"yes ") + element(0x00111102, b"no")
    found = read_attributes(io.BytesIO(data), IMPLICIT_LITTLE, {0x00111001})
    assert set(found.keys()) == {0x00110010, 0x00110011, 0x00111001, 0x00111101}


def test_reading_attributes_stops_after_the_last_one():
    """Damage after the requested attributes does not matter."""
    data = instance({0x00280106: b"\0\0"}) + pack("<HHL", 0x7FE0, 0x0010, 1000)
    assert read_attributes(io.BytesIO(data), IMPLICIT_LITTLE, {0x00100020}).PatientID == "P1"
