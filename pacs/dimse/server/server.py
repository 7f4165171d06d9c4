"""The DIMSE server: listens, runs one thread per association, passes each request to its handler, drains and stops.

P-ids such as P7 are explained in docs/checklist.md.
"""

import contextlib
import logging
import os
import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pacs.dimse.association.association import Association, AssociationLimits
from pacs.dimse.association.establishment import CallingAE, Policy, RejectedAssociation, accept
from pacs.dimse.messages import status
from pacs.dimse.messages.command import CommandField, operation_name
from pacs.dimse.messages.message import Message
from pacs.dimse.server.association_slots import AssociationBounds, AssociationSlots, WorkerSlots
from pacs.dimse.server.client_defects import LEAST_HOLD, LOST_RESPONSES, ResponseHold
from pacs.errors import AssociationLost, OutOfResources, ProtocolViolation, ServerStopping
from pacs.support.exhaustion import ExhaustionWarning, exhaustion
from pacs.support.sockets import listening
from pacs.support.threads import start_thread
from pacs.support.wakeup import WakeUp

Handler = Callable[[Association, Message], None]
Associate = Callable[..., Association | RejectedAssociation]
"""Negotiates an association on an accepted connection: `establishment.accept`, or a wrapper around it."""

MOST_UNASSOCIATED = 256
"""The most connections without an association, before it or after it; beyond that, the oldest connection of the address
with the most of them is closed (P7)."""

BACKLOG = 256
"""How many connections may wait to be accepted."""

HESITATION = 0.005
"""Seconds a worker leaves a connection to a worker with fewer connections."""

POLL_INTERVAL = 0.0005
"""Seconds between two checks whether the other worker has accepted it."""

EXHAUSTED_PAUSE = 0.1
"""Seconds between a connection for which there is no descriptor and its rejection."""

EXHAUSTED_SECONDS = 1.0
"""Seconds for a requestor to send its request, and to close, when it is rejected by the accept thread."""


