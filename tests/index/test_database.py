"""The database: URLs, transactions, interruption of statements, and errors."""

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import CompoundSelect, Select, create_engine, text

from pacs.dicom.query import Matching, Names, Range, Single, Wildcard
from pacs.errors import Cancelled, ConfigurationError, IndexUnavailable
from pacs.index import search, statements, writer
from pacs.index.database import Index
from pacs.support.cancellation import Cancellation
from tests.databases import opened
from tests.index.instances import IMAGE, PATIENT, STUDY, new_instance
from tests.index.test_search import query

ENDLESS = {
    "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n",
    "postgresql": "SELECT count(*) FROM generate_series(1, 1000000000000) a, generate_series(1, 1000000) b",
}


@pytest.mark.parametrize(
    "url",
    ["", "pacs.db", "mysql://localhost/pacs", "sqlite://", "sqlite:///:memory:", "postgresql+asyncpg://h/d", "://"],
)
def test_an_unsupported_url_is_refused_with_the_supported_ones(url: str):
    """The error names the supported databases."""
    with pytest.raises(ConfigurationError, match="sqlite:///"):
        Index(url)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_a_bare_postgresql_url_gets_its_driver(scheme: str):
    """The URL of other programs works too, and its password is never shown."""
    with opened(f"{scheme}://user:secret@127.0.0.1:1/pacs") as index:
        assert index.url.drivername == "postgresql+psycopg"
        assert not index.is_sqlite
        with pytest.raises(IndexUnavailable) as raised:
            index.describe()
        assert "secret" not in str(raised.value)


def test_the_folder_of_a_sqlite_file_is_created(tmp_path: Path):
    """The first start creates the folder; the error names a folder that cannot be created."""
    with opened(f"sqlite:///{tmp_path}/new/folder/pacs.db") as index:
        index.describe()
    assert (tmp_path / "new/folder/pacs.db").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(IndexUnavailable, match="folder"):
        Index(f"sqlite:///{tmp_path}/file/pacs.db")


def test_sqlite_is_durable_checks_its_references_and_lets_readers_read(tmp_path: Path):
    """A commit is synced, foreign keys are enforced, and a writer does not block readers."""
    with opened(f"sqlite:///{tmp_path}/pacs.db") as index, index.read() as connection:
        asked = ("journal_mode", "synchronous", "foreign_keys")
        assert [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in asked] == ["wal", 2, 1]


def test_a_failing_transaction_is_rolled_back(index: Index):
    """Earlier writes are rolled back, and the error is raised unchanged."""
    with pytest.raises(ZeroDivisionError), index.write() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
        raise ZeroDivisionError
    with index.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 1


def test_a_read_transaction_sees_one_snapshot(index: Index):
    """An instance that is added between two statements of a page is not in the second."""
    count = text("SELECT count(*) FROM image")
    with index.read() as connection:
        assert connection.execute(count).scalar() == 0
        writer.add(index, new_instance())
        assert connection.execute(count).scalar() == 0
    with index.read() as connection:
        assert connection.execute(count).scalar() == 1


def test_database_failures_are_one_error_without_the_text_of_the_driver(index: Index):
    """The error of the driver is the cause; the comment is short and quotes nothing."""
    with pytest.raises(IndexUnavailable) as raised, index.read() as connection:
        connection.execute(text("SELECT 'DOE^JOHN' FROM nowhere"))
    assert raised.value.__cause__ is not None
    assert len(raised.value.comment) <= 64
    assert "DOE" not in str(raised.value)


def test_waiting_for_a_connection_has_a_timeout(database_url: str):
    """When all connections are in use, the next caller gets IndexUnavailable."""
    index = Index(database_url, connections=1, wait=0.05)
    with index.read(), pytest.raises(IndexUnavailable, match="too many concurrent operations"), index.read():
        pass
    index.close()


