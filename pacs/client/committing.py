"""`commit`: ask a peer to answer for instances, and wait for its report (PS3.4 Annex J, Push Model)."""

import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pydicom import Dataset

from pacs.client.outcomes import Committed
from pacs.client.peer import Deadlines, Peer, associate, peer_of
from pacs.client.receive.receiver import Handler, Listener
from pacs.client.receive.senders import Door, Senders, listening_for
from pacs.client.sources import sources_of
from pacs.client.status_errors import check
from pacs.dicom.commitment import (
    BYTES_PER_REFERENCE,
    CommitmentReport,
    CommitmentRequest,
    Failure,
    FailureReason,
    Reference,
    encode_request,
    parse_report,
)
from pacs.dicom.values import is_uid
from pacs.dimse.association.association import Association
from pacs.dimse.messages import status
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.message import Message
from pacs.dimse.messages.status import Service
from pacs.dimse.scu import Requestor
from pacs.dimse.server.acceptor_policy import (
    REQUEST_STORAGE_COMMITMENT,
    SERVICE_SYNTAXES,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
)
from pacs.errors import AssociationLost, InvalidArgument, PacsError, PeerTimeout
from pacs.support.wakeup import WakeUp

Committable = Reference | tuple[str, str] | Dataset | Path | str
"""An instance by its SOP Class and SOP Instance UID, or as what `store` takes: a data set, a file, a folder."""

BYTES_BESIDE = 4096
"""What a report may take beside its references."""


def commit(
    peer: Peer | str,
    what: Committable | Iterable[Committable],
    *,
    timeout: float = 60.0,
    ae_title: str | None = None,
    host: str = "",
    port: int = 0,
    senders: Senders = "peer",
) -> Committed:
    """Ask a peer to commit to instances, and wait for at most `timeout` seconds for its report.

    The report may come on the association of the request; with `port` also on one that the peer opens to us there,
    where it has our `ae_title` (the calling AE title where None) listed: `host` and `senders` are those of
    `move_and_store`. What the report does not name has failed.

    Raises InvalidArgument for what is no instance, DestinationUnreachable, NotSupported where the peer does not do
    storage commitment, OperationFailed where it refuses the request, PeerTimeout without a report in time, and
    AssociationLost where the association ends before it and we listen nowhere.
    """
    peer = peer_of(peer)
    if ae_title is not None:
        peer = replace(peer, calling_ae_title=ae_title)
    request = CommitmentRequest(f"2.25.{uuid.uuid4().int}", tuple(dict.fromkeys(_references(what))))
    if not request.references:
        raise InvalidArgument("There is no instance to commit to")
    with ExitStack() as stack:
        reports = _Reports(request, stack.enter_context(WakeUp()))
        if port:
            hosts = listening_for(peer, senders, host, port)
            door = Door.of(peer, senders, peer.calling_ae_title)
            stack.enter_context(reports.listener(hosts, port, door, peer.deadlines))
        report = _reported(peer, request, reports, timeout, listens=bool(port))
    return _reconciled(request, report)


def _reconciled(request: CommitmentRequest, report: CommitmentReport) -> Committed:
    """What a report says of the references of its request: of each one thing, and nothing of others."""
    failed = {failure.reference: failure for failure in reversed(report.failed)}
    committed = set(report.committed) - failed.keys()
    named = committed | failed.keys()
    rest = [each for each in request.references if each not in committed]
    return Committed(
        transaction_uid=request.transaction_uid,
        committed=tuple(each for each in request.references if each in committed),
        failed=tuple(failed.get(each) or Failure(each, FailureReason.PROCESSING_FAILURE) for each in rest),
        unreported=tuple(each for each in rest if each not in named),
    )


def _references(what: object) -> Iterator[Reference]:
    """The references of all that is named. Raises InvalidArgument."""
    if isinstance(what, Dataset | str | os.PathLike):
        found = sources_of([what if isinstance(what, Dataset) else Path(what)])
        if found.refused:
            raise InvalidArgument(f"{found.refused[0].what} is no instance: {found.refused[0].comment}")
        yield from (Reference(each.sop_class_uid, each.sop_instance_uid) for each in found.instances)
    elif isinstance(what, tuple) and len(what) == 2 and all(isinstance(each, str) and is_uid(each) for each in what):
        yield Reference(*what)
    elif isinstance(what, Iterable):
        for each in what:
            yield from _references(each)
    else:
        raise InvalidArgument(f"References, data sets and files can be committed, not a {type(what).__name__}")


