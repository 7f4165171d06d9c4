"""Checks section 3.6 of the conformance statement (storage commitment) on running servers."""

import os
import time
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from pacs.config import Config
from pacs.index import writer
from pacs.observability.events import CommitmentReported, Notice
from pacs.testing import serving, study
from tests import raw
from tests.archives import take_in
from tests.committing import CT, PUSH_MODEL, Requester, action, references, request, requester, some_uid
from tests.dimse.test_commitment import ask, eventually, is_done
from tests.docs.requests import COMMENT, ELEMENT, VERIFICATION, Requestor, role, user_items
from tests.docs.statement import covers, rows
from tests.raw import EXPLICIT, IMPLICIT, Raw

DATASETS = study(series=1, instances=2)
STORED = references(DATASETS)
PRIVATE = "1.2.826.0.1.3680043.8.498.99"
SECTION = "Statuses of N-ACTION"

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""pynetdicom leaves the socket of an association that was aborted to the garbage collector."""

LATER = {"commitment.same_association_seconds": 0, "commitment.first_retry_seconds": 0.05}


@contextmanager
def having(folder, *peers, **settings):
    """Run a server with two instances, these peers and settings; its events are in `.published`."""
    rows = [each.row for each in peers]
    with serving(folder / "pacs", {"peers": rows, **LATER, **settings}) as archive:
        archive.published = []
        archive.events.subscribe(archive.published.append)
        take_in(archive, DATASETS)
        yield archive


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The report on the stored instances, and its server."""
    peer = requester()
    with having(tmp_path_factory.mktemp("told"), peer) as archive, peer.listening():
        assert peer.ask(archive.port, STORED) == 0x0000
        yield peer.report(), archive


# --- requests ----------------------------------------------------------------------------------------------------


@covers(
    "Conformant to PS3.4 Annex J as SCP of the Push Model",
    "An N-ACTION is answered with 0000 as soon as the request is durable",
    "Its transaction is active until the report is acknowledged or given up, across restarts",
    "A request with the Transaction UID of an active transaction",
    "A Transaction UID can be used again after its transaction ended",
)
def test_a_transaction_is_active_until_it_is_reported(tmp_path):
    """The same UID is refused meanwhile, also after a restart, and accepted after the report."""
    peer = requester()
    with having(tmp_path, peer) as archive:
        assert peer.ask(archive.port, STORED) == 0x0000
    with having(tmp_path, peer) as archive:
        assert peer.ask(archive.port, STORED) == 0x0131
        with Raw(archive.port) as client:
            assert ask(client, action(STORED), calling="OTHER").status == 0x0000
        with peer.listening():
            assert peer.report().committed == STORED
            eventually(lambda: any(isinstance(each, CommitmentReported) for each in archive.published))
            assert peer.ask(archive.port, STORED) == 0x0000


# --- verification ------------------------------------------------------------------------------------------------


@covers(
    "The server commits to an instance if it is stored under the SOP Class of the reference",
    "An instance is not committed to for one of these reasons",
)
def test_complete_instances_are_committed(told):
    """Section 1 names the service."""
    name, *rest = rows("1. Overview", "SOP Class")[-2]
    assert (name, rest) == ("Storage Commitment Push Model SOP Class", [PUSH_MODEL, "no", "yes"])
    report, _ = told
    assert (report.event_type, report.committed, report.failed) == (1, STORED, [])


def nothing(_archive, _monkeypatch):
    """Do nothing."""


def damage(archive, _monkeypatch):
    """Change the last bytes of a file."""
    file = sorted((archive.files._root).rglob("*.dcm"))[0]
    file.write_bytes(file.read_bytes()[:-2] + b"\xff\xff")


def no_sync(archive, monkeypatch):
    """Make fsync fail."""

    def refuse(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive.files, "_sync", refuse)


REASONS = {
    "0110": (damage, STORED[0]),
    "0112": (nothing, (CT, some_uid(1))),
    "0119": (nothing, ("1.2.840.10008.5.1.4.1.1.4", STORED[0][1])),
    "0122": (nothing, (PRIVATE, some_uid(2))),
    "0213": (no_sync, STORED[0]),
}
"""Damages to a server, and the reference that fails after each."""


