"""The report of an Identifier: the kind of matching of each element, and why a key is ignored."""

import re

import pytest

from pacs.dicom import identifier_report
from pacs.dicom.identifier import parse_query, parse_retrieve
from pacs.dicom.identifier_report import ElementUse, differences, matching_kind, matching_text
from pacs.dicom.levels import MODELS
from pacs.dicom.matching_mode import MATCHING_MODES, STRICT, TOLERANT, Negotiated
from pacs.errors import IdentifierError
from tests.dicom.build import dataset

FIND = MODELS["1.2.840.10008.5.1.4.1.2.2.1"]
MOVE = MODELS["1.2.840.10008.5.1.4.1.2.2.2"]
EVERYTHING = Negotiated(
    relational=True, combined_date_time=True, fuzzy_names=True, empty_values=True, multiple_values=True
)
DATES = {"StudyDate": "20260101-", "StudyTime": "10-"}


def read(level="STUDY", model=FIND, mode=TOLERANT, negotiated=Negotiated(), **keys):  # noqa: B008 - it is frozen
    """Return the report of an Identifier, without a level for None."""
    stated = {"QueryRetrieveLevel": level} if level else {}
    return identifier_report.make_report(dataset("", **stated, **keys), model, mode, negotiated)


def part(path, *words, **keys):
    """Return the report of one element."""
    return next(each for each in read(*words, **keys).parts if each.path == path)


@pytest.mark.parametrize(
    ("keys", "path", "of_kind", "means"),
    [
        ({"PatientID": "P1"}, "PatientID", "single value", "P1"),
        ({"StudyInstanceUID": "1.2\\1.3"}, "StudyInstanceUID", "list of UID", "1.2 or 1.3"),
        ({"AccessionNumber": "A\\B"}, "AccessionNumber", "multiple values", "A or B"),
        ({"PatientName": "Doe^J*"}, "PatientName", "wild card", "doe^j*"),
        ({"PatientName": "DOE"}, "PatientName", "single value", "doe"),
        ({"StudyDescription": "CT*"}, "StudyDescription", "wild card", "CT*"),
        ({"StudyDate": "20260101-20260131"}, "StudyDate", "range", "from 20260101 to 20260131"),
        ({"StudyDate": "-20260131"}, "StudyDate", "range", "to 20260131"),
        (DATES, "StudyTime", "range", "from 100000.000000"),
        ({"StudyDate": ""}, "StudyDate", "universal", ""),
        ({"PatientID": "*"}, "PatientID", "universal", ""),
    ],
)
def test_c222_the_report_has_the_kind_of_matching_and_the_values(keys, path, of_kind, means):
    """The kind has its name of PS3.4 C.2.2.2, and the value its comparable form."""
    found = part(path, **keys)
    assert (matching_kind(found), matching_text(found)) == (of_kind, means)
    assert found.use is (ElementUse.RETURNED if of_kind == "universal" else ElementUse.MATCHED)


@pytest.mark.parametrize(
    ("keys", "path", "of_kind"),
    [
        ({"PatientName": "DOE"}, "PatientName", "fuzzy semantic"),
        ({"AccessionNumber": '""'}, "AccessionNumber", "empty value"),
        (DATES, "StudyDate", "combined date and time range"),
        (DATES, "StudyTime", "combined date and time range"),
    ],
)
def test_negotiated_options_change_the_kind_of_matching(keys, path, of_kind):
    """Fuzzy semantic, empty value and combined ranges (PS3.4 C.5)."""
    assert matching_kind(part(path, negotiated=EVERYTHING, **keys)) == of_kind


def test_m8_the_keys_of_an_item_are_reported_with_their_path():
    """The sequence is followed by the keys of its item."""
    keys = {"RequestAttributesSequence": [{"ScheduledProcedureStepID": "1", "RequestedProcedureID": ""}]}
    found = read("SERIES", **keys).parts
    told = {each.path.rpartition("Sequence")[2]: (each.use, matching_kind(each)) for each in found}
    assert told[""] == (ElementUse.MATCHED, "sequence")
    assert told[".ScheduledProcedureStepID"] == (ElementUse.MATCHED, "single value")
    assert told[".RequestedProcedureID"] == (ElementUse.RETURNED, "universal")


@pytest.mark.parametrize(
    ("keys", "path", "why"),
    [
        ({"SeriesNumber": "1"}, "SeriesNumber", "belongs to level SERIES"),
        ({"PixelData": b"\0\0"}, "PixelData", "bulk data"),
        ({"KVP": "120"}, "KVP", "only in the files"),
    ],
)
def test_k3_f5_the_report_has_the_reason_for_an_ignored_key(keys, path, why):
    """Below the level, not supported, or only in the files."""
    found = part(path, **keys)
    assert found.use is ElementUse.IGNORED
    assert why in found.reason


