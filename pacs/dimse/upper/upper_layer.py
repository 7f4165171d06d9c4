"""The DICOM Upper Layer (PS3.8) of one association: PDUs in and out, and pynetdicom's state machine between them.

pynetdicom brings the state machine's table and actions, and the codecs of all PDUs but P-DATA-TF. What its actions
touch of its own service provider is played by `_Provider`, which runs no thread and blocks nowhere: what an action
sends is collected, and written when the action is done. P-DATA in an established association goes past the state
machine. All private names of pynetdicom that are relied on are in this file.
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
from pynetdicom.timer import Timer
from pynetdicom.transport import T_CONNECT

from pacs.dimse.upper.pdus import InvalidPDU, Received, decode
from pacs.dimse.upper.tls import SecureWire
from pacs.dimse.upper.waiting import wait
from pacs.dimse.upper.wire import Buffer, Wire

Primitive = A_ASSOCIATE | A_RELEASE | A_ABORT | A_P_ABORT

PRIVATE_NAMES = ("_recv_pdu", "_send", "_shutdown_socket")
"""The private names of pynetdicom that its state machine's actions use of what they are handed; a test counts them."""

MAX_ASSOCIATE = 1 << 20
"""The longest A-ASSOCIATE-RQ and -AC that is read, in bytes (P6)."""

MAX_SHORT = 64
"""The longest of the PDUs that are always 4 bytes long."""

CONTROL_SECONDS = 1.0
"""How long a PDU other than P-DATA-TF may take to be written."""

PDU_SLACK = 4096
"""How much longer than what we announced a P-DATA-TF may be: some peers forget to count headers."""

_P_DATA_TF = 0x04
_EVENTS: dict[int, tuple[type[pdu.PDU], str]] = {
    0x01: (pdu.A_ASSOCIATE_RQ, "Evt6"),
    0x02: (pdu.A_ASSOCIATE_AC, "Evt3"),
    0x03: (pdu.A_ASSOCIATE_RJ, "Evt4"),
    _P_DATA_TF: (pdu.P_DATA_TF, "Evt10"),
    0x05: (pdu.A_RELEASE_RQ, "Evt12"),
    0x06: (pdu.A_RELEASE_RP, "Evt13"),
    0x07: (pdu.A_ABORT_RQ, "Evt16"),
}
"""What each PDU type is decoded with, and the event its arrival is (PS3.8 9.2)."""

ESTABLISHED, RELEASE_ASKED, RELEASE_INDICATED = "Sta6", "Sta7", "Sta8"
COLLISION_REQUESTOR, COLLISION_ACCEPTOR_DONE = "Sta9", "Sta12"
IDLE, AWAITING_REQUEST, AWAITING_CLOSE = "Sta1", "Sta2", "Sta13"

INVALID_PARAMETER_VALUE = 6
"""The provider's reason in an A-ABORT for what breaks the rules inside a PDU (PS3.8 9.3.8)."""

_HEADER = struct.Struct(">BxL")


@dataclass
class _Provider:
    """Stands where the state machine's actions expect pynetdicom's service provider, its association and socket."""

    is_requestor: bool
    artim_timer: Timer
    to_provider_queue: "Queue[Any]" = field(default_factory=Queue)
    to_user_queue: "Queue[Primitive]" = field(default_factory=Queue)
    _recv_pdu: "Queue[Received]" = field(default_factory=Queue)
    outbox: list[bytes] = field(default_factory=list)
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
        # The state says when the connection is to be closed, and how it was opened: these need do nothing.
        self.socket = SimpleNamespace(
            connect=lambda _primitive: None, close=lambda: None, _shutdown_socket=lambda: None
        )

    def _send(self, outgoing: pdu.PDU) -> None:
        self.has_rejected = self.has_rejected or isinstance(outgoing, pdu.A_ASSOCIATE_RJ)
        self.outbox.append(outgoing.encode())

    def kill_dul(self) -> None:
        """There is no thread to stop."""

    def received(self, what: Received) -> None:
        """Put a PDU where the next action looks for it."""
        self._recv_pdu.queue.clear()
        self._recv_pdu.put(what)


