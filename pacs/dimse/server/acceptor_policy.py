"""The acceptor's side of association negotiation (PS3.7 Annex D, PS3.8 7.1): contexts, roles, extended negotiation."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol, cast

from pydicom.uid import UID, ImplicitVRLittleEndian, UID_dictionary
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    SCP_SCU_RoleSelectionNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor

from pacs.dicom.levels import MODELS, DimseOperation
from pacs.dicom.sop_classes import NON_PATIENT, STORAGE, STORAGE_COMMITMENT, VERIFICATION, VIDEO
from pacs.dicom.syntaxes import SERVICE_SYNTAXES, is_native
from pacs.dimse.association.establishment import CallingAE
from pacs.dimse.association.extended_negotiation import extended_answer
from pacs.dimse.association.storage_contexts import CONVERTED_INTO
from pacs.dimse.upper.rejections import (
    APPLICATION_CONTEXT_NOT_SUPPORTED,
    CALLING_AE_NOT_RECOGNIZED,
    NO_REASON,
    Rejection,
    rejection_for,
)
from pacs.dimse.upper.user_information import (
    APPLICATION_CONTEXT,
    SMALLEST_PDU,
    Agreement,
    AnyContext,
    Context,
    UserIdentity,
    UserInformation,
    accepted_contexts,
    acceptor_window,
    extended_items,
    extended_of,
    identity_of,
    implementation_class_uid_of,
    implementation_items,
    implementation_of,
    items_of,
    max_pdu_of,
    window_answer,
)
from pacs.errors import NotAuthorized

SERVICES = frozenset((VERIFICATION, STORAGE_COMMITMENT, *MODELS))
"""The SOP Classes besides Storage that are accepted by default."""


class AccessCheck(Protocol):
    """The check whether a caller may associate."""

    def admit(self, caller: CallingAE) -> None:
        """Check that a caller may associate. Raises NotAuthorized."""


class _AnyCaller:
    """Lets every caller associate."""

    def admit(self, caller: CallingAE) -> None:
        """Accept the caller."""


def _proposed_order(_ae_title: str) -> Sequence[str]:
    return ()


def _strict_roles(_ae_title: str) -> bool:
    return False


def _no_user(_identity: UserIdentity | None) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptorPolicy:
    """Which association requests are accepted, and with which contexts."""

    access: AccessCheck = field(default_factory=_AnyCaller)
    """The check of callers."""
    transfer_syntaxes: Sequence[str]
    """The transfer syntaxes accepted for Storage."""
    order_for: Callable[[str], Sequence[str]] = _proposed_order
    """Returns, for a calling AE title, the order of preference of transfer syntaxes; empty for the proposed order."""
    send_as_for: Callable[[str], Sequence[str]] = _proposed_order
    """Returns, for a calling AE title, the transfer syntaxes that it gets by C-GET when it does not accept others."""
    has_lenient_roles: Callable[[str], bool] = _strict_roles
    """Returns, for a calling AE title, whether it may receive by C-GET without proposing the role of SCP."""
    services: Set[str] = SERVICES
    """The SOP Classes that are accepted besides Storage."""
    peers_provide: Set[str] = frozenset()
    """Those of them of which the requestor may be the SCP: reports of storage commitment that this AE requested."""
    unknown_sop_classes: bool = False
    """Whether SOP Classes that are in no dictionary, such as private ones, are accepted for Storage."""
    identify: Callable[[UserIdentity | None], str] = _no_user
    """Checks a user identity and returns the user's name, '' for none. Raises UserRefused."""

    def answer(
        self, request: A_ASSOCIATE, caller: CallingAE, max_pdu: int
    ) -> tuple[A_ASSOCIATE, Agreement] | Rejection:
        """Return the answer to `request`: the accepting primitive and its agreement, or a rejection."""
        if not caller.ae_title:
            return replace(CALLING_AE_NOT_RECOGNIZED, comment=f"{CALLING_AE_NOT_RECOGNIZED.comment}: it is blank")
        if str(request.application_context_name or "") != APPLICATION_CONTEXT:
            return APPLICATION_CONTEXT_NOT_SUPPORTED
        if 0 < (limit := max_pdu_of(request)) < SMALLEST_PDU:
            return replace(NO_REASON, comment=f"{NO_REASON.comment}: its maximum length of a PDU is {limit} bytes")
        identity = identity_of(request)
        try:
            self.access.admit(caller)
            user = self.identify(identity)
        except NotAuthorized as error:
            return rejection_for(error)
        contexts, roles = self._contexts(request)
        agreement = replace(_agreement(request, contexts, identity), user=user)
        if self._receives_by_get(request):
            agreement = replace(agreement, contexts=self._sendable(agreement.contexts))
        items: list[UserInformation] = [*implementation_items(max_pdu), *roles, *extended_items(agreement.extended)]
        items += window_answer(request)
        if identity and identity.response_requested and (user or identity.type in (1, 2)):
            items.append(_identity_response())
        return _accepting(contexts, items), agreement

    def _contexts(
        self, request: A_ASSOCIATE
    ) -> tuple[list[PresentationContext], list[SCP_SCU_RoleSelectionNegotiation]]:
        """Return the answer to each proposed context, and the role selection items of the accepted ones."""
        proposed_roles = {
            cast(UID, item.sop_class_uid): (item.scu_role, item.scp_role)
            for item in items_of(request, SCP_SCU_RoleSelectionNegotiation)
        }
        order = tuple(self.order_for(request.calling_ae_title.strip()))
        received = {str(uid) for uid, (_, scp) in proposed_roles.items() if scp}
        if self._receives_by_get(request):
            received = _abstract_syntaxes(request)
        retrieval = self.retrieval_choices(request, order, received)
        contexts: list[PresentationContext] = []
        roles: dict[UID, SCP_SCU_RoleSelectionNegotiation] = {}
        for proposed in request.presentation_context_definition_list:
            if not proposed.transfer_syntax:
                contexts.append(_without_transfer_syntax(proposed))
                continue
            chosen = retrieval.get(proposed.context_id) or self.choose(proposed, order)
            if proposed.abstract_syntax not in proposed_roles:
                contexts.append(_answer_to(proposed, chosen))
                continue
            numbered = AnyContext.of(proposed, 1)  # pynetdicom refuses even IDs
            results, replies = negotiate_as_acceptor([numbered], [_supported(proposed, *chosen)], proposed_roles)
            contexts += [AnyContext.of(each, proposed.context_id) for each in results]
            roles |= {cast(UID, each.sop_class_uid): each for each in replies}
        return contexts, list(roles.values())

    def _receives_by_get(self, request: A_ASSOCIATE) -> bool:
        """Return whether the requestor is assumed to be SCP of Storage: it may send a C-GET, and is configured so."""
        may_get = any(MODELS[uid].operation is DimseOperation.GET for uid in _abstract_syntaxes(request) & set(MODELS))
        return may_get and self.has_lenient_roles(request.calling_ae_title.strip())

    def _sendable(self, contexts: Mapping[int, Context]) -> dict[int, Context]:
        """Return contexts in which this AE may send instances, whatever roles were negotiated."""
        return {
            number: replace(each, as_scu=each.as_scu or self.stores(each.abstract_syntax))
            for number, each in contexts.items()
        }

    def retrieval_choices(
        self, request: A_ASSOCIATE, order: Sequence[str], received: Set[str]
    ) -> dict[int | None, "Choice"]:
        """Return the answer to each context, by its ID, in which the requestor receives the instances of a C-GET."""
        groups: dict[str, list[PresentationContext]] = {}
        for each in request.presentation_context_definition_list if received else ():
            uid = str(each.abstract_syntax)
            if uid in received and uid not in VIDEO and each.transfer_syntax and self.stores(uid):
                groups.setdefault(uid, []).append(each)
        preferred = (*order, *self.send_as_for(request.calling_ae_title.strip())) if groups else ()
        return {
            each.context_id: (True, True, syntax)
            for group in groups.values()
            for each, syntax in zip(
                group,
                choose_for_retrieval([each.transfer_syntax for each in group], self.transfer_syntaxes, preferred),
                strict=True,
            )
        }

    def choose(self, proposed: PresentationContext, order: Sequence[str]) -> "Choice":
        """Choose the answer to one proposed context."""
        uid = str(proposed.abstract_syntax)
        if self.stores(uid):
            return True, True, choose_transfer_syntax(proposed.transfer_syntax, self.transfer_syntaxes, order)
        if uid in self.services:
            return True, uid in self.peers_provide, choose_transfer_syntax(proposed.transfer_syntax, SERVICE_SYNTAXES)
        return False, False, None

    def stores(self, sop_class_uid: str) -> bool:
        """Return whether instances of this SOP Class are stored."""
        unknown = self.unknown_sop_classes and sop_class_uid not in UID_dictionary
        return sop_class_uid in STORAGE or (unknown and sop_class_uid not in NON_PATIENT)


