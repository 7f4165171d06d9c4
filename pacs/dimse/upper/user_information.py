"""Association requests, their User Information items (PS3.7 Annex D, PS3.8 7.1), and the resulting agreement.

`propose` and `confirmed` are for the requestor; `pacs.dimse.server.acceptor_policy` is for the acceptor.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

from pydicom.uid import UID
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext, build_context, negotiate_as_requestor

from pacs.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

AssociatePrimitive = A_ASSOCIATE
"""An association request or its answer, as pynetdicom has it."""

MAX_CONTEXTS = 128
"""The most presentation contexts of one association: odd IDs from 1 to 255 (PS3.8 9.3.2.2)."""

DEFAULT_MAX_PDU = 16_384
"""The maximum length of PDUs to a peer that states none."""

SMALLEST_PDU = 8
"""A maximum length below this leaves no room for two bytes of a message: such a peer cannot be answered."""

MOST_OPERATIONS = 16
"""The most requests without a response that this AE sends, or takes from a peer that negotiated a window."""

# --- contexts and agreement ---------------------------------------------------------------------------------------


class AnyContext(PresentationContext):
    """A presentation context with any ID: pynetdicom's property refuses even ones, which some requestors use."""

    context_id: int | None = None

    @classmethod
    def of(cls, context: PresentationContext, context_id: int | None) -> "AnyContext":
        """Return a copy of a context, with this ID."""
        copied = cls()
        copied.__dict__.update(context.__dict__)
        copied.context_id = context_id
        return copied


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context, and the roles of this AE in it."""

    id: int
    abstract_syntax: str
    transfer_syntax: str
    as_scu: bool
    as_scp: bool


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """The user identity in a request (PS3.7 D.3.3.7): type 1 name, 2 name and passcode, 3 Kerberos, 4 SAML, 5 JWT."""

    type: int
    primary: bytes = field(repr=False)
    secondary: bytes = field(repr=False)
    response_requested: bool


REFUSED_SYNTAXES = 4
"""The result of a presentation context whose transfer syntaxes are not supported (PS3.8 9.3.3.2)."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The result of the negotiation of an association."""

    calling_ae_title: str
    called_ae_title: str
    contexts: Mapping[int, Context]
    max_pdu: int
    """The peer's maximum length of a PDU, in bytes; 0 is without limit."""
    refused_syntaxes: frozenset[str] = frozenset()
    """The abstract syntaxes of contexts that the acceptor rejected because of their transfer syntaxes."""
    extended: Mapping[str, bytes] = field(default_factory=dict)
    """The Service-class-application-information of SOP Class Extended Negotiation, by SOP Class UID."""
    proposed_extended: Mapping[str, bytes] = field(default_factory=dict)
    """The same as the requestor proposed it."""
    user_identity: UserIdentity | None = None
    user: str = ""
    """The name of the identified user, '' for none."""
    implementation: str = ""
    """The peer's Implementation Version Name, or ''."""
    implementation_class_uid: str = ""
    """The peer's Implementation Class UID, or ''."""
    window: int = 1
    """The most requests of this AE without a response (PS3.7 D.3.3.3)."""


# --- the requestor's side ----------------------------------------------------------------------------------------

Proposal = tuple[str, Sequence[str]]
"""A presentation context to propose: its abstract syntax and its transfer syntaxes."""


class AssociateRequest(A_ASSOCIATE):
    """An A-ASSOCIATE request with AE titles in Latin-1, which pynetdicom's properties would refuse."""

    calling: str = ""
    called: str = ""


def propose(
    calling_ae_title: str,
    called_ae_title: str,
    proposals: Sequence[Proposal],
    *,
    roles: Mapping[str, tuple[bool, bool]],
    extended: Mapping[str, bytes],
    max_pdu: int,
    user_identity: UserIdentity | None = None,
    window: int = 1,
) -> AssociateRequest:
    """Return the A-ASSOCIATE request for at most 128 contexts; `roles` are (SCU, SCP) by abstract syntax.

    `window` is the most requests that are sent before the response to the first. With an SCP role, as for a C-GET, the
    peer may send as many before ours: they wait in the socket.
    """
    performed = MOST_OPERATIONS if any(scp for _, scp in roles.values()) else 1
    contexts = [build_context(abstract, list(syntaxes)) for abstract, syntaxes in proposals]
    for index, context in enumerate(contexts):
        context.context_id = 2 * index + 1
        if str(context.abstract_syntax) in roles:
            context.scu_role, context.scp_role = roles[str(context.abstract_syntax)]
    request = AssociateRequest()
    request.application_context_name = APPLICATION_CONTEXT
    request.calling, request.called = calling_ae_title, called_ae_title
    request.presentation_context_definition_list = contexts
    request.user_information = [
        *implementation_items(max_pdu),
        *_role_items(roles),
        *extended_items(extended),
        *_identity_items(user_identity),
        *_window_items(window, performed),
    ]
    return request


