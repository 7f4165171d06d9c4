"""`store`: send files, folders and data sets to a peer."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from pacs.client.outcomes import NotStored, OnProgress, Progress, Transfer
from pacs.client.outgoing import Outgoing, Preparation
from pacs.client.peer import Peer, associated, peer_of
from pacs.client.sources import Instance, Storable, sources_of
from pacs.dicom.status import is_completed, meaning
from pacs.dicom.syntaxes import converts_pixel_data
from pacs.dimse.association.storage_contexts import Proposal, batches
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.status import SUCCESS, Service
from pacs.dimse.scu import Requestor
from pacs.errors import (
    AssociationLost,
    DestinationUnreachable,
    InstanceUnreadable,
    NotSupported,
    PacsError,
    PeerTimeout,
    UndecodableDataSet,
    UndecodablePixelData,
)
from pacs.pixels.capabilities import ENCODED
from pacs.pixels.look_ahead import LookAhead
from pacs.pixels.pool import DecoderPool
from pacs.pixels.target_names import targets_of
from pacs.support.cores import cores

PROGRESS_BYTES = 1 << 20
"""Bytes of a data set between two progress reports."""

MAX_EMPTY_ASSOCIATIONS = 10
"""Number of consecutive associations lost without a stored instance, after which the remaining instances fail.

It is more than a few because some receivers abort at each damaged instance, and those may come first.
"""

TIMEOUT_COST = 5
"""Number of associations that one with a time-out counts as: a receiver that hangs costs much more time."""

_NOT_OF_THE_PEER = (UndecodableDataSet, UndecodablePixelData, InstanceUnreadable, NotSupported)
"""Errors of an instance, not of the peer: an association that ends with one is not counted as empty."""


def store(
    peer: Peer | str,
    *what: Storable,
    send_as: str | Iterable[str] = (),
    on_progress: OnProgress | None = None,
) -> Transfer:
    """Send files, all files in folders, and data sets to a peer by C-STORE.

    Data sets are streamed from their files, in their own transfer syntax where the peer accepts it. Otherwise they are
    converted: decompressed, or, where the peer accepts nothing else, compressed without loss. `send_as` names the
    transfer syntaxes to send in instead: `explicit`, `implicit`, `rle`, `jpegls`, `j2k`, `htj2k`, or a keyword or UID.
    Each instance is sent in the first one that the peer accepts and that it can be converted into, and fails without
    one; an instance without pixel data is sent uncompressed then. Pixel data is converted on all cores.

    `Transfer.failed` lists what is refused, or cannot be converted or sent; the others are still sent. After a lost
    association the rest is sent on a new one, until ten consecutive associations store nothing, or two end by a
    time-out; the instance during which it was lost is sent again if others were stored on it. In folders, files that
    are not DICOM, and DICOMDIRs, are skipped; damaged files, and what may not be read, are listed as failed.

    Raises InvalidArgument for any other argument, and DestinationUnreachable if the first association fails. An
    exception from `on_progress` ends the association, even in the middle of a data set.
    """
    peer = peer_of(peer)
    targets = targets_of([send_as] if isinstance(send_as, str) else send_as)
    found = sources_of(what)
    with DecoderPool(cores()) as pool:
        sending = _Sending(
            peer, on_progress or (lambda _progress: None), len(found.instances), found.refused, targets, pool
        )
        for batch in batches(found.instances, targets, () if targets else ENCODED):
            sending.send(batch.proposals, batch.instances)
    return sending.transfer(found.skipped)


@dataclass(slots=True)
class _Sending:
    """A running store: its counts, and how instances are sent."""

    peer: Peer
    on_progress: OnProgress
    total: int
    failed: list[NotStored]
    send_as: tuple[str, ...]
    pool: DecoderPool
    completed: int = 0
    warning: int = 0
    converted: int = 0
    sent: int = 0
    """Size of the stored data sets."""
    _notices: dict[str, None] = field(default_factory=dict, init=False)
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
        with associated(self.peer, proposals) as association:
            self._is_reached = True
            self._empty_associations += 1
            preparation = Preparation(association.contexts.values(), self.send_as, self.pool)
            with closing(LookAhead(preparation.begin, self.pool.processes)) as ahead:
                requestor = Requestor(association, self.peer.deadlines.response)
                while left and association.is_established:
                    self._send_one(requestor, ahead, left)

    def _send_one(self, requestor: Requestor, ahead: LookAhead[Instance, Outgoing], left: deque[Instance]) -> None:
        """Send the next instance and record the result."""
        sent, instance = [0], left.popleft()
        try:
            with closing(ahead.take(instance, left)) as outgoing:
                response = self._response(requestor, instance, outgoing, sent)
        except PacsError as error:
            if self._may_send_again(error):
                left.appendleft(instance)
                return
            self.failed.append(NotStored(instance.what, None, error.comment))
            if isinstance(error, _NOT_OF_THE_PEER):
                self._empty_associations = 0
            elif isinstance(error, PeerTimeout):
                self._empty_associations += TIMEOUT_COST - 1
        else:
            self._empty_associations = 0
            self._record(instance, outgoing, response, sent[0])
        self._tried += 1
        self.on_progress(self._progress(0))

    def _may_send_again(self, error: PacsError) -> bool:
        """Return whether an association was lost after it stored others: some peers close after each instance."""
        is_lost = isinstance(error, AssociationLost) and not isinstance(error, PeerTimeout)
        return is_lost and self._empty_associations == 0

    def _response(self, requestor: Requestor, instance: Instance, outgoing: Outgoing, sent: list[int]) -> Command:
        """Return the response to the C-STORE of an instance; count its bytes in `sent`. Raises PacsError."""
        pieces = outgoing.pieces()
        self.on_progress(self._progress(0))  # may raise: then this instance is not sent
        exchange = requestor.ask(
            CommandField.C_STORE,
            outgoing.context,
            self._count_bytes(pieces, sent),
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

    def _record(self, instance: Instance, outgoing: Outgoing, response: Command, size: int) -> None:
        status = response.status
        if not is_completed(status):
            comment = response.error_comment or meaning(Service.STORE, status)
            self.failed.append(NotStored(instance.what, status, comment))
            return
        self.completed += 1
        self.warning += status != SUCCESS
        self.converted += converts_pixel_data(instance.transfer_syntax, outgoing.context.transfer_syntax)
        self._notices |= dict.fromkeys(outgoing.notices)
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
            converted=self.converted,
            failed=tuple(self.failed),
            skipped=skipped,
            notices=tuple(self._notices),
            bytes=self.sent,
            elapsed=time.monotonic() - self._began,
        )
