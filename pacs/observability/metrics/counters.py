"""Numbers that the processes of a server count in shared memory, each process in its own region.

Only the worker itself writes its region, so no worker waits for another; readers add up all regions. A worker that
replaces a dead one continues in the region of that one, so that no count ever decreases.
"""

import threading
from collections.abc import Iterable, Mapping

from pacs.support.shared_memory import Slots, shared_bytes

Series = tuple[str, ...]
"""The name of a number and the values of its labels."""

MOST_SERIES, LONGEST_NAME = 16384, 120
"""Number of series of one worker, and bytes of the name of each."""


class _WorkerCounters:
    """The names and the numbers of one worker; series `i` has its name in slot `i`.

    The last number is that of all series beyond the limits, and is not shown.
    """

    def __init__(self) -> None:
        self.names = Slots(MOST_SERIES, LONGEST_NAME)
        self.numbers = shared_bytes((MOST_SERIES + 1) * 8).cast("d")

    def series(self) -> dict[Series, int]:
        """Return the index of each series."""
        found: dict[Series, int] = {}
        while len(found) < self.names.count and (name := self.names.read(len(found))):
            found[tuple(name.decode().split("\0"))] = len(found)
        return found


class Counters:
    """The numbers of one server, of all `workers` that are forked from this process."""

    def __init__(self, workers: int = 1) -> None:
        self._memories = [_WorkerCounters() for _ in range(workers)]

    def of(self, worker: int) -> "CounterRegion":
        """Return the region of a worker; only its process may write it."""
        return CounterRegion(self._memories[worker])

    def each(self) -> list[dict[Series, float]]:
        """Return the current numbers of each worker."""
        return [{series: each.numbers[index] for series, index in each.series().items()} for each in self._memories]

    def totals(self) -> dict[Series, float]:
        """Return the current numbers of the whole server."""
        sums: dict[Series, float] = {}
        for region in self.each():
            for series, number in region.items():
                sums[series] = sums.get(series, 0.0) + number
        return sums


class CounterRegion:
    """The numbers of one worker. Safe to use from many threads."""

    def __init__(self, memory: _WorkerCounters) -> None:
        self._names, self._numbers = memory.names, memory.numbers
        self._lock = threading.Lock()
        self._indexes = memory.series()
        self._used = len(self._indexes)

    def add(self, series: Series, amount: float = 1.0) -> None:
        """Add to the number of a series, which begins at 0."""
        self.add_each((series, amount))

    def add_each(self, *amounts: tuple[Series, float]) -> None:
        """Add to the numbers of several series."""
        numbers, indexes = self._numbers, self._indexes
        with self._lock:
            for series, amount in amounts:
                index = indexes.get(series)
                numbers[self._new(series) if index is None else index] += amount

    def set(self, values: Mapping[Series, float]) -> None:
        """Set the numbers of series."""
        with self._lock:
            for series, number in values.items():
                index = self._indexes.get(series)
                self._numbers[self._new(series) if index is None else index] = number

    def clear(self, names: Iterable[str]) -> None:
        """Set all series of these names to 0."""
        chosen = set(names)
        self.set({series: 0.0 for series in self._indexes if series[0] in chosen})

    def _new(self, series: Series) -> int:
        """Return the index for a new series; the caller holds the lock."""
        name = "\0".join(series).encode()
        if self._used == self._names.count or len(name) > self._names.capacity:
            return self._names.count
        index, self._used = self._used, self._used + 1
        self._numbers[index] = 0.0
        self._names.write(index, name)
        self._indexes[series] = index
        return index
