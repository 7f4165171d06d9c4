"""A server that answers as the acceptor of a recording did.

A request gets the responses to the most similar recorded request that has not been used yet: of the same operation,
with the same Identifier, otherwise with the same keys, otherwise any. When all have been used, they are reused. The
UIDs that the request asks for replace their pseudonyms in the responses: requestors refuse instances of other UIDs.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from pacs.dicom.dataset import dictionary_vr
from pacs.dicom.syntaxes import SERVICE_SYNTAXES
from pacs.dimse.association.association import CANCELLABLE, Association
from pacs.dimse.association.establishment import CallingAE
from pacs.dimse.messages import status
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.message import Message
from pacs.dimse.server.acceptor_policy import AcceptorPolicy, Choice, choose_transfer_syntax
from pacs.dimse.server.server import Settings
from pacs.dimse.upper.rejections import Rejection
from pacs.recording.datasets import decode, encode
from pacs.recording.file_format import RecordedAssociation, RecordedMessage
from pacs.recording.pseudonyms import values_of
from pacs.recording.sniffer import AssociateAC, AssociateRJ
from pacs.support.cancellation import Cancellation

CANNOT_UNDERSTAND = 0xC000
MAX_REQUEST_BYTES = 1 << 20
"""Maximum number of bytes of a request's data set that are compared."""

RESPONSE_SECONDS = 30.0
"""Timeout for the response to a request of the acceptor, a C-STORE of a C-GET."""


@dataclass(slots=True)
class RecordedExchange:
    """A recorded request, and the messages of the acceptor until the next request."""

    command: Command
    data: Dataset | None
    messages: list[RecordedMessage] = field(default_factory=list)
    uses: int = 0

    @property
    def is_over(self) -> bool:
        """Whether its final response was recorded."""
        return any(each.command.is_response and not each.command.is_pending for each in self.messages)

    def similarity(self, other: Dataset | None) -> int:
        """Return the similarity to a data set: 2 if it is equal, 1 if it has the same keys, otherwise 0."""
        if _keys(self.data) != _keys(other):
            return 0
        return 2 if self.data == other else 1


def exchanges(associations: Sequence[RecordedAssociation]) -> Iterator[RecordedExchange]:
    """Yield the recorded requests in order. A C-CANCEL belongs to the request that it cancels."""
    for association in associations:
        yield from _exchanges_of(association.messages)


def _exchanges_of(messages: Sequence[RecordedMessage]) -> list[RecordedExchange]:
    """Return the requests of one association. A refusal may have been recorded before the end of its request's data
    set.
    """
    found: list[RecordedExchange] = []
    by_id: dict[int, RecordedExchange] = {}
    early: dict[int, list[RecordedMessage]] = {}
    for message in messages:
        command = message.command
        if message.side == "requestor":
            if not command.is_response and command.field != CommandField.C_CANCEL:
                exchange = RecordedExchange(command, message.data, early.pop(command.message_id, []))
                found.append(exchange)
                by_id[command.message_id] = exchange
        elif not command.is_response:
            if found:
                found[-1].messages.append(message)
        elif command.responding_to in by_id and not by_id[command.responding_to].is_over:
            by_id[command.responding_to].messages.append(message)
        else:
            early.setdefault(command.responding_to, []).append(message)
    return found


class Replay:
    """The settings of a server that replays a recording: `settings` for `pacs.dimse.server.server.DimseServer`."""

    def __init__(self, associations: Sequence[RecordedAssociation]) -> None:
        self._exchanges = list(exchanges(associations))
        self._lock = threading.Lock()
        policy = _RecordedPolicy(
            transfer_syntaxes=(), accepted_syntaxes=_accepted_syntaxes(associations), rejection=_rejection(associations)
        )
        handled = (each for each in CommandField if each is not CommandField.C_CANCEL)
        self.settings = Settings(policy=policy, handlers=dict.fromkeys(handled, self.answer))

    def answer(self, association: Association, message: Message) -> None:
        """Send the messages recorded for the most similar request. Raises AssociationLost."""
        dataset = _dataset(message)
        exchange = self._choose(message.command.field, dataset)
        with association.operation(message) as cancellation:
            if exchange is None:
                comment = "The recording has no such request"
                association.send(message.context.id, message.command.response(CANNOT_UNDERSTAND, error_comment=comment))
            else:
                asked = _asked_uids(exchange.data, dataset)
                adapted = [_with_uids(each, asked) for each in exchange.messages] if asked else exchange.messages
                self._replay(association, message, replace(exchange, messages=adapted), cancellation)

    def _choose(self, operation: int, dataset: Dataset | None) -> RecordedExchange | None:
        with self._lock:
            same_operation = [each for each in self._exchanges if each.command.field == operation]
            if not same_operation:
                return None
            chosen = min(same_operation, key=lambda each: (each.uses, -each.similarity(dataset)))
            if chosen.uses:  # all have been used: reuse the most similar one
                chosen = max(same_operation, key=lambda each: each.similarity(dataset))
            chosen.uses += 1
            return chosen

    def _replay(
        self, association: Association, message: Message, exchange: RecordedExchange, cancellation: Cancellation
    ) -> None:
        for recorded in exchange.messages:
            if cancellation.requested and recorded.command.is_pending:
                continue
            if recorded.command.is_response:
                association.send(message.context.id, *_adapt(recorded, message, cancelled=cancellation.requested))
            else:
                _send_request(association, recorded)
        if not exchange.is_over:
            association.abort()  # the recording has no final response