class UpperLayer:
    """One transport connection and the state machine on it, for the requestor or the acceptor.

    `artim` is the ARTIM timer's time in seconds, `max_pdu` the longest P-DATA-TF (its variable field) we have announced
    or will. Where there is `tls`, `secure` has to come before anything else; `server_name` is that of the peer we call.
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
        self._provider = _Provider(is_requestor, Timer(artim))
        self._machine = StateMachine(self._provider)  # type: ignore[arg-type]
        self._indications: deque[Primitive] = deque()
        self._consumed = 0
        associate = MAX_ASSOCIATE
        self._longest = dict.fromkeys(_EVENTS, MAX_SHORT) | {1: associate, 2: associate, 4: max_pdu + PDU_SLACK}
        if not is_requestor:
            self._act("Evt5")

    def handshake(self, wait_for: Callable[[int], None]) -> None:
        """Agree on encryption with the peer, where there is to be any.

        `wait_for` waits for events of `select.poll`. Raises ssl.SSLError, ConnectionError, and what `wait_for` raises.
        """
        if isinstance(self.wire, SecureWire):
            self.wire.handshake(wait_for)

    @property
    def certificate(self) -> str:
        """The SHA-256 fingerprint of the certificate the peer has shown, '' for none."""
        return self.wire.certificate if isinstance(self.wire, SecureWire) else ""

    @property
    def protection(self) -> str:
        """The version of TLS and the cipher suite, '' where nothing is encrypted."""
        return self.wire.protection if isinstance(self.wire, SecureWire) else ""

    @property
    def state(self) -> str:
        """The state of PS3.8 Table 9-10, 'Sta1' to 'Sta13'."""
        state: str = self._machine.current_state
        return state

    @property
    def has_rejected(self) -> bool:
        """Whether an A-ASSOCIATE-RJ was sent, be it by the state machine itself (AE-6: the protocol version)."""
        return self._provider.has_rejected

    @property
    def is_over(self) -> bool:
        """Whether the association no longer exists, or the connection is only waited for to close."""
        return self.state in (IDLE, AWAITING_CLOSE)

    @property
    def may_send_data(self) -> bool:
        """Whether P-DATA may be written: also while the peer's release has not been answered (AR-7)."""
        return self.state in (ESTABLISHED, RELEASE_INDICATED)

    # --- in -----------------------------------------------------------------------------------------------------

    def take(self) -> memoryview | Primitive | None:
        """The next indication in what has arrived, None when more must arrive first.

        A memoryview is the inside of a P-DATA-TF in an established association, valid until the next call. Of an
        invalid PDU, or one that must not come now, the peer is told by A-ABORT, and an A-P-ABORT is indicated.
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
                if kind == _P_DATA_TF and self.state in (ESTABLISHED, RELEASE_ASKED):
                    return body
                self._receive(kind, self.wire.available[: 6 + length])
            except InvalidPDU:
                self._act("Evt19")
        return self._indications.popleft() if self._indications else None

    @property
    def has_partial_pdu(self) -> bool:
        """Whether a PDU has begun to arrive, the rest of which is missing."""
        return len(self.wire.available) > self._consumed

    def _next_pdu(self) -> tuple[int, int] | None:
        """Type and length of the first PDU in the buffer, None when it is not all there. Raises InvalidPDU.

        The length is believed only within what its type may have, and nothing is set aside before it comes (P6).
        """
        available = self.wire.available
        arrived = len(available)
        if arrived < _HEADER.size:
            self.wire.reserve(_HEADER.size)  # a header may begin in the last bytes of the buffer
            return self._nothing_yet()
        kind, length = _HEADER.unpack_from(available)
        if length > self._longest.get(kind, -1):
            raise InvalidPDU
        if arrived < _HEADER.size + length:
            self.wire.reserve(_HEADER.size + length)
            return self._nothing_yet()
        return kind, length

    def _nothing_yet(self) -> tuple[int, int] | None:
        """Nothing more can be taken now; at the end of the connection nothing ever will."""
        if self.wire.at_end:
            self._act("Evt17")
        return None

    def _receive(self, kind: int, encoded: memoryview) -> None:
        decoder, event = _EVENTS[kind]
        # The first P-DATA-TF out of place ends the association: there is no need to look inside.
        received = Received(None) if kind == _P_DATA_TF else decode(decoder, bytes(encoded))
        self._provider.received(received)
        self._act(event)

    # --- out ----------------------------------------------------------------------------------------------------

    def write(self, buffers: Sequence[Buffer], wait_for_room: Callable[[], None]) -> None:
        """Write P-DATA-TF PDUs. Raises ConnectionError, and what `wait_for_room` raises."""
        self.wire.write(buffers, wait_for_room)

    def write_each(
        self, messages: Sequence[bytes], wait_for_room: Callable[[], None], wanted: Callable[[], bool]
    ) -> int:
        """Write messages of whole P-DATA-TF PDUs as long as they are wanted: how many went. Raises as `write`."""
        return self.wire.write_each(messages, wait_for_room, wanted)

    def open(self, request: A_ASSOCIATE) -> None:
        """Send the A-ASSOCIATE-RQ on a connection that has been opened for it (AE-1, AE-2)."""
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
        """Send an A-ABORT: the service user's own, or the provider's with a reason of PS3.8 9.3.8. Then it is over."""
        if self.is_over:
            return
        primitive: A_ABORT | A_P_ABORT
        if reason is None:
            primitive = A_ABORT()
            primitive.abort_source = 0
        else:
            primitive = A_P_ABORT()
            primitive.provider_reason = reason
        # Before a request there is nobody who could abort: then it counts as an invalid PDU, with the same action.
        self._issue("Evt19" if self.state == AWAITING_REQUEST else "Evt15", primitive)

    def vanished(self) -> None:
        """Note that the connection is gone (AA-4)."""
        self.wire.at_end = True
        if self.state != IDLE:
            self._act("Evt17")

    def linger(self) -> None:
        """Let what was sent last arrive: read what still comes until the peer closes or the ARTIM time is over."""
        if self.state != AWAITING_CLOSE or self.wire.is_torn:
            return
        self.wire.end_writing()
        deadline = time.monotonic() + max(0.0, self._provider.artim_timer.remaining)
        while not self.wire.at_end and time.monotonic() < deadline:
            self.wire.discard()
            if not self.wire.fill() and wait(self.wire.fileno(), select.POLLIN, deadline) is None:
                return

    # --- the machine --------------------------------------------------------------------------------------------

    def _issue(self, event: str, primitive: Any) -> None:
        self._provider.to_provider_queue.queue.clear()
        self._provider.to_provider_queue.put(primitive)
        self._act(event)

    def _act(self, event: str) -> None:
        """Let the state machine act on `event`, write what it sends, and keep what it indicates."""
        self._machine.do_action(event)
        while not self._provider.to_user_queue.empty():
            self._indications.append(self._provider.to_user_queue.get())
        outgoing, self._provider.outbox = self._provider.outbox, []
        if outgoing and not self.wire.is_torn:
            self._put(outgoing)

    def _put(self, outgoing: Sequence[bytes]) -> None:
        """Write what the state machine sends: PDUs other than P-DATA-TF."""
        try:
            self.wire.write(outgoing, self._wait_briefly)
        except ConnectionError:
            self.wire.at_end = True  # the next look at what has arrived will say that it is gone

    def _wait_briefly(self) -> None:
        """A peer that does not even take a control PDU is as good as gone. Raises ConnectionError then."""
        if wait(self.wire.fileno(), select.POLLOUT, time.monotonic() + CONTROL_SECONDS) is None:
            raise ConnectionError("The peer takes nothing")
