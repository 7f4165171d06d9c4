"""Storage commitment over real associations: requests, reports on both kinds of association, and hostile peers."""

import gc
import socket
import struct
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_role
from sqlalchemy import text

from pacs.conformance.checks import wire
from pacs.dimse.association import establishment
from pacs.dimse.scp import event_reports
from pacs.dimse.scp.event_reports import EventReporter
from pacs.observability.events import CommitmentReported, Notice, OperationFinished
from pacs.services import commitment
from pacs.testing import serving, study
from tests import raw
from tests.archives import take_in
from tests.committing import (
    CT,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    Requester,
    action,
    references,
    request,
    requester,
    some_uid,
)
from tests.programs import free_port
from tests.raw import EXPLICIT, Raw, Response

DATASETS = study(series=1, instances=3)
STORED = references(DATASETS)
UNKNOWN = (CT, some_uid(1))

N_EVENT_REPORT, N_ACTION = 0x0100, 0x0130
SOON = {"commitment.same_association_seconds": 0.05, "commitment.first_retry_seconds": 0.05}
NEVER_THERE = {"commitment.same_association_seconds": 0, "commitment.first_retry_seconds": 0.05}

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""pynetdicom does not close the socket of an aborted association."""


@contextmanager
def archive_of(folder: Path, *requesters: Requester, **settings: object) -> Iterator[object]:
    """Run an archive with three instances and these peers; its events are in `.published`."""
    rows = [each.row for each in requesters]
    with serving(folder / "pacs", {"peers": rows, **SOON, **settings}) as archive:
        archive.published = []
        archive.events.subscribe(archive.published.append)
        take_in(archive, DATASETS)
        yield archive


def eventually(condition, seconds=20):
    """Wait until a condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def published(archive, kind):
    """Return the events of a class so far."""
    return [each for each in archive.published if isinstance(each, kind)]


def is_done(archive) -> bool:
    """Return whether no transaction is active."""
    return archive.commitments.seconds_until_due() is None


# --- on a new association ---------------------------------------------------------------------------------------


def test_a_requestor_that_releases_gets_the_report_on_a_new_association(tmp_path):
    """The report is sent once, on a new association with the archive as SCP, and the transaction is deleted."""
    peer = requester()
    with archive_of(tmp_path, peer) as archive, peer.listening():
        assert peer.ask(archive.port, [*STORED, UNKNOWN]) == 0x0000
        told = peer.report()
        eventually(lambda: is_done(archive))
    assert (told.is_same, told.calling, told.event_type, told.transaction) == (False, "PACS", 2, "1.2.3.4")
    assert (told.committed, told.failed) == (STORED, [(*UNKNOWN, 0x0112)])
    assert told.dataset.RetrieveAETitle == "PACS"
    assert peer.reports.empty()
    (event,) = published(archive, CommitmentReported)
    assert (event.peer, event.counts, event.attempts) == ("REQUESTER", {"committed": 3, "failed": 1}, 0)
    (asked,) = published(archive, OperationFinished)
    assert (asked.kind, asked.status, asked.counts) == ("N-ACTION", 0x0000, {"instances": 4})


def test_everything_committed_is_event_type_1(tmp_path):
    """The report has no Failed SOP Sequence."""
    peer = requester()
    with archive_of(tmp_path, peer) as archive, peer.listening():
        assert peer.ask(archive.port, STORED) == 0x0000
        told = peer.report()
    assert (told.event_type, told.committed) == (1, STORED)
    assert "FailedSOPSequence" not in told.dataset


def test_a_damaged_and_a_missing_file_are_failures(tmp_path):
    """A damaged or missing instance is never committed to."""
    peer = requester()
    with archive_of(tmp_path, peer) as archive, peer.listening():
        files = sorted((tmp_path / "pacs" / "files").rglob("*.dcm"))
        files[0].unlink()
        files[1].write_bytes(files[1].read_bytes()[:-2] + b"\xff\xff")
        assert peer.ask(archive.port, STORED) == 0x0000
        told = peer.report()
    assert (told.event_type, told.committed) == (2, STORED[2:])
    assert told.failed == [(*each, 0x0110) for each in STORED[:2]]


