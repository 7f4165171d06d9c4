"""The SCU side, for the client: requests on an association to a peer, and a complete C-ECHO."""

from pacs.dicom.sop_classes import VERIFICATION
from pacs.dicom.syntaxes import SERVICE_SYNTAXES
from pacs.dimse.association.association import AssociationLimits
from pacs.dimse.association.establishment import Protection, request
from pacs.dimse.messages.command import CommandField
from pacs.dimse.scu.requests import DimseResponse, Exchange, Requestor, Serve
from pacs.errors import DestinationUnreachable, NotSupported

__all__ = ["DimseResponse", "Exchange", "Requestor", "Serve", "echo", "verify"]


def echo(
    host: str,
    port: int,
    *,
    calling_ae_title: str,
    called_ae_title: str,
    timeout: float,
    protection: Protection | None = None,
) -> None:
    """Associate, send a C-ECHO (PS3.4 A.4), release; each step may take `timeout` seconds.

    Raises AssociationRejected; DestinationUnreachable when the peer does not answer or refuses Verification; and
    AssociationLost when the association ends before the response.
    """
    association = request(
        host,
        port,
        calling_ae_title=calling_ae_title,
        called_ae_title=called_ae_title,
        contexts=[(VERIFICATION, SERVICE_SYNTAXES)],
        limits=AssociationLimits(connect=timeout, negotiation=timeout, message=timeout, write=timeout),
        protection=protection,
    )
    try:
        status = verify(Requestor(association, timeout))
    finally:
        association.release(timeout)
    if status != 0:
        raise DestinationUnreachable(f"The peer answers C-ECHO with status 0x{status:04X}")


def verify(requestor: Requestor) -> int:
    """Send a C-ECHO and return its status. Raises DestinationUnreachable without Verification, AssociationLost."""
    try:
        context = requestor.context(VERIFICATION)
    except NotSupported:
        raise DestinationUnreachable("The peer associates, but refuses Verification") from None
    return requestor.ask(CommandField.C_ECHO, context).final().command.status
