"""Matching, one case per example in the rows M1 to M17 of the checklist: an Identifier asked, an instance stored."""

import pytest

from pacs.dicom.identifier import parse_query
from pacs.dicom.keys import LONGEST_PATTERN
from pacs.dicom.levels import QueryLevel, Root
from pacs.dicom.matching import matches_pattern
from pacs.dicom.matching_mode import STRICT, TOLERANT, Negotiated
from pacs.errors import IdentifierError
from tests.dicom.build import ask, dataset, is_found

ALL = Negotiated(relational=True, combined_date_time=True, fuzzy_names=True, empty_values=True, multiple_values=True)
BOTH = pytest.mark.parametrize("mode", [TOLERANT, STRICT], ids=lambda mode: mode.name)


def found(asked: dict, stored: dict, level: str = "STUDY", charset: str = "", sent_in: str = "", **how) -> bool:
    """Whether an instance with values `stored` is found by the keys `asked`, in both manners unless one is given."""
    asked = {QueryLevel[level].unique_key: "", **asked}
    manners = [how.pop("mode")] if "mode" in how else [TOLERANT, STRICT]
    how.setdefault("negotiated", Negotiated(relational=True))
    results = {
        is_found(ask(level, Root.STUDY, mode, charset_=sent_in, **how, **asked), dataset(charset, **stored))
        for mode in manners
    }
    assert len(results) == 1, "the manners differ"
    return results.pop()


# --- M1, M2: single values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("keyword", ["PatientID", "AccessionNumber", "StudyID", "StudyDescription"])
def test_m1_a_single_value_matches_literally(keyword):
    """Case and accents count in everything but names."""
    assert found({keyword: "ABC"}, {keyword: "ABC"})
    assert not found({keyword: "ABC"}, {keyword: "abc"})
    assert not found({keyword: "ABC"}, {keyword: "ABCD"})
    assert not found({keyword: "é"}, {keyword: "e"}, sent_in="ISO_IR 192")


def test_m1_a_name_matches_without_case():
    """PN `doe^john` is `DOE^JOHN`, with and without accents."""
    assert found({"PatientName": "doe^john"}, {"PatientName": "DOE^JOHN"})
    assert found({"PatientName": "MULLER"}, {"PatientName": "Müller"}, charset="ISO_IR 100")
    assert not found({"PatientName": "doe"}, {"PatientName": "DOE^JOHN"})


@pytest.mark.parametrize(
    ("keyword", "asked", "stored"),
    [
        ("StudyTime", "2230", "223000"),
        ("StudyTime", "223000", "2230"),
        ("StudyTime", "22:30:00", "223000.000000"),
        ("StudyDate", "20200101", "2020.01.01"),
        ("StudyDate", "2020.01.01", "20200101"),
    ],
)
def test_m1_dates_and_times_match_by_value(keyword, asked, stored):
    """Not as strings."""
    assert found({keyword: asked}, {keyword: stored})


@pytest.mark.parametrize(
    ("asked", "stored", "expected"),
    [
        ("20200101120000+0100", "20200101110000+0000", True),
        ("20200101120000-0500", "20200101170000", True),
        ("20200101120000", "20200101120000+0000", True),
        ("20200101120000+0100", "20200101120000", False),
    ],
)
def test_m1_date_times_with_equivalent_offsets_are_equal(asked, stored, expected):
    """Offsets from UTC are taken into account, on either side."""
    is_it = found({"AcquisitionDateTime": asked}, {"AcquisitionDateTime": stored}, level="IMAGE")
    assert is_it is expected


@pytest.mark.parametrize(
    ("keyword", "asked", "stored", "expected"),
    [
        ("PatientID", "P1", "P1 ", True),
        ("PatientID", "P1", " P1", True),
        ("PatientID", " P1 ", "P1", True),
        ("StudyInstanceUID", "1.2.3", b"1.2.3\0", True),
        ("StudyInstanceUID", "1.2.3", "1.2.3 ", True),
        ("StudyInstanceUID", b"1.2.3\0", "1.2.3", True),
        ("AdditionalPatientHistory", "x", " x", False),
        ("AdditionalPatientHistory", " x", " x ", True),
    ],
)
def test_m2_padding_never_influences_a_match(keyword, asked, stored, expected):
    """Trailing spaces and NULs never, leading spaces only where they are significant."""
    assert found({keyword: asked}, {keyword: stored}) is expected


