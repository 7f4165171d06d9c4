"""C-MOVE of a study to a sink that stores nothing."""

from collections.abc import Iterator

from benchmarks import client, data, wire
from benchmarks.bench import Bench, Better, Line, Row
from benchmarks.client import Association, RequestFailed
from benchmarks.peers import SINK, System


def move(bench: Bench) -> Iterator[Row]:
    """Measure a C-MOVE of 100 instances of 512 kB on one association to the sink."""
    count = bench.of(100, 5)
    lines = [
        Line("move", f"C-MOVE of {count} × 512 kB to a sink", "MB/s", Better.MORE),
        Line("move.ms", f"C-MOVE of {count} × 512 kB to a sink", "ms", Better.LESS),
    ]
    with bench.systems("pacs", "pacs-postgres", "orthanc", "dcmqrscp", "qrscp") as systems:
        studies = {system.name: _store_study(system, count) for system in systems}
        megabytes = count * data.bytes_of("512 kB") / 1e6

        def measure(system: System, _run: int) -> list[float]:
            seconds = move_study(system, studies[system.name], count)
            return [megabytes / seconds, seconds * 1e3]

        yield from bench.interleave(lines, systems, measure)


def _store_study(system: System, count: int) -> str:
    """Store a new study and return its Study Instance UID."""
    images = data.images("512 kB", count)
    client.store(system.port, system.ae_title, [images])
    return images.study_instance_uid


def move_study(system: System, study_instance_uid: str, count: int) -> float:
    """Return the seconds of a C-MOVE. Raises RequestFailed if instances are missing."""
    identifier = wire.identifier("STUDY", {"StudyInstanceUID": study_instance_uid})
    with Association(system.port, system.ae_title, [client.RETRIEVE]) as association:
        answered = client.move(association, identifier, SINK)
    if answered.matches != count:
        raise RequestFailed(f"{answered.matches} of {count} instances were moved")
    return answered.last
