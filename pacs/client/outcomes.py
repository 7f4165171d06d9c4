"""Progress and results of the operations of `pacs.client`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset, dcmread

from pacs.dicom.commitment import Failure, Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of an operation; None for what the peer has not reported or is not known yet.

    `remaining`, `completed`, `failed` and `warning` are the sub-operation counts of the peer's last response with
    counts; in a `store`, the client counts them itself. `received` is the number of instances that have arrived here,
    `bytes` the size of the data sets received or sent, `total` the expected number of instances, `elapsed` the seconds
    since the start.
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
"""Callback for progress, called in the thread of the operation. An exception that it raises cancels the operation and
is passed on to the caller.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """Result of a retrieve.

    `completed`, `failed` and `warning` are the counts of the final response, None if it has none. `failed_uids` is its
    Failed SOP Instance UID List.
    """

    paths: tuple[Path, ...] = ()
    """Files of all instances that arrived or were in the folder before, in order of arrival, without duplicates."""
    skipped: tuple[Path, ...] = ()
    """Those of `paths` that were in the folder before and were not changed."""
    status: int = 0
    completed: int | None = None
    failed: int | None = None
    warning: int | None = None
    failed_uids: tuple[str, ...] = ()
    unasked: int = 0
    """Number of instances that were refused because their study, series or instance was not requested."""
    conflicts: tuple[str, ...] = ()
    """UIDs of instances that arrived twice with different content. The first one is kept, and the retrieve fails."""
    bytes: int = 0
    """Size of the data sets that arrived."""
    elapsed: float = 0.0
    in_memory: tuple[Dataset, ...] = field(default=(), repr=False)
    """The data sets of a retrieve without a folder, in order of arrival; `paths` is empty then."""

    def datasets(self) -> Iterator[Dataset]:
        """Yield each instance as a pydicom data set; those in files are read one at a time."""
        return iter(self.in_memory) if self.in_memory else map(dcmread, self.paths)


@dataclass(frozen=True, slots=True)
class NotStored:
    """A file or data set that was not stored: the status of the refusal, None if it was not sent, and the reason."""

    what: Path | Dataset
    status: int | None
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Result of a store. `failed` lists what was refused or could not be sent."""

    completed: int = 0
    """Number of stored instances, including those with a warning."""
    warning: int = 0
    """Number of instances stored with a warning status."""
    converted: int = 0
    """Number of stored instances whose pixel data was decompressed or compressed for the receiver."""
    failed: tuple[NotStored, ...] = ()
    skipped: int = 0
    """Number of files in folders that are not DICOM, or are a DICOMDIR."""
    notices: tuple[str, ...] = ()
    """One sentence for each removal or change beyond the encoding by conversions, such as of digital signatures."""
    bytes: int = 0
    """Size of the stored data sets."""
    elapsed: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """Report of a storage commitment request. Each requested reference is in `committed` or in `failed`."""

    transaction_uid: str
    committed: tuple[Reference, ...] = ()
    failed: tuple[Failure, ...] = field(default=())
    """References with their Failure Reason (0008,1197). A reference that is reported as both counts as failed."""
    unreported: tuple[Reference, ...] = ()
    """Those of `failed` that the report does not name. Their reason is 0110, processing failure."""
