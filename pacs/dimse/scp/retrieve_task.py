"""C-MOVE and C-GET (PS3.4 C.4.2, C.4.3): one loop over the sub-operations, one place that writes responses."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from pydicom.dataset import Dataset

from pacs.dicom import identifier
from pacs.dimse.messages import status
from pacs.dimse.messages.command import Command, Template
from pacs.dimse.scp.destinations import Carrier, Finished
from pacs.dimse.scp.operation import Operation, Publish
from pacs.dimse.scp.store_sender import LOST, Sent
from pacs.dimse.upper.waiting import WaitContext
from pacs.errors import AssociationLost
from pacs.observability.events import SubOperationFinished
from pacs.services.retrieve import Outcome, Retrieval

FINAL_STATUS = {
    Outcome.COMPLETED: status.SUCCESS,
    Outcome.WARNING: status.SUBOPERATIONS_WARNING,
    Outcome.FAILED: status.SUBOPERATIONS_FAILED,
}
"""The final status by the outcome of the whole (V6)."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How a retrieve keeps its requester informed, and how long it bears with a destination.

    A Pending response follows every `pending_every` sub-operations, and every `pending_seconds` without one.
    `cancel_grace` is what the running sub-operation gets after a cancel, in seconds.
    """

    pending_every: int = 1
    pending_seconds: float = 10.0
    cancel_grace: float = 5.0


COUNTS = ("remaining", "completed", "failed", "warning")
"""The counts of a Pending response (V6)."""


class RetrieveTask:
    """One C-MOVE or C-GET: runs the sub-operations of a `Retrieval` and reports on them."""

    def __init__(self, operation: Operation, retrieval: Retrieval, patience: Patience, publish: Publish) -> None:
        self._operation = operation
        self._retrieval = retrieval
        self._patience = patience
        self._publish = publish
        response = operation.request.response(status.PENDING, remaining=0, completed=0, failed=0, warning=0)
        self._pending_response = Template(response, data_set=False, changing=COUNTS)
        self._since_pending = 0
        self._why = ""  # the first failure; the others have mostly the same reason
        self._last_failure: Sent | None = None
        self._wait_context = WaitContext(
            operation.cancellation,
            sources=(operation.association,),
            grace=patience.cancel_grace,
            every=patience.pending_seconds,
            tick=self._pending,
        )

    def run(self, carrier: Carrier) -> None:
        """Send everything, then the final response. Sub-operations go on after a failure and end with a cancel.

        Raises AssociationLost when the requester is gone: what had not begun is not sent (V11).
        """
        try:
            for finished in carrier.carry(self._wait_context, self._pending_if_due):
                self._pending_if_due()  # that of the one before, where there was no time for it
                self._record(finished)
            self._pending_if_due()
        finally:
            self._operation.counts = self._counts()
            carrier.close()
        self._final()

    def _record(self, finished: Finished) -> None:
        sent = finished.sent
        self._retrieval.record(finished.instance, sent.outcome)
        self._tell(finished)
        if sent.outcome is Outcome.FAILED:
            self._why = self._why or _reason(sent)
            self._last_failure = sent
        self._since_pending += 1

    def _tell(self, finished: Finished) -> None:
        instance, sent = finished.instance, finished.sent
        self._publish(
            SubOperationFinished(
                association=self._operation.association.id,
                destination=self._operation.destination,
                sop_class_uid=instance.sop_class_uid,
                transfer_syntax=sent.transfer_syntax or instance.transfer_syntax,
                status=sent.status,
                duration=finished.duration,
                comment=sent.comment,
                repeated=sent == self._last_failure,
            )
        )

    # --- responses ----------------------------------------------------------------------------------------------

    def _counts(self) -> Mapping[str, int]:
        retrieval = self._retrieval
        return {"completed": retrieval.completed, "failed": len(retrieval.failed), "warning": retrieval.warning}

    def _pending_if_due(self) -> None:
        """The Pending response after every so many sub-operations, none after a cancel (X2).

        It may be written when the next sub-operation has begun, and counts that one as remaining.
        """
        if self._since_pending >= self._patience.pending_every and not self._operation.cancellation.requested:
            self._pending()

    def _pending(self) -> None:
        """A Pending response: all four counts and no Identifier (V6).

        That the requester is gone is no matter here: it has cancelled the operation, and is no failure of what is being
        sent meanwhile.
        """
        self._since_pending = 0
        self._wait_context.touch()
        with suppress(AssociationLost):
            retrieval = self._retrieval
            counts = (retrieval.remaining, retrieval.completed, len(retrieval.failed), retrieval.warning)
            self._operation.respond_pending(self._pending_response.encode(*counts))

    def _final(self) -> None:
        """The final response: counts always, `remaining` with a cancel only, the failed list if there is one (V6)."""
        cancelled = self._operation.cancellation.requested
        code = status.CANCEL if cancelled else FINAL_STATUS[self._retrieval.result]
        response = self._response(code, self._retrieval.remaining if cancelled else None)
        self._operation.respond(response, self._failed_list())

    def _response(self, code: int, remaining: int | None) -> Command:
        retrieval = self._retrieval
        return self._operation.request.response(
            code,
            error_comment=self._comment(code),
            remaining=remaining,
            completed=retrieval.completed,
            failed=len(retrieval.failed),
            warning=retrieval.warning,
        )

    def _comment(self, code: int) -> str:
        failed, total = len(self._retrieval.failed), self._retrieval.total
        told = failed and code not in (status.PENDING, status.CANCEL)
        return f"{failed} of {total} failed: {self._why}" if told else ""

    def _failed_list(self) -> bytes | None:
        if not self._retrieval.failed:
            return None
        failed = Dataset()
        failed.FailedSOPInstanceUIDList = self._retrieval.failed_list
        return identifier.encode(failed, self._operation.context.transfer_syntax)


def _reason(sent: Sent) -> str:
    """Why a sub-operation failed, in our own words: what the peer that was sent to wrote may name a patient."""
    return sent.comment if sent.status == LOST else f"it was answered {sent.status:04X}"
