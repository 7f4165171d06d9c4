"""De-identification of recordings: no patient data remain, but queries keep their meaning."""

import json
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.config import IGNORE
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from pacs.recording.datasets import decode, from_json, to_json
from pacs.recording.pseudonyms import Pseudonyms

TEXTS = st.text(
    st.characters(codec="latin-1", exclude_categories=("Cc",), exclude_characters="\\*?^=-"), min_size=3, max_size=16
)


def changed(keyword, value, pseudonyms=None):
    """Return the replaced value of an attribute as text."""
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
def test_a_replaced_value_keeps_its_kind_of_matching(keyword, value, kind):
    """Wild cards, ranges, component groups and empty values remain."""
    assert re.fullmatch(kind, changed(keyword, value))


def test_pseudonyms_are_consistent_within_a_recording():
    """In all data sets of a recording, and differently in the next recording."""
    pseudonyms = Pseudonyms()
    first = changed("StudyInstanceUID", "1.2.3", pseudonyms)
    assert changed("SeriesInstanceUID", "1.2.3", pseudonyms) == first
    assert changed("SeriesInstanceUID", "1.2.4", pseudonyms) != first
    assert changed("SeriesInstanceUID", "1.2.3") != first


def test_dates_keep_their_distance():
    """A week remains a week."""
    pseudonyms = Pseudonyms()
    first, last = changed("StudyDate", "20260301-20260308", pseudonyms).split("-")
    from datetime import date

    parts = [date(int(each[:4]), int(each[4:6]), int(each[6:])) for each in (first, last)]
    assert (parts[1] - parts[0]).days == 7


def test_private_elements_and_bulk_data_are_removed():
    """Their content is unknown."""
    dataset = Dataset()
    dataset.private_block(0x0011, "SECRET", create=True).add_new(1, "LO", "DOE")
    dataset.add_new("PixelData", "OW", b"\1\2\3\4")
    told = Pseudonyms().dataset(dataset)
    assert [element.keyword for element in told] == ["PixelData"]
    assert told.PixelData == bytes(4)


@given(TEXTS)
def test_no_original_text_remains(text):
    """No part of a name or an ID with three or more characters remains."""
    for keyword in ("PatientName", "PatientID", "StudyDescription", "AccessionNumber"):
        assert text.strip() == "" or text.strip() not in changed(keyword, text) or re.fullmatch(r"[A-Z]+\d*", text)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDate", "20130627 DOE^JOHN"),
        ("StudyTime", "DOE JOHN"),
        ("AcquisitionDateTime", "20130627DOE"),
        ("Modality", "Doe John"),
        ("PatientSex", "DOE"),
        ("SeriesNumber", "DOE"),
        ("SliceThickness", "DOE"),
        ("StudyInstanceUID", "1.2.840.10008.DOE.JOHN"),
        ("RetrieveAETitle", "DOE^JOHN"),
        ("PatientAge", "DOE"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_invalid_values_are_removed(keyword, value):
    """A value remains only if it is completely valid for its VR."""
    tag = tag_for_keyword(keyword)
    text = value.encode().ljust(len(value) + len(value) % 2)
    data = struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(text)) + text
    dataset = decode(data, len(data), "1.2.840.10008.1.2")
    assert "DOE" not in str(Pseudonyms().dataset(dataset)[keyword].value).upper()


@pytest.mark.parametrize("vr", ["CS", "AE", "TM", "LT", "UN", "OB"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_vr_of_the_dictionary_counts(vr):
    """A name is replaced whatever VR it was sent with."""
    dataset = Dataset()
    value = b"DOE^JOHN" if vr in ("UN", "OB") else "DOE^JOHN"
    dataset.add(DataElement(0x00100010, vr, value, validation_mode=IGNORE))
    assert "DOE" not in str(Pseudonyms().dataset(dataset).get("PatientName", ""))


def test_only_ae_titles_of_the_associations_remain():
    """The replaying SCU needs them in the responses."""
    pseudonyms = Pseudonyms()
    pseudonyms.keep_titles(["PACS"])
    assert changed("RetrieveAETitle", "PACS", pseudonyms) == "PACS"
    assert changed("RetrieveAETitle", "ELSEWHERE", pseudonyms).startswith("AE")


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("InstanceNumber", "0"), ("RescaleIntercept", "0"), ("Rows", 0), ("ImageOrientationPatient", [1, 0, 0, 0, 1, 0])],
)
def test_zero_remains_zero(keyword, value):
    """Also in the file."""
    dataset = Dataset()
    setattr(dataset, keyword, value)
    told = to_json(Pseudonyms().dataset(dataset))
    assert from_json(json.loads(json.dumps(told))) == dataset
