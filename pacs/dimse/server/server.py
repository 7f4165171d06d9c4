"""The server: listens, runs one thread per association, hands each request to its handler, drains and stops."""

import contextlib
import logging
import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pacs.dimse.association.association import Association, Limits
from pacs.dimse.association.establishment import Rejected, accept
from pacs.dimse.messages import status
from pacs.dimse.messages.command import CommandField
from pacs.dimse.messages.message import Message
from pacs.dimse.server.acceptor_policy import AcceptorPolicy
from pacs.dimse.server.association_slots import AssociationBounds, AssociationSlots, WorkerSlots
from pacs.errors import AssociationLost, ProtocolViolation, ServerStopping
from pacs.observability.events import (
    AssociationAccepted,
    AssociationEnded,
    AssociationRequestRejected,
    Event,
    OperationFinished,
)
from pacs.services.access import Caller
from pacs.support.sockets import listening
from pacs.support.wakeup import WakeUp

Handler = Callable[[Association, Message], None]
Associate = Callable[..., Association | Rejected]
"""What negotiates with whoever connected: `establishment.accept`, or what stands before it."""

MOST_UNASSOCIATED = 256
"""How many connections may be without an association at once, before it or after; one more, and the oldest of the
address that has the most is given up (P7)."""

BACKLOG = 256
"""How many connections may wait to be accepted."""

HESITATION = 0.005
"""Seconds a worker leaves a connection to one that has fewer of them, if there is one."""

GLANCE = 0.0005
"""Seconds from one look whether that one has it to the next."""