# --- M3: lists of UID --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "keyword"),
    [("STUDY", "StudyInstanceUID"), ("SERIES", "SeriesInstanceUID"), ("IMAGE", "SOPInstanceUID")],
)
@pytest.mark.parametrize("number", [1, 2, 1000, 20_000])
def test_m3_a_list_of_uids_matches_any_of_them(level, keyword, number):
    """At every level, however long, duplicates included; a UID outside the list is not found."""
    uids = "\\".join(f"1.2.{n}" for n in range(number)) + "\\1.2.0"
    assert found({keyword: uids}, {keyword: f"1.2.{number - 1}"}, level=level)
    assert not found({keyword: uids}, {keyword: f"1.2.{number}"}, level=level)


def test_m3_an_empty_list_is_universal():
    """Zero length, and a list of nothing but backslashes, match every UID."""
    assert found({"StudyInstanceUID": ""}, {"StudyInstanceUID": "1.2"})
    assert found({"StudyInstanceUID": "\\"}, {"StudyInstanceUID": "1.2"})
    assert found({"StudyInstanceUID": "1.2\\"}, {"StudyInstanceUID": "1.2"})


def test_m3_a_list_above_the_level_needs_relational_queries():
    """Hierarchical queries name one entity of each level above."""
    keys = {"StudyInstanceUID": "1.2\\1.3", "SeriesInstanceUID": ""}
    with pytest.raises(IdentifierError) as refused:
        ask("SERIES", mode=STRICT, **keys)
    assert refused.value.tags == (0x0020000D,)
    assert is_found(ask("SERIES", mode=TOLERANT, **keys), dataset(StudyInstanceUID="1.3"))
    assert is_found(ask("SERIES", mode=STRICT, negotiated=ALL, **keys), dataset(StudyInstanceUID="1.3"))


def test_m3_other_uids_than_unique_keys_match_lists_too():
    """List of UID matching is for the VR UI, whatever the attribute."""
    asked = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2\\1.2.840.10008.5.1.4.1.1.4"}
    assert found(asked, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, level="IMAGE")


# --- M4: universal matching and unknown values -------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", " ", "*", "**"])
def test_m4_universal_matching_matches_known_and_unknown_values(value):
    """Zero length, padding, and for texts an asterisk."""
    for stored in ({"AccessionNumber": "A1"}, {"AccessionNumber": ""}, {}):
        assert found({"AccessionNumber": value}, stored)
    for stored in ({"PatientName": "DOE"}, {"PatientName": ""}, {}):
        assert found({"PatientName": value}, stored)


def test_m4_an_empty_sequence_is_universal():
    """No item, an empty item, and an item of universal keys match an entity without the sequence too."""
    for asked in ([], [{}], [{"ScheduledProcedureStepID": ""}]):
        for stored in ({}, {"RequestAttributesSequence": []}, {"RequestAttributesSequence": [{}]}):
            assert found({"RequestAttributesSequence": asked}, stored, level="SERIES")


@pytest.mark.parametrize(
    ("keyword", "asked"),
    [
        ("PatientName", "DOE"),
        ("AccessionNumber", "A1"),
        ("AccessionNumber", "A*"),
        ("StudyDate", "20200101"),
        ("StudyDate", "20200101-"),
        ("StudyDate", "-20200101"),
        ("StudyDescription", "?"),
        ("AdmittingDiagnosesDescription", "x"),
    ],
)
@pytest.mark.parametrize("stored", [None, "", "  "])
def test_k2_an_unknown_value_matches_any_key_in_the_strict_mode_only(keyword, asked, stored):
    """Zero length, absent, and padding only are unknown; the tolerant mode does not count them as hits."""
    values = {} if stored is None else {keyword: stored}
    assert found({keyword: asked}, values, mode=STRICT)
    assert not found({keyword: asked}, values, mode=TOLERANT)


def test_k2_an_unknown_sequence_matches_in_the_strict_mode_only():
    """As does an unknown value within an item."""
    asked = {"SeriesInstanceUID": "", "RequestAttributesSequence": [{"ScheduledProcedureStepID": "A"}]}
    for stored in ({}, {"RequestAttributesSequence": [{"ScheduledProcedureStepID": ""}]}):
        for mode in (STRICT, TOLERANT):
            query = ask("SERIES", Root.STUDY, mode, ALL, **asked)
            assert is_found(query, dataset(**stored)) is (mode is STRICT)


