"""C-FIND with a million studies in the index, on SQLite and PostgreSQL, and the memory of a query for all of them."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks import client, find, peers, processes, rows, wire
from benchmarks.bench import Bench, Better, Line, Row
from benchmarks.client import Association
from benchmarks.data import Study
from benchmarks.peers import Site, System
from benchmarks.postgres import postgres

STUDIES = 1_000_000


def million(bench: Bench) -> Iterator[Row]:
    """Measure the queries of `find`, and one query for all studies: matches per second and memory."""
    studies = bench.of(STUDIES, 2000)
    with bench.folder() as folder, _systems(bench, folder, studies) as systems:
        for query in find.queries(Study(studies * 2 // 3))[:-1]:  # all studies are queried below
            times = query.times if query.times == 10 else 1  # there are tens of thousands of matches to the others
            larger = replace(query, key=f"million.{query.key}", title=f"{query.title}, of {studies:,}", times=times)
            for counts in (False, True):
                yield from find.measure_query(bench, systems, larger, {}, counts=counts)
        yield from _all(bench, systems, studies)


def _all(bench: Bench, systems: Sequence[System], studies: int) -> list[Row]:
    lines = [
        Line("million.all.first", f"all {studies:,} studies: first response", "ms", Better.LESS),
        Line("million.all.rate", f"all {studies:,} studies: answers", "per s", Better.MORE),
        Line("million.all.memory", f"all {studies:,} studies: memory", "MB more", Better.LESS),
    ]
    identifier = wire.identifier("STUDY", dict.fromkeys(find.PLAIN, ""))

    def measure(system: System, _run: int) -> tuple[float, float, float]:
        before = processes.resident_megabytes(system.pid)
        processes.forget_peak(system.pid)
        with Association(system.port, system.ae_title, [client.QUERY]) as association:
            answered = client.find(association, identifier)
        if answered.matches != studies:
            raise client.RequestFailed(f"{answered.matches} of {studies} studies were found")
        grown = processes.peak_megabytes(system.pid) - before
        return answered.first * 1e3, answered.matches / answered.last, max(0.0, grown)

    return replace(bench, runs=1).interleave(lines, systems, measure)


@contextmanager
def _systems(bench: Bench, folder: Path, studies: int) -> Iterator[list[System]]:
    """Run this archive with indexes that were filled by SQL."""
    with ExitStack() as stack:
        started = []
        if "pacs" in bench.chosen:
            site = Site(folder / "pacs", settings=bench.settings)
            site.folder.mkdir()
            rows.fill_sqlite(site.folder / "pacs.db", studies)
            started.append(stack.enter_context(peers.pacs(site)))
        if "pacs-postgres" in bench.chosen and peers.is_installed("pacs-postgres"):
            site = Site(folder / "pacs-postgres", settings=bench.settings)
            url = stack.enter_context(postgres(folder))
            rows.fill_postgres(url, studies)
            started.append(stack.enter_context(peers.pacs(site, url, "pacs-postgres")))
        yield started
