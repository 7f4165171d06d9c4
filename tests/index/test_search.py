"""Queries answered by the index: every kind of matching in SQL, pages, lists, computed attributes, counts."""

from collections.abc import Iterator

import pytest

from pacs.dicom import row_elements
from pacs.dicom.attributes import Kept, by_keyword
from pacs.dicom.levels import QueryLevel, Root
from pacs.dicom.query import (
    DateTimeRange,
    Empty,
    Key,
    Match,
    Matching,
    Names,
    Query,
    Range,
    ReturnKey,
    SequenceKeys,
    Single,
    SoundsLike,
    Wildcard,
)
from pacs.errors import Cancelled, OutOfResources
from pacs.index import search, writer
from pacs.index.computed import COMPUTED
from pacs.index.database import Index
from pacs.support.cancellation import Cancellation
from tests.index.instances import IMAGE, PATIENT, SERIES, STUDY, dataset, fill, new_instance, study


def query(level: QueryLevel, keys: dict[str, Matching] | None = None, **rest) -> Query:
    """A query with keys by keyword; `returning` names computed attributes."""
    requested = tuple(ReturnKey(by_keyword(keyword)) for keyword in rest.pop("returning", ()))
    made = tuple(Key(by_keyword(keyword), matching) for keyword, matching in (keys or {}).items())
    return Query(root=Root.PATIENT, level=level, keys=made, return_keys=requested, **rest)


def answers(index: Index, asked: Query, **how) -> Iterator[Match]:
    """Return the matches of a query without a cancellation."""
    return search.matches(index, asked, Cancellation(), **how)


def unique_keys(index: Index, level: QueryLevel, keys: dict[str, Matching] | None = None, **rest) -> list[str]:
    """Return the unique keys of the matches, in order."""
    return [_unique_key(match) for match in answers(index, query(level, keys, **rest))]


def _unique_key(match: Match) -> str:
    return str(row_elements.decode(match.kept[match.level]).get(match.level.unique_key, ""))


def studies_with(index: Index, keyword: str, *values: str | None) -> None:
    """Add studies 1.2.1, 1.2.2 ..., each with a value of an attribute, of patients P1, P2 ..."""
    for number, value in enumerate(values, 1):
        fill(index, study(number, f"P{number}", **{keyword: value}))


def found(index: Index, keyword: str, matching: Matching, **rest) -> list[int]:
    """Which of `studies_with` match, by number."""
    uids = unique_keys(index, STUDY, {keyword: matching}, **rest)
    return [int(uid.rpartition(".")[2]) for uid in uids]


# --- single values, wild cards -----------------------------------------------------------------------------------


def test_m1_a_single_value_is_compared_literally(index: Index):
    """Case and accents count in everything but names."""
    studies_with(index, "AccessionNumber", "ABC", "abc", "ÀBC", "ABCD")
    assert found(index, "AccessionNumber", Single(("ABC",))) == [1]
    assert found(index, "AccessionNumber", Single(("abc", "ABCD"))) == [2, 4]


def test_m14_accents_match_in_both_normal_forms(index: Index):
    """In a column, in a column that is a unique key, and in an irregular row."""
    studies_with(index, "StudyDescription", "Ü1", "U\u03081", "U1", ["x", "U\u03081"])
    either = Single(("Ü1",), ("U\u03081",))
    assert found(index, "StudyDescription", either) == [1, 2, 4]
    assert found(index, "StudyDescription", Wildcard(("Ü*",), ("U\u0308*",))) == [1, 2, 4]
    fill(index, study(9, "U\u03081"))
    assert found(index, "PatientID", either) == [9]
    assert unique_keys(index, PATIENT, {"PatientID": either}) == ["U\u03081"]


