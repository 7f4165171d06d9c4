"""What is agreed when an association begins (PS3.7 Annex D, PS3.8 7.1): contexts, roles, extended negotiation.

The acceptor's rules are in `AcceptorPolicy`; the tables say which SOP Classes are accepted in which transfer syntaxes.
`pacs.dimse.upper.user_information` has the requestor's side.
"""

from collections.abc import Callable, Sequence, Set
from copy import copy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol, cast

from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    UID_dictionary,
)
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    SCP_SCU_RoleSelectionNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor

from pacs import errors
from pacs.dicom.levels import MODELS, DimseOperation
from pacs.dicom.matching_mode import Negotiated
from pacs.dicom.sop_classes import NON_PATIENT, STORAGE
from pacs.dimse.upper.user_information import (
    APPLICATION_CONTEXT,
    APPLICATION_CONTEXT_NOT_SUPPORTED,
    CALLED_AE_NOT_RECOGNIZED,
    CALLING_AE_NOT_RECOGNIZED,
    LOCAL_LIMIT_EXCEEDED,
    NO_REASON,
    TEMPORARY_CONGESTION,
    USER_IDENTITY_REFUSED,
    Agreement,
    Rejection,
    UserIdentity,
    UserInformation,
    accepted_contexts,
    extended_items,
    extended_of,
    implementation_of,
    items_of,
    max_pdu_of,
    ourselves,
)
from pacs.errors import NotAuthorized, PacsError
from pacs.services.access import Access, Caller, Rules
from pacs.services.peers import Peers

VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
"""The Storage Commitment Push Model (PS3.4 Annex J)."""
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
"""Its well-known SOP Instance (PS3.4 J.3.5)."""
REQUEST_STORAGE_COMMITMENT = 1
"""The Action Type ID of a request (PS3.4 Table J.3-1)."""
SERVICE_SYNTAXES = tuple(map(str, (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)))
"""Transfer syntaxes of everything but Storage. No Deflated: an Identifier must not inflate without bound (P9)."""

SMALLEST_PDU = 8
"""A PDU shorter than this cannot hold two bytes of a message: who takes no longer ones cannot be answered."""

# --- what is accepted --------------------------------------------------------------------------------------------

# PS3.4 C.5: what each byte of the Service-class-application-information means, and whether we do it.
FIND_BYTES = (
    ("relational", True),
    ("combined_date_time", True),
    ("fuzzy_names", True),
    ("timezone", False),
    ("view", False),
    ("empty_values", True),
    ("multiple_values", True),
)
RETRIEVE_BYTES = (("relational", True), ("view", False))

EXTENDED = {
    uid: FIND_BYTES if model.operation is DimseOperation.FIND else RETRIEVE_BYTES for uid, model in MODELS.items()
}
"""SOP Class Extended Negotiation: (what the byte is, whether it is agreed to) by SOP Class."""


def extended_answer(sop_class_uid: str, offered: bytes) -> bytes | None:
    """The Service-class-application-information to answer an offer with, None where the answer omits it.

    A one-byte offer gets exactly one byte back; each byte of a longer one echoes 1 or turns it down with 0.
    """
    table = EXTENDED.get(sop_class_uid)
    if table is None or not offered:
        return None
    return bytes(1 if agreed and byte == 1 else 0 for byte, (_, agreed) in zip(offered, table, strict=False))


def negotiated(sop_class_uid: str, agreed: bytes | None) -> Negotiated:
    """What the agreed bytes mean for the queries and retrieves of one SOP Class."""
    table = EXTENDED.get(sop_class_uid, ())
    on = {name for byte, (name, known) in zip(agreed or b"", table, strict=False) if known and byte == 1}
    return Negotiated(**dict.fromkeys(on, True))


# --- the acceptor's side -----------------------------------------------------------------------------------------


REJECTION_OF: dict[type[PacsError], Rejection] = {
    errors.CalledTitleUnknown: CALLED_AE_NOT_RECOGNIZED,
    errors.CallerUnknown: CALLING_AE_NOT_RECOGNIZED,
    errors.UserRefused: USER_IDENTITY_REFUSED,
    errors.TooManyAssociations: LOCAL_LIMIT_EXCEEDED,
    errors.OutOfResources: TEMPORARY_CONGESTION,
}
"""Which rejection an error is; an error class not listed takes that of its nearest base class."""


