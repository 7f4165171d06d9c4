"""Progress and results of the operations of `pacs.client`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
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
    Failed SOP Instance UID List. Of a retrieve that ended without a final response, `status` is Pending (FF00).
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
    expected: int | None = None
    """Number of instances that should have arrived, by the responses or by a C-FIND; None if neither said it."""
    missing: tuple[str, ...] = ()
    """UIDs of instances that a C-FIND listed and that did not arrive."""
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


def combined(results: Sequence[Retrieved], present: Iterable[Path] = ()) -> Retrieved:
    """Return the result of several retrieves into one folder; files that were `present` before come first."""
    there, written = dict.fromkeys(present), dict[Path, None]()
    for each in results:
        there |= dict.fromkeys(path for path in each.skipped if path not in written)
        written |= dict.fromkeys(path for path in each.paths if path not in there)
    return Retrieved(
        paths=(*there, *written),
        skipped=tuple(there),
        status=results[-1].status if results else 0,
        completed=_sum(each.completed for each in results),
        failed=_sum(each.failed for each in results),
        warning=_sum(each.warning for each in results),
        failed_uids=tuple(uid for each in results for uid in each.failed_uids),
        expected=_sum(each.expected for each in results),
        missing=tuple(uid for each in results for uid in each.missing),
        unasked=sum(each.unasked for each in results),
        conflicts=tuple(uid for each in results for uid in each.conflicts),
        bytes=sum(each.bytes for each in results),
        elapsed=sum(each.elapsed for each in results),
    )


def _sum(counts: Iterable[int | None]) -> int | None:
    """Return the sum of counts, None if one of them is unknown."""
    known = list(counts)
    return None if None in known else sum(each for each in known if each is not None)


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