def test_m2_padding_does_not_count(index: Index):
    """Leading and trailing spaces of the stored value are not part of it."""
    studies_with(index, "AccessionNumber", " A1 ", "A1")
    assert found(index, "AccessionNumber", Single(("A1",))) == [1, 2]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("A*", [1, 2, 3, 5, 6, 7]),
        ("*C", [1, 3]),
        ("A?C", [1, 3]),
        ("A??", [1, 3, 5, 6]),
        ("**C", [1, 3]),
        ("A%*", [5]),
        ("A_*", [6]),
        ("A[*", [7]),
        ("*]*", [7]),
        ("A\\*", []),
        ("A\\?D", []),
        ("?*'?", [8]),
        ("a*", [4]),
        ("*" * 10_000 + "C", [1, 3]),
        ("*B*", [1, 2]),
        ("*\0*", []),
        ("?" * 2000, []),
        ("*\ud800*", []),
    ],
)
def test_m5_wild_cards_match_characters_and_everything_else_is_literal(index: Index, pattern: str, expected: list[int]):
    """`*` is any number of characters, `?` exactly one; special characters of SQL, GLOB and LIKE are literal."""
    studies_with(index, "StudyDescription", "ABC", "AB", "AÄC", "abc", "A%D", "A_D", "A[D]", "it's")
    assert found(index, "StudyDescription", Wildcard((pattern,))) == expected


def test_m5_a_question_mark_is_exactly_one_character(index: Index):
    """One character of any script, regardless of its bytes."""
    studies_with(index, "StudyDescription", "X", "é", "漢", "😀", "XY", None)
    assert found(index, "StudyDescription", Wildcard(("?",))) == [1, 2, 3, 4]
    assert found(index, "StudyDescription", Wildcard(("??",))) == [5]


@pytest.mark.parametrize("pattern", ["*a" * 400 + "b", "*a?" * 300 + "*b", "?*" * 500 + "b"])
def test_m5_a_malicious_pattern_takes_no_more_time_than_others(index: Index, pattern: str):
    """Alternating letters and wild cards against a long run of the letter take little time."""
    studies_with(index, "StudyDescription", "a" * 1024)
    assert found(index, "StudyDescription", Wildcard((pattern,))) == []


def test_m5_a_prefix_of_the_last_characters_is_found(index: Index):
    """When no text is greater than all those with the prefix, all are found."""
    studies_with(index, "StudyDescription", "\U0010ffffA", "\ud7ffB", "C")
    assert found(index, "StudyDescription", Wildcard(("\U0010ffff*",))) == [1]
    assert found(index, "StudyDescription", Wildcard(("\ud7ff*",))) == [2]


def test_m13_numbers_are_compared_as_numbers(index: Index):
    """7, 007 and +7 are one number."""
    fill(index, *(dataset(n, InstanceNumber=value) for n, value in enumerate(("7", "007", "+7", "70"), 1)))
    assert unique_keys(index, IMAGE, {"InstanceNumber": Single((7,))}) == ["1.2.1.1.1", "1.2.1.1.2", "1.2.1.1.3"]
    assert unique_keys(index, IMAGE, {"InstanceNumber": Single(("x", 2**70, 70))}) == ["1.2.1.1.4"]


@pytest.mark.parametrize("injected", ["' OR 1=1 --", '"; DROP TABLE image; --', "%", "_", ":x", "%(x)s", "{0}"])
def test_sql_in_a_value_is_a_value(index: Index, injected: str):
    """A value that looks like SQL is found literally and finds nothing else."""
    studies_with(index, "AccessionNumber", "A", injected)
    assert found(index, "AccessionNumber", Single((injected,))) == [2]
    assert found(index, "AccessionNumber", Wildcard((injected + "*",))) == [2]
    assert found(index, "PatientName", Names(((f"*{injected}*",),))) == []


# --- ranges ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        ("20200101", "20200103", [1, 2]),
        ("20200102", None, [2, 3]),
        (None, "20200101", [1]),
        ("20200103", "20200101", []),
        (None, None, [1, 2, 3]),
    ],
)
def test_m6_ranges_are_inclusive_and_may_be_open(index: Index, low, high, expected):
    """A bound belongs to its range, a missing bound is no bound, an unknown date is in no range."""
    studies_with(index, "StudyDate", "20200101", "20200103", "2020.01.04", None)
    assert found(index, "StudyDate", Range(low, high)) == expected


