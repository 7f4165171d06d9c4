"""An upper layer that applies faults to sent and received PDUs.

Outgoing messages are first reassembled from their PDUs, because handlers send them in different ways. `Tampering`
changes the responses; the resulting PDUs then pass the faults that count PDUs.
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
from pacs.faults.selection import ChosenFaults
from pacs.faults.tampering import OutgoingMessage, Tampering, is_report

SLICE_SECONDS = 0.02
"""Maximum seconds of a pause between two checks whether the connection is closed."""

_HEADER = struct.Struct(">BxL")
_PDV_HEADER = struct.Struct(">LBB")
_A_ASSOCIATE_RJ = 0x03
CLOSED_EVENT = getattr(select, "POLLRDHUP", 0)


def pause(descriptor: int, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Wait this time, or until either side closes the connection; call `meanwhile` repeatedly."""
    end = time.monotonic() + seconds
    poller = select.poll()
    poller.register(descriptor, CLOSED_EVENT)
    while (left := end - time.monotonic()) > 0:
        if poller.poll(min(left, SLICE_SECONDS) * 1000):
            return
        meanwhile()


@dataclass(slots=True, eq=False)
class PduCounter:
    """Counts the PDUs of an operation or association for one fault. An association starts with one each way."""

    chosen: ChosenFaults
    sent: int = 0
    received: int = 0


@dataclass(slots=True)
class FaultyOperation:
    """An operation with faults: its presentation context and its tampering. `on_response` is called before each
    response.
    """

    message_id: int
    context_id: int
    tampering: Tampering
    count: PduCounter
    max_pdu: int
    on_response: Callable[[Command], None]
    is_first: bool = field(default=True)
    """Whether no response has been sent yet."""
    went_out: Command | None = None
    """The last response that was written, None if there was none."""


