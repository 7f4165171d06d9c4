"""C-FIND: one study, some, and all of 10,000, with and without ModalitiesInStudy and the counts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

from benchmarks import client, data, peers, wire
from benchmarks.bench import Archive, Bench, Better, Line, Row, say
from benchmarks.client import Association
from benchmarks.data import Study
from benchmarks.peers import System

STUDIES = 10_000

PLAIN = (
    "PatientID",
    "PatientName",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyDescription",
)
COUNTED = (*PLAIN, "ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances")
"""The requested attributes: of the study and its patient, and those computed from its series and instances."""

WANTED = Study(321)
"""The study to find; in a quick run it is the first."""


@dataclass(frozen=True)
class Query:
    """A query: its title, its keys, the repetitions in one run, and the kind of client."""

    key: str
    title: str
    keys: Mapping[str, str]
    times: int = 1
    delays: bool = False


def queries(wanted: Study) -> list[Query]:
    """Return the queries for this study and others."""
    patient_id = {"PatientID": wanted.patient["PatientID"]}
    return [
        Query("find.patient_id", "by Patient ID", patient_id, 10),
        Query("find.patient_id.delayed", "by Patient ID, acknowledgements delayed", patient_id, 10, delays=True),
        Query("find.accession", "by Accession Number", {"AccessionNumber": wanted.study["AccessionNumber"]}, 10),
        Query("find.prefix", "by name, prefix", {"PatientName": f"{wanted.name.partition('^')[0]}*"}, 5),
        Query("find.infix", "by name, infix *^ANNA^*", {"PatientName": "*^ANNA^*"}, 3),
        Query("find.month", "of one month", {"StudyDate": f"{wanted.date[:6]}01-{wanted.date[:6]}28"}, 3),
        Query("find.all", "all", {}),
    ]


Ready = Callable[[Archive], System]
"""Returns a system with its studies."""

LESS_TELLING = ("find.patient_id.delayed", "find.prefix", "find.infix", "find.month")


def find(bench: Bench) -> Iterator[Row]:
    """Measure each query: the time to the first response and to the last."""
    names = ("pacs", "pacs-postgres", "orthanc", "orthanc-db", "dcmqrscp", "qrscp")
    studies = bench.of(STUDIES, 100)
    notes = {name: f"holds {most} studies" for name, most in peers.MOST_STUDIES.items() if most < studies}
    ready = partial(filled, studies=studies)
    with bench.archives(*names) as archives:
        for query in queries(Study(7) if bench.quick else WANTED):
            if not (bench.subset and query.key in LESS_TELLING):
                for counts in (False, True):
                    yield from measure_query(bench, archives, ready, counted(query, counts=counts), notes)


def filled(archive: Archive, studies: int) -> System:
    """Return the system with the first studies of the population."""
    return archive.once("population", partial(fill, studies=studies))


def fill(system: System, studies: int) -> System:
    """Store the first studies of the population on one association; on several, dcmqrscp loses some."""
    studies = min(studies, peers.MOST_STUDIES.get(system.name, studies))
    say(f"{system.name}: storing {studies} studies")
    client.store(system.port, system.ae_title, [data.population(studies)])
    return system


def counted(query: Query, *, counts: bool) -> Query:
    """Return the query with what it asks for: with the counts, or without."""
    if not counts:
        return replace(query, keys={**dict.fromkeys(PLAIN, ""), **query.keys})
    return replace(
        query,
        key=f"{query.key}.counts",
        title=f"{query.title}, with counts",
        keys={**dict.fromkeys(COUNTED, ""), **query.keys},
    )


def measure_query(
    bench: Bench, archives: Sequence[Archive], ready: Ready, query: Query, notes: Mapping[str, str]
) -> list[Row]:
    """Measure one query: the time to the first and the last response, and matches per second for all studies."""
    key, title = query.key, f"studies {query.title}"
    lines = [
        Line(f"{key}.first", f"{title}: first response", "ms", Better.LESS),
        Line(f"{key}.last", f"{title}: last response", "ms", Better.LESS),
        Line(f"{key}.rate", f"{title}: answers", "per s", Better.MORE),
        Line(f"{key}.matches", f"{title}: matches", "", Better.MORE),
    ]
    rows = bench.interleave(lines, archives, lambda archive, _: _ask(query, ready(archive)), notes)
    for row in rows[:3]:
        _tell_matches(row, {name: int(values[0]) for name, values in rows[3].values.items()})
    return rows[:3] if query.key in ("find.all", "find.all.counts") else rows[:2]


def _ask(query: Query, system: System) -> list[float]:
    identifier = wire.identifier("STUDY", query.keys)
    with Association(system.port, system.ae_title, [client.QUERY], delays=query.delays) as association:
        answers = [client.find(association, identifier) for _ in range(query.times)]
    matches = answers[0].matches
    first, last = (median(each) * 1e3 for each in zip(*((a.first, a.last) for a in answers), strict=True))
    return [first, last, matches / last * 1e3, matches]


def _tell_matches(row: Row, matches: Mapping[str, int]) -> None:
    """Add the number of matches to a row, and note systems with another number."""
    usual = next(iter(matches.values()), 0)
    row.line = replace(row.line, title=f"{row.line.title} ({usual:,} match{'es' if usual != 1 else ''})")
    for name, count in matches.items():
        if count != usual:
            row.notes[name] = "; ".join(filter(None, (row.notes.get(name), f"{count:,} matches")))
