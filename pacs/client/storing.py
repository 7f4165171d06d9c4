"""`store`: files, folders and data sets to a peer, each in the transfer syntax it has or one that says the same."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pacs.client.outcomes import NotStored, OnProgress, Progress, Transfer
from pacs.client.peer import Peer, associate, peer_of
from pacs.client.sources import Instance, Storable, sources_of
from pacs.client.status_errors import is_fine
from pacs.dicom.syntaxes import convert
from pacs.dimse.association.proposals import Proposal, batches, context_for
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.status import SUCCESS, Service
from pacs.dimse.messages.status_texts import meaning
from pacs.dimse.scu import Requestor
from pacs.errors import DestinationUnreachable, NotSupported, PacsError

STEP = 1 << 20
"""Bytes of one data set after which it is told how far it is."""

IN_VAIN = 2
"""How many associations in a row may be lost with nothing stored before the rest is given up."""


def store(peer: Peer | str, *what: Storable, on_progress: OnProgress | None = None) -> Transfer:
    """Send files, all files under folders, and data sets to a peer, by C-STORE.

    Data sets stream from their files. They are proposed in the transfer syntax they have; native ones also in the
    others, into which they are converted where the peer takes only those. What is refused or cannot be sent is listed
    in `Transfer.failed` and ends nothing; when the association is lost, the rest goes on another one, unless two in a
    row come to nothing. In folders, what is no DICOM file with an instance is skipped.

    Raises InvalidArgument for what is none of these, and DestinationUnreachable when there is no first association.
    What `on_progress` raises ends the association, in the middle of a data set if need be.
    """
    peer = peer_of(peer)
    found = sources_of(what)
    sending = _Sending(peer, on_progress or (lambda _progress: None), len(found.instances), found.refused)
    for batch in batches(found.instances):
        sending.send(batch.proposals, batch.instances)
    return sending.transfer(found.skipped)


@dataclass(slots=True)
class _Sending:
    """What has been sent, and how the rest is."""

    peer: Peer
    on_progress: OnProgress
    total: int
    failed: list[NotStored]
    completed: int = 0
    warning: int = 0
    sent: int = 0
    """Bytes of the data sets that were stored."""
    _tried: int = field(default=0, init=False)
    _in_vain: int = field(default=0, init=False)
    _is_reached: bool = field(default=False, init=False)
    _began: float = field(default_factory=time.monotonic, init=False)

    def send(self, proposals: Sequence[Proposal], instances: Sequence[Instance]) -> None:
        """Send instances on one association, or on more when that is lost. Raises DestinationUnreachable."""
        left = deque(instances)
        while left:
            try:
                self._send_on_one(proposals, left)
            except DestinationUnreachable as error:
                if not self._is_reached:
                    raise
                self._give_up(left, error.comment)

    def _send_on_one(self, proposals: Sequence[Proposal], left: deque[Instance]) -> None:
        """Send what is left until the association is lost. Raises DestinationUnreachable where none comes about."""
        if self._in_vain >= IN_VAIN:
            raise DestinationUnreachable("The peer ends one association after the other")
        association = associate(self.peer, proposals)
        self._is_reached = True
        self._in_vain += 1
        try:
            requestor = Requestor(association, self.peer.deadlines.response)
            while left and association.is_established:
                self._send_one(requestor, left.popleft())
        finally:
            association.release(self.peer.deadlines.release)

    def _send_one(self, requestor: Requestor, instance: Instance) -> None:
        """Send one instance, and note what became of it."""
        sent = [0]
        try:
            answer = self._answer(requestor, instance, sent)
        except PacsError as error:
            self.failed.append(NotStored(instance.what, None, error.comment))
        except OSError as error:
            self.failed.append(NotStored(instance.what, None, f"The file cannot be read: {error.strerror or error}"))
        else:
            self._in_vain = 0
            self._note(instance, answer, sent[0])
        self._tried += 1
        self.on_progress(self._progress(0))

    def _answer(self, requestor: Requestor, instance: Instance, sent: list[int]) -> Command:
        """The response to the C-STORE of an instance; `sent` gets its bytes. Raises PacsError, OSError."""
        context = context_for(instance, requestor.association.contexts.values())
        if context is None:
            raise NotSupported(
                f"The peer accepts no presentation context for {instance.sop_class_uid} in {instance.transfer_syntax}"
            )
        with instance.open() as file:
            pieces = self._counted(convert(file, instance.transfer_syntax, context.transfer_syntax), sent)
            exchange = requestor.ask(
                CommandField.C_STORE,
                context,
                pieces,
                priority=0,
                affected_sop_instance_uid=instance.sop_instance_uid,
            )
        return exchange.final().command

    def _counted(self, pieces: Iterator[bytes], sent: list[int]) -> Iterator[bytes]:
        """The pieces, counted, and told of every `STEP` bytes."""
        told = 0
        for piece in pieces:
            yield piece
            sent[0] += len(piece)
            if sent[0] - told >= STEP:
                told = sent[0]
                self.on_progress(self._progress(told))

    def _note(self, instance: Instance, answer: Command, size: int) -> None:
        status = answer.status
        if not is_fine(status):
            comment = answer.error_comment or meaning(Service.STORE, status)
            self.failed.append(NotStored(instance.what, status, comment))
            return
        self.completed += 1
        self.warning += status != SUCCESS
        self.sent += size

    def _give_up(self, left: deque[Instance], comment: str) -> None:
        self.failed += [NotStored(each.what, None, comment) for each in left]
        self._tried += len(left)
        left.clear()

    # --- how far it is ------------------------------------------------------------------------------------------

    def _progress(self, underway: int) -> Progress:
        return Progress(
            remaining=self.total - self._tried,
            completed=self.completed,
            failed=len(self.failed),
            warning=self.warning,
            bytes=self.sent + underway,
            total=self.total,
            elapsed=time.monotonic() - self._began,
        )

    def transfer(self, skipped: int) -> Transfer:
        """What it came to."""
        return Transfer(
            completed=self.completed,
            warning=self.warning,
            failed=tuple(self.failed),
            skipped=skipped,
            bytes=self.sent,
            elapsed=time.monotonic() - self._began,
        )