def confirmed(request: AssociateRequest, answer: A_ASSOCIATE, *, lenient_roles: bool = False) -> Agreement:
    """Return the agreement of our request and an accepting answer.

    With `lenient_roles`, proposed roles that are not answered are accepted.
    """
    answered = roles_of(request) | roles_of(answer) if lenient_roles else roles_of(answer)
    roles: dict[UID, tuple[bool | None, bool | None]] = {UID(uid): each for uid, each in answered.items()}
    proposed = request.presentation_context_definition_list
    results = negotiate_as_requestor(proposed, answer.presentation_context_definition_results_list, roles)
    syntaxes = {each.context_id: set(each.transfer_syntax) for each in proposed}
    # Ignore answers with a transfer syntax that was not proposed.
    results = [each for each in results if syntaxes[each.context_id].issuperset(each.transfer_syntax)]
    return Agreement(
        calling_ae_title=request.calling,
        called_ae_title=request.called,
        contexts=accepted_contexts(results),
        max_pdu=max_pdu_of(answer),
        refused_syntaxes=frozenset(str(each.abstract_syntax) for each in results if each.result == REFUSED_SYNTAXES),
        extended=extended_of(answer),
        proposed_extended=extended_of(request),
        implementation=implementation_of(answer),
        implementation_class_uid=implementation_class_uid_of(answer),
        window=_narrower(_windows_of(request)[0], _windows_of(answer)[0]),
    )


# --- items of the User Information -------------------------------------------------------------------------------

UserInformation = (
    AsynchronousOperationsWindowNegotiation
    | ImplementationClassUIDNotification
    | ImplementationVersionNameNotification
    | MaximumLengthNotification
    | SCP_SCU_RoleSelectionNegotiation
    | SOPClassCommonExtendedNegotiation
    | SOPClassExtendedNegotiation
    | UserIdentityNegotiation
)
_Item = TypeVar("_Item", bound=UserInformation)


def items_of(primitive: A_ASSOCIATE, kind: type[_Item]) -> list[_Item]:
    """Return the User Information items of one class, in order."""
    return [item for item in primitive.user_information if isinstance(item, kind)]


def identity_of(request: A_ASSOCIATE) -> UserIdentity | None:
    """Return the user identity of a request, None without one."""
    for item in items_of(request, UserIdentityNegotiation):
        return UserIdentity(
            type=item.user_identity_type or 0,
            primary=item.primary_field or b"",
            secondary=item.secondary_field or b"",
            response_requested=item.positive_response_requested,
        )
    return None


def accepted_contexts(results: Sequence[PresentationContext]) -> dict[int, Context]:
    """Return the accepted contexts (result 0) by ID."""
    return {
        cast(int, each.context_id): Context(
            id=cast(int, each.context_id),
            abstract_syntax=str(each.abstract_syntax),
            transfer_syntax=str(each.transfer_syntax[0]),
            as_scu=bool(each.as_scu),
            as_scp=bool(each.as_scp),
        )
        for each in results
        if each.result == 0 and each.transfer_syntax
    }


def max_pdu_of(primitive: A_ASSOCIATE) -> int:
    """Return the maximum length of a PDU that the other side states, in bytes; 0 is without limit."""
    stated = items_of(primitive, MaximumLengthNotification)
    return stated[0].maximum_length_received if stated else DEFAULT_MAX_PDU


def implementation_of(primitive: A_ASSOCIATE) -> str:
    """Return the other side's Implementation Version Name, or ''."""
    names = items_of(primitive, ImplementationVersionNameNotification)
    return (names[0].implementation_version_name or "") if names else ""


