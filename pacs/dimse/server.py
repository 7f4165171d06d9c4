"""The server: listens, runs one thread per association, hands each request to its handler, drains and stops."""

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pacs.dimse import status
from pacs.dimse.association import Association, Limits
from pacs.dimse.command import CommandField
from pacs.dimse.establishment import Rejected, accept
from pacs.dimse.messages import Message
from pacs.dimse.negotiation import AcceptorPolicy
from pacs.dimse.places import Places, Share
from pacs.errors import AssociationLost, ProtocolViolation
from pacs.telemetry import AssociationAccepted, AssociationEnded, AssociationRejected, Event

Handler = Callable[[Association, Message], None]

MOST_UNASSOCIATED = 256
"""How many connections may be without an association at once, before it or after; one more, and the oldest is given up
(P7)."""

HESITATION = 0.005
"""Seconds a worker leaves a connection to one that has fewer of them, if there is one."""

GLANCE = 0.0005
"""Seconds from one look whether that one has it to the next."""


@dataclass(frozen=True, slots=True)
class _Connection:
    """Something that connected: its socket until it has an association, then that."""

    socket: socket.socket
    address: tuple[str, int]


class Server:
    """Accepts associations on some addresses and serves each in a thread of its own.

    `handlers` are by Command Field. At most `associations` are served at once, counted from their request on: what
    connects and says nothing holds no place (P7). It serves alone, or as one of several workers, which share listeners
    and places.
    """

    def __init__(
        self,
        addresses: Iterable[tuple[str, int]],
        policy: AcceptorPolicy,
        handlers: Mapping[int, Handler],
        *,
        limits: Limits | None = None,
        associations: int = 100,
        publish: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        self._addresses = tuple(addresses)
        self._policy = policy
        self._handlers = handlers
        self._limits = limits or Limits()
        self._places = Places(associations).of(0)
        self._publish = publish
        self._lock = threading.Condition()
        self._listeners: list[socket.socket] = []
        self._ports: tuple[int, ...] = ()
        self._unassociated: dict[int, socket.socket] = {}
        """By `id`: what has no association yet, or has none any more and is only waited for to close."""
        self._associations: set[Association] = set()
        self._admitted = 0
        """How many associations there are, those included that are just being accepted."""
        self._threads: set[threading.Thread] = set()
        self._is_draining = False
        self._bell, self._ring = socket.socketpair()
        self._accepting: threading.Thread | None = None

    # --- for the house ------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Listen, and accept nothing yet. Raises OSError when an address cannot be had."""
        try:
            for host, port in self._addresses:
                self._listeners.append(_listen(host, port))
        except OSError:
            self._is_draining = True  # there is nothing to stop any more
            self._close_listeners()
            raise
        self._ports = _ports(self._listeners)

    def join(self, listeners: Sequence[socket.socket], places: Share) -> None:
        """Begin to accept as one of several workers, on listeners they share and within places they share."""
        self._listeners, self._ports = list(listeners), _ports(listeners)
        self._places = places
        self.start()

    def start(self) -> None:
        """Begin to accept. Raises OSError when nobody listens yet and an address cannot be had."""
        if not self._listeners:
            self.listen()
        self._places.serve(True)
        self._accepting = threading.Thread(target=self._accept_all, name="pacs-accept", daemon=True)
        self._accepting.start()

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
            self._places.serve(False)
        self._ring.send(b"\0")
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
                _cut(waiting)
        for association in associations:
            association.abort()
        deadline = time.monotonic() + self._limits.artim
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    # --- accepting ----------------------------------------------------------------------------------------------

    def _close_listeners(self) -> None:
        for each in (*self._listeners, self._bell, self._ring):
            each.close()

    def _accept_all(self) -> None:
        with selectors.DefaultSelector() as selector:
            for each in (self._bell, *self._listeners):
                selector.register(each, selectors.EVENT_READ)
            while not self._is_draining:
                for key, _ in selector.select():
                    if isinstance(key.fileobj, socket.socket) and key.fileobj is not self._bell:
                        self._accept_one(key.fileobj)
                with self._lock:  # whoever accepts what came, all workers have woken
                    self._thin_out()

    def _accept_one(self, listener: socket.socket) -> None:
        self._hesitate()
        try:
            connection, address = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # Out of descriptors, most likely: the connection stays in the queue until some are free again.
            logging.getLogger("pacs").warning("cannot accept a connection: %s", error.strerror)
            time.sleep(0.1)
            return
        thread = threading.Thread(
            target=self._run, args=(_Connection(connection, address[:2]),), name="pacs-association", daemon=True
        )
        with self._lock:
            self._threads.add(thread)
            self._is_unassociated(connection)
        try:
            thread.start()
        except RuntimeError:
            logging.getLogger("pacs").warning("cannot serve a connection: no more threads can be started")
            self._forget(thread, connection)
            connection.close()

    def _hesitate(self) -> None:
        """Leave what connects to a worker that has fewer connections, for the moment it takes that one to accept it.

        Without this, whoever happens to be on a processor gets them all.
        """
        end = time.monotonic() + HESITATION
        while self._places.is_ahead and time.monotonic() < end:
            time.sleep(GLANCE)

    def _is_unassociated(self, connection: socket.socket) -> None:
        """Count a connection among those without an association; the lock is held."""
        self._unassociated[id(connection)] = connection
        self._count()
        self._thin_out()

    def _thin_out(self) -> None:
        """Give up the oldest connections without an association while there are too many; the lock is held."""
        while self._unassociated and self._places.has_too_many(MOST_UNASSOCIATED):
            _cut(self._unassociated.pop(next(iter(self._unassociated))))
            self._count()

    def _is_associated(self, connection: socket.socket) -> None:
        """Count a connection among those without an association no more; the lock is held."""
        self._unassociated.pop(id(connection), None)
        self._count()

    def _give_back(self) -> None:
        """Give back the place of an association that is over, or did not come about; the lock is held."""
        self._admitted -= 1
        self._places.give_back()
        self._lock.notify_all()

    def _count(self) -> None:
        """Tell the other workers how many connections there are; the lock is held."""
        self._places.count(len(self._threads), len(self._unassociated))

    def _forget(self, thread: threading.Thread, connection: socket.socket) -> None:
        with self._lock:
            self._threads.discard(thread)
            self._is_associated(connection)

    # --- one connection -----------------------------------------------------------------------------------------

    def _run(self, connection: _Connection) -> None:
        """The life of one connection: its association, if it comes to that, and the end of both."""
        try:
            association = self._associate(connection)
            if association is not None:
                self._serve(association, connection)
        except Exception:
            logging.getLogger("pacs").exception("an association failed")
        finally:
            self._forget(threading.current_thread(), connection.socket)

    def _associate(self, connection: _Connection) -> Association | None:
        admitted = False

        def admit() -> bool:
            nonlocal admitted
            with self._lock:
                admitted = not self._is_draining and self._places.take()
                self._admitted += admitted
            return admitted

        found: Association | Rejected | None = None
        try:
            found = accept(connection.socket, connection.address, self._policy, self._limits, admit)
        except (AssociationLost, OSError):
            return None  # a port scan, a health check, or a peer that gave up
        except ProtocolViolation as error:
            self._publish(_aborted_event(error, connection))
            return None
        finally:
            with self._lock:
                if isinstance(found, Association):
                    self._associations.add(found)
                    self._is_associated(connection.socket)
                elif admitted:
                    self._give_back()
        if isinstance(found, Association):
            return found
        self._publish(_rejected_event(found, connection))
        found.close()
        return None

    def _serve(self, association: Association, connection: _Connection) -> None:
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
            association.errands.close()
            with self._lock:
                self._associations.discard(association)
                self._give_back()
                self._is_unassociated(connection.socket)
            self._publish(_ended_event(association, counts))
            association.close()

    def _receive_all(self, association: Association, counts: Counter[str]) -> None:
        while (message := self._next(association)) is not None:
            field = message.command.field
            if message.command.is_response:
                if association.errands.answered(message):
                    continue
                return  # to no request of ours: who answers what was not asked cannot be understood
            counts[_name(field)] += 1
            if message.command.sop_class_uid != message.context.abstract_syntax or not message.context.as_scp:
                comment = "The SOP Class is not that of the presentation context"
                self._refuse(association, message, status.SOP_CLASS_NOT_SUPPORTED, comment)
            elif field in self._handlers:
                self._handlers[field](association, message)
            else:
                comment = "This server does not do that operation"
                self._refuse(association, message, status.UNRECOGNIZED_OPERATION, comment)

    def _next(self, association: Association) -> Message | None:
        """The next message, None at the end; our own errands are run until it comes. Raises AssociationLost."""
        return association.receive(association.errands.run(association, self._limits.idle))

    def _refuse(self, association: Association, message: Message, code: int, comment: str) -> None:
        association.send(message.context.id, message.command.response(code, error_comment=comment))


# --- the small parts ---------------------------------------------------------------------------------------------


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _ports(listeners: Iterable[socket.socket]) -> tuple[int, ...]:
    return tuple(each.getsockname()[1] for each in listeners)


def _cut(connection: socket.socket) -> None:
    """End a connection from another thread than its own, which closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _name(field: int) -> str:
    try:
        return CommandField(field).name.replace("_", "-", 1)
    except ValueError:
        return "other"


def _text(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


def _accepted_event(association: Association) -> Event:
    return AssociationAccepted(
        association=association.id,
        calling_ae_title=association.calling_ae_title,
        called_ae_title=association.called_ae_title,
        address=_text(association.address),
        contexts=len(association.contexts),
    )


def _rejected_event(rejected: Rejected, connection: _Connection) -> Event:
    refused = rejected.rejection
    return AssociationRejected(
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
    return AssociationRejected(
        association="",
        calling_ae_title="",
        called_ae_title="",
        address=_text(connection.address),
        result=0,
        source=0,
        reason=0,
        comment=violation.comment,
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
