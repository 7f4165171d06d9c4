"""C-MOVE and C-GET: a thousand small images, a hundred of 512 kB, and one of 500 MB; nearby, and over a long line.

The destination of C-MOVE is a sink that stores nothing. `far` is the sink behind a relay that delays each direction by
10 ms; for C-GET the server is behind the relay.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from benchmarks import client, data, memory, wire
from benchmarks.bench import Archive, Bench, Better, Line, Row
from benchmarks.client import Association, QueryResult, RequestFailed
from benchmarks.peers import FAR, FAR_ASSOCIATIONS, SINK, System
from benchmarks.relay import relay
from benchmarks.wire import FAR_WINDOW
from pacs import testing

SYSTEMS = ("pacs", "pacs-postgres", "orthanc", "orthanc-tuned", "dcmqrscp", "qrscp")


@dataclass(frozen=True)
class Study:
    """A study to retrieve: how it is stored, how many instances it has, and the bytes of one."""

    key: str
    title: str
    store: Callable[[System], str]
    """Stores it and returns its Study Instance UID."""
    count: int
    size: int

    @property
    def megabytes(self) -> float:
        """The size of all instances."""
        return self.count * self.size / 1e6


Retrieve = Callable[[System, Study, str], float]
"""Retrieves the study with a Study Instance UID, and returns the seconds. Raises RequestFailed."""


def studies(bench: Bench) -> list[Study]:
    """Return the studies, smaller ones with --quick; in the subset only the hundred images."""
    return [
        *([] if bench.subset else [images("9 kB", bench.of(1000, 5))]),
        images("512 kB", bench.of(100, 5)),
        *([] if bench.subset else [_multi_frame(bench.of(500, 2))]),
    ]


def images(size: str, count: int) -> Study:
    """Return a study of images of a size in `data.SIDES`."""

    def store(system: System) -> str:
        made = data.images(size, count)
        client.store(system.port, system.ae_title, [made])
        return made.study_instance_uid

    return Study(size.replace(" ", ""), f"{count:,} × {size}", store, count, data.bytes_of(size))


def _multi_frame(megabytes: int) -> Study:
    uid = testing.uid("retrieve")

    def pieces() -> Iterator[bytes]:
        yield memory.head(testing.uid("retrieve/image"), uid) + memory.pixel_data(megabytes << 20)
        yield from (memory.NOISE for _ in range(megabytes))

    def store(system: System) -> str:
        memory.store_pieces(system, testing.uid("retrieve/image"), pieces())
        return uid

    return Study("500MB", f"one multi-frame of {megabytes} MB", store, 1, megabytes << 20)


@dataclass(frozen=True)
class Way:
    """A way to retrieve a study; `{}` in the title is the study."""

    key: str
    title: str
    retrieve: Retrieve


def retrieve(bench: Bench) -> Iterator[Row]:
    """Measure C-MOVE to the sink, and C-GET."""
    with bench.archives(*SYSTEMS) as archives:
        for study in studies(bench):
            yield from _measure(bench, archives, study, Way("move", "C-MOVE of {}", _move))
            yield from _measure(bench, archives, study, Way("get", "C-GET of {}", _get))


def far(bench: Bench) -> Iterator[Row]:
    """Measure the same over the relay, and C-MOVE to peers for which this archive may open several associations."""
    with bench.archives(*SYSTEMS[:-1]) as archives:  # qrscp needs minutes
        ours = [each for each in archives if each.name.startswith("pacs")]
        for study in studies(bench):
            moves = Way(
                "far.move", "C-MOVE of {}, 20 ms of round trip", _by_count(partial(move_study, destination=FAR))
            )
            yield from _measure(bench, archives, study, moves)
            for most in FAR_ASSOCIATIONS:
                title = f"C-MOVE of {{}}, 20 ms of round trip, associations = {most}"
                move = _by_count(partial(move_study, destination=f"{FAR}{most}"))
                yield from _measure(bench, ours, study, Way(f"far{most}.move", title, move))
            title = "C-MOVE of {}, 20 ms of round trip, to a destination with an asynchronous operations window"
            move = _by_count(partial(move_study, destination=FAR_WINDOW))
            yield from _measure(bench, ours, study, Way("farwindow.move", title, move))
            yield from _measure(bench, archives, study, Way("far.get", "C-GET of {}, 20 ms of round trip", _get_far))


def _measure(bench: Bench, archives: list[Archive], study: Study, way: Way) -> list[Row]:
    named, key = way.title.format(study.title), f"{way.key}.{study.key}"
    lines = [
        Line(key, named, "ms", Better.LESS),
        Line(f"{key}.mb", named, "MB/s", Better.MORE),
    ]

    def measure(archive: Archive, _run: int) -> list[float]:
        uid = archive.once(study.key, study.store)
        seconds = way.retrieve(archive.system, study, uid)
        return [seconds * 1e3, study.megabytes / seconds]

    return bench.interleave(lines, archives, measure)


# --- one retrieve ------------------------------------------------------------------------------------------------


def move_study(system: System, uid: str, count: int, destination: str = SINK) -> float:
    """Return the seconds of a C-MOVE. Raises RequestFailed if instances are missing."""
    with Association(system.port, system.ae_title, [client.RETRIEVE]) as association:
        return _checked(client.move(association, _identifier(uid), destination), count)


def get_study(system: System, uid: str, count: int, port: int = 0) -> float:
    """Return the seconds of a C-GET; `port` is that of a relay. Raises RequestFailed if instances are missing."""
    contexts, receives = [client.GET, client.STORAGE], [wire.CT_IMAGE_STORAGE]
    with Association(port or system.port, system.ae_title, contexts, receives=receives) as association:
        return _checked(client.get(association, _identifier(uid)), count)


def _identifier(uid: str) -> bytes:
    return wire.identifier("STUDY", {"StudyInstanceUID": uid})


def _checked(answered: QueryResult, count: int) -> float:
    if answered.matches != count:
        raise RequestFailed(f"{answered.matches} of {count} instances were retrieved")
    return answered.last


def _by_count(move: Callable[[System, str, int], float]) -> Retrieve:
    return lambda system, study, uid: move(system, uid, study.count)


_move = _by_count(move_study)
_get = _by_count(get_study)


def _get_far(system: System, study: Study, uid: str) -> float:
    with relay(system.folder / f"relay-{time.monotonic_ns()}", system.port) as port:
        return get_study(system, uid, study.count, port)
