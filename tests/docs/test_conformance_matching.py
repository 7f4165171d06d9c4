"""Checks the matching rules in section 3.3 of the conformance statement on running servers."""

import pytest
from pydicom import Dataset

from pacs.testing import serving, study, uid
from tests.archives import take_in
from tests.docs.requests import COMMENT, Requestor
from tests.docs.statement import covers, rows

# --- matching ----------------------------------------------------------------------------------------------------

CODES = [("C1", "99A"), ("C2", "99B")]
PEOPLE = {
    "doe": {
        "PatientName": "Doe^John", "PatientID": "abc", "StudyDate": "20200101", "StudyTime": "103059.5",
        "AccessionNumber": "A%1", "StudyDescription": "A*B?", "StudyID": "", "PatientWeight": "70.50",
        "ReferringPhysicianName": ["House^Greg", "Wilson^James"], "StudyComments": " indented",
    },
    "ABC": {
        "PatientName": "Döe^Jane", "PatientID": "ABC", "StudyDate": "20200102", "StudyTime": "093000",
        "AccessionNumber": "AB1", "StudyDescription": "AxBy", "StudyID": '""', "PatientWeight": "80",
        "ReferringPhysicianName": "Cuddy^Lisa", "StudyComments": "indented",
    },
    "yamada": {
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう", "PatientID": "Y ", "StudyDate": "20200103",
        "StudyTime": "120000", "AccessionNumber": "ABB1", "StudyDescription": "none", "StudyID": "S1",
        "PatientWeight": "90", "ReferringPhysicianName": "", "StudyComments": "x" * 200,
    },
}  # fmt: skip
"""Studies by label. The first has a sequence of two items, and the same time as the second, with an offset."""

ALL = set(PEOPLE)
RELATIONAL, COMBINED, FUZZY, EMPTY, MULTIPLE = b"\1", b"\1\1", b"\1\0\1", b"\1\0\0\0\0\1", b"\1\0\0\0\0\0\1"

