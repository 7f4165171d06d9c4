"""Storage commitment: transactions, the verification of their instances, and the reports that are due.

A transaction is durable before its request is answered. It is verified, reported until the report is acknowledged or
given up, and then deleted. Any protocol that reports transactions works on a `Claim`.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Self

from pacs.dicom.commitment import CommitmentReport, CommitmentRequest, Failure, FailureReason, Reference
from pacs.dicom.sop_classes import check_storable
from pacs.errors import InstanceUnreadable, OutOfResources, PacsError, SOPClassNotSupported, StorageUnavailable
from pacs.files.store import ObjectStore
from pacs.index import commitments, writer
from pacs.index.commitments import Claim, Transaction
from pacs.index.database import Index
from pacs.index.writer import StoredInstance
from pacs.observability.events import Event, Notice
from pacs.services.held_claims import HeldClaims
from pacs.services.replaced import ATTEMPTS
from pacs.support.cancellation import Cancellation
from pacs.support.chunks import chunks
from pacs.support.clock_jumps import JumpDetector

__all__ = ["Claim", "CommitmentBounds", "Commitments", "LostClaim", "RetrySchedule", "VerifiedTransaction"]

BATCH = 500
"""How many instances are looked up, read and synced at a time."""

LEASE = 60.0
"""Seconds that a claim lasts during verification; it is extended after each batch and each `LEASE_BYTES`."""

LEASE_BYTES = 1 << 28

FINGERPRINT_DIGITS = 16

Finding = int | str
"""The result for a reference: the fingerprint of a committed instance, or the Failure Reason."""

MOST_ATTEMPTS = 1000
"""Failed reports after which the age alone decides whether a report is given up."""

UNKNOWN_SHARE = 10
"""All AEs that are not among the peers may have one in `UNKNOWN_SHARE` of all transactions, at least one."""

UNKNOWN_GIVE_UP = 300.0
"""Seconds after which their transactions are given up: enough to add the AE to the peers."""


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """When a failed report is sent again, in seconds: after `first`, then twice as long each time up to `longest`.

    A report that fails when its request is older than `give_up` is given up, after `least_attempts`.
    """

    first: float = 30.0
    longest: float = 3600.0
    give_up: float = 259_200.0

    def pause(self, attempts: int) -> float:
        """Return the seconds until the next attempt, after `attempts` failures before the last one."""
        return min(self.longest, self.first * 2.0 ** min(attempts, 32))

    @property
    def least_attempts(self) -> int:
        """The number of failed reports before the last one: their pauses last half of `give_up`.

        The age alone does not decide, because the clock may have jumped since the request.
        """
        waited = accumulate(map(self.pause, range(MOST_ATTEMPTS)), initial=0.0)
        return next((count for count, seconds in enumerate(waited) if seconds >= self.give_up / 2), MOST_ATTEMPTS)

    def for_unknown_peer(self) -> Self:
        """Return the schedule for an AE that is not among the peers: it may be added soon, and pauses do not grow."""
        return replace(self, longest=self.first, give_up=min(self.give_up, UNKNOWN_GIVE_UP))


@dataclass(frozen=True, slots=True)
class CommitmentBounds:
    """The most instances in a request, and the most active transactions in all and of one AE title.

    A caller can use any number of AE titles: all that are not among the peers share `active_of_unknown`.
    """

    instances: int = 25_000
    active: int = 10_000
    active_of_peer: int = 1_000

    @property
    def active_of_unknown(self) -> int:
        """The most active transactions of all AEs that are not among the peers."""
        return max(1, self.active // UNKNOWN_SHARE)


@dataclass(frozen=True, slots=True)
class VerifiedTransaction:
    """The report of a transaction; `age` is in seconds since its request, `attempts` the number of failed reports."""

    report: CommitmentReport
    age: float
    attempts: int


class LostClaim(PacsError):
    """The claim expired: another process has the transaction, or it is finished."""

    def __init__(self) -> None:
        super().__init__("The claim to a transaction ran out")


class Commitments:
    """The transactions of storage commitment of one archive.

    `is_peer` returns whether an AE title is that of a configured peer, to which an association can be opened. `admit`
    raises IndexUnavailable while nothing is verified, because the index lacks files.
    """

    def __init__(
        self,
        index: Index,
        files: ObjectStore,
        *,
        unknown_sop_classes: bool = False,
        schedule: RetrySchedule | None = None,
        bounds: CommitmentBounds | None = None,
        is_peer: Callable[[str], bool] = lambda _ae_title: True,
        publish: Callable[[Event], None] = lambda _event: None,
        admit: Callable[[], None] = lambda: None,
    ) -> None:
        self._index = index
        self._files = files
        self.unknown_sop_classes = unknown_sop_classes
        """Whether instances of unknown SOP Classes are stored: a reload may change it."""
        self._schedule = schedule or RetrySchedule()
        self.bounds = bounds or CommitmentBounds()
        self.is_peer = is_peer
        self._held = HeldClaims()
        self._jumps = JumpDetector()
        self._last_peer = ""
        """The peer of the last claim: others come first."""
        self._publish = publish
        self._admit = admit

    # --- transactions -------------------------------------------------------------------------------------------

    def request(self, peer: str, request: CommitmentRequest) -> Claim:
        """Save a request durably and claim it. Raises DuplicateTransaction, OutOfResources, IndexUnavailable."""
        self._admit()
        requested = _packed([list(each) for each in request.references])
        claim = commitments.add(
            self._index,
            peer,
            request.transaction_uid,
            requested,
            seconds=LEASE,
            check_limits=lambda counts: self._check_limits(peer, counts),
        )
        self._held.add(claim)
        return claim

    def take_over(self, held: HeldClaims) -> None:
        """Release the claims of the worker before this one, and use its memory. Raises IndexUnavailable."""
        self._held = held
        for claim in held.all():
            self.release(claim)

    def _check_limits(self, peer: str, counts: Mapping[str, int]) -> None:
        bounds = self.bounds
        is_full = counts.get(peer, 0) >= bounds.active_of_peer or sum(counts.values()) >= bounds.active
        if not is_full and not self.is_peer(peer):
            of_unknown = sum(count for each, count in counts.items() if not self.is_peer(each))
            is_full = of_unknown >= bounds.active_of_unknown
        if is_full:
            raise OutOfResources("Too many transactions wait for their report: try again later")

    def retry_all_soon(self, longest_claim: float, *, has_jumped: bool = False) -> None:
        """Make all postponed transactions due soon: at a start, since peers may have been added, and after a jump.

        No claim lasts longer than `longest_claim` seconds: the clock may have been turned back since. If the clock
        `has_jumped` while others were at work, their claims begin again. Raises IndexUnavailable.
        """
        commitments.make_all_due(self._index, longest_claim, renew_claims=has_jumped)

    def seconds_jumped(self) -> float:
        """Return by how much the clock of the database has jumped since the last call. Raises IndexUnavailable."""
        return self._jumps.seconds_jumped(commitments.clock(self._index))

    def claim(self) -> Claim | None:
        """Claim a due transaction that is not claimed; None when there is none. Raises IndexUnavailable.

        Peers take turns, however many transactions each has.
        """
        claim = commitments.claim(self._index, LEASE, self._last_peer)
        if claim is not None:
            self._last_peer = claim.peer
            self._held.add(claim)
        return claim

    def seconds_until_due(self) -> float | None:
        """Return the seconds until a transaction may be due, None without transactions. Raises IndexUnavailable."""
        return commitments.until_due(self._index)

    def extend(self, claim: Claim, seconds: float) -> None:
        """Let a claim last for `seconds` from now. Raises LostClaim, IndexUnavailable."""
        if not commitments.renew(self._index, claim, seconds):
            raise LostClaim

    def release(self, claim: Claim) -> None:
        """End a claim, so that the transaction can be claimed at once. Raises IndexUnavailable."""
        commitments.release(self._index, claim)
        self._held.remove(claim)

    def finish(self, claim: Claim) -> bool:
        """Delete a transaction whose report was acknowledged. Return whether it was active. Raises IndexUnavailable."""
        self._held.remove(claim)
        return commitments.remove(self._index, claim)

    def retry(self, claim: Claim, *, is_unreachable: bool) -> int:
        """Postpone a transaction whose report failed. Return how many were given up and deleted instead.

        If the peer `is_unreachable`, its other transactions are postponed as long, and those that are too old are given
        up with this one. After another failure they are postponed for the first pause. Raises IndexUnavailable.
        """
        transaction = commitments.read(self._index, claim)
        self._held.remove(claim)
        if transaction is None:
            return 0
        schedule = self._schedule if self.is_peer(claim.peer) else self._schedule.for_unknown_peer()
        least_attempts = schedule.least_attempts
        if transaction.age > schedule.give_up and transaction.attempts >= least_attempts:
            if is_unreachable:
                return commitments.remove_old(self._index, claim, schedule.give_up, least_attempts)
            return int(commitments.remove(self._index, claim))
        pause = schedule.pause(transaction.attempts)
        others = pause if is_unreachable else min(pause, schedule.first)
        commitments.postpone(self._index, claim, pause, others=others, is_unreachable=is_unreachable)
        return 0

    # --- verification -------------------------------------------------------------------------------------------

    def verify(self, claim: Claim, cancellation: Cancellation | None = None) -> VerifiedTransaction:
        """Verify a claimed transaction and return its report. The files are read the first time only.

        Instances may have been deleted or replaced since: rows and file sizes are checked each time, and changes are
        saved. Raises LostClaim, Cancelled, IndexUnavailable.
        """
        self._admit()
        transaction = self._transaction(claim)
        cancellation = cancellation or Cancellation()
        references = _references(transaction)
        before = _unpacked(transaction.verified) if transaction.verified is not None else None
        first = before if before is not None else self._read_files(claim, references, cancellation)
        findings = self._check_rows(claim, references, first, cancellation)
        if findings != before and not commitments.renew(self._index, claim, LEASE, _packed(findings)):
            raise LostClaim
        return VerifiedTransaction(_report(claim, references, findings), transaction.age, transaction.attempts)

    def last_verified(self, claim: Claim) -> VerifiedTransaction:
        """Return the report as it was verified last. Raises LostClaim, IndexUnavailable."""
        transaction = self._transaction(claim)
        if transaction.verified is None:
            raise LostClaim
        report = _report(claim, _references(transaction), _unpacked(transaction.verified))
        return VerifiedTransaction(report, transaction.age, transaction.attempts)

    def _transaction(self, claim: Claim) -> Transaction:
        transaction = commitments.read(self._index, claim)
        if transaction is None:
            raise LostClaim
        return transaction

    def _read_files(self, claim: Claim, references: Sequence[Reference], cancellation: Cancellation) -> list[Finding]:
        """Verify the files of all references, each instance once."""
        verification = _Verification(self._index, self._files, lambda: self.extend(claim, LEASE), cancellation)
        for batch in chunks(dict.fromkeys(each.sop_instance_uid for each in references), BATCH):
            verification.verify(batch)
            self.extend(claim, LEASE)
        if verification.damaged:
            first, count = verification.damaged[0], len(verification.damaged)
            sentence = f"{count} stored files are missing or damaged, the first is {first}: send the instances again"
            self._publish(Notice(sentence=sentence))
        return [self._finding(each, verification) for each in references]

    def _check_rows(
        self, claim: Claim, references: Sequence[Reference], findings: Sequence[Finding], cancellation: Cancellation
    ) -> list[Finding]:
        """Return the findings without commitments to instances that were deleted or replaced since."""
        fingerprints = {
            each.sop_instance_uid: found
            for each, found in zip(references, findings, strict=True)
            if isinstance(found, str)
        }
        reasons: dict[str, int] = {}
        for number, batch in enumerate(chunks(dict.fromkeys(fingerprints), BATCH)):
            cancellation.check()
            if number:
                self.extend(claim, LEASE)
            rows = {each.sop_instance_uid: each for each in writer.find_all(self._index, batch)}
            for uid in batch:
                if uid not in rows:
                    reasons[uid] = FailureReason.NO_SUCH_INSTANCE
                elif _fingerprint(rows[uid]) != fingerprints[uid] or not self._has_its_size(rows[uid]):
                    reasons[uid] = FailureReason.PROCESSING_FAILURE
        return [
            reasons.get(each.sop_instance_uid, found) if isinstance(found, str) else found
            for each, found in zip(references, findings, strict=True)
        ]

    def _has_its_size(self, instance: StoredInstance) -> bool:
        try:
            return self._files.size(instance.file_key) == instance.size
        except InstanceUnreadable:
            return False

    def _finding(self, reference: Reference, verification: "_Verification") -> Finding:
        reason = self._reason(reference, verification)
        return _fingerprint(verification.stored[reference.sop_instance_uid]) if reason is None else int(reason)

    def _reason(self, reference: Reference, verification: "_Verification") -> int | None:
        stored = verification.stored.get(reference.sop_instance_uid)
        if stored is None:
            return FailureReason.NO_SUCH_INSTANCE if self._is_kept(reference) else FailureReason.CLASS_NOT_SUPPORTED
        if stored.sop_class_uid != reference.sop_class_uid:
            return FailureReason.CLASS_INSTANCE_CONFLICT
        return verification.reasons.get(reference.sop_instance_uid)

    def _is_kept(self, reference: Reference) -> bool:
        try:
            check_storable(reference.sop_class_uid, self.unknown_sop_classes)
        except SOPClassNotSupported:
            return False
        return True


class _Verification:
    """The verification of the files of one transaction. `extend_claim` is called regularly and may raise."""

    def __init__(
        self, index: Index, files: ObjectStore, extend_claim: Callable[[], None], cancellation: Cancellation
    ) -> None:
        self._index, self._files, self._extend_claim, self._cancellation = index, files, extend_claim, cancellation
        self._bytes = 0
        self.stored: dict[str, StoredInstance] = {}
        self.reasons: dict[str, FailureReason] = {}
        """Why a stored instance is not committed to, by its SOP Instance UID."""
        self.damaged: list[str] = []
        """The files that are missing or differ from what was received."""

    def verify(self, sop_instance_uids: Sequence[str]) -> None:
        """Check row, size and digest of some instances, and that their files are durable.

        Raises IndexUnavailable, Cancelled, StorageUnavailable when files cannot be opened for lack of resources.
        """
        whole = []
        for instance in writer.find_all(self._index, sop_instance_uids):
            uid = instance.sop_instance_uid
            found, is_whole = self._examine(instance)
            if found is None:
                continue
            self.stored[uid] = found
            if is_whole:
                whole.append(found)
            else:
                self.damaged.append(found.file_key)
                self.reasons[uid] = FailureReason.PROCESSING_FAILURE
        try:
            self._files.make_durable([instance.file_key for instance in whole])
        except StorageUnavailable:
            self.reasons |= {instance.sop_instance_uid: FailureReason.RESOURCE_LIMITATION for instance in whole}

    def _examine(self, instance: StoredInstance) -> tuple[StoredInstance | None, bool]:
        """Return an instance, None if it was deleted, and whether it is whole; it may be replaced while it is read."""
        for _ in range(ATTEMPTS):
            if self._is_whole(instance):
                return instance, True
            now = writer.find(self._index, instance.sop_instance_uid)
            if now is None or now == instance:
                return now, False
            instance = now
        return instance, False

    def _is_whole(self, instance: StoredInstance) -> bool:
        """Return whether the stored data set has the digest of what was received."""
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
        if self._bytes >= LEASE_BYTES:
            self._bytes = 0
            self._extend_claim()


def _references(transaction: Transaction) -> list[Reference]:
    return [Reference(*each) for each in _unpacked(transaction.requested)]


def _fingerprint(instance: StoredInstance) -> str:
    """Return what distinguishes an instance from another one with its UID: a part of its digest, and its SOP Class."""
    return f"{instance.digest[:FINGERPRINT_DIGITS]} {instance.sop_class_uid}"


def _report(claim: Claim, references: Sequence[Reference], findings: Sequence[Finding]) -> CommitmentReport:
    pairs = list(zip(references, findings, strict=True))
    committed = [each for each, found in pairs if isinstance(found, str)]
    failed = [Failure(each, found) for each, found in pairs if isinstance(found, int)]
    return CommitmentReport(claim.transaction_uid, committed, failed)


def _packed(rows: list[Finding] | list[list[str]]) -> bytes:
    """Encode rows for the index."""
    return zlib.compress(json.dumps(rows, separators=(",", ":")).encode("ascii"), 1)


def _unpacked(packed: bytes) -> list[Any]:
    rows: list[Any] = json.loads(zlib.decompress(packed))
    return rows
