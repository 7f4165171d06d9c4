"""`store`: send files, folders and data sets to a peer."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pacs.client.outcomes import NotStored, OnProgress, Progress, Transfer
from pacs.client.peer import Peer, associate, peer_of
from pacs.client.sources import Instance, Storable, sources_of
from pacs.dicom.status import is_completed, meaning
from pacs.dicom.syntaxes import convert
from pacs.dimse.association.storage_contexts import Proposal, batches, context_for
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.status import SUCCESS, Service
from pacs.dimse.scu import Requestor
from pacs.errors import DestinationUnreachable, NotSupported, PacsError

PROGRESS_BYTES = 1 << 20
"""Bytes of a data set between two progress reports."""

MAX_EMPTY_ASSOCIATIONS = 2
"""Number of consecutive associations lost without a stored instance, after which the remaining instances fail."""


def store(peer: Peer | str, *what: Storable, on_progress: OnProgress | None = None) -> Transfer:
    """Send files, all files in folders, and data sets to a peer by C-STORE.

    Data sets are streamed from their files. They are proposed in their own transfer syntax; native ones also in the
    other native ones, and are converted if the peer accepts only those. `Transfer.failed` lists what is refused or
    cannot be sent; the others are still sent. After a lost association the rest is sent on a new one, until two
    consecutive associations store nothing. In folders, files without a SOP Instance are skipped.

    Raises InvalidArgument for any other argument, and DestinationUnreachable if the first association fails. An
    exception from `on_progress` ends the association, even in the middle of a data set.
    """
    peer = peer_of(peer)
    found = sources_of(what)
    sending = _Sending(peer, on_progress or (lambda _progress: None), len(found.instances), found.refused)
    for batch in batches(found.instances):
        sending.send(batch.proposals, batch.instances)
    return sending.transfer(found.skipped)


@dataclass(slots=True)
class _Sending:
    """A running store: its counts, and how instances are sent."""

    peer: Peer
    on_progress: OnProgress
    total: int
    failed: list[NotStored]
    completed: int = 0
    warning: int = 0
    sent: int = 0
    """Size of the stored data sets."""
    _tried: int = field(default=0, init=False)
    _empty_associations: int = field(default=0, init=False)
    _is_reached: bool = field(default=False, init=False)
    _began: float = field(default_factory=time.monotonic, init=False)

    def send(self, proposals: Sequence[Proposal], instances: Sequence[Instance]) -> None:
        """Send instances on one association, or on several if it is lost. Raises DestinationUnreachable."""
        left = deque(instances)
        while left:
            try:
                self._send_on_association(proposals, left)
            except DestinationUnreachable as error:
                if not self._is_reached:
                    raise
                self._give_up(left, error.comment)

    def _send_on_association(self, proposals: Sequence[Proposal], left: deque[Instance]) -> None:
        """Send instances until the association is lost. Raises DestinationUnreachable if it cannot be established."""
        if self._empty_associations >= MAX_EMPTY_ASSOCIATIONS:
            raise DestinationUnreachable("The peer ends every association before an instance is stored")
        association = associate(self.peer, proposals)
        self._is_reached = True
        self._empty_associations += 1
        try:
            requestor = Requestor(association, self.peer.deadlines.response)
            while left and association.is_established:
                self._send_one(requestor, left.popleft())
        finally:
            association.release(self.peer.deadlines.release)

    def _send_one(self, requestor: Requestor, instance: Instance) -> None:
        """Send one instance and record the result."""
        sent = [0]
        try:
            response = self._response(requestor, instance, sent)
        except PacsError as error:
            self.failed.append(NotStored(instance.what, None, error.comment))
        except OSError as error:
            self.failed.append(NotStored(instance.what, None, f"The file cannot be read: {error.strerror or error}"))
        else:
            self._empty_associations = 0
            self._record(instance, response, sent[0])
        self._tried += 1
        self.on_progress(self._progress(0))

    def _response(self, requestor: Requestor, instance: Instance, sent: list[int]) -> Command:
        """Return the response to the C-STORE of an instance; count its bytes in `sent`. Raises PacsError, OSError."""
        context = context_for(instance, requestor.association.contexts.values())
        if context is None:
            raise NotSupported(
                f"The peer accepts no presentation context for {instance.sop_class_uid} in {instance.transfer_syntax}"
            )
        with instance.open() as file:
            pieces = self._count_bytes(convert(file, instance.transfer_syntax, context.transfer_syntax), sent)
            exchange = requestor.ask(
                CommandField.C_STORE,
                context,
                pieces,
                priority=0,
                affected_sop_instance_uid=instance.sop_instance_uid,
            )
        return exchange.final().command

    def _count_bytes(self, pieces: Iterator[bytes], sent: list[int]) -> Iterator[bytes]:
        """Yield the pieces, count them, and report progress every `PROGRESS_BYTES` bytes."""
        reported = 0
        for piece in pieces:
            yield piece
            sent[0] += len(piece)
            if sent[0] - reported >= PROGRESS_BYTES:
                reported = sent[0]
                self.on_progress(self._progress(reported))

    def _record(self, instance: Instance, response: Command, size: int) -> None:
        status = response.status
        if not is_completed(status):
            comment = response.error_comment or meaning(Service.STORE, status)
            self.failed.append(NotStored(instance.what, status, comment))
            return
        self.completed += 1
        self.warning += status != SUCCESS
        self.sent += size

    def _give_up(self, left: deque[Instance], comment: str) -> None:
        self.failed += [NotStored(each.what, None, comment) for each in left]
        self._tried += len(left)
        left.clear()

    # --- progress -------------------------------------------------------------------------------------------------

    def _progress(self, in_progress: int) -> Progress:
        return Progress(
            remaining=self.total - self._tried,
            completed=self.completed,
            failed=len(self.failed),
            warning=self.warning,
            bytes=self.sent + in_progress,
            total=self.total,
            elapsed=time.monotonic() - self._began,
        )

    def transfer(self, skipped: int) -> Transfer:
        """Return the result."""
        return Transfer(
            completed=self.completed,
            warning=self.warning,
            failed=tuple(self.failed),
            skipped=skipped,
            bytes=self.sent,
            elapsed=time.monotonic() - self._began,
        )
