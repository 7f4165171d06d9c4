"""The upper layer of an association that misbehaves: what it says and hears goes through here, PDU by PDU.

Outgoing messages are put together again from their PDUs, so that it does not matter how a handler sends them:
responses go through `Tampering`, and what is to be sent then, PDU by PDU, past the faults that count those.
"""

import select
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pacs.dimse.association.association import UNLIMITED_PDU
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.message import COMMAND, LAST, Buffer, p_data, pdvs
from pacs.dimse.upper.upper_layer import Primitive, UpperLayer
from pacs.errors import AssociationLost, ProtocolViolation
from pacs.faults.selection import Chosen
from pacs.faults.tampering import Answer, Tampering, is_report

SLICE = 0.02
"""Seconds of a pause after which the peer is looked at."""

_HEADER = struct.Struct(">BxL")
_PDV_HEADER = struct.Struct(">LBB")
_A_ASSOCIATE_RJ = 0x03
GONE = getattr(select, "POLLRDHUP", 0)


def pause(descriptor: int, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Wait so long, or until the peer or we have closed the connection; `meanwhile` is called in between."""
    end = time.monotonic() + seconds
    poller = select.poll()
    poller.register(descriptor, GONE)
    while (left := end - time.monotonic()) > 0:
        if poller.poll(min(left, SLICE) * 1000):
            return
        meanwhile()


@dataclass(slots=True, eq=False)
class Count:
    """The PDUs that one fault counts: those of an operation or of an association, which has had one each way."""

    chosen: Chosen
    sent: int = 0
    received: int = 0


@dataclass(slots=True)
class Conduct:
    """How one operation is answered: in which context, with what tampering; `told` hears of what is sent."""

    message_id: int
    context_id: int
    tampering: Tampering
    count: Count
    max_pdu: int
    told: Callable[[Command], None]
    is_first: bool = field(default=True)
    """Whether nothing has been answered yet."""
    went_out: Command | None = None
    """The last response that was written, None where there is none."""


class Line(UpperLayer):
    """An upper layer that does what faults say; without any it does what every upper layer does."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._conduct: Conduct | None = None
        self._counts: list[Count] = []
        self._message: list[bytes] = []
        """The PDUs of an outgoing message of which it is not known yet what becomes of it."""
        self._command = bytearray()
        self._data: list[memoryview] = []
        self._going: tuple[Command, Conduct | None] | None = None
        """The command of the message whose PDUs are coming by, and what becomes of it."""
        self._received = 0
        self._report: Count | None = None
        """The PDUs of the last request of ours that met a fault."""
        self.rejects_with: tuple[int, int, int] | None = None
        """Result, source and reason of an A-ASSOCIATE-RJ, where they are none that the standard has."""
        self.report_conduct: Callable[[Command, int], Conduct | None] = lambda _command, _context_id: None
        """Chooses what becomes of a request of ours."""
        self.cancel_heard: Callable[[int], None] = lambda _message_id: None
        """Hears of every C-CANCEL, heeded or not."""

    # --- what it is told ------------------------------------------------------------------------------------------

    def watch(self, count: Count) -> None:
        """Count the PDUs of this association for a fault."""
        self._counts.append(count)

    @property
    def received(self) -> int:
        """How many P-DATA-TF PDUs have come."""
        return self._received

    def begin(self, conduct: Conduct) -> None:
        """Answer an operation in this way from now on. Raises AssociationLost when what has come is enough."""
        self._conduct = conduct
        self._counts.append(conduct.count)
        if not self._allows_received():
            raise AssociationLost("The association was ended on purpose")

    def finish(self) -> None:
        """The operation is over."""
        if self._conduct is not None:
            self._counts.remove(self._conduct.count)
            self._conduct = None

    # --- in -------------------------------------------------------------------------------------------------------

    def take(self) -> memoryview | Primitive | None:
        """As the base class, without what is not heard, and with an end where it is to be."""
        while isinstance(found := super().take(), memoryview):
            self._received += 1
            for each in self._counts:
                each.received += 1
            if not self._allows_received():
                return super().take()
            if not self._is_unheard(found):
                break
        return found

    def _allows_received(self) -> bool:
        """Whether the association goes on after what has come; else it has been ended."""
        for each in self._counts:
            fault = each.chosen.fault
            if 0 < fault.drop_received <= each.received:
                self._drop()
                return False
            if 0 < fault.abort_received <= each.received:
                self.abort()
                return False
        return True

    def _is_unheard(self, body: memoryview) -> bool:
        """Whether a PDU holds a C-CANCEL that is to be ignored."""
        cancelled = _cancelled(body)
        if cancelled is None:
            return False
        self.cancel_heard(cancelled)
        return self._conduct is not None and self._conduct.tampering.fault.ignore_cancel

    # --- out ------------------------------------------------------------------------------------------------------

    def write(self, buffers: Sequence[Buffer], wait_for_room: Callable[[], None]) -> None:
        """As the base class. Raises AssociationLost, too, when the association is ended on purpose."""
        for each in _pdus(b"".join(buffers)):
            self._take_out(each, wait_for_room)

    def write_each(
        self, messages: Sequence[bytes], wait_for_room: Callable[[], None], wanted: Callable[[], bool]
    ) -> int:
        """As the base class: a message that is held back or doubled counts as one that went."""
        for sent, message in enumerate(messages):
            if not wanted():
                return sent
            self.write([message], wait_for_room)
        return len(messages)

    def _take_out(self, pdu: bytes, wait_for_room: Callable[[], None]) -> None:
        """One PDU of one PDV, as our own messages have them."""
        _, context_id, control = _PDV_HEADER.unpack_from(pdu, _HEADER.size)
        fragment = memoryview(pdu)[_HEADER.size + _PDV_HEADER.size :]
        self._message.append(pdu)
        if control & COMMAND:
            self._command += fragment
            if control & LAST:
                command = Command.decode(bytes(self._command))
                self._command.clear()
                self._going = command, self._conduct_of(command, context_id)
        else:
            self._data.append(fragment)
        if self._going is not None:
            self._go_on(*self._going, bool(control & LAST), wait_for_room)

    def _go_on(
        self, command: Command, conduct: Conduct | None, is_last: bool, wait_for_room: Callable[[], None]
    ) -> None:
        """Send what has gathered of a message, if it goes as it is or is all there."""
        is_whole = is_last and (bool(self._data) or not command.has_data_set)
        if conduct is None:
            self._let_go(wait_for_room)
        elif is_whole:
            self._send(conduct, command, wait_for_room)
        if is_whole:
            self._going = None

    def _conduct_of(self, command: Command, context_id: int) -> Conduct | None:
        conduct = self._conduct
        if is_report(command):
            return self._conduct_of_report(command, context_id)
        if conduct is None or not command.is_response or command.responding_to != conduct.message_id:
            return None
        return conduct

    def _conduct_of_report(self, command: Command, context_id: int) -> Conduct | None:
        """What becomes of a request of ours, whose PDUs and those of its answer are counted from now on."""
        conduct = self.report_conduct(command, context_id)
        if self._report is not None:
            self._counts.remove(self._report)
        self._report = conduct.count if conduct is not None else None
        if self._report is not None:
            self._counts.append(self._report)
        return conduct

    def _let_go(self, wait_for_room: Callable[[], None]) -> None:
        """Send what has gathered of a message as it is."""
        going, self._message, self._data = self._message, [], []
        for each in going:
            self._emit(each, wait_for_room)

    def _send(self, conduct: Conduct, command: Command, wait_for_room: Callable[[], None]) -> None:
        """Send what becomes of a whole message."""
        data = b"".join(self._data) if command.has_data_set else None
        self._message, self._data = [], []
        tampering, answer = conduct.tampering, Answer(command, data)
        several = tampering.report(answer) if is_report(command) else tampering.answers(answer)
        for each in several:
            self._pause(conduct, wait_for_room)
            conduct.told(each.command)
            encoded = each.command.announcing(data_set=each.data is not None).encode()
            chunks = None if each.data is None else (each.data,)
            for batch in p_data(conduct.context_id, encoded, chunks, conduct.max_pdu or UNLIMITED_PDU):
                for pdu in _pdus(b"".join(batch)):
                    self._emit(pdu, wait_for_room)
            conduct.went_out = each.command

    def _pause(self, conduct: Conduct, wait_for_room: Callable[[], None]) -> None:
        fault = conduct.tampering.fault
        seconds = fault.delay_each + (fault.delay if conduct.is_first else 0.0)
        if fault.jitter and (conduct.is_first or fault.delay_each):
            seconds += fault.jitter * conduct.tampering.random.random()
        conduct.is_first = False
        if seconds:
            pause(self.wire.fileno(), seconds, wait_for_room)

    # --- PDU by PDU -----------------------------------------------------------------------------------------------

    def _emit(self, pdu: bytes, wait_for_room: Callable[[], None]) -> None:
        rate = 0
        for each in self._counts:
            each.sent += 1
            pdu = self._damaged(each, pdu)
            rate = min(filter(None, (rate, each.chosen.fault.bytes_per_second)), default=0)
        if not rate:
            super().write([pdu], wait_for_room)
            return
        portion = max(1, round(rate * SLICE))
        for offset in range(0, len(pdu), portion):
            part = pdu[offset : offset + portion]
            super().write([part], wait_for_room)
            pause(self.wire.fileno(), len(part) / rate, wait_for_room)

    def _damaged(self, count: Count, pdu: bytes) -> bytes:
        """What becomes of one PDU. Raises AssociationLost when it is the end of the association instead."""
        fault = count.chosen.fault
        if count.sent == fault.drop_sent:
            self._drop()
            raise AssociationLost("The connection was closed on purpose")
        if count.sent == fault.abort_sent:
            self.abort()
            raise AssociationLost("The association was aborted on purpose")
        if count.sent == fault.truncate:
            return _truncated(pdu)
        if count.sent == fault.garble:
            head = _HEADER.size + _PDV_HEADER.size
            return pdu[:head] + count.chosen.random.randbytes(len(pdu) - head)
        return pdu

    def _put(self, outgoing: Sequence[bytes]) -> None:
        super()._put([self._rejecting(each) for each in outgoing])

    def _rejecting(self, pdu: bytes) -> bytes:
        """An A-ASSOCIATE-RJ (PS3.8 9.3.4) with what it is to say; any other PDU as it is."""
        if self.rejects_with is None or pdu[0] != _A_ASSOCIATE_RJ:
            return pdu
        return pdu[:-3] + bytes(self.rejects_with)

    def _drop(self) -> None:
        self.wire.shut_down()
        self.connection_lost()


def _pdus(encoded: bytes) -> Iterator[bytes]:
    offset = 0
    while offset < len(encoded):
        end = offset + _HEADER.size + _HEADER.unpack_from(encoded, offset)[1]
        yield encoded[offset:end]
        offset = end


def _truncated(pdu: bytes) -> bytes:
    """A P-DATA-TF that is over in the middle of its PDV, by its own length."""
    kept = (len(pdu) + _HEADER.size + _PDV_HEADER.size) // 2
    return _HEADER.pack(pdu[0], kept - _HEADER.size) + pdu[_HEADER.size : kept]


def _cancelled(body: memoryview) -> int | None:
    """The Message ID that a P-DATA-TF with nothing else in it cancels, None for any other."""
    try:
        (_, control, fragment), *others = pdvs(body)
        if others or control != COMMAND | LAST:
            return None
        command = Command.decode(bytes(fragment))
    except ProtocolViolation:
        return None
    return command.responding_to if command.field == CommandField.C_CANCEL else None