@pytest.mark.parametrize("row", rows("Verification", "failure reason"), ids=lambda row: row[0])
def test_every_failure_reason(tmp_path, monkeypatch, row):
    """Each follows from its cause."""
    cause, asked = REASONS[row[0]]
    peer = requester()
    with having(tmp_path, peer) as archive, peer.listening():
        cause(archive, monkeypatch)
        assert peer.ask(archive.port, [asked]) == 0x0000
        report = peer.report()
    assert (report.event_type, report.failed) == (2, [(*asked, int(row[0], 16))])


@covers("Each transaction is verified once")
def test_a_repeated_report_reads_no_file_again(tmp_path):
    """It is the same although the bytes of a file, not its size, have changed."""
    peer = requester(answers=[0x0110])
    with having(tmp_path, peer, **{"commitment.first_retry_seconds": 1}) as archive, peer.listening():
        assert peer.ask(archive.port, STORED) == 0x0000
        first = peer.report()
        damage(archive, None)
        assert peer.report().dataset == first.dataset


@covers("Before each attempt to send the report the server checks that the committed instances are still stored")
def test_a_repeated_report_is_checked_again(tmp_path):
    """One file is deleted and one truncated before the next attempt."""
    peer = requester(answers=[0x0110])
    with having(tmp_path, peer, **{"commitment.first_retry_seconds": 1}) as archive, peer.listening():
        assert peer.ask(archive.port, STORED) == 0x0000
        assert peer.report().committed == STORED
        (deleted,) = writer.find_all(archive.index, [STORED[0][1]])
        (short,) = writer.find_all(archive.index, [STORED[1][1]])
        archive.maintenance.delete([deleted])
        os.truncate(archive.files._root / short.file_key, 600)
        assert peer.report().failed == [(*STORED[0], 0x0112), (*STORED[1], 0x0110)]


@covers("It can be retrieved by C-MOVE and C-GET from the Retrieve AE Title of the report")
def test_committed_instances_can_be_retrieved(told):
    """The AE title is that of the server, and a C-GET finds the instance."""
    report, archive = told
    assert report.dataset.RetrieveAETitle == archive.config.server.ae_title
    uids = {"SeriesInstanceUID": DATASETS[0].SeriesInstanceUID, "SOPInstanceUID": STORED[0][1]}
    with Requestor(archive.port) as requestor:
        final = requestor.get("IMAGE", StudyInstanceUID=DATASETS[0].StudyInstanceUID, **uids)[-1]
    assert final.number(0x1022) == 1  # found, but there is no presentation context for it


@covers("A committed instance is kept until an operator deletes it")
def test_no_request_deletes_a_committed_instance(told):
    """No operation deletes it, and another C-STORE with other content is refused."""
    report, archive = told
    (other, _) = study(series=1, instances=2, StudyDescription="OTHER")
    with Requestor(archive.port) as requestor:
        assert requestor.ask(0x0150, VERIFICATION, None)[0].status == 0x0211
    with Raw(archive.port) as client:
        client.associate((1, CT, [EXPLICIT]))
        extra = [raw.element(0x1000, other.SOPInstanceUID.encode())]
        client.send(raw.request(raw.C_STORE, 1, CT, 1, raw.encoded(other, EXPLICIT), extra))
        assert client.message().status == 0xC011
    assert report.committed == STORED


# --- reports -----------------------------------------------------------------------------------------------------


@covers(
    "An N-EVENT-REPORT has Event Type ID 1 if the server commits to every instance, else 2",
    "Every reference of the request is in one of its two sequences",
)
def test_every_reference_is_reported_as_often_as_named(tmp_path):
    """Also if it was named twice."""
    peer = requester()
    unknown = (CT, some_uid(1))
    with having(tmp_path, peer) as archive, peer.listening():
        assert peer.ask(archive.port, [unknown, STORED[0], unknown, STORED[0]]) == 0x0000
        report = peer.report()
        assert peer.ask(archive.port, [unknown], "1.2.9") == 0x0000
        alone = peer.report()
    assert (report.event_type, report.committed) == (2, [STORED[0]] * 2)
    assert report.failed == [(*unknown, 0x0112)] * 2
    assert (alone.event_type, "ReferencedSOPSequence" in alone.dataset) == (2, False)


@covers("The report is sent on the association of the request, once that has been idle")
def test_an_idle_association_receives_the_report(tmp_path):
    """Not before the configured time."""
    peer = requester()
    wait = {"commitment.same_association_seconds": 0.3}
    with having(tmp_path, **wait) as archive, peer.associated(archive.port) as association:
        began = time.monotonic()
        assert request(association, STORED) == 0x0000
        assert peer.report().is_same
        assert time.monotonic() - began >= 0.3