def _asked_uids(recorded: Dataset | None, asked: Dataset | None) -> dict[str, str]:
    """Return the UIDs of a request, by their pseudonyms in the recorded request."""
    if recorded is None or asked is None:
        return {}
    both = (tag for tag in _keys(recorded) & _keys(asked) if dictionary_vr(tag) == "UI")
    pairs = chain.from_iterable(
        zip(values_of(recorded[tag].value), values_of(asked[tag].value), strict=False) for tag in both
    )
    return {str(pseudonym): str(uid) for pseudonym, uid in pairs if pseudonym and uid}


def _with_uids(message: RecordedMessage, uids: Mapping[str, str]) -> RecordedMessage:
    """Return a message with these UIDs instead of their pseudonyms."""
    instance = uids.get(message.command.affected_sop_instance_uid or "")
    command = message.command.changed(affected_sop_instance_uid=instance) if instance else message.command
    data = _dataset_with_uids(message.data, uids) if message.data is not None else None
    return replace(message, command=command, data=data)


def _dataset_with_uids(dataset: Dataset, uids: Mapping[str, str]) -> Dataset:
    result = Dataset()
    for element in dataset:
        value = element.value
        if element.VR == "SQ":
            value = [_dataset_with_uids(item, uids) for item in value]
        elif element.VR == "UI":
            value = [uids.get(str(each), str(each)) for each in values_of(value)]
        result.add(DataElement(element.tag, element.VR, value))
    return result


def _adapt(recorded: RecordedMessage, message: Message, *, cancelled: bool) -> tuple[Command, bytes | None]:
    """Return a recorded response for another request, in the transfer syntax of its presentation context."""
    response = recorded.command.changed(responding_to=message.command.message_id)
    if cancelled and message.command.field in CANCELLABLE:
        response = response.changed(status=status.CANCEL)
    data = encode(recorded.data, message.context.transfer_syntax) if recorded.data is not None else None
    return response, data


def _send_request(association: Association, recorded: RecordedMessage) -> None:
    """Send a recorded request of the acceptor, if the requestor accepts it, and wait for the response."""
    context = next(
        (each for each in association.contexts.values() if each.abstract_syntax == recorded.abstract_syntax), None
    )
    if context is not None:
        data = encode(recorded.data, context.transfer_syntax) if recorded.data is not None else None
        association.send(context.id, recorded.command, data)
        association.receive(RESPONSE_SECONDS)


# --- requests ----------------------------------------------------------------------------------------------------


def _dataset(message: Message) -> Dataset | None:
    """Return the data set of a request, None if it has none, an empty one if it cannot be decoded."""
    if not message.command.has_data_set:
        return None
    data, size = bytearray(), 0
    for fragment in message.fragments():
        size += len(fragment)
        data += fragment[: max(0, MAX_REQUEST_BYTES - len(data))]
    try:
        return decode(bytes(data), size, message.context.transfer_syntax)
    except Exception:  # any exception of pydicom for invalid data
        return Dataset()


def _keys(dataset: Dataset | None) -> frozenset[int]:
    return frozenset(dataset.keys()) if dataset is not None else frozenset()


# --- association negotiation -------------------------------------------------------------------------------------

AcceptedSyntaxes = Mapping[str, tuple[str, ...]]
"""The accepted transfer syntaxes, by abstract syntax."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _RecordedPolicy(AcceptorPolicy):
    """Accepts the recorded presentation contexts, or rejects every association if all were rejected."""

    accepted_syntaxes: AcceptedSyntaxes = field(default_factory=dict)
    rejection: Rejection | None = None

    def answer(self, request: Any, caller: CallingAE, max_pdu: int) -> Any:
        """Answer as recorded."""
        return self.rejection or AcceptorPolicy.answer(self, request, caller, max_pdu)

    def retrieval_choices(self, request: Any, order: Sequence[str], received: Any) -> dict[int | None, Choice]:
        """Choose none: `choose` knows what was accepted."""
        return {}

    def choose(self, proposed: Any, order: Sequence[str]) -> Choice:
        """Choose a transfer syntax that was accepted, otherwise any native one."""
        syntaxes = self.accepted_syntaxes.get(str(proposed.abstract_syntax))
        if syntaxes is None:
            return False, False, None
        return (
            True,
            True,
            choose_transfer_syntax(proposed.transfer_syntax, syntaxes)
            or choose_transfer_syntax(proposed.transfer_syntax, SERVICE_SYNTAXES),
        )


def _accepted_syntaxes(associations: Sequence[RecordedAssociation]) -> AcceptedSyntaxes:
    accepted: dict[str, dict[str, None]] = {}
    for each in associations:
        if each.request is not None and isinstance(each.answer, AssociateAC):
            abstract = {proposed.id: proposed.abstract_syntax for proposed in each.request.contexts}
            for context in each.answer.contexts:
                if context.result == 0 and context.id in abstract:
                    accepted.setdefault(abstract[context.id], {})[context.transfer_syntax] = None
    return {uid: tuple(syntaxes) for uid, syntaxes in accepted.items()}


def _rejection(associations: Sequence[RecordedAssociation]) -> Rejection | None:
    """Return the rejection if all associations were rejected, otherwise None."""
    accepted_syntaxes = [each.answer for each in associations if each.answer is not None]
    if accepted_syntaxes and all(isinstance(each, AssociateRJ) for each in accepted_syntaxes):
        first = accepted_syntaxes[0]
        assert isinstance(first, AssociateRJ)
        return Rejection(first.result, first.source, first.reason, "Rejected as recorded")
    return None
