"""Reports of storage commitment by N-EVENT-REPORT (PS3.4 J.3.3, PS3.7 10.1.1), from one thread of each process.

A transaction that was asked for here is reported on the association of its request, if that is idle soon afterwards.
All others, and those whose requester has released, are reported on an association of our own to the peer.
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
from pacs.dicom.syntaxes import SERVICE_SYNTAXES
from pacs.dimse.association import establishment
from pacs.dimse.association.association import Association, Limits
from pacs.dimse.association.establishment import Protection
from pacs.dimse.association.scp_requests import ScpRequest, ScpRequests
from pacs.dimse.messages import status
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.scp.operation import Publish
from pacs.dimse.upper.waiting import WaitContext
from pacs.errors import (
    AssociationLost,
    Cancelled,
    DestinationUnreachable,
    IndexUnavailable,
    PacsError,
    PeerTimeout,
    UnknownDestination,
)
from pacs.observability.events import CommitmentReported, Notice
from pacs.services.commitment import Claim, Commitments, LostClaim, Verified
from pacs.services.peers import Peer
from pacs.support.cancellation import Cancellation
from pacs.support.wakeup import WakeUp

ALL_COMMITTED, FAILURES_EXIST = 1, 2
"""The Event Type ID of a report (PS3.4 Table J.3-2)."""

MESSAGE_ID = 1
"""Of the only request on an association of our own."""

LOOKS_EVERY = 30.0
"""Seconds after which the index is asked again what is due: other processes enter transactions too."""

MARGIN = 10.0
"""Seconds that a claim holds longer than what is done with it may take."""

RELEASE_SECONDS = 2.0
"""Seconds a peer has to answer our release: a stop waits for it."""

STOP_SECONDS = 5.0
"""How long a stop waits for the thread, which may be in what nobody can end: a name server, a file system."""

PAUSE = 5.0
"""Seconds until the next attempt to do anything when the index does not answer."""


class _Asked(NamedTuple):
    """A transaction, the ID of the association of its request, and what we have to say on that, while it is there.

    Nothing here keeps an association: its buffers would stay until the turn of the transaction comes.
    """

    claim: Claim
    association_id: str
    scp_requests: weakref.ref[ScpRequests]


class EventReporter:
    """Verifies and reports what was asked for. `start` begins, `stop` ends it; both may be left out.

    `idle` is after how many seconds without a message a report goes on the association of the request, 0 for never.
    """

    def __init__(
        self,
        commitments: Commitments,
        destination: Callable[[str], Peer],
        publish: Publish,
        ae_title: str,
        *,
        idle: float = 1.0,
        limits: Limits | None = None,
        protect: Callable[[Peer], Protection | None] = lambda _peer: None,
    ) -> None:
        self._commitments = commitments
        self._destination = destination
        self._protect = protect
        self._publish = publish
        self._ae_title = ae_title
        self._idle = idle
        self._limits = limits or Limits()
        self._state = threading.Condition()
        self._asked: dict[str, deque[_Asked]] = {}
        """By peer, what was asked for on an association that may still be there; those who are no peers are one."""
        self._is_asked_next = True
        """Whether it is their turn, and not that of what is due."""
        self._is_new = False
        """Whether there may be something to claim that was not there before."""
        self._cancellation = Cancellation()
        self._wake_up: WakeUp | None = None
        """Wakes the thread when it waits for a peer."""
        self._thread: threading.Thread | None = None

    # --- for the house, and for those who take requests in ------------------------------------------------------

    def start(self) -> None:
        """Begin to verify and report, the first time or again after a stop."""
        self._cancellation, self._wake_up = Cancellation(), WakeUp()
        self._thread = threading.Thread(
            target=self._run, args=(self._cancellation,), name="pacs-commitment", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop, and leave what is not done to the next who starts. Twice does no harm."""
        self._cancellation.cancel("stopping")
        self._wake()
        thread, self._thread = self._thread, None
        if thread is not None and self._wake_up is not None:
            self._wake_up.wake()
            thread.join(STOP_SECONDS)
            if thread.is_alive():  # its claim runs out, and the process ends without it
                logging.getLogger("pacs").warning("the storage commitments do not stop in time: they are left")
            else:
                self._wake_up.close()

    def schedule(self, claim: Claim, association: Association) -> None:
        """Verify and report a transaction whose request was answered on `association`. For the thread that owns it."""
        if self._idle:
            association.scp_requests.expect()
            with self._state:
                waiting = self._asked.setdefault(claim.peer if self._commitments.is_peer(claim.peer) else "", deque())
                waiting.append(_Asked(claim, association.id, weakref.ref(association.scp_requests)))
                self._state.notify_all()
        else:
            self._release(claim)

    def _next_asked(self) -> "_Asked | None":
        """What was asked first by the peer whose turn it is. Under the lock."""
        if not self._asked:
            return None
        peer = next(iter(self._asked))
        waiting = self._asked.pop(peer)
        found = waiting.popleft()
        if waiting:
            self._asked[peer] = waiting  # behind the others
        return found

    def _wake(self) -> None:
        with self._state:
            self._is_new = True
            self._state.notify_all()

    # --- the thread ---------------------------------------------------------------------------------------------

    def _run(self, cancellation: Cancellation) -> None:
        while not cancellation.requested:
            try:
                self._work()
            except (Cancelled, LostClaim):
                continue
            except IndexUnavailable as error:
                logging.getLogger("pacs").warning("storage commitments wait: %s", error.comment)
                self._sleep(PAUSE)
            except Exception:
                logging.getLogger("pacs").exception("storage commitments wait: a report failed")
                self._sleep(PAUSE)
        while (asked := self._next_asked()) is not None:
            self._release(asked.claim)

    def _work(self) -> None:
        """Do one thing, or wait until there is one to do. Raises LostClaim, IndexUnavailable, Cancelled."""
        with self._state:
            self._is_new = False
            is_asked_next, self._is_asked_next = self._is_asked_next, True
            asked = self._next_asked() if is_asked_next else None
        if asked is not None:
            self._is_asked_next = False
            self._see_to(asked.claim, asked)
            return
        until_due = self._commitments.until_due()
        if until_due is None or until_due > 0:
            self._sleep(LOOKS_EVERY if until_due is None else min(LOOKS_EVERY, until_due))
        elif (claim := self._commitments.claim()) is not None:
            self._see_to(claim, None)

    def _sleep(self, seconds: float) -> None:
        with self._state:
            self._state.wait_for(lambda: self._is_new or self._asked or self._cancellation.requested, seconds)

    def _see_to(self, claim: Claim, asked: "_Asked | None") -> None:
        try:
            if asked is None or not self._is_left_to(asked):
                self._on_one_of_ours(claim)
        except Cancelled:
            self._release(claim)
            raise
        except PacsError:
            raise
        except Exception:
            logging.getLogger("pacs").exception("a report of storage commitment failed")
            self._failed(claim, "is not told of a storage commitment: a failure of the server itself, see its log")

    # --- on the association of the request ----------------------------------------------------------------------

    def _is_left_to(self, asked: "_Asked") -> bool:
        """Verify, and leave the report to the thread that owns the association, if that is there still."""
        scp_requests, claim = asked.scp_requests(), asked.claim
        if scp_requests is None or scp_requests.is_over:
            return False
        scp_request = None
        try:
            self._verified(claim)
            seconds = self._idle + self._limits.message
            self._commitments.keep(claim, seconds + MARGIN)
            ended = self._ended(claim, asked.association_id)
            scp_request = ScpRequest(self._idle, time.monotonic() + seconds, self._sender(claim), ended)
        finally:
            is_given = scp_requests.submit(scp_request)
        return is_given

    def _sender(self, claim: Claim) -> Callable[[Association, int], bool]:
        def send(association: Association, message_id: int) -> bool:
            limits = self._limits
            try:
                verified = self._commitments.verified(claim)
                self._commitments.keep(claim, limits.write + limits.message + MARGIN)
            except (IndexUnavailable, LostClaim):
                return False  # the claim runs out, and somebody else tries
            # A stop ends the association, and what is sent on it.
            self._send(association, message_id, verified, _bounded(Cancellation(), limits.write))
            with contextlib.suppress(IndexUnavailable, LostClaim):  # the claim holds longer then
                self._commitments.keep(claim, limits.message + MARGIN)
            return True

        return send

    def _ended(self, claim: Claim, association_id: str) -> Callable[[int | None], None]:
        def ended(code: int | None) -> None:
            try:
                if code == status.SUCCESS:
                    self._acknowledged(claim, self._commitments.noted(claim), association_id)
                else:  # at once on an association of our own: here it may not be expected
                    self._commitments.release(claim)
            except LostClaim:  # the response is late
                self._commitments.reported(claim)
            except IndexUnavailable as error:
                logging.getLogger("pacs").warning("the end of a storage commitment is not noted: %s", error.comment)
            self._wake()

        return ended

    # --- on an association of our own ---------------------------------------------------------------------------

    def _on_one_of_ours(self, claim: Claim) -> None:
        try:
            peer = self._destination(claim.peer)  # before anything is read for one that cannot be told
            verified = self._verified(claim)
            self._commitments.keep(claim, self._seconds + RELEASE_SECONDS + MARGIN)
            code = self._report(peer, verified)
        except UnknownDestination:
            self._stranger(claim)
        except (DestinationUnreachable, AssociationLost) as error:
            self._failed(claim, f"cannot be told of a storage commitment: {error.comment}", is_peer=True)
        else:
            if code == status.SUCCESS:
                self._acknowledged(claim, verified, "")
            else:
                self._failed(claim, f"answers the report of a storage commitment with status 0x{code:04X}")

    def _stranger(self, claim: Claim) -> None:
        """Have it tried again for a short time; said once, and when it is given up: there may be many of them."""
        given_up = self._commitments.failed(claim, is_peer=True)
        if claim.attempts and not given_up:
            return
        mend = f"`pacs peers add {claim.peer} HOST PORT`, and have the server read its configuration again"
        self._say(claim, f"asked for storage commitment and is not among the peers: {mend}", given_up)

    @property
    def _seconds(self) -> float:
        """How long a report on an association of our own may take, from the connection to the response."""
        limits = self._limits  # with TLS there are two negotiations
        return limits.connect + 2 * limits.negotiation + limits.write + limits.message

    def _report(self, peer: Peer, verified: Verified) -> int:
        """The status a peer answers its report with. Raises DestinationUnreachable, AssociationLost, Cancelled.

        We propose to be SCP, though we are the requestor (PS3.4 J.3.3, PS3.7 D.3.3.4).
        """
        wait_context = _bounded(self._cancellation, self._seconds, self._wake_up)
        association = establishment.request(
            peer.host,
            peer.port,
            calling_ae_title=self._ae_title,
            called_ae_title=peer.ae_title,
            contexts=[(STORAGE_COMMITMENT, SERVICE_SYNTAXES)],
            roles={STORAGE_COMMITMENT: (False, True)},
            limits=self._limits,
            wait_context=wait_context,
            protection=self._protect(peer),
        )
        try:
            if not any(each.as_scp for each in association.contexts.values()):
                raise DestinationUnreachable("The peer does not take us as SCP of Storage Commitment")
            self._send(association, MESSAGE_ID, verified, wait_context)
            answer = association.receive(self._limits.message, wait_context=wait_context)
        except Cancelled:
            association.abort()
            raise
        finally:
            association.release(RELEASE_SECONDS)
        if answer is None or not answer.command.is_response or answer.command.responding_to != MESSAGE_ID:
            raise AssociationLost("The peer does not answer the report")
        return answer.command.status

    # --- both ---------------------------------------------------------------------------------------------------

    def _verified(self, claim: Claim) -> Verified:
        return self._commitments.verified(claim, self._cancellation)

    def _send(self, association: Association, message_id: int, verified: Verified, wait_context: WaitContext) -> None:
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

    def _acknowledged(self, claim: Claim, verified: Verified, association: str) -> None:
        if not self._commitments.reported(claim):
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

    def _failed(self, claim: Claim, why: str, *, is_peer: bool = False) -> None:
        """Have it tried again later, or say that it was given up."""
        self._say(claim, why, self._commitments.failed(claim, is_peer=is_peer))

    def _say(self, claim: Claim, why: str, given_up: int) -> None:
        what = f"; reports given up: {given_up}" if given_up else "; it is tried again"
        self._publish(Notice(sentence=f"{claim.peer} {why}{what}"))

    def _release(self, claim: Claim) -> None:
        try:
            self._commitments.release(claim)
        except PacsError as error:
            logging.getLogger("pacs").warning("a storage commitment waits: %s", error.comment)
        self._wake()


def _bounded(cancellation: Cancellation, seconds: float, wake_up: WakeUp | None = None) -> WaitContext:
    """A wait_context that ends whatever is waited for when so many seconds are over, by PeerTimeout.

    Each mebibyte has its own time to be written; a report of several must not outlast the claim to it.
    """

    def end() -> None:
        raise PeerTimeout("The peer does not take the report in time")

    return WaitContext(cancellation, wake_up=wake_up, every=seconds, tick=end)
