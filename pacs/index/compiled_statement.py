"""A statement that is compiled once: compiling takes longer than the database needs to run it."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, CursorResult, Dialect
from sqlalchemy.dialects import registry


class CompiledStatement:
    """A statement with named bound parameters; `make` builds it for the name of a dialect."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        self._named = cache(lambda dialect: _compiled(make(dialect), dialect))
        self._numbered = cache(lambda dialect: _compiled(make(dialect), dialect, paramstyle="numeric_dollar"))

    def execute(self, connection: Connection, values: Mapping[str, Any]) -> CursorResult[Any]:
        """Execute it with values of the types that the driver accepts."""
        dialect = connection.dialect.name
        if dialect == "sqlite":
            return connection.exec_driver_sql(*self.text_and_parameters(dialect, values))
        text, order = self._named(dialect)
        return connection.exec_driver_sql(text, {name: values[name] for name in order})

    def first(self, driver: Any, dialect: str, values: Mapping[str, Any]) -> Any:
        """Execute it on one of `RawConnections` and return the first row, None without rows."""
        return driver.execute(*self.text_and_parameters(dialect, values)).fetchone()

    def text_and_parameters(self, dialect: str, values: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
        """Return the text for the driver, and its parameters by their position."""
        text, order = self._named(dialect) if dialect == "sqlite" else self._numbered(dialect)
        return text, tuple([values[name] for name in order])


def _compiled(statement: Any, dialect: str, **style: str) -> tuple[str, tuple[str, ...]]:
    """Return the text for the driver, and the names of the parameters, in their order when they are positional."""
    known: Dialect = registry.load("sqlite" if dialect == "sqlite" else "postgresql.psycopg")(**style)
    compiled = statement.compile(dialect=known)
    return str(compiled), tuple(getattr(compiled, "positiontup", None) or compiled.params)
