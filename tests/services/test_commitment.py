"""Storage commitment without a protocol: verification, reports, retries and limits."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs.dicom.commitment import CommitmentRequest, Reference
from pacs.errors import Cancelled, OutOfResources, StorageUnavailable
from pacs.files.local import LocalFiles
from pacs.index import writer
from pacs.index.database import Index
from pacs.observability.events import Event, Notice
from pacs.services import commitment
from pacs.services.commitment import CommitmentBounds, Commitments, LostClaim, RetrySchedule
from pacs.services.maintenance import Maintenance
from pacs.services.storage import Storage
from pacs.support.cancellation import Cancellation
from pacs.testing import study
from tests.archives import take_in
from tests.committing import CT, references, some_uid

DATASETS = study(series=2, instances=3)
STORED = [Reference(*each) for each in references(DATASETS)]
PRIVATE = "1.2.826.0.1.3680043.8.498.99"


class Archive:
    """The stores of an archive, and its events."""

    def __init__(self, index: Index, root: Path) -> None:
        self.index, self.root = index, root
        self.files = LocalFiles(root)
        self.files.start()
        self.events: list[Event] = []
        self.storage = Storage(index, self.files, duplicates="replace")
        self.commitments = Commitments(index, self.files, publish=self.events.append)
        take_in(self, DATASETS)

    def path(self, uid: str) -> Path:
        """Return the file of an instance."""
        found = writer.find(self.index, uid)
        assert found is not None
        return self.root / found.file_key

    def verify(self, *asked: Reference) -> tuple[list[Reference], list[tuple[Reference, int]]]:
        """Verify a request; return the committed references, and the failed ones with reasons."""
        claim = self.commitments.request("PEER", CommitmentRequest(some_uid(len(asked)), asked))
        report = self.commitments.verify(claim).report
        assert report.transaction_uid == claim.transaction_uid
        assert self.commitments.finish(claim)
        return list(report.committed), [tuple(each) for each in report.failed]


@pytest.fixture
def archive(index: Index, tmp_path: Path) -> Iterator[Archive]:
    """An archive with six instances."""
    made = Archive(index, tmp_path / "files")
    yield made
    made.files.close()


def test_undamaged_instances_are_committed_to(archive: Archive):
    """References keep the order of the request, and one that is named twice is reported twice."""
    asked = [*reversed(STORED), STORED[0]]
    assert archive.verify(*asked) == (asked, [])


def test_each_failure_has_its_reason(archive: Archive):
    """Not stored, other SOP Class, unsupported SOP Class, damaged, truncated, missing; the rest is committed."""
    damaged, short, gone, *whole = STORED
    path = archive.path(damaged.sop_instance_uid)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.truncate(archive.path(short.sop_instance_uid), 600)
    archive.path(gone.sop_instance_uid).unlink()
    unknown, private = Reference(CT, some_uid(1)), Reference(PRIVATE, some_uid(2))
    other_class = Reference("1.2.840.10008.5.1.4.1.1.4", whole[0].sop_instance_uid)
    assert archive.verify(damaged, whole[0], short, gone, unknown, private, other_class, whole[1]) == (
        [whole[0], whole[1]],
        [(damaged, 0x0110), (short, 0x0110), (gone, 0x0110), (unknown, 0x0112), (private, 0x0122),
         (other_class, 0x0119)],
    )  # fmt: skip
    (told,) = (each for each in archive.events if isinstance(each, Notice))
    assert "3 stored files are missing or damaged" in told.sentence


def test_files_that_cannot_be_synced_are_not_committed_to(archive: Archive, monkeypatch: pytest.MonkeyPatch):
    """When syncing fails, the reason is a resource limitation: a later request may succeed."""

    def refuse(_keys: object) -> None:
        raise StorageUnavailable("The disk is full")

    monkeypatch.setattr(archive.files, "make_durable", refuse)
    assert archive.verify(STORED[0]) == ([], [(STORED[0], 0x0213)])
    monkeypatch.undo()
    assert archive.verify(STORED[0]) == ([STORED[0]], [])


def test_more_than_a_batch_is_verified(archive: Archive, monkeypatch: pytest.MonkeyPatch):
    """All batches are verified completely."""
    monkeypatch.setattr(commitment, "BATCH", 2)
    unknown = [Reference(CT, some_uid(number)) for number in range(5)]
    assert archive.verify(*STORED, *unknown) == (STORED, [(each, 0x0112) for each in unknown])


def test_a_transaction_is_verified_once(archive: Archive, monkeypatch: pytest.MonkeyPatch):
    """When its report is sent again, no file is read again, and failures remain."""
    unknown = Reference(CT, some_uid(1))
    claim = archive.commitments.request("PEER", CommitmentRequest("1.2.3", [*STORED, unknown]))
    first = archive.commitments.verify(claim).report
    monkeypatch.setattr(archive.files, "pieces", None)
    assert archive.commitments.verify(claim).report == first
    assert archive.commitments.last_verified(claim).report == first


def test_instances_deleted_or_replaced_since_are_not_committed_to(archive: Archive, monkeypatch: pytest.MonkeyPatch):
    """Otherwise a modality that gets the report days later deletes its only copy. Changes are saved."""
    monkeypatch.setattr(commitment, "BATCH", 2)
    claim = archive.commitments.request("PEER", CommitmentRequest("1.2.3", STORED))
    assert archive.commitments.verify(claim).report.committed == STORED
    deleted, replaced, short, gone, *whole = STORED
    row = writer.find(archive.index, deleted.sop_instance_uid)
    assert row is not None
    Maintenance(archive.index, archive.files).delete([row])
    newer = study(series=2, instances=3, StudyDescription="ANOTHER")[1]
    take_in(archive, [newer])
    os.truncate(archive.path(short.sop_instance_uid), 600)
    archive.path(gone.sop_instance_uid).unlink()
    expected = (whole, [(deleted, 0x0112), (replaced, 0x0110), (short, 0x0110), (gone, 0x0110)])
    report = archive.commitments.verify(claim).report
    assert (report.committed, [tuple(each) for each in report.failed]) == expected
    assert archive.commitments.last_verified(claim).report == report
    take_in(archive, [DATASETS[0]])
    assert archive.commitments.verify(claim).report == report


def test_an_instance_that_is_replaced_or_deleted_while_it_is_read(archive: Archive, monkeypatch: pytest.MonkeyPatch):
    """The newer one is committed to; a deleted one is reported as not stored, not as damaged."""
    (newer,) = study(series=1, instances=1, StudyDescription="ANOTHER")
    found = writer.find_all

    def replaced(index: Index, uids: list[str]) -> object:
        before = found(index, uids)
        monkeypatch.setattr(writer, "find_all", found)
        take_in(archive, [newer])
        return before

    monkeypatch.setattr(writer, "find_all", replaced)
    assert archive.verify(STORED[0]) == ([STORED[0]], [])

    def deleted(index: Index, uids: list[str]) -> object:
        before = found(index, uids)
        Maintenance(index, archive.files).delete(before)
        return before

    monkeypatch.setattr(writer, "find_all", deleted)
    assert archive.verify(STORED[1]) == ([], [(STORED[1], 0x0112)])
    assert archive.events == []


def test_a_cancelled_verification_is_left_to_the_next_claim(archive: Archive):
    """The verification is cancelled, and the transaction released and claimed again."""
    claim = archive.commitments.request("PEER", CommitmentRequest("1.2.3", STORED))
    cancellation = Cancellation()
    cancellation.cancel("stopping")
    with pytest.raises(Cancelled):
        archive.commitments.verify(claim, cancellation)
    archive.commitments.release(claim)
    again = archive.commitments.claim()
    assert again is not None
    with pytest.raises(LostClaim):
        archive.commitments.verify(claim)
    assert len(archive.commitments.verify(again).report.committed) == 6


def test_pauses_grow_to_the_longest():
    """Each is twice as long as the one before, up to the longest."""
    schedule = RetrySchedule(first=30, longest=3600)
    assert [schedule.pause(attempts) for attempts in (0, 1, 2, 6, 7, 10_000)] == [30, 60, 120, 1920, 3600, 3600]


def test_a_report_is_given_up_when_the_request_is_too_old(archive: Archive):
    """All of an unreachable peer at once, one alone otherwise; before that it is postponed."""
    patient = archive.commitments
    hasty = Commitments(archive.index, archive.files, schedule=RetrySchedule(give_up=0.0))
    claims = [patient.request("PEER", CommitmentRequest(f"1.2.{number}", STORED[:1])) for number in range(3)]
    assert patient.retry(claims[0], is_unreachable=True) == 0
    assert hasty.retry(claims[0], is_unreachable=True) == 0  # the claim has ended
    assert hasty.retry(claims[1], is_unreachable=False) == 1
    patient.release(claims[2])
    patient.retry_all_soon(60)
    claim = hasty.claim()
    assert claim is not None
    assert hasty.retry(claim, is_unreachable=True) == 2
    assert patient.seconds_until_due() is None


def test_age_alone_gives_no_report_up(archive: Archive):
    """The clock may have jumped since the request: as many attempts fail before as take half of `give_up`."""
    assert RetrySchedule(first=30, longest=3600, give_up=259_200).least_attempts == 42
    assert RetrySchedule(first=30, longest=30, give_up=300).least_attempts == 5
    ours = Commitments(archive.index, archive.files, schedule=RetrySchedule(first=0.01, longest=0.01, give_up=0.04))
    for number in range(2):
        ours.release(ours.request("PEER", CommitmentRequest(f"1.2.{number}", STORED[:1])))
    given_up = []
    for _ in range(3):
        time.sleep(0.05)
        claim = ours.claim()
        assert claim is not None
        given_up.append(ours.retry(claim, is_unreachable=True))
    assert given_up == [0, 0, 2]


def test_unknown_aes_share_a_part_of_the_transactions(archive: Archive):
    """All AEs that are not peers share one tenth of the transactions; a peer may have all."""
    ours = Commitments(
        archive.index,
        archive.files,
        bounds=CommitmentBounds(active=20, active_of_peer=18),
        is_peer=lambda title: title == "PEER",
    )
    for number in range(2):
        ours.request(f"STRANGER{number}", CommitmentRequest("1.2.3", STORED[:1]))
    with pytest.raises(OutOfResources):
        ours.request("STRANGER2", CommitmentRequest("1.2.3", STORED[:1]))
    for number in range(18):
        ours.request("PEER", CommitmentRequest(f"1.2.{number}", STORED[:1]))
    with pytest.raises(OutOfResources):
        ours.request("PEER", CommitmentRequest("1.2.18", STORED[:1]))


def test_transactions_are_limited_per_peer_and_in_all(archive: Archive):
    """Both limits hold, and a finished transaction makes room."""
    ours = Commitments(archive.index, archive.files, bounds=CommitmentBounds(active=3, active_of_peer=2))
    first, _ = (ours.request("PEER", CommitmentRequest(f"1.2.{number}", STORED[:1])) for number in range(2))
    with pytest.raises(OutOfResources):
        ours.request("PEER", CommitmentRequest("1.2.3", STORED[:1]))
    ours.request("OTHER", CommitmentRequest("1.2.3", STORED[:1]))
    with pytest.raises(OutOfResources):
        ours.request("THIRD", CommitmentRequest("1.2.3", STORED[:1]))
    assert ours.finish(first)
    ours.request("THIRD", CommitmentRequest("1.2.3", STORED[:1]))


def test_the_transactions_of_unknown_aes_are_given_up_soon(archive: Archive, monkeypatch: pytest.MonkeyPatch):
    """Long before those of a peer; until then it may be added, and pauses do not grow."""
    known: set[str] = set()
    ours = Commitments(
        archive.index, archive.files, schedule=RetrySchedule(first=0.0), is_peer=lambda title: title in known
    )
    asked = ours.request("SOMEBODY", CommitmentRequest("1.2.3", STORED[:1]))
    assert ours.retry(asked, is_unreachable=True) == 0
    again = ours.claim()
    assert again is not None
    monkeypatch.setattr(commitment, "UNKNOWN_GIVE_UP", 0.0)
    known.add("SOMEBODY")
    assert ours.retry(again, is_unreachable=True) == 0
    known.clear()
    last = ours.claim()
    assert last is not None
    assert ours.retry(last, is_unreachable=True) == 1
    assert ours.seconds_until_due() is None


def test_peers_take_turns(archive: Archive):
    """The transactions of a peer with a thousand do not delay those of others."""
    for peer, number in (("MANY", 1), ("MANY", 2), ("MANY", 3), ("FEW", 4), ("OTHER", 5)):
        archive.commitments.release(archive.commitments.request(peer, CommitmentRequest(f"1.2.{number}", STORED[:1])))
    turns = []
    while (claim := archive.commitments.claim()) is not None:
        turns.append(claim.peer)
    assert turns == ["FEW", "MANY", "OTHER", "MANY", "MANY"]


def test_a_refused_report_delays_the_others_of_its_peer(archive: Archive):
    """The others wait for the first pause, so that a slow peer does not delay all other peers."""
    ours = Commitments(archive.index, archive.files, schedule=RetrySchedule(first=3600.0))
    for number in range(3):
        claim = ours.request("PEER", CommitmentRequest(f"1.2.{number}", STORED[:1]))
        ours.release(claim)
    refused = ours.claim()
    assert refused is not None
    assert ours.retry(refused, is_unreachable=False) == 0
    assert ours.claim() is None


def test_the_files_of_a_commitment_are_synced(archive: Archive, monkeypatch: pytest.MonkeyPatch):
    """A few files are synced with their folders; for many the file system is."""
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    path = archive.path(STORED[0].sop_instance_uid)
    monkeypatch.setattr(os, "fsync", noted)
    archive.verify(STORED[0])
    assert {str(path), str(path.parent)} <= set(synced)
