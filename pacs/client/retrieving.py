"""`move`, `move_and_store` and `get`."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from ssl import SSLContext

from pacs.client.completeness import expected
from pacs.client.contexts import proposals_for
from pacs.client.identifiers import Level, Model
from pacs.client.outcomes import OnProgress, Retrieved
from pacs.client.peer import Peer, check_ae_title, peer_of
from pacs.client.receive.receiver import Handler, Listener
from pacs.client.receive.senders import SenderFilter, Senders, listen_addresses
from pacs.client.receive.store_scp import StoreSCP
from pacs.client.retries import persistently
from pacs.client.retrieve_operation import RetrieveOperation, RetrieveRequest, ignore_progress
from pacs.client.without_folder import may_have_no_folder
from pacs.dicom.identifier_builder import Identifier
from pacs.dicom.levels import DimseOperation
from pacs.dimse.messages.command import CommandField
from pacs.dimse.messages.status import Service
from pacs.support.wakeup import WakeUp


def move(
    peer: Peer | str,
    identifier: Identifier,
    *,
    destination: str,
    level: Level = None,
    model: Model = "study",
    on_progress: OnProgress | None = None,
    check: bool = False,
    max_time: float | None = None,
    retries: int = 0,
) -> Retrieved:
    """Ask a PACS to send the selected instances to a third AE (the move destination) by C-MOVE.

    Each response must arrive within `Deadlines.response`; for a PACS that sends no Pending responses, this is the time
    for the whole retrieve. `check`, `max_time` and `retries` are those of `get`; `check` compares the counts of the
    final response. Raises InvalidArgument, DestinationUnreachable, NotSupported, AssociationLost, and OperationFailed
    unless the final status is success or a warning without failed instances.
    """
    check_ae_title(destination)
    request = RetrieveRequest.of(identifier, level, model, DimseOperation.MOVE)

    def attempt(peer: Peer) -> Retrieved:
        return RetrieveOperation(
            peer,
            request,
            Service.MOVE,
            on_progress or ignore_progress,
            destination=destination,
            find_expected=partial(expected, peer, request.identifier, model),
            is_checked=check,
        ).run()

    return persistently(attempt, peer, max_time=max_time, retries=retries)


@may_have_no_folder
def move_and_store(
    peer: Peer | str,
    identifier: Identifier,
    *,
    to: Path | str | None = None,
    on_progress: OnProgress | None = None,
    level: Level = None,
    model: Model = "study",
    ae_title: str | None = None,
    host: str = "",
    port: int = 0,
    wait: float = 10.0,
    overwrite: bool = False,
    senders: Senders = "peer",
    tls: SSLContext | None = None,
    check: bool = False,
    max_time: float | None = None,
    retries: int = 0,
) -> Retrieved:
    """Ask a PACS to send the selected instances to this host by C-MOVE; a storage SCP runs here during the retrieve.

    They are written to the folder `to`; without it, the result has them as data sets (`Retrieved.datasets`).

    `ae_title` is the AE title under which the PACS knows this storage SCP (the calling AE title if None), at `port` of
    this host. Only the host of the PACS may connect, with that called AE title. `senders` allows other addresses or
    networks as well, or "anyone". `host` is the local address to listen on; if empty, the one that reaches the PACS, or
    all IPv4 addresses if other senders are allowed. `tls`, a server context, encrypts the incoming associations.

    After the final response, the call waits until the announced number of instances has arrived, at most `wait` seconds
    after the last arrival. If the PACS reports no counts, a C-FIND asks what should arrive; if it does not know either,
    the whole `wait` passes. `check`, `max_time` and `retries` are those of `get`.

    Raises InvalidArgument, DestinationUnreachable, NotSupported, AssociationLost, StorageUnavailable if the folder
    cannot be written, and OperationFailed unless the final status is success or a warning without failed instances;
    also for fewer instances than announced, and for an instance that arrived twice with different content. When it
    raises, the retrieve is cancelled and the port is closed.
    """
    peer = peer_of(peer)
    title = ae_title or peer.calling_ae_title
    check_ae_title(title)
    request = RetrieveRequest.of(identifier, level, model, DimseOperation.MOVE)
    assert to is not None, "the decorator gives a folder"
    folder = Path(to)

    def attempt(peer: Peer) -> Retrieved:
        hosts, sender_filter = listen_addresses(peer, senders, host, port), SenderFilter.of(peer, senders, title)
        with WakeUp() as wake_up:
            store_scp = StoreSCP(folder, overwrite=overwrite, requested=request.uids, on_arrival=wake_up.wake)
            handlers: dict[int, Handler] = {CommandField.C_STORE: store_scp.store}
            with Listener(
                hosts, port, handlers, sender_filter=sender_filter, deadlines=peer.deadlines, tls=tls
            ) as listener:
                retrieve = RetrieveOperation(
                    peer,
                    request,
                    Service.MOVE,
                    on_progress or ignore_progress,
                    destination=title,
                    store_scp=store_scp,
                    wake_up=wake_up,
                    find_expected=partial(expected, peer, request.identifier, model),
                    is_checked=check,
                )
                return retrieve.run_with_listener(listener, wait)

    return persistently(attempt, peer, max_time=max_time, retries=retries)


@may_have_no_folder
def get(
    peer: Peer | str,
    identifier: Identifier,
    *,
    to: Path | str | None = None,
    on_progress: OnProgress | None = None,
    level: Level = None,
    model: Model = "study",
    sop_classes: Iterable[str] = (),
    overwrite: bool = False,
    check: bool = False,
    max_time: float | None = None,
    retries: int = 0,
) -> Retrieved:
    """Retrieve the selected instances on the same association, by C-GET.

    They are written to the folder `to`; without it, the result has them as data sets (`Retrieved.datasets`).

    An association has room for 127 Storage contexts. `sop_classes` are proposed in all suitable transfer syntaxes;
    without them, the common Storage SOP Classes are proposed.

    With `check`, a C-FIND asks what should arrive, and the retrieve fails unless all of it has; without it, only if the
    PACS reports no counts. A retrieve that fails for a cause that may pass is repeated up to `retries` times, after 1,
    2, 4 ... 60 seconds. `max_time` limits the seconds of all this together.

    Raises as `move_and_store`; AssociationLost and OperationFailed have what arrived before as `retrieved`, and so has
    TimeLimitReached, an AssociationLost.
    """
    request, proposals = RetrieveRequest.of(identifier, level, model, DimseOperation.GET), tuple(sop_classes)
    assert to is not None, "the decorator gives a folder"
    folder = Path(to)

    def attempt(peer: Peer) -> Retrieved:
        retrieve = RetrieveOperation(
            peer,
            request,
            Service.GET,
            on_progress or ignore_progress,
            store_scp=StoreSCP(folder, overwrite=overwrite, requested=request.uids),
            find_expected=partial(expected, peer, request.identifier, model),
            is_checked=check,
        )
        return retrieve.run(proposals_for(proposals))

    return persistently(attempt, peer, max_time=max_time, retries=retries)
