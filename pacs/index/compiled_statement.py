"""A statement that is compiled once: compiling takes longer than the database needs to run it."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, CursorResult, Dialect
from sqlalchemy.dialects import registry


class CompiledStatement:
    """A statement with named bound parameters; `make` builds it for the name of a dialect."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        self._compiled = cache(lambda dialect: _compiled(make(dialect), dialect))

    def execute(self, connection: Connection, values: Mapping[str, Any]) -> CursorResult[Any]:
        """Execute it with values of the types that the driver accepts."""
        return connection.exec_driver_sql(*self._text_and_parameters(connection.dialect.name, values))

    def first(self, driver: Any, dialect: str, values: Mapping[str, Any]) -> Any:
        """Execute it on a driver connection and return the first row, None without rows."""
        return driver.execute(*self._text_and_parameters(dialect, values)).fetchone()

    def _text_and_parameters(self, dialect: str, values: Mapping[str, Any]) -> tuple[str, Any]:
        text, order = self._compiled(dialect)
        return text, dict(values) if order is None else tuple([values[name] for name in order])


def _compiled(statement: Any, dialect: str) -> tuple[str, tuple[str, ...] | None]:
    """Return the text for the driver, and the order of the parameters when they are positional."""
    known: Dialect = registry.load("sqlite" if dialect == "sqlite" else "postgresql.psycopg")()
    compiled = statement.compile(dialect=known)
    order = getattr(compiled, "positiontup", None)
    return str(compiled), None if order is None else tuple(order)
