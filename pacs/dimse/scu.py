"""What we ask of other AEs: so far a C-ECHO."""

from pacs.dimse.association import Association, Limits
from pacs.dimse.command import Command, CommandField
from pacs.dimse.establishment import Protection, request
from pacs.dimse.negotiation import SERVICE_SYNTAXES, VERIFICATION
from pacs.errors import AssociationLost, DestinationUnreachable


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
        _verify(association, timeout)
    finally:
        association.release(timeout)


def _verify(association: Association, timeout: float) -> None:
    context = next(iter(association.contexts), None)
    if context is None:
        raise DestinationUnreachable("The peer associates, but refuses Verification")
    association.send(context, Command.request(CommandField.C_ECHO, 1, VERIFICATION))
    answer = association.receive(timeout)
    if answer is None:
        raise AssociationLost("The peer ended the association without an answer")
    if answer.command.status != 0:
        raise DestinationUnreachable(f"The peer answers C-ECHO with status 0x{answer.command.status:04X}")