def rejection_for(error: PacsError) -> Rejection:
    """How an association request is rejected for `error`; the comment, which is for our log, has its own."""
    found = next(REJECTION_OF[base] for base in type(error).__mro__ if base in REJECTION_OF)
    return replace(found, comment=f"{found.comment}: {error.comment}")


SERVICES = frozenset((VERIFICATION, STORAGE_COMMITMENT, *MODELS))
"""What is accepted besides Storage, unless a policy says otherwise."""


def _no_order(_ae_title: str) -> Sequence[str]:
    return ()


def _unchecked(_identity: UserIdentity | None) -> str:
    return ""


class Door(Protocol):
    """What says who may associate: an `Access`, or a client's own."""

    def admit(self, caller: Caller) -> None:
        """See that a caller may associate. Raises NotAuthorized."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptorPolicy:
    """Which association requests are accepted, and with which contexts. All of it is plain values and callables."""

    access: Door = field(default_factory=lambda: Access(Rules(), Peers()))
    """Who may associate."""
    transfer_syntaxes: Sequence[str]
    """The transfer syntaxes Storage is accepted in."""
    order_for: Callable[[str], Sequence[str]] = _no_order
    """(calling AE title): the order in which its proposals are taken; empty is the peer's own order."""
    services: Set[str] = SERVICES
    """The SOP Classes that are accepted besides Storage."""
    peers_provide: Set[str] = frozenset()
    """Those of them of which the requestor is the SCP: reports of storage commitment that we asked for."""
    unknown_sop_classes: bool = False
    """Whether SOP Classes that are in no dictionary, private ones too, are accepted for Storage."""
    identify: Callable[[UserIdentity | None], str] = _unchecked
    """Checks a user's identity and gives the name, '' where none was looked at. Raises UserRefused."""

    def answer(self, request: A_ASSOCIATE, caller: Caller, max_pdu: int) -> tuple[A_ASSOCIATE, Agreement] | Rejection:
        """What `request` is answered with: an accepting primitive and what it agrees on, or a rejection."""
        if str(request.application_context_name or "") != APPLICATION_CONTEXT:
            return APPLICATION_CONTEXT_NOT_SUPPORTED
        if 0 < max_pdu_of(request) < SMALLEST_PDU:
            return NO_REASON
        identity = _identity(request)
        try:
            self.access.admit(caller)
            user = self.identify(identity)
        except NotAuthorized as error:
            return rejection_for(error)
        contexts, roles = self._contexts(request)
        agreement = replace(_agreement(request, contexts, identity), user=user)
        items: list[UserInformation] = [*ourselves(max_pdu), *roles, *extended_items(agreement.extended)]
        items += _async_operations(request)
        if identity and identity.response_requested and (user or identity.type in (1, 2)):
            items.append(_identity_response(b""))
        return _accepting(request, contexts, items), agreement

    def _contexts(
        self, request: A_ASSOCIATE
    ) -> tuple[list[PresentationContext], list[SCP_SCU_RoleSelectionNegotiation]]:
        """Each proposed context answered on its own, and the role selection items of the accepted ones."""
        proposed_roles = {
            cast(UID, item.sop_class_uid): (item.scu_role, item.scp_role)
            for item in items_of(request, SCP_SCU_RoleSelectionNegotiation)
        }
        order = tuple(self.order_for(request.calling_ae_title.strip()))
        contexts: list[PresentationContext] = []
        roles: dict[UID, SCP_SCU_RoleSelectionNegotiation] = {}
        for proposed in request.presentation_context_definition_list:
            if not proposed.transfer_syntax:
                contexts.append(_without_transfer_syntax(proposed))
                continue
            chosen = self.chosen(proposed, order)
            if proposed.abstract_syntax not in proposed_roles:
                contexts.append(_answer_to(proposed, chosen))
                continue
            results, replies = negotiate_as_acceptor([proposed], [_supported(proposed, *chosen)], proposed_roles)
            contexts += results
            roles |= {cast(UID, each.sop_class_uid): each for each in replies}
        return contexts, list(roles.values())

    def chosen(self, proposed: PresentationContext, order: Sequence[str]) -> "Choice":
        """Whether the abstract syntax is ours, whether with roles, and the transfer syntax we take of the proposed."""
        uid = str(proposed.abstract_syntax)
        if self.stores(uid):
            return True, True, choose(proposed.transfer_syntax, self.transfer_syntaxes, order)
        if uid in self.services:
            return True, uid in self.peers_provide, choose(proposed.transfer_syntax, SERVICE_SYNTAXES)
        return False, False, None

    def stores(self, sop_class_uid: str) -> bool:
        """Whether instances of this SOP Class are taken in."""
        unknown = self.unknown_sop_classes and sop_class_uid not in UID_dictionary
        return sop_class_uid in STORAGE or (unknown and sop_class_uid not in NON_PATIENT)


