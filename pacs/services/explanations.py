"""The last explanations of a server, in memory that its processes share: bounded, and gone when it ends.

Each worker alone writes its region, a ring of slots; whoever shows the explanations reads those of all workers. A slot
that is read while it is written has not the checksum it says, and is left out.
"""

import json
import mmap
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

KEPT = 50
"""How many explanations each worker keeps, and how many are shown at most."""

SLOT = 1 << 16
"""Bytes of memory for one explanation; the system gives what is used."""

_HEAD = struct.Struct("=QdLL")
"""The number of an explanation, when it was made in seconds since 1970, its length and its checksum."""

Described = dict[str, Any]


class Explanations:
    """The last explanations of all `workers`, which are forked from this process; it is worker 0 until it joins."""

    def __init__(self, workers: int = 1) -> None:
        self._memory = memoryview(mmap.mmap(-1, workers * KEPT * SLOT))  # anonymous memory is shared after a fork
        self._workers, self._worker = workers, 0
        self._lock = threading.Lock()
        self._made = 0

    def join(self, prepared: "Explanations", worker: int) -> None:
        """Keep as that worker among those of the server which prepared, where a dead one's numbers went on."""
        self._memory, self._workers, self._worker = prepared._memory, prepared._workers, worker
        self._made = max((number // self._workers for number, _, _ in self._of(worker)), default=0)

    def keep(self, described: Mapping[str, Any]) -> int:
        """Keep an explanation in the place of the oldest one; return its number, of which there is one in the server.

        Of one that is too long for its place the least telling parts are left out.
        """
        with self._lock:
            self._made += 1
            number = self._made * self._workers + self._worker
            made = time.time()
            content = _fitting({"number": number, "time": round(made, 3), **described}, SLOT - _HEAD.size)
            place = self._place(self._worker, self._made % KEPT)
            self._memory[place + _HEAD.size : place + _HEAD.size + len(content)] = content
            _HEAD.pack_into(self._memory, place, number, made, len(content), zlib.crc32(content))
        return number

    def latest(self) -> list[Described]:
        """The last explanations, the newest first."""
        found = [each for worker in range(self._workers) for each in self._of(worker)]
        found.sort(key=lambda each: (each[1], each[0]), reverse=True)
        return [json.loads(content) for _, _, content in found[:KEPT]]

    def forget(self) -> None:
        """Forget what this worker kept."""
        with self._lock:
            for slot in range(KEPT):
                place = self._place(self._worker, slot)
                if any(_HEAD.unpack_from(self._memory, place)):
                    self._memory[place : place + SLOT] = bytes(SLOT)

    def _of(self, worker: int) -> Iterator[tuple[int, float, bytes]]:
        """The number, the time and the content of each explanation of a worker."""
        for slot in range(KEPT):
            place = self._place(worker, slot)
            number, made, length, checksum = _HEAD.unpack_from(self._memory, place)
            content = bytes(self._memory[place + _HEAD.size : place + _HEAD.size + min(length, SLOT)])
            if length and zlib.crc32(content) == checksum:
                yield number, made, content

    @staticmethod
    def _place(worker: int, slot: int) -> int:
        return (worker * KEPT + slot) * SLOT


def _fitting(described: Described, most: int) -> bytes:
    """An explanation as JSON of at most so many bytes."""
    for shorten in _SHORTER:
        shorten(described)
        content = json.dumps(described).encode("ascii")
        if len(content) <= most:
            return content
    return json.dumps({key: described.get(key) for key in ("number", "time", "operation", "cut")}).encode("ascii")


def _without_plans(described: Described) -> None:
    described["cut"] = True
    for each in described.get("statements", ()):
        each["plan"] = []


def _with_few_keys(described: Described) -> None:
    described["statements"] = []
    described["keys"] = described.get("keys", ())[:20]
    for verdict in ("answer", "other", "without_negotiation"):
        if described.get(verdict):
            described[verdict]["differences"] = list(described[verdict]["differences"])[:20]


_SHORTER: tuple[Callable[[Described], None], ...] = (lambda described: None, _without_plans, _with_few_keys)
"""What is left out of an explanation that is too long, one after the other."""