@pytest.mark.parametrize(
    ("level", "keyword", "stored", "asked"),
    [
        ("STUDY", "OtherPatientNames", "DOE^JOHN\\ROE^JANE", "roe*"),
        ("STUDY", "ReferringPhysicianName", "A^B\\C^D", "c^d"),
        ("SERIES", "Modality", "CT\\PT", "PT"),
        ("IMAGE", "ImageType", "ORIGINAL\\PRIMARY\\AXIAL", "AXIAL"),
        ("IMAGE", "PixelSpacing", "0.5\\0.25", ".250"),
    ],
)
def test_m4b_any_value_of_several_matches(level, keyword, stored, asked):
    """Of a stored attribute with several values each may be asked for; none that is not there."""
    assert found({keyword: asked}, {keyword: stored}, level=level)
    assert not found({keyword: asked}, {keyword: stored.split("\\")[0]}, level=level)


def test_m4b_the_modality_of_any_series_matches_modalities_in_study():
    """ModalitiesInStudy (K5) is computed and matches any of its values."""
    query = ask(ModalitiesInStudy="PT")
    assert is_found(query, dataset(), ModalitiesInStudy=("CT", "PT"))
    assert not is_found(query, dataset(), ModalitiesInStudy=("CT", "MR"))
    assert is_found(ask(ModalitiesInStudy="P*"), dataset(), ModalitiesInStudy=("CT", "PT"))
    assert is_found(ask(NumberOfStudyRelatedSeries="03"), dataset(), NumberOfStudyRelatedSeries=3)
    assert not is_found(ask(NumberOfStudyRelatedSeries="4"), dataset(), NumberOfStudyRelatedSeries=3)


# --- M5: wild cards ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("A*", "ABC", True), ("A*", "A", True), ("A*", "BA", False),
        ("*B", "AB", True), ("*B", "ABA", False),
        ("A?C", "ABC", True), ("A?C", "AC", False), ("A?C", "ABBC", False),
        ("?", "A", True), ("?", "AB", False), ("??", "AB", True),
        ("A*B*C", "AxxByyC", True), ("A*B*C", "ACB", False), ("A**C", "ABC", True),
        ("*AB*AB*", "AB", False), ("*AB*AB*", "ABAB", True), ("AB*BA", "ABA", False),
        ("100%", "100%", True), ("100%*", "100 percent", False), ("A_C*", "ABC", False), ("A_C*", "A_CD", True),
        ("A[BC]*", "AB", False), ("A[BC]*", "A[BC]D", True), ("O'*", "O'HARA", True), ('"*', '"x"', True),
        ("a*", "ABC", False),
    ],
)  # fmt: skip
def test_m5_only_asterisk_and_question_mark_are_wild_cards(pattern, text, expected):
    """`*` any run, `?` exactly one; per cent, underscore, brackets and quotes are letters; case counts."""
    assert found({"StudyDescription": pattern}, {"StudyDescription": text}) is expected


def test_m5_a_question_mark_is_exactly_one_character():
    """A character of several bytes counts as one, in every script."""
    assert found({"StudyDescription": "M?ller"}, {"StudyDescription": "Müller"}, charset="ISO_IR 192")
    assert found({"StudyDescription": "山?"}, {"StudyDescription": "山田"}, charset="ISO_IR 192", sent_in="ISO_IR 192")
    assert not found({"StudyDescription": "?"}, {"StudyDescription": "山田"}, charset="ISO_IR 192")


def test_m5_a_backslash_is_literal_in_a_single_value_vr():
    """LT, ST and UT have no values to separate."""
    stored = {"AdditionalPatientHistory": "a\\b"}
    assert found({"AdditionalPatientHistory": "a\\*"}, stored)
    assert found({"AdditionalPatientHistory": "a\\b"}, stored)
    assert not found({"AdditionalPatientHistory": "a"}, stored)


def test_m5_wild_cards_in_names_ignore_case():
    """`all*` finds ALLISON, across components."""
    assert found({"PatientName": "all*"}, {"PatientName": "ALLISON^EVE"})
    assert found({"PatientName": "*eve"}, {"PatientName": "ALLISON^EVE"})
    assert found({"PatientName": "A?LISON^*"}, {"PatientName": "ALLISON^EVE"})


