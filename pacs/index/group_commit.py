"""Units of work of many threads, gathered into one transaction when they come together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pacs.errors import IndexUnavailable
from pacs.support import batching

Result = TypeVar("Result")
Work = Callable[[Connection], Result]

DriverWork = Callable[[Any], Result | None]
Unit = batching.BatchUnit["WriteWork", Any]

MAX_UNITS = 64
"""How many units of work share a transaction at most."""


@dataclass(frozen=True, slots=True)
class WriteWork:
    """A unit of work, and how it may be done on a connection of the driver itself: None when that was not enough."""

    work: Work[Any]
    quick: DriverWork[Any] | None = None


class GroupCommit(batching.BatchQueue[WriteWork, Any]):
    """A queue before `transact`, which runs one unit of work in one transaction. Any thread may use it.

    `quickly` gives a transaction of the driver's own. Where that raises one of `failures`, `transact` decides.
    """

    def __init__(
        self,
        transact: Callable[[Work[Any]], Any],
        quickly: Callable[[DriverWork[Any]], Any] | None = None,
        failures: tuple[type[Exception], ...] = (),
    ) -> None:
        super().__init__(MAX_UNITS)
        self._transact = transact
        self._quickly = quickly
        self._failures = failures

    def run(self, work: Work[Result], quick: DriverWork[Result] | None = None) -> Result:  # type: ignore[override]
        """Run `work` in a transaction that others may share; return what it returns once that is committed.

        Where `quick` returns something but None, that is it, and `work` is not needed. Work that raises spoils nobody
        else's: each of those who shared the transaction is run again, alone. What the database cannot do for one it
        cannot do for any of them: all get IndexUnavailable.
        """
        result = super().run(WriteWork(work, quick))
        if isinstance(result, _RetryAlone):
            result = self._transact(work)
        return result  # type: ignore[no-any-return]

    def serve(self, units: list[Unit]) -> None:
        """Run the work of `units`, and of those who come before the transaction has begun, and note how it went."""
        for unit, result in self._done_quickly(units):
            unit.result = result
        if any(unit.result is None for unit in units):
            self._serve_the_rest(units)

    def _done_quickly(self, units: list[Unit]) -> list[tuple[Unit, Any]]:
        """Who needed no more than the quick way, with what came of it, once that is committed."""
        if self._quickly is None:
            return []

        def work(driver: Any) -> list[tuple[Unit, Any]]:
            self.join(units)
            return [(unit, unit.item.quick(driver)) for unit in units if unit.item.quick is not None]

        try:
            done: list[tuple[Unit, Any]] = self._quickly(work)
        except self._failures:
            return []  # the other way meets it too, if it matters
        return done

    def _serve_the_rest(self, units: list[Unit]) -> None:
        def together(connection: Connection) -> list[tuple[Unit, Any]]:
            self.join(units)
            return [(unit, unit.item.work(connection)) for unit in units if unit.result is None]

        try:
            done = self._transact(together)
        except BaseException as error:
            if _concerns_all(error):
                self.join(units)
                _fail([unit for unit in units if unit.result is None], error)
                raise
            rest = [unit for unit in units if unit.result is None]
            for unit in rest:
                unit.result = _RetryAlone() if rest[1:] else None
                unit.error = None if rest[1:] else error
        else:
            for unit, result in done:
                unit.result = result


def _fail(units: Sequence[Unit], error: BaseException) -> None:
    for unit in units:
        unit.error = IndexUnavailable("the index does not answer: try again later")
        unit.error.__cause__ = error


@dataclass(frozen=True, slots=True)
class _RetryAlone:
    """The result of work that was not done, because somebody who shared its transaction spoiled it."""


def _concerns_all(error: BaseException) -> bool:
    """Whether an error is the database's, or an interruption, rather than that of one unit of work."""
    if not isinstance(error, Exception):
        return True
    gone = (OperationalError, InterfaceError, PoolTimeout, type(None))
    return type(error) is IndexUnavailable and isinstance(error.__cause__, gone)
