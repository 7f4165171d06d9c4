"""User identity negotiation (PS3.7 D.3.3.7): what an item says, as credentials of the core."""

from pacs.dimse.upper.user_information import UserIdentity
from pacs.services.users import Credentials

_NAME, _NAME_AND_PASSCODE, _TOKEN = 1, 2, 5


def credentials(identity: UserIdentity) -> Credentials:
    """What the requestor said of its user. Kerberos (3) and SAML (4), and what is no text, are nothing usable."""
    try:
        primary, secondary = identity.primary.decode(), identity.secondary.decode()
    except UnicodeDecodeError:
        return Credentials()
    if identity.type == _NAME:
        return Credentials(name=primary)
    if identity.type == _NAME_AND_PASSCODE:
        return Credentials(name=primary, passcode=secondary)
    return Credentials(token=primary) if identity.type == _TOKEN else Credentials()