def test_a_report_is_retried_until_the_peer_listens(tmp_path):
    """The peer does not listen at first: the report is retried, and the event says how often it failed."""
    peer = requester()
    with archive_of(tmp_path, peer) as archive:
        assert peer.ask(archive.port, STORED) == 0x0000
        eventually(lambda: len(published(archive, Notice)) >= 2)
        with peer.listening():
            assert peer.report().committed == STORED
            eventually(lambda: is_done(archive))
    (event,) = published(archive, CommitmentReported)
    assert event.attempts >= 2
    assert "cannot be reached" in published(archive, Notice)[0].sentence
    assert peer.reports.empty()


def test_a_refused_report_is_sent_again(tmp_path):
    """The same report is sent until its status is 0000."""
    peer = requester(answers=[0x0110, 0x0213])
    with archive_of(tmp_path, peer) as archive, peer.listening():
        assert peer.ask(archive.port, STORED) == 0x0000
        reports = [peer.report() for _ in range(3)]
        eventually(lambda: is_done(archive))
    assert len({str(each.dataset) for each in reports}) == 1
    assert "status 0x0110" in published(archive, Notice)[0].sentence
    assert peer.reports.empty()


@pytest.mark.parametrize("code", [0x0001, 0x0107, 0x0116, 0xB000])
def test_a_report_that_is_answered_with_a_warning_has_arrived(tmp_path, code):
    """It is not sent again."""
    peer = requester(answers=[code])
    with archive_of(tmp_path, peer) as archive, peer.listening():
        assert peer.ask(archive.port, STORED) == 0x0000
        peer.report()
        eventually(lambda: published(archive, CommitmentReported))
        assert is_done(archive)
    assert published(archive, Notice) == []
    assert peer.reports.empty()


def test_a_lenient_peer_gets_its_report_without_answering_the_role(tmp_path):
    """Its acceptance of the context is enough."""
    peer = requester(accepts_role=False, roles="lenient")
    with archive_of(tmp_path, peer) as archive, peer.listening():
        assert peer.ask(archive.port, STORED) == 0x0000
        assert peer.report().committed == STORED
        eventually(lambda: is_done(archive))
    assert published(archive, Notice) == []


def test_the_reports_to_an_unreachable_peer_are_given_up(tmp_path):
    """All its transactions are given up at once; the log says so, and their UIDs can be used again."""
    peer = requester()
    settings = {**NEVER_THERE, "commitment.give_up_seconds": 0.5}
    with archive_of(tmp_path, peer, **settings) as archive:
        for number in range(3):
            assert peer.ask(archive.port, STORED, f"1.2.{number}") == 0x0000

        def given_up():
            sentences = [each.sentence for each in published(archive, Notice)]
            return sum(int(each.rpartition(" ")[2]) for each in sentences if "reports no longer sent: " in each)

        eventually(lambda: given_up() == 3)
        assert is_done(archive)


def test_the_log_tells_how_to_add_an_unknown_requestor(tmp_path):
    """The log has the command that adds it."""
    peer = requester()
    with archive_of(tmp_path, **NEVER_THERE) as archive:
        assert peer.ask(archive.port, STORED) == 0x0000
        eventually(lambda: published(archive, Notice))
    assert "pacs peers add REQUESTER HOST PORT" in published(archive, Notice)[0].sentence


def test_an_added_peer_gets_its_report_after_the_restart(tmp_path):
    """The pause before the next attempt does not matter."""
    peer = requester()
    slow = {**NEVER_THERE, "commitment.first_retry_seconds": 3600}
    with archive_of(tmp_path, **slow) as archive:
        assert peer.ask(archive.port, STORED) == 0x0000
        eventually(lambda: published(archive, Notice))
    with peer.listening(), archive_of(tmp_path, peer, **slow):
        assert peer.report().committed == STORED


def test_a_peer_that_does_not_accept_the_scp_role_gets_no_report(tmp_path):
    """Without the role nothing is sent, and the report is retried."""
    peer = requester(accepts_role=False)
    with archive_of(tmp_path, peer) as archive, peer.listening():
        assert peer.ask(archive.port, STORED) == 0x0000
        eventually(lambda: published(archive, Notice))
    assert "does not take us as SCP" in published(archive, Notice)[0].sentence
    assert 'set roles = "lenient" in its [[peers]] block' in published(archive, Notice)[0].sentence
    assert peer.reports.empty()


