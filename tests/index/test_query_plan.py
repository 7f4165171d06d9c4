"""The query plan shows the statements that are executed, and describes their plans."""

import pytest
from sqlalchemy import Engine, event

from pacs.dicom.levels import QueryLevel
from pacs.index import query_plan, search, statements, writer
from pacs.index.query_plan import ALONG, WHOLE, source_of
from pacs.support.cancellation import Cancellation
from tests.dicom.build import ask
from tests.index.instances import dataset, fill, study

STUDY_UID = "1.2.3"

QUERIES = [
    {"StudyInstanceUID": STUDY_UID},
    {"PatientID": "P1"},
    {"PatientName": "DOE*", "StudyDate": "20260101-20260131"},
    {"PatientName": "*OHN*"},
    {"AccessionNumber": "A1", "ModalitiesInStudy": "CT"},
    {"StudyDescription": "ct*"},
]


@pytest.fixture
def executed():
    """Collect the texts and parameters of all executed statements."""
    found = []

    def note(_connection, _cursor, statement, parameters, _context, _many):
        values = parameters.values() if isinstance(parameters, dict) else parameters
        found.append((" ".join(statement.split()), tuple(values)))

    event.listen(Engine, "before_cursor_execute", note)
    yield found
    event.remove(Engine, "before_cursor_execute", note)


@pytest.mark.parametrize("keys", QUERIES, ids="-".join)
def test_the_statements_shown_are_those_a_query_executes(index, executed, keys):
    """Text and parameters, on both databases, also of cached statements."""
    fill(index, dataset(PatientName="DOE^JOHN", AccessionNumber="A1", StudyDescription="ct 1", StudyDate="20260101"))
    query = ask(**keys)
    for _ in range(2):
        list(search.matches(index, query, Cancellation()))
        ran = list(executed)
        shown = query_plan.of_query(index, query, Cancellation())
        assert [each for each in shown if (" ".join(each.sql.split()), each.parameters) not in ran] == []
        assert shown
        writer.remove(index, ["1.2.1.1.1"])  # and once more without any row to begin with
        executed.clear()


def test_the_statement_shown_for_a_retrieve_is_the_one_it_executes(index, executed):
    """The instances of a study."""
    query = ask("IMAGE", StudyInstanceUID=STUDY_UID)
    search.instances(index, query, Cancellation())
    (shown,) = query_plan.of_retrieve(index, query, Cancellation())
    assert (" ".join(shown.sql.split()), shown.parameters) in executed
    assert (shown.parameters, shown.is_indexed) == ((STUDY_UID, ""), True)


def test_a_unique_key_uses_its_index(index):
    """On both databases, from the first row on."""
    (page,) = query_plan.of_query(index, ask(StudyInstanceUID=STUDY_UID), Cancellation())
    assert page.is_indexed
    assert any(each.startswith("study: uses index") and "study" in each.split("index ")[1] for each in page.access)
    assert page.plan


@pytest.mark.parametrize("key", ["AccessionNumber", "PatientID"])
@pytest.mark.parametrize("value", ["{}1", "{}1*", "{}1\\{}2"])
def test_both_forms_of_an_accent_use_the_index_of_one(index, key, value):
    """The plan of a key that is sent composed and decomposed reads no more than that of one without accents."""
    ascii_only, accented = (
        query_plan.of_query(index, ask(charset_="ISO_IR 192", **{key: value.format(letter, letter)}), Cancellation())
        for letter in ("U", "Ü")
    )
    assert [each.access for each in accented] == [each.access for each in ascii_only]
    assert [each.is_indexed for each in accented] == [each.is_indexed for each in ascii_only]


def test_a_key_without_an_index_reads_the_whole_table(index):
    """StudyDescription has a column and no index."""
    statements = query_plan.of_query(index, ask(StudyDescription="CT*"), Cancellation())
    assert not all(each.is_indexed for each in statements)
    assert any(WHOLE in access or ALONG in access for each in statements for access in each.access)


def test_the_start_rows_of_sqlite_are_shown_with_their_number(index):
    """PostgreSQL uses its statistics and has no such statement."""
    fill(index, dataset(PatientName="DOE^JOHN"))
    first, *others = query_plan.of_query(index, ask(PatientName="DOE*"), Cancellation())
    if index.is_sqlite:
        assert (first.purpose, first.found) == ("start rows: at most 10000 rows of patient", 1)
        assert "patient: uses index ix_patient_patient_name" in first.access
        assert len(others) == 1
    else:
        assert not others