@pytest.mark.parametrize("value", ["*", "**", "* ", "*\\X"])
@pytest.mark.parametrize(
    "keyword",
    [
        "StudyInstanceUID",
        "StudyDate",
        "StudyTime",
        "SeriesNumber",
        "AcquisitionDateTime",
        "PatientAge",
        "SliceThickness",
    ],
)
def test_m5_asterisks_alone_are_universal_in_every_vr_in_the_tolerant_mode_only(keyword, value):
    """UI, DA, TM, IS, DT, AS and DS have no wild cards; the key is returned, and unknown values match."""
    query = ask("IMAGE", **{keyword: value})
    assert query.keys == ()
    assert keyword in {each.attribute.keyword for each in query.return_keys}
    negotiated = Negotiated(relational=True, multiple_values=True)
    if keyword == "PatientAge":  # which has no further rule in the strict mode
        assert ask("IMAGE", mode=STRICT, negotiated=negotiated, SOPInstanceUID="", PatientAge=value).keys
        return
    with pytest.raises(IdentifierError):
        ask("IMAGE", mode=STRICT, negotiated=negotiated, **{"SOPInstanceUID": "", keyword: value})


@BOTH
@pytest.mark.parametrize(
    ("level", "keyword", "value"),
    [
        ("STUDY", "StudyDate", "2020*"),
        ("STUDY", "StudyDate", "*-20200101"),
        ("STUDY", "StudyTime", "10????"),
        ("SERIES", "SeriesNumber", "1?"),
        ("STUDY", "StudyInstanceUID", "?"),
        ("STUDY", "StudyInstanceUID", "1.2.*"),
        ("SERIES", "StudyInstanceUID", "1*"),
    ],
)
def test_m5_an_asterisk_is_not_a_wild_card_in_dates_numbers_and_uids(mode, level, keyword, value):
    """It is refused with the name of the attribute, never treated as another kind of matching."""
    keys = {"SeriesInstanceUID": "", "StudyInstanceUID": "1.2", keyword: value}
    keys = keys if level == "SERIES" else {key: asked for key, asked in keys.items() if key != "SeriesInstanceUID"}
    with pytest.raises(IdentifierError) as refused:
        ask(level, mode=mode, **keys)
    assert keyword in refused.value.comment
    assert len(refused.value.comment) <= 64


def test_m5_ten_thousand_asterisks_take_no_more_time_than_one():
    """Runs of asterisks are one; a pattern longer than any value is refused; a nasty one takes no time."""
    assert found({"StudyDescription": "A" + "*" * 10_000 + "C"}, {"StudyDescription": "ABC"})
    with pytest.raises(IdentifierError):
        ask(StudyDescription="A?*" * LONGEST_PATTERN)
    assert not matches_pattern("*a?" * 300 + "b", "a" * 60_000)
    assert not matches_pattern("?*" * 300 + "b", "a" * 60_000)


# --- M6, M7: ranges ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "hits", "misses"),
    [
        ("20200101-", ["20200101", "20991231"], ["20191231"]),
        ("-20200101", ["20200101", "19000101"], ["20200102"]),
        ("20200101-20200101", ["20200101"], ["20191231", "20200102"]),
        ("20200102-20200101", [], ["20200101", "20200102"]),
        ("20200101 - 20200102", ["20200101", "20200102"], ["20200103"]),
        ("2020.01.01-2020.01.02", ["20200101", "2020.01.02"], ["20200103"]),
        ("-", ["20200101", ""], []),
    ],
)
def test_m6_ranges_of_dates_are_inclusive(asked, hits, misses):
    """Open and closed, with spaces, in the old form; a reversed one matches nothing, a hyphen alone everything."""
    for date in hits:
        assert found({"StudyDate": asked}, {"StudyDate": date})
    for date in misses:
        assert not found({"StudyDate": asked}, {"StudyDate": date})


@pytest.mark.parametrize(
    ("asked", "hits", "misses"),
    [
        ("10-1030", ["10", "101010.123", "1030", "103059.999999"], ["1031", "0959"]),
        ("-1030", ["103059.999999", "000000"], ["103100"]),
        ("10", ["10", "1000", "10:00:00"], ["101010.123"]),
        ("-2359", ["235960"], []),
        ("235960-", ["235960"], ["235959.999999"]),
        ("10:11:12-10:11:13", ["101112", "10:11:12.5"], ["101114"]),
        ("2200-0200", [], ["2300", "0100", "1200"]),
    ],
)
def test_m6_ranges_of_times_include_their_last_unit(asked, hits, misses):
    """Reduced precision, leap seconds, the old form; midnight is not wrapped around."""
    for time in hits:
        assert found({"StudyTime": asked}, {"StudyTime": time})
    for time in misses:
        assert not found({"StudyTime": asked}, {"StudyTime": time})