def test_an_unknown_requestor_is_logged_once_and_given_up_soon(tmp_path, monkeypatch):
    """Its files are not read, and the log has one line for the first failure and one for the last."""
    monkeypatch.setattr(commitment, "UNKNOWN_GIVE_UP", 1.0)
    with archive_of(tmp_path, **NEVER_THERE) as archive:
        monkeypatch.setattr(archive.commitments, "_read_files", None)
        assert requester().ask(archive.port, STORED) == 0x0000
        eventually(lambda: is_done(archive))
    first, last = (each.sentence for each in published(archive, Notice))
    assert "pacs peers add REQUESTER HOST PORT" in first
    assert "no longer sent: 1" in last


def test_a_peer_added_while_the_server_runs_gets_its_report(tmp_path):
    """It is looked up again as long as its transaction exists."""
    peer = requester()
    with archive_of(tmp_path, **NEVER_THERE) as archive, peer.listening():
        assert peer.ask(archive.port, STORED) == 0x0000
        eventually(lambda: published(archive, Notice))
        settings = archive.config.model_dump() | {"peers": [peer.row]}
        archive.reload(type(archive.config).model_validate(settings))
        assert peer.report().committed == STORED


# --- on the association of the request ---------------------------------------------------------------------------


def test_a_waiting_requestor_gets_the_report_on_its_association(tmp_path):
    """Also an AE that is not a peer; it can use the association afterwards."""
    peer = requester()
    with archive_of(tmp_path) as archive, peer.associated(archive.port) as association:
        for number in range(2):
            assert request(association, [*STORED, UNKNOWN], f"1.2.{number}") == 0x0000
        reports = [peer.report() for _ in range(2)]
        eventually(lambda: is_done(archive))
        assert association.send_c_store(DATASETS[0]).Status == 0x0000
        assert request(association, STORED, "1.2.9") == 0x0000
        reports.append(peer.report())
    assert all(each.is_same for each in reports)
    assert [each.transaction for each in reports] == ["1.2.0", "1.2.1", "1.2.9"]
    assert [each.event_type for each in reports] == [2, 2, 1]
    events = published(archive, CommitmentReported)
    assert [bool(each.association) for each in events] == [True] * 3


def test_a_scheduled_transaction_keeps_no_association(tmp_path):
    """Its buffers are freed when the association ends, although its transaction is not verified yet."""
    with archive_of(tmp_path) as archive:
        reporter = archive._reporter
        reporter.stop()
        kept = []
        schedule = reporter.schedule
        reporter.schedule = lambda claim, association: (
            kept.append(weakref.ref(association)),
            schedule(claim, association),
        )
        assert requester().ask(archive.port, STORED) == 0x0000
        eventually(lambda: gc.collect() >= 0 and kept and kept[0]() is None)


def test_waiting_peers_take_turns(tmp_path):
    """A peer with three transactions is not served three times before a peer with one."""
    several, once = requester(), requester(ae_title="ONCE")
    with archive_of(tmp_path, several, once) as archive:
        reporter = archive._reporter
        reporter.stop()
        with several.associated(archive.port) as association, once.associated(archive.port) as other:
            for number in range(3):
                assert request(association, STORED, f"1.2.{number}") == 0x0000
            assert request(other, STORED, "1.2.9") == 0x0000
            eventually(lambda: sum(map(len, reporter._scheduled.values())) == 4)
            turns = [reporter._next_scheduled().claim.transaction_uid for _ in range(4)]
    assert turns == ["1.2.0", "1.2.9", "1.2.1", "1.2.2"]


def test_a_report_does_not_come_between_two_stores(tmp_path):
    """An association with C-STOREs is not idle: the report is sent after the last one."""
    peer = requester()
    wait = {"commitment.same_association_seconds": 0.3}
    with archive_of(tmp_path, **wait) as archive, peer.associated(archive.port) as association:
        assert request(association, STORED) == 0x0000
        for _ in range(5):
            assert association.send_c_store(DATASETS[0]).Status == 0x0000
            assert peer.reports.empty()
        assert peer.report().is_same