def test_m7_a_combined_range_is_one_interval(index: Index):
    """From 5 July 10:00 to 7 July 18:00 includes the night between, and no study without a time."""
    moments = [("20060705", "0900"), ("20060705", "1000"), ("20060706", "0300"), ("20060707", "1801"), ("20060706", "")]
    for number, (date, time) in enumerate(moments, 1):
        fill(index, study(number, StudyDate=date, StudyTime=time))
    stretch = DateTimeRange(
        by_keyword("StudyDate"), by_keyword("StudyTime"), "20060705100000.000000", "20060707180000.000000"
    )
    assert unique_keys(index, STUDY, combined=(stretch,)) == ["1.2.2", "1.2.3"]
    assert unique_keys(index, STUDY, combined=(stretch,), unknown_matches=True) == ["1.2.2", "1.2.3", "1.2.5"]


def test_m7_a_combined_range_without_columns_is_matched_row_by_row(index: Index):
    """SeriesDate and SeriesTime are kept without columns."""
    fill(index, dataset(1, SeriesDate="20060706", SeriesTime="0300"))
    fill(index, dataset(2, SeriesInstanceUID="1.2.1.2", SeriesDate="20060708", SeriesTime="0300"))
    stretch = DateTimeRange(
        by_keyword("SeriesDate"), by_keyword("SeriesTime"), "20060705100000.000000", "20060707180000.000000"
    )
    assert unique_keys(index, SERIES, combined=(stretch,)) == ["1.2.1.1"]


# --- names -------------------------------------------------------------------------------------------------------

YAMADA = "Yamada^Tarou=山田^太郎=やまだ^たろう"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (("yamada^tarou",), [1]),
        (("山田^太郎",), [1]),
        (("やまだ*",), [1]),
        (("*田*",), [1]),
        (("*amad*",), [1]),
        (("*ller",), [2, 3]),
        (("muller",), [2, 3]),
        (("m?ller",), [2, 3]),
        (("*ull*",), [2, 3]),
        (('*"*',), [4]),
        (("*'o\"bri*",), [4]),
        (("", "山田*"), [1]),
        (("", "yamada*"), []),
        (("yamada*", "", "やまだ*"), [1]),
        (("*ama*", "*太郎"), [1]),
        (("*",), [1, 2, 3, 4]),
    ],
)
def test_m15_a_pattern_finds_names_in_any_component_group(index: Index, pattern, expected):
    """One pattern may match any of the three groups, several match by position; case and accents do not count."""
    studies_with(index, "PatientName", YAMADA, "Müller^^", "MULLER", "'O\"BRIAN^X", None)
    assert found(index, "PatientName", Names((pattern,))) == expected


def test_m15_any_of_several_names_may_match(index: Index):
    """Alternatives are joined by OR."""
    studies_with(index, "PatientName", "DOE^JOHN", "ROE^JANE", "POE^EDGAR")
    assert found(index, "PatientName", Names((("doe*",), ("*jane",)))) == [1, 2]


def test_m15_a_changed_name_is_found_under_the_new_one_only(index: Index):
    """The trigram index is updated when empty names are filled and patients removed."""
    fill(index, study(1, "P1"))
    assert found(index, "PatientName", Names((("*john*",),))) == []
    writer.add(index, new_instance(9, PatientName="DOE^JOHN"))
    assert found(index, "PatientName", Names((("*john*",),))) == [1]
    writer.remove(index, ["1.2.1.1.1", "1.2.1.1.9"])
    assert found(index, "PatientName", Names((("*john*",),))) == []


def test_m15_other_names_match_as_well(index: Index):
    """Names of physicians match in the same way, without an index of trigrams."""
    studies_with(index, "ReferringPhysicianName", "HOUSE^GREGORY", "Wilson^James")
    assert found(index, "ReferringPhysicianName", Names((("*ouse*",),))) == [1]
    assert found(index, "ReferringPhysicianName", SoundsLike(("W425",))) == [2]


def test_m11_names_that_sound_alike_match_a_fuzzy_key(index: Index):
    """Every phonetic key must occur, in any order."""
    studies_with(index, "PatientName", "SMITH^JOHN", "SMYTHE^JON", "SMITH^JANET", None)
    assert found(index, "PatientName", SoundsLike(("S530", "J500"))) == [1, 2]
    assert found(index, "PatientName", SoundsLike(("J500", "S530"))) == [1, 2]


# --- unknown values ----------------------------------------------------------------------------------------------

