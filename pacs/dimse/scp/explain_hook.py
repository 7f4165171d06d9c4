"""Has what peers ask explained, once it is answered: in the log, and kept for the web."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pydicom import Dataset

from pacs.dicom import levels
from pacs.dicom.levels import Model
from pacs.dimse.messages import status
from pacs.dimse.messages.status import Service
from pacs.dimse.scp.operation import Operation
from pacs.errors import PacsError
from pacs.services.explaining import Asked, Explainer, Explanation, Outcome
from pacs.services.peers import Peers


def statuses(operation: levels.DimseOperation, error: PacsError | None, ignored: bool) -> tuple[int, ...]:
    """The statuses of the responses to a query or retrieve: refused for an error, or done, with keys ignored or not."""
    if error is not None:
        return (status.refusal(Service(f"C-{operation.value}"), error).status,)
    return (status.PENDING_WITH_UNSUPPORTED_KEYS if ignored else status.PENDING), status.SUCCESS


@dataclass(frozen=True, slots=True)
class Explaining:
    """Explains requests of those peers for whom that is wanted; `keep` keeps an explanation and gives it a number.

    `peers` is the table of the moment: it may be switched off while a request is answered.
    """

    explainer: Explainer
    peers: Callable[[], Peers]
    keep: Callable[[Mapping[str, Any]], int]

    def note(self, operation: Operation, model: Model, identifier: Dataset) -> None:
        """Have a request explained when it has been answered, if that is wanted for whoever asks."""
        association = operation.association
        peers = self.peers()
        if peers.explains(association.calling_ae_title):
            manner = peers.matching_mode_of(association.calling_ae_title)
            asked = Asked(identifier, model, manner, association.negotiated(model.uid))
            operation.afterwards = partial(self._explain, operation, asked)

    def _explain(self, operation: Operation, asked: Asked) -> None:
        """Explain; whatever fails here is logged, for the request has been answered."""
        try:
            explanation = replace(self.explainer.explain(asked), outcome=_outcome(operation))
            association = operation.association
            if not self.peers().explains(association.calling_ae_title):
                return
            number = self.keep(
                {
                    "calling_ae_title": association.calling_ae_title,
                    "association": association.id,
                    "message_id": operation.request.message_id,
                    **explanation.described(),
                }
            )
            _log(number, operation, explanation)
        except Exception:
            logging.getLogger("pacs").exception("a request could not be explained")


def _outcome(operation: Operation) -> Outcome | None:
    """What came of an operation, None where it was broken off before any response."""
    if operation.status is None:
        return None
    return Outcome(f"{operation.status:04X}", operation.comment, dict(operation.counts))


def _log(number: int, operation: Operation, explanation: Explanation) -> None:
    """A line for each thing there is to say: they are found by the number of the explanation."""
    log = logging.getLogger("pacs")
    association = operation.association
    whose = f"of {association.calling_ae_title}, message {operation.request.message_id} of association {association.id}"
    log.info("explanation %d: %s", number, whose)
    for line in explanation.lines():
        log.info("explanation %d: %s", number, line)
