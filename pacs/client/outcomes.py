"""What comes of what was asked: how far it is while it runs, and what there is in the end."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset, dcmread

from pacs.dicom.commitment import Failure, Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an operation is. What the peer does not say, or is not known yet, is None.

    `remaining`, `completed`, `failed` and `warning` are numbers of sub-operations in the peer's last response that had
    any; of a `store` they are of our own counting. `received` counts the instances that arrived here, `bytes` what
    arrived or was sent of data sets, `total` the instances there will be in all, `elapsed` the seconds since it began.
    """

    remaining: int | None = None
    completed: int | None = None
    failed: int | None = None
    warning: int | None = None
    received: int = 0
    bytes: int = 0
    total: int | None = None
    elapsed: float = 0.0


OnProgress = Callable[[Progress], object]
"""Told how far it is, in the thread that asked. What it raises cancels the operation, and comes out of it unchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """What a retrieve came to.

    `completed`, `failed` and `warning` are the counts of the final response (None where it has none), `failed_uids` the
    Failed SOP Instance UID List.
    """

    paths: tuple[Path, ...] = ()
    """The file of every instance that arrived, or was in the folder already, in order of arrival, each once."""
    skipped: tuple[Path, ...] = ()
    """Those of `paths` that were in the folder already, and were left as they are."""
    status: int = 0
    completed: int | None = None
    failed: int | None = None
    warning: int | None = None
    failed_uids: tuple[str, ...] = ()
    unasked: int = 0
    """How many instances came of another study, series or instance than was asked for: they were refused."""
    conflicts: tuple[str, ...] = ()
    """The UIDs of instances that came twice with different content: the first is kept, and the retrieve has failed."""
    bytes: int = 0
    """Of the data sets that arrived."""
    elapsed: float = 0.0

    def datasets(self) -> Iterator[Dataset]:
        """Each instance as pydicom reads it, one at a time."""
        return map(dcmread, self.paths)


@dataclass(frozen=True, slots=True)
class NotStored:
    """Something that was to be stored and was not: the status it was refused with, None where it was not sent."""

    what: Path | Dataset
    status: int | None
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What a store came to. What could not be sent or was refused is in `failed`."""

    completed: int = 0
    """Instances that were stored, those with a warning included."""
    warning: int = 0
    """Those of them that were stored with a warning status."""
    failed: tuple[NotStored, ...] = ()
    skipped: int = 0
    """Files in folders that are no DICOM files with an instance: DICOMDIRs and others."""
    bytes: int = 0
    """Of the data sets that were stored."""
    elapsed: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What a peer reports of a request for storage commitment; each reference that was asked for is in one of both."""

    transaction_uid: str
    committed: tuple[Reference, ...] = ()
    failed: tuple[Failure, ...] = field(default=())
    """With the Failure Reason (0008,1197) of each; what is reported as both has failed."""
    unreported: tuple[Reference, ...] = ()
    """Those of `failed` of which the report says nothing: with 0110, processing failure."""