KEYS = {
    "PatientID": Single(("no",)),
    "IssuerOfPatientID": Single(("no",)),
    "PatientName": Names((("no",),)),
    "StudyDate": Range("20300101", None),
    "AccessionNumber": Single(("no",)),
    "StudyDescription": Wildcard(("no*",)),
    "ReferringPhysicianName": SoundsLike(("N000",)),
    "OtherPatientNames": Names((("no",),)),
    "ModalitiesInStudy": Single(("NO",)),
}


@pytest.mark.parametrize("keyword", KEYS)
def test_k2_an_unknown_value_matches_in_the_strict_mode(index: Index, keyword: str):
    """A study with an unknown value matches any key value in one mode, and none in the other."""
    fill(index, study(1, patient=None))
    assert found(index, keyword, KEYS[keyword]) == []
    assert found(index, keyword, KEYS[keyword], unknown_matches=True) == [1]


@pytest.mark.parametrize("keyword", KEYS)
def test_m9_an_empty_value_matches_what_is_unknown(index: Index, keyword: str):
    """Empty value matching finds exactly the entities that have no value."""
    given = {"PatientID": "P2", "IssuerOfPatientID": "HERE", "Modality": "CT", "StudyDate": "20200101"}
    names = dict.fromkeys(("PatientName", "ReferringPhysicianName", "OtherPatientNames"), "X")
    texts = {"AccessionNumber": "A", "StudyDescription": "D"}
    fill(index, study(1, patient=None), study(2, **({"patient": given.pop("PatientID")} | given | names | texts)))
    assert found(index, keyword, Empty()) == [1]


# --- irregular rows and keys without columns ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keyword", "value", "matching"),
    [
        ("ReferringPhysicianName", ["HOUSE^GREGORY", "WILSON^JAMES"], Names((("wilson*",),))),
        ("StudyDescription", ["KNEE", "HIP"], Single(("HIP",))),
        ("StudyDate", ["20200101", "20210101"], Range("20201231", "20210101")),
        ("StudyDescription", "X" * 3000 + "Y", Wildcard(("X*Y",))),
        ("PatientID", ["A", "B"], Single(("B",))),
    ],
)
def test_m4b_any_of_several_stored_values_matches_without_a_column(index, keyword, value, matching):
    """Values that do not fit their column are matched row by row."""
    fill(index, study(1, **({"patient": None} if keyword == "PatientID" else {})), study(2, **{keyword: value}))
    if keyword == "PatientID":
        writer.remove(index, ["1.2.1.1.1"])
    assert found(index, keyword, matching) == [2]


def test_an_irregular_row_must_still_match(index: Index):
    """An irregular row that passes SQL is still matched."""
    fill(index, study(1, StudyDescription=["KNEE", "HIP"]))
    assert found(index, "StudyDescription", Single(("HAND",))) == []
    assert found(index, "AccessionNumber", Single(("1",))) == []


def test_keys_without_columns_are_matched_row_by_row(index: Index):
    """A row element without a column matches like any other attribute, at its level and below."""
    studies_with(index, "OtherPatientIDs", "X1", ["X2", "X3"], None)
    assert found(index, "OtherPatientIDs", Single(("X3",))) == [2]
    assert unique_keys(index, IMAGE, {"OtherPatientIDs": Wildcard(("X*",))}) == ["1.2.1.1.1", "1.2.2.1.1"]


def test_m8_one_item_of_a_sequence_matches_all_its_keys(index: Index):
    """Two keys that two different items match are no match."""
    first, second = dataset(1), dataset(2, SeriesInstanceUID="1.2.1.2")
    for elements, pairs in ((first, [("S1", "R1"), ("S2", "R2")]), (second, [("S1", "R2")])):
        items = []
        for step, procedure in pairs:
            item = type(elements)()
            item.ScheduledProcedureStepID, item.RequestedProcedureID = step, procedure
            items.append(item)
        elements.RequestAttributesSequence = items
    fill(index, first, second)
    keys = SequenceKeys(
        (
            Key(by_keyword("ScheduledProcedureStepID"), Single(("S1",))),
            Key(by_keyword("RequestedProcedureID"), Single(("R2",))),
        )
    )
    assert unique_keys(index, SERIES, {"RequestAttributesSequence": keys}) == ["1.2.1.2"]


