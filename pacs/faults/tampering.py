"""Changes the responses to one request: each response becomes no, one or several messages.

This module knows messages only, no sockets.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from pydicom import Dataset
from pydicom.uid import UID

from pacs.dicom import identifier
from pacs.dicom.dataset import raw
from pacs.dicom.status import is_failure
from pacs.dimse.messages import status
from pacs.dimse.messages.command import Command, CommandField
from pacs.faults.model import is_among
from pacs.faults.selection import ChosenFaults

CHARACTER_SET = 0x00080005
NO_SUCH_INSTANCE = 0x0112
FAILURES_EXIST = 2
COUNTS = ("remaining", "completed", "failed", "warning")

WRONG_COUNT_OFFSET = 7
"""Added to each count when counts are wrong."""

STOPPED_STATUS = status.SUBOPERATIONS_FAILED
"""Final status of a retrieve that stops at its first failure, if the fault sets none."""


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message to be sent."""

    command: Command
    data: bytes | None = None

    @property
    def is_pending(self) -> bool:
        """Whether more responses follow."""
        return self.command.is_pending


class Tampering:
    """Changes the responses to one request, in the transfer syntax of its presentation context."""

    def __init__(self, chosen: ChosenFaults, transfer_syntax: str) -> None:
        self.fault = chosen.fault
        self.random = chosen.random
        self.is_stopped = False
        """Whether the operation was stopped at its first failure."""
        self.is_over = self.fault.silent
        """Whether nothing more is sent."""
        self.stop: Callable[[str], None] = lambda _reason: None
        """Stops the operation."""
        self._transfer_syntax = transfer_syntax
        self._pendings = 0
        self._held_back: list[OutgoingMessage] = []

    def responses_for(self, message: OutgoingMessage) -> list[OutgoingMessage]:
        """Return the messages to send for a response."""
        if self.is_over:
            return []
        if not message.is_pending:
            self.is_over = True
            return self._final(message)
        self._pendings += 1
        fault = self.fault
        if fault.after and fault.status is not None and self._pendings > fault.after:
            self.is_over = True
            self.stop("ended by the status of a fault")
            return self._final(OutgoingMessage(message.command.changed(remaining=None)))
        return self._pending(message)

    def report_for(self, message: OutgoingMessage) -> list[OutgoingMessage]:
        """Return the messages to send for a storage commitment report, which is a request of our own."""
        if self.is_over:
            return []
        return [self._with_failures(message) if self.fault.fail != "" and message.data is not None else message]

    # --- Pending and final ----------------------------------------------------------------------------------------

    def _pending(self, message: OutgoingMessage) -> list[OutgoingMessage]:
        fault = self.fault
        if fault.pending_status is not None:
            message = replace(message, command=message.command.changed(status=fault.pending_status))
        if fault.character_set and message.data is not None:
            message = replace(message, data=self._in_character_set(message.data))
        if not self._is_sent(self._pendings):
            return []
        several = [self._finished(message)] * (2 if fault.duplicate == "pendings" else 1)
        if fault.pendings == "at the end":
            self._held_back += several
            return []
        return several

    def _is_sent(self, number: int) -> bool:
        """Return whether the Pending response with this number is sent."""
        pendings = self.fault.pendings
        return pendings != "none" and (not pendings.startswith("every") or is_among(pendings, number))

    def _final(self, message: OutgoingMessage) -> list[OutgoingMessage]:
        command, status_code = message.command, self._replaced_status(message.command)
        if self.is_stopped:
            command = command.changed(remaining=None)
        if status_code is not None:
            fault = self.fault
            command = command.changed(
                status=status_code, error_comment=fault.comment or None, offending_elements=fault.offending or None
            )
        message = self._finished(replace(message, command=command))
        return self._held_back + [message] * (2 if self.fault.duplicate == "final" else 1)

    def _replaced_status(self, command: Command) -> int | None:
        """Return the status that replaces that of a final response, None to keep it."""
        fault = self.fault
        status_code = fault.final_status if fault.status is None else fault.status
        if status_code is None and self.is_stopped:
            status_code = STOPPED_STATUS
        if status_code is None and fault.no_match is not None and self._has_no_match(command):
            status_code = fault.no_match
        has_failed = is_failure(command.status if status_code is None else status_code)
        return fault.failure_status if has_failed and fault.failure_status is not None else status_code

    def _has_no_match(self, command: Command) -> bool:
        """Return whether nothing matched: no Pending response to a query, no sub-operation of a retrieve."""
        counted = (command.completed, command.failed, command.warning)
        return not self._pendings and command.status == status.SUCCESS and not any(counted)

    def _finished(self, message: OutgoingMessage) -> OutgoingMessage:
        """Return the response with the wrong elements of its command set and Failed SOP Instance UID List."""
        fault, command = self.fault, message.command
        if fault.message_id is not None:
            command = command.changed(responding_to=fault.message_id)
        if fault.counts in _COUNTS:
            change = _COUNTS[fault.counts]
            command = command.changed(**{name: change(getattr(command, name)) for name in COUNTS})
        elif fault.counts and is_failure(command.status):
            command = command.changed(**{name: None if name == "remaining" else 0 for name in COUNTS})
        data = message.data
        if fault.failed_list and data is not None and not message.is_pending:
            data = self._wrong_failed_list() if fault.failed_list == "wrong" else None
        return OutgoingMessage(command, data)

    # --- data sets ------------------------------------------------------------------------------------------------

    def _wrong_failed_list(self) -> bytes:
        """Return a Failed SOP Instance UID List of an instance that was not requested."""
        dataset = Dataset()
        dataset.FailedSOPInstanceUIDList = [UID(f"2.25.{self.random.getrandbits(100)}")]
        return identifier.encode(dataset, self._transfer_syntax)

    def _in_character_set(self, data: bytes) -> bytes:
        """Return an Identifier that names another character set and is otherwise unchanged."""
        named = self.fault.character_set.encode("ascii", "replace")
        dataset = identifier.decode(data, self._transfer_syntax)
        dataset[CHARACTER_SET] = raw(CHARACTER_SET, "CS", named)
        return identifier.encode(dataset, self._transfer_syntax)

    def _with_failures(self, message: OutgoingMessage) -> OutgoingMessage:
        """Return a report in which some instances are not committed (PS3.4 J.3.3)."""
        assert message.data is not None, "a report has a data set"
        dataset = identifier.decode(message.data, self._transfer_syntax)
        committed = list(dataset.get("ReferencedSOPSequence", ()))
        failing = choose_failing(ChosenFaults(self.fault, self.random), len(committed))
        failed = [each for number, each in enumerate(committed, 1) if number in failing]
        for each in failed:
            each.FailureReason = NO_SUCH_INSTANCE
        dataset.ReferencedSOPSequence = [each for number, each in enumerate(committed, 1) if number not in failing]
        dataset.FailedSOPSequence = list(dataset.get("FailedSOPSequence", ())) + failed
        for keyword in ("ReferencedSOPSequence", "FailedSOPSequence"):
            if not dataset[keyword].value:
                del dataset[keyword]
        command = message.command.changed(event_type=FAILURES_EXIST) if failed else message.command
        return OutgoingMessage(command, identifier.encode(dataset, self._transfer_syntax))


_COUNTS: dict[str, Callable[[int | None], int | None]] = {
    "missing": lambda _count: None,
    "wrong": lambda count: None if count is None else count + WRONG_COUNT_OFFSET,
}


def choose_failing(chosen: ChosenFaults, total: int) -> frozenset[int]:
    """Return the numbers, from 1, of the instances that fail; a fraction is chosen at random."""
    fail = chosen.fault.fail
    if fail == "":
        return frozenset()
    if isinstance(fail, float):
        return frozenset(chosen.random.sample(range(1, total + 1), round(fail * total)))
    return frozenset(number for number in range(1, total + 1) if is_among(fail, number))


def is_report(command: Command) -> bool:
    """Return whether a message is our N-EVENT-REPORT request."""
    return command.field == CommandField.N_EVENT_REPORT
