"""One DIMSE operation from its request to its final response, also when it fails."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from pacs.dicom.status import status_class
from pacs.dicom.values import is_uid
from pacs.dimse.association.association import Association
from pacs.dimse.messages import status
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.message import Message
from pacs.dimse.messages.status import Refusal, Service
from pacs.errors import AssociationLost, PacsError
from pacs.observability.audit import NOTHING, Auditor, Record
from pacs.observability.events import Event, OperationFinished, OperationStarted
from pacs.support.cancellation import Cancellation
from pacs.support.exhaustion import exhaustion
from pacs.support.sockets import host_and_port

Publish = Callable[[Event], None]

SECOND_WRITE, MAX_WRITE = 1 << 10, 1 << 16
"""Bytes of Identifiers in the second write of Pending responses, and at most in any."""

NOTHING_SENT = {"completed": 0, "failed": 0, "warning": 0}
"""The counts of a retrieve that was cancelled before its sub-operations were known (PS3.7 9.1.4.1)."""


class Operation:
    """A request that is being handled, and its responses.

    `cancellation` is requested by a C-CANCEL for this Message ID, and by the end of the association. `retrieve_level`,
    `destination` and `counts` go into the log, `subject` into the audit log. `afterwards` is called after the final
    response and must not raise. For it a retrieve counts in `sent` its finished sub-operations, by stored and sent
    transfer syntax, '' for none.
    """

    def __init__(self, association: Association, message: Message, cancellation: Cancellation) -> None:
        self.association = association
        self.request: Command = message.command
        self.context = message.context
        self.cancellation = cancellation
        self.retrieve_level = ""
        self.destination = ""
        self.counts: Mapping[str, int] = {}
        self.sent: Counter[tuple[str, str]] = Counter()
        self.status: int | None = None
        self.comment = ""
        self.subject = NOTHING
        self.afterwards: Callable[[], None] | None = None

    def respond(self, response: Command, data_set: bytes | None = None) -> None:
        """Send a response; the socket has it when this returns. Raises AssociationLost."""
        self.association.send(self.context.id, response, data_set)
        self.status = response.status
        self.comment = response.error_comment or ""

    def respond_pending(self, encoded: bytes) -> None:
        """Send an encoded Pending response without a data set; input is not read."""
        self.association.send_prepared(self.association.prepare(self.context.id, encoded))
        self.status = status.PENDING

    def refuse(self, refusal: Refusal) -> None:
        """Send a failure status, or Cancel, as the final response."""
        is_retrieve = self.request.field in (CommandField.C_MOVE, CommandField.C_GET)
        counts = NOTHING_SENT if is_retrieve and refusal.status == status.CANCEL else {}
        self.respond(
            self.request.response(
                refusal.status, error_comment=refusal.comment, offending_elements=refusal.tags, **counts
            )
        )
        self.comment = refusal.reason or self.comment


class PendingResponses:
    """Sends the Pending responses of one operation, many in a write.

    The first is sent at once; then each write takes twice as many bytes as the one before, up to `MAX_WRITE`. Responses
    that are still buffered when a C-CANCEL arrives are not sent, except the rest of one that the socket took in part.
    """

    def __init__(self, operation: Operation, status: int) -> None:
        self._operation = operation
        self._response = operation.request.response(status)
        self._buffered: list[bytes] = []
        self._bytes = 0
        self._write_at = 1
        self.sent = 0

    def add(self, identifier: bytes) -> None:
        """Add a response with this Identifier. Raises as `flush`."""
        self._buffered.append(identifier)
        self._bytes += len(identifier)
        if self._bytes >= self._write_at:
            self.flush()
            self._write_at = min(max(2 * self._write_at, SECOND_WRITE), MAX_WRITE)

    def flush(self) -> None:
        """Send the buffered responses. Raises Cancelled, AssociationLost."""
        operation, buffered = self._operation, self._buffered
        self._buffered, self._bytes = [], 0
        sent = operation.association.send_each(operation.context.id, self._response, buffered, operation.cancellation)
        self.sent += sent
        if sent:
            operation.status = self._response.status
        operation.cancellation.check()


@contextmanager
def operating(
    service: Service, association: Association, message: Message, publish: Publish, auditor: Auditor | None = None
) -> Iterator[Operation]:
    """Run the body as one operation: its exception becomes the final response, its end an event and an audit record.

    A body that does not raise has sent its final response. AssociationLost is raised again: no response can be sent.
    """
    began = time.monotonic()
    with association.operation(message) as cancellation:
        operation = Operation(association, message, cancellation)
        if service is not Service.STORE:
            publish(_started(service, operation))
        try:
            yield operation
        except AssociationLost:
            raise
        except PacsError as error:
            _refuse(operation, message, status.refusal(service, error))
        except Exception as error:
            if (exhausted := exhaustion(error)) is not None:
                _refuse(operation, message, status.refusal(service, exhausted))
            else:
                logging.getLogger("pacs").exception("%s failed", service.value)
                _refuse(operation, message, status.unexpected(service))
        finally:
            publish(_finished(service, operation, time.monotonic() - began))
            if auditor is not None and auditor.is_on:
                auditor.write(_record(service, operation))
            if operation.afterwards is not None:
                operation.afterwards()


def _refuse(operation: Operation, message: Message, refusal: Refusal) -> None:
    """Send the final response for a failure, after the whole request has arrived, unless the association has ended."""
    message.drain()
    if operation.association.is_established:
        operation.refuse(refusal)


def _started(service: Service, operation: Operation) -> OperationStarted:
    association = operation.association
    return OperationStarted(
        association=association.id,
        calling_ae_title=association.calling_ae_title,
        called_ae_title=association.called_ae_title,
        kind=service.value,
        message_id=operation.request.message_id,
    )


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
        sop_instance_uid="" if _status(operation) == status.SUCCESS else instance_of(operation.request),
    )


def instance_of(request: Command) -> str:
    """Return the SOP Instance UID of a C-STORE for the log, '' for another request.

    A value that is no UID is not quoted unless it has digits and dots only: it may be that of another attribute.
    """
    if request.field != CommandField.C_STORE:
        return ""
    uid = (request.affected_sop_instance_uid or "").strip(" \0")
    return uid if is_uid(uid) or not uid.strip("0123456789.") else f"not a UID, {len(uid)} characters"


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
        address=host_and_port(*association.address),
        level=operation.retrieve_level,
        destination=operation.destination,
        counts=operation.counts,
    )


def _status(operation: Operation) -> int:
    """Return the status of the last response, Cancel for an operation that ended without one."""
    return operation.status if operation.status is not None else status.CANCEL
