"""Association establishment (PS3.8 7.1): `accept` on a connection that a peer opened, `request` to a peer."""

import errno
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pynetdicom.pdu_primitives import A_ASSOCIATE

from pacs.dimse.association.association import Association, AssociationLimits
from pacs.dimse.upper.rejections import PROTOCOL_VERSION_NOT_SUPPORTED, Rejection, rejecting, rejection, rejection_for
from pacs.dimse.upper.upper_layer import AWAITING_CLOSE, Primitive, UpperLayer
from pacs.dimse.upper.user_information import (
    SMALLEST_PDU,
    Agreement,
    AssociateRequest,
    Proposal,
    UserIdentity,
    confirmed,
    identity_of,
    propose,
)
from pacs.dimse.upper.waiting import WaitContext, wait
from pacs.errors import (
    AssociationLost,
    AssociationRejected,
    DestinationUnreachable,
    EncryptionFailed,
    HandshakeFailed,
    OutOfResources,
    PeerTimeout,
    PeerUnreachable,
    ProtocolViolation,
)
from pacs.support.name_lookup import resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class CallingAE:
    """A requestor: its AE title, the AE title it calls, its address, and the SHA-256 fingerprint of its certificate.

    The fingerprint is '' when it showed no certificate by TLS.
    """

    ae_title: str
    called_ae_title: str
    address: str
    certificate: str = ""


@dataclass(frozen=True, slots=True)
class RejectedAssociation:
    """An association request that was answered with A-ASSOCIATE-RJ. Unknown AE titles are ''."""

    rejection: Rejection
    upper: UpperLayer
    calling_ae_title: str = ""
    called_ae_title: str = ""
    user_identity: UserIdentity | None = None
    """That of the request, which was not verified."""

    def close(self) -> None:
        """Close the connection once the requestor has had time to read the A-ASSOCIATE-RJ."""
        self.upper.linger()
        self.upper.wire.close()


TakeSlot = Callable[[CallingAE], None]
"""Takes a slot for one more association of a caller. Raises OutOfResources when there is none."""


class Policy(Protocol):
    """The decision on association requests: an `AcceptorPolicy`, or a wrapper around one."""

    def answer(
        self, request: A_ASSOCIATE, caller: CallingAE, max_pdu: int
    ) -> tuple[A_ASSOCIATE, Agreement] | Rejection:
        """Return the answer to `request`: the accepting primitive and its agreement, or a rejection."""


def accept(
    connection: socket.socket,
    address: tuple[str, int],
    policy: Policy,
    limits: AssociationLimits,
    take_slot: TakeSlot,
    *,
    tls: ssl.SSLContext | None = None,
    layer: Callable[..., UpperLayer] = UpperLayer,
) -> Association | RejectedAssociation:
    """Negotiate an association on a connection that a peer opened, encrypted with `tls`.

    `layer` makes the upper layer. Raises AssociationLost when no association request came in time, and
    ProtocolViolation for an invalid request or a failed TLS handshake; the connection is closed then. The caller closes
    what is returned.
    """
    upper = layer(connection, is_requestor=False, artim=limits.artim, max_pdu=limits.max_pdu, tls=tls)
    try:
        found = _negotiated(upper, address, policy, limits, take_slot)
    except BaseException:
        upper.abort()
        upper.linger()
        upper.wire.close()
        raise
    if isinstance(found, RejectedAssociation):
        return found
    return Association(upper, found, role="acceptor", address=address, limits=limits)


def _negotiated(
    upper: UpperLayer, address: tuple[str, int], policy: Policy, limits: AssociationLimits, take_slot: TakeSlot
) -> Agreement | RejectedAssociation:
    deadline = time.monotonic() + limits.negotiation
    try:
        _handshake(upper, deadline, None)
    except ssl.SSLError as error:
        raise HandshakeFailed(f"TLS failed: {_reason(error)}{_HINTS.get(error.reason or '', '')}") from error
    request = _indication(upper, deadline, None)
    if not isinstance(request, A_ASSOCIATE):
        if upper.has_rejected:
            return RejectedAssociation(PROTOCOL_VERSION_NOT_SUPPORTED, upper)
        if upper.state == AWAITING_CLOSE:
            raise ProtocolViolation(f"The requestor sent no valid association request; {upper.violation or 'A-ABORT'}")
        raise AssociationLost("No association request came")
    caller = CallingAE(
        ae_title=request.calling_ae_title.strip(),
        called_ae_title=request.called_ae_title.strip(),
        address=address[0],
        certificate=upper.certificate,
    )
    try:
        answer = policy.answer(request, caller, limits.max_pdu)
        if not isinstance(answer, Rejection):
            take_slot(caller)
    except OutOfResources as error:
        answer = rejection_for(error)
    if isinstance(answer, Rejection):
        upper.reject(rejecting(answer))
        return RejectedAssociation(answer, upper, caller.ae_title, caller.called_ae_title, identity_of(request))
    primitive, agreement = answer
    upper.accept(primitive)
    return agreement