def test_an_unanswered_report_is_sent_again_on_a_new_association(tmp_path):
    """A report on an association that ends before its response is sent again on a new one."""
    peer = requester()
    with archive_of(tmp_path, peer) as archive, Raw(archive.port) as client:
        ask(client, action(STORED), calling="REQUESTER")
        report = client.message()
        assert (report.number(0x0100), report.number(0x1002)) == (N_EVENT_REPORT, 1)
        with peer.listening():
            client.socket.close()
            assert peer.report().committed == STORED
            eventually(lambda: is_done(archive))


def test_a_report_refused_on_its_association_is_sent_on_a_new_one(tmp_path):
    """The next attempt does not wait for a pause: on a new association the peer may accept it."""
    peer = requester(answers=[0x0211])
    slow = {"commitment.first_retry_seconds": 3600}
    with (
        archive_of(tmp_path, peer, **slow) as archive,
        peer.listening(),
        peer.associated(archive.port) as association,
    ):
        assert request(association, STORED) == 0x0000
        assert [peer.report().is_same for _ in range(2)] == [True, False]
        eventually(lambda: is_done(archive))


def test_a_request_that_crosses_a_report_is_served(tmp_path):
    """A C-ECHO arrives before the response to the report: both are processed."""
    with archive_of(tmp_path) as archive, Raw(archive.port) as client:
        verification = "1.2.840.10008.1.1"
        ask(client, action(STORED), more=[(3, verification, [EXPLICIT])])
        report = client.message()
        client.send(raw.request(raw.C_ECHO, 3, verification, 7, None))
        assert client.message().status == 0x0000
        client.send(raw.success(1, report.elements))
        eventually(lambda: is_done(archive))
        client.send(raw.request(raw.C_ECHO, 3, verification, 8, None))
        assert client.message().status == 0x0000


def test_a_report_without_a_response_in_time_is_sent_on_a_new_association(tmp_path, monkeypatch):
    """After the message time the report is sent on a new association, while the other is still open."""
    monkeypatch.setattr(event_reports, "CLAIM_MARGIN", 0.1)
    peer = requester()
    settings = {"limits.message_seconds": 0.5}
    with archive_of(tmp_path, peer, **settings) as archive, Raw(archive.port) as client, peer.listening():
        ask(client, action(STORED), calling="REQUESTER")
        assert client.message().number(0x0100) == N_EVENT_REPORT
        assert peer.report().committed == STORED


# --- requests that are refused -----------------------------------------------------------------------------------


def ask(
    client: Raw,
    asked: Dataset | bytes | None,
    *,
    calling: str = "RAW",
    action_type: int | None = 1,
    instance: str = PUSH_MODEL_INSTANCE,
    more=(),
) -> Response:
    """Associate, send an N-ACTION and return the response."""
    client.associate((1, PUSH_MODEL, [EXPLICIT]), *more, calling=calling)
    return again(client, asked, action_type=action_type, instance=instance)


def again(
    client: Raw, asked: Dataset | bytes | None, *, action_type: int | None = 1, instance: str = PUSH_MODEL_INSTANCE
) -> Response:
    """Send an N-ACTION on an open association and return the response."""
    data = raw.encoded(asked, EXPLICIT) if isinstance(asked, Dataset) else asked
    elements = [
        raw.element(0x0003, PUSH_MODEL.encode()),
        raw.us(0x0100, N_ACTION),
        raw.us(0x0110, 1),
        raw.us(0x0800, 0x0101 if data is None else 1),
        raw.element(0x1001, instance.encode()),
    ]
    if action_type is not None:
        elements.append(raw.us(0x1008, action_type))
    client.send(raw.pdv(1, raw.command_set(elements), command=True))
    if data is not None:
        starts = range(0, len(data), raw.PIECE) or [0]
        for at in starts:
            last = at + raw.PIECE >= len(data)
            client.send(raw.pdv(1, data[at : at + raw.PIECE], command=False, last=last))
    return client.message()


