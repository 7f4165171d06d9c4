"""Storage commitment without a protocol: what is verified, and what is said of it."""

import os
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


class House:
    """The stores, and what was published."""

    def __init__(self, index: Index, root: Path) -> None:
        self.index, self.root = index, root
        self.files = LocalFiles(root)
        self.files.start()
        self.events: list[Event] = []
        self.storage = Storage(index, self.files, duplicates="replace")
        self.commitments = Commitments(index, self.files, publish=self.events.append)
        take_in(self, DATASETS)

    def path(self, uid: str) -> Path:
        """The file of an instance."""
        found = writer.find(self.index, uid)
        assert found is not None
        return self.root / found.file_key

    def said(self, *asked: Reference) -> tuple[list[Reference], list[tuple[Reference, int]]]:
        """What is committed, and what failed for which reason."""
        claim = self.commitments.request("PEER", CommitmentRequest(some_uid(len(asked)), asked))
        report = self.commitments.verify(claim).report
        assert report.transaction_uid == claim.transaction_uid
        assert self.commitments.finish(claim)
        return list(report.committed), [tuple(each) for each in report.failed]


@pytest.fixture
def house(index: Index, tmp_path: Path) -> Iterator[House]:
    """An archive with six instances."""
    made = House(index, tmp_path / "files")
    yield made
    made.files.close()


def test_what_is_whole_is_committed_to(house: House):
    """Every one, in the order in which they were asked about, and one that is named twice twice."""
    asked = [*reversed(STORED), STORED[0]]
    assert house.said(*asked) == (asked, [])


def test_each_failure_has_its_reason(house: House):
    """Not stored, under another class, of a class that is not kept, damaged, cut short, gone; the rest is committed."""
    damaged, short, gone, *whole = STORED
    path = house.path(damaged.sop_instance_uid)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.truncate(house.path(short.sop_instance_uid), 600)
    house.path(gone.sop_instance_uid).unlink()
    unknown, private = Reference(CT, some_uid(1)), Reference(PRIVATE, some_uid(2))
    other_class = Reference("1.2.840.10008.5.1.4.1.1.4", whole[0].sop_instance_uid)
    assert house.said(damaged, whole[0], short, gone, unknown, private, other_class, whole[1]) == (
        [whole[0], whole[1]],
        [(damaged, 0x0110), (short, 0x0110), (gone, 0x0110), (unknown, 0x0112), (private, 0x0122),
         (other_class, 0x0119)],
    )  # fmt: skip
    (told,) = (each for each in house.events if isinstance(each, Notice))
    assert "3 stored files are missing or damaged" in told.sentence


def test_what_cannot_be_made_durable_is_not_committed_to(house: House, monkeypatch: pytest.MonkeyPatch):
    """When the disk says so, the reason is that resources are missing, and asking again may help."""

    def refuse(_keys: object) -> None:
        raise StorageUnavailable("The disk is full")

    monkeypatch.setattr(house.files, "make_durable", refuse)
    assert house.said(STORED[0]) == ([], [(STORED[0], 0x0213)])
    monkeypatch.undo()
    assert house.said(STORED[0]) == ([STORED[0]], [])


def test_more_than_a_batch_is_verified(house: House, monkeypatch: pytest.MonkeyPatch):
    """Batch by batch, nothing is left out between them."""
    monkeypatch.setattr(commitment, "BATCH", 2)
    unknown = [Reference(CT, some_uid(number)) for number in range(5)]
    assert house.said(*STORED, *unknown) == (STORED, [(each, 0x0112) for each in unknown])


def test_a_transaction_is_verified_once(house: House, monkeypatch: pytest.MonkeyPatch):
    """When its report is sent again, by whomever, no file is read again, and what failed stays so."""
    unknown = Reference(CT, some_uid(1))
    claim = house.commitments.request("PEER", CommitmentRequest("1.2.3", [*STORED, unknown]))
    first = house.commitments.verify(claim).report
    monkeypatch.setattr(house.files, "pieces", None)
    assert house.commitments.verify(claim).report == first
    assert house.commitments.last_verified(claim).report == first


def test_what_is_gone_or_replaced_since_is_not_committed_to(house: House, monkeypatch: pytest.MonkeyPatch):
    """A modality that was away for days must not delete its only copy. What was changed is noted."""
    monkeypatch.setattr(commitment, "BATCH", 2)
    claim = house.commitments.request("PEER", CommitmentRequest("1.2.3", STORED))
    assert house.commitments.verify(claim).report.committed == STORED
    deleted, replaced, short, gone, *whole = STORED
    row = writer.find(house.index, deleted.sop_instance_uid)
    assert row is not None
    Maintenance(house.index, house.files).delete([row])
    newer = study(series=2, instances=3, StudyDescription="ANOTHER")[1]
    take_in(house, [newer])
    os.truncate(house.path(short.sop_instance_uid), 600)
    house.path(gone.sop_instance_uid).unlink()
    expected = (whole, [(deleted, 0x0112), (replaced, 0x0110), (short, 0x0110), (gone, 0x0110)])
    report = house.commitments.verify(claim).report
    assert (report.committed, [tuple(each) for each in report.failed]) == expected
    assert house.commitments.last_verified(claim).report == report
    take_in(house, [DATASETS[0]])
    assert house.commitments.verify(claim).report == report


