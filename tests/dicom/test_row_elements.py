"""Row elements: encoding without loss or errors, merging, and the columns."""

import struct
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from pacs.dicom import row_elements
from pacs.dicom.attributes import ATTRIBUTES, COLUMNS, Kept, column_name
from pacs.dicom.dataset import EXPLICIT_LITTLE, IMPLICIT_LITTLE, View, raw, read, write
from pacs.dicom.elements import Encoding
from pacs.dicom.levels import QueryLevel
from tests.dicom.build import dataset
from tests.real_files import CheckFiles

PATIENT, STUDY, SERIES, IMAGE = QueryLevel
BIG = Encoding(little=False)


def columns(level: QueryLevel, charset: str = "", **values):
    """The columns that an instance with these values fills at a level."""
    return row_elements.columns(level, row_elements.encode(row_elements.select(level, dataset(charset, **values))))


def test_row_elements_of_real_files_can_be_decoded_without_loss(check_files: CheckFiles):
    """The encoded elements are stable, and pydicom reads the same values from them as from the file."""
    check_files(check_row_elements)


def check_row_elements(path: Path) -> None:
    """Encode and decode the row elements of a file at every level."""
    original = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    for level in QueryLevel:
        blob = row_elements.encode(row_elements.select(level, original))
        again = row_elements.decode(blob)
        assert row_elements.encode(again) == blob
        assert row_elements.merge(blob, blob) == blob
        for element in again:
            if element.VR in ("LO", "SH", "DA", "UI", "IS"):
                assert str(element.value) == str(original[element.tag].value)


def test_row_elements_are_only_those_of_the_level():
    """Computed, private and unlisted elements are in no row; IMAGE keeps the listed ones only."""
    stored = dataset(
        PatientID="P1", StudyDate="20200101", Modality="CT", Rows=5, NumberOfStudyRelatedSeries="99",
        ModalitiesInStudy="US", WindowCenter="40", PixelData=b"\0\0",
    )  # fmt: skip
    stored.add(pydicom.DataElement(0x00091010, "LO", "private"))
    found = {
        level: [
            element.keyword for element in row_elements.decode(row_elements.encode(row_elements.select(level, stored)))
        ]
        for level in QueryLevel
    }
    assert found == {PATIENT: ["PatientID"], STUDY: ["StudyDate"], SERIES: ["Modality"], IMAGE: ["Rows"]}


@pytest.mark.parametrize("encoding", [IMPLICIT_LITTLE, EXPLICIT_LITTLE, BIG])
def test_row_elements_do_not_depend_on_the_received_encoding(encoding):
    """Byte order, implicit VRs and the character set of the sender do not matter."""
    item = {"ScheduledProcedureStepID": "A", "RequestedProcedureDescription": "Schädel"}
    stored = dataset("ISO_IR 100", PatientName="Müller^Jörg", Rows=512, RequestAttributesSequence=[item, {}])
    stored.add(raw(0x00180050, "DS", b"1.50"))
    sent = read(write(View.of(stored), encoding), encoding)
    for level in QueryLevel:
        assert row_elements.encode(row_elements.select(level, sent)) == row_elements.encode(
            row_elements.select(level, stored)
        )
    (first, second) = row_elements.decode(
        row_elements.encode(row_elements.select(SERIES, sent))
    ).RequestAttributesSequence
    assert first.RequestedProcedureDescription == "Schädel"
    assert len(second) == 0
    assert row_elements.decode(row_elements.encode(row_elements.select(IMAGE, sent))).Rows == 512


def test_text_is_encoded_in_utf_8_without_a_character_set_element():
    """The encoding has no (0008,0005) and no group lengths."""
    stored = dataset("ISO 2022 IR 6\\ISO 2022 IR 87", PatientName="Yamada=山田")
    stored.add(raw(0x00100000, "UL", b"\x08\0\0\0"))
    blob = row_elements.encode(row_elements.select(PATIENT, stored))
    assert blob == struct.pack("<HH2sH", 0x10, 0x10, b"PN", 14) + "Yamada=山田".encode() + b" "


