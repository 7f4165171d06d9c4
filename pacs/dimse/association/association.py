"""An established association: messages in and out, C-CANCEL, release, abort.

One thread owns an association and blocks in it, always with a deadline; a message has been handed to the socket when
`send` returns. What arrives while the owner does something else is taken in by `attend`, from the owner between two
writes or from the watcher: C-CANCEL, release and loss cancel the running operation, whole messages wait their turn.
"""

import contextlib
import itertools
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NoReturn

from pacs.dicom.matching_mode import Negotiated
from pacs.dimse.association import cancel_monitor
from pacs.dimse.association.extended_negotiation import negotiated
from pacs.dimse.association.incoming import ABORTED_HERE, LOST, RELEASED, TIMEOUT, Incoming
from pacs.dimse.association.scp_requests import ScpRequests
from pacs.dimse.messages.message import Buffer, Command, CommandField, Message, p_data
from pacs.dimse.upper.upper_layer import UpperLayer
from pacs.dimse.upper.user_information import Agreement, Context, UserIdentity
from pacs.dimse.upper.waiting import WaitContext, wait
from pacs.errors import AssociationLost, PeerTimeout
from pacs.support.cancellation import Cancellation

UNLIMITED_PDU = 131_072
"""What is sent at once to a peer that takes PDUs of any length."""

_PDVS_AT_ONCE = 1024
"""How much `attend` takes in before others have their turn."""

CANCELLABLE = (CommandField.C_FIND, CommandField.C_MOVE, CommandField.C_GET)
"""The operations that a C-CANCEL may end (PS3.7 9.3.2.3): what comes behind their requests is looked at first."""