def test_a_query_that_matches_too_many_rows_in_python_fails_with_advice(index: Index):
    """Beyond the limit the error says to narrow the query; within it all matches are found."""
    studies_with(index, "OtherPatientIDs", *"ABCDEF")
    asked = query(STUDY, {"OtherPatientIDs": Single(("F",))})
    assert len(list(answers(index, asked, page=2, scan_limit=6))) == 1
    with pytest.raises(OutOfResources, match="narrow"):
        list(answers(index, asked, page=2, scan_limit=5))


# --- levels, order, pages ----------------------------------------------------------------------------------------


def test_p12_each_entity_is_one_match(index: Index):
    """A study of many instances is one match at STUDY level."""
    fill(index, *(dataset(number, PatientName="DOE^JOHN") for number in range(1, 6)))
    fill(index, dataset(6, SeriesInstanceUID="1.2.1.2"))
    by_name = {"PatientName": Names((("doe*",),))}
    assert [len(unique_keys(index, level, by_name)) for level in QueryLevel] == [1, 1, 2, 6]


def test_matches_have_the_row_elements_of_their_level_and_those_above(index: Index):
    """A match at IMAGE level has its file, one above does not."""
    fill(index, dataset(1, PatientName="DOE^JOHN", StudyDescription="KNEE", Rows=512))
    (at_image,) = answers(index, query(IMAGE))
    assert set(at_image.kept) == set(QueryLevel)
    assert row_elements.decode(at_image.kept[IMAGE]).Rows == 512
    assert row_elements.decode(at_image.kept[STUDY]).StudyDescription == "KNEE"
    assert at_image.file_key == "2026/11/21/03/1.2.1.1.1.dcm"
    (at_study,) = answers(index, query(STUDY))
    assert set(at_study.kept) == {PATIENT, STUDY}
    assert at_study.file_key is None


@pytest.mark.parametrize("page", [1, 2, 3, 7, 100])
def test_matches_are_in_byte_order_for_any_page_size(index: Index, page: int):
    """No match is lost or repeated between pages."""
    patients = ["a", "B", "ä", "Z", "漢", "\U0001f600", "\uffee", "10", "9", None, None]
    for number, patient in enumerate(patients, 1):
        fill(index, study(number, patient, IssuerOfPatientID="I" if number % 2 else None))
    uids = [_unique_key(each) for each in answers(index, query(STUDY), page=page)]
    assert uids == sorted((f"1.2.{number}" for number in range(1, 12)), key=str.encode)
    ids = [_unique_key(each) for each in answers(index, query(PATIENT), page=page)]
    assert ids == ["", "", *sorted((each for each in patients if each), key=str.encode)]


def test_no_transaction_outlives_a_page(index: Index):
    """While a reader holds its first match, instances change; later pages have the current state."""
    fill(index, *(dataset(number) for number in range(1, 6)))
    reading = answers(index, query(IMAGE), page=2)
    first = next(reading)
    writer.remove(index, ["1.2.1.1.4"])
    fill(index, dataset(7))
    rest = [_unique_key(each) for each in reading]
    assert [_unique_key(first), *rest] == [f"1.2.1.1.{number}" for number in (1, 2, 3, 5, 7)]


@pytest.mark.parametrize("number", [1, 2, 1000, 20_000, 100_000])
@pytest.mark.parametrize("level", [STUDY, IMAGE])
def test_m3_a_list_of_uids_may_be_of_any_length(index: Index, level: QueryLevel, number: int):
    """Each known UID of the list is found once, at its own level and from a level below."""
    fill(index, *(study(each) for each in (1, 2, 5)))
    uids = tuple(f"1.2.{each}" for each in range(number, 0, -1))
    expected = [1, 2, 5] if number >= 5 else list(range(1, number + 1))
    ending = ".1.1" if level is IMAGE else ""
    twice = Single(uids + uids[:1])
    assert unique_keys(index, level, {"StudyInstanceUID": twice}) == [f"1.2.{each}{ending}" for each in expected]


def test_m3_a_long_list_of_numbers_is_bound_as_numbers(index: Index):
    """Lists of other values than UIDs may be as long."""
    fill(index, *(dataset(number, InstanceNumber=number) for number in (1, 2, 3)))
    many = Single(tuple(range(2, 5000)))
    assert unique_keys(index, IMAGE, {"InstanceNumber": many}) == ["1.2.1.1.2", "1.2.1.1.3"]


