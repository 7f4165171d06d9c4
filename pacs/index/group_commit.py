"""Group commit: runs the concurrent work of several threads in one transaction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pacs.errors import IndexUnavailable
from pacs.support.batch_queue import BatchQueue, BatchUnit

Result = TypeVar("Result")
Work = Callable[[Connection], Result]

DriverWork = Callable[[Any], Result | None]
Unit = BatchUnit["WriteWork", Any]

MAX_UNITS = 64
"""The most units of work that share a transaction."""


@dataclass(frozen=True, slots=True)
class WriteWork:
    """A unit of work, and an alternative on a driver connection, which returns None when it has done nothing."""

    work: Work[Any]
    quick: DriverWork[Any] | None = None


class GroupCommit(BatchQueue[WriteWork, Any]):
    """Runs units of work by `transact`, which runs one function in one transaction. Thread-safe.

    `run_driver_transaction` runs a function in a transaction of the driver. When that raises one of `failures`,
    `transact` is used.
    """

    def __init__(
        self,
        transact: Callable[[Work[Any]], Any],
        run_driver_transaction: Callable[[DriverWork[Any]], Any] | None = None,
        failures: tuple[type[Exception], ...] = (),
    ) -> None:
        super().__init__(MAX_UNITS)
        self._transact = transact
        self._run_driver_transaction = run_driver_transaction
        self._failures = failures

    def run(self, work: Work[Result], quick: DriverWork[Result] | None = None) -> Result:  # type: ignore[override]
        """Run `work` in a transaction that other threads may share; return its result after the commit.

        `work` does not run when `quick` returns anything but None. When a unit of work raises, the others that shared
        its transaction are run again, each alone. When the database fails, all of them get IndexUnavailable.
        """
        result = super().run(WriteWork(work, quick))
        if isinstance(result, _RetryAlone):
            result = self._transact(work)
        return result  # type: ignore[no-any-return]

    def serve(self, units: list[Unit]) -> None:
        """Run the work of `units`, and of those that arrive before the transaction has begun; set their results."""
        for unit, result in self._run_on_driver(units):
            unit.result = result
        if any(unit.result is None for unit in units):
            self._run_in_transaction(units)

    def _run_on_driver(self, units: list[Unit]) -> list[tuple[Unit, Any]]:
        """Run the alternatives on a driver connection; return the units with their results, after the commit."""
        if self._run_driver_transaction is None:
            return []

        def work(driver: Any) -> list[tuple[Unit, Any]]:
            self.join(units)
            return [(unit, unit.item.quick(driver)) for unit in units if unit.item.quick is not None]

        try:
            done: list[tuple[Unit, Any]] = self._run_driver_transaction(work)
        except self._failures:
            return []  # the other path raises it too, if it persists
        return done

    def _run_in_transaction(self, units: list[Unit]) -> None:
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
        said = error.comment if isinstance(error, IndexUnavailable) else "the index does not respond: try again later"
        unit.error = IndexUnavailable(said)
        unit.error.__cause__ = error


@dataclass(frozen=True, slots=True)
class _RetryAlone:
    """The result of work that must run again alone, because another unit in its transaction raised."""


def _concerns_all(error: BaseException) -> bool:
    """Whether an error is a database failure or an interruption, not an error of one unit of work."""
    if not isinstance(error, Exception):
        return True
    gone = (OperationalError, InterfaceError, PoolTimeout, type(None))
    return type(error) is IndexUnavailable and isinstance(error.__cause__, gone)
