"""What a recording keeps of whom it is about: nothing, and yet the same kind of question."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from pacs.tape.pseudonyms import Pseudonyms

TEXTS = st.text(
    st.characters(codec="latin-1", exclude_categories=("Cc",), exclude_characters="\\*?^=-"), min_size=3, max_size=16
)


def changed(keyword, value, pseudonyms=None):
    """The value of an attribute after it was replaced, as text."""
    dataset = Dataset()
    setattr(dataset, keyword, value)
    told = (pseudonyms or Pseudonyms()).dataset(dataset)
    return str(told[keyword].value or "")


@pytest.mark.parametrize(
    ("keyword", "value", "kind"),
    [
        ("PatientName", "DOE^JOHN", r"NAME\d+\^NAME\d+"),
        ("PatientName", "DOE*", r"NAME\d+\*"),
        ("PatientName", "Yamada^Tarou=山田^太郎", r"NAME\d+\^NAME\d+=NAME\d+\^NAME\d+"),
        ("PatientName", "*", r"\*"),
        ("PatientID", "MRN-77", r"ID\d+"),
        ("AccessionNumber", "77?8*", r"ACC\d+\?ACC\d+\*"),
        ("StudyDescription", "Chest of Mr Doe", r"TEXT\d+"),
        ("StudyDate", "20260101", r"\d{8}"),
        ("StudyDate", "20260101-20260105", r"\d{8}-\d{8}"),
        ("StudyDate", "-20260105", r"-\d{8}"),
        ("StudyInstanceUID", "1.2.3.4", r"2\.25\.\d+"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2", r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.2"),
        ("Modality", "CT", "CT"),
        ("StudyTime", "101500", "101500"),
        ("PatientAge", "077Y", ""),
        ("PatientWeight", "77", ""),
        ("PatientName", "", ""),
    ],
)
def test_a_value_is_replaced_by_one_that_asks_the_same_kind_of_question(keyword, value, kind):
    """Wild cards, ranges, component groups and empty values stay."""
    assert re.fullmatch(kind, changed(keyword, value))


def test_the_same_original_has_the_same_pseudonym_and_another_one_another():
    """Through all data sets of a recording, and differently in the next one."""
    pseudonyms = Pseudonyms()
    first = changed("StudyInstanceUID", "1.2.3", pseudonyms)
    assert changed("SeriesInstanceUID", "1.2.3", pseudonyms) == first
    assert changed("SeriesInstanceUID", "1.2.4", pseudonyms) != first
    assert changed("SeriesInstanceUID", "1.2.3") != first


def test_dates_keep_their_distance():
    """A week is a week."""
    pseudonyms = Pseudonyms()
    first, last = changed("StudyDate", "20260301-20260308", pseudonyms).split("-")
    from datetime import date

    parts = [date(int(each[:4]), int(each[4:6]), int(each[6:])) for each in (first, last)]
    assert (parts[1] - parts[0]).days == 7


def test_private_elements_and_bulk_do_not_stay():
    """Nobody knows what is in there."""
    dataset = Dataset()
    dataset.private_block(0x0011, "SECRET", create=True).add_new(1, "LO", "DOE")
    dataset.add_new("PixelData", "OW", b"\1\2\3\4")
    told = Pseudonyms().dataset(dataset)
    assert [element.keyword for element in told] == ["PixelData"]
    assert told.PixelData == bytes(4)


@given(TEXTS)
def test_no_text_is_found_again(text):
    """Whatever a name or an ID is made of, nothing of three characters or more of it stays."""
    for keyword in ("PatientName", "PatientID", "StudyDescription", "AccessionNumber"):
        assert text.strip() == "" or text.strip() not in changed(keyword, text) or re.fullmatch(r"[A-Z]+\d*", text)
