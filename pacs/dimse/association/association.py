"""An established association: messages in and out, C-CANCEL, release, abort.

One thread owns an association and blocks in it, always with a deadline; when `send` returns, the message is in the
socket's buffer. While the owner does something else, `process_input` reads what arrives; the owner calls it between two
writes, or the cancel monitor does. C-CANCEL, release and loss cancel the running operation; other messages are queued.
P-ids such as P4 and X3 are explained in docs/checklist.md.
"""

import contextlib
import itertools
import math
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
from pacs.dimse.association.incoming_messages import ABORTED_HERE, LOST, RELEASED, TIMEOUT, VIOLATION, Incoming
from pacs.dimse.association.scp_requests import ScpRequests
from pacs.dimse.messages.message import Buffer, Command, CommandField, Message, p_data, small_messages
from pacs.dimse.upper.upper_layer import UpperLayer
from pacs.dimse.upper.user_information import Agreement, Context, UserIdentity
from pacs.dimse.upper.waiting import WaitContext, wait
from pacs.errors import AssociationLost, PeerTimeout
from pacs.support.cancellation import Cancellation

UNLIMITED_PDU = 131_072
"""The length of PDUs to a peer that states no maximum."""

_MOST_PDVS = 1024
"""The most PDVs of one `process_input`, so that the cancel monitor also serves other associations."""

CANCELLABLE = (CommandField.C_FIND, CommandField.C_MOVE, CommandField.C_GET)
"""The operations that a C-CANCEL may end (PS3.7 9.3.2.3); it may arrive right behind their requests."""

_serial = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationLimits:
    """Time limits in seconds, and limits in bytes, of associations."""

    connect: float = 10.0
    """Seconds to connect to a peer."""
    negotiation: float = 10.0
    """Seconds for the negotiation, and for the answer to a release request."""
    idle: float | None = 600.0
    """Seconds between two requests of a peer, None for no limit."""
    message: float = 60.0
    """Seconds for the rest of a PDU or message that has begun to arrive."""
    least_rate: int = 0
    """Bytes per second with which such a message may take longer; 0 is without limit."""
    write: float = 60.0
    """Seconds for a peer to read one mebibyte, or the rest of a message."""
    artim: float = 5.0
    """Seconds for the peer to close the connection after the association (ARTIM)."""
    max_pdu: int = 131_072
    """Our maximum length of a P-DATA-TF (its variable field), in bytes."""
    until: float = math.inf
    """Time of the monotonic clock at which the association is aborted if it waits for input."""
    held: int = 1 << 20
    """The most bytes of queued messages, for a peer that does not wait for responses."""