def test_keys_of_every_level_above_may_occur(index: Index):
    """A relational query joins the levels: patient, study and series keys select images."""
    fill(index, dataset(1, Modality="CT", StudyDate="20200101"), dataset(2, SeriesInstanceUID="1.2.9", Modality="MR"))
    keys = {"PatientID": Single(("P1",)), "StudyDate": Range("20200101", "20200101"), "Modality": Single(("MR",))}
    assert unique_keys(index, IMAGE, keys) == ["1.2.1.1.2"]


@pytest.mark.parametrize("few", [0, 1, 2, 3, 100])
def test_start_rows_do_not_change_the_matches(index: Index, monkeypatch: pytest.MonkeyPatch, few: int):
    """A search from few start rows finds the same as one through all rows."""
    monkeypatch.setattr(search, "FEW", few)
    studies_with(index, "StudyDescription", "KNEE", ["KNEE", "HIP"], "KNEE", "HIP", ["KNEE", "HAND"], "X" * 2000)
    assert found(index, "StudyDescription", Single(("KNEE",))) == [1, 2, 3, 5]
    assert found(index, "StudyDescription", Wildcard(("H*",))) == [2, 4, 5]
    assert _instances(index, {"StudyDescription": Single(("HIP",))}) == ["1.2.2.1.1", "1.2.4.1.1"]
    both = {"StudyDescription": Single(("KNEE",)), "PatientID": Single(("P3",))}
    assert search.count(index, query(IMAGE, both), STUDY, Cancellation()) == 1


@pytest.mark.parametrize(
    ("few", "listed", "largest"), [(0, 1, 4), (0, 100, 1), (7, 100, 4), (100, 2, 1), (100, 100, 4), (100, 100, 2000)]
)
def test_listed_candidates_are_the_same_matches(
    index: Index, monkeypatch: pytest.MonkeyPatch, few: int, listed: int, largest: int
):
    """From few start rows, from a list of their ids or several, and by a walk; with keys of one level and of two."""
    for name, value in {"FEW": few, "LISTED": listed, "LARGEST_PAGE": largest, "FIRST_PAGE": 2}.items():
        monkeypatch.setattr(search, name, value)
    dates = ["20260101", "20260102", "20270101"]
    for number in range(1, 10):
        name = ["DOE^JANE", "ROE"] if number == 7 else f"DOE^{number}" if number % 4 else "ROE"
        fill(index, study(number, f"P{number}", StudyDate=dates[number % 3], PatientName=name))
    month, doe = {"StudyDate": Range("20260101", "20260131")}, {"PatientName": Names((("doe*",),))}

    def uids(level: QueryLevel, keys: dict[str, Matching]) -> list[str]:
        return [_unique_key(match) for match in answers(index, query(level, keys), page=min(largest, 3))]

    assert uids(STUDY, month) == [f"1.2.{number}" for number in (1, 3, 4, 6, 7, 9)]
    assert uids(STUDY, doe) == [f"1.2.{number}" for number in (1, 2, 3, 5, 6, 7, 9)]
    assert uids(PATIENT, doe) == [f"P{number}" for number in (1, 2, 3, 5, 6, 7, 9)]
    for level, ending in ((STUDY, ""), (SERIES, ".1"), (IMAGE, ".1.1")):
        assert uids(level, month | doe) == [f"1.2.{number}{ending}" for number in (1, 3, 6, 7, 9)]


def test_a_listed_candidate_that_matches_no_more_is_no_match(index: Index):
    """Between the list and its page, one is removed, and one is stored again with another name."""
    fill(index, *(study(number, f"P{number}", PatientName="DOE") for number in range(1, 7)))
    reading = answers(index, query(STUDY, {"PatientName": Names((("doe",),))}), page=1)
    first = [_unique_key(next(reading)) for _ in range(2)]
    writer.remove(index, ["1.2.4.1.1", "1.2.5.1.1"])
    fill(index, study(4, "P4", PatientName="ROE"))
    assert [*first, *map(_unique_key, reading)] == ["1.2.1", "1.2.2", "1.2.3", "1.2.6"]