Choice = tuple[bool, bool, str | None]
"""Whether the abstract syntax is accepted, whether with role selection, and the transfer syntax, None for none."""


def _abstract_syntaxes(request: A_ASSOCIATE) -> set[str]:
    return {str(each.abstract_syntax) for each in request.presentation_context_definition_list}


def _supported(proposed: PresentationContext, accepted: bool, roles: bool, syntax: str | None) -> PresentationContext:
    """Return the supported context that pynetdicom compares a proposal with: one transfer syntax, or none."""
    supported = PresentationContext()
    if accepted:  # without an abstract syntax it matches no proposal
        supported.abstract_syntax = proposed.abstract_syntax
        supported.add_transfer_syntax(syntax)
    if roles:
        supported.scu_role = supported.scp_role = True
    return supported


def _answer_to(proposed: PresentationContext, choice: Choice) -> PresentationContext:
    """Return the answer to a context without role selection, from the cache of equal proposals."""
    first = proposed.transfer_syntax[0]
    return AnyContext.of(_answer(proposed.abstract_syntax, choice[2] or first, choice), proposed.context_id)


@lru_cache(maxsize=4096)
def _answer(abstract_syntax: UID | None, transfer_syntax: str, choice: Choice) -> PresentationContext:
    """Return pynetdicom's answer to a context of one transfer syntax. The caller copies it."""
    proposed = PresentationContext()
    proposed.context_id, proposed.abstract_syntax = 1, abstract_syntax
    proposed.add_transfer_syntax(transfer_syntax)
    ((answer,), _) = negotiate_as_acceptor([proposed], [_supported(proposed, *choice)], {})
    return answer