def nameless() -> Dataset:
    """Return a request without a Transaction UID."""
    asked = action(STORED)
    del asked.TransactionUID
    return asked


@pytest.fixture(scope="module")
def lonely(tmp_path_factory):
    """An archive without peers and transactions."""
    with archive_of(tmp_path_factory.mktemp("lonely"), **{"commitment.same_association_seconds": 0}) as archive:
        yield archive


@pytest.mark.parametrize(
    ("code", "asked", "options"),
    [
        (0x0115, nameless(), {}),
        (0x0115, action([]), {}),
        (0x0115, action(STORED, "not.a.uid"), {}),
        (0x0115, None, {}),
        (0x0115, b"", {}),
        (0x0110, b"\xff" * 30, {}),
        (0x0110, raw.encoded(action(STORED), EXPLICIT)[:-3], {}),
        (0x0123, action(STORED), {"action_type": 2}),
        (0x0123, action(STORED), {"action_type": None}),
        (0x0112, action(STORED), {"instance": "1.2.3"}),
        (0x0112, action(STORED), {"instance": ""}),
    ],
)
def test_an_invalid_request_is_refused(lonely, code, asked, options):
    """The status is one of PS3.7 10.1.4.1.10 with an Error Comment; the association goes on, nothing is saved."""
    with Raw(lonely.port) as client:
        refused = ask(client, asked, **options)
        assert (refused.status, bool(refused.text(0x0902))) == (code, True)
        assert (refused.text(0x0002), refused.number(0x0100)) == (PUSH_MODEL, N_ACTION | 0x8000)
        assert again(client, action(STORED), action_type=9).status == 0x0123
        client.release()
    assert is_done(lonely)


def test_a_transaction_uid_that_is_active_is_refused(tmp_path):
    """The status is 0131 for the same AE; after the report the UID can be used again."""
    peer = requester()
    with archive_of(tmp_path, peer, **NEVER_THERE) as archive:
        assert peer.ask(archive.port, STORED) == 0x0000
        assert peer.ask(archive.port, STORED[:1]) == 0x0131
        with Raw(archive.port) as client:
            assert ask(client, action(STORED), calling="OTHER").status == 0x0000
        with peer.listening():
            assert peer.report().committed == STORED
            eventually(lambda: published(archive, CommitmentReported))
            assert peer.ask(archive.port, STORED[:1]) == 0x0000
            assert peer.report().committed == STORED[:1]


def ui(element, uid):
    """Encode an element of group 0008 and VR UI; pydicom would take ten seconds for all that are needed here."""
    value = uid.encode() + b"\0" * (len(uid) % 2)
    return struct.pack("<HH2sH", 0x0008, element, b"UI", len(value)) + value


def items(contents):
    """Encode items with these contents."""
    return b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(each)) + each for each in contents)


def test_twenty_thousand_instances_are_one_request(tmp_path):
    """The report commits to the stored one and lists all others as failed."""
    asked = [STORED[0], *((CT, f"1.2.3.{number}") for number in range(19_999))]
    named = [ui(0x1150, sop_class) + ui(0x1155, instance) for sop_class, instance in asked]
    request = ui(0x1195, "1.2.3.4") + struct.pack("<HH2sHL", 0x0008, 0x1199, b"SQ", 0, len(items(named))) + items(named)
    unknown = struct.pack("<HH2sHH", 0x0008, 0x1197, b"US", 2, 0x0112)
    with archive_of(tmp_path) as archive, Raw(archive.port) as client:
        assert ask(client, request).status == 0x0000
        report = client.message()
        client.send(raw.success(1, report.elements))
        eventually(lambda: is_done(archive))
    assert report.number(0x1002) == 2
    assert items(each + unknown for each in named[1:]) in report.data
    assert report.data.endswith(items(named[:1]))


