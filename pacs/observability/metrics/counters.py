"""Numbers that the processes of a server count up in memory they share, each in a region of its own.

A worker alone writes its region, so that none waits for another; whoever shows the numbers adds up all of them. The
one that takes a dead worker's place goes on in its region: no count ever goes back.

A region is the number of bytes in use and records behind each other: the length of the name, the name in whole words,
the number. A record counts when the bytes in use include it, whenever the process that wrote it dies.
"""

import mmap
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping

Series = tuple[str, ...]
"""The name of a number and the values of its labels."""

REGION = 1 << 20
"""Bytes of memory each worker may use, of which the system gives what is used: enough for thousands of series."""

_WORD = 8
_IN_USE, _HOMELESS = 0, 1
"""Words of a region: how many bytes are in use, and what has no room of its own."""


class Counters:
    """The numbers of one server, in all `workers` together, which are forked from this process."""

    def __init__(self, workers: int = 1) -> None:
        whole = memoryview(mmap.mmap(-1, workers * REGION))  # anonymous memory is shared after a fork
        self._memories = [whole[at : at + REGION] for at in range(0, workers * REGION, REGION)]

    def of(self, worker: int) -> "Region":
        """The region of a worker, for its process alone to write."""
        return Region(self._memories[worker])

    def each(self) -> list[dict[Series, float]]:
        """The numbers of each worker at this moment."""
        return [dict(_records(memory)) for memory in self._memories]

    def totals(self) -> dict[Series, float]:
        """The numbers of the whole server at this moment."""
        sums: dict[Series, float] = {}
        for region in self.each():
            for series, number in region.items():
                sums[series] = sums.get(series, 0.0) + number
        return sums


class Region:
    """The numbers of one worker; any of its threads may count."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._numbers = memory.cast("d")
        self._lock = threading.Lock()
        self._places = {series: at // _WORD for series, at in _places(memory)}
        if not self._in_use:
            self._in_use = 2 * _WORD

    def add(self, series: Series, amount: float = 1.0) -> None:
        """Count: `series` is so much more, from 0 on."""
        self.add_each((series, amount))

    def add_each(self, *amounts: tuple[Series, float]) -> None:
        """As `add`, for several series at once."""
        numbers, places = self._numbers, self._places
        with self._lock:
            for series, amount in amounts:
                place = places.get(series)
                numbers[self._new(series) if place is None else place] += amount

    def set(self, values: Mapping[Series, float]) -> None:
        """Have each of these series be so much."""
        with self._lock:
            for series, number in values.items():
                place = self._places.get(series)
                self._numbers[self._new(series) if place is None else place] = number

    def clear(self, names: Iterable[str]) -> None:
        """Have all series of these names be 0."""
        chosen = set(names)
        self.set({series: 0.0 for series in self._places if series[0] in chosen})

    @property
    def _in_use(self) -> int:
        return int(struct.unpack_from("=Q", self._memory, _IN_USE)[0])

    @_in_use.setter
    def _in_use(self, size: int) -> None:
        struct.pack_into("=Q", self._memory, _IN_USE, size)

    def _new(self, series: Series) -> int:
        """A place for a series that has none; the lock is held."""
        name = "\0".join(series).encode()
        begin = self._in_use
        place = begin + _WORD + _whole_words(len(name))
        if place + _WORD > len(self._memory):
            return _HOMELESS
        struct.pack_into("=Q", self._memory, begin, len(name))
        self._memory[begin + _WORD : begin + _WORD + len(name)] = name
        self._numbers[place // _WORD] = 0.0
        self._in_use = place + _WORD
        self._places[series] = place // _WORD
        return place // _WORD


def _records(memory: memoryview) -> Iterator[tuple[Series, float]]:
    for series, place in _places(memory):
        yield series, struct.unpack_from("=d", memory, place)[0]


def _places(memory: memoryview) -> Iterator[tuple[Series, int]]:
    """Each series of a region, and at which byte its number is."""
    (in_use,) = struct.unpack_from("=Q", memory, _IN_USE)
    at = 2 * _WORD
    while at < in_use:
        (length,) = struct.unpack_from("=Q", memory, at)
        name = bytes(memory[at + _WORD : at + _WORD + length]).decode()
        at += _WORD + _whole_words(length)
        yield tuple(name.split("\0")), at
        at += _WORD


def _whole_words(length: int) -> int:
    return length + -length % _WORD