@covers(
    "If that association has ended, does not become idle, or the response to the report on it is not 0000",
    "The new association is requested from the peer of the table of peers that has the calling AE title",
    "A peer that does not accept this role receives no report",
)
@pytest.mark.parametrize("accepts", [True, False])
def test_a_new_association_is_requested_after_a_release(tmp_path, accepts):
    """With the AE title of the server and the SCP role; without that role nothing is sent."""
    peer = requester(accepts_role=accepts)
    settings = {"commitment.same_association_seconds": 0.2}
    with having(tmp_path, peer, **settings) as archive, peer.listening():
        assert peer.ask(archive.port, STORED) == 0x0000
        if accepts:
            report = peer.report()
            assert (report.is_same, report.calling) == (False, "PACS")
        else:
            eventually(lambda: any(isinstance(each, Notice) for each in archive.published))
            assert peer.reports.empty()


@covers(
    "A report that was answered with 0000 or a warning is not sent again",
    "A report with another response, or without one, is sent again after a pause",
)
def test_a_report_is_sent_until_acknowledged(tmp_path):
    """Three attempts, the last one answered with 0000."""
    peer = requester(answers=[0x0110, 0x0213])
    with having(tmp_path, peer) as archive, peer.listening():
        assert peer.ask(archive.port, STORED) == 0x0000
        reports = [peer.report() for _ in range(3)]
        eventually(lambda: is_done(archive))
    assert len({str(each.dataset) for each in reports}) == 1
    assert peer.reports.empty()


@covers(
    "Other transactions of that peer wait as well",
    "A start of the server ends all pauses",
)
def test_other_transactions_wait_until_a_restart(tmp_path):
    """Two transactions have one attempt; after a restart both are reported."""
    peer = requester()
    slow = {"commitment.first_retry_seconds": 3600}
    with having(tmp_path, peer, **slow) as archive:
        archive._reporter.stop()
        for number in range(2):
            assert peer.ask(archive.port, STORED, f"1.2.{number}") == 0x0000
        archive._reporter.start()
        eventually(lambda: any(isinstance(each, Notice) for each in archive.published))
        assert (archive.commitments.seconds_until_due() or 0) > 60
        assert sum(isinstance(each, Notice) for each in archive.published) == 1
    with peer.listening(), having(tmp_path, peer, **slow):
        assert {peer.report().transaction for _ in range(2)} == {"1.2.0", "1.2.1"}


@covers("A report that is given up is logged, with what the operator can do")
def test_a_given_up_report_is_logged(tmp_path):
    """For an unlisted AE the log line says how to list it."""
    peer = requester()
    with having(tmp_path, **{"commitment.give_up_seconds": 0.2}) as archive:
        assert peer.ask(archive.port, STORED) == 0x0000
        eventually(lambda: any(each.endswith("reports no longer sent: 1") for each in noticed(archive)))
        assert is_done(archive)
    assert "pacs peers add REQUESTER HOST PORT" in noticed(archive)[-1]


def noticed(archive):
    """Return the sentences of the notices so far."""
    return [each.sentence for each in archive.published if isinstance(each, Notice)]


@covers("A report is given up when its request is too old, but not before as many attempts have failed")
def test_a_report_is_given_up_after_some_attempts(tmp_path):
    """With pauses of 0.1 s and 0.4 s in all: after the third failed attempt or later."""
    peer = requester()
    pauses = {"commitment.first_retry_seconds": 0.1, "commitment.longest_retry_seconds": 0.1}
    with having(tmp_path, peer, **pauses, **{"commitment.give_up_seconds": 0.4}) as archive:
        assert peer.ask(archive.port, STORED) == 0x0000
        eventually(lambda: is_done(archive))
        *failed, last = [each.sentence for each in archive.published if isinstance(each, Notice)]
    assert len(failed) >= 2
    assert all(each.endswith("the report is sent again later") for each in failed)
    assert last.endswith("reports no longer sent: 1")


@covers("An AE title that is not in the table of peers cannot be connected to")
def test_unlisted_ae_titles_share_a_tenth(tmp_path):
    """With a limit of ten the second one is refused, but not one of a peer."""
    peer = requester()
    with having(tmp_path, peer, **{"commitment.active": 10}) as archive:
        found = []
        for calling in ("N1", "N2", peer.ae_title):
            with Raw(archive.port) as client:
                found.append(ask(client, action(STORED), calling=calling).status)
    assert found == [0x0000, 0x0213, 0x0000]