MATCHING: dict[str, list[tuple]] = {
    "universal": [
        ({"PatientName": ""}, ALL),
        ({"PatientName": "**"}, ALL),
        ({"StudyDescription": "*"}, ALL),
        ({"StudyDate": ""}, ALL),
        ({"StudyID": "*"}, ALL),
        ({"StudyDate": "*"}, ALL),
        ({"StudyDate": "2020*"}, 0xA900),
    ],
    "single value": [
        ({"PatientID": "abc"}, {"doe"}),
        ({"PatientID": "ABC"}, {"ABC"}),
        ({"PatientID": "aBc"}, set()),
        ({"PatientName": "DOE^john"}, {"doe"}),
        ({"PatientName": "doe^jane"}, {"ABC"}),
        ({"PatientName": "Doe^John^"}, {"doe"}),
        ({"StudyTime": "0930"}, {"ABC"}),
        ({"StudyDate": "2020.01.01"}, {"doe"}),
        ({"PatientWeight": "70.5"}, {"doe"}),
        ({"PatientWeight": "+7050e-2"}, {"doe"}),
        ({"AccessionNumber": "A%1"}, {"doe"}),
    ],
    "list of UID": [
        ({"StudyInstanceUID": [uid("doe"), uid("ABC"), uid("doe"), "1.2.3"]}, {"doe", "ABC"}),
        ({"StudyInstanceUID": "1.2.3"}, set()),
    ],
    "wild card": [
        ({"AccessionNumber": "A?1"}, {"doe", "ABC"}),
        ({"AccessionNumber": "A*1"}, ALL),
        ({"AccessionNumber": "*B1"}, {"ABC", "yamada"}),
        ({"AccessionNumber": "A%*"}, {"doe"}),
        ({"AccessionNumber": "a*"}, set()),
        ({"PatientName": "do?^*"}, {"doe", "ABC"}),
        ({"PatientName": "山?*"}, {"yamada"}),
        ({"PatientAge": "0*"}, set()),
        ({"StudyInstanceUID": "1.*"}, 0xA900),
    ],
    "range": [
        ({"StudyDate": "20200101-20200102"}, {"doe", "ABC"}),
        ({"StudyDate": "20200102-"}, {"ABC", "yamada"}),
        ({"StudyDate": "-20200102"}, {"doe", "ABC"}),
        ({"StudyDate": "-"}, ALL),
        ({"StudyDate": "20200102-20200101"}, set()),
        ({"StudyTime": "-1030"}, {"doe", "ABC"}),
        ({"StudyTime": "103059-11"}, {"doe"}),
        ({"StudyTime": "1031-12"}, {"yamada"}),
    ],
    "date and time": [
        ({"StudyDate": "20200101-20200103", "StudyTime": "1000-1100"}, {"doe"}),
        ({"StudyDate": "20200101-20200103", "StudyTime": "1000-1100"}, {"doe", "ABC"}, COMBINED),
    ],
    "offset from UTC": [],  # has a test of its own, at IMAGE level
    "sequence": [
        ({"ProcedureCodeSequence": [{"CodeValue": "C1"}]}, {"doe"}),
        ({"ProcedureCodeSequence": [{"CodeValue": "C1", "CodingSchemeDesignator": "99A"}]}, {"doe"}),
        ({"ProcedureCodeSequence": [{"CodeValue": "C1", "CodingSchemeDesignator": "99B"}]}, set()),
        ({"ProcedureCodeSequence": [{"CodeValue": "C1"}, {"CodeValue": "C2"}]}, 0xA900),
        ({"ProcedureCodeSequence": []}, ALL),
        ({"ProcedureCodeSequence": [{}]}, ALL),
    ],
    "several stored values": [
        ({"ReferringPhysicianName": "House^Greg"}, {"doe"}),
        ({"ReferringPhysicianName": "Wilson*"}, {"doe"}),
    ],
    "empty value": [({"StudyID": '""'}, {"ABC"}), ({"StudyID": '""'}, {"doe"}, EMPTY)],
    "multiple values": [
        ({"AccessionNumber": ["A%1", "AB1"]}, {"doe", "ABC"}),
        ({"AccessionNumber": ["A%1", "AB1"]}, {"doe", "ABC"}, MULTIPLE),
        ({"StudyDate": ["20200101", "20200103"]}, {"doe", "yamada"}),
    ],
    "fuzzy names": [
        ({"PatientName": "Dow^Jon"}, set()),
        ({"PatientName": "Dow^Jon"}, {"doe", "ABC"}, FUZZY),
        ({"PatientName": "Dow^Peter"}, set(), FUZZY),
        ({"PatientName": "Dow*"}, set(), FUZZY),
    ],
    "component groups": [
        ({"PatientName": "yamada^tarou"}, {"yamada"}),
        ({"PatientName": "山田^太郎"}, {"yamada"}),
        ({"PatientName": "やまだ^たろう"}, {"yamada"}),
        ({"PatientName": "=山田^太郎"}, {"yamada"}),
        ({"PatientName": "山田^太郎=Yamada^Tarou"}, set()),
        ({"PatientName": "Yamada*=*=やまだ*"}, {"yamada"}),
    ],
    "padding": [
        ({"PatientID": "abc  "}, {"doe"}),
        ({"PatientID": "  abc"}, {"doe"}),
        ({"PatientID": "Y"}, {"yamada"}),
        ({"StudyComments": " indented"}, {"doe"}),
        ({"StudyComments": "indented "}, {"ABC"}),
    ],
}
"""Keys by kind of matching, with the studies that they find or the status, and negotiated options."""


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A tolerant and a strict server with these studies."""
    with (
        serving(tmp_path_factory.mktemp("people")) as tolerant,
        serving(tmp_path_factory.mktemp("exact"), {"query.manner": "strict"}) as exact,
    ):
        for label, values in PEOPLE.items():
            made = study(series=1, instances=1, patient_id=label, character_set="ISO_IR 192", **values)[0]
            made.StudyInstanceUID = uid(label)
            if label == "doe":
                made.ProcedureCodeSequence = [code(*each) for each in CODES]
            made.AcquisitionDateTime = {"doe": "20200101120000+0100", "ABC": "20200101110000", "yamada": ""}[label]
            for each in (tolerant, exact):
                take_in(each, [made])
        yield tolerant, exact


def code(meaning: str, scheme: str) -> Dataset:
    """Return an item of a code sequence."""
    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator = meaning, scheme
    return made


def key(content: object) -> object:
    """Return a value of the table for pydicom."""
    if not (isinstance(content, list) and all(isinstance(each, dict) for each in content)):
        return content
    made = [Dataset() for _ in content]
    for inner, values in zip(made, content, strict=True):
        for keyword, each in values.items():
            setattr(inner, keyword, each)
    return made


@covers("A key with a value that its VR does not allow")
@pytest.mark.parametrize("row", rows("Matching", "kind"), ids=lambda row: row[0])
def test_every_kind_of_matching(people, row):
    """Each example finds its studies, or is refused."""
    for keys, expected, *extended in MATCHING[row[0]]:
        asked = {"SpecificCharacterSet": "ISO_IR 192"} | {keyword: key(each) for keyword, each in keys.items()}
        with Requestor(people[0].port, *extended) as requestor:
            *pending, final = requestor.find("STUDY", **({"StudyInstanceUID": ""} | asked))
        if isinstance(expected, int):
            assert final.status == expected, keys
            continue
        assert final.status == 0x0000, final.text(COMMENT)
        labels = {uid(label): label for label in PEOPLE}
        assert {labels[each.dataset().StudyInstanceUID] for each in pending} == expected, keys


def test_only_matching_items_of_a_sequence_are_returned(people):
    """With the requested attributes; an empty item or sequence returns all of it."""
    with Requestor(people[0].port) as requestor:
        (found,) = requestor.found("STUDY", ProcedureCodeSequence=key([{"CodeValue": "C2"}]))
        assert [[each.keyword for each in item] for item in found.ProcedureCodeSequence] == [["CodeValue"]]
        for whole in ([], key([{}])):
            (found,) = requestor.found("STUDY", PatientID="abc", ProcedureCodeSequence=whole)
            assert [(each.CodeValue, each.CodingSchemeDesignator) for each in found.ProcedureCodeSequence] == CODES


def test_an_offset_from_utc_is_used_in_dt(people):
    """Equal times match, other offsets do not; the time zone of a request is not a key."""
    with Requestor(people[0].port) as requestor:
        for asked, expected in (
            ("20200101120000+0100", 2), ("20200101110000", 2), ("20200101120000", 0),
            ("20200101105959-20200101110001", 2), ("20200101060000-0500", 2),
        ):  # fmt: skip
            assert len(requestor.found("IMAGE", AcquisitionDateTime=asked)) == expected, asked
        assert len(requestor.found("STUDY", StudyDate="20200101", TimezoneOffsetFromUTC="+1400")) == 1


def test_multiple_values_need_negotiation_in_the_strict_mode(people):
    """A900 without it, a match for each value with it."""
    asked = {"StudyInstanceUID": "", "AccessionNumber": ["A%1", "AB1"]}
    with Requestor(people[1].port) as requestor, Requestor(people[1].port, MULTIPLE) as agreed:
        assert requestor.status("STUDY", **asked) == 0xA900
        assert len(agreed.found("STUDY", **asked)) == 2


@covers("A text key may be longer than its VR allows")
def test_a_key_may_be_longer_than_its_vr(people):
    """A pattern of 1,024 characters is accepted, one of 1,025 is not; other values have no such limit."""
    with Requestor(people[0].port) as requestor:
        assert requestor.found("STUDY", AccessionNumber="A" * 1023 + "*") == []
        assert requestor.status("STUDY", AccessionNumber="A" * 1024 + "*") == 0xA900
        assert requestor.found("STUDY", PatientName="A" * 1024) == []
        assert requestor.status("STUDY", PatientName="A" * 1025) == 0xA900
        assert requestor.found("STUDY", AccessionNumber="A" * 5000) == []


@covers("All values of a multi-valued attribute are returned")
def test_all_values_are_returned(people):
    """Whichever of them matched."""
    with Requestor(people[0].port) as requestor:
        (found,) = requestor.found("STUDY", ReferringPhysicianName="Wilson*")
    assert found.ReferringPhysicianName == ["House^Greg", "Wilson^James"]
