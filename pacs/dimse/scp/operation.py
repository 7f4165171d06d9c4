"""One DIMSE operation from its request to its final response, whatever becomes of it."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from pacs.dicom.status import status_class
from pacs.dimse.association.association import Association
from pacs.dimse.messages import status
from pacs.dimse.messages.command import Command
from pacs.dimse.messages.message import Message
from pacs.dimse.messages.status import Refusal, Service
from pacs.errors import AssociationLost, PacsError
from pacs.observability.audit import NOTHING, Auditor, Record
from pacs.observability.events import Event, OperationFinished
from pacs.support.cancellation import Cancellation

Publish = Callable[[Event], None]

FIRST_GATHERED, GATHERED = 1 << 10, 1 << 16
"""How many bytes of Identifiers are gathered for the second write of Pending responses, and for any."""


class Operation:
    """What a service knows of the request it works on, and how it answers.

    `cancellation` is latched by a C-CANCEL for this Message ID, and by the end of the association. `retrieve_level`,
    `destination` and `counts` are what the log will say of the operation, `subject` what the audit log will.
    `afterwards` is what is still to be done when it has been answered, and never raises.
    """

    def __init__(self, association: Association, message: Message, cancellation: Cancellation) -> None:
        self.association = association
        self.request: Command = message.command
        self.context = message.context
        self.cancellation = cancellation
        self.retrieve_level = ""
        self.destination = ""
        self.counts: Mapping[str, int] = {}
        self.status: int | None = None
        self.comment = ""
        self.subject = NOTHING
        self.afterwards: Callable[[], None] | None = None

    def respond(self, response: Command, data_set: bytes | None = None) -> None:
        """Send a response; it is on the wire when this returns. Raises AssociationLost."""
        self.association.send(self.context.id, response, data_set)
        self.status = response.status
        self.comment = response.error_comment or ""

    def respond_pending(self, encoded: bytes) -> None:
        """Send a Pending response without a data set, encoded already. What has arrived is not looked at."""
        self.association.send_prepared(self.association.prepare(self.context.id, encoded))
        self.status = status.PENDING

    def refuse(self, refusal: Refusal) -> None:
        """Send a final response that says what went wrong."""
        self.respond(
            self.request.response(refusal.status, error_comment=refusal.comment, offending_elements=refusal.tags)
        )


class PendingResponses:
    """The Pending responses of one operation, many to a write.

    The first goes at once; what follows is gathered, twice as much each time up to `GATHERED` bytes, and goes with
    `flush` in any case. What is gathered when a cancel arrives is not sent: no Pending follows the cancel but the one
    that a full socket had cut.
    """

    def __init__(self, operation: Operation, status: int) -> None:
        self._operation = operation
        self._response = operation.request.response(status)
        self._gathered: list[bytes] = []
        self._bytes = 0
        self._enough = 1
        self.sent = 0
        """How many have been sent."""

    def add(self, identifier: bytes) -> None:
        """One more. Raises as `flush`."""
        self._gathered.append(identifier)
        self._bytes += len(identifier)
        if self._bytes >= self._enough:
            self.flush()
            self._enough = min(max(2 * self._enough, FIRST_GATHERED), GATHERED)

    def flush(self) -> None:
        """Send what is gathered. Raises Cancelled, AssociationLost."""
        operation, gathered = self._operation, self._gathered
        self._gathered, self._bytes = [], 0
        sent = operation.association.send_each(operation.context.id, self._response, gathered, operation.cancellation)
        self.sent += sent
        if sent:
            operation.status = self._response.status
        operation.cancellation.check()


@contextmanager
def operating(
    service: Service, association: Association, message: Message, publish: Publish, auditor: Auditor | None = None
) -> Iterator[Operation]:
    """Run the body as one operation: what it raises becomes the final response, and how it ended an event.

    An `auditor` has a record of it too.

    A body that ends without raising has sent its final response. AssociationLost goes up: there is nobody to answer.
    """
    began = time.monotonic()
    with association.operation(message) as cancellation:
        operation = Operation(association, message, cancellation)
        try:
            yield operation
        except AssociationLost:
            raise
        except PacsError as error:
            _answer(operation, status.refusal(service, error))
        except Exception:
            logging.getLogger("pacs").exception("%s failed", service.value)
            _answer(operation, status.unexpected(service))
        finally:
            publish(_finished(service, operation, time.monotonic() - began))
            if auditor is not None and auditor.is_on:
                auditor.write(_record(service, operation))
            if operation.afterwards is not None:
                operation.afterwards()


def _answer(operation: Operation, refusal: Refusal) -> None:
    """Send the final response for a failure, unless the requester has gone: a vanished peer is not answered."""
    if operation.association.is_established:
        operation.refuse(refusal)


def _finished(service: Service, operation: Operation, duration: float) -> OperationFinished:
    association = operation.association
    return OperationFinished(
        association=association.id,
        calling_ae_title=association.calling_ae_title,
        called_ae_title=association.called_ae_title,
        kind=service.value,
        message_id=operation.request.message_id,
        status=_status(operation),
        duration=duration,
        retrieve_level=operation.retrieve_level,
        counts=operation.counts,
        destination=operation.destination,
        comment=operation.comment,
    )


def _record(service: Service, operation: Operation) -> Record:
    association, stored = operation.association, operation.request.affected_sop_instance_uid
    return Record(
        operation=service.value,
        user=association.user or None,
        outcome=status_class(_status(operation)),
        subject=replace(operation.subject, instances=(stored,)) if stored else operation.subject,
        status=_status(operation),
        comment=operation.comment,
        association=association.id,
        calling_ae_title=association.calling_ae_title,
        called_ae_title=association.called_ae_title,
        address=f"{association.address[0]}:{association.address[1]}",
        level=operation.retrieve_level,
        destination=operation.destination,
        counts=operation.counts,
    )


def _status(operation: Operation) -> int:
    """The status of the last response; an operation without one was broken off."""
    return operation.status if operation.status is not None else status.CANCEL