@pytest.mark.parametrize(
    ("asked", "hits", "misses"),
    [
        ("20200101120000-0500-20200102", ["20200101170000", "20200102235959"], ["20200101165959", "20200103"]),
        ("20200101120000-0500", ["20200101170000", "20200101120000-0500"], ["20200101120000", "2021"]),
        ("20200101120000-0500-", ["20200101170000", "2021"], ["20200101165959"]),
        ("20200101120000+0100-20200101120000+0100", ["20200101110000"], ["20200101120000"]),
        ("2020-2021", ["20200101", "20211231235959"], ["20220101", "2019"]),
    ],
)
def test_m6_a_hyphen_before_an_offset_is_no_range(asked, hits, misses):
    """Offsets from UTC are honoured on both sides."""
    for moment in hits:
        assert found({"AcquisitionDateTime": asked}, {"AcquisitionDateTime": moment}, level="IMAGE")
    for moment in misses:
        assert not found({"AcquisitionDateTime": asked}, {"AcquisitionDateTime": moment}, level="IMAGE")


@BOTH
@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyTime", "101010+0100"),
        ("StudyTime", "101010-0100-1200"),
        ("StudyDate", "20209999"),
        ("StudyDate", "00000000-"),
        ("StudyDate", "last week"),
        ("StudyDate", "20200101-20200102-20200103"),
    ],
)
def test_m6_an_invalid_date_or_time_is_refused(mode, keyword, value):
    """An offset in a time is illegal; the comment names the attribute, and quotes no value."""
    with pytest.raises(IdentifierError) as refused:
        ask(mode=mode, StudyInstanceUID="", **{keyword: value})
    assert keyword in refused.value.comment
    assert value not in refused.value.comment


def test_m6_an_invalid_stored_date_is_known_and_matches_no_range():
    """Neither mode finds it by a date; it is not unknown."""
    assert not found({"StudyDate": "19000101-"}, {"StudyDate": "00000000"})


def test_m7_ranges_of_date_and_time_are_independent_unless_negotiated():
    """20060705-20060707 with 1000-1800: on each day, or from the first moment to the last."""
    asked = {"StudyDate": "20060705-20060707", "StudyTime": "1000-1800"}
    night = {"StudyDate": "20060706", "StudyTime": "0300"}
    too_early = {"StudyDate": "20060705", "StudyTime": "0300"}
    afternoon = {"StudyDate": "20060705", "StudyTime": "1500"}
    assert not found(asked, night)
    assert found(asked, afternoon)
    assert found(asked, night, negotiated=ALL)
    assert found(asked, afternoon, negotiated=ALL)
    assert not found(asked, too_early, negotiated=ALL)


def test_m7_only_ranges_of_one_form_are_combined():
    """A closed range and an open one stay independent; two open ones are one."""
    mixed = ask(negotiated=ALL, StudyDate="20060705-20060707", StudyTime="1000-")
    assert not mixed.combined
    one = ask(negotiated=ALL, StudyDate="20060705-", StudyTime="1000-")
    assert [(each.low, each.high) for each in one.combined] == [("20060705100000.000000", None)]
    assert not one.keys


def test_m7_a_combined_range_may_end_earlier_in_the_day_and_not_before_it_begins():
    """From 5 July 18:00 to 7 July 10:00 is a range; from 7 to 5 July is reversed and matches nothing."""
    assert is_found(
        ask(negotiated=ALL, StudyDate="20060705-20060707", StudyTime="1800-1000"),
        dataset(StudyDate="20060706", StudyTime="12"),
    )
    assert ask(negotiated=ALL, StudyDate="20060707-20060705", StudyTime="1000-1800").nothing_matches


def test_m7_a_date_without_time_is_unknown_to_a_combined_range():
    """It matches where unknown values match."""
    asked = {"StudyDate": "20060705-20060707", "StudyTime": "1000-1800"}
    for stored in ({"StudyDate": "20060706"}, {"StudyTime": "12"}, {}):
        assert found(asked, stored, mode=STRICT, negotiated=ALL)
        assert not found(asked, stored, mode=TOLERANT, negotiated=ALL)


# --- M8: sequences -----------------------------------------------------------------------------------------------

