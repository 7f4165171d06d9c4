"""Matching agrees with a simple model of PS3.4 C.2.2.2: row by row, and in SQL on both databases."""

from collections.abc import Callable
from io import BytesIO

import pytest
from hypothesis import HealthCheck, given, settings

from pacs.dicom import row_elements
from pacs.dicom.dataset import EXPLICIT_LITTLE, View, write
from pacs.dicom.header import read_header
from pacs.dicom.identifier import parse_query
from pacs.dicom.levels import QueryLevel, Root
from pacs.dicom.matching import matches, matches_combined
from pacs.dicom.matching_mode import STRICT, TOLERANT, Negotiated
from pacs.dicom.query import Query
from pacs.index import search, writer
from pacs.index.database import Index
from pacs.support.cancellation import Cancellation
from tests.dicom.build import dataset
from tests.properties import model
from tests.properties.model import MARKS, Question, Values
from tests.properties.strategies import cases

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"

Answers = Callable[[list[Values], list[Question]], list[set[str]]]
"""An implementation: returns for each question the marks of the entities that match."""


def asked(question: Question) -> Query:
    """Return the query of a question."""
    keys = {QueryLevel[question.level].unique_key: "", **question.keys}
    mode = STRICT if question.unknown_matches else TOLERANT
    negotiated = Negotiated(
        relational=True, combined_date_time=question.combined, empty_values=True, multiple_values=True
    )
    identifier = dataset("ISO_IR 192", QueryRetrieveLevel=question.level, **keys)
    return parse_query(identifier, Root.PATIENT, mode, negotiated)


def stored(instance: Values):
    """Return the data set of an instance."""
    return dataset("ISO_IR 192", SOPClassUID=CT, **instance)


def answers_by_rows(archive: list[Values], questions: list[Question]) -> list[set[str]]:
    """Row by row (`pacs.dicom.matching`), over rows merged as the index merges them."""
    rows: dict[tuple[QueryLevel, str], bytes] = {}
    for instance in archive:
        for level in QueryLevel:
            own = (level, instance[MARKS[level.name]])
            arrived = row_elements.encode(row_elements.select(level, stored(instance)))
            rows[own] = row_elements.merge(rows[own], arrived) if own in rows else arrived
    return [
        {mark for mark in _marks(archive, question) if _is_found(archive, question, mark, rows)}
        for question in questions
    ]


def _marks(archive: list[Values], question: Question) -> set[str]:
    return {instance[MARKS[question.level]] for instance in archive}


def _is_found(archive: list[Values], question: Question, mark: str, rows: dict[tuple[QueryLevel, str], bytes]) -> bool:
    query = asked(question)
    instance = next(each for each in archive if each[MARKS[question.level]] == mark)
    elements = {level: row_elements.decode(rows[level, instance[MARKS[level.name]]]) for level in QueryLevel}
    series = {
        each["SeriesInstanceUID"]: each for each in archive if each["StudyInstanceUID"] == instance["StudyInstanceUID"]
    }
    of_series = [row_elements.decode(rows[QueryLevel.SERIES, uid]) for uid in series]
    modalities = [str(each.get_item("Modality").value.decode()) for each in of_series if "Modality" in each]
    computed = {
        "NumberOfStudyRelatedSeries": len(series),
        "ModalitiesInStudy": tuple({part.strip() for text in modalities for part in text.split("\\") if part.strip()}),
    }
    return not query.nothing_matches and (
        all(matches(key, elements, computed, query.unknown_matches) for key in query.keys)
        and all(matches_combined(each, elements, query.unknown_matches) for each in query.combined)
    )


def answers_by_index(index: Index) -> Answers:
    """In SQL (`pacs.index.search`)."""

    def answers(archive: list[Values], questions: list[Question]) -> list[set[str]]:
        for number, instance in enumerate(archive):
            writer.add(index, _new_instance(number, instance))
        try:
            return [_found(index, question) for question in questions]
        finally:
            writer.remove(index, [instance["SOPInstanceUID"] for instance in archive])

    return answers


def _new_instance(number: int, instance: Values) -> writer.NewInstance:
    body = write(View.of(stored(instance)), EXPLICIT_LITTLE)
    header = read_header(BytesIO(body), EXPLICIT)
    return writer.NewInstance(header, f"file{number:04}", len(body), "00" * 32, EXPLICIT, 0, number, "TEST")


def _found(index: Index, question: Question) -> set[str]:
    level = QueryLevel[question.level]
    marks = []
    for match in search.matches(index, asked(question), Cancellation(), page=2):
        element = row_elements.decode(match.kept[level])[MARKS[question.level]]
        marks.append(str(element.value))
    assert len(marks) == len(set(marks)), "an entity is answered twice"
    return set(marks)


def check(answers: Answers, case: tuple[list[Values], list[Question]]) -> None:
    """Check that an implementation and the model agree on every question."""
    archive, questions = case
    for question, found in zip(questions, answers(archive, questions), strict=True):
        assert found == model.answer(archive, question), question


@settings(max_examples=400, deadline=None)
@given(cases())
def test_matching_row_by_row_agrees_with_the_model(case):
    """The same entities as the plain model's, for any archive and any question."""
    check(answers_by_rows, case)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(case=cases())
def test_matching_in_sql_agrees_with_the_model(index, case):
    """On SQLite and on PostgreSQL, in pages of two."""
    check(answers_by_index(index), case)


@pytest.mark.long
@pytest.mark.timeout(1800)
@settings(max_examples=2500, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_matching_in_sql_agrees_with_the_model_at_length(index, case):
    """The same with many more archives and questions."""
    check(answers_by_index(index), case)


def test_at_least_a_third_of_the_queries_match():
    """Otherwise the comparison would prove little."""
    hits = []

    @settings(max_examples=300, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases())
    def ask(case):
        archive, questions = case
        hits.extend(bool(model.answer(archive, question)) for question in questions if any(question.keys.values()))

    ask()
    assert len(hits) > 300
    assert sum(hits) * 3 >= len(hits)
