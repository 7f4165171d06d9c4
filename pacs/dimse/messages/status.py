"""The status of each error, by service; `pacs.dicom.status` has the table of all status codes.

Codes of the ranges A7xx, A9xx and Cxxx are for each implementation to assign; the conformance statement prints them
from here.
"""

from dataclasses import dataclass

from pacs import errors
from pacs.dicom.status import (
    CANCEL,
    COERCION,
    IDENTIFIER_DOES_NOT_MATCH,
    MOVE_DESTINATION_UNKNOWN,
    NOT_AUTHORIZED,
    PENDING,
    PENDING_WITH_UNSUPPORTED_KEYS,
    SOP_CLASS_NOT_SUPPORTED,
    STORE_WARNINGS,
    SUBOPERATIONS_FAILED,
    SUBOPERATIONS_WARNING,
    SUCCESS,
    UNRECOGNIZED_OPERATION,
    Service,
)
from pacs.dimse.messages.command import MAX_ERROR_COMMENT

__all__ = [
    "CANCEL",
    "COERCION",
    "PENDING",
    "PENDING_WITH_UNSUPPORTED_KEYS",
    "SOP_CLASS_NOT_SUPPORTED",
    "STATUS_OF",
    "STORE_WARNINGS",
    "SUBOPERATIONS_FAILED",
    "SUBOPERATIONS_WARNING",
    "SUCCESS",
    "UNRECOGNIZED_OPERATION",
    "Refusal",
    "Service",
    "brief",
    "refusal",
    "unexpected",
]

_EVERYWHERE: dict[type[errors.PacsError], int] = {
    errors.NotAuthorized: NOT_AUTHORIZED,
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
    errors.IdentifierError: IDENTIFIER_DOES_NOT_MATCH,
    errors.TooManyMatches: 0xA700,
}

_RETRIEVE: dict[type[errors.PacsError], int] = {
    errors.IdentifierError: IDENTIFIER_DOES_NOT_MATCH,
    errors.TooManyMatches: IDENTIFIER_DOES_NOT_MATCH,
    errors.OutOfResources: 0xA701,
    errors.DestinationUnreachable: SUBOPERATIONS_FAILED,
    errors.UnknownDestination: MOVE_DESTINATION_UNKNOWN,
}

_COMMIT: dict[type[errors.PacsError], int] = {
    errors.NotAuthorized: NOT_AUTHORIZED,
    errors.NoSuchInstance: 0x0112,
    errors.CommitmentRequestError: 0x0115,
    errors.NoSuchAction: 0x0123,
    errors.DuplicateTransaction: 0x0131,
    errors.OutOfResources: 0x0213,
    errors.Cancelled: CANCEL,
    errors.PacsError: 0x0110,
}
"""PS3.7 10.1.4.1.10 has no ranges for own codes; 0131 is the Failure Reason of PS3.3 C.14.1.1 for the same error."""

STATUS_OF: dict[Service, dict[type[errors.PacsError], int]] = {
    Service.ECHO: _EVERYWHERE,
    Service.STORE: _EVERYWHERE | _STORE,
    Service.FIND: _EVERYWHERE | _QUERY,
    Service.MOVE: _EVERYWHERE | _RETRIEVE,
    Service.GET: _EVERYWHERE | _RETRIEVE,
    Service.COMMIT: _COMMIT,
}
"""The status of each error, by service; an error class not listed has that of its nearest base class."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The status, Error Comment (0000,0902) and Offending Element (0000,0901) of a failure response.

    `reason` is the comment in full, for the log.
    """

    status: int
    comment: str
    tags: tuple[int, ...]
    reason: str = ""


def unexpected(service: Service) -> Refusal:
    """Return the response to an unexpected exception: the peer learns no details."""
    comment = "Unable to process, see the server's log"
    return Refusal(0x0110 if service is Service.COMMIT else 0xC001, comment, (), comment)


def refusal(service: Service, error: errors.PacsError) -> Refusal:
    """Return the response of `service` to `error`."""
    table = STATUS_OF[service]
    status = next(table[base] for base in type(error).__mro__ if base in table)
    if status == CANCEL:
        return Refusal(CANCEL, "", ())  # without related fields (PS3.4 Tables C.4-1 to C.4-3)
    return Refusal(status, brief(error.comment), error.tags, error.comment)


def brief(comment: str) -> str:
    """Return what fits into an Error Comment: of a longer text the part before a semicolon."""
    return comment if len(comment) <= MAX_ERROR_COMMENT else comment.partition("; ")[0]
