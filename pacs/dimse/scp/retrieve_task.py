"""C-MOVE and C-GET (PS3.4 C.4.2, C.4.3): one loop over the sub-operations, one place that writes responses."""

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass

from pydicom.dataset import Dataset

from pacs.dicom import identifier
from pacs.dimse.messages import status
from pacs.dimse.messages.command import MAX_ERROR_COMMENT, Command, Template
from pacs.dimse.scp.operation import Operation, Publish
from pacs.dimse.scp.store_sender import NO_RESPONSE, StoreResult, SubOperation, SubOperations
from pacs.dimse.upper.waiting import WaitContext
from pacs.errors import AssociationLost
from pacs.observability.events import SubOperationFinished
from pacs.services.retrieve import Outcome, Retrieval

FINAL_STATUS = {
    Outcome.COMPLETED: status.SUCCESS,
    Outcome.WARNING: status.SUBOPERATIONS_WARNING,
    Outcome.FAILED: status.SUBOPERATIONS_FAILED,
}
"""The final status by the outcome of the whole retrieve (V6)."""

MAX_SUBOPERATIONS = 0xFFFF
"""The counts of a retrieve response are of VR US (PS3.7 9.1.4.1): more sub-operations cannot be reported."""

COUNTS = ("remaining", "completed", "failed", "warning")
"""The counts of a Pending response (V6)."""


@dataclass(frozen=True, slots=True)
class RetrieveLimits:
    """How often a retrieve sends Pending responses, and how long a sub-operation may run on after a cancel.

    A Pending response is sent after every `pending_every` sub-operations, and after `pending_seconds` without one.
    After a cancel the running sub-operation has `cancel_grace` seconds to end.
    """

    pending_every: int = 1
    pending_seconds: float = 10.0
    cancel_grace: float = 5.0


class RetrieveTask:
    """One C-MOVE or C-GET: records the outcome of each sub-operation and reports the counts to the requestor."""

    def __init__(self, operation: Operation, retrieval: Retrieval, limits: RetrieveLimits, publish: Publish) -> None:
        self._operation = operation
        self._retrieval = retrieval
        self._limits = limits
        self._publish = publish
        response = operation.request.response(status.PENDING, remaining=0, completed=0, failed=0, warning=0)
        self._pending_response = Template(response, data_set=False, changing=COUNTS)
        self._since_pending = 0
        self._first_failure = ""
        self._last_failure: StoreResult | None = None
        self.wait_context = WaitContext(
            operation.cancellation,
            sources=(operation.association,),
            grace=limits.cancel_grace,
            every=limits.pending_seconds,
            tick=self._pending,
        )
        """What to look after while a sub-operation waits: the requestor, the cancel, the next Pending response."""

    def run(self, sub_operations: SubOperations) -> None:
        """Record each sub-operation as it finishes, then send the final response.

        Sub-operations go on after a failure and end with a cancel. Raises AssociationLost when the requestor is gone:
        what has not begun is not sent (V11).
        """
        try:
            with closing(sub_operations):
                for finished in sub_operations:
                    self._pending_if_due()
                    if finished is not None:
                        self._record(finished)
                self._pending_if_due()
        finally:
            self._operation.counts = self._counts()
        self._final()

    def _record(self, finished: SubOperation) -> None:
        result = finished.result
        self._retrieval.record(finished.instance, result.outcome)
        self._report(finished)
        if self._operation.afterwards is not None:
            self._operation.sent[finished.instance.transfer_syntax, result.transfer_syntax] += 1
        if result.outcome is Outcome.FAILED:
            self._first_failure = self._first_failure or _reason(result)
            self._last_failure = result
        self._since_pending += 1

    def _report(self, finished: SubOperation) -> None:
        """Publish a finished sub-operation."""
        instance, result = finished.instance, finished.result
        self._publish(
            SubOperationFinished(
                association=self._operation.association.id,
                destination=self._operation.destination,
                sop_class_uid=instance.sop_class_uid,
                transfer_syntax=result.transfer_syntax or instance.transfer_syntax,
                sop_instance_uid=instance.sop_instance_uid,
                status=result.status,
                duration=finished.duration,
                comment=result.comment,
                repeated=result == self._last_failure and result.status == NO_RESPONSE,
            )
        )

    # --- responses ----------------------------------------------------------------------------------------------

    def _counts(self) -> Mapping[str, int]:
        retrieval = self._retrieval
        return {"completed": retrieval.completed, "failed": len(retrieval.failed), "warning": retrieval.warning}

    def _pending_if_due(self) -> None:
        """Send the Pending response that is due after `pending_every` sub-operations; none after a cancel (X2).

        The next sub-operation may have begun by then, and counts as remaining.
        """
        if self._since_pending >= self._limits.pending_every and not self._operation.cancellation.requested:
            self._pending()

    def _pending(self) -> None:
        """Send a Pending response: all four counts and no Identifier (V6)."""
        self._since_pending = 0
        self.wait_context.touch()
        with suppress(AssociationLost):  # a requestor that is gone cancels the operation and fails no sub-operation
            retrieval = self._retrieval
            counts = (retrieval.remaining, retrieval.completed, len(retrieval.failed), retrieval.warning)
            self._operation.respond_pending(self._pending_response.encode(*counts))

    def _final(self) -> None:
        """Send the final response: counts, `remaining` only after a cancel, the failed instances if any (V6)."""
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
        """Return why the first of the failed sub-operations failed, with their number and details if there is room."""
        failed, total = len(self._retrieval.failed), self._retrieval.total
        if not failed or code == status.CANCEL:
            return ""
        counted, reason = f"{failed} of {total} failed: ", self._first_failure
        brief = reason.partition("; ")[0]
        return next((each for each in (counted + reason, counted + brief) if len(each) <= MAX_ERROR_COMMENT), brief)

    def _failed_list(self) -> bytes | None:
        if not self._retrieval.failed:
            return None
        failed = Dataset()
        failed.FailedSOPInstanceUIDList = self._retrieval.failed_list
        return identifier.encode(failed, self._operation.context.transfer_syntax)


def _reason(result: StoreResult) -> str:
    """Return why a sub-operation failed, without the destination's Error Comment, which may name a patient."""
    return result.comment if result.status == NO_RESPONSE else f"it was answered {result.status:04X}"
