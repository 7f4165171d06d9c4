"""Places: how many associations a server has room for, counted over all the processes that serve it.

Every worker has a row of numbers in memory that all of them share. It alone writes its row, and whoever forked it once
it is dead: so what a dead one had taken is given back.
"""

import fcntl
import mmap
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_IS_SERVING, _ASSOCIATIONS, _CONNECTIONS, _UNASSOCIATED = range(4)
_ROW = 4


class Places:
    """The places of one server: `most` associations in all `workers` together, which are forked from this process."""

    def __init__(self, most: int, workers: int = 1) -> None:
        self.most = most
        numbers = memoryview(mmap.mmap(-1, workers * _ROW * 4)).cast("I")  # anonymous memory is shared after a fork
        self.rows = [numbers[each * _ROW : (each + 1) * _ROW] for each in range(workers)]
        self._guard = _unnamed_file() if workers > 1 else None

    def of(self, worker: int) -> "Share":
        """What one worker has of them."""
        return Share(self, self.rows[worker])

    def free(self, worker: int) -> None:
        """Give back all that a worker that is dead had taken."""
        for column in range(_ROW):
            self.rows[worker][column] = 0

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Keep the other processes out for a moment, by a lock that the kernel takes from one that dies."""
        if self._guard is None:
            yield
            return
        fcntl.lockf(self._guard, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._guard, fcntl.LOCK_UN)


class Share:
    """The places of one worker. Whoever uses it from several threads lets in one at a time."""

    def __init__(self, places: Places, row: "memoryview[int]") -> None:
        self._places, self._row = places, row

    def take(self) -> bool:
        """Take a place for an association, if the server has one left: whether it had."""
        with self._places.guarded():
            is_free = sum(row[_ASSOCIATIONS] for row in self._places.rows) < self._places.most
            self._row[_ASSOCIATIONS] += is_free
        return is_free

    def give_back(self) -> None:
        """Give back the place of an association that is over, or did not come about."""
        self._row[_ASSOCIATIONS] -= 1

    def serve(self, serves: bool) -> None:
        """Tell the others whether we accept connections."""
        self._row[_IS_SERVING] = serves

    def count(self, connections: int, unassociated: int) -> None:
        """Tell the others how many connections we have, and how many of them are without an association."""
        self._row[_CONNECTIONS], self._row[_UNASSOCIATED] = connections, unassociated

    @property
    def is_ahead(self) -> bool:
        """Whether another worker has fewer connections, so that the next one is better left to it."""
        mine = self._row[_CONNECTIONS]
        return any(row[_CONNECTIONS] < mine for row in self._places.rows if row[_IS_SERVING])

    def has_too_many(self, most: int) -> bool:
        """Whether more than `most` connections are without an association, and we have more than our part of them.

        Those who have more give some up, those who have fewer let more in: whoever fills one must not keep all out.
        """
        rows = self._places.rows
        return sum(row[_UNASSOCIATED] for row in rows) > most and self._row[_UNASSOCIATED] * len(rows) > most


def _unnamed_file() -> int:
    """The descriptor of a file without a name: inherited, and then locked by each process for itself."""
    if sys.platform == "linux":
        return os.memfd_create("pacs-places")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
