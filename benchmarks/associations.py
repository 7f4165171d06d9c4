"""Costs of associations: setting one up, and leaving a hundred open."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from statistics import median

from benchmarks import client, processes, wire
from benchmarks.bench import Archive, Bench, Better, Line, Row
from benchmarks.client import Association
from benchmarks.peers import MOST_ASSOCIATIONS
from benchmarks.wire import ProposedContext
from pacs.conformance.checks.wire import EXPLICIT, IMPLICIT
from pacs.dicom.sop_classes import STORAGE

NAMES = ("pacs", "pacs-postgres", "sink", "orthanc", "dcmqrscp", "qrscp")

SYNTAXES = (EXPLICIT, IMPLICIT, wire.EXPLICIT_BIG, wire.JPEG_BASELINE)


def setup(bench: Bench) -> Iterator[Row]:
    """Measure the time from the connection to the A-ASSOCIATE-AC."""
    with bench.archives(*NAMES) as archives:
        for key, title, contexts in _proposals():
            line = Line(key, f"association set-up, {title}", "ms", Better.LESS)
            times = bench.of(20, 3)
            yield from bench.interleave([line], archives, partial(_set_up, contexts, times))


def _proposals() -> Iterator[tuple[str, str, list[ProposedContext]]]:
    yield "setup.1", "1 context", [client.STORAGE]
    yield "setup.128", "128 contexts of 4 transfer syntaxes", [(each, SYNTAXES) for each in _storage_classes(128)]


def _storage_classes(count: int) -> list[str]:
    """Return `count` Storage SOP Classes of PS3.4 Annex B, CT Image Storage first."""
    return [wire.CT_IMAGE_STORAGE, *sorted(STORAGE - {wire.CT_IMAGE_STORAGE})][:count]


def _set_up(contexts: list[ProposedContext], times: int, archive: Archive, _run: int) -> list[float]:
    """Return the median time of `times` associations, in milliseconds."""
    system, taken = archive.system, []
    for _ in range(times):
        began = time.perf_counter()
        with Association(system.port, system.ae_title, contexts):
            taken.append(time.perf_counter() - began)
    return [median(taken) * 1e3]


UNLIMITED = ("limits.associations=200", "limits.associations_per_address=0", "limits.associations_per_ae=0")
"""Settings for a hundred associations from one address; the default allows 50."""


def idle(bench: Bench) -> Iterator[Row]:
    """Measure the memory of an idle system, and what a hundred idle associations cost."""
    count, seconds = 100, bench.of(5, 1)
    lines = [
        Line("idle.cpu", f"{count} idle associations", "% of a core", Better.LESS),
        Line("idle.memory", f"{count} idle associations", "MB more", Better.LESS),
        Line("idle.alone", "no association, all processes, PSS", "MB", Better.LESS),
    ]
    names = ("pacs", "pacs-1", "pacs-2", "pacs-4", "pacs-postgres", "orthanc-tuned", "dcmqrscp", "qrscp")
    notes = {name: f"takes {most} associations" for name, most in MOST_ASSOCIATIONS.items()}
    with bench.archives(*names, settings=UNLIMITED) as archives:
        yield from bench.interleave(lines, archives, partial(_idle, count, seconds), notes)


def _idle(count: int, seconds: float, archive: Archive, _run: int) -> tuple[float, float, float]:
    system = archive.settled()
    before, alone = processes.resident_megabytes(system.pid), processes.proportional_megabytes(system.pid)
    with ExitStack() as stack:
        for _ in range(min(count, MOST_ASSOCIATIONS.get(system.name, count))):
            stack.enter_context(Association(system.port, system.ae_title))
        time.sleep(0.5)
        began, used = time.perf_counter(), processes.cpu_seconds(system.pid)
        time.sleep(seconds)
        used, took = processes.cpu_seconds(system.pid) - used, time.perf_counter() - began
        return 100 * used / took, processes.resident_megabytes(system.pid) - before, alone