def test_requests_above_the_limits_are_refused(tmp_path):
    """Too many instances or bytes in a request, or transactions of a peer: 0213; others are not affected."""
    limits = {"commitment.instances": 3, "commitment.active_per_peer": 2}
    with archive_of(tmp_path, **NEVER_THERE, **limits) as archive, Raw(archive.port) as client:
        assert ask(client, action([*STORED, UNKNOWN])).status == 0x0213
        assert again(client, action(STORED[:1] * 20)).status == 0x0213
        for number in range(2):
            assert again(client, action(STORED, f"1.2.{number}")).status == 0x0000
        refused = again(client, action(STORED, "1.2.9"))
        assert (refused.status, "try again later" in refused.text(0x0902)) == (0x0213, True)
        with Raw(archive.port) as other:
            assert ask(other, action(STORED), calling="OTHER").status == 0x0000


def test_a_requestor_without_the_right_is_refused(tmp_path):
    """The status is 0124, before the request is read."""
    peers = [{"ae_title": "OTHER", "host": "127.0.0.1", "port": 1}]
    settings = NEVER_THERE | {"access.services": ["store", "find"], "peers": peers}
    with archive_of(tmp_path, **settings) as archive, Raw(archive.port) as client:
        assert ask(client, action(STORED)).status == 0x0124
        with Raw(archive.port) as other:
            assert ask(other, action(STORED), calling="OTHER").status == 0x0000


def test_a_request_is_refused_while_the_index_does_not_answer(tmp_path):
    """The status is 0213, and nothing is saved."""
    with archive_of(tmp_path, **NEVER_THERE) as archive, Raw(archive.port) as client:
        with archive.index.write() as connection:
            connection.execute(text("ALTER TABLE commitment RENAME TO gone"))
        assert ask(client, action(STORED)).status == 0x0213
        with archive.index.write() as connection:
            connection.execute(text("ALTER TABLE gone RENAME TO commitment"))
        assert again(client, action(STORED)).status == 0x0000


def test_a_requestor_cannot_be_scp(lonely):
    """A requestor that proposes the role of SCP of storage commitment stays SCU: its reports are refused."""
    ae = AE("FALSE")
    ae.add_requested_context(PUSH_MODEL)
    association = ae.associate("127.0.0.1", lonely.port, ext_neg=[build_role(PUSH_MODEL, scu_role=True, scp_role=True)])
    assert association.is_established
    assert [(each.as_scu, each.as_scp) for each in association.accepted_contexts] == [(True, False)]
    association.release()
    with Raw(lonely.port) as client:
        client.associate((1, PUSH_MODEL, [EXPLICIT]))
        data = raw.encoded(action(STORED), EXPLICIT)
        extra = [raw.us(0x1002, 1)]
        client.send(raw.request(N_EVENT_REPORT, 1, PUSH_MODEL, 1, data, extra))
        assert client.message().status == 0x0211


# --- stopping ----------------------------------------------------------------------------------------------------


def test_a_stop_does_not_wait_for_a_silent_peer(tmp_path):
    """An unanswered report is given up, and sent after the next start."""
    peer = requester()
    with socket.create_server(("127.0.0.1", peer.port)) as silent:
        with archive_of(tmp_path, peer, **NEVER_THERE) as archive:
            assert peer.ask(archive.port, STORED) == 0x0000
            connection, _ = silent.accept()
            began = time.monotonic()
        assert time.monotonic() - began < 10
        connection.close()
    with archive_of(tmp_path, peer), peer.listening():
        assert peer.report().committed == STORED


class Stuck(Requester):
    """A peer that accepts the association for a report and stops reading in the middle of the report."""

    @contextmanager
    def taken(self) -> Iterator[socket.socket]:
        """Yield the connection on which a report has begun to arrive."""
        with socket.create_server(("127.0.0.1", self.port)) as listener:
            listener.settimeout(20)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(20)
                connection.sendall(accepting(received(connection)))
                connection.recv(1)
                yield connection


def received(connection: socket.socket) -> bytes:
    """Return the body of the next PDU."""
    head = connection.recv(6, socket.MSG_WAITALL)
    return connection.recv(struct.unpack(">L", head[2:])[0], socket.MSG_WAITALL)


