"""Costs of associations: setting one up, and leaving a hundred open."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from statistics import median

from benchmarks import client, processes, wire
from benchmarks.bench import Bench, Better, Line, Row
from benchmarks.client import Association
from benchmarks.peers import System
from benchmarks.wire import ProposedContext
from pacs.conformance.checks.wire import EXPLICIT, IMPLICIT
from pacs.dicom.sop_classes import STORAGE

NAMES = ("pacs", "pacs-postgres", "sink", "orthanc", "dcmqrscp", "qrscp")

SYNTAXES = (EXPLICIT, IMPLICIT, wire.EXPLICIT_BIG, wire.JPEG_BASELINE)


def setup(bench: Bench) -> Iterator[Row]:
    """Measure the time from the connection to the A-ASSOCIATE-AC."""
    with bench.systems(*NAMES) as systems:
        for key, title, contexts in _proposals():
            line = Line(key, f"association set-up, {title}", "ms", Better.LESS)
            times = bench.of(20, 3)
            yield from bench.interleave([line], systems, partial(_set_up, contexts, times))


def _proposals() -> Iterator[tuple[str, str, list[ProposedContext]]]:
    yield "setup.1", "1 context", [client.STORAGE]
    yield "setup.128", "128 contexts of 4 transfer syntaxes", [(each, SYNTAXES) for each in _storage_classes(128)]


def _storage_classes(count: int) -> list[str]:
    """Return `count` Storage SOP Classes of PS3.4 Annex B, CT Image Storage first."""
    return [wire.CT_IMAGE_STORAGE, *sorted(STORAGE - {wire.CT_IMAGE_STORAGE})][:count]


def _set_up(contexts: list[ProposedContext], times: int, system: System, _run: int) -> list[float]:
    """Return the median time of `times` associations, in milliseconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        with Association(system.port, system.ae_title, contexts):
            taken.append(time.perf_counter() - began)
    return [median(taken) * 1e3]


def idle(bench: Bench) -> Iterator[Row]:
    """Measure the processor time and the memory of a hundred idle associations."""
    count, seconds = 100, bench.of(5, 1)
    lines = [
        Line("idle.cpu", f"{count} idle associations", "% of a core", Better.LESS),
        Line("idle.memory", f"{count} idle associations", "MB more", Better.LESS),
    ]
    with bench.systems("pacs", "pacs-postgres", "orthanc", "dcmqrscp", "qrscp") as systems:
        held = {system.name: min(count, system.most_associations) for system in systems}
        notes = {name: f"takes {number} associations" for name, number in held.items() if number < count}
        yield from bench.interleave(lines, systems, lambda s, _: _idle(s, held[s.name], seconds), notes)


def _idle(system: System, count: int, seconds: float) -> tuple[float, float]:
    before = processes.resident_megabytes(system.pid)
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(Association(system.port, system.ae_title))
        time.sleep(0.5)
        began, used = time.perf_counter(), processes.cpu_seconds(system.pid)
        time.sleep(seconds)
        used, took = processes.cpu_seconds(system.pid) - used, time.perf_counter() - began
        return 100 * used / took, processes.resident_megabytes(system.pid) - before
