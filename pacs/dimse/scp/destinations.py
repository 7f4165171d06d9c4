"""Send the instances of a C-MOVE to its destination: the associations they need, opened, and reopened when lost."""

from collections.abc import Callable, Iterable, Sequence

from pacs.dimse.association.storage_contexts import Proposal, batches
from pacs.dimse.scp.store_sender import ContextMissing, Sending, StoreSender, SubOperations, failed, send_each
from pacs.dimse.upper.user_information import MAX_CONTEXTS
from pacs.dimse.upper.waiting import WaitContext
from pacs.errors import AssociationLost, Cancelled, DestinationUnreachable, InstanceUnreadable, PeerTimeout
from pacs.index.writer import StoredInstance

Connect = Callable[[tuple[Proposal, ...], WaitContext], StoreSender]
"""Opens an association to a move destination with these contexts. Raises DestinationUnreachable, Cancelled."""


def send_to_destination(
    connect: Connect, instances: Sequence[StoredInstance], wait_context: WaitContext, send_as: tuple[str, ...] = ()
) -> SubOperations:
    """Send instances on one association at a time."""
    association = DestinationAssociation(connect)
    try:
        for batch in batches(instances, send_as):
            if wait_context.cancellation.requested:
                break
            association.use(batch.proposals)
            yield from send_each(association, batch.instances, wait_context)
        yield None  # the last Pending response need not wait for the release
    finally:
        association.close()


class DestinationAssociation:
    """An association to a move destination, opened for the first instance and reopened after it was lost.

    After `attempts` failures in a row it is not opened any more (V10), so that a dead destination costs bounded time.
    """

    def __init__(self, connect: Connect, attempts: int = 2) -> None:
        self._connect = connect
        self._attempts = attempts
        self._failures = 0
        self._proposals: tuple[Proposal, ...] = ()
        self._added: tuple[Proposal, ...] = ()
        """Contexts for instances that were replaced after `use` by others, in another transfer syntax or SOP Class."""
        self._sender: StoreSender | None = None
        """That of the open association."""
        self._has_sent = False
        """Whether the open association has sent an instance."""
        self.last_failure = ""

    @property
    def is_given_up(self) -> bool:
        """Whether the destination failed so often that it is not called again."""
        return self._failures >= self._attempts

    @property
    def is_open(self) -> bool:
        """Whether an association is open, as far as is known."""
        return self._sender is not None

    @property
    def window(self) -> int:
        """The most instances that may be sent before the response to the first."""
        return self._sender.window if self._sender is not None else 1

    def use(self, proposals: tuple[Proposal, ...]) -> None:
        """Propose these contexts from now on; an association that is open with others is released."""
        if self._proposals is not proposals:
            self.close()
            self._proposals, self._added = proposals, ()

    def open(self, wait_context: WaitContext) -> StoreSender:
        """Return the sender on the open association, opened now if necessary.

        Raises DestinationUnreachable, Cancelled.
        """
        if self._sender is None:
            if self.is_given_up:
                raise DestinationUnreachable(self.last_failure)
            try:
                self._sender = self._connect((*self._proposals, *self._added), wait_context)
                self._has_sent = False
            except DestinationUnreachable as error:
                self._count_failure(error.comment)
                raise
        return self._sender

    def send(
        self, instance: StoredInstance, wait_context: WaitContext, following: Iterable[StoredInstance] = ()
    ) -> Sending:
        """Send an instance as `StoreSender.send`; it fails when the association is lost.

        Raises Cancelled, ContextMissing.
        """
        try:
            result = yield from self._send(instance, wait_context, following)
        except DestinationUnreachable as error:
            return failed(error)
        except InstanceUnreadable as error:  # no failure of the destination, which may be called again
            self._abort()
            return failed(error)
        except AssociationLost as error:
            self._count_failure(error.comment)
            self._abort()
            return failed(error)
        except Cancelled:
            self._abort()
            raise
        self._failures = 0
        return result

    def _send(
        self, instance: StoredInstance, wait_context: WaitContext, following: Iterable[StoredInstance]
    ) -> Sending:
        """Send an instance, on a new association if need be.

        It needs one when it was replaced and its contexts were not proposed, or when the open association is lost after
        other instances: some destinations close after each one. The C-STORE of an instance may be repeated. Of several
        instances without a response, the loss counts for the first; the others are sent again.
        """
        while True:
            sender = self.open(wait_context)
            try:
                result = yield from sender.send(instance, wait_context, following)
            except ContextMissing as error:
                if not self._propose_also(error.proposals, wait_context):
                    raise
            except AssociationLost as error:
                if sender is self._sender:
                    if not self._has_sent or isinstance(error, PeerTimeout):
                        raise
                    self._abort()
            else:
                self._has_sent = self._has_sent or sender is self._sender
                return result
            wait_context.cancellation.check()

    def _propose_also(self, proposals: tuple[Proposal, ...], wait_context: WaitContext) -> bool:
        """Propose further contexts from now on. Return whether that may help: there are new ones, and not too many."""
        proposed = (*self._proposals, *self._added)
        new = tuple(each for each in proposals if each not in proposed)
        if not new or len(proposed) + len(new) > MAX_CONTEXTS:
            return False
        try:
            self.open(wait_context).receive_all(wait_context)
            self.close()
        except AssociationLost:
            self._abort()
        self._added += new
        return True

    def _count_failure(self, comment: str) -> None:
        self._failures += 1
        self.last_failure = comment

    def _abort(self) -> None:
        if self._sender is not None:
            self._sender.close()
            self._sender.association.close()
            self._sender = None

    def close(self) -> None:
        """Release the association if it is open."""
        if self._sender is not None:
            self._sender.close()
            self._sender.association.release()
            self._sender = None
