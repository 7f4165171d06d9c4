"""Ingest by DCMTK's storescu."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import data
from benchmarks.bench import Bench, Better, Line, Row
from benchmarks.peers import System
from benchmarks.processes import program


def storescu(bench: Bench) -> Iterator[Row]:
    """Measure storescu with its defaults (Nagle's algorithm on): one association, images of 9 kB."""
    if program("storescu") is None:
        return
    count = bench.of(200, 10)
    line = Line("storescu", f"stock storescu, {count} × 9 kB, from its start to its end", "inst/s", Better.MORE)
    names = ("pacs", "pacs-postgres", "sink", "orthanc", "orthanc-tuned", "dcmqrscp", "qrscp")
    with bench.folder() as folder, bench.archives(*names) as archives:
        files = [data.write_files(folder, count) for _ in range(bench.runs)]
        yield from bench.interleave([line], archives, lambda each, run: [count / _send(each.system, files[run])])


def _send(system: System, files: list[Path]) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
    command = ["storescu", "-aec", system.ae_title, "127.0.0.1", system.port, *files]
    began = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True, capture_output=True, env=environment, timeout=600)
    return time.perf_counter() - began