def test_waiting_for_the_write_lock_has_a_timeout(tmp_path: Path):
    """SQLite has one writer: waiting for another thread or process ends after the timeout."""
    with opened(f"sqlite:///{tmp_path}/pacs.db") as index:
        index.describe()
    index = Index(f"sqlite:///{tmp_path}/pacs.db", wait=0.05)
    with index.write(), pytest.raises(IndexUnavailable, match="busy"), index.write():
        pass
    stranger = sqlite3.connect(tmp_path / "pacs.db", isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    with pytest.raises(IndexUnavailable), index.write():
        pass
    stranger.close()
    with index.write():
        pass
    index.close()


def test_waiting_for_a_database_lock_has_a_timeout(postgres_index: Index):
    """PostgreSQL by itself would wait forever."""
    engine = create_engine(postgres_index.url)
    index = Index(postgres_index.url.render_as_string(hide_password=False), wait=0.05)
    with engine.begin() as locker:
        locker.execute(text("LOCK TABLE image IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(IndexUnavailable):
            writer.find(index, "1.2.3")
    assert writer.find(index, "1.2.3") is None
    index.close()
    engine.dispose()


def test_a_lost_connection_is_replaced(postgres_index: Index):
    """When the server drops its connections, only current work fails."""
    index = postgres_index
    with pytest.raises(IndexUnavailable), index.read() as connection:
        mine = connection.execute(text("SELECT pg_backend_pid()")).scalar()
        with index.write() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": mine})
        connection.execute(text("SELECT 1"))
    assert index.describe()["database"] == "PostgreSQL"


# --- cancelling --------------------------------------------------------------------------------------------------


def _cancel_soon(cancellation: Cancellation) -> threading.Timer:
    timer = threading.Timer(0.05, cancellation.cancel, ["C-CANCEL"])
    timer.start()
    return timer


def test_x1_a_cancellation_interrupts_an_endless_statement(index: Index):
    """The search is interrupted, the error has the reason, and the index still works."""
    cancellation = Cancellation()
    timer = _cancel_soon(cancellation)
    stopped = pytest.raises(Cancelled, match="C-CANCEL")
    with stopped, index.interruptible(cancellation) as connection:
        connection.execute(text(ENDLESS[connection.dialect.name])).scalar()
    timer.join()
    for _ in range(3):
        assert writer.find(index, "1.2.3") is None


def test_x1_a_cancellation_interrupts_a_search(postgres_index: Index):
    """A cancellation ends a search that waits for a locked table."""
    index = postgres_index
    writer.add(index, new_instance())
    cancellation = Cancellation()
    engine = create_engine(index.url)
    with engine.begin() as locker:
        locker.execute(text("LOCK TABLE image IN ACCESS EXCLUSIVE MODE"))
        timer = _cancel_soon(cancellation)
        with pytest.raises(Cancelled):
            next(search.matches(index, query(IMAGE), cancellation))
        timer.join()
    engine.dispose()
    assert len(list(search.matches(index, query(IMAGE), Cancellation()))) == 1


def test_x1_a_cancellation_before_the_statement_begins_is_not_lost(index: Index):
    """The interruption is repeated until the statement has begun."""
    cancellation = Cancellation()
    with pytest.raises(Cancelled), index.interruptible(cancellation) as connection:
        cancellation.cancel("C-CANCEL")
        threading.Event().wait(0.1)
        connection.execute(text(ENDLESS[connection.dialect.name])).scalar()


def test_x4_a_late_cancellation_does_not_interrupt_another_statement(index: Index):
    """After the block, a late cancellation does not reach the next user of the connection."""
    cancellation = Cancellation()
    with index.interruptible(cancellation) as connection:
        connection.execute(text("SELECT 1"))
    cancellation.cancel("late")
    with index.read() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1


# --- where a search begins ---------------------------------------------------------------------------------------


def _plan(index: Index, statement: Select[Any] | CompoundSelect[Any]) -> str:
    """Return the plan of a statement, with sequential scans discouraged."""
    with index.read() as connection:
        if not index.is_sqlite:
            connection.execute(text("SET LOCAL enable_seqscan = off"))
            connection.execute(text("SET LOCAL enable_indexscan = off"))
        spelled = statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        explain = "EXPLAIN QUERY PLAN" if index.is_sqlite else "EXPLAIN"
        rows = connection.execute(text(f"{explain} {str(spelled).replace(':', chr(92) + ':')}"))
        return "\n".join(str(row[-1]) for row in rows)


def test_an_infix_search_of_names_uses_trigrams(index: Index):
    """The trigram index is used for infixes of at least three characters."""
    if index.describe()["infix search of names"] == "not indexed":
        pytest.skip("this server has no pg_trgm")
    trigrams = "patient_trigram" if index.is_sqlite else "trigram_patient_name"
    asked = [query(PATIENT, {"PatientName": Names(((pattern,),))}) for pattern in ("*doe*", "*do*")]
    begins = [
        statements.few_rows(each, PATIENT, 10) if index.is_sqlite else statements.page(each, None, 10) for each in asked
    ]
    long, short = (_plan(index, begin) for begin in begins)
    assert trigrams in long
    if index.is_sqlite:  # PostgreSQL without sequential scans has nothing better
        assert trigrams not in short


@pytest.mark.parametrize(
    ("keyword", "matching", "expected"),
    [
        ("AccessionNumber", Single(("A1",)), "ix_study_accession_number"),
        ("StudyDate", Range("20200101", "20200102"), "ix_study_study_date"),
        ("StudyID", Wildcard(("AB*",)), "ix_study_study_id"),
    ],
)
def test_selective_keys_use_their_indexes(index: Index, keyword: str, matching: Matching, expected: str):
    """A value, a range and a prefix use an index."""
    assert expected in _plan(index, statements.few_rows(query(STUDY, {keyword: matching}), STUDY, 10))
