"""The event stream: every part of the archive publishes what happens as an event; log, metrics, activity and tests
subscribe.

No event carries patient data. Explanations of requests, which do, are not events (`pacs.dimse.scp.explain_hook`).
Texts from peers are unchanged in events; `pacs.observability.logging.printable` escapes them where they are shown.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from pacs.dicom.status import is_failure

# --- events ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The base class of events. `TITLE` is the event's name in the log, `LEVEL` its level."""

    TITLE: ClassVar[str] = "event"
    LEVEL: ClassVar[int] = logging.INFO
    DEBUG_FIELDS: ClassVar[frozenset[str]] = frozenset()
    """Fields that are logged only where the log includes DEBUG."""

    @property
    def level(self) -> int:
        """The level of `logging` for this event."""
        return self.LEVEL


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStopping(Event):
    """The server accepts no more associations and waits for running operations; `signal` is the name of the signal."""

    TITLE: ClassVar[str] = "stopping"
    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStopped(Event):
    """The server has closed its stores. `duration` is the time since its start, in seconds."""

    TITLE: ClassVar[str] = "stopped"
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReady(Event):
    """The server accepts associations."""

    TITLE: ClassVar[str] = "ready"
    ae_title: str
    host: str
    port: int
    secure_port: int = 0
    """The port for associations with TLS, 0 for none."""
    version: str
    database: str
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaUpgraded(Event):
    """The schema of the index was upgraded; `before` and `after` are its revisions. An older pacs cannot open it."""

    TITLE: ClassVar[str] = "schema of the index upgraded"
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationReloaded(Event):
    """The configuration was reloaded; the changed keys in `waits_for_restart` take effect at the next start."""

    TITLE: ClassVar[str] = "configuration reloaded"
    waits_for_restart: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WebReady(Event):
    """The server answers HTTP requests."""

    TITLE: ClassVar[str] = "web ready"
    host: str
    port: int
    is_secure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationAccepted(Event):
    """An association was accepted. `contexts` is the number of accepted presentation contexts.

    `protection` is the TLS version and cipher suite, '' without TLS; `user` is the identified user, '' for none.
    """

    TITLE: ClassVar[str] = "association accepted"
    LEVEL: ClassVar[int] = logging.DEBUG
    association: str
    calling_ae_title: str
    called_ae_title: str
    address: str
    contexts: int = 0
    protection: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationRequestRejected(Event):
    """An association request was rejected (A-ASSOCIATE-RJ, PS3.8 9.3.4), or an invalid one aborted.

    Result, source and reason are 0 for an abort; `comment` is the reason in words. `user` is the name that the request
    claims, which was not verified.
    """

    TITLE: ClassVar[str] = "association rejected"
    LEVEL: ClassVar[int] = logging.WARNING
    association: str
    calling_ae_title: str
    called_ae_title: str
    address: str
    result: int
    source: int
    reason: int
    comment: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationEnded(Event):
    """An association ended: `how`, its `duration` in seconds, and the number of operations of each kind.

    `comment` says what violated the protocol, with the side at fault.
    """

    TITLE: ClassVar[str] = "association ended"
    association: str
    calling_ae_title: str
    called_ae_title: str
    address: str
    how: str
    duration: float
    comment: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationStarted(Event):
    """A request other than C-STORE was received; `kind` is as in `OperationFinished`."""

    TITLE: ClassVar[str] = "operation started"
    LEVEL: ClassVar[int] = logging.DEBUG
    association: str
    calling_ae_title: str
    called_ae_title: str
    kind: str
    message_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationFinished(Event):
    """A DIMSE operation has sent its final response.

    `kind` is "C-ECHO", "C-STORE", "C-FIND", "C-MOVE", "C-GET", "N-ACTION" (storage commitment), the name of an
    unsupported operation, or "other". `retrieve_level` is the Query/Retrieve Level or ''. `counts` has the "matches" of
    a C-FIND, the "instances" of a storage commitment, or the "completed", "failed", "warning" and "remaining"
    sub-operations of a retrieve. `duration` is in seconds. `comment` is the Error Comment, without patient data; of a
    refused operation it is the whole reason, which the Error Comment may lack room for. `sop_instance_uid` is that of a
    C-STORE without Success.
    """

    TITLE: ClassVar[str] = "operation"
    association: str
    calling_ae_title: str
    called_ae_title: str
    kind: str
    message_id: int
    status: int
    duration: float
    retrieve_level: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    destination: str = ""
    comment: str = ""
    sop_instance_uid: str = ""

    @property
    def level(self) -> int:
        """WARNING for a failure status (PS3.7 Annex C), DEBUG for a stored instance, else INFO."""
        if self.kind == "C-STORE" and self.status == 0:
            return logging.DEBUG
        return logging.WARNING if is_failure(self.status) else logging.INFO


