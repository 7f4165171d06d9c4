"""Why two AEs do not come together, on which side that is mended, and what to enter there."""

from dataclasses import dataclass

from pacs.errors import AssociationLost, AssociationRejected

CALLED_UNKNOWN, CALLER_UNKNOWN = (1, 1, 7), (1, 1, 3)
"""Result, source and reason of PS3.8 9.3.4: the called, or the calling, AE title is not recognized."""

BUSY = ((2, 3, 1), (2, 3, 2))
"""Temporary congestion, and a local limit that is exceeded."""


@dataclass(frozen=True, slots=True)
class Ourselves:
    """What others have to know of us: `port` is where we listen, None where we only call."""

    ae_title: str
    port: int | None = None

    def __str__(self) -> str:
        listens = "" if self.port is None else f", port {self.port}"
        return f"AE title {self.ae_title}, the address of this machine{listens}"


def rejected(error: AssociationRejected, us: Ourselves, called: str, *, where: str) -> str:
    """Which of two AE titles does not fit, on which side, and what to enter there.

    `called` is the AE title we called, `where` the place that we have it from, in words that end a sentence.
    """
    triplet = (error.result, error.source, error.reason)
    if triplet in BUSY:
        return f"{error.comment}: try again later"
    if triplet == CALLED_UNKNOWN:
        return f"it does not go by the AE title {called}: look up the one it has, and change {where}"
    if triplet == CALLER_UNKNOWN:
        return f"it does not know us: enter there a peer with\n    {us}"
    return f"{error.comment}; where it keeps a list of peers, ours is\n    {us}"


def aborted(error: AssociationLost, us: Ourselves) -> str:
    """What an association that was ended in the middle may mean: Orthanc does so to who is not in its table."""
    if "listed at the peer" not in error.comment:
        return error.comment
    return f"{error.comment} If not, enter there a peer with\n    {us}"


def not_a_destination(us: Ourselves) -> str:
    """What to do so that a PACS can send to us."""
    return f"to have it send here (C-MOVE), enter there a move destination with\n    {us}"