STEPS = [
    {"ScheduledProcedureStepID": "A", "RequestedProcedureID": "1"},
    {"ScheduledProcedureStepID": "B", "RequestedProcedureID": "2"},
]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"ScheduledProcedureStepID": "A"}, True),
        ({"ScheduledProcedureStepID": "B", "RequestedProcedureID": "2"}, True),
        ({"ScheduledProcedureStepID": "A", "RequestedProcedureID": "2"}, False),
        ({"ScheduledProcedureStepID": "C"}, False),
        ({"ScheduledProcedureStepID": "?", "RequestedProcedureID": ""}, True),
    ],
)
def test_m8_one_item_must_match_every_key(item, expected):
    """Two keys that two different items match are no match."""
    asked = {"SeriesInstanceUID": "", "RequestAttributesSequence": [item]}
    assert found(asked, {"RequestAttributesSequence": STEPS}, level="SERIES") is expected


def test_m8_items_are_matched_recursively():
    """A key in a sequence within a sequence."""
    stored = {
        "RequestAttributesSequence": [{"ScheduledProtocolCodeSequence": [{"CodeValue": "X"}, {"CodeValue": "Y"}]}]
    }
    for code, expected in (("Y", True), ("Z", False)):
        asked = {"RequestAttributesSequence": [{"ScheduledProtocolCodeSequence": [{"CodeValue": code}]}]}
        assert found({"SeriesInstanceUID": "", **asked}, stored, level="SERIES") is expected


@BOTH
def test_m8_two_items_in_a_key_are_refused(mode):
    """A sequence key has exactly one item."""
    with pytest.raises(IdentifierError) as refused:
        ask("SERIES", mode=mode, negotiated=ALL, SeriesInstanceUID="", RequestAttributesSequence=STEPS)
    assert refused.value.tags == (0x00400275,)


# --- M9, M10, M11, M13: by negotiation, and numbers --------------------------------------------------------------


def test_m9_two_quotation_marks_match_empty_values_where_negotiated():
    """Zero length and absent values; for every kind of attribute."""
    for keyword, value in (("AccessionNumber", "A1"), ("StudyDate", "20200101"), ("PatientName", "DOE")):
        query = ask(negotiated=ALL, **{keyword: '""'})
        assert is_found(query, dataset())
        assert is_found(query, dataset(**{keyword: ""}))
        assert not is_found(query, dataset(**{keyword: value}))


def test_m9_two_quotation_marks_are_literal_without_negotiation():
    """They match a value that is two quotation marks."""
    assert found({"AccessionNumber": '""'}, {"AccessionNumber": '""'})
    assert not found({"AccessionNumber": '""'}, {"AccessionNumber": "A1"})
    assert not is_found(ask(AccessionNumber='""'), dataset())


@pytest.mark.parametrize(
    ("keyword", "asked", "hit", "miss"),
    [
        ("AccessionNumber", "A1\\A2", "A2", "A3"),
        ("AccessionNumber", "A1\\B*", "Bx", "C"),
        ("StudyDate", "20200101\\20200103", "20200103", "20200102"),
        ("PatientName", "DOE*\\ROE^*", "roe^jane", "poe"),
        ("SeriesNumber", "1\\02", "2", "3"),
    ],
)
def test_m10_lists_match_any_value_where_negotiated_or_tolerated(keyword, asked, hit, miss):
    """The strict mode wants it negotiated, and says which attribute is at fault."""
    level = "SERIES" if keyword == "SeriesNumber" else "STUDY"
    unique = {"SeriesInstanceUID" if level == "SERIES" else "StudyInstanceUID": ""}
    for query in (
        ask(level, **{keyword: asked}),
        ask(level, mode=STRICT, negotiated=ALL, **unique, **{keyword: asked}),
    ):
        assert is_found(query, dataset(**{keyword: hit}))
        assert not is_found(query, dataset(**{keyword: miss}))
    with pytest.raises(IdentifierError) as refused:
        ask(level, mode=STRICT, negotiated=Negotiated(relational=True), **unique, **{keyword: asked})
    assert keyword in refused.value.comment


def test_m10_a_range_in_a_list_is_refused():
    """Its meaning is not defined."""
    with pytest.raises(IdentifierError):
        ask(StudyDate="20200101-20200102\\20200105")


def test_m11_names_that_sound_alike_match_where_negotiated():
    """`Smyth^Jon` finds `SMITH^JOHN`, in any order of words; with a wild card the name is literal."""
    assert is_found(ask(negotiated=ALL, PatientName="Smyth^Jon"), dataset(PatientName="SMITH^JOHN^Q"))
    assert is_found(ask(negotiated=ALL, PatientName="John Smith"), dataset(PatientName="SMITH^JOHN"))
    assert not is_found(ask(negotiated=ALL, PatientName="Smyth^Mary"), dataset(PatientName="SMITH^JOHN"))
    assert not is_found(ask(negotiated=ALL, PatientName="Smyth*"), dataset(PatientName="SMITH^JOHN"))
    assert not is_found(ask(PatientName="Smyth^Jon"), dataset(PatientName="SMITH^JOHN"))


