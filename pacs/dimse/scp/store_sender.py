"""C-STORE sub-operations on one association (PS3.4 C.4.2, C.4.3): requests, their responses, read-ahead."""

import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Protocol

from pacs.dimse.association.association import Association
from pacs.dimse.association.storage_contexts import Proposal, context_for, proposals
from pacs.dimse.messages import status
from pacs.dimse.messages.command import Command, CommandField, Template
from pacs.dimse.messages.message import Buffer
from pacs.dimse.upper.user_information import Context
from pacs.dimse.upper.waiting import WaitContext
from pacs.errors import AssociationLost, Cancelled, InstanceUnreadable, NotSupported, PacsError
from pacs.index.writer import StoredInstance
from pacs.services.retrieve import Outcome, Retrieval, RetrieveService

NO_RESPONSE = 0x0110
"""The status of a sub-operation that had no response: processing failure (PS3.7 C.5.9)."""


@dataclass(frozen=True, slots=True)
class StoreResult:
    """The outcome of a sub-operation, the status of the C-STORE response (or `NO_RESPONSE`), and the reason."""

    outcome: Outcome
    status: int = NO_RESPONSE
    comment: str = ""
    transfer_syntax: str = ""


class ContextMissing(NotSupported):
    """The association has no presentation context for an instance; with `proposals` it could have one."""

    def __init__(self, instance: StoredInstance) -> None:
        super().__init__("The peer accepted no context to send it in")
        self.proposals: tuple[Proposal, ...] = proposals(instance)


def failed(error: PacsError) -> StoreResult:
    """Return the result of a sub-operation that had no response because of `error`."""
    return StoreResult(Outcome.FAILED, comment=error.comment)


Sending = Generator[None, None, StoreResult]
"""A sub-operation that is being sent: pauses once, while its response is due, and returns its result."""


class InstanceSender(Protocol):
    """Sends one instance after the other: a `StoreSender`, or a `DestinationAssociation` that reconnects."""

    def send(
        self, instance: StoredInstance, wait_context: WaitContext, following: StoredInstance | None = None
    ) -> Sending:
        """Send an instance, and read `following` ahead while its response is due. Raises Cancelled, ContextMissing."""


@dataclass(frozen=True, slots=True)
class SubOperation:
    """A finished sub-operation; `duration` is in seconds."""

    instance: StoredInstance
    result: StoreResult
    duration: float


SubOperations = Generator[SubOperation | None, None, None]
"""Sends the instances of a retrieve; begins none after a cancel.

It yields each finished sub-operation, and None whenever a Pending response can be written without delaying anything:
while the response to a sub-operation is due.
"""


def send_each(sender: InstanceSender, instances: Sequence[StoredInstance], wait_context: WaitContext) -> SubOperations:
    """Send instances one after the other."""
    for instance, following in zip_longest(instances, instances[1:]):
        wait_context.process_input()
        if wait_context.cancellation.requested:
            return
        yield from send_one(sender, instance, wait_context, following)


def send_one(
    sender: InstanceSender, instance: StoredInstance, wait_context: WaitContext, following: StoredInstance | None = None
) -> SubOperations:
    """Send one instance."""
    began = time.monotonic()
    try:
        result = yield from sender.send(instance, wait_context, following)
    except (Cancelled, ContextMissing) as error:  # cancelled: the grace of the running sub-operation is over
        result = failed(error)
    yield SubOperation(instance, result, time.monotonic() - began)


# --- one association ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Route:
    """The presentation context and the encoded command for the instances of one SOP Class and transfer syntax."""

    context: Context
    command: Template


@dataclass(frozen=True, slots=True)
class _Request:
    """A C-STORE request that is ready: its data set is open, and the bytes of the first write are read."""

    instance: StoredInstance
    message_id: int
    transfer_syntax: str
    pdus: Iterable[list[Buffer]]


@dataclass(frozen=True, slots=True)
class _Unsendable:
    """An instance for which no C-STORE request could be made."""

    instance: StoredInstance
    error: PacsError


