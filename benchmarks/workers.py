"""The best number of worker processes: ingest and C-FIND on many associations, with one, two and four workers."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import prod

from benchmarks import client, wire
from benchmarks.bench import Archive, Bench, Better, Line, Row
from benchmarks.client import Association
from benchmarks.data import Study
from benchmarks.find import PLAIN, filled
from benchmarks.peers import WORKERS
from benchmarks.shapes import SHAPES
from benchmarks.sustained import measure_shape

ASSOCIATIONS = (4, 16)

SHAPES_STORED = ("one-a-study", "ct-512kB")

STUDIES = 2000

SECONDS = 3.0
"""How long queries are asked."""

PREFIX = "workers."
"""The prefix of the keys of these lines."""


def workers(bench: Bench) -> Iterator[Row]:
    """Measure ingest and C-FIND on 4 and 16 associations, on both databases."""
    with bench.archives(*(name for names in WORKERS.values() for name in names.values())) as archives:
        for key in SHAPES_STORED:
            for count in ASSOCIATIONS:
                yield measure_shape(bench, archives, SHAPES[key], count, f"{PREFIX}{key}")[0]
    with bench.archives(*(name for names in WORKERS.values() for name in names.values())) as archives:
        for count in ASSOCIATIONS:
            yield from _measure_queries(bench, archives, count, bench.of(STUDIES, 20))


def _measure_queries(bench: Bench, archives: Sequence[Archive], count: int, studies: int) -> list[Row]:
    """Measure queries by Patient ID on several associations."""
    title = f"studies by Patient ID, {count} associations"
    line = Line(f"{PREFIX}find.{count}", title, "C-FIND/s", Better.MORE)
    keys = [{"PatientID": Study(each).patient["PatientID"]} for each in range(studies)]
    identifiers = [wire.identifier("STUDY", {**dict.fromkeys(PLAIN, ""), **each}) for each in keys]
    seconds = SECONDS if not bench.quick else 0.2

    def measure(archive: Archive, _run: int) -> list[float]:
        system = filled(archive, studies)
        with ExitStack() as stack:
            opened = [Association(system.port, system.ae_title, [client.QUERY]) for _ in range(count)]
            associations = [stack.enter_context(each) for each in opened]
            end = time.perf_counter() + seconds
            parts = [identifiers[place::count] for place in range(count)]
            pairs = zip(associations, parts, strict=True)
            return [sum(client.together([partial(_ask_until, *pair, end) for pair in pairs])) / seconds]

    return bench.interleave([line], archives, measure)


def _ask_until(association: Association, identifiers: Sequence[bytes], end: float) -> int:
    """Repeat the queries until the deadline, and return the number of responses."""
    done = 0
    while time.perf_counter() < end:
        client.find(association, identifiers[done % len(identifiers)])
        done += 1
    return done


# --- which number is best ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Best:
    """The best number of workers for a load on a database, and its ratio to one worker."""

    database: str
    load: str
    workers: int
    times: float


def best(rows: Sequence[Row]) -> list[Best]:
    """Return the best number for each line, and for all lines by the geometric mean."""
    measured = [row for row in rows if row.line.key.startswith(PREFIX)]
    found = []
    for database in WORKERS:
        times = {row.line.title: of for row in measured if (of := _times(row, database))}
        together = [count for count in WORKERS[database] if times and all(count in of for of in times.values())]
        if together:
            means = {count: prod(of[count] for of in times.values()) ** (1 / len(times)) for count in together}
            times["all of these"] = means
        found += [Best(database, load, *max(of.items(), key=lambda pair: pair[1])) for load, of in times.items()]
    return found


def _times(row: Row, database: str) -> dict[int, float]:
    """Return the ratio to one worker by number of workers; empty if one worker was not measured."""
    medians = {count: row.median(name) for count, name in WORKERS[database].items()}
    one = medians[1]
    return {count: value / one for count, value in medians.items() if value} if one else {}
