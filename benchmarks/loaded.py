"""C-FIND, C-MOVE and C-GET while four associations store, and the same in quiet times."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median

from benchmarks import client, find, retrieve, wire
from benchmarks.bench import Archive, Bench, Better, Line, Row
from benchmarks.client import Association
from benchmarks.data import Study
from benchmarks.load import Window, between, load
from benchmarks.peers import System
from benchmarks.shapes import SHAPES

SYSTEMS = ("pacs", "pacs-1", "pacs-4", "pacs-postgres", "orthanc-tuned")
"""An Orthanc with its four threads would let a fifth association wait."""

STORING = 4
STUDIES = 2000


@dataclass(frozen=True)
class Operation:
    """An operation that is measured; `times` returns milliseconds."""

    key: str
    title: str
    times: Callable[[Archive, float], list[float]]
    """Repeats the operation for some seconds, and returns the milliseconds of each."""


def loaded(bench: Bench) -> Iterator[Row]:
    """Measure each operation in a quiet time and under load, one run after the other."""
    seconds = bench.sustained.seconds / 2
    with bench.archives(*(SYSTEMS[:1] if bench.subset else SYSTEMS)) as archives:
        for each in _operations(bench)[: 2 if bench.subset else None]:
            yield from bench.interleave(_lines(each), archives, partial(_measure, bench, each, seconds))


def _operations(bench: Bench) -> list[Operation]:
    hundred = retrieve.images("512 kB", bench.of(100, 5))
    return [
        Operation("find", "C-FIND of one study by Patient ID", partial(_finds, bench.of(STUDIES, 20))),
        Operation("move", f"C-MOVE of {hundred.title}", partial(_retrieves, hundred, retrieve.move_study)),
        Operation("get", f"C-GET of {hundred.title}", partial(_retrieves, hundred, retrieve.get_study)),
    ]


def _lines(operation: Operation) -> list[Line]:
    key, storing = f"loaded.{operation.key}", f"while {STORING} associations store"
    return [
        Line(key, f"{operation.title}, {storing}: median", "ms", Better.LESS),
        Line(f"{key}.longest", f"{operation.title}, {storing}: longest", "ms", Better.LESS),
        Line(f"{key}.quiet", f"{operation.title}, quiet: median", "ms", Better.LESS),
        Line(f"{key}.stores", f"9 kB, one image a study, {STORING} associations, with {operation.title}", "inst/s",
             Better.MORE),
    ]  # fmt: skip


def _measure(bench: Bench, operation: Operation, seconds: float, archive: Archive, _run: int) -> list[float]:
    quiet = operation.times(archive, seconds / 3)
    with load(archive.system, SHAPES["one-a-study"], STORING) as storing:
        storing.wait(bench.sustained.warm_up)
        began = time.monotonic()
        times = operation.times(archive, seconds)
        stored: Window = between(storing.stop(), began, time.monotonic())
    return [median(times), max(times), median(quiet), len(stored.took) / stored.seconds]


def _finds(studies: int, archive: Archive, seconds: float) -> list[float]:
    """Find one study after the other, each by its Patient ID."""
    system = find.filled(archive, studies)
    times, end = [], time.perf_counter() + seconds
    with Association(system.port, system.ae_title, [client.QUERY]) as association:
        while not times or time.perf_counter() < end:
            wanted = {"PatientID": Study(len(times) % studies).patient["PatientID"]}
            keys = wire.identifier("STUDY", {**dict.fromkeys(find.PLAIN, ""), **wanted})
            times.append(client.find(association, keys).last * 1e3)
    return times


def _retrieves(
    study: retrieve.Study, one: Callable[[System, str, int], float], archive: Archive, seconds: float
) -> list[float]:
    """Retrieve the study again and again."""
    uid = archive.once(study.key, study.store)
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        times.append(one(archive.system, uid, study.count) * 1e3)
    return times