def _handshake(upper: UpperLayer, deadline: float, wait_context: WaitContext | None) -> None:
    """Do the TLS handshake, if any. Raises ssl.SSLError, AssociationLost, PeerTimeout, Cancelled."""

    def wait_for(events: int) -> None:
        if wait(upper.wire.fileno(), events, deadline, wait_context, graceful=False) is None:
            raise PeerTimeout("The peer does not continue the TLS handshake")

    try:
        upper.handshake(wait_for)
    except ConnectionError as error:
        raise AssociationLost("The peer closed the connection before it was encrypted") from error


def _reason(error: ssl.SSLError) -> str:
    """Return the reason of a TLS failure, to end a sentence."""
    return getattr(error, "verify_message", None) or (error.reason or "unknown").lower().replace("_", " ")


_HINTS = {
    "CERTIFICATE_VERIFY_FAILED": "; add it, or the CA that signed it, to tls.ca",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "; see tls.client_certificates",
    "WRONG_VERSION_NUMBER": "; use server.port for associations without TLS",
    "HTTP_REQUEST": "; this is the port for encrypted associations",
}
"""Advice to the operator, for the log, by the reason of the TLS failure."""


@dataclass(frozen=True, slots=True)
class Protection:
    """TLS settings of a request; the peer must show one of the certificates (fingerprints), if any are given."""

    context: ssl.SSLContext
    certificates: frozenset[str] = frozenset()


def request(
    host: str,
    port: int,
    calling_ae_title: str,
    called_ae_title: str,
    contexts: Sequence[Proposal],
    *,
    roles: Mapping[str, tuple[bool, bool]] | None = None,
    lenient_roles: bool = False,
    extended: Mapping[str, bytes] | None = None,
    limits: AssociationLimits | None = None,
    wait_context: WaitContext | None = None,
    protection: Protection | None = None,
    listens_within: float = 0.0,
    user_identity: UserIdentity | None = None,
    window: int = 1,
) -> Association:
    """Associate with a peer; `roles` are the proposed (SCU, SCP) roles by abstract syntax.

    With `lenient_roles` an acceptor that does not answer them has accepted them. For `listens_within` seconds, a peer
    that cannot be reached is called again. `window` is the most requests without a response, if the peer accepts them.
    At most 128 contexts fit. Raises DestinationUnreachable, of which AssociationRejected is a subclass, and Cancelled
    as soon as the cancellation of `wait_context` is requested.
    """
    limits = limits or AssociationLimits()
    proposal = propose(
        calling_ae_title,
        called_ae_title,
        contexts,
        roles=roles or {},
        extended=extended or {},
        max_pdu=limits.max_pdu,
        user_identity=user_identity,
        window=window,
    )
    connection = _connect(host, port, time.monotonic() + limits.connect, wait_context, listens_within)
    upper = UpperLayer(
        connection,
        is_requestor=True,
        artim=limits.artim,
        max_pdu=limits.max_pdu,
        tls=protection.context if protection else None,
        server_name=host,
    )
    try:
        if protection is not None:
            _secure(upper, protection, time.monotonic() + limits.negotiation, wait_context)
        agreement = _agreed(
            upper, proposal, time.monotonic() + limits.negotiation, wait_context, lenient_roles=lenient_roles
        )
    except BaseException:
        upper.abort()
        upper.wire.close()
        raise
    return Association(upper, agreement, role="requestor", address=(host, port), limits=limits)


def _secure(upper: UpperLayer, protection: Protection, deadline: float, wait_context: WaitContext | None) -> None:
    """Do the TLS handshake and check the peer's certificate. Raises DestinationUnreachable, Cancelled."""
    try:
        _handshake(upper, deadline, wait_context)
    except ssl.SSLError as error:
        hint = "; the port may not use TLS" if error.reason == "WRONG_VERSION_NUMBER" else ""
        raise EncryptionFailed(f"TLS failed: {_reason(error)}{hint}") from error
    except AssociationLost as error:
        raise DestinationUnreachable(error.comment) from error
    if protection.certificates and upper.certificate not in protection.certificates:
        shown = upper.certificate or "none"
        raise EncryptionFailed(f"The certificate of the peer is not one of those expected; its SHA-256 is {shown}")


