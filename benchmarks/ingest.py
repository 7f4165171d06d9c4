"""Ingest by DCMTK's storescu and by the raw client."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import client, data
from benchmarks.bench import Bench, Better, Line, Row
from benchmarks.peers import System
from benchmarks.processes import program

ASSOCIATIONS = (1, 4, 16)

SECONDS = 3.0
"""The longest run of the raw client, in seconds."""


def storescu(bench: Bench) -> Iterator[Row]:
    """Measure storescu with its defaults (Nagle's algorithm on): one association, images of 9 kB."""
    if program("storescu") is None:
        return
    count = bench.of(200, 10)
    line = Line("storescu", f"stock storescu, {count} × 9 kB, from its start to its end", "inst/s", Better.MORE)
    names = ("pacs", "pacs-postgres", "sink", "orthanc", "dcmqrscp", "qrscp")
    with bench.folder() as folder, bench.systems(*names) as systems:
        files = [data.write_files(folder, count) for _ in range(bench.runs)]
        yield from bench.interleave([line], systems, lambda system, run: [count / _send(system, files[run])])


def _send(system: System, files: list[Path]) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
    command = ["storescu", "-aec", system.ae_title, "127.0.0.1", system.port, *files]
    began = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True, capture_output=True, env=environment, timeout=600)
    return time.perf_counter() - began


def raw(bench: Bench) -> Iterator[Row]:
    """Measure the raw client: 1, 4 and 16 open associations, images of 9 kB and 512 kB."""
    names = ("pacs", "pacs-2", "pacs-postgres", "limit", "orthanc", "dcmqrscp", "qrscp")
    with bench.systems(*names) as systems:
        for size, most in (("9 kB", bench.of(2000, 40)), ("512 kB", bench.of(400, 16))):
            for associations in ASSOCIATIONS:
                key = f"ingest.{size.replace(' ', '')}.{associations}"
                yield from measure_ingest(bench, systems, key, size=size, associations=associations, most=most)


def measure_ingest(
    bench: Bench, systems: list[System], key: str, *, size: str, associations: int, most: int
) -> list[Row]:
    """Measure storing at most `most` images of a size on several associations."""
    title = f"raw client, {size}, {associations} association{'s' if associations > 1 else ''}"
    lines = [Line(key, title, "inst/s", Better.MORE), Line(f"{key}.mb", title, "MB/s", Better.MORE)]
    able = [system for system in systems if system.most_associations >= associations]
    notes = {each.name: f"takes {each.most_associations} associations" for each in systems if each not in able}

    def measure(system: System, _run: int) -> list[float]:
        parts = [data.images(size, most // associations) for _ in range(associations)]
        sent = client.store(system.port, system.ae_title, parts, SECONDS)
        return [sent.rate, sent.rate * data.bytes_of(size) / 1e6]

    rows = bench.interleave(lines, able, measure, notes)
    return rows[:1] if size == "9 kB" else rows[1:]
