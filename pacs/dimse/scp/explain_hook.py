"""Explain queries and retrieves of peers in the log, once they are answered."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from pydicom import Dataset
from pydicom.uid import UID

from pacs.dicom import levels
from pacs.dicom.levels import Model
from pacs.dimse.association.storage_contexts import preferred
from pacs.dimse.messages import status
from pacs.dimse.messages.status import Service
from pacs.dimse.scp.operation import Operation
from pacs.errors import PacsError
from pacs.services.access import Access, Principal
from pacs.services.explaining import Explainer, ExplainRequest, Explanation, RequestOutcome, StoredAs


def statuses(operation: levels.DimseOperation, error: PacsError | None, ignored: bool) -> tuple[int, ...]:
    """Return the statuses of the responses to a query or retrieve that fails with `error`, or succeeds.

    `ignored` is whether keys of it are not supported.
    """
    if error is not None:
        return (status.refusal(Service(f"C-{operation.value}"), error).status,)
    return (status.PENDING_WITH_UNSUPPORTED_KEYS if ignored else status.PENDING), status.SUCCESS


def stored_as(
    instances: Mapping[str, int], send_as: tuple[str, ...], sent: Mapping[tuple[str, str], int] | None = None
) -> tuple[StoredAs, ...]:
    """Return how instances of a retrieve are sent to a peer with this `send_as`.

    `instances` is their number by stored transfer syntax, `sent` the number of the sent ones by stored and sent one.
    """
    return tuple(
        StoredAs(
            transfer_syntax=UID(stored).name,
            instances=number,
            others=tuple(UID(uid).name for uid in preferred(stored, send_as) if uid != stored),
            sent=None if sent is None else {UID(into).name: n for (own, into), n in sent.items() if own == stored},
        )
        for stored, number in instances.items()
    )


@dataclass(frozen=True, slots=True)
class ExplainHook:
    """Explains the requests of principals for whom this is configured, after the final response.

    `access` returns the rules in force: explaining may be switched off while a request is answered.
    """

    explainer: Explainer
    access: Callable[[], Access]

    def note(self, operation: Operation, principal: Principal, model: Model, identifier: Dataset) -> None:
        """Schedule the explanation of a request, for after its response, if this is configured for the principal."""
        if principal.is_explained:
            negotiated = operation.association.negotiated(model.uid)
            asked = ExplainRequest(identifier, model, principal.matching_mode, negotiated)
            operation.afterwards = partial(self._explain, operation, asked)

    def _explain(self, operation: Operation, asked: ExplainRequest) -> None:
        """Explain a request. Errors are only logged: the request has been answered."""
        try:
            explanation = replace(self.explainer.explain(asked), outcome=self._outcome(operation))
            if self.access().principal(operation.association.calling_ae_title).is_explained:
                log_explanation(operation, explanation)
        except Exception:
            logging.getLogger("pacs").exception("a request could not be explained")

    def _outcome(self, operation: Operation) -> RequestOutcome | None:
        """Return status and counts of an operation, None if it ended without any response."""
        if operation.status is None:
            return None
        peer = operation.destination or operation.association.calling_ae_title
        instances: Counter[str] = Counter()
        for (stored, _), number in operation.sent.items():
            instances[stored] += number
        sent = {each: number for each, number in operation.sent.items() if each[1]}
        ways = stored_as(instances, self.access().peers.send_as_of(peer), sent)
        return RequestOutcome(f"{operation.status:04X}", operation.comment, dict(operation.counts), stored_as=ways)


def log_explanation(operation: Operation, explanation: Explanation) -> None:
    """Log an explanation, each line with the association and the Message ID."""
    log = logging.getLogger("pacs")
    association = operation.association
    for line in (f"request of {association.calling_ae_title}", *explanation.lines()):
        log.info("explanation %s/%d: %s", association.id, operation.request.message_id, line)