@dataclass(slots=True)
class StoreSender:
    """Sends the instances of a retrieve as C-STORE requests on one association, one after the other.

    `originator` is the calling AE title and the Message ID of the C-MOVE, None for a C-GET.
    """

    association: Association
    retrieve: RetrieveService
    retrieval: Retrieval
    timeout: float
    priority: int = 0
    originator: tuple[str, int] | None = None
    avoid: int = 0
    """A Message ID not to use: that of the C-GET on the same association."""
    _message_id: int = field(default=0, init=False)
    _ahead: _Request | _Unsendable | None = field(default=None, init=False)
    _routes: dict[tuple[str, str], _Route | None] = field(default_factory=dict, init=False)

    def send(
        self, instance: StoredInstance, wait_context: WaitContext, following: StoredInstance | None = None
    ) -> Sending:
        """Send one instance and return its result; read `following` ahead while the response is due.

        An instance whose file cannot be read fails alone. Raises ContextMissing when it has no presentation context;
        InstanceUnreadable when its file fails after the first write, AssociationLost when the peer is gone, Cancelled
        after the grace of a cancel: the association cannot be used any more then.
        """
        ahead, self._ahead = self._ahead, None
        request = ahead if ahead is not None and ahead.instance is instance else self._prepare(instance)
        if isinstance(request, _Unsendable):
            if isinstance(request.error, ContextMissing):
                raise request.error
            return failed(request.error)
        self._write(request, wait_context)
        yield
        if following is not None:
            self._ahead = self._prepare(following)
        return self._result(request, wait_context)

    def _prepare(self, instance: StoredInstance) -> _Request | _Unsendable:
        try:
            return self.retrieve.read(self.retrieval, instance, partial(self._request, instance))
        except PacsError as error:
            return _Unsendable(instance, error)

    def _request(self, selected: StoredInstance, current: StoredInstance) -> _Request:
        """Make the C-STORE request for an instance as it is stored now. Raises PacsError when it cannot be sent."""
        route = self._route(current)
        if route is None:
            raise ContextMissing(current)
        message_id = self._next_message_id()
        command = route.command.encode(message_id, current.sop_instance_uid)
        data = self.retrieve.data(current, route.context.transfer_syntax)
        pdus = self.association.prepare(route.context.id, command, data)
        return _Request(selected, message_id, route.context.transfer_syntax, pdus)

    def _route(self, instance: StoredInstance) -> _Route | None:
        """Return context and command for an instance, chosen and encoded once for its SOP Class and transfer syntax."""
        key = (instance.sop_class_uid, instance.transfer_syntax)
        if key not in self._routes:
            context = context_for(instance, self.association.contexts.values())
            command = self._command(instance.sop_class_uid)
            self._routes[key] = _Route(context, command) if context is not None else None
        return self._routes[key]

    def _command(self, sop_class_uid: str) -> Template:
        originator = self._move_originator()
        command = Command.request(
            CommandField.C_STORE, 0, sop_class_uid, affected_sop_instance_uid="", priority=self.priority, **originator
        )
        return Template(command, data_set=True, changing=("message_id", "affected_sop_instance_uid"))

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

    def _write(self, request: _Request, wait_context: WaitContext) -> None:
        try:
            self.association.send_prepared(request.pdus, wait_context=wait_context)
        except (AssociationLost, Cancelled):
            raise
        except PacsError as error:  # a part of the data set was sent: the association had to be aborted
            raise InstanceUnreadable(error.comment) from error

    def _result(self, request: _Request, wait_context: WaitContext) -> StoreResult:
        """Wait for the response to `request` and return the result it stands for (V5)."""
        message = self.association.receive(self.timeout, wait_context=wait_context)
        if message is None:
            raise AssociationLost("The destination ended the association")
        response = message.command
        if response.field != CommandField.C_STORE | 0x8000 or response.responding_to != request.message_id:
            self.association.abort()
            raise AssociationLost("The destination answered something else than the C-STORE")
        outcome = _outcome_of(response.status)
        return StoreResult(outcome, response.status, response.error_comment or "", request.transfer_syntax)


def _outcome_of(code: int) -> Outcome:
    """Return how the status of a C-STORE response counts (V5)."""
    if code == status.SUCCESS:
        return Outcome.COMPLETED
    return Outcome.WARNING if code in status.STORE_WARNINGS else Outcome.FAILED
