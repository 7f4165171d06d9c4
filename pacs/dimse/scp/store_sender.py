"""The C-STORE sub-operations of C-MOVE and C-GET (PS3.4 C.4.2, C.4.3): data sets as they lie, outcomes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pacs.dimse.association.association import Association
from pacs.dimse.association.proposals import context_for
from pacs.dimse.messages import status
from pacs.dimse.messages.command import Command, CommandField, Template
from pacs.dimse.messages.message import Buffer
from pacs.dimse.upper.user_information import Context
from pacs.dimse.upper.waiting import WaitContext
from pacs.errors import AssociationLost, Cancelled, InstanceUnreadable, NotSupported, PacsError
from pacs.index.writer import StoredInstance
from pacs.services.retrieve import Outcome, RetrieveService

LOST = 0x0110
"""Stands for the status of a sub-operation that had no response: processing failure (PS3.7 C.5.9)."""

# --- one sub-operation -------------------------------------------------------------------------------------------


def nothing() -> None:
    """What is done meanwhile where there is nothing to do."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one sub-operation: its outcome, the status answered (`LOST` where none was), and why."""

    outcome: Outcome
    status: int = LOST
    comment: str = ""
    transfer_syntax: str = ""


def _judged(response: Command, transfer_syntax: str) -> Sent:
    """What the status of a C-STORE response counts as (V5)."""
    code = response.status
    if code == status.SUCCESS:
        counted = Outcome.COMPLETED
    else:
        counted = Outcome.WARNING if code in status.STORE_WARNINGS else Outcome.FAILED
    return Sent(counted, code, response.error_comment or "", transfer_syntax)


@dataclass(frozen=True, slots=True)
class _Way:
    """How the instances of one SOP Class and transfer syntax are sent: in which context, and with which command set."""

    context: Context
    command: Template


@dataclass(frozen=True, slots=True)
class _Request:
    """A C-STORE request that can be sent at once: its data set is open, and as much of it read as is written first."""

    instance: StoredInstance
    message_id: int
    transfer_syntax: str
    pdus: Iterable[list[Buffer]]


@dataclass(frozen=True, slots=True)
class _Unsendable:
    """An instance that was to be made ready and cannot be sent, and why."""

    instance: StoredInstance
    comment: str


@dataclass(slots=True)
class Sender:
    """Sends stored instances as C-STORE requests on one association, one after the other.

    `originator` is the AE that asked for a C-MOVE and the Message ID it asked with, None for a C-GET.
    """

    association: Association
    retrieve: RetrieveService
    timeout: float
    priority: int = 0
    originator: tuple[str, int] | None = None
    avoid: int = 0
    """A Message ID not to use: that of the C-GET on the same association."""
    _message_id: int = field(default=0, init=False)
    _next: _Request | _Unsendable | None = field(default=None, init=False)
    _ways: dict[tuple[str, str], _Way | None] = field(default_factory=dict, init=False)

    def send(
        self, instance: StoredInstance, wait_context: WaitContext, meanwhile: Callable[[], None] = nothing
    ) -> Sent:
        """Send one instance and wait for its response; `meanwhile` is called between the two.

        An instance for which there is no context, or whose file cannot be read, fails alone. Raises
        InstanceUnreadable when its file fails in the middle, AssociationLost when the peer is gone, Cancelled when
        the wait_context says so: the association is of no use then.
        """
        prepared, self._next = self._next, None
        request = prepared if prepared is not None and prepared.instance is instance else self._prepared(instance)
        if isinstance(request, _Unsendable):  # nothing was sent of it yet
            return Sent(Outcome.FAILED, comment=request.comment)
        self._write(request, wait_context)
        meanwhile()
        return self._response(request, wait_context)

    def prepare(self, instance: StoredInstance) -> None:
        """Make ready the request that will be sent next. What is wrong with it shows when it is to be sent."""
        self._next = self._prepared(instance)

    def _prepared(self, instance: StoredInstance) -> _Request | _Unsendable:
        try:
            return self._request(instance)
        except PacsError as error:
            return _Unsendable(instance, error.comment)

    def _request(self, instance: StoredInstance) -> _Request:
        """The request that sends an instance. Raises PacsError when it cannot be sent."""
        way = self._way(instance)
        if way is None:
            raise NotSupported("The peer accepted no context to send it in")
        message_id = self._next_message_id()
        command = way.command.encode(message_id, instance.sop_instance_uid)
        data = self.retrieve.data(instance, way.context.transfer_syntax)
        pdus = self.association.prepare(way.context.id, command, data)
        return _Request(instance, message_id, way.context.transfer_syntax, pdus)

    def _way(self, instance: StoredInstance) -> _Way | None:
        """How instances of this kind are sent, looked up and encoded once."""
        kind = (instance.sop_class_uid, instance.transfer_syntax)
        if kind not in self._ways:
            context = context_for(instance, self.association.contexts.values())
            self._ways[kind] = _Way(context, self._command(instance.sop_class_uid)) if context is not None else None
        return self._ways[kind]

    def _command(self, sop_class_uid: str) -> Template:
        originator = self._move_originator()
        command = Command.request(
            CommandField.C_STORE, 0, sop_class_uid, affected_sop_instance_uid="", priority=self.priority, **originator
        )
        return Template(command, data_set=True, changing=("message_id", "affected_sop_instance_uid"))

    def _write(self, request: _Request, wait_context: WaitContext) -> None:
        try:
            self.association.send_prepared(request.pdus, wait_context=wait_context)
        except (AssociationLost, Cancelled):
            raise
        except PacsError as error:  # half a data set is on its way: the association had to be aborted
            raise InstanceUnreadable(error.comment) from error

    def _next_message_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        if self._message_id == self.avoid:
            self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def _move_originator(self) -> dict[str, str | int]:
        if self.originator is None:
            return {}
        ae_title, message_id = self.originator
        return {"move_originator_ae_title": ae_title, "move_originator_message_id": message_id}

    def _response(self, request: _Request, wait_context: WaitContext) -> Sent:
        message = self.association.receive(self.timeout, wait_context=wait_context)
        if message is None:
            raise AssociationLost("The destination ended the association")
        response = message.command
        if response.field != CommandField.C_STORE | 0x8000 or response.responding_to != request.message_id:
            self.association.abort()
            raise AssociationLost("The destination answered something else than the C-STORE")
        return _judged(response, request.transfer_syntax)
