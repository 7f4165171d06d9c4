"""The claims that a worker holds on transactions of storage commitment, in memory that outlives the worker.

The worker that replaces one that died releases its claims. Without that they would last until they expire.
"""

import json
import threading
from collections.abc import Iterator
from dataclasses import astuple

from pacs.index.commitments import Claim
from pacs.support.shared_memory import Slots

MOST = 64
"""The most claims that are kept; a worker that holds more leaves the others to their expiry."""

LONGEST = 256
"""Bytes of one claim: an AE title and a UID from the index, and numbers."""


class HeldClaims:
    """The claims of one worker. Thread-safe in one process at a time."""

    def __init__(self) -> None:
        self._slots = Slots(MOST, LONGEST)
        self._lock = threading.Lock()

    def add(self, claim: Claim) -> None:
        """Keep a claim, if there is room."""
        content = json.dumps(astuple(claim)).encode()
        with self._lock:
            free = next((slot for slot in range(MOST) if not self._slots.read(slot)), None)
            if free is not None and len(content) <= LONGEST:
                self._slots.write(free, content)

    def remove(self, claim: Claim) -> None:
        """Forget a claim that ended."""
        with self._lock:
            for slot, each in self._all():
                if (each.id, each.number) == (claim.id, claim.number):
                    self._slots.clear(slot)

    def all(self) -> list[Claim]:
        """Return all claims."""
        with self._lock:
            return [each for _, each in self._all()]

    def _all(self) -> Iterator[tuple[int, Claim]]:
        for slot in range(MOST):
            if content := self._slots.read(slot):
                yield slot, Claim(*json.loads(content))