Choice = tuple[bool, bool, str | None]
"""Whether an abstract syntax is ours, whether with roles, and the transfer syntax that is taken, None for none."""


def _supported(proposed: PresentationContext, ours: bool, roles: bool, syntax: str | None) -> PresentationContext:
    """The context we would offer ourselves as the answer to a proposal: one transfer syntax, or none."""
    supported = PresentationContext()
    if ours:  # else it has no abstract syntax, so that none matches
        supported.abstract_syntax = proposed.abstract_syntax
        supported.add_transfer_syntax(syntax)
    if roles:
        supported.scu_role = supported.scp_role = True
    return supported


def _answer_to(proposed: PresentationContext, choice: Choice) -> PresentationContext:
    """The answer to a context without role selection: the same for all that propose the same."""
    first = proposed.transfer_syntax[0]
    answer = copy(_answer(proposed.abstract_syntax, choice[2] or first, choice))
    answer.context_id = proposed.context_id
    return answer


@lru_cache(maxsize=4096)
def _answer(abstract_syntax: UID | None, transfer_syntax: str, choice: Choice) -> PresentationContext:
    """What pynetdicom answers to a context of one transfer syntax. Not to be changed, only to be copied."""
    proposed = PresentationContext()
    proposed.context_id, proposed.abstract_syntax = 1, abstract_syntax
    proposed.add_transfer_syntax(transfer_syntax)
    ((answer,), _) = negotiate_as_acceptor([proposed], [_supported(proposed, *choice)], {})
    return answer


def choose(proposed: Sequence[str], kept: Sequence[str], order: Sequence[str] = ()) -> str | None:
    """The transfer syntax to accept of those proposed: the first we keep, or the first in `order`.

    Without an order Implicit VR is taken only when nothing explicit is proposed, since it loses the VRs of private
    elements.
    """
    usable = [each for each in proposed if each in kept]
    ranked = [each for each in order if each in usable]
    explicit = [each for each in usable if each != ImplicitVRLittleEndian]
    return next(iter((*ranked, *explicit, *usable)), None)


def _without_transfer_syntax(proposed: PresentationContext) -> PresentationContext:
    """The answer to a context that proposes none: its items must name one all the same (PS3.8 9.3.3.2)."""
    refused = PresentationContext()
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
    )


def _accepting(request: A_ASSOCIATE, contexts: list[PresentationContext], items: list[UserInformation]) -> A_ASSOCIATE:
    accepting = A_ASSOCIATE()
    accepting.application_context_name = APPLICATION_CONTEXT
    accepting.calling_ae_title = request.calling_ae_title
    accepting.called_ae_title = request.called_ae_title
    accepting.result = 0
    accepting.presentation_context_definition_results_list = contexts
    accepting.user_information = items
    return accepting


def _identity(request: A_ASSOCIATE) -> UserIdentity | None:
    for item in items_of(request, UserIdentityNegotiation):
        return UserIdentity(
            type=item.user_identity_type or 0,
            primary=item.primary_field or b"",
            secondary=item.secondary_field or b"",
            response_requested=item.positive_response_requested,
        )
    return None


def _identity_response(response: bytes) -> UserInformation:
    item = UserIdentityNegotiation()
    item.server_response = response
    return item


def _async_operations(request: A_ASSOCIATE) -> list[UserInformation]:
    """One operation at a time each way, said where the peer asked (PS3.7 D.3.3.3)."""
    if not items_of(request, AsynchronousOperationsWindowNegotiation):
        return []
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 1
    return [window]
