"""Every way the archive can fail: one class and one sentence each.

The core raises these and knows nothing of any protocol. Each mouth has one table that says which code an error is:
`pacs.dimse.messages.status` for DIMSE, later `web/problems` for HTTP.

Every error carries `comment`, a sentence for the peer that says how to mend it and never quotes patient data, and
`tags`, the Data Elements at fault (PS3.7 Annex C "Offending Element"), which may be empty.
"""

from collections.abc import Iterable, Sequence
from typing import Any


class PacsError(Exception):
    """The root of every failure this project raises on purpose."""

    def __init__(self, comment: str, tags: Iterable[int] = ()) -> None:
        super().__init__(comment)
        self.comment = comment
        self.tags = tuple(tags)


class ConfigurationError(PacsError):
    """The configuration cannot be used as it is."""


class Cancelled(PacsError):
    """The requester asked to stop (C-CANCEL) or is no longer there."""


class NotSupported(PacsError):
    """What was asked is understood and not offered by this server."""


class NotAuthorized(PacsError):
    """The peer may not do this."""


# --- who is not let in -------------------------------------------------------------------------------------------


class CalledTitleUnknown(NotAuthorized):
    """The AE title that was called is none of ours."""


class CallerUnknown(NotAuthorized):
    """The calling AE title may not associate, or not from there, or not with that certificate."""


class UserRefused(NotAuthorized):
    """The user did not say who it is, or could not show it."""


# --- what is wrong with a request --------------------------------------------------------------------------------


class IdentifierError(PacsError):
    """The Identifier of a query or retrieve breaks the rules of its information model (PS3.4 C.4)."""


class UndecodableDataSet(PacsError):
    """A data set cannot be decoded in the transfer syntax it was announced in."""


class SOPClassMismatch(PacsError):
    """The data set does not belong to the SOP Class or SOP Instance its command named (PS3.4 B.2.3)."""


class SOPClassNotSupported(PacsError):
    """Instances of this SOP Class are not kept here."""


class MissingUID(PacsError):
    """An instance names no Study, Series or SOP Instance UID, or one that is no UID."""


# --- duplicates --------------------------------------------------------------------------------------------------


class DuplicateInstance(PacsError):
    """The SOP Instance is known already and duplicates are rejected."""


class InstanceConflict(PacsError):
    """The SOP Instance is known already with other content."""


# --- retrieves ---------------------------------------------------------------------------------------------------


class UnknownDestination(PacsError):
    """The move destination is no AE title of the configured table."""


class DestinationUnreachable(PacsError):
    """The move destination is known and does not take an association."""


class EncryptionFailed(DestinationUnreachable):
    """The peer was reached, and no encryption was agreed on that both sides trust."""


class TooManyMatches(PacsError):
    """A query or a retrieve selects more than is allowed at once."""


# --- storage commitment ------------------------------------------------------------------------------------------


class CommitmentRequestError(PacsError):
    """A request for storage commitment has no Transaction UID or no list of instances (PS3.4 J.3.2)."""


class DuplicateTransaction(PacsError):
    """A transaction with this Transaction UID is under way for the peer already."""


class NoSuchInstance(PacsError):
    """The SOP Instance that is asked to do something is none of this server's."""


class NoSuchAction(PacsError):
    """The action that is asked for is none of its SOP Class."""


# --- associations ------------------------------------------------------------------------------------------------


class AssociationRejected(DestinationUnreachable):
    """The peer answered our A-ASSOCIATE-RQ with A-ASSOCIATE-RJ; result, source and reason are those of PS3.8 9.3.4."""

    def __init__(self, comment: str, result: int, source: int, reason: int) -> None:
        super().__init__(comment)
        self.result = result
        self.source = source
        self.reason = reason


class AssociationLost(PacsError):
    """The association ended, or had to be ended, before the exchange on it did."""


class PeerTimeout(AssociationLost):
    """The peer did not send, take or answer in time; the association was aborted."""


class ProtocolViolation(PacsError):
    """What came on an association breaks PS3.7 or PS3.8, so that nothing behind it could be understood either."""


# --- recordings --------------------------------------------------------------------------------------------------


class RecordingUnusable(PacsError):
    """A file is no recording of associations, or not a whole one."""


# --- what we ask of others --------------------------------------------------------------------------------------


class InvalidArgument(PacsError, ValueError):
    """Who calls `pacs.client` gave something that cannot be understood; nothing was sent."""


class OperationFailed(PacsError):
    """What we asked of a peer ended with another status than success, or with less than it says it sent.

    `operation` is "C-FIND" and so on, `status` the Status (0000,0900), `meaning` what the standard calls it. `mending`
    says what to do about it, '' where we do not know. `retrieved` is the `pacs.client.Retrieved` of a retrieve so far.
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
        retrieved: Any = None,
    ) -> None:
        said = f' ("{error_comment}")' if error_comment else ""
        failed = f"; {len(failed_uids)} failed" if failed_uids else ""
        sentence = f"{operation} ended with status 0x{status:04X}, {meaning}{said}{failed}"
        super().__init__(f"{sentence}: {mending}" if mending else sentence, offending_elements)
        self.operation = operation
        self.status = status
        self.meaning = meaning
        self.error_comment = error_comment
        self.failed_uids = tuple(failed_uids)
        self.mending = mending
        self.retrieved = retrieved

    @property
    def offending_elements(self) -> tuple[int, ...]:
        """The tags of Offending Element (0000,0901)."""
        return self.tags


class NothingFound(PacsError):
    """Nothing at the peer matches what was asked for."""


class AmbiguousSeries(PacsError):
    """Several series at the peer match what was asked for as one.

    `candidates` are `pacs.client.Candidate`s. The text lists them, patients' IDs aside; `comment` does not.
    """

    MOST_LISTED = 20
    """How many candidates the text lists; `candidates` has all."""

    def __init__(self, candidates: Iterable[Any]) -> None:
        self.candidates = tuple(candidates)
        super().__init__(f"{len(self.candidates)} series match: add another key")

    def __str__(self) -> str:
        listed = [f"  {each}" for each in self.candidates[: self.MOST_LISTED]]
        more = len(self.candidates) - len(listed)
        return "\n".join(
            [f"{self.comment}, for example SeriesInstanceUID", *listed, *([f"  and {more} more"] if more else [])]
        )


class NotAVolume(PacsError):
    """The images of a series do not make one volume: the text says why, and what to do."""


# --- what is wrong with us ---------------------------------------------------------------------------------------


class OutOfResources(PacsError):
    """The archive cannot do this now: no space, no database, too many at once. Trying again later may work."""


class TooManyAssociations(OutOfResources):
    """There are as many associations as there may be, in all or of one peer."""


class ServerStopping(OutOfResources):
    """The archive lets what runs end and begins nothing new."""


class IndexUnavailable(OutOfResources):
    """The index does not answer, or not in time."""


class StorageUnavailable(OutOfResources):
    """The file store cannot take or give bytes."""


class InstanceUnreadable(PacsError):
    """A stored instance is missing, shorter than it was, damaged or cannot be read."""


class InstanceMissing(InstanceUnreadable):
    """The file of a stored instance is not there."""


class InstanceDamaged(InstanceUnreadable):
    """The file of a stored instance does not hold what was received."""


class SchemaMismatch(PacsError):
    """The index was made by another version of the software than this one."""
