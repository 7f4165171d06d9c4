"""What the server is doing and what happened last, in memory shared by all workers, without patient data.

A subscriber of the event stream records running associations and operations, and the last events that matter to an
operator. Single instances are not recorded: C-STOREs and sub-operations count only in the event that ends their
association or retrieve.
"""

import marshal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pacs.observability.events import (
    AssociationAccepted,
    AssociationEnded,
    AssociationRequestRejected,
    AuditLost,
    CommitmentReported,
    CompletionProgressed,
    ConfigurationReloaded,
    DestinationFailed,
    Event,
    IndexIncomplete,
    Notice,
    OperationFinished,
    OperationStarted,
    ServerReady,
)
from pacs.support.shared_memory import Slots

MOST_RUNNING = 256
"""Number of running associations and operations recorded for each worker; further ones are not shown."""

MOST_EVENTS = 100
"""Number of last events kept for each worker, and returned by `Activity.events`."""

SLOT_BYTES, LONGEST_TEXT = 1016, 160
"""Maximum size of one entry, and characters of each text in it."""

Entry = dict[str, Any]

Key = tuple[str, int]
"""Association id and Message ID of an operation, or 0 for the association itself."""


@dataclass(slots=True)
class _ProcessActivity:
    """The shared memory of one process."""

    running: Slots = field(default_factory=lambda: Slots(MOST_RUNNING, SLOT_BYTES))
    events: Slots = field(default_factory=lambda: Slots(MOST_EVENTS, SLOT_BYTES))


class Activity:
    """The activity of one server: of `workers` processes and of their supervisor, whose number is `workers`."""

    def __init__(self, workers: int = 1) -> None:
        self.supervisor = workers
        self._memories = [_ProcessActivity() for _ in range(workers + 1)]

    def recorder(self, worker: int) -> "ActivityRecorder":
        """Return the subscriber for the events of one process; it continues after those of a dead predecessor."""
        self.clear_running(worker)
        return ActivityRecorder(worker, self._memories[worker].running, self._memories[worker].events)

    def running(self) -> list[Entry]:
        """Return the running associations and operations, oldest first.

        Each has "kind" ("association", "C-FIND", ...), "association", "calling_ae_title", "called_ae_title", "address"
        or "message_id", "started" (seconds since 1970), "worker", and "clock": the same time by `time.monotonic()`,
        since the wall clock may jump.
        """
        found = [entry for each in self._memories for _, entry in _entries(each.running)]
        return sorted(found, key=lambda entry: entry["clock"])

    def oldest_operation(self) -> float:
        """Return for how many seconds the oldest operation is running, 0 without any. Single C-STOREs do not count."""
        clocks = [entry["clock"] for entry in self.running() if entry["kind"] != "association"]
        return max(0.0, time.monotonic() - clocks[0]) if clocks else 0.0

    def events(self) -> list[Entry]:
        """Return the last `MOST_EVENTS` events, newest first: "event", "time", "clock", "worker", and their fields."""
        found = [entry for each in self._memories for _, entry in _entries(each.events)]
        found.sort(key=lambda entry: (entry["clock"], entry["number"]), reverse=True)
        return found[:MOST_EVENTS]

    def clear_running(self, worker: int) -> None:
        """Remove the running associations and operations of a worker that has died."""
        running = self._memories[worker].running
        for slot, _ in _entries(running):
            running.clear(slot)


class ActivityRecorder:
    """Records the events of one process: a subscriber, called from many threads."""

    def __init__(self, worker: int, running: Slots, events: Slots) -> None:
        self._worker, self._running, self._events = worker, running, events
        self._lock = threading.Lock()
        self._slots: dict[Key, int] = {}
        self._free = list(range(running.count))
        self._number = max((entry["number"] for _, entry in _entries(events)), default=0)
        self._recorders: dict[type[Event], Callable[[Any], None]] = {
            AssociationAccepted: self._accepted,
            AssociationEnded: self._ended,
            OperationStarted: self._started,
            OperationFinished: self._finished,
            **dict.fromkeys(_KEPT, self._keep),
        }

    def __call__(self, event: Event) -> None:
        """Record an event."""
        record = self._recorders.get(type(event))
        if record is not None:
            record(event)

    def _accepted(self, event: AssociationAccepted) -> None:
        self._begin(
            (event.association, 0),
            kind="association",
            association=event.association,
            calling_ae_title=event.calling_ae_title,
            called_ae_title=event.called_ae_title,
            address=event.address,
        )

    def _ended(self, event: AssociationEnded) -> None:
        self._end((event.association, 0))
        self._keep(event)

    def _started(self, event: OperationStarted) -> None:
        self._begin(
            (event.association, event.message_id),
            kind=event.kind,
            association=event.association,
            message_id=event.message_id,
            calling_ae_title=event.calling_ae_title,
            called_ae_title=event.called_ae_title,
        )

    def _finished(self, event: OperationFinished) -> None:
        if event.kind != "C-STORE":
            self._end((event.association, event.message_id))
            self._keep(event)

    def _begin(self, key: Key, **values: Any) -> None:
        content = _encoded(values | {"started": time.time(), "clock": time.monotonic(), "worker": self._worker})
        with self._lock:
            if self._free and key not in self._slots:
                slot = self._slots[key] = self._free.pop()
                self._running.write(slot, content)

    def _end(self, key: Key) -> None:
        with self._lock:
            slot = self._slots.pop(key, None)
            if slot is not None:
                self._running.clear(slot)
                self._free.append(slot)

    def _keep(self, event: Event) -> None:
        values = {name: getattr(event, name) for name in _FIELDS[type(event)]}
        with self._lock:
            self._number += 1
            about = {
                "event": event.TITLE,
                "time": time.time(),
                "clock": time.monotonic(),
                "worker": self._worker,
                "number": self._number,
            }
            self._events.write(self._number % self._events.count, _encoded(about | values))


_KEPT = (
    AssociationRequestRejected,
    AuditLost,
    CommitmentReported,
    CompletionProgressed,
    ConfigurationReloaded,
    DestinationFailed,
    IndexIncomplete,
    Notice,
    ServerReady,
)
"""Events that are kept as they are."""

_FIELDS: dict[type[Event], tuple[str, ...]] = {
    each: tuple(each_field.name for each_field in fields(each))
    for each in (*_KEPT, AssociationEnded, OperationFinished)
}


def _encoded(values: Mapping[str, Any]) -> bytes:
    """Encode an entry with shortened texts; one that is still too long loses all but its short values.

    `marshal` is the fastest encoding, and all processes of a server have the same Python.
    """
    entry = {name: _shortened(value) for name, value in values.items()}
    content = marshal.dumps(entry)
    if len(content) <= SLOT_BYTES:
        return content
    return marshal.dumps({name: value for name, value in entry.items() if len(marshal.dumps(value)) <= 40})


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= LONGEST_TEXT else value[: LONGEST_TEXT - 1] + "…"
    if isinstance(value, int | float | tuple):
        return value
    return dict(value) if isinstance(value, Mapping) else value


def _entries(slots: Slots) -> Iterator[tuple[int, Entry]]:
    """Yield the slots in use and their entries."""
    for slot in range(slots.count):
        if content := slots.read(slot):
            yield slot, marshal.loads(content)  # noqa: S302 - written by a process of this server
