"""How an association begins (PS3.8 7.1): `accept` for what connects to us, `request` towards a peer."""

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

from pacs.dimse.association.association import Association, Limits
from pacs.dimse.server.acceptor_policy import SMALLEST_PDU, rejection_for
from pacs.dimse.upper.upper_layer import AWAITING_CLOSE, Primitive, UpperLayer
from pacs.dimse.upper.user_information import (
    PROTOCOL_VERSION_NOT_SUPPORTED,
    Agreement,
    Proposal,
    Rejection,
    confirmed,
    propose,
    rejecting,
    rejection,
)
from pacs.dimse.upper.waiting import WaitContext, wait
from pacs.errors import (
    AssociationLost,
    AssociationRejected,
    Cancelled,
    DestinationUnreachable,
    EncryptionFailed,
    OutOfResources,
    PeerTimeout,
    ProtocolViolation,
)
from pacs.services.access import Caller


@dataclass(frozen=True, slots=True)
class Rejected:
    """An association request that was answered with A-ASSOCIATE-RJ. The AE titles are '' when they are not known."""

    rejection: Rejection
    upper: UpperLayer
    calling_ae_title: str = ""
    called_ae_title: str = ""

    def close(self) -> None:
        """Give the socket back once the requestor has had time to read why."""
        self.upper.linger()
        self.upper.wire.close()


Admit = Callable[[Caller], None]
"""Takes a place for one more association of a caller. Raises OutOfResources when there is none."""


class Policy(Protocol):
    """What says how association requests are answered: an `AcceptorPolicy`, or what stands before one."""

    def answer(self, request: A_ASSOCIATE, caller: Caller, max_pdu: int) -> tuple[A_ASSOCIATE, Agreement] | Rejection:
        """What `request` is answered with: an accepting primitive and what it agrees on, or a rejection."""


def accept(
    connection: socket.socket,
    address: tuple[str, int],
    policy: Policy,
    limits: Limits,
    admit: Admit,
    *,
    tls: ssl.SSLContext | None = None,
    layer: Callable[..., UpperLayer] = UpperLayer,
) -> Association | Rejected:
    """Negotiate an association with whoever connected, with `tls` encrypted; `layer` makes its upper layer.

    Raises AssociationLost when no association request came, or not in time, and ProtocolViolation when what came is
    no valid one, or no encryption was agreed on; the connection has been closed then. What is returned is for the
    caller to close.
    """
    upper = layer(connection, is_requestor=False, artim=limits.artim, max_pdu=limits.max_pdu, tls=tls)
    try:
        found = _answered(upper, address, policy, limits, admit)
    except BaseException:
        upper.abort()
        upper.linger()
        upper.wire.close()
        raise
    if isinstance(found, Rejected):
        return found
    return Association(upper, found, role="acceptor", address=address, limits=limits)


def _answered(
    upper: UpperLayer, address: tuple[str, int], policy: Policy, limits: Limits, admit: Admit
) -> Agreement | Rejected:
    deadline = time.monotonic() + limits.negotiation
    try:
        _secure(upper, deadline, None)
    except ssl.SSLError as error:
        raise ProtocolViolation(f"TLS failed: {_reason(error)}{_MENDING.get(error.reason or '', '')}") from error
    request = _indication(upper, deadline, None)
    if not isinstance(request, A_ASSOCIATE):
        if upper.has_rejected:
            return Rejected(PROTOCOL_VERSION_NOT_SUPPORTED, upper)
        if upper.state == AWAITING_CLOSE:
            raise ProtocolViolation("What came is no valid association request")
        raise AssociationLost("No association request came")
    caller = Caller(
        ae_title=request.calling_ae_title.strip(),
        called_ae_title=request.called_ae_title.strip(),
        address=address[0],
        certificate=upper.certificate,
    )
    answer = policy.answer(request, caller, limits.max_pdu)
    if not isinstance(answer, Rejection):
        try:
            admit(caller)
        except OutOfResources as error:
            answer = rejection_for(error)
    if isinstance(answer, Rejection):
        upper.reject(rejecting(answer))
        return Rejected(answer, upper, caller.ae_title, caller.called_ae_title)
    primitive, agreement = answer
    upper.accept(primitive)
    return agreement


def _secure(upper: UpperLayer, deadline: float, wait_context: WaitContext | None) -> None:
    """Agree on encryption where there is to be any. Raises ssl.SSLError, AssociationLost, PeerTimeout, Cancelled."""

    def wait_for(events: int) -> None:
        if wait(upper.wire.fileno(), events, deadline, wait_context, graceful=False) is None:
            raise PeerTimeout("The peer does not go on with the encryption's negotiation")

    try:
        upper.secure(wait_for)
    except ConnectionError as error:
        raise AssociationLost("The peer closed the connection before it was encrypted") from error


def _reason(error: ssl.SSLError) -> str:
    """What went wrong with the encryption, in words that end a sentence."""
    return getattr(error, "verify_message", None) or (error.reason or "unknown").lower().replace("_", " ")


