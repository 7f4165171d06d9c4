"""Units of work of many threads, gathered into one transaction when they come together.

Whoever comes first leads: it runs what has queued up until its transaction could begin, commits, and hands over to
who is first in the queue then. Nobody waits for others to come, so that a lone one is served as if there were no queue.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pacs.errors import IndexUnavailable

Result = TypeVar("Result")
Work = Callable[[Connection], Result]

MOST = 64
"""How many units of work share a transaction at most."""


class _Unit:
    """One unit of work in the queue. `turn` is held until its thread has something to do."""

    def __init__(self, work: Work[Any]) -> None:
        self.work = work
        self.turn = threading.Lock()
        self.turn.acquire()
        self.leads = False
        """Whether its thread is to run what is in the queue."""
        self.runs_alone = False
        """Whether somebody who shared its transaction spoiled it."""
        self.result: Any = None
        self.error: Exception | None = None


class Gathering:
    """A queue before `transact`, which runs one unit of work in one transaction. Any thread may use it."""

    def __init__(self, transact: Callable[[Work[Any]], Any]) -> None:
        self._transact = transact
        self._lock = threading.Lock()
        self._queue: deque[_Unit] = deque()
        self._is_led = False

    def run(self, work: Work[Result]) -> Result:
        """Run `work` in a transaction that others may share; return what it returns once that is committed.

        Work that raises spoils nobody else's: each of those who shared the transaction is run again, alone. What the
        database cannot do for one it cannot do for any of them: all get IndexUnavailable.
        """
        unit = _Unit(work)
        with self._lock:
            self._queue.append(unit)
            unit.leads, self._is_led = not self._is_led, True
        if not unit.leads:
            unit.turn.acquire()
        if unit.leads:
            self._lead(unit)
        if unit.runs_alone:
            return self._transact(work)  # type: ignore[no-any-return]
        if unit.error is not None:
            raise unit.error
        return unit.result  # type: ignore[no-any-return]

    def _lead(self, leader: _Unit) -> None:
        """Run the leader's work and that of those behind it in the queue, and let the next one lead."""
        units = self._arrived(1)
        try:
            self._run(units)
        finally:
            with self._lock:
                self._is_led = bool(self._queue)
                if self._is_led:
                    self._queue[0].leads = True
                    self._queue[0].turn.release()
            for unit in units:
                if unit is not leader:
                    unit.turn.release()

    def _run(self, units: list[_Unit]) -> None:
        """Run the work of `units`, and of those who come before the transaction has begun, and note how it went."""

        def together(connection: Connection) -> list[Any]:
            units.extend(self._arrived(MOST - len(units)))
            return [unit.work(connection) for unit in units]

        try:
            results = self._transact(together)
        except BaseException as error:
            if len(units) > 1 and not _concerns_all(error):
                for unit in units:
                    unit.runs_alone = True
                return
            units.extend(self._arrived(MOST))
            for unit in units:
                unit.error = IndexUnavailable("the index does not answer: try again later")
                unit.error.__cause__ = error
            raise
        for unit, result in zip(units, results, strict=True):
            unit.result = result

    def _arrived(self, most: int) -> list[_Unit]:
        with self._lock:
            return [self._queue.popleft() for _ in range(min(most, len(self._queue)))]


def _concerns_all(error: BaseException) -> bool:
    """Whether an error is the database's, or an interruption, rather than that of one unit of work."""
    if not isinstance(error, Exception):
        return True
    gone = (OperationalError, InterfaceError, PoolTimeout, type(None))
    return type(error) is IndexUnavailable and isinstance(error.__cause__, gone)