def accepting(proposal: bytes) -> bytes:
    """Return an A-ASSOCIATE-AC that accepts what a report proposes, including the role."""
    context = raw.item(0x21, struct.pack(">BxBx", 1, 0) + raw.item(0x40, raw.EXPLICIT.encode()))
    role_selection = wire.role_selection(PUSH_MODEL, 0, 1)
    user = raw.item(0x51, struct.pack(">L", 16384)) + raw.item(0x52, b"1.2.826.0.1.3680043.8.498.1") + role_selection
    application = raw.item(0x10, raw.APPLICATION_CONTEXT.encode())
    return raw.pdu(0x02, proposal[:68] + application + context + raw.item(0x50, user))


MANY = [(CT, f"1.2.3.{'9' * 50}.{number}") for number in range(25_000)]
"""A report on so many instances is longer than the socket buffers of both sides."""


def bytes_asking(asked) -> bytes:
    """Encode the data set of a request; pydicom would take ten seconds for all that are needed here."""
    named = items(ui(0x1150, sop_class) + ui(0x1155, instance) for sop_class, instance in asked)
    return ui(0x1195, "1.2.3.4") + struct.pack("<HH2sHL", 0x0008, 0x1199, b"SQ", 0, len(named)) + named


def test_a_stop_does_not_wait_for_a_peer_that_stops_reading(tmp_path):
    """A report of several mebibytes is interrupted, however long its time limit is."""
    peer = Stuck(free_port())
    with archive_of(tmp_path, peer, **NEVER_THERE) as archive:
        with Raw(archive.port) as client:
            assert ask(client, bytes_asking(MANY), calling=peer.ae_title).status == 0x0000
        with peer.taken():
            stopping = threading.Thread(target=archive.close)
            stopping.start()
            stopping.join(30)
            assert not stopping.is_alive()


def test_a_stop_does_not_wait_for_a_blocked_thread(tmp_path, monkeypatch):
    """A name server does not answer: the thread is abandoned."""
    monkeypatch.setattr(event_reports, "STOP_SECONDS", 0.1)
    asked, answered = threading.Event(), threading.Event()

    def forever(*_arguments, **_options):
        asked.set()
        answered.wait(60)
        raise OSError

    peer = requester()
    with archive_of(tmp_path, peer, **NEVER_THERE) as archive:
        assert peer.ask(archive.port, STORED) == 0x0000
        monkeypatch.setattr(establishment.socket, "getaddrinfo", forever)
        assert asked.wait(20)
        stopping = threading.Thread(target=archive.close)
        stopping.start()
        stopping.join(20)
        was_left = not stopping.is_alive()
        answered.set()
    assert was_left


def test_a_report_that_is_read_too_slowly_is_aborted(tmp_path, monkeypatch):
    """It is aborted before the claim expires, although each mebibyte is taken in time."""
    monkeypatch.setattr(event_reports, "_most_seconds", lambda _limits: 0.5)
    peer = Stuck(free_port())
    with archive_of(tmp_path, peer, **NEVER_THERE) as archive:
        with Raw(archive.port) as client:
            assert ask(client, bytes_asking(MANY), calling=peer.ae_title).status == 0x0000
        with peer.taken():
            eventually(lambda: published(archive, Notice))
    assert "does not take the report in time" in published(archive, Notice)[0].sentence


def test_a_reporter_that_was_not_started_can_be_stopped(lonely):
    """The process that only forks workers does so."""
    EventReporter(lonely.commitments, lambda title: (lonely.peers.destination(title), None), print, "PACS").stop()


def test_an_incomplete_request_leaves_no_transaction(lonely):
    """The connection may end anywhere in the data set."""
    whole = raw.encoded(action(STORED), EXPLICIT)
    for cut in range(0, len(whole), 16):
        with Raw(lonely.port) as client:
            client.associate((1, PUSH_MODEL, [EXPLICIT]))
            elements = [
                raw.element(0x0003, PUSH_MODEL.encode()), raw.us(0x0100, N_ACTION), raw.us(0x0110, 1),
                raw.us(0x0800, 1), raw.element(0x1001, PUSH_MODEL_INSTANCE.encode()), raw.us(0x1008, 1),
            ]  # fmt: skip
            client.send(raw.pdv(1, raw.command_set(elements), command=True))
            client.send(raw.pdv(1, whole[:cut], command=False, last=False))
    assert is_done(lonely)
