"""Storage commitment: which instances somebody asked us to answer for, whether we can, and what is to be reported.

A transaction is durable before its request is answered. It is verified once, reported until the report is acknowledged
or given up, and forgotten then. Whoever reports, by whichever protocol, works on a `Claim`.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pacs.dicom.commitment import CommitmentReport, CommitmentRequest, Failure, FailureReason, Reference
from pacs.dicom.sop_classes import check_kept
from pacs.errors import InstanceUnreadable, OutOfResources, PacsError, SOPClassNotSupported, StorageUnavailable
from pacs.files.store import FileStore
from pacs.index import commitments, writer
from pacs.index.commitments import Claim, Transaction
from pacs.index.database import Index
from pacs.index.writer import StoredInstance
from pacs.observability.events import Event, Notice
from pacs.support.cancellation import Cancellation
from pacs.support.chunks import chunks

__all__ = ["Bounds", "Claim", "Commitments", "LostClaim", "Schedule", "Verified"]

BATCH = 500
"""How many instances are looked up, read and synced at a time."""

LEASE = 60.0
"""Seconds a claim holds while instances are verified; it is renewed with every `RENEWED_BYTES`, and every batch."""

RENEWED_BYTES = 1 << 28

MARK = 16
"""How many digits of a digest are kept of what there is commitment to."""

Outcome = int | str
"""What became of a reference: the reason why there is no commitment, or the mark of what there is commitment to."""

STRANGERS_SHARE = 10
"""Which part of all transactions those may have together who are no peers: one in so many, and at least one."""

STRANGERS_GIVE_UP = 300.0
"""Seconds after which theirs are given up: time to add who asked to the peers, and nobody to be called before."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a report that failed is tried again, in seconds: after `first`, then twice as long each time up to
    `longest`; one that fails when the request is older than `give_up` is given up.
    """

    first: float = 30.0
    longest: float = 3600.0
    give_up: float = 259_200.0

    def pause(self, attempts: int) -> float:
        """The time to the next attempt when so many have failed, the one that just did not counted."""
        return min(self.longest, self.first * 2.0 ** min(attempts, 32))


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many instances a request may name, and how many transactions may be active, of one AE title and in all.

    Anybody can take any number of AE titles: all that are no peers' have `active_of_strangers` together.
    """

    instances: int = 25_000
    active: int = 10_000
    active_of_peer: int = 1_000

    @property
    def active_of_strangers(self) -> int:
        """How many transactions may be active of all who are no peers."""
        return max(1, self.active // STRANGERS_SHARE)


@dataclass(frozen=True, slots=True)
class Verified:
    """What is to be reported; `age` is how many seconds ago it was asked for, `attempts` how many reports failed."""

    report: CommitmentReport
    age: float
    attempts: int


class LostClaim(PacsError):
    """The claim ran out while it was worked on: the transaction is somebody else's now, or done."""

    def __init__(self) -> None:
        super().__init__("The claim to a transaction ran out")


class Commitments:
    """The transactions of storage commitment of one archive.

    `is_peer` says whether an AE title is that of a configured peer, whom we can call.
    """

    def __init__(
        self,
        index: Index,
        files: FileStore,
        *,
        unknown_sop_classes: bool = False,
        schedule: Schedule | None = None,
        bounds: Bounds | None = None,
        is_peer: Callable[[str], bool] = lambda _ae_title: True,
        publish: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        self._index = index
        self._files = files
        self._unknown_sop_classes = unknown_sop_classes
        self._schedule = schedule or Schedule()
        self.bounds = bounds or Bounds()
        self.is_peer = is_peer
        self._last_peer = ""
        """Whose turn it was last."""
        self._publish = publish

    # --- transactions -------------------------------------------------------------------------------------------

    def request(self, peer: str, request: CommitmentRequest) -> Claim:
        """Take a request in, durably, and claim it. Raises DuplicateTransaction, OutOfResources, IndexUnavailable."""
        requested = _packed([list(each) for each in request.references])
        return commitments.add(
            self._index,
            peer,
            request.transaction_uid,
            requested,
            seconds=LEASE,
            require_room=lambda counts: self._require_room(peer, counts),
        )

    def _require_room(self, peer: str, counts: Mapping[str, int]) -> None:
        bounds = self.bounds
        is_full = counts.get(peer, 0) >= bounds.active_of_peer or sum(counts.values()) >= bounds.active
        if not is_full and not self.is_peer(peer):
            strangers = sum(count for each, count in counts.items() if not self.is_peer(each))
            is_full = strangers >= bounds.active_of_strangers
        if is_full:
            raise OutOfResources("Too many transactions wait for their report: try again later")

    def hasten(self) -> None:
        """Have all that wait for another attempt tried soon: peers may be known now. Raises IndexUnavailable."""
        commitments.hasten(self._index)

    def claim(self) -> Claim | None:
        """A transaction that is due and nobody's, now ours; None when there is none. Raises IndexUnavailable.

        Peers have their turns one after the other, however many transactions each has.
        """
        claim = commitments.claim(self._index, LEASE, self._last_peer)
        if claim is not None:
            self._last_peer = claim.peer
        return claim

    def until_due(self) -> float | None:
        """Seconds until there may be one to claim, None when there is none at all. Raises IndexUnavailable."""
        return commitments.until_due(self._index)

    def keep(self, claim: Claim, seconds: float) -> None:
        """Claim on for some seconds. Raises LostClaim, IndexUnavailable."""
        if not commitments.renew(self._index, claim, seconds):
            raise LostClaim

    def release(self, claim: Claim) -> None:
        """Have somebody else do it, at once. Raises IndexUnavailable."""
        commitments.release(self._index, claim)

    def reported(self, claim: Claim) -> bool:
        """Retire the Transaction UID: its report is acknowledged; whether it was active. Raises IndexUnavailable."""
        return commitments.remove(self._index, claim)

    def failed(self, claim: Claim, *, is_peer: bool) -> int:
        """Have a report that failed tried again later; how many were given up instead, which are forgotten.

        `is_peer` says whether the peer could not be reached at all, so that all that is as old is given up with it,
        and nothing else is tried before. A report that failed otherwise has the others of its peer wait for the first
        pause. Raises IndexUnavailable.
        """
        transaction = commitments.read(self._index, claim)
        if transaction is None:
            return 0
        schedule = self._schedule
        is_known = self.is_peer(claim.peer)
        give_up = schedule.give_up if is_known else min(schedule.give_up, STRANGERS_GIVE_UP)
        if transaction.age > give_up:
            if is_peer:
                return commitments.remove_old(self._index, claim, give_up)
            return int(commitments.remove(self._index, claim))
        pause = schedule.pause(transaction.attempts) if is_known else schedule.first
        commitments.postpone(self._index, claim, pause, others=pause if is_peer else min(pause, schedule.first))
        return 0

    # --- verifying ----------------------------------------------------------------------------------------------

    def verified(self, claim: Claim, cancellation: Cancellation | None = None) -> Verified:
        """What is to be reported of a claimed transaction; what has not been verified yet is, which may take long.

        What was found whole may have been deleted or replaced since: rows and sizes are looked at each time, and what
        they change is noted. Raises LostClaim, Cancelled, IndexUnavailable.
        """
        transaction = self._transaction(claim)
        cancellation = cancellation or Cancellation()
        references = _references(transaction)
        before = _unpacked(transaction.verified) if transaction.verified is not None else None
        found = before if before is not None else self._verify(claim, references, cancellation)
        outcome = self._still(claim, references, found, cancellation)
        if outcome != before and not commitments.renew(self._index, claim, LEASE, _packed(outcome)):
            raise LostClaim
        return Verified(_report(claim, references, outcome), transaction.age, transaction.attempts)

    def noted(self, claim: Claim) -> Verified:
        """What was reported: what was verified last, as it was noted. Raises LostClaim, IndexUnavailable."""
        transaction = self._transaction(claim)
        if transaction.verified is None:
            raise LostClaim
        report = _report(claim, _references(transaction), _unpacked(transaction.verified))
        return Verified(report, transaction.age, transaction.attempts)

    def _transaction(self, claim: Claim) -> Transaction:
        transaction = commitments.read(self._index, claim)
        if transaction is None:
            raise LostClaim
        return transaction

    def _verify(self, claim: Claim, references: Sequence[Reference], cancellation: Cancellation) -> list[Outcome]:
        """What becomes of each reference. Each instance is verified once."""
        verification = _Verification(self._index, self._files, lambda: self.keep(claim, LEASE), cancellation)
        for batch in chunks(dict.fromkeys(each.sop_instance_uid for each in references), BATCH):
            verification.verify(batch)
            self.keep(claim, LEASE)
        if verification.damaged:
            first, count = verification.damaged[0], len(verification.damaged)
            sentence = f"{count} stored files are missing or damaged, the first is {first}: have them sent again"
            self._publish(Notice(sentence=sentence))
        return [self._outcome(each, verification) for each in references]

    def _still(
        self, claim: Claim, references: Sequence[Reference], outcome: Sequence[Outcome], cancellation: Cancellation
    ) -> list[Outcome]:
        """An outcome in which what has gone, or is not what was verified any more, is no longer committed to."""
        promised = {
            each.sop_instance_uid: found
            for each, found in zip(references, outcome, strict=True)
            if isinstance(found, str)
        }
        reasons: dict[str, int] = {}
        for number, batch in enumerate(chunks(dict.fromkeys(promised), BATCH)):
            cancellation.check()
            if number:
                self.keep(claim, LEASE)
            rows = {each.sop_instance_uid: each for each in writer.find_all(self._index, batch)}
            for uid in batch:
                if uid not in rows:
                    reasons[uid] = FailureReason.NO_SUCH_INSTANCE
                elif _mark(rows[uid]) != promised[uid] or not self._has_its_size(rows[uid]):
                    reasons[uid] = FailureReason.PROCESSING_FAILURE
        return [
            reasons.get(each.sop_instance_uid, found) if isinstance(found, str) else found
            for each, found in zip(references, outcome, strict=True)
        ]

    def _has_its_size(self, instance: StoredInstance) -> bool:
        try:
            return self._files.size(instance.file_key) == instance.size
        except InstanceUnreadable:
            return False

    def _outcome(self, reference: Reference, verification: "_Verification") -> Outcome:
        reason = self._reason(reference, verification)
        return _mark(verification.stored[reference.sop_instance_uid]) if reason is None else int(reason)

    def _reason(self, reference: Reference, verification: "_Verification") -> int | None:
        stored = verification.stored.get(reference.sop_instance_uid)
        if stored is None:
            return FailureReason.NO_SUCH_INSTANCE if self._is_kept(reference) else FailureReason.CLASS_NOT_SUPPORTED
        if stored.sop_class_uid != reference.sop_class_uid:
            return FailureReason.CLASS_INSTANCE_CONFLICT
        return verification.reasons.get(reference.sop_instance_uid)

    def _is_kept(self, reference: Reference) -> bool:
        try:
            check_kept(reference.sop_class_uid, self._unknown_sop_classes)
        except SOPClassNotSupported:
            return False
        return True


class _Verification:
    """What has been found out about the instances of one transaction.

    `keep` is called every now and then while it goes on, and may raise.
    """

    def __init__(self, index: Index, files: FileStore, keep: Callable[[], None], cancellation: Cancellation) -> None:
        self._index, self._files, self._keep, self._cancellation = index, files, keep, cancellation
        self._bytes = 0
        self.stored: dict[str, StoredInstance] = {}
        self.reasons: dict[str, FailureReason] = {}
        """Why there is no commitment to a stored instance, by its SOP Instance UID."""
        self.damaged: list[str] = []
        """The files that are missing, shorter or longer than they were, or have other bytes."""

    def verify(self, sop_instance_uids: Sequence[str]) -> None:
        """Look at some instances: row, file, size, digest, and that the file is durable.

        Raises IndexUnavailable, Cancelled.
        """
        whole = []
        for instance in writer.find_all(self._index, sop_instance_uids):
            uid = instance.sop_instance_uid
            found: StoredInstance | None = instance
            is_whole = self._is_whole(instance)
            if not is_whole:  # it may have been replaced or deleted while it was read
                found = writer.find(self._index, uid)
                is_whole = found is not None and found != instance and self._is_whole(found)
            if found is None:
                continue
            self.stored[uid] = found
            if is_whole:
                whole.append(found)
            else:
                self.damaged.append(found.file_key)
                self.reasons[uid] = FailureReason.PROCESSING_FAILURE
        try:
            self._files.secure([instance.file_key for instance in whole])
        except StorageUnavailable:
            self.reasons |= {instance.sop_instance_uid: FailureReason.RESOURCE_LIMITATION for instance in whole}

    def _is_whole(self, instance: StoredInstance) -> bool:
        """Whether the bytes of the data set in the store are those that were received."""
        digest = hashlib.sha256()
        try:
            for piece in self._files.pieces(instance.file_key, instance.size, instance.data_offset):
                digest.update(piece)
                self._count(len(piece))
        except InstanceUnreadable:
            return False
        return digest.hexdigest() == instance.digest

    def _count(self, read: int) -> None:
        self._cancellation.check()
        self._bytes += read
        if self._bytes >= RENEWED_BYTES:
            self._bytes = 0
            self._keep()


def _references(transaction: Transaction) -> list[Reference]:
    return [Reference(*each) for each in _unpacked(transaction.requested)]


def _mark(instance: StoredInstance) -> str:
    """What tells the instance that was verified from another with its UID: class, and the beginning of its digest."""
    return f"{instance.digest[:MARK]} {instance.sop_class_uid}"


def _report(claim: Claim, references: Sequence[Reference], outcome: Sequence[Outcome]) -> CommitmentReport:
    pairs = list(zip(references, outcome, strict=True))
    committed = [each for each, found in pairs if isinstance(found, str)]
    failed = [Failure(each, found) for each, found in pairs if isinstance(found, int)]
    return CommitmentReport(claim.transaction_uid, committed, failed)


def _packed(rows: list[Outcome] | list[list[str]]) -> bytes:
    """Rows as they are kept in the index."""
    return zlib.compress(json.dumps(rows, separators=(",", ":")).encode("ascii"), 1)


def _unpacked(packed: bytes) -> list[Any]:
    rows: list[Any] = json.loads(zlib.decompress(packed))
    return rows