@dataclass(frozen=True, slots=True, kw_only=True)
class SubOperationFinished(Event):
    """A C-STORE sub-operation of a retrieve has its response, or will not get one.

    `repeated` is whether it had no response for the same reason as the one before: a destination that is off costs one
    line. What it refuses is a line each, with its SOP Instance UID.
    """

    TITLE: ClassVar[str] = "sub-operation"
    association: str
    destination: str
    sop_class_uid: str
    transfer_syntax: str
    sop_instance_uid: str
    status: int
    duration: float
    comment: str = ""
    repeated: bool = False

    @property
    def level(self) -> int:
        """WARNING for a failure that is not repeated, else DEBUG."""
        return logging.WARNING if is_failure(self.status) and not self.repeated else logging.DEBUG


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameConverted(Event):
    """A frame was converted from one transfer syntax into another, or could not be.

    `result` is "converted" or the name of the class in `pacs.errors`, `comment` its message; `duration` is in seconds.
    The level is DEBUG, because the operation that needs the frame is logged with the same message.
    """

    TITLE: ClassVar[str] = "frame"
    LEVEL: ClassVar[int] = logging.DEBUG
    transfer_syntax: str
    target: str
    duration: float
    result: str
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceStored(Event):
    """An instance is durable and in the index. `size` is the size of its data set in bytes.

    Its UIDs are logged only where the log includes DEBUG.
    """

    TITLE: ClassVar[str] = "instance stored"
    LEVEL: ClassVar[int] = logging.DEBUG
    DEBUG_FIELDS: ClassVar[frozenset[str]] = frozenset(
        ("sop_instance_uid", "series_instance_uid", "study_instance_uid")
    )
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    sop_class_uid: str
    transfer_syntax: str
    size: int
    source_ae: str
    duplicate: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def level(self) -> int:
        """WARNING if attributes of patient, study or series differ from those stored (status B000), else DEBUG."""
        return logging.WARNING if self.warnings else self.LEVEL


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRefused(Event):
    """An instance was refused; `error` is the name of the class in `pacs.errors`, `comment` its message.

    UIDs are '' where they are unknown or invalid. The level is DEBUG, because the operation is logged with the same
    message.
    """

    TITLE: ClassVar[str] = "instance refused"
    LEVEL: ClassVar[int] = logging.DEBUG
    sop_instance_uid: str = ""
    series_instance_uid: str = ""
    study_instance_uid: str = ""
    sop_class_uid: str
    source_ae: str
    error: str
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentReported(Event):
    """A peer acknowledged the report of a storage commitment (N-EVENT-REPORT).

    `counts` has the instances "committed" and "failed"; `attempts` is the number of failed reports before, `duration`
    the seconds since the request. `association` is that of the request if it carried the report, else ''.
    """

    TITLE: ClassVar[str] = "commitment reported"
    association: str
    peer: str
    counts: Mapping[str, int]
    attempts: int
    duration: float

    @property
    def level(self) -> int:
        """WARNING if instances failed, else INFO."""
        return logging.WARNING if self.counts.get("failed") else logging.INFO


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """A problem that an operator can correct: `sentence` says what is wrong and what to do."""

    TITLE: ClassVar[str] = "notice"
    LEVEL: ClassVar[int] = logging.WARNING
    sentence: str
    association: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultFired(Event):
    """A fault is injected: `fault` is its number in the scenario, `does` its effect.

    `kind` is the affected operation as in `OperationFinished`, or "association", or "N-EVENT-REPORT".
    """

    TITLE: ClassVar[str] = "fault"
    LEVEL: ClassVar[int] = logging.WARNING
    association: str
    calling_ae_title: str
    called_ae_title: str
    kind: str
    fault: int
    does: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationFailed(Notice):
    """A move destination did not accept an association."""

    destination: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexIncomplete(Notice):
    """The index lacks files of the file store, or has instances without a file; found at the start of a server."""

    TITLE: ClassVar[str] = "index incomplete"
    LEVEL: ClassVar[int] = logging.ERROR


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionProgressed(Event):
    """The index is being completed from the files: `added` instances since the last event of this kind.

    `counts` has the files "checked" of "total", and those that "failed", since the completion began.
    """

    TITLE: ClassVar[str] = "completing the index"
    added: int
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLost(Event):
    """A record could not be written to the audit log; `repeated` is whether the previous one could not either."""

    TITLE: ClassVar[str] = "audit line lost"
    comment: str
    repeated: bool = False

    @property
    def level(self) -> int:
        """WARNING for the first lost record, DEBUG for those after it."""
        return logging.DEBUG if self.repeated else logging.WARNING


# --- the stream --------------------------------------------------------------------------------------------------

Subscriber = Callable[[Event], None]


class EventStream:
    """Calls every subscriber for every event, in the thread of the publisher and in order of subscription."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: tuple[partial[None], ...] = ()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` for every event; return a function that unsubscribes it."""
        entry = partial(subscriber)  # a distinct object, because a callable may be subscribed twice
        with self._lock:
            self._subscribers = (*self._subscribers, entry)

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple(each for each in self._subscribers if each is not entry)

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Call all subscribers. An exception of a subscriber is logged, and does not reach the publisher."""
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception:
                logging.getLogger("pacs").exception("a subscriber failed for %s", type(event).__name__)
