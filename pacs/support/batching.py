"""What many threads bring at the same time, done at once by one of them: one sync, one transaction for all.

Whoever comes first leads: it serves itself and all who queue up until it begins, and hands over to who is first in the
queue then. Nobody waits for others to come, so that a lone one is served as if there were no queue.
"""

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Unit(Generic[Item, Result]):
    """What one thread brings, and what becomes of it. `turn` is held until its thread has something to do."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.turn = threading.Lock()
        self.leads = False
        """Whether its thread is to serve what is in the queue."""
        self.result: Result | None = None
        self.error: BaseException | None = None

    def outcome(self) -> Result:
        """Its result. Raises its error."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


class Gathering(Generic[Item, Result]):
    """A queue of units, served together. Any thread may `run` something."""

    def __init__(self, most: int) -> None:
        """At most `most` units are served at once."""
        self._most = most
        self._lock = threading.Lock()
        self._queue: deque[Unit[Item, Result]] = deque()
        self._is_led = False

    def serve(self, units: list[Unit[Item, Result]]) -> None:
        """Give each of `units` its result, and be free to take in more of them with `join`.

        What this raises is the error of all that have no result by then, unless they have another error.
        """
        raise NotImplementedError

    def run(self, item: Item) -> Result:
        """Have `item` served together with what others bring; its result. Raises its error."""
        unit: Unit[Item, Result] = Unit(item)
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

    def join(self, units: list[Unit[Item, Result]]) -> None:
        """Add to `units` who came meanwhile, as far as there is room."""
        with self._lock:
            while self._queue and len(units) < self._most:
                units.append(self._queue.popleft())

    def _lead(self, leader: Unit[Item, Result]) -> None:
        """Serve the leader and those behind it in the queue, and let the next one lead."""
        units = [leader]
        self.join(units)
        try:
            self.serve(units)
        except BaseException as error:
            for unit in units:
                if unit.result is None:  # what was done before is done
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
