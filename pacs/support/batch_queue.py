"""A batch queue: one thread does the work of all threads that queue at the same time, in one sync or transaction.

The first thread leads: it serves its own unit and all queued ones, then hands the lead to the first thread in the
queue. No thread waits for others to come, so a single unit is served without delay.
"""

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class BatchUnit(Generic[Item, Result]):
    """The work of one thread and its result. `turn` is released when the thread has its result, or must lead."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.turn = threading.Lock()
        self.leads = False
        """Whether its thread must serve the queue."""
        self.result: Result | None = None
        self.error: BaseException | None = None

    def outcome(self) -> Result:
        """Return the result. Raises the error."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


class BatchQueue(Generic[Item, Result]):
    """A queue of units that are served together. Any thread may call `run`."""

    def __init__(self, most: int) -> None:
        """Serve at most `most` units at once."""
        self._most = most
        self._lock = threading.Lock()
        self._queue: deque[BatchUnit[Item, Result]] = deque()
        self._is_led = False

    def serve(self, units: list[BatchUnit[Item, Result]]) -> None:
        """Set the result of each of `units`; may add queued units with `join`.

        An exception becomes the error of all units without a result or an error of their own.
        """
        raise NotImplementedError

    def run(self, item: Item) -> Result:
        """Serve `item`, together with those of other threads. Return its result. Raises its error."""
        unit: BatchUnit[Item, Result] = BatchUnit(item)
        with self._lock:
            if self._is_led:
                unit.turn.acquire()
                self._queue.append(unit)
            else:
                unit.leads = self._is_led = True
        if not unit.leads:
            unit.turn.acquire()
        if unit.leads:
            self._lead(unit)
        return unit.outcome()

    def join(self, units: list[BatchUnit[Item, Result]]) -> None:
        """Move queued units to `units`, up to the limit."""
        with self._lock:
            while self._queue and len(units) < self._most:
                units.append(self._queue.popleft())

    def _lead(self, leader: BatchUnit[Item, Result]) -> None:
        """Serve the leader and the queue, then hand over the lead."""
        units = [leader]
        self.join(units)
        try:
            self.serve(units)
        except BaseException as error:
            for unit in units:
                if unit.result is None:  # a unit with a result stays done
                    unit.error = unit.error or error
            if not isinstance(error, Exception):
                raise
        finally:
            self._hand_over()
            for unit in units:
                if unit is not leader:
                    unit.turn.release()

    def _hand_over(self) -> None:
        with self._lock:
            self._is_led = bool(self._queue)
            if self._is_led:
                following = self._queue.popleft()
                following.leads = True
                following.turn.release()
