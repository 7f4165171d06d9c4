"""Faults during association establishment: rejections, refused contexts, delays, closed connections."""

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
    proposed_contexts,
    roles_of,
)
from pacs.errors import AssociationLost
from pacs.faults.faulty_upper_layer import FaultyUpperLayer, pause
from pacs.faults.model import Fault
from pacs.faults.observer import AssociationRequest, Observer
from pacs.faults.selection import ChosenFaults, MessageInfo


class FaultyPolicy:
    """Answers the association request of one connection like `policy`, changed by faults."""

    def __init__(
        self,
        policy: Policy,
        choose: Callable[[MessageInfo], ChosenFaults | None],
        observer: Observer,
        connection: socket.socket,
        address: tuple[str, int],
    ) -> None:
        self._policy, self._choose, self._observer = policy, choose, observer
        self._connection, self._address = connection, address
        self.requested: AssociationRequest | None = None
        """The association request, once it has arrived."""
        self.upper_layer: FaultyUpperLayer | None = None
        """The upper layer that sends the answer."""
        self.chosen: ChosenFaults | None = None
        """The faults that apply to the association."""

    def answer(
        self, request: AssociatePrimitive, caller: CallingAE, max_pdu: int
    ) -> tuple[AssociatePrimitive, Agreement] | Rejection:
        """Answer as a policy. Raises AssociationLost if a fault ends the connection instead."""
        self.requested = describe_request(request, caller, self._address)
        self.chosen = self._choose(MessageInfo("association", caller.ae_title, caller.called_ae_title))
        found = self._policy.answer(request, caller, max_pdu)
        if self.chosen is not None:
            self._end_or_delay(self.chosen)
            found = _apply_fault(found, self.chosen.fault)
        self._observer.answered(self.requested, found[1] if isinstance(found, tuple) else found)
        return self._encodable(found) if isinstance(found, Rejection) else found

    def _encodable(self, rejection: Rejection) -> Rejection:
        """Return a rejection that pynetdicom can encode; the upper layer inserts codes outside the standard."""
        try:
            rejecting(rejection)
        except ValueError:
            if self.upper_layer is not None:
                self.upper_layer.reject_codes = (rejection.result, rejection.source, rejection.reason)
            return replace(NO_REASON, comment=rejection.comment)
        return rejection

    def _end_or_delay(self, chosen: ChosenFaults) -> None:
        fault = chosen.fault
        if fault.delay or fault.jitter:
            pause(self._connection.fileno(), fault.delay + fault.jitter * chosen.random.random())
        if 1 in (fault.drop_sent, fault.drop_received):
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            raise AssociationLost("The connection was closed by a fault")
        if 1 in (fault.abort_sent, fault.abort_received):
            raise AssociationLost("The association was aborted by a fault")


NegotiationResult = tuple[AssociatePrimitive, Agreement] | Rejection


def _apply_fault(answer: NegotiationResult, fault: Fault) -> NegotiationResult:
    """Return the answer after a fault."""
    if fault.reject is not None:
        result, source, reason = fault.reject
        return Rejection(result, source, reason, f"Association rejected by a fault: {result}/{source}/{reason}")
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


def describe_request(request: AssociatePrimitive, caller: CallingAE, address: tuple[str, int]) -> AssociationRequest:
    """Return an association request in plain values."""
    return AssociationRequest(
        calling_ae_title=caller.ae_title,
        called_ae_title=caller.called_ae_title,
        address=address,
        contexts=proposed_contexts(request),
        roles=roles_of(request),
        extended=extended_of(request),
        max_pdu=max_pdu_of(request),
        implementation=implementation_of(request),
    )
