"""The cache of compiled statements: they find the same as new statements."""

import pytest

from pacs.dicom.query import Names, Single, Wildcard
from pacs.index import search, statement_cache, statements
from pacs.index.database import Index
from pacs.support.cancellation import Cancellation
from tests.index.instances import IMAGE, PATIENT, SERIES, STUDY, dataset, fill
from tests.index.test_search import query

VALUES = ("P1", "P2", "", "%", "' OR 1=1 --", "\ue000value of PatientID\ue000", "山田", "x" * 2000, "P1\0", "\ud800")


@pytest.fixture
def filled(index: Index) -> Index:
    """Two patients; one of them has a series that is irregular."""
    fill(
        index,
        dataset(1, AccessionNumber="A1", Modality="CT"),
        dataset(2, PatientID="P2", StudyInstanceUID="1.9", SeriesInstanceUID="1.9.1", AccessionNumber=["A1", "A2"]),
    )
    return index


@pytest.mark.parametrize("unknown_matches", [False, True])
@pytest.mark.parametrize("value", VALUES)
def test_a_cached_statement_finds_the_same_as_a_new_one(filled: Index, value: str, unknown_matches: bool):
    """For any value, at each level, the first time and again; a value is never part of the statement."""
    for level in (PATIENT, STUDY, SERIES, IMAGE):
        asked = query(level, {"PatientID": Single((value,))}, unknown_matches=unknown_matches)
        with filled.read() as connection:
            expected = connection.execute(statements.page(asked, None, 10)).all()
            for _ in range(2):
                assert statement_cache.execute(connection, statements.page, asked, None, 10) == expected


def test_several_keys_keep_their_values_apart(filled: Index):
    """Each value is bound to its key."""
    keys = {"PatientID": Single(("P1",)), "AccessionNumber": Single(("A1",)), "StudyInstanceUID": Single(("1.2.1",))}
    for missing in (None, *keys):
        other = keys | ({missing: Single(("none",))} if missing else {})
        found = list(search.matches(filled, query(STUDY, other), Cancellation()))
        assert len(found) == (missing is None)


def test_only_statements_of_single_values_are_cached(filled: Index):
    """Statements of a list, a wild card and a name are built each time."""
    statement_cache._compiled.cache_clear()
    for number in range(20):
        for matching in (Single(("P1", f"P{number}")), Wildcard((f"P{number}*",))):
            list(search.matches(filled, query(STUDY, {"PatientID": matching}), Cancellation()))
        list(search.matches(filled, query(STUDY, {"PatientName": Names(((f"*doe{number}*",),))}), Cancellation()))
    assert statement_cache._compiled.cache_info().currsize == 0
    for number in range(20):
        list(search.matches(filled, query(STUDY, {"PatientID": Single((f"P{number}",))}), Cancellation()))
    assert 0 < statement_cache._compiled.cache_info().currsize <= 3
