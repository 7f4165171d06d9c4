"""Hints for failed associations: which side to change, and the values to enter there."""

from dataclasses import dataclass

from pacs.errors import AssociationLost, AssociationRejected, PacsError, PeerUnreachable

CALLED_UNKNOWN, CALLER_UNKNOWN = (1, 1, 7), (1, 1, 3)
"""Result, source and reason (PS3.8 9.3.4): called, or calling, AE title not recognized."""

USER_REFUSED = ((1, 2, 1), (2, 2, 1))
"""No reason given by the ACSE, which refuses a User Identity (PS3.7 D.3.3.7)."""

BUSY = ((2, 3, 1), (2, 3, 2))
"""Temporary congestion, and local limit exceeded."""

UNREACHABLE = "check host and port, and that the peer is running"


@dataclass(frozen=True, slots=True)
class LocalAE:
    """The values to enter at a peer; `port` is None for a client that does not listen."""

    ae_title: str
    port: int | None = None

    def __str__(self) -> str:
        listens = "" if self.port is None else f", port {self.port}"
        return f"AE title {self.ae_title}, the address of this host{listens}"


def rejected(error: AssociationRejected, us: LocalAE, called: str, *, where: str) -> str:
    """Return a hint for a rejected association: which AE title is wrong, and where to change it.

    `called` is the called AE title, `where` says where it is configured, as the end of a sentence.
    """
    triplet = (error.result, error.source, error.reason)
    if triplet in BUSY:
        return f"{error.comment}: try again later"
    if triplet == CALLED_UNKNOWN:
        return (
            f"the peer does not accept the called AE title {called!r}; look up its AE title there, and change {where}"
        )
    if triplet == CALLER_UNKNOWN:
        return f"the peer does not accept the calling AE title {us.ae_title!r}; add it at the peer with\n    {us}"
    if triplet in USER_REFUSED:
        return (
            f"{error.comment}: the peer requires a user, or refuses this one or the passcode; "
            "see --user, --passcode-file and --token of `pacs echo`"
        )
    return f"{error.comment}; if the peer has a list of known AEs, add this AE there with\n    {us}"


def with_hint(error: PacsError) -> str:
    """Return the comment of an error that ends a command, with what to check if it is a peer that is off."""
    return f"{error.comment}; {UNREACHABLE}" if isinstance(error, PeerUnreachable) else error.comment


def aborted(error: AssociationLost, us: LocalAE) -> str:
    """Return a hint for an aborted association: Orthanc aborts those of AEs that are not in its table."""
    if "listed at the peer" not in error.comment:
        return error.comment
    return f"{error.comment} If not, add it at the peer with\n    {us}"


def not_a_destination(us: LocalAE) -> str:
    """Return what to enter at a PACS so that it can send to this AE."""
    return f"to receive from it by C-MOVE, add a move destination at the peer with\n    {us}"