def _agreed(
    upper: UpperLayer,
    proposal: AssociateRequest,
    deadline: float,
    wait_context: WaitContext | None,
    *,
    lenient_roles: bool,
) -> Agreement:
    """Send the request and return the agreement. Raises DestinationUnreachable, Cancelled."""
    upper.open(proposal)
    try:
        answer = _indication(upper, deadline, wait_context)
    except PeerTimeout:
        raise PeerUnreachable("The peer does not answer the association request") from None
    if upper.violation:
        raise DestinationUnreachable(f"The association was aborted here; {upper.violation}")
    if not isinstance(answer, A_ASSOCIATE):
        if upper.protection:  # with TLS 1.3 the peer rejects a certificate only after the handshake
            raise EncryptionFailed("The peer ended the association; it may require a certificate")
        raise DestinationUnreachable("The peer ended the association before it was established")
    if answer.result != 0:
        refused = rejection(answer.result, answer.result_source, answer.diagnostic)
        raise AssociationRejected(refused.comment, refused.result, refused.source, refused.reason)
    agreement = confirmed(proposal, answer, lenient_roles=lenient_roles)
    if 0 < agreement.max_pdu < SMALLEST_PDU:
        raise DestinationUnreachable("The peer's maximum length of a PDU is too small")
    return agreement


def _indication(upper: UpperLayer, deadline: float, wait_context: WaitContext | None) -> Primitive | None:
    """Wait for the first indication of the upper layer; None at its end. Raises PeerTimeout, Cancelled."""
    while True:
        found = upper.take()
        if found is not None or upper.is_over:
            assert not isinstance(found, memoryview), "no data before the association is established"
            return found
        if (
            not upper.wire.fill()
            and wait(upper.wire.fileno(), select.POLLIN, deadline, wait_context, graceful=False) is None
        ):
            raise PeerTimeout("The peer does not continue the negotiation")


# --- connecting --------------------------------------------------------------------------------------------------


BETWEEN_ATTEMPTS = 0.02
"""Seconds between two attempts to connect to a peer that does not listen yet."""


def _connect(
    host: str, port: int, deadline: float, wait_context: WaitContext | None, listens_within: float
) -> socket.socket:
    """Connect to a peer; attempt it again while it cannot be reached. Raises DestinationUnreachable, Cancelled."""
    patience = time.monotonic() + listens_within
    while True:
        try:
            return _connect_once(host, port, deadline, wait_context)
        except PeerUnreachable:
            if time.monotonic() >= patience:
                raise
        time.sleep(BETWEEN_ATTEMPTS)


def _connect_once(host: str, port: int, deadline: float, wait_context: WaitContext | None) -> socket.socket:
    """Connect to the first address of `host` that accepts. Raises DestinationUnreachable, Cancelled."""
    why, has_address = "unknown host", False
    for family, address in _addresses(host, port, deadline):
        has_address = True
        try:
            connection = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            why = error.strerror or str(error)
            continue
        try:
            failure = _attempt(connection, address, deadline, wait_context)
        except BaseException:  # Cancelled, KeyboardInterrupt
            connection.close()
            raise
        if failure == 0:
            return connection
        connection.close()
        why = os.strerror(failure)
    kind = PeerUnreachable if has_address else DestinationUnreachable
    raise kind(f"The peer cannot be reached: {why}")


_Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


def _addresses(host: str, port: int, deadline: float) -> list[tuple[int, _Address]]:
    """Return family and address of each address of `host`; none for an unknown host."""
    try:
        return [(each[0], each[4]) for each in resolved(host, port, deadline - time.monotonic())]
    except OSError:
        return []


def _attempt(connection: socket.socket, address: _Address, deadline: float, wait_context: WaitContext | None) -> int:
    """Connect within the deadline. Return 0, or the errno of the failure. Raises Cancelled."""
    connection.setblocking(False)
    failure = connection.connect_ex(address)
    if failure not in (0, errno.EINPROGRESS):
        return failure
    happened: int | None = 0
    while happened == 0:
        happened = wait(connection.fileno(), select.POLLOUT, deadline, wait_context, graceful=False)
    if happened is None:
        return errno.ETIMEDOUT
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
