"""Records the messages of a server for `Received`."""

import threading
import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

from pacs.dimse.association.association import Association
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.message import Message
from pacs.dimse.upper.rejections import Rejection
from pacs.dimse.upper.user_information import Agreement
from pacs.faults.observer import AssociationRequest, OnResponse
from pacs.testing.records import ReceivedAssociation, ReceivedRequest, Response


class MessageLog:
    """An observer that records associations and requests; thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._associations: list[ReceivedAssociation] = []
        self._requests: list[ReceivedRequest] = []
        self._by_id: dict[str, ReceivedAssociation] = {}
        self._requested: WeakKeyDictionary[AssociationRequest, ReceivedAssociation] = WeakKeyDictionary()
        """Requests that are being answered."""

    # --- reading --------------------------------------------------------------------------------------------------

    @property
    def associations(self) -> list[ReceivedAssociation]:
        """Every requested association, in order of arrival."""
        with self._changed:
            return list(self._associations)

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Every request, in order of arrival."""
        with self._changed:
            return list(self._requests)

    def clear(self) -> None:
        """Delete all records."""
        with self._changed:
            self._associations.clear()
            self._requests.clear()

    def wait_for(self, condition: Callable[[], object], seconds: float) -> bool:
        """Wait until `condition` holds, checking it after each new record; return whether it holds in time."""
        with self._changed:
            return bool(self._changed.wait_for(condition, seconds))

    # --- recording ------------------------------------------------------------------------------------------------

    def answered(self, requested: AssociationRequest, answer: Agreement | Rejection | None) -> None:
        """Record an association request and its answer."""
        with self._changed:
            record = self._requested.get(requested)
            if record is None:
                record = self._requested[requested] = _record_of(requested)
                self._associations.append(record)
            _set_answer(record, answer)
            self._changed.notify_all()

    def associated(self, requested: AssociationRequest, association: Association) -> None:
        """Record that a request became an association."""
        with self._changed:
            record = self._by_id[association.id] = self._requested[requested]
            record.id = association.id

    def request(self, association: Association, message: Message, data: bytes) -> OnResponse:
        """Record a request; return a function that records its responses."""
        command = message.command
        record = ReceivedRequest(
            operation=CommandField(command.field).name.replace("_", "-", 1),
            association=self._by_id[association.id],
            message_id=command.message_id,
            sop_class_uid=message.context.abstract_syntax,
            transfer_syntax=message.context.transfer_syntax,
            priority=command.priority,
            began=time.monotonic(),
            sop_instance_uid=command.affected_sop_instance_uid or command.requested_sop_instance_uid or "",
            destination=command.move_destination or "",
            data=data,
        )
        with self._changed:
            self._requests.append(record)
            self._changed.notify_all()

        def on_response(response: Command | None) -> None:
            with self._changed:
                if response is None:
                    record.is_over = True
                else:
                    record.responses.append(_response(response, time.monotonic() - record.began))
                self._changed.notify_all()

        return on_response

    def cancelled(self, association: Association, message_id: int) -> None:
        """Record a C-CANCEL."""
        record = self._by_id.get(association.id)
        with self._changed:
            for each in reversed(self._requests):
                if each.association is record and each.message_id == message_id:
                    each.cancelled = True
                    break
            self._changed.notify_all()

    def ended(self, association_id: str, how: str, duration: float) -> None:
        """Record the end of an association."""
        with self._changed:
            record = self._by_id.pop(association_id, None)
            if record is not None:
                record.ended_by, record.duration = how, duration
            self._changed.notify_all()


def _record_of(requested: AssociationRequest) -> ReceivedAssociation:
    return ReceivedAssociation(
        calling_ae_title=requested.calling_ae_title,
        called_ae_title=requested.called_ae_title,
        address=requested.address,
        proposed=requested.contexts,
        roles=requested.roles,
        extended=requested.extended,
        max_pdu=requested.max_pdu,
        implementation=requested.implementation,
        began=time.monotonic(),
    )


def _set_answer(record: ReceivedAssociation, answer: Agreement | Rejection | None) -> None:
    if isinstance(answer, Agreement):
        record.accepted = tuple(answer.contexts.values())
        return
    record.accepted = ()
    record.ended_by = "ended before it began" if answer is None else "rejected"
    record.rejection = None if answer is None else (answer.result, answer.source, answer.reason)


def _response(command: Command, after: float) -> Response:
    return Response(
        status=command.status,
        after=after,
        remaining=command.remaining,
        completed=command.completed,
        failed=command.failed,
        warning=command.warning,
        comment=command.error_comment or "",
    )
