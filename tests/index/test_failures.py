"""What is said when the index cannot be written or reached: by real failures of both databases."""

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, event, make_url, text

from pacs.errors import IndexUnavailable
from pacs.index import failures, schema, writer
from pacs.index.database import Index
from tests.databases import opened, postgres_database
from tests.index.instances import new_instance


def test_every_sentence_fits_into_an_error_comment():
    """At most 64 characters (LO), and none has a path."""
    for said in failures.SENTENCES.values():
        assert len(said) <= 64, said
        assert "/" not in said
    assert set(failures.CONNECTING.values()) <= set(failures.SENTENCES)


def as_nobody(work: Callable[[], str]) -> str:
    """Return the result of a function that runs in a process of its own, as a user without rights if this is root."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(write_end, work().encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as said:
        found = said.read()
    os.waitpid(pid, 0)
    return found


def reasons(path: Path) -> str:
    """Return what a start, a store, and /readyz say about an index, each on a line."""
    index = Index(f"sqlite:///{path}", wait=0.1)
    found = []
    for attempt in (index.probe, index.probe_writing, lambda: writer.add(index, new_instance()), index.check_writable):
        try:
            attempt()
            found.append("")
        except IndexUnavailable as error:
            found.append(error.comment)
    return "\n".join(found)


READ_ONLY_FILE = "the file of the index is read-only: check its owner and mode"
READ_ONLY_FOLDER = "the folder of the index is read-only: check its owner and mode"
CLOSED = "the file of the index cannot be opened: check owner and mode"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Create a folder that every user can enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="pacs-open-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize(
    ("of_file", "of_folder", "said", "ready"),
    [
        (0o444, 0o777, READ_ONLY_FILE, READ_ONLY_FILE),
        (0o666, 0o555, READ_ONLY_FOLDER, READ_ONLY_FOLDER),
        (0o000, 0o777, CLOSED, CLOSED),
        (0o666, 0o000, CLOSED, "the file of the index cannot be reached (Permission denied)"),
    ],
    ids=["read-only file", "read-only folder", "file of another user", "folder of another user"],
)
def test_rights_on_the_file(
    open_folder: Path, sqlite_template: Path, of_file: int, of_folder: int, said: str, ready: str
):
    """At the start with the path and what SQLite says, in a response without."""
    path = open_folder / "index" / "pacs.db"
    path.parent.mkdir()
    path.write_bytes(sqlite_template.read_bytes())
    path.chmod(of_file)
    path.parent.chmod(of_folder)
    try:
        opened, written, stored, is_ready = as_nobody(lambda: reasons(path)).split("\n")
    finally:
        path.parent.chmod(0o755)
    start = opened or written
    assert start.startswith(f"the index cannot be {'opened' if opened else 'written'}: {said} (")
    assert start.endswith(f"; check {path}")
    assert stored == said
    assert is_ready in (said, ready)


def test_a_full_disk_of_sqlite(tmp_path: Path, sqlite_template: Path):
    """As SQLite says it where its file may not grow."""
    path = tmp_path / "pacs.db"
    path.write_bytes(sqlite_template.read_bytes())
    index = Index(f"sqlite:///{path}")
    pages = sqlite3.connect(path).execute("PRAGMA page_count").fetchone()[0]
    event.listen(index._engine, "connect", lambda driver, _: driver.execute(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(IndexUnavailable, match="the disk of the index is full: free some space"):
        for number in range(2000):
            writer.add(index, new_instance(number, ImageComments="x" * 1000))
    index.close()


def test_a_damaged_file(tmp_path: Path):
    """Not an SQLite database."""
    (tmp_path / "pacs.db").write_bytes(b"this is no database, and longer than a header of SQLite has to be" * 20)
    with opened(f"sqlite:///{tmp_path}/pacs.db") as index, pytest.raises(IndexUnavailable, match="no SQLite database"):
        index.probe()


# --- PostgreSQL --------------------------------------------------------------------------------------------------


@pytest.fixture
def database(postgres_server: URL, postgres_template: str) -> Iterator[URL]:
    """A database with the tables of an index, and a role `reader` that may only read them."""
    with postgres_database(postgres_server, template=postgres_template) as url, administering(url) as run:
        name = f"reader_{os.getpid()}"
        run(f"CREATE ROLE {name} LOGIN")
        run(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
        yield make_url(url).set(username=name)
        run(f"DROP OWNED BY {name}")
        run(f"DROP ROLE {name}")


@contextmanager
def administering(url: str) -> Iterator[Callable[[str], object]]:
    """Yield a function that runs a statement as the owner of a database."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield lambda statement: connection.execute(text(statement))
    engine.dispose()


