"""The daemon at the limits of open files and threads: it refuses and rejects, loses nothing, and resumes by itself."""

import socket
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from benchmarks.processes import cpu_seconds, free_port
from tests import raw
from tests.crash import examining, limits
from tests.crash.client import CT, SERIES_INSTANCE_UID, SOP_INSTANCE_UID, STORING, STUDY_INSTANCE_UID, Client
from tests.crash.load import Instance, Ledger, eventually, uid
from tests.crash.servers import Site
from tests.databases import fresh_database
from tests.programs import needs
from tests.raw import Raw
from tests.web.answering import get

REJECTED, CONGESTED = 0x03, bytes((0, 2, 3, 1))
"""The type of an A-ASSOCIATE-RJ, and its body: transient, by the presentation layer, temporary congestion."""

SIZES = (9_000, 1_200_000)
STUDY = uid("study", "limits")
KEYS = {STUDY_INSTANCE_UID: STUDY, SERIES_INSTANCE_UID: uid("series", STUDY), SOP_INSTANCE_UID: ""}

ROUNDS = [
    pytest.param("nofile", 1, "sqlite", id="descriptors"),
    pytest.param("nofile", 4, "postgresql", id="descriptors of four workers, PostgreSQL"),
    pytest.param("nproc", 4, "sqlite", id="threads of four workers"),
    pytest.param("nproc", 1, "sqlite", id="threads", marks=pytest.mark.long),
    pytest.param("nofile", 1, "postgresql", id="descriptors, PostgreSQL", marks=pytest.mark.long),
    pytest.param("nofile", 4, "sqlite", id="descriptors of four workers", marks=pytest.mark.long),
]


class Load:
    """Associations that store and find in turn, and what was sent."""

    def __init__(self, port: int, count: int, stack: ExitStack) -> None:
        self.ledger = Ledger()
        self._port = port
        self.senders = [stack.enter_context(Client(port)) for _ in range(count)]
        self.finder = stack.enter_context(Client(port, retrieves=True))

    def store(self, sender: Client) -> raw.Response:
        """Store the next instance."""
        number = len(self.ledger.sent)
        instance = Instance(uid("limits", number), STUDY, SIZES[number % len(SIZES)])
        response = sender.store(instance.uid, self.ledger.begin(instance))
        self.ledger.answer(instance, response.status)
        return response

    def stores_and_finds_everything(self) -> bool:
        """Return whether every association stores, and all that was acknowledged is found."""
        statuses = {self.store(each).status for each in self.senders for _ in SIZES}
        return statuses == {0} and len(self.finder.find("IMAGE", KEYS)) >= len(self.ledger.acknowledged)

    def refused(self) -> int:
        """Store on every association: each response is 0000, or A700 with a comment. Return how many are not 0000."""
        responses = [self.store(each) for each in self.senders * 5]
        refused = [each for each in responses if each.status]
        assert {each.status for each in refused} <= {0xA700}
        assert all(each.text(0x0902) for each in refused)
        return len(refused)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("what", "workers", "kind"), ROUNDS)
def test_an_exhausted_daemon_refuses_rejects_and_resumes(
    tmp_path: Path, request: pytest.FixtureRequest, what: str, workers: int, kind: str
):
    """Before its first operation, and once more: nothing is left half-started, and no attempt leaks."""
    needs("prlimit")
    prefix = limits.as_user() if what == "nproc" else ()
    web = free_port()
    with ExitStack() as stack:
        folder = stack.enter_context(limits.users_folder()) if what == "nproc" else tmp_path / "site"
        url = stack.enter_context(fresh_database(kind, request, tmp_path)) if kind != "sqlite" else ""
        settings = (f"server.workers={workers}", f"web.port={web}", "limits.drain_seconds=0.5")
        site = Site(folder, url, settings, tmp_path / "serve.log", has_web=True)
        server = site.start(*prefix)
        stack.callback(server.kill)
        processes, opened = limits.serving(server), []
        load = Load(server.port, 2 * workers, stack)
        assert eventually(lambda: all(map(limits.serves_http, processes))), "the start is not over"
        for _ in range(2):
            with limits.limited(server, what), ExitStack() as held:
                assert all(_is_rejected(server.port, held) for _ in range(5 * workers))
                assert load.refused() or what == "nproc"  # no file can be opened; a store needs no new thread
                assert _is_quiet(server.process.pid, server.port, web)
                assert what == "nofile" or get(web, "/readyz")[0] == 503
            assert eventually(load.stores_and_finds_everything)
            assert eventually(lambda: _is_accepted(server.port))
            assert eventually(lambda: get(web, "/readyz")[0] == 200)
            opened.append((limits.descriptors(server), limits.threads(server)))
        assert opened[1][0] <= opened[0][0] + 4 * workers  # pooled connections
        assert eventually(lambda: limits.threads(server) <= opened[0][1] + 2 * workers)  # those that start when needed
        assert limits.serving(server) == processes
        assert not examining.examine(server.port, load.ledger, [STUDY]).total()
        assert not examining.examine_consistency(server.port, site.files).total()
        assert server.stop() == 0
    log = site.log.read_text()
    assert 1 <= log.count("associations are rejected: ") <= workers
    assert "Traceback" not in log
    assert "exception" not in log


def _is_rejected(port: int, held: ExitStack) -> bool:
    """Associate until the daemon rejects it, and hold the others: what was closed meanwhile makes room for a few."""
    for _ in range(50):
        client = held.enter_context(Raw(port))
        client.send(raw.associate_rq([(STORING, CT, [raw.EXPLICIT])]))
        kind, body = client.pdu()
        if kind == REJECTED:
            client.socket.close()  # or the daemon waits for that
            return body == CONGESTED
    return False


def _is_accepted(port: int) -> bool:
    """Return whether an association is accepted; release it."""
    with Raw(port) as client:
        client.send(raw.associate_rq([(STORING, CT, [raw.EXPLICIT])]))
        kind, _ = client.pdu()
        if kind != REJECTED:
            client.release()
        return kind != REJECTED


def _is_quiet(pid: int, *ports: int) -> bool:
    """Return whether the daemon uses less than half a processor while connections are silent and others wait."""
    with ExitStack() as stack:
        for port in ports * 2:
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
        before, began = cpu_seconds(pid), time.monotonic()
        time.sleep(1)
        return cpu_seconds(pid) - before < 0.5 * (time.monotonic() - began)
