"""What the conformance statement says of storage commitment (section 3.6), asked of running servers."""

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
from tests.docs.asking import COMMENT, ELEMENT, VERIFICATION, Asker, role, user_items
from tests.docs.statement import asks, rows
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
    """A server with two instances, these peers and settings; what it publishes is in `.published`."""
    rows = [each.row for each in peers]
    with serving(folder / "pacs", {"peers": rows, **LATER, **settings}) as archive:
        archive.published = []
        archive.events.subscribe(archive.published.append)
        take_in(archive, DATASETS)
        yield archive


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The report on what is stored, and the server that gave it."""
    peer = requester()
    with having(tmp_path_factory.mktemp("told"), peer) as archive, peer.listening():
        assert peer.ask(archive.port, STORED) == 0x0000
        yield peer.report(), archive


# --- requests ----------------------------------------------------------------------------------------------------


@asks(
    "Conformant to PS3.4 Annex J as SCP of the Push Model",
    "An N-ACTION is answered with 0000 as soon as the request is durable",
    "Its transaction is active until the report is acknowledged or given up, across restarts",
    "A request with the Transaction UID of an active transaction",
    "A Transaction UID can be used again after its transaction ended",
)
def test_a_transaction_is_active_until_it_is_reported(tmp_path):
    """Refused while it is active, also after a restart; reported then, and taken again."""
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


@asks(
    "The server commits to an instance if it is stored under the SOP Class of the reference",
    "An instance is not committed to for one of these reasons",
)
def test_there_is_commitment_to_what_is_whole(told):
    """Every instance that is stored and whole; the overview names the service."""
    name, *rest = rows("1. Overview", "SOP Class")[-2]
    assert (name, rest) == ("Storage Commitment Push Model SOP Class", [PUSH_MODEL, "no", "yes"])
    report, _ = told
    assert (report.event_type, report.committed, report.failed) == (1, STORED, [])


def nothing(_archive, _monkeypatch):
    """Nothing is done."""


def damage(archive, _monkeypatch):
    """Change the last bytes of a file."""
    file = sorted((archive.files._root).rglob("*.dcm"))[0]
    file.write_bytes(file.read_bytes()[:-2] + b"\xff\xff")


def no_sync(archive, monkeypatch):
    """A disk that does not take what is synced."""

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
"""What is done to a server, and which reference fails then."""


@pytest.mark.parametrize("row", rows("Verification", "failure reason"), ids=lambda row: row[0])
def test_every_failure_reason(tmp_path, monkeypatch, row):
    """Each comes from its cause."""
    cause, asked = REASONS[row[0]]
    peer = requester()
    with having(tmp_path, peer) as archive, peer.listening():
        cause(archive, monkeypatch)
        assert peer.ask(archive.port, [asked]) == 0x0000
        report = peer.report()
    assert (report.event_type, report.failed) == (2, [(*asked, int(row[0], 16))])


@asks("Each transaction is verified once")
def test_no_file_is_read_again_for_a_report_that_is_repeated(tmp_path):
    """It says the same though the bytes of a file, not its size, change meanwhile."""
    peer = requester(answers=[0x0110])
    with having(tmp_path, peer, **{"commitment.first_retry_seconds": 1}) as archive, peer.listening():
        assert peer.ask(archive.port, STORED) == 0x0000
        first = peer.report()
        damage(archive, None)
        assert peer.report().dataset == first.dataset


@asks("Before each attempt to send the report the server checks that the committed instances are still stored")
def test_a_report_that_is_repeated_does_not_say_what_is_true_no_more(tmp_path):
    """One is deleted and one is cut short while the peer is asked to wait."""
    peer = requester(answers=[0x0110])
    with having(tmp_path, peer, **{"commitment.first_retry_seconds": 1}) as archive, peer.listening():
        assert peer.ask(archive.port, STORED) == 0x0000
        assert peer.report().committed == STORED
        (deleted,) = writer.find_all(archive.index, [STORED[0][1]])
        (short,) = writer.find_all(archive.index, [STORED[1][1]])
        archive.maintenance.delete([deleted])
        os.truncate(archive.files._root / short.file_key, 600)
        assert peer.report().failed == [(*STORED[0], 0x0112), (*STORED[1], 0x0110)]


@asks("It can be retrieved by C-MOVE and C-GET from the Retrieve AE Title of the report")
def test_what_is_committed_is_retrieved_from_where_the_report_says(told):
    """The AE title is ours, and a C-GET finds the instance."""
    report, archive = told
    assert report.dataset.RetrieveAETitle == archive.config.server.ae_title
    uids = {"SeriesInstanceUID": DATASETS[0].SeriesInstanceUID, "SOPInstanceUID": STORED[0][1]}
    with Asker(archive.port) as asker:
        final = asker.get("IMAGE", StudyInstanceUID=DATASETS[0].StudyInstanceUID, **uids)[-1]
    assert final.number(0x1022) == 1  # found, though there is no context here to send it in


@asks("A committed instance is kept until an operator deletes it")
def test_no_request_deletes_what_is_committed(told):
    """There is no operation that deletes, and one that is sent again with other content is refused."""
    report, archive = told
    (other, _) = study(series=1, instances=2, StudyDescription="OTHER")
    with Asker(archive.port) as asker:
        assert asker.ask(0x0150, VERIFICATION, None)[0].status == 0x0211
    with Raw(archive.port) as client:
        client.associate((1, CT, [EXPLICIT]))
        extra = [raw.element(0x1000, other.SOPInstanceUID.encode())]
        client.send(raw.request(raw.C_STORE, 1, CT, 1, raw.encoded(other, EXPLICIT), extra))
        assert client.message().status == 0xC011
    assert report.committed == STORED


# --- reports -----------------------------------------------------------------------------------------------------


@asks(
    "An N-EVENT-REPORT has Event Type ID 1 if the server commits to every instance, else 2",
    "Every reference of the request is in one of its two sequences",
)
def test_every_reference_is_reported_as_often_as_it_was_named(tmp_path):
    """Also the same one twice, committed to or not."""
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


@asks("The report is sent on the association of the request, once that has been idle")
def test_who_waits_is_told_on_the_association_of_the_request(tmp_path):
    """Not before the time is over."""
    peer = requester()
    wait = {"commitment.same_association_seconds": 0.3}
    with having(tmp_path, **wait) as archive, peer.associated(archive.port) as association:
        began = time.monotonic()
        assert request(association, STORED) == 0x0000
        assert peer.report().is_same
        assert time.monotonic() - began >= 0.3


@asks(
    "If that association has ended, does not become idle, or the response to the report on it is not 0000",
    "The new association is requested from the peer of the table of peers that has the calling AE title",
    "A peer that does not accept this role receives no report",
)
@pytest.mark.parametrize("accepts", [True, False])
def test_who_has_released_is_called(tmp_path, accepts):
    """By our AE title, as SCP; and without that role nothing is sent."""
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


@asks(
    "A report that was answered with 0000 is not sent again",
    "A report with another response, or without one, is sent again after a pause",
)
def test_a_report_is_sent_until_it_is_taken(tmp_path):
    """Three times, of which the last is answered with 0000."""
    peer = requester(answers=[0x0110, 0x0213])
    with having(tmp_path, peer) as archive, peer.listening():
        assert peer.ask(archive.port, STORED) == 0x0000
        reports = [peer.report() for _ in range(3)]
        eventually(lambda: is_done(archive))
    assert len({str(each.dataset) for each in reports}) == 1
    assert peer.reports.empty()


@asks(
    "Other transactions of that peer wait as well",
    "A start of the server ends all pauses",
)
def test_others_wait_with_it_and_a_start_ends_that(tmp_path):
    """Two transactions, one attempt; after a restart both are reported."""
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


@asks("A report that is given up is logged, with what the operator can do")
def test_what_is_given_up_is_said(tmp_path):
    """An AE that is no peer: the line says how it becomes one."""
    peer = requester()
    with having(tmp_path, **{"commitment.give_up_seconds": 0.2}) as archive:
        assert peer.ask(archive.port, STORED) == 0x0000
        eventually(lambda: is_done(archive))
        sentence = [each.sentence for each in archive.published if isinstance(each, Notice)][-1]
    assert "pacs peers add REQUESTER HOST PORT" in sentence
    assert sentence.endswith("reports given up: 1")


@asks("An AE title that is not in the table of peers cannot be connected to")
def test_titles_that_are_no_peers_share_a_tenth(tmp_path):
    """The second of two is refused where ten are active in all, and a peer is not."""
    peer = requester()
    with having(tmp_path, peer, **{"commitment.active": 10}) as archive:
        found = []
        for calling in ("N1", "N2", peer.ae_title):
            with Raw(archive.port) as client:
                found.append(ask(client, action(STORED), calling=calling).status)
    assert found == [0x0000, 0x0213, 0x0000]


def refused(folder, limit, *asked):
    """The statuses of requests to a server with one limit of 2."""
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
"""Requests of which the last is one too many where a limit is 2."""

ELSEWHERE = {"commitment.first_retry_seconds", "commitment.longest_retry_seconds", "commitment.give_up_seconds",
             "commitment.same_association_seconds"}  # fmt: skip
"""Times, which the tests of this module and of the schedule's own in tests/services ask about."""


