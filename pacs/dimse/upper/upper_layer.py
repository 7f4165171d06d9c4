"""The DICOM Upper Layer (PS3.8) of one association: reads and writes PDUs and runs pynetdicom's state machine.

pynetdicom provides the table and the actions of the state machine, and the codecs of all PDUs but P-DATA-TF.
`_Provider` replaces pynetdicom's service provider, which the actions expect: it has no thread, never blocks, and
collects what an action sends, which is written after the action. P-DATA-TF of an established association bypasses the
state machine. No other file uses private names of pynetdicom. P-ids such as P6 are explained in docs/checklist.md.
"""

import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Queue
from types import SimpleNamespace
from typing import Any

from pynetdicom import pdu
from pynetdicom.fsm import StateMachine
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, A_P_ABORT, A_RELEASE
from pynetdicom.transport import T_CONNECT

from pacs.dimse.upper.pdus import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    ASSOCIATE_RQ,
    P_DATA_TF,
    PDU_NAMES,
    RELEASE_RP,
    RELEASE_RQ,
    TITLES,
    InvalidPDU,
    ReceivedPDU,
    decode,
    encoded_titles,
    shown,
)
from pacs.dimse.upper.tls import SecureWire
from pacs.dimse.upper.user_information import AssociateRequest
from pacs.dimse.upper.waiting import wait
from pacs.dimse.upper.wire import Buffer, Wire

Primitive = A_ASSOCIATE | A_RELEASE | A_ABORT | A_P_ABORT

PRIVATE_NAMES = ("_recv_pdu", "_send", "_shutdown_socket")
"""The private names that the actions of pynetdicom's state machine use; a test checks that there are no others."""

MAX_ASSOCIATE = 1 << 20
"""The longest A-ASSOCIATE-RQ and -AC that is read, in bytes (P6)."""

MAX_SHORT = 64
"""The longest of the PDUs that the standard fixes at 4 bytes."""

CONTROL_SECONDS = 1.0
"""Seconds to write a PDU other than P-DATA-TF."""

PDU_SLACK = 4096
"""Bytes by which a P-DATA-TF may exceed our maximum length: some peers do not count the headers."""

_EVENTS = {
    ASSOCIATE_RQ: "Evt6",
    ASSOCIATE_AC: "Evt3",
    ASSOCIATE_RJ: "Evt4",
    P_DATA_TF: "Evt10",
    RELEASE_RQ: "Evt12",
    RELEASE_RP: "Evt13",
    ABORT: "Evt16",
}
"""The event of the state machine for each PDU type (PS3.8 9.2)."""

ESTABLISHED, RELEASE_REQUESTED, RELEASE_INDICATED = "Sta6", "Sta7", "Sta8"
COLLISION_REQUESTOR, COLLISION_ACCEPTOR_DONE = "Sta9", "Sta12"
IDLE, AWAITING_REQUEST, AWAITING_ANSWER, AWAITING_CLOSE = "Sta1", "Sta2", "Sta5", "Sta13"

INVALID_PARAMETER_VALUE = 6
"""The provider's reason in an A-ABORT for a PDU with invalid content (PS3.8 9.3.8)."""

_HEADER = struct.Struct(">BxL")

_OTHER_PROTOCOLS = {b"HTTP/": " (HTTP: check the port)", b"\x15\x03": " (a TLS alert: connect with TLS)"}
"""What an acceptor that is no DICOM application begins with, and what to do then."""
_HEADERS = 12
"""The bytes of the headers of a P-DATA-TF and of its first PDV."""