def implementation_class_uid_of(primitive: A_ASSOCIATE) -> str:
    """Return the other side's Implementation Class UID, or ''."""
    uids = items_of(primitive, ImplementationClassUIDNotification)
    return str(uids[0].implementation_class_uid or "") if uids else ""


def extended_of(primitive: A_ASSOCIATE) -> dict[str, bytes]:
    """Return the Service-class-application-information by SOP Class UID (PS3.7 D.3.3.5)."""
    return {
        str(item.sop_class_uid): item.service_class_application_information or b""
        for item in items_of(primitive, SOPClassExtendedNegotiation)
    }


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """A presentation context of an association request."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


def proposed_contexts(request: A_ASSOCIATE) -> tuple[ProposedContext, ...]:
    """Return the presentation contexts of an association request."""
    return tuple(
        ProposedContext(each.context_id or 0, str(each.abstract_syntax), tuple(map(str, each.transfer_syntax)))
        for each in request.presentation_context_definition_list
    )


def roles_of(primitive: A_ASSOCIATE) -> dict[str, tuple[bool, bool]]:
    """Return the (SCU, SCP) roles by SOP Class UID (PS3.7 D.3.3.4)."""
    return {
        str(each.sop_class_uid): (bool(each.scu_role), bool(each.scp_role))
        for each in items_of(primitive, SCP_SCU_RoleSelectionNegotiation)
    }


def implementation_items(max_pdu: int) -> list[UserInformation]:
    """Return the items with our maximum length of a PDU and our implementation."""
    length = MaximumLengthNotification()
    length.maximum_length_received = max_pdu
    uid = ImplementationClassUIDNotification()
    uid.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    name = ImplementationVersionNameNotification()
    name.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return [length, uid, name]


def _role_items(roles: Mapping[str, tuple[bool, bool]]) -> Iterator[UserInformation]:
    for sop_class_uid, (scu, scp) in roles.items():
        item = SCP_SCU_RoleSelectionNegotiation()
        item.sop_class_uid, item.scu_role, item.scp_role = UID(sop_class_uid), scu, scp
        yield item


def _identity_items(identity: UserIdentity | None) -> Iterator[UserInformation]:
    if identity is not None:
        item = UserIdentityNegotiation()
        item.user_identity_type = identity.type
        item.positive_response_requested = identity.response_requested
        item.primary_field, item.secondary_field = identity.primary, identity.secondary
        yield item


def _window_items(invoked: int, performed: int) -> Iterator[UserInformation]:
    if max(invoked, performed) > 1:
        yield _window_item(invoked, performed)


def _window_item(invoked: int, performed: int) -> UserInformation:
    item = AsynchronousOperationsWindowNegotiation()
    item.maximum_number_operations_invoked, item.maximum_number_operations_performed = invoked, performed
    return item


def _windows_of(primitive: A_ASSOCIATE) -> tuple[int, int]:
    """Return the operations that the requestor may invoke and perform at a time; 0 is without limit."""
    for item in items_of(primitive, AsynchronousOperationsWindowNegotiation):
        return item.maximum_number_operations_invoked, item.maximum_number_operations_performed
    return 1, 1


def _narrower(*windows: int) -> int:
    """Return the smallest of some windows and our own."""
    return min((MOST_OPERATIONS, *filter(None, windows)))


def window_answer(request: A_ASSOCIATE) -> list[UserInformation]:
    """Return the item with the accepted windows, if the requestor proposed any (PS3.7 D.3.3.3)."""
    if not items_of(request, AsynchronousOperationsWindowNegotiation):
        return []
    return [_window_item(*map(_narrower, _windows_of(request)))]


def acceptor_window(request: A_ASSOCIATE) -> int:
    """Return how many requests the acceptor may have without a response: those that the requestor performs."""
    return _narrower(_windows_of(request)[1])


def extended_items(extended: Mapping[str, bytes]) -> Iterator[UserInformation]:
    """Yield SOP Class Extended Negotiation items (PS3.7 D.3.3.5)."""
    for sop_class_uid, information in extended.items():
        item = SOPClassExtendedNegotiation()
        item.sop_class_uid = UID(sop_class_uid)
        item.service_class_application_information = information
        yield item