def said_by(index: Index) -> tuple[str, str, str]:
    """Return what a start, a store and /readyz say about an index that cannot be written."""
    found = []
    for attempt in (index.probe_writing, lambda: writer.add(index, new_instance()), index.check_writable):
        with pytest.raises(IndexUnavailable) as raised:
            attempt()
        found.append(raised.value.comment)
    return found[0], found[1], found[2]


def test_a_role_without_rights(database: URL):
    """Reading works."""
    with opened(database.render_as_string(hide_password=False)) as index:
        index.probe()
        schema.check(index)
        start, *others = said_by(index)
    said = "the database user lacks rights on the tables of the index"
    assert others == [said, said]
    assert start.startswith(f"the index cannot be written: {said} (permission denied for table image)")


def test_a_read_only_database(postgres_server: URL, postgres_template: str):
    """As a standby, which has the same SQLSTATE."""
    with postgres_database(postgres_server, template=postgres_template) as url:
        with administering(url) as run:
            run(f"ALTER DATABASE {make_url(url).database} SET default_transaction_read_only = on")
        with opened(url) as index:
            start, *others = said_by(index)
    said = "the database is read-only: a standby, or set so for the user"
    assert others == [said, said]
    assert f"{said} (cannot execute UPDATE in a read-only transaction)" in start


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("53100", "the disk of the database is full: free some space"),
        ("53300", "the database has no free connection: try again later"),
        ("57P01", "the database is starting or stopping: try again later"),
        ("XX000", "the index does not respond: try again later"),
    ],
)
def test_errors_while_the_database_runs(postgres_index: Index, code: str, said: str):
    """Raised in the database with the SQLSTATE of the failure."""
    raising = text(f"DO $$ BEGIN RAISE EXCEPTION 'DOE^JOHN' USING ERRCODE = '{code}'; END $$")
    with pytest.raises(IndexUnavailable) as raised, postgres_index.write() as connection:
        connection.execute(raising)
    assert raised.value.comment == said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"database": "nowhere"}, "the database of database.url does not exist: create it"),
        ({"username": "nobody_here"}, "the database refuses the user or password of database.url"),
        ({"query": {"host": "/nowhere"}}, "the database cannot be reached: check that its server runs"),
    ],
    ids=["no database", "no such user", "no server"],
)
def test_failures_to_connect(database: URL, change: dict[str, str], said: str):
    """At the start with what the driver says; the password is never in it."""
    url = database.set(password="hush", **change)
    with opened(url.render_as_string(hide_password=False)) as index:
        with pytest.raises(IndexUnavailable) as raised:
            index.probe()
        with pytest.raises(IndexUnavailable) as stored:
            writer.find(index, "1.2")
    assert raised.value.comment.startswith(f"the index cannot be opened: {said} (connection")
    assert "hush" not in raised.value.comment
    assert stored.value.comment == said


def test_too_many_connections(database: URL, postgres_server: URL):
    """The role may have none left."""
    with administering(postgres_server.render_as_string(hide_password=False)) as run:
        run(f"ALTER ROLE {database.username} CONNECTION LIMIT 0")
    with opened(database.render_as_string()) as index, pytest.raises(IndexUnavailable) as raised:
        writer.find(index, "1.2")
    assert raised.value.comment == "the database has no free connection: try again later"
