"""Carriers: where the sub-operations of a retrieve go, one after the other.

A C-GET sends on the association it came on, a C-MOVE on one to its destination; `lanes` is the carrier with several.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Protocol

from pacs.dimse.association.proposals import Batch, Proposal, batches
from pacs.dimse.scp.store_sender import Sender, Sent
from pacs.dimse.upper.waiting import WaitContext
from pacs.errors import AssociationLost, Cancelled, DestinationUnreachable, InstanceUnreadable
from pacs.index.writer import StoredInstance
from pacs.services.retrieve import Outcome

Connect = Callable[[tuple[Proposal, ...], WaitContext], Sender]
"""Opens an association to a move destination for some proposals. Raises DestinationUnreachable, Cancelled."""

Meanwhile = Callable[[], None]
"""What is done while an answer is due."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A sub-operation that has its outcome, after so many seconds."""

    instance: StoredInstance
    sent: Sent
    duration: float


class Carrier(Protocol):
    """Where sub-operations go: to a move destination, or back on the association of a C-GET."""

    def carry(self, wait_context: WaitContext, meanwhile: Meanwhile) -> Iterator[Finished]:
        """Send all instances and tell the outcome of each; none begins after a cancel.

        `meanwhile` may be called at any time but while an outcome is told. Raises AssociationLost and
        InstanceUnreadable when nothing more can be sent.
        """

    def close(self) -> None:
        """Have done with the carrier."""


class _Way(Protocol):
    """What instances are sent on."""

    def send(self, instance: StoredInstance, wait_context: WaitContext, meanwhile: Meanwhile) -> Sent:
        """Send one and say what became of it, calling `meanwhile` while its answer is due. Raises Cancelled."""

    def prepare(self, instance: StoredInstance) -> None:
        """Make ready what is sent next."""


def _in_turn(
    way: _Way, instances: Sequence[StoredInstance], wait_context: WaitContext, meanwhile: Meanwhile
) -> Iterator[Finished]:
    """Send one after the other. The next is read while the answer to the last is due."""
    for instance, following in zip_longest(instances, instances[1:]):
        wait_context.process_input()
        if wait_context.cancellation.requested:
            return
        ahead = partial(_ahead, way, following, meanwhile)
        yield timed(instance, partial(way.send, instance, wait_context, ahead))


def _ahead(way: _Way, following: StoredInstance | None, meanwhile: Meanwhile) -> None:
    meanwhile()
    if following is not None:
        way.prepare(following)


def timed(instance: StoredInstance, send: Callable[[], Sent]) -> Finished:
    """What became of an instance that `send` sends, and how long it took; one that was cancelled has failed."""
    began = time.monotonic()
    try:
        sent = send()
    except Cancelled as error:  # the running sub-operation had its grace
        sent = Sent(Outcome.FAILED, comment=error.comment)
    return Finished(instance, sent, time.monotonic() - began)


class OwnAssociation:
    """Carries the sub-operations of a C-GET, on the association it came on."""

    def __init__(self, instances: Sequence[StoredInstance], sender: Sender) -> None:
        self._instances = instances
        self._sender = sender

    def carry(self, wait_context: WaitContext, meanwhile: Meanwhile) -> Iterator[Finished]:
        """Send all instances. Raises AssociationLost when the requester is gone, InstanceUnreadable."""
        return _in_turn(self._sender, self._instances, wait_context, meanwhile)

    def close(self) -> None:
        """The association is not ours to end."""


class Destination:
    """Carries the sub-operations of a C-MOVE, on as many associations as the contexts need, one after the other."""

    def __init__(self, instances: Sequence[StoredInstance], connect: Connect) -> None:
        self._instances = instances
        self._batches = batches(instances)
        self._batch = Batch((), 0)
        self._left = 0
        self._line = Line(connect)

    def carry(self, wait_context: WaitContext, meanwhile: Meanwhile) -> Iterator[Finished]:
        """Send all instances: where an association cannot be had, those it was for fail."""
        return _in_turn(self, self._instances, wait_context, meanwhile)

    def send(self, instance: StoredInstance, wait_context: WaitContext, meanwhile: Meanwhile) -> Sent:
        """Send the next instance. Raises Cancelled."""
        if not self._left:
            self._batch = next(self._batches)
            self._left = self._batch.size
        self._left -= 1
        try:
            self._line.open(self._batch, wait_context)
        except DestinationUnreachable as error:
            return Sent(Outcome.FAILED, comment=error.comment)
        return self._line.send(instance, wait_context, meanwhile)

    def prepare(self, instance: StoredInstance) -> None:
        """Make ready the next instance, unless it goes on another association."""
        if self._left:
            self._line.prepare(instance)

    def close(self) -> None:
        """Release the association that is open."""
        self._line.close()


class Line:
    """One association at a time to a move destination.

    One that is lost is opened again, `attempts` times in a row at most (V10), so that a destination that is gone costs
    bounded time.
    """

    def __init__(self, connect: Connect, attempts: int = 2) -> None:
        self._connect = connect
        self._attempts = attempts
        self._failures = 0
        self._batch: Batch | None = None
        self._sender: Sender | None = None
        self.why = ""
        """Why it failed last."""

    @property
    def is_given_up(self) -> bool:
        """Whether the destination failed so often that it is not called again."""
        return self._failures >= self._attempts

    def open(self, batch: Batch, wait_context: WaitContext) -> None:
        """See that an association with the contexts of `batch` is open. Raises DestinationUnreachable, Cancelled."""
        if self._batch is not batch:
            self.close()
            self._batch = batch
        if self._sender is not None:
            return
        if self.is_given_up:
            raise DestinationUnreachable(self.why)
        try:
            self._sender = self._connect(batch.proposals, wait_context)
        except DestinationUnreachable as error:
            self._failed(error.comment)
            raise

    def send(self, instance: StoredInstance, wait_context: WaitContext, meanwhile: Meanwhile) -> Sent:
        """Send one instance on the association that is open. Raises Cancelled: it is aborted then."""
        assert self._sender is not None, "an association is opened first"
        try:
            sent = self._sender.send(instance, wait_context, meanwhile)
        except InstanceUnreadable as error:  # our fault: the destination may be called again for the others
            self._abandon()
            return Sent(Outcome.FAILED, comment=error.comment)
        except AssociationLost as error:
            self._failed(error.comment)
            self._abandon()
            return Sent(Outcome.FAILED, comment=error.comment)
        except Cancelled:
            self._abandon()
            raise
        self._failures = 0
        return sent

    def prepare(self, instance: StoredInstance) -> None:
        """Make ready what is sent next on the association that is open."""
        if self._sender is not None:
            self._sender.prepare(instance)

    def _failed(self, why: str) -> None:
        self._failures += 1
        self.why = why

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
