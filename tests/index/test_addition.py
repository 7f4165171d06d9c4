"""Agreeing instances: few statements, all rows or none, and a memory that is never trusted."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from uuid import uuid4

import pytest
from sqlalchemy import event, func, select, text

from pacs.errors import IndexUnavailable
from pacs.index import addition, writer
from pacs.index.compiled_statement import CompiledStatement
from pacs.index.database import Index
from pacs.index.tables import TABLES, patient, series, study
from tests.index.instances import new_instance

PATIENCE = 60.0


@contextmanager
def statements(index: Index, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Note the table that each statement writes, or its first word."""
    said: list[str] = []
    event.listen(index._engine, "before_cursor_execute", lambda *arguments: said.append(arguments[2].split()[0]))
    first = CompiledStatement.first

    def noting(self: CompiledStatement, driver, dialect: str, values):
        words = self.text_and_parameters(dialect, values)[0].split()
        said.append(words[2] if words[0] == "INSERT" else words[0])
        return first(self, driver, dialect, values)

    with monkeypatch.context() as patched:
        patched.setattr(CompiledStatement, "first", noting)
        yield said


def counts(index: Index) -> tuple[int, ...]:
    """Return how many patients, studies, series and images there are."""
    with index.read() as connection:
        return tuple(
            connection.execute(select(func.count()).select_from(table)).scalar_one() for table in TABLES.values()
        )


@pytest.mark.parametrize("known", [0, 1, 2], ids=["new patient", "new study", "new series"])
def test_an_instance_that_opens_a_series_needs_no_query(index: Index, monkeypatch, known: int):
    """One statement on PostgreSQL, one for each table on SQLite, and none by SQLAlchemy."""
    new = {"SeriesInstanceUID": f"2.25.{uuid4().int}"}
    if known < 2:
        new["StudyInstanceUID"] = f"1.2.9{known}"
    if known < 1:
        new["PatientID"] = "P9"
    writer.add(index, new_instance(1))
    with statements(index, monkeypatch) as said:
        assert writer.add(index, new_instance(2, **new)) == ()
    assert said == (["patient", "study", "series", "image"] if index.is_sqlite else ["WITH"])
    assert counts(index) == (2 - (known > 0), 2 - (known > 1), 2, 2)


def test_a_series_that_lacks_elements_of_its_study_needs_one_statement_for_each_image(index: Index, monkeypatch):
    """After the first ones; the row may have more elements than the instance."""
    writer.add(index, new_instance(1, StudyDescription="CHEST", PatientComments="A"))
    other = {"SeriesInstanceUID": "1.2.1.2", "StudyID": "7"}
    for number in (2, 3):
        writer.add(index, new_instance(number, **other))
    with statements(index, monkeypatch) as said:
        assert writer.add(index, new_instance(4, **other)) == ()
    assert said == ["image"]
    with index.read() as connection:
        assert tuple(connection.execute(select(study.c.study_description, study.c.study_id)).one()) == ("CHEST", "7")


def test_a_row_that_has_been_emptied_is_filled_again(index: Index):
    """What is remembered of its elements is compared with the row."""
    rich, poor = new_instance(1, StudyDescription="CHEST"), new_instance(2, StudyID="7")
    writer.add(index, rich)
    writer.add(index, poor)
    writer.remove(index, [each.header.sop_instance_uid for each in (rich, poor)])
    writer.add(index, rich)
    writer.add(index, new_instance(3, StudyID="7"))
    with index.read() as connection:
        assert tuple(connection.execute(select(study.c.study_description, study.c.study_id)).one()) == ("CHEST", "7")


def test_a_series_that_was_rolled_back_is_not_trusted(index: Index):
    """The next image of it adds the parents again."""

    def fail(driver) -> bool:
        assert addition.insert(driver, index.dialect, new_instance(1))
        raise ZeroDivisionError

    with pytest.raises(IndexUnavailable):
        index.run_shared(fail)
    assert counts(index) == (0, 0, 0, 0)
    assert writer.add(index, new_instance(2)) == ()
    assert counts(index) == (1, 1, 1, 1)


def test_a_series_that_another_process_deletes_is_not_trusted(index: Index):
    """The next image of it adds the parents again."""
    writer.add(index, new_instance(1))
    with index.write() as connection:
        for table in reversed(TABLES.values()):
            connection.execute(table.delete())
    assert writer.add(index, new_instance(2)) == ()
    assert counts(index) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        ({}, {"PatientID": "P2", "SeriesInstanceUID": "1.2.1.2"}, (1, 1, 2, 2)),
        ({}, {"PatientID": "P2", "StudyInstanceUID": "1.2.2"}, (1, 1, 1, 2)),
        ({}, {"StudyInstanceUID": "1.2.2"}, (1, 1, 1, 2)),
        ({}, {}, (1, 1, 1, 2)),
        ({"PatientName": "DOE"}, {"PatientComments": "X", "StudyInstanceUID": "1.2.2", "SeriesInstanceUID": "1.2.2.1"},
         (1, 2, 2, 2)),
    ],
    ids=["study of another patient", "series of another patient", "series of another study", "series", "patient"],
)  # fmt: skip
def test_rows_that_another_transaction_inserts_meanwhile_leave_no_childless_parent(
    postgres_index: Index, first: dict[str, str], second: dict[str, str], left: tuple[int, ...]
):
    """The second instance waits for the first, and nothing stays of what it inserted before."""
    with (
        ThreadPoolExecutor(1) as pool,
        closing(Index(str(postgres_index.url.render_as_string(hide_password=False)))) as other,
    ):

        def add_while_another_waits(driver) -> Future:
            assert addition.insert(driver, "postgresql", new_instance(1, **first))
            adding = pool.submit(writer.add, other, new_instance(2, **second))
            await_blocked(postgres_index)
            return adding

        adding = postgres_index.run_shared(add_while_another_waits)
        assert bool(adding.result(PATIENCE)) == (left[:3] != (1, 2, 2) and bool(second))
    assert counts(postgres_index) == left
    with postgres_index.read() as connection:
        childless = [
            connection.execute(
                select(func.count()).select_from(parent.outerjoin(child)).where(child.c.id.is_(None))
            ).scalar()
            for parent, child in ((patient, study), (study, series))
        ]
    assert childless == [0, 0]


def await_blocked(index: Index) -> None:
    """Wait until a transaction of the database waits for another."""
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0")
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with index.read() as connection:
            if connection.execute(waiting).scalar():
                return
        threading.Event().wait(0.01)
    raise AssertionError("no transaction waits")