class Address(NamedTuple):
    """Where to listen, and whether associations are encrypted there."""

    host: str
    port: int
    is_secure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a server goes by, replaced as a whole while it runs. `handlers` are by Command Field."""

    policy: AcceptorPolicy
    handlers: Mapping[int, Handler] = field(default_factory=dict)
    has: Callable[[str, int], bool] = lambda _sop_class_uid, _field: True
    """Whether a SOP Class has the operation of a Command Field."""
    limits: Limits = field(default_factory=Limits)
    bounds: AssociationBounds = field(default_factory=AssociationBounds)
    tls: ssl.SSLContext | None = None
    """How those who call a secure address are answered."""
    associate: Associate = accept


@dataclass(frozen=True, slots=True)
class _Connection:
    """Something that connected: its socket until it has an association, then that."""

    socket: socket.socket
    address: tuple[str, int]
    is_secure: bool


class Server:
    """Accepts associations on some addresses and serves each in a thread of its own.

    Slots are counted from an association's request on: what connects and says nothing holds none (P7). It serves
    alone, or as one of several workers, which share listeners and slots.
    """

    def __init__(
        self,
        addresses: Iterable[Address | tuple[str, int]],
        settings: Settings,
        *,
        publish: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        self._addresses = tuple(Address(*each) for each in addresses)
        self._settings = settings
        self._slots = AssociationSlots().of(0)
        self._publish = publish
        self._lock = threading.Condition()
        self._listeners: list[socket.socket] = []
        self._ports: tuple[int, ...] = ()
        self._unassociated: dict[int, _Connection] = {}
        """By `id`: what has no association yet, or has none any more and is only waited for to close."""
        self._associations: set[Association] = set()
        self._admitted = 0
        """How many associations there are, those included that are just being accepted."""
        self._threads: set[threading.Thread] = set()
        self._is_draining = False
        self._wake_up = WakeUp()
        self._accepting: threading.Thread | None = None

    # --- for the house ------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Listen, and accept nothing yet. Raises OSError when an address cannot be had."""
        try:
            for host, port, _ in self._addresses:
                self._listeners.append(listening(host, port, BACKLOG))
        except OSError:
            self._is_draining = True  # there is nothing to stop any more
            self._close_listeners()
            raise
        self._ports = _ports(self._listeners)

    def join(self, listeners: Sequence[socket.socket], slots: WorkerSlots) -> None:
        """Begin to accept as one of several workers, on listeners they share and within slots they share."""
        self._listeners, self._ports = list(listeners), _ports(listeners)
        self._slots = slots
        self.start()

    def start(self) -> None:
        """Begin to accept. Raises OSError when nobody listens yet and an address cannot be had."""
        if not self._listeners:
            self.listen()
        self._slots.serve(True)
        self._accepting = threading.Thread(target=self._accept_all, name="pacs-accept", daemon=True)
        self._accepting.start()

    def configure(self, settings: Settings) -> None:
        """Go by other settings from now on: requests at once, limits and encryption with the next connection."""
        self._settings = settings

    @property
    def is_accepting(self) -> bool:
        """Whether associations are accepted at this moment."""
        return not self._is_draining and self._accepting is not None and self._accepting.is_alive()

    @property
    def listeners(self) -> Sequence[socket.socket]:
        """What is listened on, for workers to join."""
        return tuple(self._listeners)

    @property
    def ports(self) -> tuple[int, ...]:
        """The port of each address, also where 0 was asked for."""
        return self._ports

    @property
    def port(self) -> int:
        """The port of the first address."""
        return self._ports[0]

    @property
    def associations(self) -> int:
        """How many associations are being served."""
        with self._lock:
            return len(self._associations)

    def stop_accepting(self) -> None:
        """Accept no more; what runs goes on."""
        with self._lock:
            if self._is_draining:
                return
            self._is_draining = True
            self._slots.serve(False)
        self._wake_up.wake()
        if self._accepting is not None:
            self._accepting.join()
        self._close_listeners()

    def drain(self, seconds: float) -> bool:
        """Accept no more, and let running associations end for at most `seconds`; whether all have."""
        self.stop_accepting()
        with self._lock:
            return self._lock.wait_for(lambda: not self._admitted, timeout=seconds)

    def stop(self) -> None:
        """Accept no more, abort what runs, and wait for its threads, a few seconds at most."""
        self.stop_accepting()
        with self._lock:
            associations, threads = list(self._associations), list(self._threads)
            for waiting in self._unassociated.values():
                _cut(waiting.socket)
        for association in associations:
            association.abort()
        deadline = time.monotonic() + self._settings.limits.artim
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    # --- accepting ----------------------------------------------------------------------------------------------

    def _close_listeners(self) -> None:
        for each in self._listeners:
            each.close()
        self._wake_up.close()

    def _accept_all(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_up, selectors.EVENT_READ)
            for listener, address in zip(self._listeners, self._addresses, strict=True):
                selector.register(listener, selectors.EVENT_READ, address)
            while not self._is_draining:
                for key, _ in selector.select():
                    if isinstance(key.fileobj, socket.socket) and key.data is not None:
                        self._accept_one(key.fileobj, key.data.is_secure)
                with self._lock:  # whoever accepts what came, all workers have woken
                    self._thin_out()

    def _accept_one(self, listener: socket.socket, is_secure: bool) -> None:
        self._hesitate()
        try:
            accepted, address = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # Out of descriptors, most likely: the connection stays in the queue until some are free again.
            logging.getLogger("pacs").warning("cannot accept a connection: %s", error.strerror)
            time.sleep(0.1)
            return
        connection = _Connection(accepted, (_plain(address[0]), address[1]), is_secure)
        thread = threading.Thread(target=self._run, args=(connection,), name="pacs-association", daemon=True)
        with self._lock:
            self._threads.add(thread)
            self._is_unassociated(connection)
        try:
            thread.start()
        except RuntimeError:
            logging.getLogger("pacs").warning("cannot serve a connection: no more threads can be started")
            self._forget(thread, connection)
            accepted.close()

    def _hesitate(self) -> None:
        """Leave what connects to a worker that has fewer connections, for the moment it takes that one to accept it.

        Without this, whoever happens to be on a processor gets them all.
        """
        end = time.monotonic() + HESITATION
        while self._slots.is_ahead and time.monotonic() < end:
            time.sleep(GLANCE)

    def _is_unassociated(self, connection: _Connection) -> None:
        """Count a connection among those without an association; the lock is held."""
        self._unassociated[id(connection)] = connection
        self._count()
        self._thin_out()

    def _thin_out(self) -> None:
        """Give up connections without an association while there are too many; the lock is held.

        Each time the oldest of the address that has the most: whoever floods keeps out only itself.
        """
        while self._unassociated and self._slots.has_too_many(MOST_UNASSOCIATED):
            by_address = Counter(each.address[0] for each in self._unassociated.values())
            flooding = max(by_address, key=by_address.__getitem__)
            oldest = next(key for key, each in self._unassociated.items() if each.address[0] == flooding)
            _cut(self._unassociated.pop(oldest).socket)
            self._count()

    def _is_associated(self, connection: _Connection) -> None:
        """Count a connection among those without an association no more; the lock is held."""
        self._unassociated.pop(id(connection), None)
        self._count()

    def _give_back(self, slot: int) -> None:
        """Give back the slot of an association that is over, or did not come about; the lock is held."""
        self._admitted -= 1
        self._slots.give_back(slot)
        self._lock.notify_all()

    def _count(self) -> None:
        """Tell the other workers how many connections there are; the lock is held."""
        self._slots.count(len(self._threads), len(self._unassociated))

    def _forget(self, thread: threading.Thread, connection: _Connection) -> None:
        with self._lock:
            self._threads.discard(thread)
            self._is_associated(connection)

    # --- one connection -----------------------------------------------------------------------------------------

    def _run(self, connection: _Connection) -> None:
        """The life of one connection: its association, if it comes to that, and the end of both."""
        try:
            associated = self._associate(connection)
            if associated is not None:
                self._serve(*associated, connection)
        except Exception:
            logging.getLogger("pacs").exception("an association failed")
        finally:
            self._forget(threading.current_thread(), connection)

    def _associate(self, connection: _Connection) -> tuple[Association, int] | None:
        """Negotiate: the association and the slot it has, None when it does not come about."""
        settings, slots = self._settings, []

        def admit(caller: Caller) -> None:
            with self._lock:
                if self._is_draining:
                    raise ServerStopping("the server stops")
                slots.append(self._slots.take(settings.bounds, caller.address, caller.ae_title))
                self._admitted += 1

        found: Association | Rejected | None = None
        try:
            tls = settings.tls if connection.is_secure else None
            found = settings.associate(
                connection.socket, connection.address, settings.policy, settings.limits, admit, tls=tls
            )
        except (AssociationLost, OSError):
            return None  # a port scan, a health check, or a peer that gave up
        except ProtocolViolation as error:
            self._publish(_aborted_event(error, connection))
            return None
        finally:
            with self._lock:
                if isinstance(found, Association):
                    self._associations.add(found)
                    self._is_associated(connection)
                elif slots:
                    self._give_back(slots[0])
        if isinstance(found, Association):
            return found, slots[0]
        self._publish(_rejected_event(found, connection))
        found.close()
        return None

    def _serve(self, association: Association, slot: int, connection: _Connection) -> None:
        with self._lock:
            stopping = self._is_draining
        self._publish(_accepted_event(association))
        counts: Counter[str] = Counter()
        try:
            if not stopping:
                self._receive_all(association, counts)
        except AssociationLost:
            pass  # `ended_by` says it
        except Exception:
            logging.getLogger("pacs").exception("a handler failed, its association is aborted")
        finally:
            association.abort()
            association.scp_requests.close()
            with self._lock:
                self._associations.discard(association)
                self._give_back(slot)
                self._is_unassociated(connection)
            self._publish(_ended_event(association, counts))
            association.close()

    def _receive_all(self, association: Association, counts: Counter[str]) -> None:
        while (message := self._next(association)) is not None:
            settings, field = self._settings, message.command.field
            if message.command.is_response:
                if association.scp_requests.answered(message):
                    continue
                return  # to no request of ours: who answers what was not asked cannot be understood
            counts[_name(field)] += 1
            if not _fits(message):
                comment = "The SOP Class is not that of the presentation context"
                self._refuse(association, message, status.SOP_CLASS_NOT_SUPPORTED, comment)
            elif field in settings.handlers and settings.has(message.context.abstract_syntax, field):
                settings.handlers[field](association, message)
            else:
                comment = "This server does not do that operation for this SOP Class"
                self._refuse(association, message, status.UNRECOGNIZED_OPERATION, comment)

    def _next(self, association: Association) -> Message | None:
        """The next message, None at the end; our own requests are sent until it comes. Raises AssociationLost."""
        return association.receive(association.scp_requests.run(association, association.limits.idle))

    def _refuse(self, association: Association, message: Message, code: int, comment: str) -> None:
        association.send(message.context.id, message.command.response(code, error_comment=comment))
        self._publish(_refused_event(association, message, code, comment))


