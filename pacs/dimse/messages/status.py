"""Status codes by name, and the one table that says which code an error of the core is on the wire.

PS3.7 Annex C gives the general codes, PS3.4 B.2.3, C.4.1.1.4, C.4.2.1.5, C.4.3.1.4 and J.3.2 those of each
service. Codes of a range (A7xx, A9xx, Cxxx) are ours to assign; the conformance statement prints them from here.
"""

from dataclasses import dataclass
from enum import Enum

from pacs import errors

SUCCESS = 0x0000
CANCEL = 0xFE00
PENDING = 0xFF00
PENDING_WITH_UNSUPPORTED_KEYS = 0xFF01
COERCION = 0xB000
SUBOPERATIONS_WARNING = 0xB000
SUBOPERATIONS_FAILED = 0xA702
SOP_CLASS_NOT_SUPPORTED = 0x0122
UNRECOGNIZED_OPERATION = 0x0211

STORE_WARNINGS = frozenset({0xB000, 0xB006, 0xB007, 0x0107, 0x0116})
"""The answers of a C-STORE sub-operation that count as warning (V5)."""


class Service(Enum):
    """The services whose responses carry a status."""

    ECHO = "C-ECHO"
    STORE = "C-STORE"
    FIND = "C-FIND"
    MOVE = "C-MOVE"
    GET = "C-GET"
    COMMIT = "N-ACTION"


_EVERYWHERE: dict[type[errors.PacsError], int] = {
    errors.NotAuthorized: 0x0124,
    errors.SOPClassNotSupported: SOP_CLASS_NOT_SUPPORTED,
    errors.OutOfResources: 0xA700,
    errors.Cancelled: CANCEL,
    errors.UndecodableDataSet: 0xC000,
    errors.NotSupported: 0xC002,
    errors.InstanceUnreadable: 0xC003,
    errors.PacsError: 0xC0FF,
}

_STORE: dict[type[errors.PacsError], int] = {
    errors.DuplicateInstance: 0x0111,
    errors.SOPClassMismatch: 0xA900,
    errors.MissingUID: 0xA901,
    errors.InstanceConflict: 0xC011,
}

_QUERY: dict[type[errors.PacsError], int] = {
    errors.IdentifierError: 0xA900,
    errors.TooManyMatches: 0xA700,
}

_RETRIEVE: dict[type[errors.PacsError], int] = {
    errors.IdentifierError: 0xA900,
    errors.TooManyMatches: 0xA900,
    errors.OutOfResources: 0xA701,
    errors.DestinationUnreachable: 0xA702,
    errors.UnknownDestination: 0xA801,
}

_COMMIT: dict[type[errors.PacsError], int] = {
    errors.NotAuthorized: 0x0124,
    errors.NoSuchInstance: 0x0112,
    errors.CommitmentRequestError: 0x0115,
    errors.NoSuchAction: 0x0123,
    errors.DuplicateTransaction: 0x0131,
    errors.OutOfResources: 0x0213,
    errors.Cancelled: CANCEL,
    errors.PacsError: 0x0110,
}
"""PS3.7 10.1.4.1.10 has no ranges of our own; 0131 is the Failure Reason of PS3.3 C.14.1.1 for the same."""

STATUS_OF: dict[Service, dict[type[errors.PacsError], int]] = {
    Service.ECHO: _EVERYWHERE,
    Service.STORE: _EVERYWHERE | _STORE,
    Service.FIND: _EVERYWHERE | _QUERY,
    Service.MOVE: _EVERYWHERE | _RETRIEVE,
    Service.GET: _EVERYWHERE | _RETRIEVE,
    Service.COMMIT: _COMMIT,
}
"""Which status an error is, by service; an error class not listed takes the code of its nearest base class."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a failure response says: its status, Error Comment (0000,0902) and Offending Element (0000,0901)."""

    status: int
    comment: str
    tags: tuple[int, ...]


def unexpected(service: Service) -> Refusal:
    """The answer of `service` when our own code failed: nothing of the failure is told to the peer."""
    return Refusal(0x0110 if service is Service.COMMIT else 0xC001, "Unable to process, see the server's log", ())


def refusal(service: Service, error: errors.PacsError) -> Refusal:
    """How `service` answers `error`."""
    table = STATUS_OF[service]
    status = next(table[base] for base in type(error).__mro__ if base in table)
    if status == CANCEL:
        return Refusal(CANCEL, "", ())  # has no related fields (PS3.4 Tables C.4-1 to C.4-3)
    return Refusal(status, error.comment, error.tags)
