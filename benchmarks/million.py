"""C-FIND with a million studies in the index, on SQLite and PostgreSQL, and the memory of a query for all of them."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from benchmarks import client, find, peers, processes, rows, wire
from benchmarks.bench import Archive, Bench, Better, Line, Row
from benchmarks.client import Association
from benchmarks.data import Study
from benchmarks.peers import Site, System
from benchmarks.postgres import postgres

STUDIES = 1_000_000


def million(bench: Bench) -> Iterator[Row]:
    """Measure the queries of `find`, and one query for all studies: matches per second and memory."""
    studies = bench.of(STUDIES, 2000)
    with _archives(bench, studies) as archives:
        for query in _queries(studies):
            times = query.times if query.times == 10 else 1  # there are tens of thousands of matches to the others
            larger = replace(query, key=f"million.{query.key}", title=f"{query.title}, of {studies:,}", times=times)
            for counts in (False, True):
                asked = find.counted(larger, counts=counts)
                yield from find.measure_query(bench, archives, lambda each: each.system, asked, {})
        yield from _all(bench, archives, studies)


def _queries(studies: int) -> list[find.Query]:
    """Return the queries of `find`, and a prefix of the Patient ID with 10,000 matches of a million."""
    prefix = find.Query("find.patient_id_prefix", "by Patient ID, prefix", {"PatientID": "P00012*"}, 3)
    return [*find.queries(Study(studies * 2 // 3))[:-1], prefix]  # all studies are queried by `_all`


def _all(bench: Bench, archives: Sequence[Archive], studies: int) -> list[Row]:
    lines = [
        Line("million.all.first", f"all {studies:,} studies: first response", "ms", Better.LESS),
        Line("million.all.rate", f"all {studies:,} studies: answers", "per s", Better.MORE),
        Line("million.all.memory", f"all {studies:,} studies: memory", "MB more", Better.LESS),
    ]
    identifier = wire.identifier("STUDY", dict.fromkeys(find.PLAIN, ""))

    def measure(archive: Archive, _run: int) -> tuple[float, float, float]:
        system = archive.system
        before = processes.resident_megabytes(system.pid)
        processes.forget_peak(system.pid)
        with Association(system.port, system.ae_title, [client.QUERY]) as association:
            answered = client.find(association, identifier)
        if answered.matches != studies:
            raise client.RequestFailed(f"{answered.matches} of {studies} studies were found")
        grown = processes.peak_megabytes(system.pid) - before
        return answered.first * 1e3, answered.matches / answered.last, max(0.0, grown)

    return replace(bench, runs=1).interleave(lines, archives, measure)


@contextmanager
def _archives(bench: Bench, studies: int) -> Iterator[list[Archive]]:
    """Prepare this archive with indexes that are filled by SQL when it starts."""
    starts = {"pacs": _on_sqlite, "pacs-postgres": _on_postgres}
    with bench.folder() as folder, ExitStack() as stack:
        archives = []
        for name in bench.installed(tuple(starts)):
            site = Site(folder / name, settings=bench.settings)
            archives.append(Archive(name, site.folder, partial(starts[name], site, studies)))
            stack.callback(archives[-1].close)
        yield archives


@contextmanager
def _on_sqlite(site: Site, studies: int) -> Iterator[System]:
    site.folder.mkdir()
    rows.fill_sqlite(site.folder / "pacs.db", studies)
    with peers.pacs(site) as system:
        yield system


@contextmanager
def _on_postgres(site: Site, studies: int) -> Iterator[System]:
    site.folder.mkdir()
    with postgres(site.folder) as url:
        rows.fill_postgres(url, studies)
        with peers.pacs(site, url, "pacs-postgres") as system:
            yield system
