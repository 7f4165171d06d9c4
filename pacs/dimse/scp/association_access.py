"""Access of associations by the rules of `services.access` and `services.users`."""

from pacs.dimse.association.establishment import CallingAE
from pacs.dimse.upper.user_information import UserIdentity
from pacs.services import access, users

_NAME, _NAME_AND_PASSCODE, _TOKEN = 1, 2, 5
"""The User-Identity-Types that are supported (PS3.7 D.3.3.7)."""


class AssociationAccess:
    """The access check of an acceptor policy, by the rules of `services.access`."""

    def __init__(self, service: access.Access) -> None:
        self._service = service

    def admit(self, caller: CallingAE) -> None:
        """Check that a caller may associate. Raises NotAuthorized."""
        self._service.admit(
            access.AssociationRequestor(
                ae_title=caller.ae_title,
                called_ae_title=caller.called_ae_title,
                address=caller.address,
                certificate=caller.certificate,
            )
        )


def credentials(identity: UserIdentity) -> users.Credentials:
    """Return the credentials in a user identity. Kerberos (3), SAML (4) and what is no text are not supported."""
    try:
        primary, secondary = identity.primary.decode(), identity.secondary.decode()
    except UnicodeDecodeError:
        return users.Credentials()
    if identity.type == _NAME:
        return users.Credentials(name=primary)
    if identity.type == _NAME_AND_PASSCODE:
        return users.Credentials(name=primary, passcode=secondary)
    return users.Credentials(token=primary) if identity.type == _TOKEN else users.Credentials()
