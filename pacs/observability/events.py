"""The event stream, and the log that listens to it.

Every part of the archive says what happened by publishing one frozen event; the log is one subscriber, metrics, audit,
tests and pages are others. No event carries patient data: what explains requests, where that is switched on, goes to
the log without being an event (`pacs.dimse.scp.explain_hook`). Texts that came from a peer are kept in events as they
came, and made harmless by `printable` where they are shown.
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
    """The root of everything that is published. `TITLE` is what the log calls it, `LEVEL` how loud it is."""

    TITLE: ClassVar[str] = "event"
    LEVEL: ClassVar[int] = logging.INFO
    DEBUG_FIELDS: ClassVar[frozenset[str]] = frozenset()
    """Fields that are logged only where the log includes DEBUG."""

    @property
    def level(self) -> int:
        """The level of `logging` this event is logged at."""
        return self.LEVEL


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReady(Event):
    """Associations are accepted from now on."""

    TITLE: ClassVar[str] = "ready"
    LEVEL: ClassVar[int] = logging.DEBUG
    ae_title: str
    host: str
    port: int
    secure_port: int = 0
    """The port of encrypted associations, 0 for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationReloaded(Event):
    """The configuration was read again and is in force; only the next start takes notice of some keys."""

    TITLE: ClassVar[str] = "configuration reloaded"
    waits_for_restart: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WebReady(Event):
    """HTTP is answered from now on."""

    TITLE: ClassVar[str] = "web ready"
    LEVEL: ClassVar[int] = logging.DEBUG
    host: str
    port: int
    is_secure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationAccepted(Event):
    """A peer associated with us. `contexts` counts the accepted presentation contexts.

    `protection` is the version of TLS and the cipher suite, '' where nothing is encrypted; `user` who was identified.
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
    """We sent A-ASSOCIATE-RJ (PS3.8 9.3.4), or aborted what is no valid request; `comment` says why in words.

    Result, source and reason are 0 where nothing was rejected but aborted.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationEnded(Event):
    """An association is over: `how` it ended, its duration in seconds, and how many operations of each kind it had."""

    TITLE: ClassVar[str] = "association ended"
    association: str
    calling_ae_title: str
    called_ae_title: str
    address: str
    how: str
    duration: float
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
    """A DIMSE operation has had its final response.

    `kind` is "C-ECHO", "C-STORE", "C-FIND", "C-MOVE", "C-GET" or "N-ACTION", which asks for storage commitment, that of
    an operation we do not do, or "other"; `retrieve_level` is the Query/Retrieve Level or ''. `counts` are matches of a
    C-FIND ("matches"), "instances" to commit to, or "completed", "failed", "warning" and "remaining" sub-operations.
    `duration` is in seconds. `comment` is the Error Comment, which never quotes patient data.
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

    @property
    def level(self) -> int:
        """Louder when the status is a failure (PS3.7 C): neither success, warning, pending nor cancel.

        An image that was stored is a debug line: the end of its association counts them.
        """
        if self.kind == "C-STORE" and self.status == 0:
            return logging.DEBUG
        return logging.WARNING if is_failure(self.status) else logging.INFO


@dataclass(frozen=True, slots=True, kw_only=True)
class SubOperationFinished(Event):
    """A C-STORE sub-operation of a retrieve had its response, or will have none.

    `repeated` is whether it failed as the one that failed before it did: a destination that is gone is one warning.
    """

    TITLE: ClassVar[str] = "sub-operation"
    association: str
    destination: str
    sop_class_uid: str
    transfer_syntax: str
    status: int
    duration: float
    comment: str = ""
    repeated: bool = False

    @property
    def level(self) -> int:
        """A debug line, unless the instance did not arrive, for another reason than the one before."""
        return logging.WARNING if is_failure(self.status) and not self.repeated else logging.DEBUG


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceStored(Event):
    """An instance is durable and in the index. `size` is that of its data set in bytes.

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
        """A debug line, unless its parents were in conflict (status B000)."""
        return logging.WARNING if self.warnings else self.LEVEL


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRefused(Event):
    """An instance was not taken in; `error` is the class of `pacs.errors`, `comment` its sentence.

    UIDs are '' where they are unknown or not valid. A debug line: the operation has one with the same sentence.
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
    """A peer acknowledged our report of a storage commitment (N-EVENT-REPORT).

    `counts` are instances "committed" and "failed"; `attempts` how many reports failed before, `duration` the seconds
    since it was asked for. `association` is that of the request where the report went on it, '' for one of its own.
    """

    TITLE: ClassVar[str] = "commitment reported"
    association: str
    peer: str
    counts: Mapping[str, int]
    attempts: int
    duration: float

    @property
    def level(self) -> int:
        """Louder when there is no commitment to some instance."""
        return logging.WARNING if self.counts.get("failed") else logging.INFO


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """Something an administrator can mend: `sentence` says what is wrong and how (known titles, a line to add)."""

    TITLE: ClassVar[str] = "notice"
    LEVEL: ClassVar[int] = logging.WARNING
    sentence: str
    association: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultFired(Event):
    """A server that misbehaves on purpose is about to: `fault` is its number in the scenario, `does` what it does.

    `kind` is the operation that meets it, as of `OperationFinished`, or "association", or "N-EVENT-REPORT".
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
    """A move destination, a configured peer, did not take an association."""

    destination: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLost(Event):
    """A line could not be written to the audit log. `repeated` is whether the one before it could not be either."""

    TITLE: ClassVar[str] = "audit line lost"
    comment: str
    repeated: bool = False

    @property
    def level(self) -> int:
        """A full disk is one warning."""
        return logging.DEBUG if self.repeated else logging.WARNING


# --- the stream --------------------------------------------------------------------------------------------------

Subscriber = Callable[[Event], None]


class EventStream:
    """Hands every published event to every subscriber, in the publisher's thread and in order of subscription."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: tuple[partial[None], ...] = ()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` with every event from now on; the callable returned ends that."""
        entry = partial(subscriber)  # an object of its own: the same callable may be subscribed twice
        with self._lock:
            self._subscribers = (*self._subscribers, entry)

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple(each for each in self._subscribers if each is not entry)

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Tell everybody. A subscriber that fails is logged and hurts neither the publisher nor the others."""
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception:
                logging.getLogger("pacs").exception("a subscriber failed on %s", type(event).__name__)