def test_an_instance_that_is_replaced_or_deleted_while_it_is_read(house: House, monkeypatch: pytest.MonkeyPatch):
    """The newer one is what is committed to; one that is gone is not stored, not damaged."""
    (newer,) = study(series=1, instances=1, StudyDescription="ANOTHER")
    found = writer.find_all

    def replaced(index: Index, uids: list[str]) -> object:
        before = found(index, uids)
        monkeypatch.setattr(writer, "find_all", found)
        take_in(house, [newer])
        return before

    monkeypatch.setattr(writer, "find_all", replaced)
    assert house.said(STORED[0]) == ([STORED[0]], [])

    def deleted(index: Index, uids: list[str]) -> object:
        before = found(index, uids)
        Maintenance(index, house.files).delete(before)
        return before

    monkeypatch.setattr(writer, "find_all", deleted)
    assert house.said(STORED[1]) == ([], [(STORED[1], 0x0112)])
    assert house.events == []


def test_whoever_stops_leaves_it_to_the_next(house: House):
    """Cancelled in the middle of verifying, released, claimed again."""
    claim = house.commitments.request("PEER", CommitmentRequest("1.2.3", STORED))
    cancellation = Cancellation()
    cancellation.cancel("stopping")
    with pytest.raises(Cancelled):
        house.commitments.verify(claim, cancellation)
    house.commitments.release(claim)
    again = house.commitments.claim()
    assert again is not None
    with pytest.raises(LostClaim):
        house.commitments.verify(claim)
    assert len(house.commitments.verify(again).report.committed) == 6


def test_pauses_grow_to_the_longest():
    """Twice as long each time, however often."""
    schedule = RetrySchedule(first=30, longest=3600)
    assert [schedule.pause(attempts) for attempts in (0, 1, 2, 6, 7, 10_000)] == [30, 60, 120, 1920, 3600, 3600]


def test_a_report_is_given_up_when_the_request_is_too_old(house: House):
    """All of a peer that cannot be reached at once, one alone otherwise; before that it is put off."""
    patient = house.commitments
    hasty = Commitments(house.index, house.files, schedule=RetrySchedule(give_up=0.0))
    claims = [patient.request("PEER", CommitmentRequest(f"1.2.{number}", STORED[:1])) for number in range(3)]
    assert patient.retry(claims[0], is_unreachable=True) == 0
    assert hasty.retry(claims[0], is_unreachable=True) == 0  # it is nobody's claim any more
    assert hasty.retry(claims[1], is_unreachable=False) == 1
    patient.release(claims[2])
    patient.retry_all_soon()
    claim = hasty.claim()
    assert claim is not None
    assert hasty.retry(claim, is_unreachable=True) == 2
    assert patient.seconds_until_due() is None


def test_who_is_no_peer_cannot_take_the_places_of_peers(house: House):
    """All such titles together have one place in ten, and a peer has as many as there are."""
    ours = Commitments(
        house.index,
        house.files,
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


def test_there_are_so_many_of_a_peer_and_in_all(house: House):
    """Both bounds hold, and a retired transaction makes room."""
    ours = Commitments(house.index, house.files, bounds=CommitmentBounds(active=3, active_of_peer=2))
    first, _ = (ours.request("PEER", CommitmentRequest(f"1.2.{number}", STORED[:1])) for number in range(2))
    with pytest.raises(OutOfResources):
        ours.request("PEER", CommitmentRequest("1.2.3", STORED[:1]))
    ours.request("OTHER", CommitmentRequest("1.2.3", STORED[:1]))
    with pytest.raises(OutOfResources):
        ours.request("THIRD", CommitmentRequest("1.2.3", STORED[:1]))
    assert ours.finish(first)
    ours.request("THIRD", CommitmentRequest("1.2.3", STORED[:1]))


def test_who_is_no_peer_is_given_up_soon(house: House, monkeypatch: pytest.MonkeyPatch):
    """Long before a peer is; until then it may be added, and is looked for without longer and longer pauses."""
    known: set[str] = set()
    ours = Commitments(
        house.index, house.files, schedule=RetrySchedule(first=0.0), is_peer=lambda title: title in known
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


def test_peers_are_served_in_turn(house: House):
    """One that asks for a thousand does not have the others wait for all of them."""
    for peer, number in (("MANY", 1), ("MANY", 2), ("MANY", 3), ("FEW", 4), ("OTHER", 5)):
        house.commitments.release(house.commitments.request(peer, CommitmentRequest(f"1.2.{number}", STORED[:1])))
    turns = []
    while (claim := house.commitments.claim()) is not None:
        turns.append(claim.peer)
    assert turns == ["FEW", "MANY", "OTHER", "MANY", "MANY"]


def test_a_report_that_is_refused_has_the_others_of_its_peer_wait(house: House):
    """At least for the first pause: a peer that refuses each after a minute must not hold everybody up."""
    ours = Commitments(house.index, house.files, schedule=RetrySchedule(first=3600.0))
    for number in range(3):
        claim = ours.request("PEER", CommitmentRequest(f"1.2.{number}", STORED[:1]))
        ours.release(claim)
    refused = ours.claim()
    assert refused is not None
    assert ours.retry(refused, is_unreachable=False) == 0
    assert ours.claim() is None


def test_the_files_of_a_commitment_are_synced(house: House, monkeypatch: pytest.MonkeyPatch):
    """Each file and its folder where they are few, the file system where they are many."""
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    path = house.path(STORED[0].sop_instance_uid)
    monkeypatch.setattr(os, "fsync", noted)
    house.said(STORED[0])
    assert {str(path), str(path.parent)} <= set(synced)
