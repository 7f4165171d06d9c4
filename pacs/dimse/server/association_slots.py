"""AssociationSlots: how many associations a server has room for, counted over all the processes that serve it.

Each association takes a slot in memory that all processes share. Only the process that took it gives it back, or
whoever forked that one once it is dead: so what a dead one had taken is not lost. Every worker has a row of numbers
there too, of its connections, which it alone writes.
"""

import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

from pacs.errors import TooManyAssociations
from pacs.support.shared_memory import shared_bytes

MOST_SLOTS = 10_000

_IS_SERVING, _CONNECTIONS, _UNASSOCIATED = range(3)
_ROW = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationBounds:
    """How many associations there may be at once: in all, from one address, and of one calling AE title; 0 is any."""

    in_all: int = 100
    per_address: int = 0
    per_ae: int = 0


class AssociationSlots:
    """The slots of one server in all its `workers`, which are forked from this process."""

    def __init__(self, workers: int = 1) -> None:
        self.owners = shared_bytes(MOST_SLOTS)
        """Who has each slot: the number of a worker and one, 0 for nobody."""
        self.addresses, self.titles = shared_bytes(8 * MOST_SLOTS).cast("Q"), shared_bytes(8 * MOST_SLOTS).cast("Q")
        """From where, and for which AE title, as `_key` has them."""
        numbers = shared_bytes(4 * workers * _ROW).cast("I")
        self.rows = [numbers[each * _ROW : (each + 1) * _ROW] for each in range(workers)]
        self._guard = _unnamed_file() if workers > 1 else None

    def of(self, worker: int) -> "WorkerSlots":
        """What one worker has of them."""
        return WorkerSlots(self, worker)

    def free(self, worker: int) -> None:
        """Give back all that a worker that is dead had taken."""
        for slot, owner in enumerate(bytes(self.owners)):
            if owner == worker + 1:
                self.owners[slot] = 0
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


class WorkerSlots:
    """The slots of one worker. Whoever uses it from several threads lets in one at a time."""

    def __init__(self, slots: AssociationSlots, worker: int) -> None:
        self._slots, self._row = slots, slots.rows[worker]
        self._owner = worker + 1

    def take(self, bounds: AssociationBounds, address: str, ae_title: str) -> int:
        """Take a slot for an association: which. Raises TooManyAssociations when the server has none left for it."""
        slots = self._slots
        keys = _key(address), _key(ae_title)
        with slots.guarded():
            owners = bytes(slots.owners)
            _check(bounds, slots, owners, keys)
            slot = owners.index(0)
            slots.addresses[slot], slots.titles[slot] = keys
            slots.owners[slot] = self._owner
        return slot

    def give_back(self, slot: int) -> None:
        """Give back the slot of an association that is over, or did not come about."""
        self._slots.owners[slot] = 0

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
        return any(row[_CONNECTIONS] < mine for row in self._slots.rows if row[_IS_SERVING])

    def has_too_many(self, most: int) -> bool:
        """Whether more than `most` connections are without an association, and we have more than our part of them.

        Those who have more give some up, those who have fewer let more in: whoever fills one must not keep all out.
        """
        rows = self._slots.rows
        return sum(row[_UNASSOCIATED] for row in rows) > most and self._row[_UNASSOCIATED] * len(rows) > most


def _check(bounds: AssociationBounds, slots: AssociationSlots, owners: bytes, keys: tuple[int, int]) -> None:
    """See that one more may come. Raises TooManyAssociations, whose comment names the limit."""
    taken = len(owners) - owners.count(0)
    if taken >= min(bounds.in_all, MOST_SLOTS):
        raise TooManyAssociations(f"limits.associations allows {bounds.in_all}")
    used = len(owners.rstrip(b"\0"))
    for key, column, most, name in (
        (keys[0], slots.addresses, bounds.per_address, "limits.associations_per_address"),
        (keys[1], slots.titles, bounds.per_ae, "limits.associations_per_ae"),
    ):
        if most and taken >= most:
            theirs = sum(owners[slot] and each == key for slot, each in enumerate(column[:used].tolist()))
            if theirs >= most:
                raise TooManyAssociations(f"{name} allows {most}")


def _key(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _unnamed_file() -> int:
    """The descriptor of a file without a name: inherited, and then locked by each process for itself."""
    if sys.platform == "linux":
        return os.memfd_create("pacs-slots")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