def refused(folder, limit, *asked):
    """Return the statuses of requests to a server with one limit of 2."""
    peers = [Requester(1, title) for title in sorted({calling for calling, _ in asked})]
    with having(folder, *peers, **{limit: 2}) as archive:
        found = []
        for calling, dataset in asked:
            with Raw(archive.port) as client:
                found.append(ask(client, dataset, calling=calling).status)
        return found


LIMITED = {
    "commitment.instances": [("ONE", action(STORED)), ("ONE", action([*STORED, STORED[0]], "1.2.9"))],
    "commitment.active_per_peer": [("ONE", action(STORED, f"1.2.{number}")) for number in range(3)],
    "commitment.active": [(f"N{number}", action(STORED)) for number in range(3)],
}
"""Requests of which the last exceeds a limit of 2."""

ELSEWHERE = {"commitment.first_retry_seconds", "commitment.longest_retry_seconds", "commitment.give_up_seconds",
             "commitment.same_association_seconds"}  # fmt: skip
"""Times, which other tests here and in tests/services cover."""


@pytest.mark.parametrize("row", rows("Reports", "limit"), ids=lambda row: row[0])
def test_every_limit(tmp_path, row):
    """The default is in the table, and one above a limit is refused with 0213."""
    section, key = row[0].split(".")
    assert float(row[1]) == float(getattr(getattr(Config(), section), key))
    if row[0] in ELSEWHERE:
        return
    *taken, last = refused(tmp_path, row[0], *LIMITED[row[0]])
    assert (set(taken), last) == ({0x0000}, 0x0213)


# --- statuses ----------------------------------------------------------------------------------------------------


def asked_of(folder, dataset, **options):
    """Return the response to a request."""
    with having(folder) as archive, Raw(archive.port) as client:
        return ask(client, dataset, **options)


def twice(folder):
    """Return the response to a request whose Transaction UID is active."""
    with having(folder) as archive:
        responses = []
        for _ in range(2):
            with Raw(archive.port) as client:
                responses.append(ask(client, action(STORED)))
        return responses[-1]


def too_many(folder):
    """Return the response to a request with too many instances."""
    with having(folder, **{"commitment.instances": 1}) as archive, Raw(archive.port) as client:
        return ask(client, action(STORED))


def without_index(folder):
    """Return the response of a server without the table of transactions."""
    with having(folder) as archive, Raw(archive.port) as client:
        with archive.index.write() as connection:
            connection.execute(text("ALTER TABLE commitment RENAME TO gone"))
        found = ask(client, action(STORED))
        with archive.index.write() as connection:
            connection.execute(text("ALTER TABLE gone RENAME TO commitment"))
        return found


PROVOKED = {
    "0000": [lambda folder: asked_of(folder, action(STORED))],
    "0110": [lambda folder: asked_of(folder, b"\xff" * 30)],
    "0112": [lambda folder: asked_of(folder, action(STORED), instance="1.2.3")],
    "0115": [lambda folder: asked_of(folder, action([]))],
    "0123": [lambda folder: asked_of(folder, action(STORED), action_type=2)],
    "0131": [twice],
    "0213": [too_many, without_index],
}
"""The causes of each status, one for each row of the table."""

INTERNAL_ERROR = "An internal error of the server, see its log."


@pytest.mark.parametrize("code", sorted({row[0] for row in rows(SECTION, "status")}))
def test_every_status(tmp_path, code):
    """Each follows from its cause, with the related fields of the table."""
    told = [row[2] for row in rows(SECTION, "status") if row[0] == code and row[1] != INTERNAL_ERROR]
    assert len(told) == len(PROVOKED[code])
    for place, (related, provoke) in enumerate(zip(told, PROVOKED[code], strict=True)):
        response = provoke(tmp_path / str(place))
        assert f"{response.status:04X}" == code
        assert (COMMENT in response.elements) == ("0902" in related)
        assert ELEMENT not in response.elements or "0901" in related


def test_roles_for_storage_commitment_are_not_answered(told):
    """As section 2.3 says of all SOP Classes except Storage."""
    _, archive = told
    with Raw(archive.port) as client:
        accept = client.associate((1, PUSH_MODEL, [IMPLICIT]), extra=role(PUSH_MODEL, 0, 1))
        assert 0x54 not in dict(user_items(accept))
