"""Connections of the driver itself, held for good: for the statements that every arriving instance needs.

What SQLAlchemy does around a statement (the pool, the events, the result) takes many times what such a statement takes.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Engine
from sqlalchemy.pool import PoolProxiedConnection

Result = TypeVar("Result")


class RawConnections:
    """Connections of an engine outside of its pool, at most `most` of them at rest; safe to use from many threads."""

    def __init__(self, engine: Engine, most: int, prepare: Callable[[Any], object] = lambda _driver: None) -> None:
        """`prepare` is called once with each connection of the driver."""
        self._engine = engine
        self._most = most
        self._prepare = prepare
        self._resting: deque[PoolProxiedConnection] = deque()

    def use(self, work: Callable[[Any], Result]) -> Result:
        """What `work` returns of a connection as the driver has it; one of which it raised is closed.

        Raises what the driver and the engine raise.
        """
        try:
            connection = self._resting.pop()
        except IndexError:
            connection = self._connected()
        try:
            result = work(connection.dbapi_connection)
        except BaseException:
            connection.close()
            raise
        if len(self._resting) < self._most:
            self._resting.append(connection)
        else:
            connection.close()
        return result

    def close(self) -> None:
        """Close those at rest."""
        while self._resting:
            self._resting.pop().close()

    def _connected(self) -> PoolProxiedConnection:
        connection = self._engine.raw_connection()
        connection.detach()
        self._prepare(connection.dbapi_connection)
        return connection
