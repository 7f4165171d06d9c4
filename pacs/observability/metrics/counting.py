"""The subscriber that counts events.

Labels have values from this project, from the standard, or AE titles of configured peers; a value that a peer chooses
freely never creates a series.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from pacs.dicom.sop_classes import STORAGE
from pacs.dicom.status import status_class
from pacs.observability.events import (
    AssociationAccepted,
    AssociationEnded,
    AssociationRequestRejected,
    AuditLost,
    CompletionProgressed,
    DestinationFailed,
    Event,
    FrameConverted,
    InstanceRefused,
    InstanceStored,
    OperationFinished,
    SubOperationFinished,
)
from pacs.observability.metrics.counters import CounterRegion, Series

OTHER = "other"

OPERATIONS = {
    "C-ECHO": "echo",
    "C-STORE": "store",
    "C-FIND": "find",
    "C-MOVE": "move",
    "C-GET": "get",
    "N-ACTION": "commit",
}
"""Names of operations in the metrics, by kind; any other kind is `other`."""

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)
"""Upper bounds of the histogram buckets in seconds."""
_PLACES = tuple(map(str, range(len(BOUNDS) + 1)))

ACTIVE, PROCESS = "active", "process"
"""Series that are valid only while the worker lives: its associations, and its process id."""

DIED = "died"
"""Series with the number of deaths of workers with this number."""

HELD = ("held_studies", "held_instances", "held_bytes")
"""Series with what the index has, set by one worker."""


def held_series(studies: int, instances: int, size: int) -> dict[Series, float]:
    """Return the series of what the index has."""
    return dict(zip(((name,) for name in HELD), (studies, instances, size), strict=True))


class Counting:
    """Counts events in the region of one worker. `is_peer` tells whether an AE title is that of a configured peer."""

    def __init__(self, region: CounterRegion, is_peer: Callable[[str], bool]) -> None:
        self._add, self._add_each = region.add, region.add_each
        self._is_peer = is_peer
        self._counts: dict[type[Event], Callable[[Any], None]] = {
            AssociationAccepted: self._accepted,
            AssociationRequestRejected: self._rejected,
            AssociationEnded: self._ended,
            OperationFinished: self._operation,
            SubOperationFinished: self._sub_operation,
            FrameConverted: self._frame_converted,
            InstanceStored: self._stored,
            InstanceRefused: self._refused,
            DestinationFailed: self._destination_failed,
            AuditLost: self._audit_lost,
            CompletionProgressed: self._completion_progressed,
        }

    def __call__(self, event: Event) -> None:
        """Count an event."""
        count = self._counts.get(type(event))
        if count is not None:
            count(event)

    def _accepted(self, _event: AssociationAccepted) -> None:
        self._add((ACTIVE,))
        self._add(("associations",))

    def _ended(self, _event: AssociationEnded) -> None:
        self._add((ACTIVE,), -1.0)

    def _rejected(self, event: AssociationRequestRejected) -> None:
        triplet = (event.result, event.source, event.reason)
        self._add(("rejected", "/".join(map(str, triplet)) if any(triplet) else "aborted"))

    def _operation(self, event: OperationFinished) -> None:
        name = OPERATIONS.get(event.kind, OTHER)
        self._add_each(
            (("operations", name, status_class(event.status)), 1.0),
            (("seconds", name, _PLACES[bisect_left(BOUNDS, event.duration)]), 1.0),
            (("seconds_sum", name), event.duration),
        )

    def _sub_operation(self, event: SubOperationFinished) -> None:
        self._add(("suboperations", self._destination(event.destination), status_class(event.status)))

    def _frame_converted(self, event: FrameConverted) -> None:
        self._add(("frames", event.result))

    def _stored(self, event: InstanceStored) -> None:
        sop_class = event.sop_class_uid if event.sop_class_uid in STORAGE else OTHER
        if event.duplicate:
            self._add(("stored", sop_class, "known"))
        else:
            self._add_each((("stored", sop_class, "new"), 1.0), (("bytes",), event.size))

    def _refused(self, event: InstanceRefused) -> None:
        self._add(("refused", event.error))

    def _destination_failed(self, event: DestinationFailed) -> None:
        self._add(("destination_failed", self._destination(event.destination)))

    def _completion_progressed(self, event: CompletionProgressed) -> None:
        self._add(("index_added",), event.added)

    def _audit_lost(self, _event: AuditLost) -> None:
        self._add(("audit_lost",))

    def _destination(self, ae_title: str) -> str:
        """Return the label for a destination: a configured AE title, '' for a C-GET, or `OTHER`."""
        title = ae_title.strip()
        return title if not title or self._is_peer(title) else OTHER