class FaultyUpperLayer(UpperLayer):
    """An upper layer with faults; without any fault it behaves like its base class."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._operation: FaultyOperation | None = None
        self._counts: list[PduCounter] = []
        self._message: list[bytes] = []
        """The PDUs of an outgoing message that is not complete yet."""
        self._command = bytearray()
        self._data: list[memoryview] = []
        self._current: tuple[Command, FaultyOperation | None] | None = None
        """The command of the message that is being sent, and its operation."""
        self._received = 0
        self._report: PduCounter | None = None
        """The counter of our last request to which a fault applied."""
        self.reject_codes: tuple[int, int, int] | None = None
        """Result, source and reason of an A-ASSOCIATE-RJ that are not defined by the standard."""
        self.operation_for_report: Callable[[Command, int], FaultyOperation | None] = lambda _command, _context_id: None
        """Returns the faults for a request of our own."""
        self.on_cancel: Callable[[int], None] = lambda _message_id: None
        """Called for each C-CANCEL, whether it is ignored or not."""

    # --- configuration --------------------------------------------------------------------------------------------

    def watch(self, count: PduCounter) -> None:
        """Count the PDUs of this association for a fault."""
        self._counts.append(count)

    @property
    def received(self) -> int:
        """Number of received P-DATA-TF PDUs."""
        return self._received

    def begin_operation(self, operation: FaultyOperation) -> None:
        """Apply the faults of an operation from now on. Raises AssociationLost if one ends the association already."""
        self._operation = operation
        self._counts.append(operation.count)
        if not self._allows_received():
            raise AssociationLost("The association was ended by a fault")

    def finish_operation(self) -> None:
        """End the current operation."""
        if self._operation is not None:
            self._counts.remove(self._operation.count)
            self._operation = None

    # --- receiving ------------------------------------------------------------------------------------------------

    def take(self) -> memoryview | Primitive | None:
        """Return the next PDU as the base class does. Drop ignored C-CANCELs; end the association if a fault does."""
        while isinstance(found := super().take(), memoryview):
            self._received += 1
            for each in self._counts:
                each.received += 1
            if not self._allows_received():
                return super().take()
            if not self._is_ignored_cancel(found):
                break
        return found

    def _allows_received(self) -> bool:
        """Return whether the association continues after the received PDUs; otherwise end it."""
        for each in self._counts:
            fault = each.chosen.fault
            if 0 < fault.drop_received <= each.received:
                self._drop()
                return False
            if 0 < fault.abort_received <= each.received:
                self.abort()
                return False
        return True

    def _is_ignored_cancel(self, body: memoryview) -> bool:
        """Return whether a PDU holds a C-CANCEL that a fault ignores."""
        cancelled = _cancelled_message_id(body)
        if cancelled is None:
            return False
        self.on_cancel(cancelled)
        return self._operation is not None and self._operation.tampering.fault.ignore_cancel

    # --- sending --------------------------------------------------------------------------------------------------

    def write(self, buffers: Sequence[Buffer], wait_for_room: Callable[[], None]) -> None:
        """Write as the base class. Also raises AssociationLost if a fault ends the association."""
        for each in _split_pdus(b"".join(buffers)):
            self._collect(each, wait_for_room)

    def write_each(
        self, messages: Sequence[bytes], wait_for_room: Callable[[], None], wanted: Callable[[], bool]
    ) -> int:
        """Write as the base class. A message that is held back or duplicated counts as one."""
        for sent, message in enumerate(messages):
            if not wanted():
                return sent
            self.write([message], wait_for_room)
        return len(messages)

    def _collect(self, pdu: bytes, wait_for_room: Callable[[], None]) -> None:
        """Add one PDU with one PDV, as our messages have, to the current message."""
        _, context_id, control = _PDV_HEADER.unpack_from(pdu, _HEADER.size)
        fragment = memoryview(pdu)[_HEADER.size + _PDV_HEADER.size :]
        self._message.append(pdu)
        if control & COMMAND:
            self._command += fragment
            if control & LAST:
                command = Command.decode(bytes(self._command))
                self._command.clear()
                self._current = command, self._operation_of(command, context_id)
        else:
            self._data.append(fragment)
        if self._current is not None:
            self._forward(*self._current, bool(control & LAST), wait_for_room)

    def _forward(
        self, command: Command, operation: FaultyOperation | None, is_last: bool, wait_for_room: Callable[[], None]
    ) -> None:
        """Send the collected PDUs if the message has no faults or is complete."""
        is_whole = is_last and (bool(self._data) or not command.has_data_set)
        if operation is None:
            self._send_unchanged(wait_for_room)
        elif is_whole:
            self._send(operation, command, wait_for_room)
        if is_whole:
            self._current = None

    def _operation_of(self, command: Command, context_id: int) -> FaultyOperation | None:
        operation = self._operation
        if is_report(command):
            return self._operation_of_report(command, context_id)
        if operation is None or not command.is_response or command.responding_to != operation.message_id:
            return None
        return operation

    def _operation_of_report(self, command: Command, context_id: int) -> FaultyOperation | None:
        """Return the faults for a request of our own; its PDUs and those of the response are counted from now on."""
        operation = self.operation_for_report(command, context_id)
        if self._report is not None:
            self._counts.remove(self._report)
        self._report = operation.count if operation is not None else None
        if self._report is not None:
            self._counts.append(self._report)
        return operation

    def _send_unchanged(self, wait_for_room: Callable[[], None]) -> None:
        """Send the collected PDUs unchanged."""
        pdus, self._message, self._data = self._message, [], []
        for each in pdus:
            self._emit(each, wait_for_room)

    def _send(self, operation: FaultyOperation, command: Command, wait_for_room: Callable[[], None]) -> None:
        """Send the messages that replace a complete message."""
        data = b"".join(self._data) if command.has_data_set else None
        self._message, self._data = [], []
        tampering, answer = operation.tampering, OutgoingMessage(command, data)
        messages = tampering.report_for(answer) if is_report(command) else tampering.responses_for(answer)
        for each in messages:
            self._pause(operation, wait_for_room)
            operation.on_response(each.command)
            encoded = each.command.announcing(data_set=each.data is not None).encode()
            chunks = None if each.data is None else (each.data,)
            for batch in p_data(operation.context_id, encoded, chunks, operation.max_pdu or UNLIMITED_PDU):
                for pdu in _split_pdus(b"".join(batch)):
                    self._emit(pdu, wait_for_room)
            operation.went_out = each.command

    def _pause(self, operation: FaultyOperation, wait_for_room: Callable[[], None]) -> None:
        fault = operation.tampering.fault
        seconds = fault.delay_each + (fault.delay if operation.is_first else 0.0)
        if fault.jitter and (operation.is_first or fault.delay_each):
            seconds += fault.jitter * operation.tampering.random.random()
        operation.is_first = False
        if seconds:
            pause(self.wire.fileno(), seconds, wait_for_room)

    # --- PDU by PDU -----------------------------------------------------------------------------------------------

    def _emit(self, pdu: bytes, wait_for_room: Callable[[], None]) -> None:
        rate = 0
        for each in self._counts:
            each.sent += 1
            pdu = self._apply_faults(each, pdu)
            rate = min(filter(None, (rate, each.chosen.fault.bytes_per_second)), default=0)
        if not rate:
            super().write([pdu], wait_for_room)
            return
        portion = max(1, round(rate * SLICE_SECONDS))
        for offset in range(0, len(pdu), portion):
            part = pdu[offset : offset + portion]
            super().write([part], wait_for_room)
            pause(self.wire.fileno(), len(part) / rate, wait_for_room)

    def _apply_faults(self, count: PduCounter, pdu: bytes) -> bytes:
        """Return the PDU to send. Raises AssociationLost if a fault ends the association instead."""
        fault = count.chosen.fault
        if count.sent == fault.drop_sent:
            self._drop()
            raise AssociationLost("The connection was closed by a fault")
        if count.sent == fault.abort_sent:
            self.abort()
            raise AssociationLost("The association was aborted by a fault")
        if count.sent == fault.truncate:
            return _truncate(pdu)
        if count.sent == fault.garble:
            head = _HEADER.size + _PDV_HEADER.size
            return pdu[:head] + count.chosen.random.randbytes(len(pdu) - head)
        return pdu

    def _put(self, outgoing: Sequence[bytes]) -> None:
        super()._put([self._with_reject_codes(each) for each in outgoing])

    def _with_reject_codes(self, pdu: bytes) -> bytes:
        """Return an A-ASSOCIATE-RJ (PS3.8 9.3.4) with the given codes; other PDUs unchanged."""
        if self.reject_codes is None or pdu[0] != _A_ASSOCIATE_RJ:
            return pdu
        return pdu[:-3] + bytes(self.reject_codes)

    def _drop(self) -> None:
        self.wire.shut_down()
        self.connection_lost()


def _split_pdus(encoded: bytes) -> Iterator[bytes]:
    offset = 0
    while offset < len(encoded):
        end = offset + _HEADER.size + _HEADER.unpack_from(encoded, offset)[1]
        yield encoded[offset:end]
        offset = end


def _truncate(pdu: bytes) -> bytes:
    """Return a P-DATA-TF whose own length ends in the middle of its PDV."""
    kept = (len(pdu) + _HEADER.size + _PDV_HEADER.size) // 2
    return _HEADER.pack(pdu[0], kept - _HEADER.size) + pdu[_HEADER.size : kept]


def _cancelled_message_id(body: memoryview) -> int | None:
    """Return the Message ID that a P-DATA-TF cancels, None if it is not a single C-CANCEL."""
    try:
        (_, control, fragment), *others = pdvs(body)
        if others or control != COMMAND | LAST:
            return None
        command = Command.decode(bytes(fragment))
    except ProtocolViolation:
        return None
    return command.responding_to if command.field == CommandField.C_CANCEL else None