@pytest.mark.parametrize(
    "values",
    [
        {"InstanceNumber": "seven", "Rows": b"\1"},
        {"InstanceNumber": b"\xff\xfe\0\0", "PixelSpacing": b"NaN\\\\1e999999"},
        {"StudyDate": "00000000", "StudyTime": b"\0\0\0", "StudyInstanceUID": "../.."},
        {"RequestAttributesSequence": b"\xfe\xff\x00\xe0\xff\xff\xff\x7fgarbage"},
        {"PatientName": b"\x1b$B\xff\xff\x1b", "PatientID": b"a\\\xc3("},
        {"AcquisitionDateTime": "not a date", "SeriesNumber": "9" * 4000},
    ],
)
def test_invalid_values_are_kept_unchanged_without_an_error(values):
    """Values that break the rules of their VR are encoded, merged and read without an error."""
    stored = dataset(**values)
    for level in QueryLevel:
        blob = row_elements.encode(row_elements.select(level, stored))
        assert row_elements.merge(blob, blob) == blob
        assert isinstance(row_elements.columns(level, blob)["irregular"], bool)


@given(st.dictionaries(st.sampled_from(sorted(ATTRIBUTES)), st.binary(max_size=40), max_size=8), st.booleans())
def test_any_bytes_can_be_encoded_as_row_elements(values, implicit):
    """Any bytes in any listed attribute: the encoding is stable and can be read."""
    elements = [raw(tag, ATTRIBUTES[tag].vr, value, Encoding(implicit)) for tag, value in values.items()]
    stored = Dataset({element.tag: element for element in elements})
    for level in QueryLevel:
        blob = row_elements.encode(row_elements.select(level, stored))
        assert row_elements.encode(row_elements.decode(blob)) == blob
        read(blob, EXPLICIT_LITTLE)
        row_elements.columns(level, blob)


def test_a_value_longer_than_64_kib_is_omitted():
    """The row stays small; the file still has it."""
    stored = dataset(StudyDescription="x", StudyComments="x" * 70_000)
    blob = row_elements.encode(row_elements.select(STUDY, stored))
    assert [element.keyword for element in row_elements.decode(blob)] == ["StudyDescription"]


def test_values_that_pydicom_converted_are_encoded_too():
    """A data set with values converted by pydicom has the same encoding as its bytes."""
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 100"
    made.PatientName = "Müller^Jörg"
    made.SeriesNumber = 7
    made.OtherPatientNames = ["A^B", "C^D"]
    item = Dataset()
    item.RequestedProcedureID = "éé"
    made.RequestAttributesSequence = [item]
    sent = dataset(
        "ISO_IR 100", PatientName="Müller^Jörg", SeriesNumber="7", OtherPatientNames="A^B\\C^D",
        RequestAttributesSequence=[{"RequestedProcedureID": b"\xe9\xe9"}],
    )  # fmt: skip
    for level in QueryLevel:
        assert row_elements.encode(row_elements.select(level, made)) == row_elements.encode(
            row_elements.select(level, sent)
        )


def test_the_first_received_value_wins_and_empty_ones_are_filled():
    """Merging keeps values, and takes absent, empty and padding-only ones from later instances."""
    first = row_elements.encode(dataset(PatientName="DOE^JOHN", PatientSex="", PatientComments="  ", Rows=0))
    later = row_elements.encode(
        dataset(PatientName="ROE^JANE", PatientSex="F", PatientComments="x", PatientID="P1", Rows=5)
    )
    merged = row_elements.decode(row_elements.merge(first, later))
    assert (merged.PatientName, merged.PatientSex, merged.PatientComments, merged.PatientID, merged.Rows) == (
        "DOE^JOHN", "F", "x", "P1", 0,
    )  # fmt: skip


# --- columns -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", QueryLevel)
def test_every_column_has_a_value_or_none(level):
    """An instance without any attribute is unknown everywhere and irregular nowhere."""
    found = columns(level)
    assert found.pop("irregular") is False
    assert set(found.values()) == {None}
    assert {column_name(keyword) for keyword in COLUMNS[level]} <= found.keys()


