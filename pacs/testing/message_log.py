"""Noting what comes to a server: the side of `Received` that the server sees."""

import threading
import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

from pacs.dimse.association.association import Association
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.message import Message
from pacs.dimse.upper.rejections import Rejection
from pacs.dimse.upper.user_information import Agreement
from pacs.faults.observer import Requested, Told
from pacs.testing.records import ReceivedAssociation, ReceivedRequest, Response


class Notebook:
    """A witness that writes down what it is told, for a `Received` to read; safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._associations: list[ReceivedAssociation] = []
        self._requests: list[ReceivedRequest] = []
        self._by_id: dict[str, ReceivedAssociation] = {}
        self._requested: WeakKeyDictionary[Requested, ReceivedAssociation] = WeakKeyDictionary()
        """Those that are just being answered."""

    # --- for who reads --------------------------------------------------------------------------------------------

    @property
    def associations(self) -> list[ReceivedAssociation]:
        """Every association that was asked for, in the order of coming."""
        with self._changed:
            return list(self._associations)

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Every request, in the order of coming."""
        with self._changed:
            return list(self._requests)

    def clear(self) -> None:
        """Forget what was noted so far."""
        with self._changed:
            self._associations.clear()
            self._requests.clear()

    def wait_for(self, condition: Callable[[], object], seconds: float) -> bool:
        """Wait until `condition` holds, which is looked at whenever something is noted; whether it did in time."""
        with self._changed:
            return bool(self._changed.wait_for(condition, seconds))

    # --- for the server -------------------------------------------------------------------------------------------

    def answered(self, requested: Requested, answer: Agreement | Rejection | None) -> None:
        """Note a request, and how it is answered."""
        with self._changed:
            noted = self._requested.get(requested)
            if noted is None:
                noted = self._requested[requested] = _noted(requested)
                self._associations.append(noted)
            _note_answer(noted, answer)
            self._changed.notify_all()

    def associated(self, requested: Requested, association: Association) -> None:
        """Note that a request became an association."""
        with self._changed:
            noted = self._by_id[association.id] = self._requested[requested]
            noted.id = association.id

    def request(self, association: Association, message: Message, data: bytes) -> Told:
        """Note a request; what is returned notes its responses."""
        command = message.command
        noted = ReceivedRequest(
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
            self._requests.append(noted)
            self._changed.notify_all()

        def told(response: Command | None) -> None:
            with self._changed:
                if response is None:
                    noted.is_over = True
                else:
                    noted.responses.append(_response(response, time.monotonic() - noted.began))
                self._changed.notify_all()

        return told

    def cancelled(self, association: Association, message_id: int) -> None:
        """Note a C-CANCEL."""
        noted = self._by_id.get(association.id)
        with self._changed:
            for each in reversed(self._requests):
                if each.association is noted and each.message_id == message_id:
                    each.cancelled = True
                    break
            self._changed.notify_all()

    def ended(self, association_id: str, how: str, duration: float) -> None:
        """Note the end of an association."""
        with self._changed:
            noted = self._by_id.pop(association_id, None)
            if noted is not None:
                noted.ended_by, noted.duration = how, duration
            self._changed.notify_all()


def _noted(requested: Requested) -> ReceivedAssociation:
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


def _note_answer(noted: ReceivedAssociation, answer: Agreement | Rejection | None) -> None:
    if isinstance(answer, Agreement):
        noted.accepted = tuple(answer.contexts.values())
        return
    noted.accepted = ()
    noted.ended_by = "ended before it began" if answer is None else "rejected"
    noted.rejection = None if answer is None else (answer.result, answer.source, answer.reason)


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
