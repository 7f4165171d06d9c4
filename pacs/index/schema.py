"""The schema of the index: upgrades it by alembic, and refuses an unknown or older schema.

The migrations are beside the package in a checkout and inside it in an installed wheel. They run only from here, on one
connection and in one transaction.
"""

from contextlib import suppress
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

import pacs
from pacs.errors import SchemaMismatch
from pacs.index.database import Index, has_trigrams

UPGRADE_LOCK = 5_031_140_015
"""The PostgreSQL advisory lock against concurrent upgrades; SQLite has one writer anyway."""

TRIGRAM_COLUMNS = ("patient_name", "patient_name_ideographic", "patient_name_phonetic")
"""The columns of `patient` with a trigram index for infix searches."""


def upgrade(index: Index, revision: str = "head") -> None:
    """Upgrade the schema to `revision`. Raises SchemaMismatch when it is newer than this code, IndexUnavailable."""
    with index.write() as connection:
        if not index.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
        _refuse_newer(_revision(connection))
        command.upgrade(_configuration(connection), revision)
        if not index.is_sqlite and revision == "head":
            _index_trigrams(connection)


def downgrade(index: Index, revision: str) -> None:
    """Downgrade the schema to an earlier revision, or to `base`. Raises IndexUnavailable."""
    with index.write() as connection:
        command.downgrade(_configuration(connection), revision)


def current(index: Index) -> str | None:
    """Return the revision of the schema, None without a schema. Raises IndexUnavailable."""
    with index.read() as connection:
        return _revision(connection)


def check(index: Index) -> None:
    """Raise SchemaMismatch, with what to do, unless the schema is that of this code. Raises IndexUnavailable."""
    with index.read() as connection:
        encoding = "UTF8" if index.is_sqlite else connection.execute(text("SHOW server_encoding")).scalar()
        revision = _revision(connection)
    if encoding != "UTF8":
        raise SchemaMismatch("the database is not in UTF8: create it with -E UTF8")
    _refuse_newer(revision)
    if revision is None:
        raise SchemaMismatch("the database has no index yet: run `pacs db upgrade`")
    if revision != head():
        raise SchemaMismatch("the index has an older schema: run `pacs db upgrade`")


def create_or_check(index: Index) -> None:
    """Create the schema of a new SQLite index, only check any other (see `check`)."""
    if index.is_sqlite and current(index) is None:
        upgrade(index)
    check(index)


def upgrade_older(index: Index) -> str:
    """Upgrade an older schema of SQLite at the start of a server; return its revision, '' if there was nothing to do.

    A database server is upgraded by `pacs db upgrade` only, because other servers may use it.
    """
    before = current(index) if index.is_sqlite else None
    if before is None or before == head():
        return ""
    upgrade(index)
    return before


def head() -> str:
    """Return the newest revision that this code knows."""
    revision = _scripts().get_current_head()
    if revision is None:
        raise SchemaMismatch("no migrations found: the installation is incomplete")
    return revision


def migrations() -> Path:
    """Return the folder of the migrations: in the package when installed, beside it in a checkout."""
    package = Path(pacs.__file__).parent
    return next(path for path in (package / "migrations", package.parent / "migrations") if path.is_dir())


def _configuration(connection: Connection | None = None) -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    configuration.set_main_option("path_separator", "os")
    configuration.attributes["connection"] = connection
    return configuration


@cache
def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_configuration())


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(revision: str | None) -> None:
    known = {script.revision for script in _scripts().walk_revisions()}
    if revision is not None and revision not in known:
        raise SchemaMismatch("the index is newer than this pacs: install a newer pacs")


def _index_trigrams(connection: Connection) -> None:
    """Create trigram indexes of names where the server has pg_trgm; not a migration, because servers differ.

    Without the extension, or the right to create it, infix searches read every patient (see `Index.describe`).
    """
    offered = connection.execute(text("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'")).scalar()
    if not offered or has_trigrams(connection):
        return
    with suppress(DBAPIError), connection.begin_nested():
        connection.execute(text("CREATE EXTENSION IF NOT EXISTS pg_trgm"))
        for column in TRIGRAM_COLUMNS:
            connection.execute(text(f"CREATE INDEX trigram_{column} ON patient USING gin ({column} gin_trgm_ops)"))