class _Reports:
    """Takes reports in, on whatever association they come, and keeps the one to our request."""

    def __init__(self, request: CommitmentRequest, wake_up: WakeUp) -> None:
        self.wake_up = wake_up
        self._request = request
        self._has_come = threading.Event()
        self.report: CommitmentReport | None = None

    def listener(self, hosts: Sequence[str], port: int, door: Door, deadlines: Deadlines) -> Listener:
        """What listens for a peer that reports on an association of its own, as SCP of Storage Commitment."""
        handlers: dict[int, Handler] = {CommandField.N_EVENT_REPORT: self.take}
        ours = (STORAGE_COMMITMENT,)
        return Listener(hosts, port, handlers, door=door, deadlines=deadlines, services=ours, peers_provide=ours)

    def take(self, association: Association, message: Message) -> None:
        """Answer an N-EVENT-REPORT: one that is not for this request is left to be sent again, to somebody else."""
        report = self._parsed(message)
        code = _NOT_OURS if report is None else status.SUCCESS
        association.send(message.context.id, message.command.response(code))
        if report is not None:
            self.report = report
            self._has_come.set()
            self.wake_up.wake()

    def _parsed(self, message: Message) -> CommitmentReport | None:
        """The report to our request, None for another or none at all. Raises AssociationLost."""
        longest = 2 * len(self._request.references) * BYTES_PER_REFERENCE + BYTES_BESIDE
        try:
            return parse_report(message.read(longest), message.context.transfer_syntax, self._request)
        except AssociationLost:
            raise
        except PacsError:
            message.drain()
            return None

    def wait(self, seconds: float) -> None:
        """Wait until the report has come, for at most so many seconds."""
        self._has_come.wait(max(0.0, seconds))


_NOT_OURS = 0x0110
"""Processing failure: the report is to another request."""


def _reported(
    peer: Peer, request: CommitmentRequest, reports: _Reports, timeout: float, *, listens: bool
) -> CommitmentReport:
    """Ask, and wait for the report. Raises as `commit`."""
    association = associate(peer, [(STORAGE_COMMITMENT, SERVICE_SYNTAXES)])
    try:
        serving = {int(CommandField.N_EVENT_REPORT): reports.take}
        requestor = Requestor(association, peer.deadlines.response, serving, reports.wake_up)
        _ask(requestor, request)
        deadline = time.monotonic() + timeout
        _await(requestor, reports, deadline, listens=listens)
    finally:
        association.release(peer.deadlines.release)
    if reports.report is None:
        raise PeerTimeout(f"The peer has not reported on the storage commitment within {timeout:g} seconds{_MENDING}")
    return reports.report


_MENDING = ": does it report on an association of its own, to a port that it has listed for our AE title?"


def _ask(requestor: Requestor, request: CommitmentRequest) -> None:
    """Send the request and see that it is taken. Raises NotSupported, OperationFailed, AssociationLost."""
    context = requestor.context(STORAGE_COMMITMENT)
    command = Command.action(
        requestor.next_id(), STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, REQUEST_STORAGE_COMMITMENT
    )
    exchange = requestor.send(context, command, encode_request(request, context.transfer_syntax))
    check(Service.COMMIT, exchange.final().command)


def _await(requestor: Requestor, reports: _Reports, deadline: float, *, listens: bool) -> None:
    """Wait until the report has come or its time is over. Raises AssociationLost where none can come any more."""
    while reports.report is None and time.monotonic() < deadline:
        try:
            requestor.listen(deadline - time.monotonic())
        except PeerTimeout:
            return
        except AssociationLost:
            if not listens:
                raise AssociationLost(f"The peer ended the association before its report{_MENDING}") from None
            reports.wait(deadline - time.monotonic())
            return