@pytest.mark.parametrize("row", rows("Reports", "limit"), ids=lambda row: row[0])
def test_every_limit(tmp_path, row):
    """It is the default, and one more than it allows is refused with 0213."""
    section, key = row[0].split(".")
    assert float(row[1]) == float(getattr(getattr(Config(), section), key))
    if row[0] in ELSEWHERE:
        return
    *taken, last = refused(tmp_path, row[0], *LIMITED[row[0]])
    assert (set(taken), last) == ({0x0000}, 0x0213)


# --- statuses ----------------------------------------------------------------------------------------------------


def asked_of(folder, dataset, **options):
    """The response to a request."""
    with having(folder) as archive, Raw(archive.port) as client:
        return ask(client, dataset, **options)


def twice(folder):
    """The response to a request whose Transaction UID is active."""
    with having(folder) as archive:
        responses = []
        for _ in range(2):
            with Raw(archive.port) as client:
                responses.append(ask(client, action(STORED)))
        return responses[-1]


def too_many(folder):
    """The response to a request for more than is taken."""
    with having(folder, **{"commitment.instances": 1}) as archive, Raw(archive.port) as client:
        return ask(client, action(STORED))


def without_index(folder):
    """The response of a server whose table is gone."""
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
"""How each status is provoked, as often as it stands in the table."""

INTERNAL_ERROR = "An internal error of the server, see its log."


@pytest.mark.parametrize("code", sorted({row[0] for row in rows(SECTION, "status")}))
def test_every_status(tmp_path, code):
    """Each comes from its cause, with the related fields that the table tells."""
    told = [row[2] for row in rows(SECTION, "status") if row[0] == code and row[1] != INTERNAL_ERROR]
    assert len(told) == len(PROVOKED[code])
    for place, (related, provoke) in enumerate(zip(told, PROVOKED[code], strict=True)):
        response = provoke(tmp_path / str(place))
        assert f"{response.status:04X}" == code
        assert (COMMENT in response.elements) == ("0902" in related)
        assert ELEMENT not in response.elements or "0901" in related


def test_roles_for_storage_commitment_are_not_answered(told):
    """As the statement says of all SOP Classes but Storage's (section 2.3)."""
    _, archive = told
    with Raw(archive.port) as client:
        accept = client.associate((1, PUSH_MODEL, [IMPLICIT]), extra=role(PUSH_MODEL, 0, 1))
        assert 0x54 not in dict(user_items(accept))
