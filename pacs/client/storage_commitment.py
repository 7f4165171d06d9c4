"""`commit`: request storage commitment and wait for the report (PS3.4 Annex J, Push Model)."""

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
from pacs.client.peer import Deadlines, Peer, associated, peer_of
from pacs.client.receive.receiver import Handler, Listener
from pacs.client.receive.senders import SenderFilter, Senders, listen_addresses
from pacs.client.sources import sources_of
from pacs.client.status_errors import check
from pacs.dicom.commitment import (
    BYTES_PER_REFERENCE,
    REQUEST_STORAGE_COMMITMENT,
    CommitmentReport,
    CommitmentRequest,
    Failure,
    FailureReason,
    Reference,
    encode_request,
    parse_report,
)
from pacs.dicom.sop_classes import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from pacs.dicom.syntaxes import SERVICE_SYNTAXES
from pacs.dicom.values import is_uid
from pacs.dimse.association.association import Association
from pacs.dimse.messages import status
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.message import Message
from pacs.dimse.messages.status import Service
from pacs.dimse.scu import Requestor
from pacs.errors import AssociationLost, InvalidArgument, PacsError, PeerTimeout
from pacs.support.wakeup import WakeUp

Committable = Reference | tuple[str, str] | Dataset | Path | str
"""An instance by its SOP Class and SOP Instance UID, or as in `store`: a data set, a file, or a folder."""

REPORT_OVERHEAD_BYTES = 4096
"""Maximum size of a report without its references."""


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
    """Request storage commitment from a peer and wait at most `timeout` seconds for its report.

    The report may arrive on the association of the request. With `port`, it may also arrive on a new association to
    that port, if the peer has our `ae_title` (the calling AE title if None) configured; `host` and `senders` are those
    of `move_and_store`. A reference that the report does not name has failed.

    Raises InvalidArgument for an argument that is no instance, DestinationUnreachable, NotSupported if the peer does
    not support storage commitment, OperationFailed if it refuses the request, PeerTimeout if no report arrives in time,
    and AssociationLost if the association ends before the report and no port is open.
    """
    peer = peer_of(peer)
    if ae_title is not None:
        peer = replace(peer, calling_ae_title=ae_title)
    request = CommitmentRequest(f"2.25.{uuid.uuid4().int}", tuple(dict.fromkeys(_references(what))))
    if not request.references:
        raise InvalidArgument("There is no instance to commit")
    with ExitStack() as stack:
        receiver = _ReportReceiver(request, stack.enter_context(WakeUp()))
        if port:
            hosts = listen_addresses(peer, senders, host, port)
            sender_filter = SenderFilter.of(peer, senders, peer.calling_ae_title)
            stack.enter_context(receiver.listener(hosts, port, sender_filter, peer.deadlines))
        report = _request_report(peer, request, receiver, timeout, listens=bool(port))
    return _committed(request, report)


def _committed(request: CommitmentRequest, report: CommitmentReport) -> Committed:
    """Return the result for each reference of the request; ignore others in the report."""
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
    """Yield the references of all items. Raises InvalidArgument."""
    if isinstance(what, Dataset | str | os.PathLike):
        found = sources_of([what if isinstance(what, Dataset) else Path(what)])
        if found.refused:
            raise InvalidArgument(f"{found.refused[0].what} is not an instance: {found.refused[0].comment}")
        yield from (Reference(each.sop_class_uid, each.sop_instance_uid) for each in found.instances)
    elif isinstance(what, tuple) and len(what) == 2 and all(isinstance(each, str) and is_uid(each) for each in what):
        yield Reference(*what)
    elif isinstance(what, Iterable):
        for each in what:
            yield from _references(each)
    else:
        raise InvalidArgument(f"Only references, data sets and files can be committed, not a {type(what).__name__}")


class _ReportReceiver:
    """Receives reports on any association and keeps the one for our request."""

    def __init__(self, request: CommitmentRequest, wake_up: WakeUp) -> None:
        self.wake_up = wake_up
        self._request = request
        self._has_report = threading.Event()
        self.report: CommitmentReport | None = None

    def listener(self, hosts: Sequence[str], port: int, sender_filter: SenderFilter, deadlines: Deadlines) -> Listener:
        """Return a listener for associations on which the peer reports as SCP of Storage Commitment."""
        handlers: dict[int, Handler] = {CommandField.N_EVENT_REPORT: self.handle}
        services = (STORAGE_COMMITMENT,)
        return Listener(
            hosts,
            port,
            handlers,
            sender_filter=sender_filter,
            deadlines=deadlines,
            services=services,
            peers_provide=services,
        )

    def handle(self, association: Association, message: Message) -> None:
        """Answer an N-EVENT-REPORT. A report for another request is refused, so that the peer sends it again later."""
        report = self._parse(message)
        code = _OTHER_REQUEST if report is None else status.SUCCESS
        association.send(message.context.id, message.command.response(code))
        if report is not None:
            self.report = report
            self._has_report.set()
            self.wake_up.wake()

    def _parse(self, message: Message) -> CommitmentReport | None:
        """Return the report for our request, None for any other message. Raises AssociationLost."""
        longest = 2 * len(self._request.references) * BYTES_PER_REFERENCE + REPORT_OVERHEAD_BYTES
        try:
            return parse_report(message.read(longest), message.context.transfer_syntax, self._request)
        except AssociationLost:
            raise
        except PacsError:
            message.drain()
            return None

    def wait(self, seconds: float) -> None:
        """Wait at most this time for the report."""
        self._has_report.wait(max(0.0, seconds))


_OTHER_REQUEST = 0x0110
"""Processing failure: the report belongs to another request."""


def _request_report(
    peer: Peer, request: CommitmentRequest, receiver: _ReportReceiver, timeout: float, *, listens: bool
) -> CommitmentReport:
    """Send the request and return the report. Raises as `commit`."""
    with associated(peer, [(STORAGE_COMMITMENT, SERVICE_SYNTAXES)]) as association:
        serving = {int(CommandField.N_EVENT_REPORT): receiver.handle}
        requestor = Requestor(association, peer.deadlines.response, serving, receiver.wake_up)
        _send_request(requestor, request)
        deadline = time.monotonic() + timeout
        _await_report(requestor, receiver, deadline, listens=listens)
    if receiver.report is None:
        raise PeerTimeout(f"The peer sent no storage commitment report within {timeout:g} seconds{_ADVICE}")
    return receiver.report


_ADVICE = ": if it reports on a new association, listen on the port that it has configured for our AE title"


def _send_request(requestor: Requestor, request: CommitmentRequest) -> None:
    """Send the request and check its response. Raises NotSupported, OperationFailed, AssociationLost."""
    context = requestor.context(STORAGE_COMMITMENT)
    command = Command.action(
        requestor.next_id(), STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, REQUEST_STORAGE_COMMITMENT
    )
    exchange = requestor.send(context, command, encode_request(request, context.transfer_syntax))
    check(Service.COMMIT, exchange.final().command)


def _await_report(requestor: Requestor, receiver: _ReportReceiver, deadline: float, *, listens: bool) -> None:
    """Wait for the report until the deadline. Raises AssociationLost if no report can arrive any more."""
    while receiver.report is None and time.monotonic() < deadline:
        try:
            requestor.listen(deadline - time.monotonic())
        except PeerTimeout:
            return
        except AssociationLost:
            if not listens:
                raise AssociationLost(f"The peer ended the association before its report{_ADVICE}") from None
            receiver.wait(deadline - time.monotonic())
            return
