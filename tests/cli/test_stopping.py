"""The server is stopped in the middle of a C-MOVE or C-GET: nothing is lost, nothing arrives in part, nothing hangs."""

import signal
import threading
from contextlib import contextmanager, suppress

import pytest

from pacs.archive import Archive
from pacs.testing import study
from tests import raw
from tests.archives import GET, MOVE, identifier
from tests.cli.test_daemon import wait_until_nobody_listens
from tests.cli.test_workers import CT, Client, settings, workers
from tests.dimse.test_cancel_points import ROLE, answered
from tests.dimse.test_store_suboperations import Destination, counts
from tests.raw import IMPLICIT, ConnectionClosed, Raw

DATASETS = study(series=1, instances=8, size=64)
UID = DATASETS[0].StudyInstanceUID
WHOLE = {each.SOPInstanceUID: raw.encoded(each, raw.EXPLICIT) for each in DATASETS}
ABORT = 7

CONFIGURATION = """
[limits]
drain_seconds = {drain_seconds}

[[peers]]
ae_title = "TAKER"
host = "127.0.0.1"
port = {port}
associations = {associations}
"""

# pynetdicom does not close the socket of a peer that aborted.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Holding:
    """The statuses of a move destination that holds back its third response, and all later ones, until `go` is set."""

    def __init__(self):
        self.begun, self.go = threading.Event(), threading.Event()
        self.count = 0

    def __call__(self, _event):
        """Respond to a C-STORE."""
        self.count += 1
        if self.count >= 3:
            self.begun.set()
            self.go.wait(60)
        return 0x0000


@contextmanager
def served(folder, taker, number, associations=1, drain_seconds=60):
    """Run a server with its log, and its audit log, in `folder`."""
    text = CONFIGURATION.format(port=taker.peer()["port"], associations=associations, drain_seconds=drain_seconds)
    (folder / "config.toml").write_text(text)
    options = ("--config", str(folder / "config.toml"), "--set", f"audit.file={folder}/audit")
    with (folder / "log").open("a") as log, workers(folder, number, *options, stderr=log) as server:
        yield server


def store_all(server):
    """Store the study."""
    with Client(server.port) as client:
        assert [client.store(each) for each in DATASETS] == [0] * len(DATASETS)
        client.release()


def begin_move(client):
    """Request a C-MOVE of the study to TAKER."""
    client.associate((1, MOVE, [IMPLICIT]))
    extra = [raw.element(0x0600, b"TAKER ")]
    client.send(raw.request(raw.C_MOVE, 1, MOVE, 1, identifier("STUDY", StudyInstanceUID=UID), extra))


def ends_with_an_abort(client):
    """Read PDUs until an A-ABORT or the end of the connection; return whether it was the first."""
    with suppress(ConnectionClosed):
        while client.pdu()[0] != ABORT:
            continue
        return True
    return False


def long(*values):
    """Return a set of parameters for the long form."""
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.parametrize(("number", "associations"), [(4, 3), long(1, 1), long(1, 3), long(4, 1)])
def test_a_move_goes_on_while_the_server_drains(tmp_path, number, associations):
    """Its requestor gets the final response with all counts; then the server ends."""
    answer = Holding()
    with Destination(answer) as taker, served(tmp_path, taker, number, associations) as server:
        store_all(server)
        with Raw(server.port) as client:
            begin_move(client)
            assert answer.begun.wait(60)
            server.send_signal(signal.SIGTERM)
            wait_until_nobody_listens(server.port)
            answer.go.set()
            final = client.until_final()[-1]
            client.release()
        assert server.wait(60) == 0
    assert (final.status, counts(final)) == (0x0000, (None, len(DATASETS), 0, 0))
    assert taker.arrived == WHOLE
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("number", "associations", "signals"),
    [(1, 3, 2), (4, 1, 1), *(long(1, *each) for each in ((1, 1), (1, 2), (3, 1))),
     *(long(4, *each) for each in ((1, 2), (3, 1), (3, 2)))],
)  # fmt: skip
def test_a_move_whose_destination_hangs_is_aborted(tmp_path, number, associations, signals):
    """After the drain timeout, or by a second signal, which takes effect at once.

    The requestor gets an A-ABORT, the destination whole instances only; log and audit log have the operation, and the
    next start has everything.
    """
    answer = Holding()
    seconds = 1 if signals == 1 else 3600
    with Destination(answer) as taker:
        with served(tmp_path, taker, number, associations, seconds) as server:
            store_all(server)
            with Raw(server.port) as client:
                begin_move(client)
                assert answer.begun.wait(60)
                server.send_signal(signal.SIGTERM)
                if signals == 2:
                    wait_until_nobody_listens(server.port)
                    server.send_signal(signal.SIGTERM)
                assert ends_with_an_abort(client)
                assert server.wait(30) == 0
            answer.go.set()
        log, audited = (tmp_path / "log").read_text(), (tmp_path / "audit").read_text()
        assert "Traceback" not in log
        assert [log.count("kind=C-MOVE"), audited.count('"C-MOVE"')] == [1, 1]
        assert set(taker.arrived.items()) <= set(WHOLE.items())
        assert not list((tmp_path / "files" / "running").iterdir())
        with Archive(settings(tmp_path)) as archive:
            archive.start()
            assert {each.sop_instance_uid for each in archive.maintenance.instances({})} == set(WHOLE)


def test_a_get_goes_on_while_the_server_drains(tmp_path):
    """Its requestor gets all instances and the final response; a new association is refused meanwhile."""
    with Destination() as taker, served(tmp_path, taker, 1) as server:
        store_all(server)
        with Raw(server.port) as client:
            client.associate((3, GET, [IMPLICIT]), (5, CT, [raw.EXPLICIT]), extra=ROLE)
            client.send(raw.request(raw.C_GET, 3, GET, 7, identifier("STUDY", StudyInstanceUID=UID)))
            first = client.message()
            server.send_signal(signal.SIGTERM)
            wait_until_nobody_listens(server.port)
            *received, final = answered(client, first)
            client.release()
        assert server.wait(60) == 0
    assert {each.text(0x1000): bytes(each.data) for each in received} == WHOLE
    assert (final.status, counts(final)) == (0x0000, (None, len(DATASETS), 0, 0))
