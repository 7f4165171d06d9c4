"""Reports of storage commitment by N-EVENT-REPORT (PS3.4 J.3.3, PS3.7 10.1.1), from one thread in each process.

The report of a transaction that was requested in this process is sent on the association of the request if that becomes
idle soon. All others, and those whose requestor has released, are sent on an association that this server requests.
"""

import contextlib
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from pacs.dicom.commitment import encode_report
from pacs.dicom.sop_classes import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from pacs.dicom.status import is_completed
from pacs.dicom.syntaxes import SERVICE_SYNTAXES
from pacs.dimse.association import establishment
from pacs.dimse.association.association import Association, AssociationLimits
from pacs.dimse.association.establishment import Protection
from pacs.dimse.association.scp_requests import ScpRequest, ScpRequests
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.scp.operation import Publish
from pacs.dimse.upper.waiting import WaitContext
from pacs.errors import (
    AssociationLost,
    Cancelled,
    DestinationUnreachable,
    IndexUnavailable,
    OutOfResources,
    PacsError,
    PeerTimeout,
    UnknownDestination,
)
from pacs.observability.events import CommitmentReported, Notice
from pacs.services.commitment import LEASE, Claim, Commitments, LostClaim, VerifiedTransaction
from pacs.services.peers import Peer
from pacs.support.cancellation import Cancellation
from pacs.support.threads import start_thread
from pacs.support.wakeup import WakeUp

ALL_COMMITTED, FAILURES_EXIST = 1, 2
"""The Event Type ID of a report (PS3.4 Table J.3-2)."""

MESSAGE_ID = 1
"""The Message ID of the only request on an association that this server requests."""

POLL_SECONDS = 30.0
"""Seconds between two looks for due transactions in the index: other processes add transactions too."""

CLAIM_MARGIN = 10.0
"""Seconds that a claim lasts longer than the work it is held for may take."""

RELEASE_SECONDS = 2.0
"""Seconds for a peer to answer an A-RELEASE-RQ: a stop waits for it."""

STOP_SECONDS = 5.0
"""Seconds that a stop waits for the thread, which may hang in a name server or a file system."""

_NO_ROLE = (
    "The peer does not take us as SCP of Storage Commitment; if it takes reports without answering the role, set "
    'roles = "lenient" in its [[peers]] block'
)

RETRY_SECONDS = 5.0
"""Seconds until the next attempt after the index did not answer."""


class _Scheduled(NamedTuple):
    """A claimed transaction, and the SCP requests of the association on which it was requested.

    The association itself is not referenced: its buffers would stay in memory until it is the transaction's turn.
    """

    claim: Claim
    association_id: str
    scp_requests: weakref.ref[ScpRequests]


Destination = tuple[Peer, Protection | None]
"""An AE that gets reports of storage commitment, and the TLS settings for it, None to connect without TLS."""


