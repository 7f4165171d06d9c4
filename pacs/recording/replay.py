"""A server that answers as the acceptor of a recording did.

A request is answered with what was answered to the most similar one that has not been used yet: of the same operation,
with the same Identifier, else with the same keys, else any. When all have been used they are used again.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset

from pacs.dicom.syntaxes import SERVICE_SYNTAXES
from pacs.dimse.association.association import CANCELLABLE, Association
from pacs.dimse.association.establishment import CallingAE
from pacs.dimse.messages import status
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.message import Message
from pacs.dimse.server.acceptor_policy import AcceptorPolicy, Choice, choose_transfer_syntax
from pacs.dimse.server.server import Settings
from pacs.dimse.upper.rejections import Rejection
from pacs.recording import script
from pacs.recording.datasets import decoded, encoded
from pacs.recording.sniffer import Accepted, Rejected
from pacs.support.cancellation import Cancellation

CANNOT_UNDERSTAND = 0xC000
LONGEST_REQUEST = 1 << 20
"""The longest data set of a request that is looked at, in bytes; what is longer counts as it begins."""

ANSWER_SECONDS = 30.0
"""For the answer to what the acceptor itself asks: a C-STORE of a C-GET."""


@dataclass(slots=True)
class Exchange:
    """A request on tape, and all that the acceptor said until the next one."""

    command: Command
    data: Dataset | None
    said: list[script.Message] = field(default_factory=list)
    uses: int = 0

    @property
    def is_over(self) -> bool:
        """Whether its final response is on tape."""
        return any(each.command.is_response and not each.command.is_pending for each in self.said)

    def likeness(self, other: Dataset | None) -> int:
        """How much a request is like this one: 2 with the same data set, 1 with the same keys, 0 otherwise."""
        if _keys(self.data) != _keys(other):
            return 0
        return 2 if self.data == other else 1


def exchanges(associations: Sequence[script.Association]) -> Iterator[Exchange]:
    """The requests on tape, in order. C-CANCELs are part of what they cancel."""
    for association in associations:
        yield from _of_one(association.messages)


def _of_one(messages: Sequence[script.Message]) -> list[Exchange]:
    """The requests of one association. A refusal may have come before the data set of its request had: it is early."""
    found: list[Exchange] = []
    by_id: dict[int, Exchange] = {}
    early: dict[int, list[script.Message]] = {}
    for message in messages:
        command = message.command
        if message.side == "requestor":
            if not command.is_response and command.field != CommandField.C_CANCEL:
                exchange = Exchange(command, message.data, early.pop(command.message_id, []))
                found.append(exchange)
                by_id[command.message_id] = exchange
        elif not command.is_response:
            if found:
                found[-1].said.append(message)
        elif command.responding_to in by_id and not by_id[command.responding_to].is_over:
            by_id[command.responding_to].said.append(message)
        else:
            early.setdefault(command.responding_to, []).append(message)
    return found


class Replay:
    """What a server needs to be the acceptor of a recording: `settings` for `pacs.dimse.server.server.Server`."""

    def __init__(self, associations: Sequence[script.Association]) -> None:
        self._exchanges = list(exchanges(associations))
        self._lock = threading.Lock()
        policy = _Recorded(transfer_syntaxes=(), answers=_answers(associations), rejection=_rejection(associations))
        handled = (each for each in CommandField if each is not CommandField.C_CANCEL)
        self.settings = Settings(policy=policy, handlers=dict.fromkeys(handled, self.answer))

    def answer(self, association: Association, message: Message) -> None:
        """Say again what was said to the most similar request. Raises AssociationLost."""
        dataset = _dataset(message)
        exchange = self._choose(message.command.field, dataset)
        with association.operation(message) as cancellation:
            if exchange is None:
                comment = "The recording has no such request"
                association.send(message.context.id, message.command.response(CANNOT_UNDERSTAND, error_comment=comment))
            else:
                self._say(association, message, exchange, cancellation)

    def _choose(self, operation: int, dataset: Dataset | None) -> Exchange | None:
        with self._lock:
            of_this = [each for each in self._exchanges if each.command.field == operation]
            if not of_this:
                return None
            chosen = min(of_this, key=lambda each: (each.uses, -each.likeness(dataset)))
            if chosen.uses:  # all have been used: the most similar one again
                chosen = max(of_this, key=lambda each: each.likeness(dataset))
            chosen.uses += 1
            return chosen

    def _say(self, association: Association, message: Message, exchange: Exchange, cancellation: Cancellation) -> None:
        for said in exchange.said:
            if cancellation.requested and said.command.is_pending:
                continue
            if said.command.is_response:
                association.send(message.context.id, *_addressed(said, message, cancelled=cancellation.requested))
            else:
                _ask(association, said)
        if not exchange.is_over:
            association.abort()  # on tape it was not answered to its end either: nobody is left waiting


def _addressed(said: script.Message, message: Message, *, cancelled: bool) -> tuple[Command, bytes | None]:
    """A response on tape as the response to another request, in the transfer syntax of that one's context."""
    response = said.command.changed(responding_to=message.command.message_id)
    if cancelled and message.command.field in CANCELLABLE:
        response = response.changed(status=status.CANCEL)
    data = encoded(said.data, message.context.transfer_syntax) if said.data is not None else None
    return response, data