_serial = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a peer may cost: seconds, bytes and counts."""

    connect: float = 10.0
    """To reach a peer that we call."""
    negotiation: float = 10.0
    """From the connection to the end of its negotiation, and from our release to its answer."""
    idle: float | None = 600.0
    """Between two requests of a peer."""
    message: float = 60.0
    """For the rest of a PDU or message that has begun to arrive."""
    least_rate: int = 0
    """How many bytes in a second such a message has to bring, beyond that time; 0 is any."""
    write: float = 60.0
    """For a peer to take a mebibyte, or what is left of a message."""
    artim: float = 5.0
    """For the peer to close the connection when all is said."""
    max_pdu: int = 131_072
    """The longest P-DATA-TF (its variable field) that we take, in bytes."""
    held: int = 1 << 20
    """How many bytes of further messages are held for a peer that does not wait for our answer."""


class _Watched(Cancellation):
    """The cancellation of an operation: whatever it interrupts, the watcher looks after the association meanwhile."""

    def __init__(self, association: "Association") -> None:
        super().__init__()
        self._association = association

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """As the base class; what arrives on the association while the body runs is seen at once."""
        with self._association.busy(), super().interrupting(interrupt):
            yield


class Association:
    """An established association with a peer, as its requestor or its acceptor."""

    def __init__(
        self,
        upper: UpperLayer,
        agreement: Agreement,
        *,
        role: Literal["requestor", "acceptor"],
        address: tuple[str, int],
        limits: Limits,
    ) -> None:
        self.id = f"{os.getpid():x}-{next(_serial)}"
        self.role = role
        self.address = address
        self.agreement = agreement
        self.limits = limits
        self.began = time.monotonic()
        self._upper = upper
        self._owner = threading.get_ident()
        self._lock = threading.RLock()
        self._incoming = Incoming(upper, agreement.contexts, self._pull, limits.held)
        self._wait_context: WaitContext | None = None
        self.scp_requests = ScpRequests()
        """What we have to say on it by ourselves; its owner does that when it is idle."""

    # --- what was agreed ----------------------------------------------------------------------------------------

    @property
    def calling_ae_title(self) -> str:
        """The AE title of the requestor."""
        return self.agreement.calling_ae_title

    @property
    def called_ae_title(self) -> str:
        """The AE title by which the requestor called the acceptor."""
        return self.agreement.called_ae_title

    @property
    def contexts(self) -> Mapping[int, Context]:
        """The accepted presentation contexts by ID."""
        return self.agreement.contexts

    @property
    def extended(self) -> Mapping[str, bytes]:
        """What SOP Class Extended Negotiation agreed, by SOP Class UID; `negotiated` explains the bytes."""
        return self.agreement.extended

    @property
    def proposed_extended(self) -> Mapping[str, bytes]:
        """What the requestor offered in SOP Class Extended Negotiation."""
        return self.agreement.proposed_extended

    def negotiated(self, sop_class_uid: str) -> Negotiated:
        """What SOP Class Extended Negotiation agreed for one Query/Retrieve SOP Class."""
        return negotiated(sop_class_uid, self.extended.get(sop_class_uid))

    @property
    def user_identity(self) -> UserIdentity | None:
        """Who the requestor said its user is."""
        return self.agreement.user_identity

    @property
    def user(self) -> str:
        """The name of the user that was identified, '' for none."""
        return self.agreement.user

    @property
    def protection(self) -> str:
        """The version of TLS and the cipher suite, '' where nothing is encrypted."""
        return self._upper.protection

    @property
    def max_pdu(self) -> int:
        """The longest PDU (its variable field) the peer takes, in bytes; 0 is without limit."""
        return self.agreement.max_pdu

    # --- how it stands ------------------------------------------------------------------------------------------

    @property
    def ended_by(self) -> str | None:
        """How the association ended (`incoming.RELEASED`, `ABORTED`, `LOST`, ...), None while it has not."""
        return self._incoming.ended_by

    @property
    def is_established(self) -> bool:
        """Whether messages can still be sent."""
        return self.ended_by is None and self._upper.may_send_data

    @property
    def wants_input(self) -> bool:
        """Whether `attend` would take in what arrives: not once it is over, nor while too much waits to be read."""
        return self._incoming.wants_input

    def fileno(self) -> int:
        """The file descriptor of its socket, -1 once closed."""
        return self._upper.wire.fileno()

    # --- messages in --------------------------------------------------------------------------------------------

    def receive(self, timeout: float | None = None, *, wait_context: WaitContext | None = None) -> Message | None:
        """The next message, None when the association is over: `ended_by` says how.

        What was not read of the message before goes by. C-CANCELs are never returned. Raises PeerTimeout, after an
        A-ABORT, when no message begins within `timeout` seconds or one that began does not go on; Cancelled when the
        wait_context says so.
        """
        with self._keeping(wait_context):
            self._finish_current()
            began = time.monotonic()
            deadline = None if timeout is None else began + timeout
            while True:
                with self._lock:
                    message = self._incoming.current = self._incoming.next_message()
                    if message is None:
                        self._confirm_release()
                if message is not None or self.ended_by is not None:
                    return message
                self._await_bytes(began, deadline)

    def is_idle(self, deadline: float, wait_context: WaitContext) -> bool:
        """Wait until something has arrived for `receive`, or the association is over: False then.

        True at `deadline` (of the monotonic clock), and when the wait_context has had something to look after.
        """
        self._finish_current()
        self.process_input()
        with self._lock:
            if self.ended_by is not None or self._incoming.has_something:
                return False
        return not wait(self.fileno(), select.POLLIN, deadline, wait_context)

    def process_input(self) -> None:
        """Take in what has arrived, without waiting: see the C-CANCEL, the release or the loss that may be in it."""
        if not self._lock.acquire(blocking=False):
            return  # whoever has it reads or writes, and looks at what arrives anyway
        try:
            for _ in range(_PDVS_AT_ONCE):
                if not self.wants_input or not self._incoming.take_in_one():
                    return
        finally:
            self._lock.release()

    def _finish_current(self) -> None:
        current = self._incoming.current
        if current is not None and self.ended_by is None:
            with contextlib.suppress(AssociationLost):
                current.drain()

    def _pull(self, message: Message) -> memoryview:
        began = time.monotonic()
        while True:
            with self._lock:
                fragment = self._incoming.next_fragment(message)
            if fragment is not None:
                return fragment
            self._require(self.ended_by is None)
            self._await_bytes(began, None)

    # --- messages out -------------------------------------------------------------------------------------------

    def send(
        self,
        context_id: int,
        command: Command,
        data: Buffer | Iterable[Buffer] | None = None,
        *,
        wait_context: WaitContext | None = None,
    ) -> None:
        """Send a message; it is the socket's when this returns. Its Command Data Set Type is set here.

        The chunks of `data` must not change before. Raises PeerTimeout when the peer does not take it in time,
        AssociationLost when it is gone, Cancelled by `wait_context`, and what `data` raises: the association is aborted
        if a part of the message was sent by then.
        """
        chunks = (data,) if isinstance(data, bytes | bytearray | memoryview) else data
        encoded = command.announcing(data_set=chunks is not None).encode()
        self.send_prepared(
            p_data(context_id, encoded, chunks, self.max_pdu or UNLIMITED_PDU), wait_context=wait_context
        )
        if command.is_pending:
            self.process_input()  # before the next one is made; after any other message it is waited for what comes

    def prepare(self, context_id: int, command: bytes, data: Iterable[Buffer] | None = None) -> Iterable[list[Buffer]]:
        """A message for `send_prepared`, of which as much is read and framed as the first write takes.

        `command` is an encoded command set. Raises what `data` raises so far: nothing is sent yet, and the association
        goes on.
        """
        batches = p_data(context_id, command, data, self.max_pdu or UNLIMITED_PDU)
        return chain((next(batches),), batches)

    def send_prepared(self, batches: Iterable[list[Buffer]], *, wait_context: WaitContext | None = None) -> None:
        """Send a prepared message. Raises as `send`; what has arrived is not looked at."""
        with self._lock:
            outer, self._wait_context = (
                self._wait_context,
                wait_context,
            )  # what `_keeping` does, on the way of every C-STORE and Pending
            try:
                self._require(self.is_established)
                self._write(batches)
            finally:
                self._wait_context = outer

    def send_each(
        self, context_id: int, command: Command, data: Sequence[bytes], cancellation: Cancellation | None = None
    ) -> int:
        """Send a message for each data set of `data`, all with the same command, many to a write: how many went.

        What has arrived is looked at first, and whenever the peer takes no more; once `cancellation` is requested no
        further message begins. Raises as `send`.
        """
        encoded = command.announcing(data_set=True).encode()
        pdu = self.max_pdu or UNLIMITED_PDU
        messages = [b"".join(chain.from_iterable(p_data(context_id, encoded, (each,), pdu))) for each in data]
        self.process_input()
        with self._lock, self._keeping(None):
            self._require(self.is_established)
            return self._write_each(messages, cancellation or Cancellation())

    def _write_each(self, messages: Sequence[bytes], cancellation: Cancellation) -> int:
        deadline = time.monotonic() + self.limits.write
        try:
            return self._upper.write_each(
                messages, lambda: self._await_room(deadline), lambda: not cancellation.requested
            )
        except ConnectionError:
            self._lose()

    def _write(self, batches: Iterable[list[Buffer]]) -> None:
        begun = False
        try:
            for batch in batches:
                begun = True
                deadline = time.monotonic() + self.limits.write
                self._upper.write(batch, lambda until=deadline: self._await_room(until))  # type: ignore[misc]
        except ConnectionError:
            self._lose()
        except BaseException:
            if begun:
                self.abort()
            raise

    def _lose(self) -> NoReturn:
        """Note that the connection is gone. Raises AssociationLost."""
        self.process_input()  # the A-ABORT may be there that says why
        self._upper.connection_lost()
        self._incoming.end(LOST)
        raise self._over()

    def _await_room(self, deadline: float) -> None:
        """Wait until the peer takes more, looking at what it sends meanwhile."""
        wait_context = self._wait_context
        # A Pending response to the same peer cannot go between the fragments of what is being written.
        ticking = wait_context is not None and self not in wait_context.sources
        events = select.POLLOUT | (select.POLLIN if self.wants_input else 0)
        happened = wait(self.fileno(), events, deadline, wait_context, ticking=ticking)
        if happened is None:
            self._time_out("The peer does not take what is sent")
        elif happened & select.POLLIN:
            self.process_input()
            self._require(self.ended_by is None)

    # --- operations ---------------------------------------------------------------------------------------------

    @contextmanager
    def operation(self, request: Message) -> Iterator[Cancellation]:
        """Run an operation: its Cancellation is cancelled by a C-CANCEL for it, and by the end of the association.

        A C-CANCEL that came right behind the request counts (P4); one for anything else is ignored (X3, X4).
        """
        cancellation = _Watched(self)
        with self._lock:
            self._incoming.begin(request, cancellation)
        if request.command.field in CANCELLABLE:
            self.process_input()
        try:
            yield cancellation
        finally:
            with self._lock:
                self._incoming.finish(request)

    @contextmanager
    def busy(self, wait_context: WaitContext | None = None) -> Iterator[None]:
        """Have the process's watcher attend to this association, and to the wait_context's clock, while the body runs.

        For bodies that wait for something else than this association: the index, a file.
        """
        with cancel_monitor.shared().watching(self, wait_context):
            yield

    # --- the end ------------------------------------------------------------------------------------------------

    def release(self, timeout: float | None = None) -> None:
        """Release the association in good order and close it; abort it when the peer does not answer in time."""
        began = time.monotonic()
        deadline = began + (self.limits.negotiation if timeout is None else timeout)
        with self._lock:
            self._confirm_release()
            if self.is_established:
                self._upper.request_release()
        with contextlib.suppress(PeerTimeout):
            while self.ended_by is None and time.monotonic() < deadline:
                with self._lock:
                    self._incoming.discard(deadline)
                if self.ended_by is None:
                    self._await_bytes(began, deadline)
        self.close()

    def abort(self) -> None:
        """Abort the association (A-ABORT). Any thread may; another than its owner wakes the owner up."""
        if self._lock.acquire(timeout=1.0):
            try:
                self._upper.abort()
                self._incoming.end(ABORTED_HERE)
            finally:
                self._lock.release()
        if threading.get_ident() != self._owner:
            self._upper.wire.shut_down()

    def close(self) -> None:
        """Give the socket back, after an abort where the association is not over. Only for its owner.

        An acceptor waits for the requestor to close, for the ARTIM time at most (PS3.8 9.1.5): closing first could
        overtake what was sent last.
        """
        self.abort()
        if self.role == "acceptor":
            self._upper.linger()
        self._upper.wire.close()

    def _confirm_release(self) -> None:
        if self._incoming.release_indicated and self.ended_by is None:
            self._upper.confirm_release()
            self._incoming.end(RELEASED)

    # --- waiting ------------------------------------------------------------------------------------------------

    @contextmanager
    def _keeping(self, wait_context: WaitContext | None) -> Iterator[None]:
        """Look after `wait_context` in every wait of the body."""
        outer, self._wait_context = self._wait_context, wait_context
        try:
            yield
        finally:
            self._wait_context = outer

    def _await_bytes(self, began: float, deadline: float | None) -> None:
        """Wait until something arrives: by `deadline`, and within the message time where something has begun.

        The message time does not run while nobody listened: not before this wait `began`.
        """
        incoming = self._incoming
        if incoming.midway_since is None:
            happened = wait(self.fileno(), select.POLLIN, deadline, self._wait_context)
        else:
            self._upper.wire.acknowledge()
            rest, now = max(began, incoming.midway_since) + self.limits.message, time.monotonic()
            if self.limits.least_rate:
                rest = min(rest, now + incoming.patience(self.limits.message, self.limits.least_rate))
            deadline = rest if deadline is None else min(rest, deadline)
            happened = wait(self.fileno(), select.POLLIN, deadline, self._wait_context)
            incoming.waited += time.monotonic() - now
        if happened is None:
            self._time_out("The peer does not send what it has to")

    def _time_out(self, comment: str) -> None:
        with self._lock:
            self._upper.abort()
            self._incoming.end(TIMEOUT)
        raise PeerTimeout(comment)

    def _require(self, condition: bool) -> None:
        if not condition:
            raise self._over()

    def _over(self) -> AssociationLost:
        return AssociationLost(f"The association is over: {self.ended_by or RELEASED}")