def test_a_name_has_columns_for_its_groups_and_phonetic_keys():
    """The groups are folded; the phonetic keys are between spaces."""
    found = columns(PATIENT, "ISO_IR 192", PatientName="Müller^Jörg=山田^太郎=やまだ^たろう")
    assert found["patient_name"] == "muller^jorg"
    assert found["patient_name_ideographic"] == "山田^太郎"
    assert found["patient_name_phonetic"] == "やまだ^たろう"
    assert found["patient_name_sounds"] == " M460 J620 山田 太郎 やまだ たろう "
    assert found["irregular"] is False


@pytest.mark.parametrize("name", ["", " ", "^^^", "=", "^=^"])
def test_a_name_of_delimiters_only_is_unknown(name):
    """No column of it has a value, and the row is regular."""
    found = columns(PATIENT, PatientName=name)
    assert found["patient_name"] is found["patient_name_sounds"] is None
    assert found["irregular"] is False


@pytest.mark.parametrize(
    ("level", "values", "column", "expected"),
    [
        (STUDY, {"StudyDate": "2020.01.01"}, "study_date", "20200101"),
        (STUDY, {"StudyTime": "10"}, "study_time", "100000.000000"),
        (SERIES, {"SeriesNumber": "+007"}, "series_number", 7),
        (PATIENT, {"PatientID": " P1 "}, "patient_id", "P1"),
        (STUDY, {"StudyInstanceUID": b"1.2.3\0"}, "study_instance_uid", "1.2.3"),
        (SERIES, {"Modality": "CT\\"}, "modality", "CT"),
    ],
)
def test_a_column_holds_the_comparable_value(level, values, column, expected):
    """The column has the comparable form of the received value."""
    found = columns(level, **values)
    assert found[column] == expected
    assert found["irregular"] is False


@pytest.mark.parametrize(
    ("level", "values", "column"),
    [
        (SERIES, {"Modality": "CT\\PT"}, "modality"),
        (STUDY, {"StudyDate": "00000000"}, "study_date"),
        (STUDY, {"StudyTime": "10:1"}, "study_time"),
        (SERIES, {"SeriesNumber": "seven"}, "series_number"),
        (SERIES, {"SeriesNumber": "9" * 30}, "series_number"),
        (STUDY, {"StudyDescription": "x" * 1025}, "study_description"),
        (STUDY, {"StudyDescription": "é" * 513}, "study_description"),
        (PATIENT, {"PatientID": b"P\x001"}, "patient_id"),
        (PATIENT, {"PatientName": "A^B\\C^D"}, "patient_name"),
        (PATIENT, {"PatientName": "x" * 2000}, "patient_name"),
    ],
)
def test_a_value_that_does_not_fit_its_column_makes_the_row_irregular(level, values, column):
    """Several values, an invalid one, a too long one, a NUL within: the column is None, and the row is irregular."""
    found = columns(level, "ISO_IR 192", **values)
    assert found[column] is None
    assert found["irregular"] is True


USUAL = ["20200131", "2020.02.28", "20200230", "101530", "10:15", "1015.5", "7", " +07 ", "1.2.3", "DOE^J=X=y", "^"]
VALUES = st.one_of(
    st.sampled_from(USUAL),
    st.text("Ab 1.^=-\\\0é*", max_size=8),
    st.text("a ^=", min_size=60, max_size=70),
)  # fmt: skip


@given(st.sampled_from(QueryLevel), st.data())
def test_plain_values_fill_the_same_columns_as_any_others(level, data):
    """The fast path for usual values gives what the general one gives."""
    keywords = st.sampled_from(COLUMNS[level])
    values = data.draw(st.dictionaries(keywords, VALUES.map(str.encode)))
    blob = row_elements.encode(row_elements.select(level, dataset("ISO_IR 192", **values)))
    assert row_elements.columns(level, blob) == row_elements.general_columns(level, blob)


def test_every_attribute_with_a_column_has_a_suitable_vr():
    """A column attribute is kept with its row, and its VR has a comparable form that a column can hold."""
    for level, keywords in COLUMNS.items():
        for attribute in ATTRIBUTES.values():
            if attribute.keyword in keywords:
                assert (attribute.level, attribute.kept) == (level, Kept.COLUMN)
                assert attribute.vr in {"LO", "SH", "PN", "DA", "TM", "CS", "UI", "IS"}
