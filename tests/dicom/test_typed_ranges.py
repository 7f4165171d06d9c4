"""Dates, times and ranges as people type them: understood where certain, in the tolerant mode only (M6)."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs.dicom.matching_mode import STRICT, Negotiated
from pacs.dicom.query import Range, Single
from pacs.dicom.typed_ranges import parse_typed_range, standard_date
from pacs.errors import IdentifierError
from tests.dicom.build import ask

KEYWORDS = {"DA": "StudyDate", "TM": "StudyTime", "DT": "AcquisitionDateTime"}


def matching(vr, text, **how):
    """Return the matching of a key of this VR."""
    (key,) = ask("IMAGE", **{"SOPInstanceUID": "", KEYWORDS[vr]: text}, **how).keys
    return key.matching


UNDERSTOOD = [
    ("DA", "20240201-20240231", Range("20240201", "20240229")),
    ("DA", "-20230231", Range(None, "20230228")),
    ("DA", "202401", Range("20240101", "20240131")),
    ("DA", "2024", Range("20240101", "20241231")),
    ("DA", "2023-2024", Range("20230101", "20241231")),
    ("DA", "202311 - 202402", Range("20231101", "20240229")),
    ("DA", "2024-", Range("20240101", None)),
    ("DA", "2024-01-31", Single(("20240131",))),
    ("DA", "2024-01", Range("20240101", "20240131")),
    ("DA", "2024-01-01-2024-01-31", Range("20240101", "20240131")),
    ("DA", "2024-01-01 - 2024-02-31", Range("20240101", "20240229")),
    ("DA", "2024-01-15-", Range("20240115", None)),
    ("DA", "-2024-01", Range(None, "20240131")),
    ("DA", "20231231-2024-01", Range("20231231", "20240131")),
    ("TM", "000000-240000", Range("000000.000000", "235960.999999")),
    ("TM", "0800-24", Range("080000.000000", "235960.999999")),
    ("TM", "08:00-24:00", Range("080000.000000", "235960.999999")),
    ("DT", "2024-01-31", Range("20240131000000.000000", "20240131235960.999999")),
    ("DT", "2024-01-31T10:30:00Z", Range("20240131103000.000000", "20240131103000.999999")),
    ("DT", "2024-01-31 10:30+01:00", Range("20240131093000.000000", "20240131093060.999999")),
    ("DT", "2024-01-31T00:00-2024-01-31T24:00", Range("20240131000000.000000", "20240131235960.999999")),
    ("DT", "20240201-20240231", Range("20240201000000.000000", "20240229235960.999999")),
    ("DT", "20240101000000-20240131240000", Range("20240101000000.000000", "20240131235960.999999")),
]


@pytest.mark.parametrize(("vr", "text", "expected"), UNDERSTOOD)
def test_m6_what_people_type_is_understood_in_the_tolerant_mode_only(vr, text, expected):
    """The strict mode refuses the same text."""
    assert matching(vr, text) == expected
    with pytest.raises(IdentifierError):
        matching(vr, text, mode=STRICT, negotiated=Negotiated(relational=True))


@pytest.mark.parametrize(
    ("vr", "text"),
    [
        *(("DA", text) for text in ["20240231", "20240231-", "20240132", "20240101-20240132", "20240101-20240231-"]),
        *(("DA", text) for text in ["240131", "0131", "199913", "2024-13", "01/31/2024", "31.01.2024", "2024-0131"]),
        *(("DA", text) for text in ["01-2024", "2024-01-31T10:30", "yesterday", "--", "2024-01-31-2024", "2024" * 99]),
        *(("TM", text) for text in ["240000", "240000-", "000000-240001", "000000-250000", "9:30", "10:30 pm", "--"]),
        *(("DT", text) for text in ["2024-01-31T24:00", "2024-01-31T1030", "20240131T10:30", "2024-01-31+01:00", "--"]),
    ],
)
def test_m6_what_is_not_certain_stays_refused(vr, text):
    """A day that does not exist, two digits of a year, another order of day and month."""
    if text == "2024-01-31-2024":  # a day until the end of a year
        assert matching(vr, text) == Range("20240131", "20241231")
        return
    with pytest.raises(IdentifierError):
        matching(vr, text)


@pytest.mark.parametrize(("vr", "text"), [("DA", "20240101-20240131"), ("DA", "20240131"), ("TM", "10-1130")])
def test_m6_a_valid_range_has_the_same_meaning_as_typed(vr, text):
    """So nothing that the standard allows changes its meaning."""
    low, high = parse_typed_range(vr, text)
    strict = matching(vr, text, mode=STRICT, negotiated=Negotiated(relational=True))
    assert strict in (Range(low, high), Single((low,)))


PARTS = [
    "2024",
    "202402",
    "20240231",
    "2024-02-01",
    "-",
    ":",
    "T",
    "24",
    "1030",
    "10:30",
    "+0100",
    "-0500",
    "Z",
    ".5",
    "00",
    "*",
]
FORMS = {"DA": r"[0-9]{8}", "TM": r"[0-9]{6}\.[0-9]{6}", "DT": r"[0-9]{14}\.[0-9]{6}"}


@given(
    vr=st.sampled_from(sorted(FORMS)), text=st.one_of(st.lists(st.sampled_from([*PARTS, " "])).map("".join), st.text())
)
def test_m6_any_text_is_a_range_of_valid_bounds_or_none(vr, text):
    """Nothing else than ValueError is raised, and no range is open at both ends."""
    try:
        bounds = parse_typed_range(vr, text)
    except ValueError:
        return
    assert any(bounds)
    assert all(each is None or re.fullmatch(FORMS[vr], each) for each in bounds)


@pytest.mark.parametrize(
    ("typed", "standard"),
    [
        ("20141023", "20141023"),
        ("20141023-", "20141023-"),
        ("-", "-"),
        ("2014.10.23", "2014.10.23"),
        ("2014-10-23", "20141023"),
        ("2014-10", "20141001-20141031"),
        ("2014", "20140101-20141231"),
        ("2014-10-23-", "20141023-"),
        ("2014-10-23-2015-01-02", "20141023-20150102"),
        ("20240201-20240231", "20240201-20240229"),
        ("yesterday", "yesterday"),
        ("*", "*"),
        ("", ""),
    ],
)
def test_a_date_that_was_typed_has_a_standard_form(typed, standard):
    """Others than this server understand no other; a text without a certain meaning stays as it is."""
    assert standard_date(typed) == standard