def test_k3_the_report_has_the_reason_for_an_unsupported_private_key():
    """A creator beside them, or a VR that is known."""
    identifier = dataset(QueryRetrieveLevel="IMAGE")
    identifier.add_new(0x00091001, "UN", b"x")
    identifier.add_new(0x000B0010, "LO", "ACME")
    identifier.add_new(0x000B1001, "UN", b"x")
    found = {each.path: each for each in identifier_report.make_report(identifier, FIND, TOLERANT, Negotiated()).parts}
    assert "does not have its creator" in found["(0009,1001)"].reason
    assert "VR that is not known" in found["(000B,1001)"].reason
    assert found["(000B,0010)"].use is ElementUse.NO_KEY


def test_f3_all_refused_keys_are_reported():
    """The response names one; the report has each with its reason."""
    found = read(StudyDate="yesterday", StudyTime="noon", StudyInstanceUID="1*")
    assert {each.path for each in found.parts if each.use is ElementUse.REFUSED} == {
        "StudyDate", "StudyTime", "StudyInstanceUID",
    }  # fmt: skip
    assert found.error is not None
    assert (
        part("StudyTime", StudyDate="yesterday", StudyTime="noon").reason == "Not a time or range of times: StudyTime"
    )


@pytest.mark.parametrize(
    ("keyword", "typed", "of_kind", "means", "why"),
    [
        ("StudyInstanceUID", "*", "universal", "", "strict: Wild card in a UID: StudyInstanceUID"),
        (
            "StudyDate",
            "202601",
            "range",
            "from 20260101 to 20260131",
            "strict: Not a date or range of dates: StudyDate",
        ),
        ("StudyTime", "08-24", "range", "from 080000.000000 to 235960.999999", "strict: Not a time or range of times"),
        ("StudyDescription", "Schädel", "single value", "Schädel", "composed and decomposed accents are equal"),
        ("StudyDescription", "Schädel*", "wild card", "Schädel*", "composed and decomposed accents are equal"),
        ("StudyDescription", "Skull", "single value", "Skull", ""),
    ],
)
def test_m6_the_report_has_what_only_the_tolerant_mode_understands(keyword, typed, of_kind, means, why):
    """With what the strict mode says of it."""
    found = part(keyword, **{keyword: typed.encode()})
    assert (matching_kind(found), matching_text(found)) == (of_kind, means)
    assert why in found.reason if why else not found.reason
    assert "only in the tolerant" in found.reason or "in the tolerant matching mode only" in found.reason or not why


def test_f2_the_report_has_the_level_that_another_name_means():
    """Where the names are equal it has no level."""
    found = {each.path: each for each in read("INSTANCES", StudyInstanceUID="1.2").parts}
    assert found["QueryRetrieveLevel"].reason == "the query level: IMAGE, in the tolerant matching mode only"
    assert part("QueryRetrieveLevel", "image", StudyInstanceUID="1.2").reason == "the query level"


def test_f1_keys_are_reported_without_a_level():
    """As at the lowest one; what is missing is the error."""
    found = read(None, PatientID="P1")
    assert found.level is None
    assert found.error.comment == "Missing: QueryRetrieveLevel"
    assert part("PatientID", None, PatientID="P1").use is ElementUse.MATCHED


def test_k4_a_key_of_a_retrieve_without_a_value_selects_nothing():
    """In the tolerant mode it is ignored; what does not select is refused."""
    found = {each.path: each for each in read(model=MOVE, StudyInstanceUID="1.2", PatientName="", StudyDate="*").parts}
    assert found["StudyInstanceUID"].use is ElementUse.MATCHED
    assert found["PatientName"].use is ElementUse.IGNORED
    assert found["StudyDate"].use is ElementUse.REFUSED


IDENTIFIERS = [
    {},
    {"StudyInstanceUID": ""},
    {"PatientID": "P1", "StudyInstanceUID": "1.2"},
    {"PatientName": "DOE*", "StudyDate": "20260131-20260101", "SeriesInstanceUID": "", "KVP": ""},
    {"StudyDate": "20260101-", "StudyTime": "10-", "PatientName": "DOE\\ROE", "AccessionNumber": '""'},
    {"ModalitiesInStudy": "CT", "PixelData": b"\0\0", "InstanceAvailability": "ONLINE", "SpecificCharacterSet": ""},
    {"RequestAttributesSequence": [{"ScheduledProcedureStepID": "1", "PixelData": b"\0\0"}], "Rows": 512},
    {"SOPInstanceUID": "1.2\\1.3", "KVP": "120", "StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.2"},
    {"PatientName": [], "RequestAttributesSequence": "no sequence", "StudyDate": "never"},
]


