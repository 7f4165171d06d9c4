"""Association rejections (PS3.8 9.3.4): result, source and reason, and which error is rejected with which."""

from dataclasses import dataclass, replace

from pynetdicom.pdu_primitives import A_ASSOCIATE

from pacs import errors
from pacs.errors import PacsError


@dataclass(frozen=True, slots=True)
class Rejection:
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 9.3.4); `comment` is the sentence for our log."""

    result: int
    source: int
    reason: int
    comment: str


_REJECTED = "Association rejected: "
NO_REASON = Rejection(1, 1, 1, _REJECTED + "no reason given")
APPLICATION_CONTEXT_NOT_SUPPORTED = Rejection(1, 1, 2, _REJECTED + "application context name not supported")
CALLING_AE_NOT_RECOGNIZED = Rejection(1, 1, 3, _REJECTED + "calling AE title not recognized")
CALLED_AE_NOT_RECOGNIZED = Rejection(1, 1, 7, _REJECTED + "called AE title not recognized")
PROTOCOL_VERSION_NOT_SUPPORTED = Rejection(1, 2, 2, _REJECTED + "protocol version not supported")
USER_IDENTITY_REFUSED = Rejection(2, 2, 1, _REJECTED + "user identity refused")
TEMPORARY_CONGESTION = Rejection(2, 3, 1, _REJECTED + "temporary congestion")
LOCAL_LIMIT_EXCEEDED = Rejection(2, 3, 2, _REJECTED + "local limit exceeded")

_REJECTIONS = {
    (each.result, each.source, each.reason): each
    for each in (
        NO_REASON,
        APPLICATION_CONTEXT_NOT_SUPPORTED,
        CALLING_AE_NOT_RECOGNIZED,
        CALLED_AE_NOT_RECOGNIZED,
        PROTOCOL_VERSION_NOT_SUPPORTED,
        USER_IDENTITY_REFUSED,
        TEMPORARY_CONGESTION,
        LOCAL_LIMIT_EXCEEDED,
    )
}

_REJECTION_OF: dict[type[PacsError], Rejection] = {
    errors.CalledTitleUnknown: CALLED_AE_NOT_RECOGNIZED,
    errors.CallerUnknown: CALLING_AE_NOT_RECOGNIZED,
    errors.UserRefused: USER_IDENTITY_REFUSED,
    errors.TooManyAssociations: LOCAL_LIMIT_EXCEEDED,
    errors.OutOfResources: TEMPORARY_CONGESTION,
}
"""The rejection of each error; an error class not listed has that of its nearest base class."""


def rejection(result: int | None, source: int | None, reason: int | None) -> Rejection:
    """Return the rejection that a peer sent, with its sentence."""
    triplet = (result or 0, source or 0, reason or 0)
    comment = _REJECTED + "by the peer, for the reason " + "/".join(map(str, triplet))
    return _REJECTIONS.get(triplet, Rejection(*triplet, comment))


def rejection_for(error: PacsError) -> Rejection:
    """Return how an association request is rejected for `error`; the comment, for our log, includes that of `error`."""
    found = next(_REJECTION_OF[base] for base in type(error).__mro__ if base in _REJECTION_OF)
    return replace(found, comment=f"{found.comment}: {error.comment}")


def rejecting(refused: Rejection) -> A_ASSOCIATE:
    """Return the primitive of an A-ASSOCIATE-RJ."""
    primitive = A_ASSOCIATE()
    primitive.result, primitive.result_source, primitive.diagnostic = refused.result, refused.source, refused.reason
    return primitive