def test_the_list_of_many_candidates_does_not_walk_through_all_rows(index, executed, monkeypatch):
    """With more start rows than a page, SQLite lists them by the index of their column, and sorts their ids."""
    monkeypatch.setattr(search, "LARGEST_PAGE", 1)
    fill(index, *(study(number, StudyDate="20260101") for number in range(1, 4)))
    query = ask(StudyDate="20260101-20260131")
    if index.is_sqlite:
        for few in (10_000, 1):
            monkeypatch.setattr(search, "FEW", few)
            with index.read() as connection:
                conditions = search.list_conditions(connection, query, None)
            listing = statements.listing(query, ("1.2.1",), 10, *conditions)
            plan = query_plan._planned(index, "", listing)
            assert plan.is_indexed, plan.plan
            assert "sorts the rows" in plan.access
        monkeypatch.setattr(search, "FEW", 10_000)
        *_, shown = query_plan.of_query(index, query, Cancellation())
        list(search.matches(index, query, Cancellation()))
        assert shown.purpose == "the ids of all candidates"
        assert (" ".join(shown.sql.split()), shown.parameters) in executed


def test_a_pattern_is_shown_in_the_syntax_of_the_database(index):
    """GLOB has asterisks, LIKE has per cent signs."""
    *_, page = query_plan.of_query(index, ask(PatientName="D?E*"), Cancellation())
    assert ("d?e*" if index.is_sqlite else "d_e%") in page.parameters


def test_a_query_that_matches_nothing_needs_no_statement(index):
    """A range that ends before it begins."""
    query = ask(StudyDate="20260131-20260101")
    assert query_plan.of_query(index, query, Cancellation()) == ()


def test_the_first_part_of_a_long_list_of_uids_is_shown(index):
    """With the number of parts."""
    uids = "\\".join(f"1.2.{number}" for number in range(2 * search.LIST_PART))
    (page,) = query_plan.of_query(index, ask(StudyInstanceUID=uids), Cancellation())
    assert "the first of 2 parts" in page.purpose


@pytest.mark.parametrize(
    ("level", "keys", "keyword", "place"),
    [
        ("STUDY", {"StudyDate": "20260101"}, "StudyDate", "column study.study_date"),
        ("SERIES", {"SeriesDescription": "x"}, "SeriesDescription", "column series.series_description"),
        ("STUDY", {"PatientComments": "x"}, "PatientComments", "row elements, matched in Python"),
        ("STUDY", {"ModalitiesInStudy": "CT"}, "ModalitiesInStudy", "values computed from the index"),
        ("IMAGE", {"KVP": "120"}, "KVP", "the files"),
    ],
)
def test_the_report_says_where_a_key_is_matched(level, keys, keyword, place):
    """A column, the row elements, computed values, or the files."""
    (key,) = [each for each in ask(level, **keys).keys if each.attribute.keyword == keyword]
    assert source_of(key.attribute, key.matching) == place
    assert key.attribute.level in QueryLevel


@pytest.mark.parametrize(
    ("plan", "access"),
    [
        (["SCAN study"], ["study: reads the whole table"]),
        (["SEARCH study USING INTEGER PRIMARY KEY (rowid=?)"], ["study: uses its primary key"]),
        (["SCAN patient USING INDEX ix_patient_irregular"], ["patient: uses index ix_patient_irregular"]),
        (["SCAN study USING INDEX sqlite_autoindex_study_1"], ["study: walks along index sqlite_autoindex_study_1"]),
        (["SCAN patient_trigram VIRTUAL TABLE INDEX 0:M3"], ["patient: uses the index of trigrams"]),
        (["SCAN json_each VIRTUAL TABLE INDEX 1:"], []),
        (["Limit", "  ->  Seq Scan on image  (cost=1)"], ["image: reads the whole table"]),
        (["  ->  Bitmap Index Scan on ix_study_study_date"], ["uses index ix_study_study_date"]),
        (["  ->  Index Scan using pk_patient on patient", "        Index Cond: x"], ["patient: uses index pk_patient"]),
        (
            ["  ->  Index Scan using pk_patient on patient", "        Filter: x"],
            ["patient: walks along index pk_patient"],
        ),
    ],
)
def test_plans_are_described_as_text(plan, access):
    """Plans of SQLite and of PostgreSQL."""
    assert query_plan.describe_plan(plan) == tuple(access)