@pytest.mark.parametrize("negotiated", [Negotiated(), EVERYTHING], ids=["nothing negotiated", "everything negotiated"])
@pytest.mark.parametrize("mode", MATCHING_MODES.values(), ids=MATCHING_MODES)
@pytest.mark.parametrize("level", ["STUDY", "SERIES", "IMAGE", "PATIENT", ""])
@pytest.mark.parametrize("keys", IDENTIFIERS, ids=map(str, range(len(IDENTIFIERS))))
def test_the_report_of_a_query_agrees_with_the_parser(keys, level, mode, negotiated):
    """The same keys are matched, returned and ignored, and all refused keys are reported."""
    found = read(level, FIND, mode, negotiated, **keys)
    identifier = dataset("", **({"QueryRetrieveLevel": level} if level else {}), **keys)
    if found.error is not None:
        with pytest.raises(IdentifierError) as raised:
            parse_query(identifier, FIND.root, mode, negotiated)
        assert (found.error.comment, found.error.tags) == (raised.value.comment, raised.value.tags)
        refused = {each.tag for each in found.parts if each.use is ElementUse.REFUSED}
        assert set(found.error.tags) & {int(tag) for tag in identifier.keys()} <= refused  # noqa: SIM118
        return
    query = parse_query(identifier, FIND.root, mode, negotiated)
    outermost = [each for each in found.parts if "." not in each.path]
    assert found.query == query
    told = {each.attribute: each.matching for each in outermost if each.use is ElementUse.MATCHED}
    combined = {each: both for both in query.combined for each in (both.date, both.time)}
    if not query.nothing_matches or query.keys or combined:
        assert told == {key.attribute: key.matching for key in query.keys} | combined
        shown = {each.attribute for each in outermost if each.use in (ElementUse.MATCHED, ElementUse.RETURNED)}
        assert shown == {each.attribute for each in query.return_keys}
    ignored = {each.tag for each in found.parts if each.use is ElementUse.IGNORED and each.path.rpartition(".")[2]}
    assert set(query.ignored) == ignored


@pytest.mark.parametrize("mode", MATCHING_MODES.values(), ids=MATCHING_MODES)
@pytest.mark.parametrize("level", ["STUDY", "IMAGE"])
@pytest.mark.parametrize("keys", IDENTIFIERS, ids=map(str, range(len(IDENTIFIERS))))
def test_the_report_of_a_retrieve_agrees_with_the_parser(keys, level, mode):
    """Selecting keys are matched; no others are."""
    found = read(level, MOVE, mode, **keys)
    identifier = dataset("", QueryRetrieveLevel=level, **keys)
    if found.error is not None:
        with pytest.raises(IdentifierError, match=re.escape(found.error.comment)):
            parse_retrieve(identifier, MOVE.root, mode)
        return
    selection = parse_retrieve(identifier, MOVE.root, mode)
    told = {each.attribute for each in found.parts if each.use is ElementUse.MATCHED and "." not in each.path}
    assert told == {key.attribute for key in selection.query.keys}


def test_two_reports_are_compared_key_by_key():
    """The differences of the strict mode for the same Identifier."""
    keys = {"StudyInstanceUID": "", "AccessionNumber": "A\\B", "SeriesInstanceUID": ""}
    found = differences(read(mode=STRICT, **keys), read(**keys))
    assert "AccessionNumber is refused (Several values not negotiated: AccessionNumber)" in found
    assert "SeriesInstanceUID is refused (belongs to level SERIES, below the query level)" in found
    assert not [each for each in found if "StudyInstanceUID" in each]


def test_k2_matching_of_unknown_values_is_a_difference():
    """C.2.2.1.2 holds in the strict mode only."""
    keys = {"StudyInstanceUID": "", "StudyDate": "20260101"}
    assert differences(read(mode=STRICT, **keys), read(**keys)) == ("an unknown value matches too (C.2.2.1.2)",)


def test_the_report_of_a_huge_identifier_is_limited():
    """The first are."""
    many = dataset(QueryRetrieveLevel="IMAGE")
    for tag in range(0x00280000, 0x00280000 + 4 * identifier_report.MAX_ELEMENTS):
        many.add_new(tag, "LO", "P1")
    assert (
        len(identifier_report.make_report(many, FIND, TOLERANT, Negotiated()).parts) == identifier_report.MAX_ELEMENTS
    )
