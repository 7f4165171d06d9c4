"""C-FIND: one study, some, and all of 10,000, with and without ModalitiesInStudy and the counts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from benchmarks import client, data, wire
from benchmarks.bench import Bench, Better, Line, Row, say
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


def find(bench: Bench) -> Iterator[Row]:
    """Measure each query: the time to the first response and to the last."""
    names = ("pacs", "pacs-postgres", "orthanc", "orthanc-db", "dcmqrscp", "qrscp")
    studies = bench.of(STUDIES, 100)
    with bench.systems(*names) as systems:
        held = {system.name: min(studies, system.most_studies) for system in systems}
        for system in systems:
            fill(system, held[system.name])
        notes = {name: f"holds {count} studies" for name, count in held.items() if count < studies}
        for query in queries(Study(7) if bench.quick else WANTED):
            for counts in (False, True):
                yield from measure_query(bench, systems, query, notes, counts=counts)


def fill(system: System, studies: int) -> None:
    """Store the first studies of the population on one association; on several, dcmqrscp loses some."""
    say(f"{system.name}: storing {studies} studies")
    client.store(system.port, system.ae_title, [data.population(studies)])


def measure_query(
    bench: Bench, systems: Sequence[System], query: Query, notes: Mapping[str, str], *, counts: bool
) -> list[Row]:
    """Measure one query: the time to the first and the last response, and matches per second for all studies."""
    key = f"{query.key}.counts" if counts else query.key
    title = f"studies {query.title}{', with counts' if counts else ''}"
    lines = [
        Line(f"{key}.first", f"{title}: first response", "ms", Better.LESS),
        Line(f"{key}.last", f"{title}: last response", "ms", Better.LESS),
        Line(f"{key}.rate", f"{title}: answers", "per s", Better.MORE),
    ]
    identifier = wire.identifier("STUDY", {**dict.fromkeys(COUNTED if counts else PLAIN, ""), **query.keys})
    matches: dict[str, int] = {}

    def measure(system: System, _run: int) -> list[float]:
        with Association(system.port, system.ae_title, [client.QUERY], delays=query.delays) as association:
            answers = [client.find(association, identifier) for _ in range(query.times)]
        matches[system.name] = answers[0].matches
        first, last = (median(each) * 1e3 for each in zip(*((a.first, a.last) for a in answers), strict=True))
        return [first, last, answers[0].matches / last * 1e3]

    rows = bench.interleave(lines, systems, measure, notes)
    for row in rows:
        _tell_matches(row, matches)
    return rows if query.key.endswith("find.all") else rows[:2]


def _tell_matches(row: Row, matches: Mapping[str, int]) -> None:
    """Add the number of matches to a row, and note systems with another number."""
    usual = next(iter(matches.values()), 0)
    row.line = replace(row.line, title=f"{row.line.title} ({usual:,} match{'es' if usual != 1 else ''})")
    for name, count in matches.items():
        if count != usual:
            row.notes[name] = "; ".join(filter(None, (row.notes.get(name), f"{count:,} matches")))