def test_a_query_that_cannot_match_does_not_use_the_database(index: Index):
    """A reversed range or a query without keys has no matches."""
    fill(index, dataset(1))
    nothing = query(IMAGE, nothing_matches=True)
    assert list(answers(index, nothing)) == []
    assert search.instances(index, nothing, Cancellation()) == []
    assert search.count(index, nothing, STUDY, Cancellation()) == 0


def test_keys_on_attributes_in_files_are_left_to_the_caller(index: Index):
    """The index ignores keys on attributes that are only in files."""
    fill(index, dataset(1))
    assert by_keyword("WindowCenter").kept is Kept.FILE
    assert unique_keys(index, IMAGE, {"WindowCenter": Single((40,))}) == ["1.2.1.1.1"]


# --- computed attributes -----------------------------------------------------------------------------------------


@pytest.fixture
def hospital(index: Index) -> Index:
    """Two patients: one with a CT and PT study and an MR study, one with an MR study whose modality is irregular."""
    fill(index, dataset(1, Modality="CT"), dataset(2, Modality="CT"))
    fill(index, dataset(3, Modality="PT", SeriesInstanceUID="1.2.1.2", SOPClassUID="1.2.840.10008.5.1.4.1.1.128"))
    fill(index, study(2, "P1", Modality="MR"), study(3, "P2", Modality=["MR", "SR"]), study(4, "P3"))
    return index


def _computed(index: Index, level: QueryLevel, *keywords: str) -> list[tuple[object, ...]]:
    asked = query(level, returning=keywords)
    return [tuple(match.computed[keyword] for keyword in keywords) for match in answers(index, asked)]


def test_every_computed_attribute_is_computed(hospital: Index):
    """The computed attributes of the attribute table are computed here, at the same level."""
    from pacs.dicom.attributes import COMPUTED as NAMED

    assert {(each.level, keyword) for keyword, each in COMPUTED.items()} == {
        (level, keyword) for level, keywords in NAMED.items() for keyword in keywords
    }


def test_k5_the_numbers_of_related_entities_are_counted(hospital: Index):
    """Counts at each level, and those of the levels above in a relational query."""
    related = "NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries", "NumberOfPatientRelatedInstances"
    assert _computed(hospital, PATIENT, *related) == [(2, 3, 4), (1, 1, 1), (1, 1, 1)]
    of_study = "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "NumberOfPatientRelatedStudies"
    assert _computed(hospital, STUDY, *of_study) == [(2, 3, 2), (1, 1, 2), (1, 1, 1), (1, 1, 1)]
    assert _computed(hospital, SERIES, "NumberOfSeriesRelatedInstances") == [(2,), (1,), (1,), (1,), (1,)]


def test_k5_modalities_and_sop_classes_of_a_study_are_collected(hospital: Index):
    """Each value once, several values of one series all of them, none where there is none."""
    assert _computed(hospital, STUDY, "ModalitiesInStudy") == [(("CT", "PT"),), (("MR",),), (("MR", "SR"),), ((),)]
    classes = _computed(hospital, STUDY, "SOPClassesInStudy")
    assert classes[0] == (("1.2.840.10008.5.1.4.1.1.128", "1.2.840.10008.5.1.4.1.1.2"),)
    assert _computed(hospital, IMAGE, "AvailableTransferSyntaxUID")[0] == (("1.2.840.10008.1.2.1",),)


@pytest.mark.parametrize(
    ("keyword", "matching", "expected"),
    [
        ("ModalitiesInStudy", Single(("CT",)), [1]),
        ("ModalitiesInStudy", Single(("MR",)), [2, 3]),
        ("ModalitiesInStudy", Single(("SR", "PT")), [1, 3]),
        ("ModalitiesInStudy", Wildcard(("?R",)), [2, 3]),
        ("ModalitiesInStudy", Empty(), [4]),
        ("SOPClassesInStudy", Single(("1.2.840.10008.5.1.4.1.1.128",)), [1]),
        ("NumberOfStudyRelatedInstances", Single((3,)), [1]),
        ("NumberOfPatientRelatedStudies", Single((1,)), [3, 4]),
    ],
)
def test_k5_computed_attributes_match(hospital: Index, keyword: str, matching: Matching, expected: list[int]):
    """A study matches when any of its series does; numbers match as numbers."""
    assert found(hospital, keyword, matching) == expected


