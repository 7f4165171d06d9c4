"""Statements that never change, compiled once: to put one together takes longer than the database needs for it."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, CursorResult, Dialect
from sqlalchemy.dialects import registry


class CompiledStatement:
    """A statement of named bound parameters, which `make` gives for the name of a dialect."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        self._compiled = cache(lambda dialect: _compiled(make(dialect), dialect))

    def execute(self, connection: Connection, values: Mapping[str, Any]) -> CursorResult[Any]:
        """Run it with values for its parameters, of the types the driver takes."""
        return connection.exec_driver_sql(*self._filled(connection.dialect.name, values))

    def first(self, driver: Any, dialect: str, values: Mapping[str, Any]) -> Any:
        """The first row it gives on a connection of the driver itself, None when there is none."""
        return driver.execute(*self._filled(dialect, values)).fetchone()

    def _filled(self, dialect: str, values: Mapping[str, Any]) -> tuple[str, Any]:
        text, order = self._compiled(dialect)
        return text, dict(values) if order is None else tuple([values[name] for name in order])


def _compiled(statement: Any, dialect: str) -> tuple[str, tuple[str, ...] | None]:
    """The text as the driver takes it, and the names of its parameters where they go by place."""
    known: Dialect = registry.load("sqlite" if dialect == "sqlite" else "postgresql.psycopg")()
    compiled = statement.compile(dialect=known)
    order = getattr(compiled, "positiontup", None)
    return str(compiled), None if order is None else tuple(order)