_MENDING = {
    "CERTIFICATE_VERIFY_FAILED": "; add it, or who signed it, to tls.ca",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "; see tls.client_certificates",
    "WRONG_VERSION_NUMBER": "; plain associations are taken on server.port",
    "HTTP_REQUEST": "; this is the port for encrypted associations",
}
"""What our log adds for who can mend it."""


@dataclass(frozen=True, slots=True)
class Protection:
    """How a peer is called with TLS: by `context`, and it must show one of `certificates` where there are any."""

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
    extended: Mapping[str, bytes] | None = None,
    limits: Limits | None = None,
    wait_context: WaitContext | None = None,
    protection: Protection | None = None,
) -> Association:
    """Associate with a peer; `roles` are the proposed (SCU, SCP) roles by abstract syntax.

    At most 128 contexts fit (`agreement.batches`). Raises DestinationUnreachable, AssociationRejected among them, and
    Cancelled as soon as the wait_context's cancellation is requested.
    """
    limits = limits or Limits()
    proposal = propose(
        calling_ae_title,
        called_ae_title,
        contexts,
        roles=roles or {},
        extended=extended or {},
        max_pdu=limits.max_pdu,
    )
    connection = _connect(host, port, time.monotonic() + limits.connect, wait_context)
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
            _protect(upper, protection, time.monotonic() + limits.negotiation, wait_context)
        agreement = _agreed(upper, proposal, time.monotonic() + limits.negotiation, wait_context)
    except BaseException:
        upper.abort()
        upper.wire.close()
        raise
    return Association(upper, agreement, role="requestor", address=(host, port), limits=limits)


def _protect(upper: UpperLayer, protection: Protection, deadline: float, wait_context: WaitContext | None) -> None:
    """Agree on encryption with the peer that was meant. Raises DestinationUnreachable, Cancelled."""
    try:
        _secure(upper, deadline, wait_context)
    except ssl.SSLError as error:
        raise EncryptionFailed(f"TLS failed: {_reason(error)}"[:64]) from error
    except AssociationLost as error:
        raise DestinationUnreachable(error.comment) from error
    if protection.certificates and upper.certificate not in protection.certificates:
        raise EncryptionFailed("The peer shows a certificate that is not in its [[peers]]")


def _agreed(upper: UpperLayer, proposal: A_ASSOCIATE, deadline: float, wait_context: WaitContext | None) -> Agreement:
    """Send the request and take the answer in. Raises DestinationUnreachable, Cancelled."""
    upper.open(proposal)
    try:
        answer = _indication(upper, deadline, wait_context)
    except PeerTimeout:
        raise DestinationUnreachable("The peer does not answer the association request") from None
    if not isinstance(answer, A_ASSOCIATE):
        if upper.protection:  # by TLS 1.3 a certificate that is not wanted is told after the handshake
            raise EncryptionFailed("The peer ended it before it began: does it want a certificate?")
        raise DestinationUnreachable("The peer ended the association before it began")
    if answer.result != 0:
        refused = rejection(answer.result, answer.result_source, answer.diagnostic)
        raise AssociationRejected(refused.comment, refused.result, refused.source, refused.reason)
    agreement = confirmed(proposal, answer)
    if 0 < agreement.max_pdu < SMALLEST_PDU:
        raise DestinationUnreachable("The peer takes no PDU long enough for a message")
    return agreement


def _indication(upper: UpperLayer, deadline: float, wait_context: WaitContext | None) -> Primitive | None:
    """The first thing the upper layer has to say, None when it is over. Raises PeerTimeout, Cancelled."""
    while True:
        found = upper.take()
        if found is not None or upper.is_over:
            assert not isinstance(found, memoryview), "no data before the association is established"
            return found
        if (
            not upper.wire.fill()
            and wait(upper.wire.fileno(), select.POLLIN, deadline, wait_context, graceful=False) is None
        ):
            raise PeerTimeout("The peer does not go on with the association's negotiation")


# --- connecting --------------------------------------------------------------------------------------------------


def _connect(host: str, port: int, deadline: float, wait_context: WaitContext | None) -> socket.socket:
    """A TCP connection to the first address of `host` that takes one. Raises DestinationUnreachable, Cancelled."""
    why = "unknown host"
    for family, address in _addresses(host, port):
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            failure = _attempt(connection, address, deadline, wait_context)
        except Cancelled:
            connection.close()
            raise
        if failure == 0:
            return connection
        connection.close()
        why = os.strerror(failure)
    raise DestinationUnreachable(f"The peer cannot be reached: {why}"[:64])


_Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


def _addresses(host: str, port: int) -> list[tuple[int, _Address]]:
    """The family and address of every way to `host`, none when it is not known."""
    try:
        return [(each[0], each[4]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError:
        return []


def _attempt(connection: socket.socket, address: _Address, deadline: float, wait_context: WaitContext | None) -> int:
    """Connect within the deadline: 0, or the errno that says why not. Raises Cancelled."""
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