@pytest.mark.parametrize("asked", ["7", "007", "+7", " 7"])
@pytest.mark.parametrize("stored", ["7", "007", "+7 "])
def test_m13_numbers_match_as_numbers(asked, stored):
    """`7` = `007` = `+7`; 70 is another number."""
    assert found({"SeriesNumber": asked}, {"SeriesNumber": stored}, level="SERIES")
    assert not found({"SeriesNumber": asked}, {"SeriesNumber": "70"}, level="SERIES")


def test_m13_binary_numbers_match_too():
    """US keys, stored and asked in binary."""
    assert found({"Rows": 512}, {"Rows": 512}, level="IMAGE")
    assert not found({"Rows": 512}, {"Rows": 256}, level="IMAGE")


@pytest.mark.parametrize(("keyword", "value"), [("SeriesNumber", "seven"), ("SeriesNumber", "9" * 30), ("Rows", b"\1")])
def test_m13_an_invalid_number_is_refused(keyword, value):
    """With the name of the attribute."""
    with pytest.raises(IdentifierError) as refused:
        ask("IMAGE", **{keyword: value})
    assert keyword in refused.value.comment


# --- M14: character sets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored_in", "sent_in", "text"),
    [
        ("ISO_IR 100", "ISO_IR 192", "Jérôme"),
        ("ISO_IR 192", "ISO_IR 100", "Jérôme"),
        ("ISO_IR 144", "ISO_IR 192", "Люк"),
        ("\\ISO 2022 IR 87", "ISO_IR 192", "山田^太郎"),
        ("GB18030", "\\ISO 2022 IR 58", "小东"),
        ("ISO_IR 192", "ISO-IR 192", "홍"),
        ("", "ISO_IR 100", "Jérôme"),
    ],
)
def test_m14_text_matches_across_character_sets(stored_in, sent_in, text):
    """A stored text is found by a key in another character set, as a name and as text."""
    assert found({"PatientName": text}, {"PatientName": text}, charset=stored_in, sent_in=sent_in)
    assert found({"StudyDescription": text}, {"StudyDescription": text}, charset=stored_in, sent_in=sent_in)
    assert not found({"StudyDescription": text + "x"}, {"StudyDescription": text}, charset=stored_in, sent_in=sent_in)


def test_m14_an_item_inherits_the_character_set_and_may_have_its_own():
    """PS3.5 7.5.3, on both sides."""
    asked = {"SeriesInstanceUID": "", "RequestAttributesSequence": [{"RequestedProcedureDescription": "Schädel"}]}
    stored = {"RequestAttributesSequence": [{"RequestedProcedureDescription": "Schädel"}]}
    assert found(asked, stored, level="SERIES", charset="ISO_IR 100", sent_in="ISO_IR 192")


COMPOSED, DECOMPOSED = "Hôpital Müller", "Ho\u0302pital Mu\u0308ller"


