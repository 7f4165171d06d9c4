"""The errors of this project: one class for each kind of failure.

They are independent of protocols. `pacs.dimse.messages.status` maps them to DIMSE status codes.

Every error has a `comment`, a sentence for the peer or user without patient data, and `tags`, the Data Elements at
fault (PS3.7 Annex C "Offending Element"), which may be empty.
"""

from collections.abc import Iterable, Sequence
from typing import Any


class PacsError(Exception):
    """The base class of the errors of this project."""

    sop_instance_uid = ""
    """Of an instance that was not stored because of this error, if its UID is known."""

    def __init__(self, comment: str, tags: Iterable[int] = ()) -> None:
        super().__init__(comment)
        self.comment = comment
        self.tags = tuple(tags)


class ConfigurationError(PacsError):
    """The configuration is not valid, or refers to something that does not exist."""


class Cancelled(PacsError):
    """The requestor cancelled the operation (C-CANCEL), or its association ended."""


class NotSupported(PacsError):
    """The server does not support the requested operation."""


class NoPixelData(NotSupported):
    """An instance has no pixel data to encode in a transfer syntax for compressed pixel data."""


class NotAuthorized(PacsError):
    """The peer is not authorized for the operation."""


# --- access control -----------------------------------------------------------------------------------------------


class CalledTitleUnknown(NotAuthorized):
    """The called AE title is not one of the server."""


class CallerUnknown(NotAuthorized):
    """The calling AE title may not associate, or not from this address, or not with this certificate."""


class UserRefused(NotAuthorized):
    """The user is missing, unknown, or not authenticated."""


# --- requests and data sets ---------------------------------------------------------------------------------------


class IdentifierError(PacsError):
    """The Identifier of a query or retrieve violates the rules of its information model (PS3.4 C.4)."""


class UndecodableDataSet(PacsError):
    """A data set cannot be decoded in its transfer syntax."""


class NotDICOM(UndecodableDataSet):
    """A file has neither File Meta Information nor a data set."""


class SOPClassMismatch(PacsError):
    """The data set is not of the SOP Class or SOP Instance in the command (PS3.4 B.2.3)."""


class SOPClassNotSupported(PacsError):
    """Instances of this SOP Class are not stored."""


class NotAnInstance(SOPClassNotSupported):
    """A file is a DICOMDIR, which lists instances and is none."""


class MissingUID(PacsError):
    """An instance has no valid Study, Series or SOP Instance UID."""


# --- duplicates --------------------------------------------------------------------------------------------------


class DuplicateInstance(PacsError):
    """The SOP Instance is already stored, and duplicates are rejected."""


class InstanceConflict(PacsError):
    """The SOP Instance is already stored with different content."""


# --- retrieves ---------------------------------------------------------------------------------------------------


class UnknownDestination(PacsError):
    """The move destination is not a configured peer."""


class DestinationUnreachable(PacsError):
    """The move destination does not accept an association."""


class PeerUnreachable(DestinationUnreachable):
    """Nothing answers at the address of the peer: it is off, or the network does not lead there."""


class EncryptionFailed(DestinationUnreachable):
    """The TLS handshake with the peer failed."""


class TooManyMatches(PacsError):
    """A query or retrieve selects more than the limit."""


# --- storage commitment ------------------------------------------------------------------------------------------


class CommitmentRequestError(PacsError):
    """A request for storage commitment has no Transaction UID or no list of instances (PS3.4 J.3.2)."""


class DuplicateTransaction(PacsError):
    """The peer already has an active transaction with this Transaction UID."""


class NoSuchInstance(PacsError):
    """The SOP Instance of an action is not one of this server."""


class NoSuchAction(PacsError):
    """The SOP Class does not have the requested action."""


# --- associations ------------------------------------------------------------------------------------------------


class AssociationRejected(DestinationUnreachable):
    """The peer answered our A-ASSOCIATE-RQ with A-ASSOCIATE-RJ; result, source and reason are those of PS3.8 9.3.4."""

    def __init__(self, comment: str, result: int, source: int, reason: int) -> None:
        super().__init__(comment)
        self.result = result
        self.source = source
        self.reason = reason


class AssociationLost(PacsError):
    """The association ended before the operation on it."""

    retrieved: Any = None
    """The `pacs.client.Retrieved` of a retrieve until then, None for other operations."""


class PeerTimeout(AssociationLost):
    """The peer did not send, receive or respond in time; the association was aborted."""


class ProtocolViolation(PacsError):
    """A peer violated PS3.7 or PS3.8, so that the rest of the association cannot be decoded."""


class HandshakeFailed(ProtocolViolation):
    """The TLS handshake with a requestor failed; it may have no certificate that is accepted."""