def choose_transfer_syntax(proposed: Sequence[str], supported: Sequence[str], order: Sequence[str] = ()) -> str | None:
    """Return the proposed transfer syntax to accept: the first in `order`, else the first that is supported.

    Implicit VR is chosen last, unless `order` names it: it loses the VRs of private elements.
    """
    usable = [each for each in proposed if each in supported]
    ranked = [each for each in order if each in usable]
    explicit = [each for each in usable if each != ImplicitVRLittleEndian]
    return next(iter((*ranked, *explicit, *usable)), None)


def choose_for_retrieval(
    proposed: Sequence[Sequence[str]], supported: Sequence[str], order: Sequence[str] = ()
) -> list[str | None]:
    """Return the transfer syntax to accept in each context of one SOP Class whose instances the requestor receives.

    The first in `order` is accepted wherever it is proposed. One context gets an uncompressed transfer syntax, so that
    every image reaches the requestor; the others get as many different compressed ones as possible.
    """
    chosen = [next((each for each in order if each in context and each in supported), None) for context in proposed]
    usable = [[str(each) for each in context if each in supported] for context in proposed]
    free = sorted((n for n, each in enumerate(chosen) if each is None), key=lambda n: len(_compressed(usable[n])))
    if not any(each is not None and is_native(each) for each in chosen):
        for number in free:
            chosen[number] = next((each for each in CONVERTED_INTO if each in usable[number]), None)
            if chosen[number] is not None:
                break
    for number in sorted((n for n in free if chosen[n] is None), key=lambda n: len(usable[n])):
        unused = [each for each in _compressed(usable[number]) if each not in chosen]
        chosen[number] = choose_transfer_syntax(unused or usable[number], supported)
    return chosen


def _compressed(transfer_syntaxes: Sequence[str]) -> list[str]:
    return [each for each in transfer_syntaxes if not is_native(each)]


def _without_transfer_syntax(proposed: PresentationContext) -> PresentationContext:
    """Return the answer to a context without transfer syntaxes; it must name one nevertheless (PS3.8 9.3.3.2)."""
    refused = AnyContext()  # no copy of the proposed one, whose list of transfer syntaxes is cached
    refused.context_id, refused.abstract_syntax, refused.result = proposed.context_id, proposed.abstract_syntax, 4
    refused.add_transfer_syntax(ImplicitVRLittleEndian)
    return refused


def _agreement(
    request: A_ASSOCIATE, results: Sequence[PresentationContext], identity: UserIdentity | None
) -> Agreement:
    contexts = accepted_contexts(results)
    accepted = {each.abstract_syntax for each in contexts.values()}
    offered = extended_of(request)
    answers = {uid: extended_answer(uid, offer) for uid, offer in offered.items() if uid in accepted}
    return Agreement(
        calling_ae_title=request.calling_ae_title.strip(),
        called_ae_title=request.called_ae_title.strip(),
        contexts=contexts,
        max_pdu=max_pdu_of(request),
        extended={uid: answer for uid, answer in answers.items() if answer is not None},
        proposed_extended=offered,
        user_identity=identity,
        implementation=implementation_of(request),
        implementation_class_uid=implementation_class_uid_of(request),
        window=acceptor_window(request),
    )


def _accepting(contexts: list[PresentationContext], items: list[UserInformation]) -> A_ASSOCIATE:
    """Return the accepting primitive. The upper layer sends the AE titles back as they came."""
    accepting = A_ASSOCIATE()
    accepting.application_context_name = APPLICATION_CONTEXT
    accepting.result = 0
    accepting.presentation_context_definition_results_list = contexts
    accepting.user_information = items
    return accepting


def _identity_response() -> UserInformation:
    item = UserIdentityNegotiation()
    item.server_response = b""
    return item
