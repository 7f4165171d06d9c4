"""Encoded responses: copied from rows, and equal to those of the general path and of pydicom."""

from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from pacs.dicom import identifier, response_encoder
from pacs.dicom.attributes import COLUMNS, COMPUTED, ROWS
from pacs.dicom.levels import QueryLevel, Root
from pacs.dicom.query import Match
from pacs.dicom.response_encoder import ResponseEncoder
from pacs.dicom.response_identifier import make_response_identifier
from tests.dicom.build import STRUCT, ask, dataset, rows

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
SYNTAXES = [IMPLICIT, EXPLICIT, BIG]
FROM_INDEX = sorted({keyword for table in (COLUMNS, ROWS) for each in table.values() for keyword in each})
NOT_ASKED = {"SOPInstanceUID", "TimezoneOffsetFromUTC"}
UNIQUE = {
    "PatientID": "P1", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3", "SOPInstanceUID": "1.2.3.4",
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
}  # fmt: skip
COMPUTED_VALUES = st.one_of(st.integers(0, 10**6), st.lists(st.sampled_from(["CT", "MR", "PT"])).map(tuple))


def general(match, query, syntax):
    """Return the response of the general path."""
    return identifier.encode(make_response_identifier(match, query, "PACS"), syntax)


def matched(query, stored, **computed):
    """The match of an instance's entity."""
    return Match(query.level, {level: row for level, row in rows(stored).items() if level <= query.level}, computed)


def values_of(keyword):
    """Values for an attribute: of its VR where that is binary, else any short text, some of it beyond ASCII."""
    vr = dictionary_VR(tag_for_keyword(keyword))
    if vr in STRUCT:
        return st.integers(0, 100)
    if vr == "SQ":
        return st.just([{"CodeValue": "A"}])
    wild = st.text("AZaz09 ^=.\\~\x1bäЖ山", max_size=12)
    return wild if vr in ("SH", "LO", "ST", "LT", "UC", "UT", "PN") else st.text("0123456789.CT", max_size=12)


@st.composite
def questions(draw):
    """A query, and the match of a stored instance."""
    level = draw(st.sampled_from(list(QueryLevel)))
    root = Root.PATIENT if level is QueryLevel.PATIENT else draw(st.sampled_from([Root.PATIENT, Root.STUDY]))
    asked = draw(st.sets(st.sampled_from(FROM_INDEX), max_size=12)) - NOT_ASKED
    of_level = [keyword for each, keywords in COMPUTED.items() if each <= level for keyword in keywords]
    asked |= draw(st.sets(st.sampled_from(of_level), max_size=3))
    stored = draw(st.sets(st.sampled_from(sorted(asked or {"PatientName"}))))
    stored |= draw(st.sets(st.sampled_from(FROM_INDEX), max_size=8))
    has_values = stored & set(FROM_INDEX) - set(UNIQUE)
    values = {keyword: draw(values_of(keyword)) for keyword in sorted(has_values)}
    above = {each.unique_key: UNIQUE[each.unique_key] for each in root.above(level)}
    wanted = {keyword: [] if dictionary_VR(tag_for_keyword(keyword)) == "SQ" else "" for keyword in asked}
    query = ask(level.name, root, charset_=draw(st.sampled_from(["", "ISO_IR 100", "ISO_IR 192"])), **wanted | above)
    computed = {keyword: draw(COMPUTED_VALUES) for keyword in sorted(asked & set(of_level))}
    return query, matched(query, dataset("ISO_IR 192", **UNIQUE | values), **computed)


@pytest.mark.parametrize("syntax", SYNTAXES)
@settings(deadline=None)
@given(question=questions())
def test_f6_both_paths_encode_the_same_bytes(syntax, question):
    """For all stored values and requests, in every transfer syntax, the first time and from the cache."""
    query, match = question
    answers = ResponseEncoder(query, "PACS", syntax)
    expected = general(match, query, syntax)
    assert answers.identifier(match) == expected
    assert answers.identifier(match) == expected


STORED = UNIQUE | {
    "PatientName": "DOE^JOHN", "PatientSex": "O", "StudyDate": "20200101", "StudyTime": "101500", "StudyID": "1",
    "AccessionNumber": "A17", "Modality": "CT", "SeriesNumber": "7", "Rows": 512, "InstanceNumber": "3",
}  # fmt: skip


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_f6_a_response_has_the_bytes_that_pydicom_writes(syntax):
    """Read by pydicom, every value converted, and written again by pydicom: the same bytes."""
    query = ask("IMAGE", **dict.fromkeys(STORED, "") | {"Rows": 0, "PatientBirthDate": "", "StudyDescription": ""})
    encoded = ResponseEncoder(query, "PACS", syntax).identifier(matched(query, dataset(**STORED)))
    read = read_dataset(BytesIO(encoded), syntax == IMPLICIT, syntax != BIG)
    assert {each.keyword for each in read} >= STORED.keys()
    assert read.Rows == 512
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = syntax != BIG, syntax == IMPLICIT
    write_dataset(out, read)
    assert out.getvalue() == encoded


def test_f6_plain_responses_do_not_use_a_data_set(monkeypatch):
    """Text and numbers of every level are copied from the rows; a sequence and an umlaut take the general path."""
    ways = []

    def noted(*args):
        ways.append("general")
        return make_response_identifier(*args)

    monkeypatch.setattr(response_encoder, "make_response_identifier", noted)
    plain = ask("IMAGE", **dict.fromkeys(STORED, "") | {"Rows": 0})
    ResponseEncoder(plain, "PACS", IMPLICIT).identifier(matched(plain, dataset(**STORED)))
    assert ways == []
    ResponseEncoder(plain, "PACS", IMPLICIT).identifier(
        matched(plain, dataset("ISO_IR 100", **STORED | {"StudyID": "Ä"}))
    )
    assert ways == ["general"]


def test_successive_matches_with_a_shared_row_keep_their_own_values():
    """Cached elements of one series are not used for the next."""
    query = ask("SERIES", SeriesInstanceUID="", Modality="", PatientName="")
    answers = ResponseEncoder(query, "PACS", EXPLICIT)
    for modality in ("CT", "MR", "CT"):
        stored = dataset(**STORED | {"Modality": modality})
        assert answers.identifier(matched(query, stored)) == general(matched(query, stored), query, EXPLICIT)