def test_a_computed_key_at_image_level_matches_the_images(hospital: Index):
    """The transfer syntax of an image selects images; so do the modalities of its study."""
    kept_in = {"AvailableTransferSyntaxUID": Single(("1.2.840.10008.1.2.1",))}
    assert len(unique_keys(hospital, IMAGE, kept_in)) == 6
    assert len(unique_keys(hospital, IMAGE, {"AvailableTransferSyntaxUID": Single(("1.2.840.10008.1.2.5",))})) == 0
    assert len(unique_keys(hospital, IMAGE, {"ModalitiesInStudy": Single(("PT",))})) == 3


# --- instances and counts ----------------------------------------------------------------------------------------


def _instances(index: Index, keys: dict[str, Matching], limit: int | None = None) -> list[str]:
    return [each.sop_instance_uid for each in search.instances(index, query(IMAGE, keys), Cancellation(), limit)]


def test_instances_are_ordered_by_study_series_and_number(index: Index):
    """An instance without a number is last."""
    fill(index, dataset(1, InstanceNumber=10), dataset(2), dataset(3, InstanceNumber=9), dataset(4, InstanceNumber=9))
    fill(index, dataset(5, SeriesInstanceUID="1.2.1.0"))
    ordered = [f"1.2.1.1.{number}" for number in (5, 3, 4, 1, 2)]
    assert _instances(index, {"PatientID": Single(("P1",))}) == ordered
    assert _instances(index, {"StudyInstanceUID": Single(("1.2.1",))}, limit=2) == ordered[:2]
    assert _instances(index, {"OtherPatientIDs": Single(("X",))}) == []


def test_k4_keys_without_columns_can_select_instances(index: Index):
    """An irregular row and a key without a column select as in a query."""
    fill(index, study(1, StudyDescription=["KNEE", "HIP"], OtherPatientIDs="X"), study(2, "P2", StudyDescription="HIP"))
    assert _instances(index, {"StudyDescription": Single(("HIP",))}) == ["1.2.1.1.1", "1.2.2.1.1"]
    assert _instances(index, {"StudyDescription": Single(("KNEE",))}) == ["1.2.1.1.1"]
    assert _instances(index, {"OtherPatientIDs": Single(("X",))}) == ["1.2.1.1.1"]


def test_entities_are_counted_at_any_level_above(hospital: Index):
    """How many patients, studies, series and instances the keys of a retrieve select."""
    for keys, expected in (
        ({"PatientID": Single(("P1",))}, (1, 2, 3, 4)),
        ({"SOPInstanceUID": Single(("1.2.1.1.1", "1.2.1.1.3", "1.2.9"))}, (1, 1, 2, 2)),
        ({"Modality": Single(("MR",))}, (2, 2, 2, 2)),
        ({"OtherPatientIDs": Single(("X",))}, (0, 0, 0, 0)),
        ({"PatientID": Single(("nobody",))}, (0, 0, 0, 0)),
    ):
        asked = query(IMAGE, keys)
        assert tuple(search.count(hospital, asked, level, Cancellation()) for level in QueryLevel) == expected


# --- cancelling --------------------------------------------------------------------------------------------------


def test_x1_a_query_that_is_already_cancelled_has_no_matches(index: Index):
    """A cancellation before the first page ends the query."""
    fill(index, dataset(1))
    cancellation = Cancellation()
    cancellation.cancel("C-CANCEL")
    for ask in (
        lambda: next(search.matches(index, query(IMAGE), cancellation)),
        lambda: search.instances(index, query(IMAGE), cancellation),
        lambda: search.count(index, query(IMAGE), IMAGE, cancellation),
    ):
        with pytest.raises(Cancelled):
            ask()


def test_x2_no_match_follows_a_cancellation(index: Index):
    """Within a page and between pages."""
    fill(index, *(dataset(number) for number in range(1, 6)))
    for page in (1, 100):
        cancellation = Cancellation()
        reading = search.matches(index, query(IMAGE), cancellation, page=page)
        next(reading)
        cancellation.cancel("C-CANCEL")
        with pytest.raises(Cancelled):
            next(reading)
