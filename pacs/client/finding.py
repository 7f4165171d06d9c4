"""`echo` and `find`."""

import time
from collections.abc import Generator, Iterable

from pydicom import Dataset

from pacs.client.identifiers import Identifier, Level, Model, data_set_of, encoded, root_of, sop_class_of, with_level
from pacs.client.peer import Peer, associate, peer_of
from pacs.client.status_errors import check
from pacs.dicom.identifier import decode
from pacs.dicom.levels import DimseOperation
from pacs.dimse.messages.command import CommandField
from pacs.dimse.messages.status import Service
from pacs.dimse.scu import Exchange, Requestor, verify
from pacs.dimse.server.acceptor_policy import FIND_BYTES, SERVICE_SYNTAXES, VERIFICATION
from pacs.errors import InvalidArgument

Extended = Iterable[str] | bytes
"""What is proposed in SOP Class Extended Negotiation (PS3.4 C.5.1.1): names of `FIND_BYTES`, or the bytes."""


def echo(peer: Peer | str) -> float:
    """Ask for a C-ECHO: the seconds from request to response, association aside.

    Raises DestinationUnreachable where there is no association or no Verification, AssociationLost, OperationFailed.
    """
    peer = peer_of(peer)
    association = associate(peer, [(VERIFICATION, SERVICE_SYNTAXES)])
    try:
        began = time.monotonic()
        status = verify(Requestor(association, peer.deadlines.response))
        seconds = time.monotonic() - began
    finally:
        association.release(peer.deadlines.release)
    check(Service.ECHO, status)
    return seconds


def find(
    peer: Peer | str,
    identifier: Identifier,
    *,
    level: Level = None,
    model: Model = "study",
    limit: int | None = None,
    extended: Extended = (),
) -> Generator[Dataset, None, None]:
    """Ask for a C-FIND: each match as it arrives, at most `limit`.

    It associates when the first match is asked for. Whoever stops before the last one, by closing the generator or
    leaving a loop over it, cancels: C-CANCEL is sent, the final response awaited (`Deadlines.cancel`) and the
    association released. An exception in the loop keeps the generator until it has been handled:
    `with contextlib.closing(find(...)) as matches` does not wait for that.

    Raises InvalidArgument at once; later DestinationUnreachable, NotSupported where the information model is refused,
    AssociationLost, OperationFailed for a failure status, UndecodableDataSet.
    """
    found = data_set_of(identifier)
    with_level(found, level, root_of(model))
    if limit is not None and limit < 1:
        raise InvalidArgument(f"A limit is at least 1, not {limit}")
    return _matches(peer_of(peer), found, sop_class_of(model, DimseOperation.FIND), limit, _proposed(extended))


def _proposed(extended: Extended) -> bytes:
    """The Service-class-application-information that proposes something. Raises InvalidArgument."""
    if isinstance(extended, bytes):
        return extended
    wanted, known = set(extended), [name for name, _ in FIND_BYTES]
    if unknown := wanted.difference(known):
        raise InvalidArgument(f"What can be negotiated is {', '.join(known)}, not {', '.join(sorted(unknown))}")
    return bytes(name in wanted for name in known) if wanted else b""


def _matches(
    peer: Peer, identifier: Dataset, sop_class: str, limit: int | None, extended: bytes
) -> Generator[Dataset, None, None]:
    association = associate(peer, [(sop_class, SERVICE_SYNTAXES)], extended={sop_class: extended} if extended else None)
    try:
        requestor = Requestor(association, peer.deadlines.response)
        context = requestor.context(sop_class)
        exchange = requestor.ask(CommandField.C_FIND, context, encoded(identifier, context.transfer_syntax), priority=0)
        try:
            yield from _answers(exchange, limit)
        finally:
            exchange.abandon(peer.deadlines.cancel)
    finally:
        association.release(peer.deadlines.release)


def _answers(exchange: Exchange, limit: int | None) -> Generator[Dataset, None, None]:
    """The matches that an exchange brings; the limit cancels as soon as it is reached."""
    count = 0
    for response in exchange.responses():
        if exchange.is_over:
            check(Service.FIND, response.command)
            return
        if response.data is None:
            continue
        match = decode(response.data, response.context.transfer_syntax)
        count += 1
        if count == limit:
            exchange.cancel()
        yield match
        if count == limit:
            return