class Address(NamedTuple):
    """An address to listen on, and whether associations are encrypted there."""

    host: str
    port: int
    is_secure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a server, replaced as a whole while it runs. `handlers` are by Command Field."""

    policy: Policy
    handlers: Mapping[int, Handler] = field(default_factory=dict)
    has: Callable[[str, int], bool] = lambda _sop_class_uid, _field: True
    """Whether a SOP Class has the operation of a Command Field."""
    limits: AssociationLimits = field(default_factory=AssociationLimits)
    bounds: AssociationBounds = field(default_factory=AssociationBounds)
    tls: ssl.SSLContext | None = None
    """The TLS context for connections to secure addresses."""
    pynetdicom_hold: float = LEAST_HOLD
    """The least delay of a `client_defects.ResponseHold`, in seconds, 0 for none."""
    associate: Associate = accept


class AssociationObserver:
    """Callbacks of a server, called in the threads of its associations. This base class does nothing."""

    def accepted(self, association: Association) -> None:
        """Note that an association is established."""

    def rejected(self, rejected: RejectedAssociation, address: tuple[str, int]) -> None:
        """Note that an association request from `address` was rejected."""

    def aborted(self, violation: ProtocolViolation, address: tuple[str, int]) -> None:
        """Note that a connection from `address` was aborted without a valid association request."""

    def refused(self, association: Association, message: Message, status: int, comment: str) -> None:
        """Note that a request was refused because the server has no handler for it."""

    def ended(self, association: Association, counts: Mapping[str, int]) -> None:
        """Note that an association is over; `counts` are its requests by name of the operation."""


@dataclass(frozen=True, slots=True)
class _Connection:
    """An accepted TCP connection."""

    socket: socket.socket
    address: tuple[str, int]
    is_secure: bool


class DimseServer:
    """Accepts associations on one or more addresses and serves each in a thread of its own.

    An association takes a slot when its request arrives; a connection without a request takes none (P7). The server
    runs alone, or as one of several workers that share listeners and slots.
    """

    def __init__(
        self,
        addresses: Iterable[Address | tuple[str, int]],
        settings: Settings,
        *,
        observer: AssociationObserver | None = None,
    ) -> None:
        self._addresses = tuple(Address(*each) for each in addresses)
        self._settings = settings
        self._slots = AssociationSlots().of(0)
        self._observer = observer or AssociationObserver()
        self._lock = threading.Condition()
        self._listeners: list[socket.socket] = []
        self._ports: tuple[int, ...] = ()
        self._unassociated: dict[int, _Connection] = {}
        """By `id`, the connections without an association: before it, or after it until the peer has closed."""
        self._associations: set[Association] = set()
        self._admitted = 0
        """The number of associations, those being accepted included."""
        self._threads: set[threading.Thread] = set()
        self._is_draining = False
        self._wake_up = WakeUp()
        self._spare = _SpareDescriptor()
        self._exhaustion = ExhaustionWarning("associations are rejected")
        self._accepting: threading.Thread | None = None

    # --- life cycle ---------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Listen without accepting yet. Raises OSError when an address is not available."""
        try:
            for host, port, _ in self._addresses:
                self._listeners.append(listening(host, port, BACKLOG))
        except OSError:
            self._is_draining = True  # `stop` has nothing left to do
            self._close_listeners()
            raise
        self._ports = _ports(self._listeners)

    def join(self, listeners: Sequence[socket.socket], slots: WorkerSlots) -> None:
        """Start accepting as one of several workers, on the listeners and within the slots that they share."""
        self._listeners, self._ports = list(listeners), _ports(listeners)
        self._slots = slots
        self.start()

    def start(self) -> None:
        """Start accepting, and listen first if that was not done. Raises OSError when an address is not available."""
        if not self._listeners:
            self.listen()
        self._slots.set_serving(True)
        self._accepting = start_thread("pacs-accept", self._accept_all)

    def configure(self, settings: Settings) -> None:
        """Replace the settings: for requests at once, for limits and encryption from the next connection on."""
        self._settings = settings

    @property
    def is_accepting(self) -> bool:
        """Whether associations are accepted now."""
        return not self._is_draining and self._accepting is not None and self._accepting.is_alive()

    @property
    def listeners(self) -> Sequence[socket.socket]:
        """The listening sockets, for workers to `join`."""
        return tuple(self._listeners)

    @property
    def ports(self) -> tuple[int, ...]:
        """The port of each address: the one chosen by the system where 0 was given."""
        return self._ports

    @property
    def port(self) -> int:
        """The port of the first address."""
        return self._ports[0]

    @property
    def associations(self) -> int:
        """The number of associations being served."""
        with self._lock:
            return len(self._associations)

    def stop_accepting(self) -> None:
        """Accept no more associations; running ones go on."""
        with self._lock:
            if self._is_draining:
                return
            self._is_draining = True
            self._slots.set_serving(False)
        self._wake_up.wake()
        if self._accepting is not None:
            self._accepting.join()
        self._close_listeners()

    def drain(self, seconds: float) -> bool:
        """Accept no more and wait at most `seconds` for running associations to end. Return whether all did."""
        self.stop_accepting()
        with self._lock:
            return self._lock.wait_for(lambda: not self._admitted, timeout=seconds)

    def stop(self) -> None:
        """Accept no more, abort all associations, and wait for their threads, at most the ARTIM time."""
        self.stop_accepting()
        with self._lock:
            associations, threads = list(self._associations), list(self._threads)
            for connection in self._unassociated.values():
                _shut_down(connection.socket)
        for association in associations:
            association.abort()
        deadline = time.monotonic() + self._settings.limits.artim
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _close_listeners(self) -> None:
        for each in self._listeners:
            each.close()
        self._wake_up.close()
        self._spare.close()

    # --- accepting ----------------------------------------------------------------------------------------------

    def _accept_all(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_up, selectors.EVENT_READ)
            for listener, address in zip(self._listeners, self._addresses, strict=True):
                selector.register(listener, selectors.EVENT_READ, address)
            while not self._is_draining:
                for key, _ in selector.select():
                    if isinstance(key.fileobj, socket.socket) and key.data is not None:
                        self._accept_one(key.fileobj, key.data.is_secure)
                with self._lock:  # every worker wakes for a connection, also those that did not accept it
                    self._limit_unassociated()

    def _accept_one(self, listener: socket.socket, is_secure: bool) -> None:
        self._hesitate()
        try:
            accepted, address = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            self._reject_next(listener, is_secure, exhaustion(error) or OutOfResources(str(error.strerror)))
            return
        connection = _Connection(accepted, (_plain(address[0]), address[1]), is_secure)
        try:
            with self._lock:  # the thread needs the lock before it ends
                self._threads.add(start_thread("pacs-association", self._run, connection))
                self._add_unassociated(connection)
        except OutOfResources as error:
            self._reject(connection, error)

    # --- rejecting without descriptors or threads -----------------------------------------------------------------

    def _reject_next(self, listener: socket.socket, is_secure: bool, why: OutOfResources) -> None:
        """Reject the next connection, for which there is no descriptor but the spare one."""
        time.sleep(EXHAUSTED_PAUSE)  # another worker may accept it, or a descriptor become free
        self._spare.close()
        try:
            accepted, address = listener.accept()
        except OSError:
            return
        else:
            connection = _Connection(accepted, (_plain(address[0]), address[1]), is_secure)
            self._reject(connection, why)
        finally:
            self._spare.open()

    def _reject(self, connection: _Connection, why: OutOfResources) -> None:
        """Reject the association request of a connection in this thread, because there is no other for it."""
        self._exhaustion.log(why)

        def reject(_caller: CallingAE) -> None:
            raise why

        limits = replace(self._settings.limits, negotiation=EXHAUSTED_SECONDS, artim=EXHAUSTED_SECONDS)
        self._negotiate(connection, replace(self._settings, limits=limits), reject)

    def _hesitate(self) -> None:
        """Give a worker with fewer connections a moment to accept the next one.

        Without this, the worker that happens to be on a processor would accept them all.
        """
        end = time.monotonic() + HESITATION
        while self._slots.is_ahead and time.monotonic() < end:
            time.sleep(POLL_INTERVAL)

    def _add_unassociated(self, connection: _Connection) -> None:
        """Add a connection to those without an association; the lock is held."""
        self._unassociated[id(connection)] = connection
        self._update_counts()
        self._limit_unassociated()

    def _remove_unassociated(self, connection: _Connection) -> None:
        """Remove a connection from those without an association; the lock is held."""
        self._unassociated.pop(id(connection), None)
        self._update_counts()

    def _limit_unassociated(self) -> None:
        """Shut down connections without an association while there are too many; the lock is held.

        Always the oldest of the address with the most connections, so that a flood keeps out only its own address.
        """
        while self._unassociated and self._slots.has_too_many(MOST_UNASSOCIATED):
            by_address = Counter(each.address[0] for each in self._unassociated.values())
            flooding = max(by_address, key=by_address.__getitem__)
            oldest = next(key for key, each in self._unassociated.items() if each.address[0] == flooding)
            _shut_down(self._unassociated.pop(oldest).socket)
            self._update_counts()

    def _release_slot(self, slot: int) -> None:
        """Release the slot of an association that ended or was not established; the lock is held."""
        self._admitted -= 1
        self._slots.release(slot)
        self._lock.notify_all()

    def _update_counts(self) -> None:
        """Publish the number of connections to the other workers; the lock is held."""
        self._slots.set_counts(len(self._threads), len(self._unassociated))

    def _forget(self, thread: threading.Thread, connection: _Connection) -> None:
        with self._lock:
            self._threads.discard(thread)
            self._remove_unassociated(connection)

    # --- one connection -----------------------------------------------------------------------------------------

    def _run(self, connection: _Connection) -> None:
        """Negotiate an association on a connection and serve it to its end."""
        try:
            associated = self._associate(connection)
            if associated is not None:
                self._serve(*associated, connection)
        except Exception:
            logging.getLogger("pacs").exception("an association failed")
        finally:
            self._forget(threading.current_thread(), connection)

    def _associate(self, connection: _Connection) -> tuple[Association, int] | None:
        """Negotiate. Return the association and its slot, None when it is not established."""
        settings, slots = self._settings, []

        def take_slot(caller: CallingAE) -> None:
            with self._lock:
                if self._is_draining:
                    raise ServerStopping("the server stops")
                slots.append(self._slots.take(settings.bounds, caller.address, caller.ae_title))
                self._admitted += 1

        found = None
        try:
            found = self._negotiate(connection, settings, take_slot)
        finally:
            with self._lock:
                if found is not None:
                    self._associations.add(found)
                    self._remove_unassociated(connection)
                elif slots:
                    self._release_slot(slots[0])
        return None if found is None else (found, slots[0])

    def _negotiate(
        self, connection: _Connection, settings: Settings, take_slot: Callable[[CallingAE], None]
    ) -> Association | None:
        """Negotiate an association; None when it is not established."""
        tls = settings.tls if connection.is_secure else None
        try:
            found = settings.associate(
                connection.socket, connection.address, settings.policy, settings.limits, take_slot, tls=tls
            )
        except (AssociationLost, OSError):
            return None  # a port scan, a health check, or a requestor that gave up
        except ProtocolViolation as error:
            self._observer.aborted(error, connection.address)
            return None
        if isinstance(found, Association):
            return found
        self._observer.rejected(found, connection.address)
        found.close()
        return None

    def _serve(self, association: Association, slot: int, connection: _Connection) -> None:
        with self._lock:
            stopping = self._is_draining
        self._observer.accepted(association)
        counts: Counter[str] = Counter()
        try:
            if not stopping:
                self._handle_all(association, counts)
        except AssociationLost:
            pass  # `ended_by` has the reason
        except Exception:
            logging.getLogger("pacs").exception("a handler failed, its association is aborted")
        finally:
            association.abort()
            association.scp_requests.close()
            with self._lock:
                self._associations.discard(association)
                self._release_slot(slot)
                self._add_unassociated(connection)
            self._observer.ended(association, counts)
            association.close()

    def _handle_all(self, association: Association, counts: Counter[str]) -> None:
        hold = self._hold_for(association)
        while (message := self._next(association)) is not None:
            if message.command.is_response:
                if association.scp_requests.handle_response(message):
                    continue
                number = message.command.responding_to
                raise association.violated(message, f"(0000,0120) Message ID {number} is that of no request")
            counts[operation_name(message.command.field)] += 1
            if hold is not None:
                hold.wait(message.command.field)  # a C-CANCEL meanwhile is read when the operation begins
            self._handle(association, message)
            if hold is not None:
                hold.operation_ended()

    def _hold_for(self, association: Association) -> ResponseHold | None:
        least = self._settings.pynetdicom_hold
        return ResponseHold(least) if least and LOST_RESPONSES.is_of(association.agreement) else None

    def _handle(self, association: Association, message: Message) -> None:
        settings, field = self._settings, message.command.field
        if not _fits(message):
            comment = "The SOP Class is not that of the presentation context"
            self._refuse(association, message, status.SOP_CLASS_NOT_SUPPORTED, comment)
        elif field in settings.handlers and settings.has(message.context.abstract_syntax, field):
            settings.handlers[field](association, message)
        else:
            comment = "This server does not do that operation for this SOP Class"
            self._refuse(association, message, status.UNRECOGNIZED_OPERATION, comment)

    def _next(self, association: Association) -> Message | None:
        """Return the next message, None at the end; send requests of the SCP meanwhile. Raises AssociationLost."""
        return association.receive(association.scp_requests.run(association, association.limits.idle))

    def _refuse(self, association: Association, message: Message, code: int, comment: str) -> None:
        association.send(message.context.id, message.command.response(code, error_comment=comment))
        self._observer.refused(association, message, code, comment)


class _SpareDescriptor:
    """A descriptor that is kept open for one more connection when there are no others."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self.open()

    def open(self) -> None:
        """Open it again, if there is a free one."""
        with contextlib.suppress(OSError):
            self._descriptor = os.open(os.devnull, os.O_RDONLY)

    def close(self) -> None:
        """Make room for another descriptor."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _ports(listeners: Iterable[socket.socket]) -> tuple[int, ...]:
    return tuple(each.getsockname()[1] for each in listeners)


def _shut_down(connection: socket.socket) -> None:
    """End a connection that another thread reads and closes."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _fits(message: Message) -> bool:
    """Return whether a request has its context's SOP Class, and our role there: SCU for event reports, else SCP."""
    context, command = message.context, message.command
    is_for_us = context.as_scp or command.field == CommandField.N_EVENT_REPORT
    return is_for_us and command.sop_class_uid == context.abstract_syntax


def _plain(host: str) -> str:
    """Return an IPv4 address in its usual form, also from a dual-stack listener that has it as an IPv6 address."""
    return host.removeprefix("::ffff:") if "." in host else host
