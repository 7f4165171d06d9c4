"""What we ask of other AEs: requests on an association of ours, and a C-ECHO from beginning to end."""

from pacs.dicom.sop_classes import VERIFICATION
from pacs.dicom.syntaxes import SERVICE_SYNTAXES
from pacs.dimse.association.association import Limits
from pacs.dimse.association.establishment import Protection, request
from pacs.dimse.messages.command import CommandField
from pacs.dimse.scu.requests import Exchange, Requestor, Response, Serve
from pacs.errors import DestinationUnreachable, NotSupported

__all__ = ["Exchange", "Requestor", "Response", "Serve", "echo", "verify"]


def echo(
    host: str,
    port: int,
    *,
    calling_ae_title: str,
    called_ae_title: str,
    timeout: float,
    protection: Protection | None = None,
) -> None:
    """Associate, C-ECHO (PS3.4 A.4), release; each step may take `timeout` seconds.

    Raises AssociationRejected, DestinationUnreachable where nobody answers or Verification is refused, and
    AssociationLost where the association ends before the answer.
    """
    association = request(
        host,
        port,
        calling_ae_title=calling_ae_title,
        called_ae_title=called_ae_title,
        contexts=[(VERIFICATION, SERVICE_SYNTAXES)],
        limits=Limits(connect=timeout, negotiation=timeout, message=timeout, write=timeout),
        protection=protection,
    )
    try:
        status = verify(Requestor(association, timeout))
    finally:
        association.release(timeout)
    if status != 0:
        raise DestinationUnreachable(f"The peer answers C-ECHO with status 0x{status:04X}")


def verify(requestor: Requestor) -> int:
    """Ask for a C-ECHO; its status. Raises DestinationUnreachable where Verification is refused, AssociationLost."""
    try:
        context = requestor.context(VERIFICATION)
    except NotSupported:
        raise DestinationUnreachable("The peer associates, but refuses Verification") from None
    return requestor.ask(CommandField.C_ECHO, context).final().command.status