# --- recordings --------------------------------------------------------------------------------------------------


class RecordingUnusable(PacsError):
    """A file is not a recording of associations, or is incomplete."""


# --- client ---------------------------------------------------------------------------------------------------------


class InvalidArgument(PacsError, ValueError):
    """An argument of a function of `pacs.client` is not valid; nothing was sent."""


class TimeLimitReached(PeerTimeout):
    """A retrieve did not end within its time limit; `retrieved` has what arrived."""

    def __init__(self, retrieved: Any = None) -> None:
        super().__init__("The retrieve did not end within its time limit (max_time, --max-time)")
        self.retrieved = retrieved


class StopNow(KeyboardInterrupt):
    """A KeyboardInterrupt after which the client does not wait for the peer any more, not even after a C-CANCEL."""


class OperationFailed(PacsError):
    """An operation of a peer ended with a failure or warning status, or fewer instances arrived than it says it sent.

    `operation` is its name, such as "C-FIND", `status` the Status (0000,0900), `meaning` its meaning in the standard.
    `mending` says how to correct it, '' if unknown. `cause` is what this client refused, '' for nothing; the text
    begins with it, because the status only follows from it. `retrieved` is the `pacs.client.Retrieved` of a retrieve
    until the failure.
    """

    def __init__(
        self,
        operation: str,
        status: int,
        meaning: str,
        *,
        error_comment: str = "",
        offending_elements: Iterable[int] = (),
        failed_uids: Sequence[str] = (),
        mending: str = "",
        cause: str = "",
        retrieved: Any = None,
    ) -> None:
        quoted = f' ("{error_comment}")' if error_comment else ""
        failed = f"; {len(failed_uids)} failed" if failed_uids else ""
        before = f": {cause}; it" if cause else ""
        sentence = f"{operation}{before} ended with status 0x{status:04X}, {meaning}{quoted}{failed}"
        super().__init__(f"{sentence}: {mending}" if mending else sentence, offending_elements)
        self.operation = operation
        self.status = status
        self.meaning = meaning
        self.error_comment = error_comment
        self.failed_uids = tuple(failed_uids)
        self.mending = mending
        self.cause = cause
        self.retrieved = retrieved

    @property
    def offending_elements(self) -> tuple[int, ...]:
        """The tags of Offending Element (0000,0901)."""
        return self.tags


class NothingFound(PacsError):
    """A query at the peer has no matches."""


class AmbiguousSeries(PacsError):
    """Several series at the peer match, where one was expected.

    `candidates` are `pacs.client.Candidate`s. The text of the error lists them without Patient IDs; `comment` does not.
    """

    MOST_LISTED = 20
    """Number of candidates in the text; `candidates` has all."""

    def __init__(self, candidates: Iterable[Any]) -> None:
        self.candidates = tuple(candidates)
        super().__init__(f"{len(self.candidates)} series match: add another key")

    def __str__(self) -> str:
        is_one_more = len(self.candidates) == self.MOST_LISTED + 1  # which takes no more room than saying so
        listed = [f"  {each}" for each in self.candidates[: self.MOST_LISTED + is_one_more]]
        more = len(self.candidates) - len(listed)
        return "\n".join(
            [f"{self.comment}, for example SeriesInstanceUID", *listed, *([f"  and {more} more"] if more else [])]
        )


class PackageMissing(PacsError, ImportError):
    """A package that an optional part of the client needs is not installed."""


class NotAVolume(PacsError):
    """The images of a series do not form one volume; the text says why, and what to do."""


# --- the archive itself -------------------------------------------------------------------------------------------


class OutOfResources(PacsError):
    """The archive lacks a resource: disk space, database, or a limit is reached. A later attempt may succeed."""


class TooManyAssociations(OutOfResources):
    """The limit of associations is reached, in total or for one peer."""


class ServerStopping(OutOfResources):
    """The server is stopping, and begins nothing new."""


class IndexUnavailable(OutOfResources):
    """The database of the index does not respond in time."""


class StorageUnavailable(OutOfResources):
    """The file store cannot be read or written."""


class InstanceInUse(StorageUnavailable):
    """Another operation stores, adds to the index or deletes the file of an instance, and does not end in time."""


class InstanceUnreadable(PacsError):
    """A stored instance is missing, truncated, damaged or cannot be read."""


class InstanceMissing(InstanceUnreadable):
    """The file of a stored instance is missing."""


class InstanceDamaged(InstanceUnreadable):
    """The file of a stored instance differs from what was received."""


class UndecodablePixelData(PacsError):
    """The pixel data of an instance cannot be decoded: it is damaged, or contradicts its attributes."""


class SchemaMismatch(PacsError):
    """The database schema of the index is that of another version of pacs."""