# --- the small parts ---------------------------------------------------------------------------------------------


def _ports(listeners: Iterable[socket.socket]) -> tuple[int, ...]:
    return tuple(each.getsockname()[1] for each in listeners)


def _cut(connection: socket.socket) -> None:
    """End a connection from another thread than its own, which closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _fits(message: Message) -> bool:
    """Whether a request is of its context's SOP Class and for us there: a report is for the SCU, others for the SCP."""
    context, command = message.context, message.command
    is_for_us = context.as_scp or command.field == CommandField.N_EVENT_REPORT
    return is_for_us and command.sop_class_uid == context.abstract_syntax


def _name(field: int) -> str:
    try:
        return CommandField(field).name.replace("_", "-", 1)
    except ValueError:
        return "other"


def _plain(host: str) -> str:
    """An IPv4 address as such, also where a listener for both kinds has it as one of IPv6."""
    return host.removeprefix("::ffff:") if "." in host else host


def _text(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _accepted_event(association: Association) -> Event:
    return AssociationAccepted(
        association=association.id,
        calling_ae_title=association.calling_ae_title,
        called_ae_title=association.called_ae_title,
        address=_text(association.address),
        contexts=len(association.contexts),
        protection=association.protection,
        user=association.user,
    )


def _rejected_event(rejected: Rejected, connection: _Connection) -> Event:
    refused = rejected.rejection
    return AssociationRequestRejected(
        association="",
        calling_ae_title=rejected.calling_ae_title,
        called_ae_title=rejected.called_ae_title,
        address=_text(connection.address),
        result=refused.result,
        source=refused.source,
        reason=refused.reason,
        comment=refused.comment,
    )


def _aborted_event(violation: ProtocolViolation, connection: _Connection) -> Event:
    return AssociationRequestRejected(
        association="",
        calling_ae_title="",
        called_ae_title="",
        address=_text(connection.address),
        result=0,
        source=0,
        reason=0,
        comment=violation.comment,
    )


def _refused_event(association: Association, message: Message, code: int, comment: str) -> Event:
    return OperationFinished(
        association=association.id,
        calling_ae_title=association.calling_ae_title,
        called_ae_title=association.called_ae_title,
        kind=_name(message.command.field),
        message_id=message.command.message_id,
        status=code,
        duration=0.0,
        comment=comment,
    )


def _ended_event(association: Association, counts: Mapping[str, int]) -> Event:
    return AssociationEnded(
        association=association.id,
        calling_ae_title=association.calling_ae_title,
        called_ae_title=association.called_ae_title,
        address=_text(association.address),
        how=association.ended_by or "",
        duration=time.monotonic() - association.began,
        counts=dict(counts),
    )
