"""The presets imitate real systems: the same requests to both, the same responses from both."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from benchmarks import peers
from pacs.config import presets
from pacs.testing import Fault, serving, storing, study
from tests import raw
from tests.archives import FIND, MOVE, identifier
from tests.programs import needs
from tests.raw import IMPLICIT, Raw, Response, request
from tests.waiting import eventually

STUDY = study(series=2, instances=3)
UID, SERIES = STUDY[0].StudyInstanceUID, STUDY[0].SeriesInstanceUID
CT = STUDY[0].SOPClassUID
COUNTS = (0x1021, 0x1022, 0x1023)


@dataclass(frozen=True)
class Asked:
    """A request, what its destination does wrong, and whether it is cancelled at once."""

    kind: int
    level: str
    keys: dict[str, str]
    destination: str = ""
    fault: Fault | None = None
    cancel: bool = False


def found(level, **keys):
    """A query."""
    return Asked(raw.C_FIND, level, keys)


def moved(fault=None, destination="SINK", level="STUDY", **keys):
    """A retrieve to a destination that does something wrong, or nothing."""
    return Asked(raw.C_MOVE, level, keys or {"StudyInstanceUID": UID}, destination, fault)


QUESTIONS = {
    "a study": found("STUDY", StudyInstanceUID=UID, PatientName=""),
    "a study that is not there": found("STUDY", StudyInstanceUID="1.2.3"),
    "images without a study": found("IMAGE", SOPInstanceUID=""),
    "series without a study": found("SERIES", SeriesInstanceUID=""),
    "a query without a level": found("", StudyInstanceUID=UID),
    "an unknown key": found("STUDY", StudyInstanceUID=UID, DeviceSerialNumber=""),
    "a query that is cancelled": Asked(
        raw.C_FIND, "IMAGE", {"StudyInstanceUID": UID, "SeriesInstanceUID": SERIES, "SOPInstanceUID": ""}, cancel=True
    ),
    "a move": moved(),
    "a move of nothing": moved(StudyInstanceUID="1.2.3"),
    "a move of a series without its study": moved(level="SERIES", SeriesInstanceUID=SERIES),
    "a move to an unknown destination": moved(destination="NOBODY"),
    "a move whose second instance is refused": moved(Fault("C-STORE", nth=2, status=0xA700)),
    "a move whose second instance fails": moved(Fault("C-STORE", nth=2, status=0xC001)),
    "a move whose second instance is coerced": moved(Fault("C-STORE", nth=2, final_status=0xB000)),
    "a move of which everything fails": moved(Fault("C-STORE", status=0xA700)),
    "a move to who rejects associations": moved(Fault("association", reject=(1, 1, 7))),
}


@dataclass(frozen=True)
class Outcome:
    """The result of a request, as far as two systems can be compared.

    `pendings` are the matches of a query, or the counts while there is something left to do.
    """

    status: int
    pendings: tuple[object, ...]
    counts: tuple[int, ...]
    has_failed_list: bool
    arrived: int = field(default=0)


def outcome(responses: Iterable[Response], arrived: int) -> Outcome:
    """Return the outcome of some responses; a missing count is 0."""
    *pendings, final = responses
    return Outcome(
        status=final.status,
        pendings=tuple(_pending(each) for each in pendings if each.number(0x1020) != 0),
        counts=tuple(final.number(tag) or 0 for tag in COUNTS),
        has_failed_list=final.data is not None,
        arrived=arrived,
    )


def _pending(response):
    return response.status, *(response.number(tag) for tag in (0x1020, *COUNTS))


def ask(port: int, title: str, sink, asked: Asked) -> Outcome:
    """Send one request to the server on a port."""
    sink.faults.clear()
    sink.clear()
    if asked.fault is not None:
        sink.faults.add(asked.fault)
    model = FIND if asked.kind == raw.C_FIND else MOVE
    extra = [raw.element(0x0600, asked.destination.encode())] if asked.destination else []
    behind = [raw.cancel(1, 1)] if asked.cancel else []
    with Raw(port) as client:
        client.associate((1, model, [IMPLICIT]), calling="TESTER", called=title)
        question = request(asked.kind, 1, model, 1, identifier(asked.level, **asked.keys), extra)
        client.send(question, *behind)
        responses = client.until_final()
        client.release()
    assert eventually(lambda: all(each.ended_by for each in sink.received.associations))
    return outcome(responses, len([each for each in sink.received.c_store if each.status in (0x0000, 0xB000)]))


@contextmanager
def preset(name: str, folder: Path, sink):
    """A server with the behaviour of a preset."""
    with serving(folder, {"peers": [sink_row(sink)]}, scenario=name) as server:
        server.add(STUDY)
        yield SimpleNamespace(port=server.port, ae_title=server.ae_title)


def sink_row(sink):
    """The row of the destination in the table of peers."""
    return {"ae_title": "SINK", "host": sink.host, "port": sink.port}


@contextmanager
def real(start: Callable, folder: Path, sink):
    """A real system with the same study."""
    with start(peers.Site(folder, sink.port)) as system:
        ae = AE("TESTER")
        ae.add_requested_context(CT, ExplicitVRLittleEndian)
        association = ae.associate("127.0.0.1", system.port, ae_title=system.ae_title)
        assert [association.send_c_store(each).Status for each in STUDY] == [0] * len(STUDY)
        association.release()
        yield system


@pytest.fixture(scope="module")
def systems(tmp_path_factory):
    """Systems by name, started at their first use, and the destination that all of them have configured."""
    folder = tmp_path_factory.mktemp("manners")
    with ExitStack() as stack:
        sink = stack.enter_context(storing("SINK"))
        started = {}

        def get(name):
            if name not in started:
                own = peers.SYSTEMS.get(name) if name in peers.NEEDS else None
                if own is not None:
                    needs(peers.NEEDS[name])
                made = real(own, folder / name, sink) if own else preset(name, folder / name, sink)
                started[name] = stack.enter_context(made)
            return started[name]

        yield SimpleNamespace(get=get, sink=sink)


SHARED = [
    ("relational-tolerant", "orthanc", "a study"),
    ("relational-tolerant", "orthanc", "a study that is not there"),
    ("relational-tolerant", "orthanc", "images without a study"),
    ("relational-tolerant", "orthanc", "series without a study"),
    ("relational-tolerant", "orthanc", "an unknown key"),
    ("relational-tolerant", "orthanc", "a move"),
    ("relational-tolerant", "orthanc", "a move of a series without its study"),
    ("strict-a900", "dcmqrscp", "a query without a level"),
    ("strict-a900", "dcmqrscp", "a study"),
    ("strict-c000", "dcmqrscp", "a study"),
    ("strict-c000", "dcmqrscp", "a study that is not there"),
    ("strict-c000", "dcmqrscp", "images without a study"),
    ("strict-c000", "dcmqrscp", "series without a study"),
    ("strict-c000", "dcmqrscp", "a move"),
    ("strict-c000", "dcmqrscp", "a move of nothing"),
    ("strict-c000", "dcmqrscp", "a move to an unknown destination"),
    ("strict-c000", "dcmqrscp", "a move whose second instance is refused"),
    ("strict-c000", "dcmqrscp", "a move whose second instance fails"),
    ("strict-c000", "dcmqrscp", "a move whose second instance is coerced"),
    ("strict-c000", "dcmqrscp", "a move of which everything fails"),
    ("stops-at-first-failure", "orthanc", "a study"),
    ("stops-at-first-failure", "orthanc", "a query without a level"),
    ("stops-at-first-failure", "orthanc", "a move"),
    ("stops-at-first-failure", "orthanc", "a move of nothing"),
    ("stops-at-first-failure", "orthanc", "a move to an unknown destination"),
    ("stops-at-first-failure", "orthanc", "a move whose second instance is refused"),
    ("stops-at-first-failure", "orthanc", "a move whose second instance fails"),
    ("stops-at-first-failure", "orthanc", "a move of which everything fails"),
    ("stops-at-first-failure", "orthanc", "a move to who rejects associations"),
]
"""The preset, the real system that behaves so, and the question in which it does."""


@pytest.mark.parametrize(("name", "model", "question"), SHARED, ids=lambda each: each.replace(" ", "-"))
def test_a_preset_answers_as_a_real_system_does(systems, name, model, question):
    """Statuses, counts, the failed list, what arrives at the destination."""
    ours, theirs = systems.get(name), systems.get(model)
    asked = QUESTIONS[question]
    assert ask(ours.port, ours.ae_title, systems.sink, asked) == ask(theirs.port, theirs.ae_title, systems.sink, asked)


@pytest.mark.parametrize(
    ("question", "status"),
    [
        ("images without a study", 0xA900),
        ("series without a study", 0xA900),
        ("a move of a series without its study", 0xA900),
        ("a query without a level", 0xA900),
    ],
)
def test_the_strict_preset_refuses_an_incomplete_hierarchy(systems, question, status):
    """With A900; dcmqrscp refuses the queries too, with C000."""
    system = systems.get("strict-a900")
    assert ask(system.port, system.ae_title, systems.sink, QUESTIONS[question]).status == status


@pytest.mark.parametrize(
    ("question", "status", "arrived"),
    [
        ("a move", 0x0000, 6),
        ("a move whose second instance fails", 0xB000, 5),
        ("a move of which everything fails", 0xA702, 0),
    ],
)
def test_the_preset_without_counts_sends_only_the_final_status(systems, question, status, arrived):
    """No Pending, no count, no list."""
    system = systems.get("no-counts")
    expected = Outcome(status, (), (0, 0, 0), has_failed_list=False, arrived=arrived)
    assert ask(system.port, system.ae_title, systems.sink, QUESTIONS[question]) == expected


def test_the_preset_that_ignores_cancels_sends_all_matches(systems):
    """All matches, and Success; neither Orthanc nor dcmqrscp ignores cancels."""
    system = systems.get("stops-at-first-failure")
    found = ask(system.port, system.ae_title, systems.sink, QUESTIONS["a query that is cancelled"])
    assert (found.status, len(found.pendings)) == (0x0000, 3)


def test_every_preset_is_described_and_tested():
    """Each preset has a description and a comparison."""
    assert {each[0] for each in SHARED} | {"no-counts"} == set(presets())
    assert all(each.description for each in presets().values())
