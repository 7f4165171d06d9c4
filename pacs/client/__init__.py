"""A client for DICOM archives: verify, query, send and retrieve with one call each.

    from pacs import client

    for match in client.find("PACS@127.0.0.1:11112", {"PatientName": "DOE*", "StudyInstanceUID": ""}):
        client.move_and_store("PACS@127.0.0.1:11112", {"StudyInstanceUID": match.StudyInstanceUID}, to="downloads")

A peer is a `Peer` or a text like "PACS@127.0.0.1:11112". An identifier is a mapping of keywords or a pydicom data set;
without an explicit level, the level follows from its keys. Every wait has a deadline (`Deadlines`). Every failure
raises a `pacs.errors.PacsError` that says what happened. No part of the archive server is imported.
"""

from pacs.client.encryption import acceptor_tls, requestor_tls
from pacs.client.fetching import fetch
from pacs.client.finding import echo, find
from pacs.client.outcomes import Committed, NotStored, OnProgress, Progress, Retrieved, Transfer
from pacs.client.peer import Deadlines, Peer
from pacs.client.receive.receiver import Receiver, receiving
from pacs.client.receive.senders import Senders
from pacs.client.retrieving import get, move, move_and_store
from pacs.client.series.load import LeftOut, StillCompressed, WithoutPositions, load_datasets, load_series
from pacs.client.series.match import Candidate
from pacs.client.storage_commitment import commit
from pacs.client.storing import store
from pacs.dicom.commitment import Failure, Reference
from pacs.dicom.levels import QueryLevel, Root
from pacs.dimse.association.establishment import Protection
from pacs.errors import (
    AmbiguousSeries,
    AssociationRejected,
    DestinationUnreachable,
    InvalidArgument,
    NotAVolume,
    NothingFound,
    OperationFailed,
    PackageMissing,
)

__all__ = [
    "AmbiguousSeries",
    "AssociationRejected",
    "Candidate",
    "Committed",
    "Deadlines",
    "DestinationUnreachable",
    "Failure",
    "InvalidArgument",
    "LeftOut",
    "NotAVolume",
    "NotStored",
    "NothingFound",
    "OnProgress",
    "OperationFailed",
    "PackageMissing",
    "Peer",
    "Progress",
    "Protection",
    "QueryLevel",
    "Receiver",
    "Reference",
    "Retrieved",
    "Root",
    "Senders",
    "StillCompressed",
    "Transfer",
    "WithoutPositions",
    "acceptor_tls",
    "commit",
    "echo",
    "fetch",
    "find",
    "get",
    "load_datasets",
    "load_series",
    "move",
    "move_and_store",
    "receiving",
    "requestor_tls",
    "store",
]


def __dir__() -> list[str]:
    return sorted(__all__)