def _ask(association: Association, said: script.Message) -> None:
    """Ask what the acceptor asked, where the requestor takes it, and wait for the answer."""
    context = next(
        (each for each in association.contexts.values() if each.abstract_syntax == said.abstract_syntax), None
    )
    if context is not None:
        data = encoded(said.data, context.transfer_syntax) if said.data is not None else None
        association.send(context.id, said.command, data)
        association.receive(ANSWER_SECONDS)


# --- what is asked -----------------------------------------------------------------------------------------------


def _dataset(message: Message) -> Dataset | None:
    """The data set of a request, None for none, empty for one that nobody can read."""
    if not message.command.has_data_set:
        return None
    data, size = bytearray(), 0
    for fragment in message.fragments():
        size += len(fragment)
        data += fragment[: max(0, LONGEST_REQUEST - len(data))]
    try:
        return decoded(bytes(data), size, message.context.transfer_syntax)
    except Exception:  # whatever the bytes make pydicom stumble over
        return Dataset()


def _keys(dataset: Dataset | None) -> frozenset[int]:
    return frozenset(dataset.keys()) if dataset is not None else frozenset()


# --- how associations are answered -------------------------------------------------------------------------------

Answers = Mapping[str, tuple[str, ...]]
"""The transfer syntaxes that were accepted, by abstract syntax."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recorded(AcceptorPolicy):
    """Accepts the contexts that were accepted, or rejects all associations as all were rejected."""

    answers: Answers = field(default_factory=dict)
    rejection: Rejection | None = None

    def answer(self, request: Any, caller: CallingAE, max_pdu: int) -> Any:
        """As on tape."""
        return self.rejection or AcceptorPolicy.answer(self, request, caller, max_pdu)

    def choose(self, proposed: Any, order: Sequence[str]) -> Choice:
        """A transfer syntax that was accepted on tape, else any native one: there is nothing to decompress."""
        syntaxes = self.answers.get(str(proposed.abstract_syntax))
        if syntaxes is None:
            return False, False, None
        return (
            True,
            True,
            choose_transfer_syntax(proposed.transfer_syntax, syntaxes)
            or choose_transfer_syntax(proposed.transfer_syntax, SERVICE_SYNTAXES),
        )


def _answers(associations: Sequence[script.Association]) -> Answers:
    accepted: dict[str, dict[str, None]] = {}
    for each in associations:
        if each.request is not None and isinstance(each.answer, Accepted):
            abstract = {proposed.id: proposed.abstract_syntax for proposed in each.request.contexts}
            for context in each.answer.contexts:
                if context.result == 0 and context.id in abstract:
                    accepted.setdefault(abstract[context.id], {})[context.transfer_syntax] = None
    return {uid: tuple(syntaxes) for uid, syntaxes in accepted.items()}


def _rejection(associations: Sequence[script.Association]) -> Rejection | None:
    """How all were rejected, None where some were accepted."""
    answers = [each.answer for each in associations if each.answer is not None]
    if answers and all(isinstance(each, Rejected) for each in answers):
        first = answers[0]
        assert isinstance(first, Rejected)
        return Rejection(first.result, first.source, first.reason, "Rejected as on tape")
    return None