class EventReporter:
    """Has requested transactions verified, and reports them, between `start` and `stop`.

    A report is sent on the association of its request when that has been idle for `idle` seconds, never if 0.
    `destination` returns an AE as it is configured now. `limits` may be replaced: each report has those with which it
    began.
    """

    def __init__(
        self,
        commitments: Commitments,
        destination: Callable[[str], Destination],
        publish: Publish,
        ae_title: str,
        *,
        idle: float = 1.0,
        limits: AssociationLimits | None = None,
    ) -> None:
        self._commitments = commitments
        self._destination = destination
        self._publish = publish
        self._ae_title = ae_title
        self._idle = idle
        self.limits = limits or AssociationLimits()
        self._state = threading.Condition()
        self._scheduled: dict[str, deque[_Scheduled]] = {}
        """By peer, in the order of their turns; all AEs that are not among the peers share one turn."""
        self._prefers_scheduled = True
        """Whether the next transaction is a scheduled one rather than one that is due in the index."""
        self._is_woken = False
        self._cancellation = Cancellation()
        self._wake_up: WakeUp | None = None
        """Wakes the thread while it waits for a peer."""
        self._thread: threading.Thread | None = None

    # --- called by other threads --------------------------------------------------------------------------------

    def resume(self, *, is_alone: bool) -> None:
        """Make the reports of former processes due: once for a server, before it starts. Raises IndexUnavailable.

        If it `is_alone` with the index, the claims of former processes end: none of them lives.
        """
        self._commitments.retry_all_soon(0.0 if is_alone else self._longest_claim)

    def start(self) -> None:
        """Start the thread, also again after a stop."""
        self._cancellation, self._wake_up = Cancellation(), WakeUp()
        self._thread = start_thread("pacs-commitment", self._run, self._cancellation)

    def stop(self) -> None:
        """Stop the thread; another process, or the next start, goes on with the transactions. May be called twice."""
        self._cancellation.cancel("stopping")
        self._wake()
        thread, self._thread = self._thread, None
        if thread is not None and self._wake_up is not None:
            self._wake_up.wake()
            thread.join(STOP_SECONDS)
            if thread.is_alive():  # its claim expires, and the process ends without it
                logging.getLogger("pacs").warning("storage commitment: the running report is left to the next start")
            else:
                self._wake_up.close()

    def schedule(self, claim: Claim, association: Association) -> None:
        """Verify and report a transaction whose request was answered on `association`. For the thread that owns it."""
        if self._idle:
            association.scp_requests.expect()
            with self._state:
                peer = claim.peer if self._commitments.is_peer(claim.peer) else ""
                scheduled = _Scheduled(claim, association.id, weakref.ref(association.scp_requests))
                self._scheduled.setdefault(peer, deque()).append(scheduled)
                self._state.notify_all()
        else:
            self._release(claim)

    def _wake(self) -> None:
        with self._state:
            self._is_woken = True
            self._state.notify_all()

    # --- the thread ---------------------------------------------------------------------------------------------

    def _run(self, cancellation: Cancellation) -> None:
        while not cancellation.requested:
            try:
                self._report_next()
            except (Cancelled, LostClaim):
                continue
            except OutOfResources as error:
                logging.getLogger("pacs").warning("storage commitment waits for index or files: %s", error.comment)
                self._sleep(RETRY_SECONDS)
            except Exception:
                logging.getLogger("pacs").exception("storage commitment: a report failed")
                self._sleep(RETRY_SECONDS)
        while (scheduled := self._next_scheduled()) is not None:
            self._release(scheduled.claim)

    def _report_next(self) -> None:
        """Report one transaction, or wait until there may be one. Raises LostClaim, IndexUnavailable, Cancelled."""
        with self._state:
            self._is_woken = False
            prefers_scheduled, self._prefers_scheduled = self._prefers_scheduled, True
            scheduled = self._next_scheduled() if prefers_scheduled else None
        if scheduled is not None:
            self._prefers_scheduled = False
            self._report(scheduled.claim, scheduled)
            return
        seconds = self._commitments.seconds_until_due()
        if self._has_clock_jumped():  # asked last: `seconds` is right until now
            self._commitments.retry_all_soon(self._longest_claim, has_jumped=True)
        elif seconds is None or seconds > 0:
            self._sleep(POLL_SECONDS if seconds is None else min(POLL_SECONDS, seconds))
        elif (claim := self._commitments.claim()) is not None:
            self._report(claim, None)

    def _has_clock_jumped(self) -> bool:
        """Return whether the clock has jumped, so that nothing stored says any more when a report is due."""
        jumped = self._commitments.seconds_jumped()
        if jumped:
            sentence = f"the clock has jumped by {jumped:+.0f} s; all reports of storage commitment are sent again now"
            self._publish(Notice(sentence=sentence))
        return bool(jumped)

    def _next_scheduled(self) -> _Scheduled | None:
        """Take the first transaction of the peer whose turn it is. The caller holds the lock."""
        if not self._scheduled:
            return None
        peer = next(iter(self._scheduled))
        waiting = self._scheduled.pop(peer)
        found = waiting.popleft()
        if waiting:
            self._scheduled[peer] = waiting  # behind the others
        return found

    def _sleep(self, seconds: float) -> None:
        with self._state:
            self._state.wait_for(lambda: self._is_woken or self._scheduled or self._cancellation.requested, seconds)

    def _report(self, claim: Claim, scheduled: _Scheduled | None) -> None:
        """Report on the association of the request if possible, otherwise on a new one."""
        try:
            if scheduled is None or not self._submit(scheduled):
                self._report_on_new_association(claim)
        except Cancelled:
            self._release(claim)
            raise
        except PacsError:
            raise
        except Exception:
            logging.getLogger("pacs").exception("storage commitment: a report failed")
            self._retry(claim, "cannot be told of a storage commitment: internal error, see the log")

    # --- on the association of the request ----------------------------------------------------------------------

    def _submit(self, scheduled: _Scheduled) -> bool:
        """Verify, and leave the report to the thread that owns the association. Return False if it has ended."""
        scp_requests, claim = scheduled.scp_requests(), scheduled.claim
        if scp_requests is None or scp_requests.is_over:
            return False
        scp_request = None
        try:
            limits = self.limits
            self._verify(claim)
            seconds = self._idle + limits.message
            self._commitments.extend(claim, seconds + CLAIM_MARGIN)
            ended = self._ended(claim, scheduled.association_id)
            scp_request = ScpRequest(self._idle, time.monotonic() + seconds, self._sender(claim, limits), ended)
        finally:
            is_submitted = scp_requests.submit(scp_request)
        return is_submitted

    def _sender(self, claim: Claim, limits: AssociationLimits) -> Callable[[Association, int], bool]:
        def send(association: Association, message_id: int) -> bool:
            try:
                verified = self._commitments.verify(claim)
                self._commitments.extend(claim, limits.write + limits.message + CLAIM_MARGIN)
            except (OutOfResources, LostClaim):
                return False  # the claim expires, and another attempt follows
            # A stop ends the association, and what is being sent on it.
            self._send(association, message_id, verified, _time_limit(Cancellation(), limits.write))
            with contextlib.suppress(IndexUnavailable, LostClaim):  # the claim lasts longer then
                self._commitments.extend(claim, limits.message + CLAIM_MARGIN)
            return True

        return send

    def _ended(self, claim: Claim, association_id: str) -> Callable[[int | None], None]:
        def ended(code: int | None) -> None:
            try:
                if code is not None and is_completed(code):
                    self._acknowledged(claim, self._commitments.last_verified(claim), association_id)
                else:  # report on a new association at once: the peer may not expect it on this one
                    self._commitments.release(claim)
            except LostClaim:  # the response is late
                self._commitments.finish(claim)
            except IndexUnavailable as error:
                logging.getLogger("pacs").warning("end of a storage commitment not saved: %s", error.comment)
            self._wake()

        return ended

    # --- on a new association -----------------------------------------------------------------------------------

    def _report_on_new_association(self, claim: Claim) -> None:
        limits = self.limits
        try:
            destination = self._destination(claim.peer)  # before any file is read
            verified = self._verify(claim)
            self._commitments.extend(claim, _most_seconds(limits) + RELEASE_SECONDS + CLAIM_MARGIN)
            code = self._exchange(destination, verified, limits)
        except UnknownDestination:
            self._retry_unknown(claim)
        except (DestinationUnreachable, AssociationLost) as error:
            self._retry(claim, f"cannot be told of a storage commitment: {error.comment}", is_unreachable=True)
        else:
            if is_completed(code):
                self._acknowledged(claim, verified, "")
            else:
                self._retry(claim, f"answered the report of a storage commitment with status 0x{code:04X}")

    @property
    def _longest_claim(self) -> float:
        """The most seconds that a claim lasts, whatever it is held for."""
        limits = self.limits
        return max(LEASE, self._idle + limits.message, _most_seconds(limits) + RELEASE_SECONDS) + CLAIM_MARGIN

    def _exchange(self, destination: Destination, verified: VerifiedTransaction, limits: AssociationLimits) -> int:
        """Send a report and return the status of the response.

        This server requests the association and proposes the role of SCP (PS3.4 J.3.3, PS3.7 D.3.3.4). Raises
        DestinationUnreachable, AssociationLost, Cancelled.
        """
        wait_context = _time_limit(self._cancellation, _most_seconds(limits), self._wake_up)
        peer, protection = destination
        association = establishment.request(
            peer.host,
            peer.port,
            calling_ae_title=self._ae_title,
            called_ae_title=peer.ae_title,
            contexts=[(STORAGE_COMMITMENT, SERVICE_SYNTAXES)],
            roles={STORAGE_COMMITMENT: (False, True)},
            lenient_roles=peer.lenient_roles,
            limits=limits,
            wait_context=wait_context,
            protection=protection,
        )
        try:
            if not any(each.as_scp for each in association.contexts.values()):
                raise DestinationUnreachable(_NO_ROLE)
            self._send(association, MESSAGE_ID, verified, wait_context)
            answer = association.receive(limits.message, wait_context=wait_context)
        except Cancelled:
            association.abort()
            raise
        finally:
            association.release(RELEASE_SECONDS)
        if answer is None or not answer.command.is_response or answer.command.responding_to != MESSAGE_ID:
            came = f"a {answer.command.name} came" if answer is not None else association.end_reason
            raise AssociationLost(f"The peer does not answer the report: {came}")
        return answer.command.status

    # --- on both ------------------------------------------------------------------------------------------------

    def _verify(self, claim: Claim) -> VerifiedTransaction:
        return self._commitments.verify(claim, self._cancellation)

    def _send(
        self, association: Association, message_id: int, verified: VerifiedTransaction, wait_context: WaitContext
    ) -> None:
        """Send an N-EVENT-REPORT-RQ. Raises AssociationLost, Cancelled: the association is aborted then."""
        context = next(
            each for each in association.contexts.values() if each.abstract_syntax == STORAGE_COMMITMENT and each.as_scp
        )
        report = verified.report
        command = Command.request(
            CommandField.N_EVENT_REPORT,
            message_id,
            STORAGE_COMMITMENT,
            affected_sop_instance_uid=STORAGE_COMMITMENT_INSTANCE,
            event_type=FAILURES_EXIST if report.failed else ALL_COMMITTED,
        )
        data = encode_report(report, self._ae_title, context.transfer_syntax)
        association.send(context.id, command, data, wait_context=wait_context)

    def _acknowledged(self, claim: Claim, verified: VerifiedTransaction, association: str) -> None:
        """Finish a transaction whose report was answered with Success or a warning: it has arrived."""
        if not self._commitments.finish(claim):
            return
        report = verified.report
        self._publish(
            CommitmentReported(
                association=association,
                peer=claim.peer,
                counts={"committed": len(report.committed), "failed": len(report.failed)},
                attempts=verified.attempts,
                duration=verified.age,
            )
        )

    def _retry(self, claim: Claim, reason: str, *, is_unreachable: bool = False) -> None:
        """Report again later, unless the transaction is too old."""
        self._publish_failure(claim, reason, self._commitments.retry(claim, is_unreachable=is_unreachable))

    def _retry_unknown(self, claim: Claim) -> None:
        """Report to an AE that is not among the peers later: it may be added soon.

        There may be many of them: only the first failure and the last are published.
        """
        given_up = self._commitments.retry(claim, is_unreachable=True)
        if claim.attempts and not given_up:
            return
        remedy = f"add it with `pacs peers add {claim.peer} HOST PORT` and reload the configuration (SIGHUP)"
        reason = f"requested storage commitment and is not among the peers: {remedy}"
        self._publish_failure(claim, reason, given_up)

    def _publish_failure(self, claim: Claim, reason: str, given_up: int) -> None:
        then = f"reports no longer sent: {given_up}" if given_up else "the report is sent again later"
        self._publish(Notice(sentence=f"{claim.peer} {reason}; {then}"))

    def _release(self, claim: Claim) -> None:
        try:
            self._commitments.release(claim)
        except PacsError as error:
            logging.getLogger("pacs").warning("a storage commitment is delayed: %s", error.comment)
        self._wake()


def _most_seconds(limits: AssociationLimits) -> float:
    """Return the most seconds from the connection to the response; with TLS there are two negotiations."""
    return limits.connect + 2 * limits.negotiation + limits.write + limits.message


def _time_limit(cancellation: Cancellation, seconds: float, wake_up: WakeUp | None = None) -> WaitContext:
    """Return a context that ends waits after some seconds, with PeerTimeout.

    `limits.write` holds for each mebibyte; a report of several must not take longer than the claim lasts.
    """

    def end() -> None:
        raise PeerTimeout("The peer does not take the report in time")

    return WaitContext(cancellation, wake_up=wake_up, every=seconds, tick=end)
