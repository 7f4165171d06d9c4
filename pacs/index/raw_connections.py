"""Driver connections outside the pool of SQLAlchemy, for the statements that every received instance needs.

The overhead of SQLAlchemy (pool, events, result) is many times the time of such a statement.
"""

import importlib
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Engine
from sqlalchemy.pool import PoolProxiedConnection

Result = TypeVar("Result")


class RawConnections:
    """Connections of an engine outside its pool, at most `most` of them idle. Thread-safe."""

    def __init__(self, engine: Engine, most: int, prepare: Callable[[Any], object] = lambda _driver: None) -> None:
        """Call `prepare` once with each new driver connection."""
        self._engine = engine
        self._most = most
        self._prepare = prepare
        self._idle: deque[PoolProxiedConnection] = deque()

    def use(self, work: Callable[[Any], Result]) -> Result:
        """Call `work` with a driver connection and return its result; close the connection when it raises.

        Raises the errors of the driver and the engine.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            result = work(connection.dbapi_connection)
        except BaseException:
            connection.close()
            raise
        if len(self._idle) < self._most:
            self._idle.append(connection)
        else:
            connection.close()
        return result

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _connect(self) -> PoolProxiedConnection:
        connection = self._engine.raw_connection()
        connection.detach()
        _take_numbered_parameters(connection.dbapi_connection)
        self._prepare(connection.dbapi_connection)
        return connection


def _take_numbered_parameters(driver: Any) -> None:
    """Let psycopg pass statements on unchanged: it converts long ones with names each time they are executed."""
    if hasattr(driver, "cursor_factory"):
        driver.cursor_factory = importlib.import_module("psycopg").RawCursor
