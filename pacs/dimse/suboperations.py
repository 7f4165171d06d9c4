"""The C-STORE sub-operations of C-MOVE and C-GET (PS3.4 C.4.2, C.4.3): contexts, data sets as they lie, outcomes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from pacs.dicom import syntaxes
from pacs.dimse import status
from pacs.dimse.agreement import MAX_CONTEXTS, Context
from pacs.dimse.association import Association
from pacs.dimse.command import Command, CommandField
from pacs.dimse.waiting import Vigil
from pacs.errors import AssociationLost, Cancelled, DestinationUnreachable, InstanceUnreadable, PacsError
from pacs.index.writer import StoredInstance
from pacs.services.retrieve import Outcome, RetrieveService

Proposal = tuple[str, tuple[str, ...]]
"""An abstract syntax and the transfer syntaxes proposed for it in one presentation context."""

CONVERTED_INTO = (
    syntaxes.EXPLICIT_LITTLE,
    syntaxes.IMPLICIT_LITTLE,
    syntaxes.EXPLICIT_BIG,
    syntaxes.DEFLATED_LITTLE,
)
"""What a native data set is offered in besides its own transfer syntax, in order of preference."""

LOST = 0x0110
"""Stands for the status of a sub-operation that had no response: processing failure (PS3.7 C.5.9)."""

# --- what to propose, and which context to use --------------------------------------------------------------------


def proposals(instance: StoredInstance) -> tuple[Proposal, ...]:
    """The presentation contexts an instance needs: its own syntax alone, and for a native one what it converts into.

    Implicit VR Little Endian is always among the second (PS3.5 10.1). Two contexts rather than one, so that the
    stored syntax is accepted wherever it can be, whatever the acceptor prefers.
    """
    own = instance.transfer_syntax
    exact = (instance.sop_class_uid, (own,))
    if not syntaxes.is_native(own):
        return (exact,)
    return exact, (instance.sop_class_uid, tuple(uid for uid in CONVERTED_INTO if uid != own))


@dataclass(frozen=True, slots=True)
class Batch:
    """The contexts to propose on one association, and how many instances, in their order, it carries."""

    proposals: tuple[Proposal, ...]
    size: int


def batches(instances: Iterable[StoredInstance]) -> Iterator[Batch]:
    """Divide instances, in their order, among associations of at most 128 contexts each (V9, P16)."""
    proposed: dict[Proposal, None] = {}
    size = 0
    for instance in instances:
        needed = dict.fromkeys(proposals(instance))
        if len(proposed | needed) > MAX_CONTEXTS:
            yield Batch(tuple(proposed), size)
            proposed, size = {}, 0
        proposed |= needed
        size += 1
    if size:
        yield Batch(tuple(proposed), size)


def context_for(instance: StoredInstance, contexts: Iterable[Context]) -> Context | None:
    """The accepted context to send an instance in: its stored syntax first, else one it can be converted into."""
    usable = {
        each.transfer_syntax: each
        for each in contexts
        if each.abstract_syntax == instance.sop_class_uid and each.as_scu
    }
    if instance.transfer_syntax in usable or not syntaxes.is_native(instance.transfer_syntax):
        return usable.get(instance.transfer_syntax)
    return next((usable[uid] for uid in CONVERTED_INTO if uid in usable), None)


# --- one sub-operation -------------------------------------------------------------------------------------------


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

    def send(self, instance: StoredInstance, vigil: Vigil) -> Sent:
        """Send one instance and wait for its response.

        An instance for which there is no context, or whose file cannot be read, fails alone. Raises
        InstanceUnreadable when its file fails in the middle, AssociationLost when the peer is gone, Cancelled when
        the vigil says so: the association is of no use then.
        """
        context = context_for(instance, self.association.contexts.values())
        if context is None:
            return Sent(Outcome.FAILED, comment="The peer accepted no context to send it in")
        data = self.retrieve.data(instance, context.transfer_syntax)
        try:
            first = next(data, b"")
        except PacsError as error:  # nothing was sent of it yet
            return Sent(Outcome.FAILED, comment=error.comment, transfer_syntax=context.transfer_syntax)
        self._request(instance, context, chain((first,), data), vigil)
        return self._response(context, vigil)

    def _request(self, instance: StoredInstance, context: Context, data: Iterable[bytes], vigil: Vigil) -> None:
        command = Command.request(
            CommandField.C_STORE,
            self._next_message_id(),
            instance.sop_class_uid,
            affected_sop_instance_uid=instance.sop_instance_uid,
            priority=self.priority,
            **self._move_originator(),
        )
        try:
            self.association.send(context.id, command, data, vigil=vigil)
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

    def _response(self, context: Context, vigil: Vigil) -> Sent:
        message = self.association.receive(self.timeout, vigil=vigil)
        if message is None:
            raise AssociationLost("The destination ended the association")
        response = message.command
        if response.field != CommandField.C_STORE | 0x8000 or response.responding_to != self._message_id:
            self.association.abort()
            raise AssociationLost("The destination answered something else than the C-STORE")
        return _judged(response, context.transfer_syntax)


# --- carriers: where the sub-operations of a retrieve go ----------------------------------------------------------


@dataclass(slots=True)
class OwnAssociation:
    """Carries the sub-operations of a C-GET, on the association it came on."""

    sender: Sender

    def carry(self, instance: StoredInstance, vigil: Vigil) -> Sent:
        """Send one instance. Raises AssociationLost when the requester is gone, Cancelled, InstanceUnreadable."""
        return self.sender.send(instance, vigil)

    def close(self) -> None:
        """The association is not ours to end."""


class Destination:
    """Carries the sub-operations of a C-MOVE, on as many associations as the contexts need, one after the other.

    `connect` opens an association to the move destination for some proposals. An association that is lost is opened
    again, `attempts` times in a row at most (V10): from then on every instance fails at once, so that a destination
    that is gone costs bounded time.
    """

    def __init__(
        self,
        instances: Iterable[StoredInstance],
        connect: Callable[[tuple[Proposal, ...], Vigil], Sender],
        attempts: int = 2,
    ) -> None:
        self._batches = batches(instances)
        self._batch = Batch((), 0)
        self._left = 0
        self._connect = connect
        self._attempts = attempts
        self._failures = 0
        self._sender: Sender | None = None
        self._why = ""

    def carry(self, instance: StoredInstance, vigil: Vigil) -> Sent:
        """Send one instance, the next of those the destination was made for. Raises Cancelled."""
        if not self._left:
            self.close()
            self._batch = next(self._batches)
            self._left = self._batch.size
        self._left -= 1
        try:
            sent = self._open(vigil).send(instance, vigil)
        except InstanceUnreadable as error:  # our fault: the destination may be called again for the others
            self._abandon()
            return Sent(Outcome.FAILED, comment=error.comment)
        except (DestinationUnreachable, AssociationLost) as error:
            self._failures += 1
            self._why = error.comment
            self._abandon()
            return Sent(Outcome.FAILED, comment=error.comment)
        except Cancelled:
            self._abandon()
            raise
        self._failures = 0
        return sent

    def _open(self, vigil: Vigil) -> Sender:
        if self._failures >= self._attempts:
            raise DestinationUnreachable(self._why)
        if self._sender is None:
            self._sender = self._connect(self._batch.proposals, vigil)
        return self._sender

    def _abandon(self) -> None:
        """Abort the association that is open: a sub-operation on it did not come to its end."""
        if self._sender is not None:
            self._sender.association.close()
            self._sender = None

    def close(self) -> None:
        """Release the association that is open."""
        if self._sender is not None:
            self._sender.association.release()
            self._sender = None
