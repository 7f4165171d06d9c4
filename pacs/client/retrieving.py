"""`move`, `move_and_store` and `get`: retrieves, with what arrives here or goes elsewhere."""

from collections.abc import Iterable
from pathlib import Path
from ssl import SSLContext

from pacs.client.contexts import proposals_for
from pacs.client.identifiers import Identifier, Level, Model
from pacs.client.outcomes import OnProgress, Retrieved
from pacs.client.peer import Peer, check_ae_title, peer_of
from pacs.client.receive.receiver import Handler, Listener
from pacs.client.receive.senders import Door, Senders, listening_for
from pacs.client.receive.store_scp import Intake
from pacs.client.retrieve_operation import Asked, Retrieve, unheard
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
) -> Retrieved:
    """Have a PACS send what the identifier selects to a third AE, which it knows by its title, by C-MOVE.

    Each response has to come within `Deadlines.response`: give a PACS that sends no Pendings time for all of it. Raises
    InvalidArgument, DestinationUnreachable, NotSupported, AssociationLost, and OperationFailed for any end but success
    and warnings without a failed instance.
    """
    check_ae_title(destination)
    asked = Asked.of(identifier, level, model, DimseOperation.MOVE)
    peer = peer_of(peer)
    return Retrieve(peer, asked, Service.MOVE, on_progress or unheard, destination=destination).run_alone()


def move_and_store(
    peer: Peer | str,
    identifier: Identifier,
    *,
    to: Path | str,
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
) -> Retrieved:
    """Have a PACS send what the identifier selects to us: by C-MOVE, to a storage SCP of our own meanwhile.

    `ae_title` (the calling AE title where None) is what the PACS knows us by, with `port` and the host of this machine.
    Only the host of the PACS may send, and only to that title; `senders` are other addresses or networks that may as
    well, or "anyone". `host` is the address of ours to listen on; where '' the one by which the PACS is reached, or all
    of IPv4 where others may send. With `tls` (a context for a server) associations are encrypted.

    After the final response it is waited until as many instances have arrived as the PACS announced, up to `wait`
    seconds after the last one. Where the PACS counts nothing, `wait` seconds pass before the first one, and `SETTLING`
    (or `wait`, if that is less) after the last.

    Raises InvalidArgument, DestinationUnreachable, NotSupported, AssociationLost, StorageUnavailable where the folder
    cannot take what comes, and OperationFailed for any end but success and warnings without a failed instance, for
    less than was announced, and for an instance that came twice with different content. Whatever it raises, it has
    cancelled what ran and listens no more.
    """
    peer = peer_of(peer)
    ae_title = ae_title or peer.calling_ae_title
    check_ae_title(ae_title)
    asked = Asked.of(identifier, level, model, DimseOperation.MOVE)
    hosts, door = listening_for(peer, senders, host, port), Door.of(peer, senders, ae_title)
    with WakeUp() as wake_up:
        intake = Intake(Path(to), overwrite=overwrite, asked=asked.uids, rung=wake_up.wake)
        handlers: dict[int, Handler] = {CommandField.C_STORE: intake.store}
        with Listener(hosts, port, handlers, door=door, deadlines=peer.deadlines, tls=tls) as listener:
            retrieve = Retrieve(
                peer, asked, Service.MOVE, on_progress or unheard, destination=ae_title, intake=intake, wake_up=wake_up
            )
            return retrieve.run_with(listener, wait)


def get(
    peer: Peer | str,
    identifier: Identifier,
    *,
    to: Path | str,
    on_progress: OnProgress | None = None,
    level: Level = None,
    model: Model = "study",
    sop_classes: Iterable[str] = (),
    overwrite: bool = False,
) -> Retrieved:
    """Retrieve what the identifier selects on the association that asks for it, by C-GET.

    An association has room for 127 contexts of Storage: `sop_classes` are those that are proposed, in all transfer
    syntaxes that fit; the usual ones where none are named. Raises as `move_and_store`.
    """
    peer = peer_of(peer)
    asked = Asked.of(identifier, level, model, DimseOperation.GET)
    intake = Intake(Path(to), overwrite=overwrite, asked=asked.uids)
    retrieve = Retrieve(peer, asked, Service.GET, on_progress or unheard, intake=intake)
    return retrieve.run_alone(proposals_for(tuple(sop_classes)))