class ArtimTimer:
    """The ARTIM timer of the state machine (PS3.8 9.1.5). That of pynetdicom follows the wall clock, which may jump."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.start()

    def start(self) -> None:
        """Start, or start again."""
        self.ends_at = time.monotonic() + self._seconds

    restart = start

    def stop(self) -> None:
        """Do nothing: `ends_at` matters only in states that start the timer."""


@dataclass
class _Provider:
    """Replaces pynetdicom's service provider, its association and its socket in the actions of the state machine."""

    is_requestor: bool
    artim_timer: ArtimTimer
    to_provider_queue: "Queue[Any]" = field(default_factory=Queue)
    to_user_queue: "Queue[Primitive]" = field(default_factory=Queue)
    _recv_pdu: "Queue[ReceivedPDU]" = field(default_factory=Queue)
    outbox: list[bytes] = field(default_factory=list)
    titles: bytes = b""
    """The AE titles of the request as encoded: pynetdicom encodes only ASCII."""
    has_rejected: bool = False

    def __post_init__(self) -> None:
        nowhere = SimpleNamespace(address_info=SimpleNamespace(as_tuple=("", 0)))
        ignore = SimpleNamespace(put=lambda _item: None)
        self.assoc = SimpleNamespace(
            is_requestor=self.is_requestor,
            get_handlers=lambda _event: [],
            requestor=nowhere,
            acceptor=nowhere,
            dimse=SimpleNamespace(msg_queue=ignore, receive_primitive=ignore.put),
        )
        # No-ops: the connection is opened, and closed by the state of the machine, outside of it.
        self.socket = SimpleNamespace(
            connect=lambda _primitive: None, close=lambda: None, _shutdown_socket=lambda: None
        )

    def _send(self, outgoing: pdu.PDU) -> None:
        self.has_rejected = self.has_rejected or isinstance(outgoing, pdu.A_ASSOCIATE_RJ)
        encoded = outgoing.encode()
        if isinstance(outgoing, pdu.A_ASSOCIATE_RQ | pdu.A_ASSOCIATE_AC):
            encoded = encoded[: TITLES.start] + self.titles + encoded[TITLES.stop :]
        self.outbox.append(encoded)

    def kill_dul(self) -> None:
        """Do nothing: there is no thread to stop."""

    def set_received(self, received: ReceivedPDU) -> None:
        """Pass a PDU to the next action."""
        self.titles = received.titles or self.titles
        self._recv_pdu.queue.clear()
        self._recv_pdu.put(received)