class _MonitoredCancellation(Cancellation):
    """The cancellation of an operation; the cancel monitor watches the association during interruptible calls."""

    def __init__(self, association: "Association") -> None:
        super().__init__()
        self._association = association

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """See `Cancellation`; a C-CANCEL that arrives while the body runs is processed at once."""
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
        limits: AssociationLimits,
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
        """Requests that the SCP initiates; the owner sends them when the association is idle."""

    # --- the agreement ----------------------------------------------------------------------------------------

    @property
    def calling_ae_title(self) -> str:
        """The AE title of the requestor."""
        return self.agreement.calling_ae_title

    @property
    def called_ae_title(self) -> str:
        """The AE title that the requestor calls."""
        return self.agreement.called_ae_title

    @property
    def contexts(self) -> Mapping[int, Context]:
        """The accepted presentation contexts by ID."""
        return self.agreement.contexts

    @property
    def extended(self) -> Mapping[str, bytes]:
        """The result of SOP Class Extended Negotiation by SOP Class UID; `negotiated` decodes the bytes."""
        return self.agreement.extended

    @property
    def proposed_extended(self) -> Mapping[str, bytes]:
        """The requestor's proposal of SOP Class Extended Negotiation by SOP Class UID."""
        return self.agreement.proposed_extended

    def negotiated(self, sop_class_uid: str) -> Negotiated:
        """Return the result of SOP Class Extended Negotiation for one Query/Retrieve SOP Class."""
        return negotiated(sop_class_uid, self.extended.get(sop_class_uid))

    @property
    def user_identity(self) -> UserIdentity | None:
        """The user identity in the association request."""
        return self.agreement.user_identity

    @property
    def user(self) -> str:
        """The name of the identified user, '' for none."""
        return self.agreement.user

    @property
    def protection(self) -> str:
        """The version of TLS and the cipher suite, '' without TLS."""
        return self._upper.protection

    @property
    def max_pdu(self) -> int:
        """The peer's maximum length of a PDU (its variable field), in bytes; 0 is without limit."""
        return self.agreement.max_pdu

    # --- state -------------------------------------------------------------------------------------------------

    @property
    def ended_by(self) -> str | None:
        """How the association ended (`incoming.RELEASED`, `ABORTED`, `LOST`, ...), None before its end."""
        return self._incoming.ended_by

    @property
    def violation(self) -> str:
        """What violated the protocol: the PDU or message, the side that sent it, and its bytes; '' without one."""
        return self._upper.violation

    @property
    def end_reason(self) -> str:
        """How the association ended, for a sentence."""
        return "; ".join(filter(None, (self.ended_by or RELEASED, self.violation)))

    @property
    def is_established(self) -> bool:
        """Whether messages can be sent."""
        return self.ended_by is None and self._upper.may_send_data

    @property
    def wants_input(self) -> bool:
        """Whether `process_input` would read more: not after the end, nor while too many messages are queued."""
        return self._incoming.wants_input

    def fileno(self) -> int:
        """Return the file descriptor of the socket, -1 once closed."""
        return self._upper.wire.fileno()

    # --- receiving ----------------------------------------------------------------------------------------------

    def receive(self, timeout: float | None = None, *, wait_context: WaitContext | None = None) -> Message | None:
        """Return the next message, None when the association is over; `ended_by` has the reason.

        The unread rest of the previous message is discarded. C-CANCELs are never returned. Raises PeerTimeout, after an
        A-ABORT, when no message begins within `timeout` seconds or the rest of a message does not come; Cancelled by
        `wait_context`.
        """
        with self._waiting_with(wait_context):
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
        """Wait for input for `receive`. Return False when there is some, or the association is over.

        Return True at `deadline` (of the monotonic clock), and when something else in `wait_context` ended the wait.
        """
        self._finish_current()
        self.process_input()
        with self._lock:
            if self.ended_by is not None or self._incoming.has_input:
                return False
        return not wait(self.fileno(), select.POLLIN, deadline, wait_context)

    def process_input(self) -> None:
        """Read what has arrived, without waiting, and act on a C-CANCEL, a release or the loss of the connection."""
        if not self._lock.acquire(blocking=False):
            return  # another thread reads or writes, and processes the input itself
        try:
            for _ in range(_MOST_PDVS):
                if not self.wants_input or not self._incoming.process_one():
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

    # --- sending ------------------------------------------------------------------------------------------------

    def send(
        self,
        context_id: int,
        command: Command,
        data: Buffer | Iterable[Buffer] | None = None,
        *,
        wait_context: WaitContext | None = None,
    ) -> None:
        """Send a message; when this returns, it is in the socket's buffer. The Command Data Set Type is set here.

        The chunks of `data` must not change before. Raises PeerTimeout when the peer does not read it in time,
        AssociationLost when the connection is lost, Cancelled by `wait_context`, and what `data` raises; the
        association is aborted if a part of the message was sent.
        """
        chunks = (data,) if isinstance(data, bytes | bytearray | memoryview) else data
        encoded = command.announcing(data_set=chunks is not None).encode()
        self.send_prepared(
            p_data(context_id, encoded, chunks, self.max_pdu or UNLIMITED_PDU), wait_context=wait_context
        )
        if command.is_pending:
            self.process_input()  # notice a C-CANCEL before the next match; other responses are followed by `receive`

    def prepare(self, context_id: int, command: bytes, data: Iterable[Buffer] | None = None) -> Iterable[list[Buffer]]:
        """Return a message for `send_prepared`; read and frame as much of `data` as the first write needs.

        `command` is an encoded command set. Raises what `data` raises; nothing is sent then, and the association goes
        on.
        """
        batches = p_data(context_id, command, data, self.max_pdu or UNLIMITED_PDU)
        return chain((next(batches),), batches)

    def send_prepared(self, batches: Iterable[list[Buffer]], *, wait_context: WaitContext | None = None) -> None:
        """Send a prepared message without processing input. Raises as `send`."""
        with self._lock:
            # The same as `_waiting_with`, inlined: this runs for every C-STORE and Pending response.
            outer, self._wait_context = self._wait_context, wait_context
            try:
                self._require(self.is_established)
                self._write(batches)
            finally:
                self._wait_context = outer

    def send_each(
        self, context_id: int, command: Command, data: Sequence[bytes], cancellation: Cancellation | None = None
    ) -> int:
        """Send a message with the same command for each data set of `data`, many per write. Return how many were sent.

        Input is processed first, and whenever the send buffer is full; once `cancellation` is requested, no further
        message begins. Raises as `send`.
        """
        encoded = command.announcing(data_set=True).encode()
        max_pdu = self.max_pdu or UNLIMITED_PDU
        messages = small_messages(context_id, encoded, data, max_pdu)
        self.process_input()
        with self._lock, self._waiting_with(None):
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
        """Record that the connection is lost. Raises AssociationLost."""
        self.process_input()  # an A-ABORT with the reason may have arrived
        self._upper.connection_lost()
        self._incoming.end(LOST)
        raise self._over()

    def _await_room(self, deadline: float) -> None:
        """Wait until the socket is writable; process input meanwhile."""
        wait_context = self._wait_context
        # A Pending response on this association must not be written between the fragments of another message.
        ticking = wait_context is not None and self not in wait_context.sources
        events = select.POLLOUT | (select.POLLIN if self.wants_input else 0)
        happened = wait(self.fileno(), events, deadline, wait_context, ticking=ticking)
        if happened is None:
            self._time_out("The peer does not read what is sent")
        elif happened & select.POLLIN:
            self.process_input()
            self._require(self.ended_by is None)

    # --- operations ---------------------------------------------------------------------------------------------

    @contextmanager
    def operation(self, request: Message) -> Iterator[Cancellation]:
        """Run an operation: its cancellation is requested by a C-CANCEL, and by the end of the association.

        A C-CANCEL right behind the request counts (P4); one for another Message ID is ignored (X3, X4).
        """
        cancellation = _MonitoredCancellation(self)
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
        """Register this association, and the tick of `wait_context`, with the cancel monitor while the body runs.

        For bodies that wait for the index or a file, and not for this association.
        """
        with cancel_monitor.shared().watching(self, wait_context):
            yield

    # --- the end ------------------------------------------------------------------------------------------------

    def release(self, timeout: float | None = None) -> None:
        """Release the association and close it; abort it when the peer does not answer in time."""
        began = time.monotonic()
        deadline = began + (self.limits.negotiation if timeout is None else timeout)
        try:
            self._release(began, deadline)
        finally:  # after a KeyboardInterrupt too
            self.close()

    def _release(self, began: float, deadline: float) -> None:
        """Request the release, and wait until the peer has answered or `deadline`."""
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

    def abort(self) -> None:
        """Abort the association (A-ABORT). Any thread may call this; it wakes the owner."""
        if self._lock.acquire(timeout=1.0):
            try:
                self._upper.abort()
                self._incoming.end(ABORTED_HERE)
            finally:
                self._lock.release()
        if threading.get_ident() != self._owner:
            self._upper.wire.shut_down()

    def violated(self, message: Message, what: str) -> AssociationLost:
        """Abort the association because a message violates the protocol as `what` says. Return the error to raise."""
        with self._lock:
            self._upper.note_violation(what, message.command.name)
            self._incoming.end(VIOLATION)
        self.abort()
        return self._over()

    def close(self) -> None:
        """Close the socket; abort the association first if it is not over. Only for its owner.

        An acceptor waits for the requestor to close, at most the ARTIM time (PS3.8 9.1.5): if it closed first, the
        requestor might not receive the last PDU.
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
    def _waiting_with(self, wait_context: WaitContext | None) -> Iterator[None]:
        """Use `wait_context` in every wait of the body."""
        outer, self._wait_context = self._wait_context, wait_context
        try:
            yield
        finally:
            self._wait_context = outer

    def _await_bytes(self, began: float, deadline: float | None) -> None:
        """Wait for input until `deadline`, and for the rest of a message at most for the message time.

        The message time counts from when this call `began` to wait, not while no thread was reading.
        """
        incoming, until = self._incoming, self.limits.until
        if until < math.inf:
            deadline = until if deadline is None else min(deadline, until)
        if incoming.partial_since is None:
            happened = wait(self.fileno(), select.POLLIN, deadline, self._wait_context)
        else:
            self._upper.wire.acknowledge()
            rest, now = max(began, incoming.partial_since) + self.limits.message, time.monotonic()
            if self.limits.least_rate:
                rest = min(rest, now + incoming.remaining_time(self.limits.message, self.limits.least_rate))
            deadline = rest if deadline is None else min(rest, deadline)
            happened = wait(self.fileno(), select.POLLIN, deadline, self._wait_context)
            incoming.waited += time.monotonic() - now
        if happened is None:
            self._time_out("The peer does not send in time")

    def _time_out(self, comment: str) -> None:
        with self._lock:
            self._upper.abort()
            self._incoming.end(TIMEOUT)
        raise PeerTimeout(comment)

    def _require(self, condition: bool) -> None:
        if not condition:
            raise self._over()

    def _over(self) -> AssociationLost:
        return AssociationLost(f"The association is over: {self.end_reason}")
