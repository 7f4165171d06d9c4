"""Faults of an association's beginning: rejections, refused contexts, silence, an end instead of an answer."""

import contextlib
import socket
from collections.abc import Callable, Iterable
from dataclasses import replace
from fnmatch import fnmatchcase

from pacs.dimse.association.establishment import CallingAE, Policy
from pacs.dimse.upper.rejections import NO_REASON, Rejection, rejecting
from pacs.dimse.upper.user_information import (
    Agreement,
    AssociatePrimitive,
    extended_of,
    implementation_of,
    max_pdu_of,
    roles_of,
)
from pacs.errors import AssociationLost
from pacs.faults.faulty_upper_layer import Line, pause
from pacs.faults.model import Fault
from pacs.faults.observer import Proposed, Requested, Witness
from pacs.faults.selection import Chosen, Occasion


class Negotiation:
    """Answers the association request of one connection as `policy` does, but for what faults say."""

    def __init__(
        self,
        policy: Policy,
        choose: Callable[[Occasion], Chosen | None],
        witness: Witness,
        connection: socket.socket,
        address: tuple[str, int],
    ) -> None:
        self._policy, self._choose, self._witness = policy, choose, witness
        self._connection, self._address = connection, address
        self.requested: Requested | None = None
        """What was asked for, once it was."""
        self.line: Line | None = None
        """The upper layer it is answered on."""
        self.chosen: Chosen | None = None
        """The faults that the association met."""

    def answer(
        self, request: AssociatePrimitive, caller: CallingAE, max_pdu: int
    ) -> tuple[AssociatePrimitive, Agreement] | Rejection:
        """As a policy. Raises AssociationLost when the connection is ended instead."""
        self.requested = requested_by(request, caller, self._address)
        self.chosen = self._choose(Occasion("association", caller.ae_title, caller.called_ae_title))
        found = self._policy.answer(request, caller, max_pdu)
        if self.chosen is not None:
            self._end_or_wait(self.chosen)
            found = _changed(found, self.chosen.fault)
        self._witness.answered(self.requested, found[1] if isinstance(found, tuple) else found)
        return self._sayable(found) if isinstance(found, Rejection) else found

    def _sayable(self, rejection: Rejection) -> Rejection:
        """A rejection that pynetdicom encodes: what the standard does not know is put in its place on the way out."""
        try:
            rejecting(rejection)
        except ValueError:
            if self.line is not None:
                self.line.rejects_with = (rejection.result, rejection.source, rejection.reason)
            return replace(NO_REASON, comment=rejection.comment)
        return rejection

    def _end_or_wait(self, chosen: Chosen) -> None:
        fault = chosen.fault
        if fault.delay or fault.jitter:
            pause(self._connection.fileno(), fault.delay + fault.jitter * chosen.random.random())
        if 1 in (fault.drop_sent, fault.drop_received):
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            raise AssociationLost("The connection was closed on purpose")
        if 1 in (fault.abort_sent, fault.abort_received):
            raise AssociationLost("The association was aborted on purpose")


Answer = tuple[AssociatePrimitive, Agreement] | Rejection


def _changed(answer: Answer, fault: Fault) -> Answer:
    """What a request is answered with in the end."""
    if fault.reject is not None:
        result, source, reason = fault.reject
        return Rejection(result, source, reason, f"Association rejected: on purpose, {result}/{source}/{reason}")
    if isinstance(answer, Rejection) or not fault.refuse:
        return answer
    accepting, agreement = answer
    for each in accepting.presentation_context_definition_results_list:
        if each.result == 0 and _is_refused(str(each.abstract_syntax), fault.refuse):
            each.result = fault.refuse_result
    left = {
        key: each for key, each in agreement.contexts.items() if not _is_refused(each.abstract_syntax, fault.refuse)
    }
    return accepting, replace(agreement, contexts=left)


def _is_refused(abstract_syntax: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(abstract_syntax, each) for each in patterns)


def requested_by(request: AssociatePrimitive, caller: CallingAE, address: tuple[str, int]) -> Requested:
    """An association request in plain values."""
    return Requested(
        calling_ae_title=caller.ae_title,
        called_ae_title=caller.called_ae_title,
        address=address,
        contexts=tuple(
            Proposed(each.context_id or 0, str(each.abstract_syntax), tuple(map(str, each.transfer_syntax)))
            for each in request.presentation_context_definition_list
        ),
        roles=roles_of(request),
        extended=extended_of(request),
        max_pdu=max_pdu_of(request),
        implementation=implementation_of(request),
    )