class UpperLayer:
    """One transport connection and the state machine on it, for the requestor or the acceptor.

    `artim` is the ARTIM time in seconds, `max_pdu` our maximum length of a P-DATA-TF (its variable field). With `tls`,
    `handshake` must be called first; `server_name` is the name of the acceptor.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        is_requestor: bool,
        artim: float,
        max_pdu: int,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> None:
        capacity = max_pdu + PDU_SLACK + _HEADER.size
        self.wire = Wire(connection, capacity) if tls is None else SecureWire(connection, capacity, tls, server_name)
        self._peer = "acceptor" if is_requestor else "requestor"
        self._provider = _Provider(is_requestor, ArtimTimer(artim))
        self._machine = StateMachine(self._provider)  # type: ignore[arg-type]
        self._indications: deque[Primitive] = deque()
        self._consumed = 0
        self.violation = ""
        """The error of the first PDU that violates the protocol, as the end of a sentence."""
        associate = MAX_ASSOCIATE
        self._longest = dict.fromkeys(_EVENTS, MAX_SHORT) | {1: associate, 2: associate, 4: max_pdu + PDU_SLACK}
        if not is_requestor:
            self._act("Evt5")

    def handshake(self, wait_for: Callable[[int], None]) -> None:
        """Do the TLS handshake, if TLS is used.

        `wait_for` waits for events of `select.poll`. Raises ssl.SSLError, ConnectionError, and what `wait_for` raises.
        """
        if isinstance(self.wire, SecureWire):
            self.wire.handshake(wait_for)

    @property
    def certificate(self) -> str:
        """The SHA-256 fingerprint of the peer's certificate, '' for none."""
        return self.wire.certificate if isinstance(self.wire, SecureWire) else ""

    @property
    def protection(self) -> str:
        """The version of TLS and the cipher suite, '' without TLS."""
        return self.wire.protection if isinstance(self.wire, SecureWire) else ""

    @property
    def state(self) -> str:
        """The state of PS3.8 Table 9-10, 'Sta1' to 'Sta13'."""
        state: str = self._machine.current_state
        return state

    @property
    def has_rejected(self) -> bool:
        """Whether an A-ASSOCIATE-RJ was sent, also by the state machine itself (AE-6: the protocol version)."""
        return self._provider.has_rejected

    @property
    def is_over(self) -> bool:
        """Whether the association is over; the connection may still wait to be closed."""
        return self.state in (IDLE, AWAITING_CLOSE)

    @property
    def may_send_data(self) -> bool:
        """Whether P-DATA may be written: also between the peer's release request and our answer (AR-7)."""
        return self.state in (ESTABLISHED, RELEASE_INDICATED)

    # --- in -----------------------------------------------------------------------------------------------------

    def take(self) -> memoryview | Primitive | None:
        """Return the next indication, None when more bytes must arrive first.

        A memoryview is the content of a P-DATA-TF in an established association, valid until the next call. An invalid
        or unexpected PDU is answered with A-ABORT, and indicated as A-P-ABORT.
        """
        while not self._indications and not self.is_over:
            if self._consumed:
                self.wire.consume(self._consumed)
                self._consumed = 0
            try:
                found = self._next_pdu()
                if found is None:
                    break
                kind, length = found
                body = self.wire.available[6 : 6 + length]
                self._consumed = 6 + length
                if kind == P_DATA_TF and self.state in (ESTABLISHED, RELEASE_REQUESTED):
                    return body
                self._receive(kind, self.wire.available[: 6 + length])
            except InvalidPDU as error:
                self.note_violation(str(error))
                self._act("Evt19")
        return self._indications.popleft() if self._indications else None

    @property
    def has_partial_pdu(self) -> bool:
        """Whether the beginning of a PDU has arrived, but not its end."""
        return len(self.wire.available) > self._consumed

    def _next_pdu(self) -> tuple[int, int] | None:
        """Return type and length of the first PDU in the buffer, None when it is incomplete. Raises InvalidPDU.

        A length beyond the limit of its type is invalid; no memory is allocated before the bytes arrive (P6).
        """
        available = self.wire.available
        arrived = len(available)
        if arrived < _HEADER.size:
            self.wire.reserve(_HEADER.size)  # a header may begin in the last bytes of the buffer
            return self._incomplete()
        kind, length = _HEADER.unpack_from(available)
        if kind not in _EVENTS:
            found = bytes(available)
            hint = next((hint for start, hint in _OTHER_PROTOCOLS.items() if found.startswith(start)), "")
            raise InvalidPDU(f"its type {kind:02X} is none of PS3.8; it begins with {shown(found)}{hint}")
        if length > self._longest[kind]:
            raise InvalidPDU(f"its length {length} is more than {self._longest[kind]}")
        if arrived < _HEADER.size + length:
            self.wire.reserve(_HEADER.size + length)
            return self._incomplete()
        return kind, length

    def _incomplete(self) -> tuple[int, int] | None:
        """Return None; at the end of the connection, tell the state machine that it is closed."""
        if self.wire.at_end:
            self._act("Evt17")
        return None

    def _receive(self, kind: int, encoded: memoryview) -> None:
        # An unexpected P-DATA-TF ends the association: its content does not matter.
        received = ReceivedPDU(None) if kind == P_DATA_TF else decode(kind, bytes(encoded))
        self._provider.set_received(received)
        self._act(_EVENTS[kind])
        if self.state == AWAITING_CLOSE and kind != ABORT and not self.has_rejected:  # AA-1, AA-8
            self.note_violation(f"it is unexpected: {shown(bytes(encoded[:_HEADERS]))}")  # no patient data

    def note_violation(self, what: str, source: str = "") -> None:
        """Keep what violates the protocol, in a message (`source`) or, without one, in the first PDU of the buffer."""
        if not self.violation:
            source = source or PDU_NAMES.get(self.wire.available[0], "PDU")
            self.violation = f"{source} of the {self._peer}: {what}"

    # --- out ----------------------------------------------------------------------------------------------------

    def write(self, buffers: Sequence[Buffer], wait_for_room: Callable[[], None]) -> None:
        """Write P-DATA-TF PDUs. Raises ConnectionError, and what `wait_for_room` raises."""
        self.wire.write(buffers, wait_for_room)

    def write_each(
        self, messages: Sequence[bytes], wait_for_room: Callable[[], None], wanted: Callable[[], bool]
    ) -> int:
        """Write messages of whole P-DATA-TF PDUs while `wanted`. Return how many were written. Raises as `write`."""
        return self.wire.write_each(messages, wait_for_room, wanted)

    def open(self, request: AssociateRequest) -> None:
        """Send the A-ASSOCIATE-RQ on the connection that was opened for it (AE-1, AE-2)."""
        self._provider.titles = encoded_titles(request.called, request.calling)
        self._issue("Evt1", request)
        self._issue("Evt2", T_CONNECT(request))

    def accept(self, answer: A_ASSOCIATE) -> None:
        """Send the A-ASSOCIATE-AC (AE-7)."""
        self._issue("Evt7", answer)

    def reject(self, answer: A_ASSOCIATE) -> None:
        """Send the A-ASSOCIATE-RJ (AE-8)."""
        self._issue("Evt8", answer)

    def request_release(self) -> None:
        """Send an A-RELEASE-RQ (AR-1)."""
        self._issue("Evt11", A_RELEASE())

    def confirm_release(self) -> None:
        """Send the A-RELEASE-RP (AR-4, AR-9)."""
        answer = A_RELEASE()
        answer.result = "affirmative"
        self._issue("Evt14", answer)

    def abort(self, reason: int | None = None) -> None:
        """End the association by an A-ABORT of the service user, or of the provider with a reason of PS3.8 9.3.8."""
        if self.is_over:
            return
        primitive: A_ABORT | A_P_ABORT
        if reason is None:
            primitive = A_ABORT()
            primitive.abort_source = 0
        else:
            primitive = A_P_ABORT()
            primitive.provider_reason = reason
        # Before a request the state machine knows no abort; an invalid PDU has the same action.
        self._issue("Evt19" if self.state == AWAITING_REQUEST else "Evt15", primitive)

    def connection_lost(self) -> None:
        """Record that the connection is lost (AA-4)."""
        self.wire.at_end = True
        if self.state != IDLE:
            self._act("Evt17")

    def linger(self) -> None:
        """Read and discard input until the peer closes or the ARTIM time is over, so that our last PDU arrives."""
        if self.state != AWAITING_CLOSE or self.wire.is_torn:
            return
        self.wire.end_writing()
        deadline = self._provider.artim_timer.ends_at
        while not self.wire.at_end and time.monotonic() < deadline:
            self.wire.discard()
            if not self.wire.fill() and wait(self.wire.fileno(), select.POLLIN, deadline) is None:
                return

    # --- the state machine --------------------------------------------------------------------------------------------

    def _issue(self, event: str, primitive: Any) -> None:
        self._provider.to_provider_queue.queue.clear()
        self._provider.to_provider_queue.put(primitive)
        self._act(event)

    def _act(self, event: str) -> None:
        """Run the state machine for `event`, write what it sends, and keep what it indicates."""
        self._machine.do_action(event)
        while not self._provider.to_user_queue.empty():
            self._indications.append(self._provider.to_user_queue.get())
        outgoing, self._provider.outbox = self._provider.outbox, []
        if outgoing and not self.wire.is_torn:
            self._put(outgoing)

    def _put(self, outgoing: Sequence[bytes]) -> None:
        """Write PDUs other than P-DATA-TF."""
        try:
            self.wire.write(outgoing, self._wait_briefly)
        except ConnectionError:
            self.wire.at_end = True  # the next `take` reports the loss

    def _wait_briefly(self) -> None:
        """Wait until the socket is writable. Raises ConnectionError when the peer does not read even a control PDU."""
        if wait(self.wire.fileno(), select.POLLOUT, time.monotonic() + CONTROL_SECONDS) is None:
            raise ConnectionError("The peer does not read")
