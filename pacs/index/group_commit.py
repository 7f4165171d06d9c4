"""Group commit: runs the concurrent work of several threads in one transaction."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pacs.errors import IndexUnavailable
from pacs.support.batch_queue import BatchQueue, BatchUnit

Result = TypeVar("Result")

DriverWork = Callable[[Any], Result | None]
"""Work on a connection of the driver, which returns None when it has done nothing."""

Unit = BatchUnit[DriverWork[Any], Any]

MAX_UNITS = 64
"""The most units of work that share a transaction."""


class GroupCommit(BatchQueue[DriverWork[Any], Any]):
    """Runs units of work in shared transactions of the driver. Thread-safe.

    `transact` runs a function in a transaction. When that raises one of `failures`, nothing is done.
    """

    def __init__(self, transact: Callable[[DriverWork[Any]], Any], failures: tuple[type[Exception], ...]) -> None:
        super().__init__(MAX_UNITS)
        self._transact = transact
        self._failures = failures

    def run(self, work: DriverWork[Result]) -> Result | None:
        """Run `work` in a transaction that other threads may share; return its result after the commit.

        Returns None also when the transaction fails: the caller runs other work alone then.
        """
        result: Result | None = super().run(work)
        return result

    def serve(self, units: list[Unit]) -> None:
        """Run the work of `units`, and of those that arrive before the transaction has begun; set their results."""

        def together(driver: Any) -> list[Any]:
            self.join(units)
            return [unit.item(driver) for unit in units]

        try:
            results = self._transact(together)
        except self._failures:
            return
        except BaseException as error:
            self.join(units)
            _fail(units, error)
            raise
        for unit, result in zip(units, results, strict=True):
            unit.result = result


def _fail(units: Sequence[Unit], error: BaseException) -> None:
    said = error.comment if isinstance(error, IndexUnavailable) else "the index does not respond: try again later"
    for unit in units:
        unit.error = IndexUnavailable(said)
        unit.error.__cause__ = error
