"""What becomes of the responses to one request: each goes in as the handler made it and comes out as none or several.

Nothing here knows of sockets: messages in, messages out.
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
from pacs.faults.selection import Chosen

CHARACTER_SET = 0x00080005
NO_SUCH_INSTANCE = 0x0112
FAILURES_EXIST = 2
COUNTS = ("remaining", "completed", "failed", "warning")

TOO_MANY = 7
"""How many more each count says where it is wrong."""

STOPPED = status.SUBOPERATIONS_FAILED
"""The final status of a retrieve that ended at its first failure, where the fault names none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A message on its way out."""

    command: Command
    data: bytes | None = None

    @property
    def is_pending(self) -> bool:
        """Whether others follow."""
        return self.command.is_pending


class Tampering:
    """Tampers with the responses to one request, in the transfer syntax of its context."""

    def __init__(self, chosen: Chosen, transfer_syntax: str) -> None:
        self.fault = chosen.fault
        self.random = chosen.random
        self.is_stopped = False
        """Whether it was ended at its first failure, which the final response says in its own way."""
        self.is_over = self.fault.silent
        """Whether nothing more is said."""
        self.stop: Callable[[str], None] = lambda _reason: None
        """Ends what is being answered."""
        self._transfer_syntax = transfer_syntax
        self._pendings = 0
        self._kept: list[Answer] = []

    def answers(self, answer: Answer) -> list[Answer]:
        """What is sent for a response: nothing, itself, or several."""
        if self.is_over:
            return []
        if not answer.is_pending:
            self.is_over = True
            return self._final(answer)
        self._pendings += 1
        fault = self.fault
        if fault.after and fault.status is not None and self._pendings > fault.after:
            self.is_over = True
            self.stop("ended by a status on purpose")
            return self._final(Answer(answer.command.changed(remaining=None)))
        return self._pending(answer)

    def report(self, answer: Answer) -> list[Answer]:
        """What is sent for a request of ours, the report of a storage commitment."""
        if self.is_over:
            return []
        return [self._with_failures(answer) if self.fault.fail != "" and answer.data is not None else answer]

    # --- Pending and final ----------------------------------------------------------------------------------------

    def _pending(self, answer: Answer) -> list[Answer]:
        fault = self.fault
        if fault.pending_status is not None:
            answer = replace(answer, command=answer.command.changed(status=fault.pending_status))
        if fault.character_set and answer.data is not None:
            answer = replace(answer, data=self._in_character_set(answer.data))
        if not self._goes(self._pendings):
            return []
        several = [self._finished(answer)] * (2 if fault.duplicate == "pendings" else 1)
        if fault.pendings == "at the end":
            self._kept += several
            return []
        return several

    def _goes(self, number: int) -> bool:
        """Whether the Pending response with this number is sent at all."""
        pendings = self.fault.pendings
        return pendings != "none" and (not pendings.startswith("every") or is_among(pendings, number))

    def _final(self, answer: Answer) -> list[Answer]:
        command, told = answer.command, self._status_of(answer.command)
        if self.is_stopped:
            command = command.changed(remaining=None)
        if told is not None:
            fault = self.fault
            command = command.changed(
                status=told, error_comment=fault.comment or None, offending_elements=fault.offending or None
            )
        answer = self._finished(replace(answer, command=command))
        return self._kept + [answer] * (2 if self.fault.duplicate == "final" else 1)

    def _status_of(self, command: Command) -> int | None:
        """The status that is said instead of that of a final response, None where it stays."""
        fault = self.fault
        told = fault.final_status if fault.status is None else fault.status
        if told is None and self.is_stopped:
            told = STOPPED
        if told is None and fault.no_match is not None and self._has_no_match(command):
            told = fault.no_match
        has_failed = is_failure(command.status if told is None else told)
        return fault.failure_status if has_failed and fault.failure_status is not None else told

    def _has_no_match(self, command: Command) -> bool:
        """Whether the request matched nothing: no Pending response to a query, no sub-operation of a retrieve."""
        counted = (command.completed, command.failed, command.warning)
        return not self._pendings and command.status == status.SUCCESS and not any(counted)

    def _finished(self, answer: Answer) -> Answer:
        """A response with what is wrong in its command set, and in its list of failed instances."""
        fault, command = self.fault, answer.command
        if fault.message_id is not None:
            command = command.changed(responding_to=fault.message_id)
        if fault.counts in _COUNTS:
            change = _COUNTS[fault.counts]
            command = command.changed(**{name: change(getattr(command, name)) for name in COUNTS})
        elif fault.counts and is_failure(command.status):
            command = command.changed(**{name: None if name == "remaining" else 0 for name in COUNTS})
        data = answer.data
        if fault.failed_list and data is not None and not answer.is_pending:
            data = self._list_of_strangers() if fault.failed_list == "wrong" else None
        return Answer(command, data)

    # --- data sets ------------------------------------------------------------------------------------------------

    def _list_of_strangers(self) -> bytes:
        """A Failed SOP Instance UID List of an instance that nobody asked for."""
        dataset = Dataset()
        dataset.FailedSOPInstanceUIDList = [UID(f"2.25.{self.random.getrandbits(100)}")]
        return identifier.encode(dataset, self._transfer_syntax)

    def _in_character_set(self, data: bytes) -> bytes:
        """An Identifier that names another character set, and is as it was otherwise."""
        named = self.fault.character_set.encode("ascii", "replace")
        dataset = identifier.decode(data, self._transfer_syntax)
        dataset[CHARACTER_SET] = raw(CHARACTER_SET, "CS", named)
        return identifier.encode(dataset, self._transfer_syntax)

    def _with_failures(self, answer: Answer) -> Answer:
        """A report that says of some instances that there is no commitment to them (PS3.4 J.3.3)."""
        assert answer.data is not None, "a report has a data set"
        dataset = identifier.decode(answer.data, self._transfer_syntax)
        committed = list(dataset.get("ReferencedSOPSequence", ()))
        failing = failing_of(Chosen(self.fault, self.random), len(committed))
        failed = [each for number, each in enumerate(committed, 1) if number in failing]
        for each in failed:
            each.FailureReason = NO_SUCH_INSTANCE
        dataset.ReferencedSOPSequence = [each for number, each in enumerate(committed, 1) if number not in failing]
        dataset.FailedSOPSequence = list(dataset.get("FailedSOPSequence", ())) + failed
        for keyword in ("ReferencedSOPSequence", "FailedSOPSequence"):
            if not dataset[keyword].value:
                del dataset[keyword]
        command = answer.command.changed(event_type=FAILURES_EXIST) if failed else answer.command
        return Answer(command, identifier.encode(dataset, self._transfer_syntax))


_COUNTS: dict[str, Callable[[int | None], int | None]] = {
    "missing": lambda _count: None,
    "wrong": lambda count: None if count is None else count + TOO_MANY,
}


def failing_of(chosen: Chosen, total: int) -> frozenset[int]:
    """Which of `total` instances fail, by their numbers from 1: a share of them is chosen by chance."""
    fail = chosen.fault.fail
    if fail == "":
        return frozenset()
    if isinstance(fail, float):
        return frozenset(chosen.random.sample(range(1, total + 1), round(fail * total)))
    return frozenset(number for number in range(1, total + 1) if is_among(fail, number))


def is_report(command: Command) -> bool:
    """Whether a message of ours is an N-EVENT-REPORT request."""
    return command.field == CommandField.N_EVENT_REPORT
