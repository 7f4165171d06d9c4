"""Association slots: the limit on associations at the same time, counted over all worker processes of a server.

Each association takes a slot in memory that all workers share. The worker that took a slot releases it; after a crash,
the supervisor releases those of the dead worker. The same memory has a row of connection counts for each worker, which
only that worker writes.
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
    """The most associations at once: in all, from one address, and of one calling AE title; 0 is without limit."""

    in_all: int = 100
    per_address: int = 0
    per_ae: int = 0


class AssociationSlots:
    """The slots of one server in all its `workers`, which are forked from this process."""

    def __init__(self, workers: int = 1) -> None:
        self.owners = shared_bytes(MOST_SLOTS)
        """The owner of each slot: the number of a worker plus one, 0 for a free slot."""
        self.addresses, self.titles = shared_bytes(8 * MOST_SLOTS).cast("Q"), shared_bytes(8 * MOST_SLOTS).cast("Q")
        """The address and the calling AE title of each slot, as `_key` hashes them."""
        numbers = shared_bytes(4 * workers * _ROW).cast("I")
        self.rows = [numbers[each * _ROW : (each + 1) * _ROW] for each in range(workers)]
        self._lock_file = _unnamed_file() if workers > 1 else None

    def of(self, worker: int) -> "WorkerSlots":
        """Return one worker's access to the slots."""
        return WorkerSlots(self, worker)

    def free(self, worker: int) -> None:
        """Release all slots of a worker that died."""
        for slot, owner in enumerate(bytes(self.owners)):
            if owner == worker + 1:
                self.owners[slot] = 0
        for column in range(_ROW):
            self.rows[worker][column] = 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock between processes, which the kernel releases when its holder dies."""
        if self._lock_file is None:
            yield
            return
        fcntl.lockf(self._lock_file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._lock_file, fcntl.LOCK_UN)


class WorkerSlots:
    """The slots of one worker. Its threads must call `take` one at a time."""

    def __init__(self, slots: AssociationSlots, worker: int) -> None:
        self._slots, self._row = slots, slots.rows[worker]
        self._owner = worker + 1

    def take(self, bounds: AssociationBounds, address: str, ae_title: str) -> int:
        """Take a slot for an association and return its number. Raises TooManyAssociations when a bound is reached."""
        slots = self._slots
        keys = _key(address), _key(ae_title)
        with slots.locked():
            owners = bytes(slots.owners)
            _check(bounds, slots, owners, keys)
            slot = owners.index(0)
            slots.addresses[slot], slots.titles[slot] = keys
            slots.owners[slot] = self._owner
        return slot

    def release(self, slot: int) -> None:
        """Release the slot of an association that ended or was not established."""
        self._slots.owners[slot] = 0

    def set_serving(self, is_serving: bool) -> None:
        """Publish to the other workers whether this one accepts connections."""
        self._row[_IS_SERVING] = is_serving

    def set_counts(self, connections: int, unassociated: int) -> None:
        """Publish to the other workers the connections of this one, and how many have no association."""
        self._row[_CONNECTIONS], self._row[_UNASSOCIATED] = connections, unassociated

    @property
    def is_ahead(self) -> bool:
        """Whether another worker has fewer connections and should accept the next one."""
        mine = self._row[_CONNECTIONS]
        return any(row[_CONNECTIONS] < mine for row in self._slots.rows if row[_IS_SERVING])

    def has_too_many(self, most: int) -> bool:
        """Return whether this worker must close connections without an association.

        It must if all workers have more than `most` of them, and this one more than its share: a flood of one worker
        must not block the others.
        """
        rows = self._slots.rows
        return sum(row[_UNASSOCIATED] for row in rows) > most and self._row[_UNASSOCIATED] * len(rows) > most


def _check(bounds: AssociationBounds, slots: AssociationSlots, owners: bytes, keys: tuple[int, int]) -> None:
    """Check that one more association is allowed. Raises TooManyAssociations, whose comment names the limit."""
    taken = len(owners) - owners.count(0)
    if taken >= min(bounds.in_all, MOST_SLOTS):
        raise TooManyAssociations(f"limits.associations allows {bounds.in_all}")
    used = len(owners.rstrip(b"\0"))
    for key, column, most, name in (
        (keys[0], slots.addresses, bounds.per_address, "limits.associations_per_address"),
        (keys[1], slots.titles, bounds.per_ae, "limits.associations_per_ae"),
    ):
        if most and taken >= most:
            same = sum(owners[slot] and each == key for slot, each in enumerate(column[:used].tolist()))
            if same >= most:
                raise TooManyAssociations(f"{name} allows {most}")


def _key(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _unnamed_file() -> int:
    """Return the descriptor of a file without a name; forked processes inherit it, and each locks it for itself."""
    if sys.platform == "linux":
        return os.memfd_create("pacs-association-slots")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
