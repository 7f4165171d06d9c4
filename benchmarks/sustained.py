"""Ingest that lasts: half a minute and more of one shape, on some associations, into an archive that grows.

The archive stays between the cells of a shape until it holds more than `MOST_BYTES`; then it is begun again, empty.
"""

import time
from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks import processes
from benchmarks.bench import Archive, Bench, Better, Line, Row, say
from benchmarks.load import Window, between, load
from benchmarks.shapes import SHAPES, Shape

SYSTEMS = ("pacs", "pacs-1", "pacs-2", "pacs-4", "pacs-postgres", "limit", "orthanc", "orthanc-tuned", "dcmqrscp")

SUBSET = ("pacs", "limit", "orthanc")

MOST_BYTES = 6 * 10**9
"""An archive with more bytes is removed after a cell."""

MOST_SENT = 16 * 10**9
"""Bytes after which a cell ends early, so that a fast disk is not filled."""


def sustained(bench: Bench) -> Iterator[Row]:
    """Measure each shape on each number of associations."""
    for shape in (SHAPES[key] for key in bench.sustained.shapes):
        with bench.archives(*(SUBSET if bench.subset else SYSTEMS)) as archives:
            for associations in bench.sustained.associations:
                yield from measure_shape(bench, archives, shape, associations, f"sustained.{shape.key}")


def encrypted(bench: Bench) -> Iterator[Row]:
    """Measure the first shapes on associations with TLS."""
    for shape in (SHAPES[key] for key in bench.sustained.shapes if key in ("one-a-study", "ct-512kB")):
        with bench.archives("pacs", "orthanc", encrypted=True) as archives:
            for associations in bench.sustained.associations:
                yield from measure_shape(bench, archives, shape, associations, f"tls.{shape.key}")


def measure_shape(bench: Bench, archives: Sequence[Archive], shape: Shape, associations: int, key: str) -> list[Row]:
    """Measure one shape on a number of associations."""
    able = [each for each in archives if _can(each.name, shape, associations)]
    if bench.subset and not shape.in_bytes:
        able = [each for each in able if each.name != "limit"]  # no goal compares it
    measure = partial(_measure, bench, shape, associations)
    return bench.interleave(_lines(shape, associations, key), able, measure)


def _can(name: str, shape: Shape, associations: int) -> bool:
    """Return whether a system can take a load: dcmqrscp holds few studies, and loses some of four senders."""
    return name != "dcmqrscp" or (associations < 4 and min(kind.images for kind in shape.kinds) >= 100)


def _lines(shape: Shape, associations: int, key: str) -> list[Line]:
    tls = ", TLS" if key.startswith("tls") else ""
    title = f"{shape.title}, {associations} association{'s' if associations > 1 else ''}{tls}"
    unit = "MB/s" if shape.in_bytes else "inst/s"
    at = f"{key}.{associations}"
    return [
        Line(at, title, unit, Better.MORE),
        Line(f"{at}.worst", f"{title}: worst second", unit, Better.MORE),
        Line(f"{at}.p50", f"{title}: C-STORE, median", "ms", Better.LESS),
        Line(f"{at}.p99", f"{title}: C-STORE, 99th percentile", "ms", Better.LESS),
        Line(f"{at}.longest", f"{title}: C-STORE, longest", "ms", Better.LESS),
        Line(f"{at}.server", f"{title}: processor time of the server for an instance", "ms", Better.LESS),
        Line(f"{at}.sender", f"{title}: processor time of the sender for an instance", "ms", Better.LESS),
        Line(f"{at}.memory", f"{title}: memory", "MB more", Better.LESS),
    ]


def _measure(bench: Bench, shape: Shape, associations: int, archive: Archive, _run: int) -> list[float]:
    system = archive.settled()
    before = processes.resident_megabytes(system.pid)
    processes.forget_peak(system.pid)
    with load(system, shape, associations, MOST_SENT) as running:
        began = time.monotonic() + bench.sustained.warm_up
        lasts = running.wait(bench.sustained.warm_up)
        used = processes.cpu_seconds(system.pid)
        lasts = lasts and running.wait(began + bench.sustained.seconds - time.monotonic())
        ended, used = time.monotonic(), processes.cpu_seconds(system.pid) - used
        grown = max(0.0, processes.peak_megabytes(system.pid) - before)
        window = between(running.stop(), began, ended)
    if not lasts:
        say(f"{archive.name}: ended after {window.seconds:.0f} s, at {MOST_SENT / 1e9:.0f} GB")
    _bound(archive)
    return _values(shape, window, used, grown)


def _values(shape: Shape, window: Window, used: float, grown: float) -> list[float]:
    count = len(window.took)
    rate = window.size / 1e6 if shape.in_bytes else count
    worst = min(size / 1e6 if shape.in_bytes else number for number, size in window.by_second)
    latencies = (window.quantile(0.5), window.quantile(0.99), window.took[-1], used / count, window.cpu / count)
    return [rate / window.seconds, worst, *(1e3 * each for each in latencies), grown]


def _bound(archive: Archive) -> None:
    """Begin an archive again that has become too large."""
    size = archive.size()
    if size > MOST_BYTES:
        say(f"{archive.name}: {size / 1e9:.1f} GB are removed; the next cell begins with an empty archive")
        archive.close()