@pytest.mark.parametrize("keyword", ["StudyDescription", "AccessionNumber", "StudyComments", "ReasonForVisit"])
@pytest.mark.parametrize(("asked", "stored"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
@pytest.mark.parametrize("pattern", ["{}", "{}*", "*{}", "x\\{}", "x*\\{}"])
def test_m14_composed_and_decomposed_accents_match_in_the_tolerant_mode(keyword, asked, stored, pattern):
    """In LO, SH, LT and UT, with and without wild cards; the strict mode compares characters."""
    if keyword in ("StudyComments", "ReasonForVisit"):
        pattern = pattern.rpartition("\\")[2]
    negotiated = Negotiated(multiple_values=True, relational=True)
    keys = {"StudyInstanceUID": "", keyword: pattern.format(asked)}
    values = dataset("ISO_IR 192", StudyInstanceUID="1.2", **{keyword: stored})
    assert is_found(ask(charset_="ISO_IR 192", negotiated=negotiated, **keys), values)
    assert not is_found(ask(charset_="ISO_IR 192", mode=STRICT, negotiated=negotiated, **keys), values)


def test_m14_a_question_mark_is_one_code_point():
    """Outside of names a decomposed accent is a character of its own, in SQL as well."""
    stored = {"StudyDescription": DECOMPOSED}
    assert not found({"StudyDescription": "H?pital*"}, stored, charset="ISO_IR 192")
    assert found({"StudyDescription": "Ho?pital*"}, stored, charset="ISO_IR 192")


def test_m14_accents_of_items_are_equivalent_too():
    """Sequence matching reads keys in the same way."""
    asked = {"SeriesInstanceUID": "", "RequestAttributesSequence": [{"RequestedProcedureDescription": COMPOSED}]}
    stored = {"RequestAttributesSequence": [{"RequestedProcedureDescription": DECOMPOSED}]}
    assert found(asked, stored, level="SERIES", charset="ISO_IR 192", sent_in="ISO_IR 192", mode=TOLERANT)


# --- M15: names --------------------------------------------------------------------------------------------------

YAMADA = "Yamada^Tarou=山田^太郎=やまだ^たろう"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("yamada^tarou", True), ("山田^太郎", True), ("やまだ^たろう", True), ("Yam*", True), ("山*", True),
        ("やまた*", False),
        ("*=山田*", True), ("=山田^太郎", True), ("==やまだ*", True), ("Yamada^Tarou=山田^太郎", True),
        ("Yamada^Tarou=鈴木*", False), ("山田*=*", True), ("suzuki=山田^太郎", False), (YAMADA, True), ("=", True),
        ("Yamada^Tarou^^^", True), ("Yamada^Tarou==", True),
    ],
)  # fmt: skip
def test_m15_a_name_is_found_in_each_of_its_scripts(asked, expected):
    """One pattern may match any group; several match by position; trailing delimiters are insignificant."""
    stored = {"PatientName": YAMADA}
    assert found({"PatientName": asked}, stored, charset="ISO_IR 192", sent_in="ISO_IR 192") is expected


@pytest.mark.parametrize(
    ("asked", "stored", "expected"),
    [
        ("DOE^*", "DOE", True),
        ("DOE^*", "DOE^JOHN", True),
        ("DOE^*^*", "DOE^JOHN", True),
        ("DOE^*", "DOERING", False),
        ("DOE", "DOE^^^^", True),
        ("DOE^", "DOE", True),
        ("DOE^J*", "DOE", False),
        ("DOE^?", "DOE", False),
        ("*^*", "DOE", True),
        ("DOE  ^ JOHN", "doe^john", True),
    ],
)
def test_m15_trailing_delimiters_of_a_name_are_insignificant(asked, stored, expected):
    """`DOE` is `DOE^^^^`, so `DOE^*` finds it."""
    assert found({"PatientName": asked}, {"PatientName": stored}) is expected


# --- M16, M17 ----------------------------------------------------------------------------------------------------


def test_m16_a_key_may_exceed_the_length_of_its_vr_and_its_vm():
    """A wild card of 70 characters on an LO; two values for a VM of 1."""
    text = "x" * 64
    assert found({"StudyDescription": "*" + "x" * 64 + "?????"}, {"StudyDescription": text + "abcde"})
    assert found({"StudyDescription": "*" + "x" * 60 + "*****"}, {"StudyDescription": text})
    assert found({"StudyID": "1\\2"}, {"StudyID": "2"}, mode=TOLERANT)


def test_m17_a_private_key_matches_with_its_creator_only():
    """The stored block may be another one; without creator, above IMAGE or of another creator it is not matched."""
    from pacs.dicom.dataset import raw

    def private(block: int, creator: str, value: bytes, **values):
        made = dataset(**values)
        made[0x00090000 | block] = raw(0x00090000 | block, "LO", creator.encode())
        made[0x00090001 | block << 8] = raw(0x00090001 | block << 8, "LO", value)
        return made

    def query(level: str, asked):
        asked[0x00080052] = raw(0x00080052, "CS", level.encode())
        return parse_query(asked, Root.STUDY, TOLERANT, Negotiated())

    asked = query("IMAGE", private(0x10, "ACME 1.0", b"A*"))
    assert is_found(asked, private(0x10, "ACME 1.0", b"ABC"))
    assert is_found(asked, private(0x42, "ACME 1.0 ", b"ABC"))
    assert not is_found(asked, private(0x10, "OTHER", b"ABC"))
    assert not is_found(asked, private(0x10, "ACME 1.0", b"X"))
    assert not asked.ignored
    assert query("STUDY", private(0x10, "ACME 1.0", b"A*")).ignored == (0x00091001,)
    nameless = private(0x10, "ACME 1.0", b"A*")
    del nameless[0x00090010]
    assert query("IMAGE", nameless).ignored == (0x00091001,)
