"""Peers to connect to, and deadlines."""

import logging
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pacs.dicom import charset
from pacs.dimse.association.association import Association, AssociationLimits
from pacs.dimse.association.establishment import Protection, request
from pacs.dimse.scu import Exchange
from pacs.dimse.upper.user_information import Proposal, UserIdentity
from pacs.errors import AssociationRejected, EncryptionFailed, InvalidArgument, StopNow
from pacs.support.sockets import host_and_port

_ADDRESS = re.compile(r"(?P<title>[^@]+)@(?:\[(?P<bracketed>[^\[\]]+)\]|(?P<host>[^\[\]:@]+)):(?P<port>[0-9]{1,5})")

CALLING_AE_TITLE = "PACSCU"
"""Default calling AE title."""

INTERRUPTED_SECONDS = 2.0
"""Most seconds for the peer to respond to a C-CANCEL, or to a release request, after a Ctrl-C or a time limit."""

LEAST_RATE = 1024
"""Bytes per second that a message must bring after its deadline to be received further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Maximum durations in seconds; no call of `pacs.client` waits without one."""

    connect: float = 10.0
    """Time to connect to the peer."""
    negotiation: float = 10.0
    """Time for the answer to the association request, and for the TLS handshake."""
    response: float = 60.0
    """Time to the next response, and between two requests of a sender. In a retrieve to this host, each requested
    instance and each mebibyte of it restarts the time.
    """
    message: float = 60.0
    """Time for the rest of a message that has begun to arrive; a message with an instance has more while it brings
    `LEAST_RATE`.
    """
    write: float = 60.0
    """Time for the peer to accept a mebibyte."""
    cancel: float = 10.0
    """Time for the final response after a C-CANCEL."""
    release: float = 5.0
    """Time for the answer to the release request."""
    until: float = math.inf
    """Time of the monotonic clock after which no wait goes on; `max_time` of a retrieve sets it."""

    @property
    def remaining(self) -> float:
        """The time until `until`, at least 0."""
        return max(0.0, self.until - time.monotonic())

    @property
    def limits(self) -> AssociationLimits:
        """The limits of an association with these deadlines."""
        return AssociationLimits(
            connect=min(self.connect, self.remaining),
            negotiation=min(self.negotiation, self.remaining),
            message=self.message,
            least_rate=LEAST_RATE,
            write=self.write,
            idle=None,
            until=self.until + INTERRUPTED_SECONDS,
        )


@dataclass(frozen=True, slots=True)
class Peer:
    """An AE to connect to, and the calling AE title to use. Raises InvalidArgument for invalid values."""

    ae_title: str
    host: str
    port: int
    calling_ae_title: str = CALLING_AE_TITLE
    protection: Protection | None = None
    """TLS settings, None for unencrypted associations."""
    deadlines: Deadlines = field(default_factory=Deadlines)
    user: str = ""
    """Name of the user, as User Identity of the association request (PS3.7 D.3.3.7); '' for none."""
    passcode: str = field(default="", repr=False)
    """Passcode of the user, which an unencrypted association sends in clear text; '' for none."""
    token: str = field(default="", repr=False)
    """JSON Web Token that identifies the user, instead of name and passcode; '' for none."""
    character_set: str = ""
    """Character set of its answers to a C-FIND that name none, such as ISO_IR 100; '' for UTF-8 or Latin-1."""

    def __post_init__(self) -> None:
        for title in (self.ae_title, self.calling_ae_title):
            check_ae_title(title)
        if not 0 < self.port <= 0xFFFF:
            raise InvalidArgument(f"A port is between 1 and 65535, not {self.port}")
        if not charset.is_known(charset.parse(self.character_set)):
            known = ", ".join(charset.DEFINED_TERMS)
            raise InvalidArgument(f"A character set is one of {known}, not {self.character_set!r}")
        if self.token and (self.user or self.passcode):
            raise InvalidArgument("A user is identified by name and passcode or by a token, not by both")
        if self.passcode and not self.user:
            raise InvalidArgument("A passcode needs the name of the user")
        if any(len(each.encode()) > 0xFFFF for each in (self.user, self.passcode, self.token)):
            raise InvalidArgument("The name of a user, a passcode and a token have at most 65535 bytes in UTF-8")

    @property
    def user_identity(self) -> UserIdentity | None:
        """The User Identity of the association request, None without a user."""
        if self.token:
            return UserIdentity(5, self.token.encode(), b"", False)
        if self.user:
            return UserIdentity(2 if self.passcode else 1, self.user.encode(), self.passcode.encode(), False)
        return None

    @classmethod
    def parse(cls, text: str, **others: Any) -> "Peer":
        """Return the peer "AET@host:port" or "AET@[::1]:port"; `others` are other fields. Raises InvalidArgument."""
        found = _ADDRESS.fullmatch(text.strip())
        if found is None:
            raise InvalidArgument(
                f"A peer is AET@host:port, as in PACS@127.0.0.1:11112 or PACS@[::1]:104, not {text!r}"
            )
        return cls(found["title"], found["bracketed"] or found["host"], int(found["port"]), **others)

    def __str__(self) -> str:
        return f"{self.ae_title}@{host_and_port(self.host, self.port)}"


def check_ae_title(title: str) -> None:
    r"""Raise InvalidArgument unless the AE title has 1 to 16 printable characters without `\` (PS3.5 6.2).

    Characters of Latin-1 violate the standard, but some peers have them.
    """
    is_plain = title.isprintable() and "\\" not in title and max(title, default="") <= "\xff"
    if not (is_plain and len(title.strip()) > 0 and len(title) <= 16):
        raise InvalidArgument(rf"An AE title has 1 to 16 printable characters of Latin-1 and no \, not {title!r}")


def peer_of(peer: Peer | str) -> Peer:
    """Return the peer, parsed from a text if necessary. Raises InvalidArgument."""
    return Peer.parse(peer) if isinstance(peer, str) else peer


def associate(
    peer: Peer,
    contexts: Sequence[Proposal],
    *,
    roles: Mapping[str, tuple[bool, bool]] | None = None,
    extended: Mapping[str, bytes] | None = None,
) -> Association:
    """Associate with a peer. Raises DestinationUnreachable and its subclasses, with advice where there is some."""
    try:
        association = request(
            peer.host,
            peer.port,
            calling_ae_title=peer.calling_ae_title,
            called_ae_title=peer.ae_title,
            contexts=contexts,
            roles=roles,
            extended=extended,
            limits=peer.deadlines.limits,
            protection=peer.protection,
            user_identity=peer.user_identity,
        )
    except AssociationRejected as error:
        advice = _ADVICE.get((error.source, error.reason))
        if advice is None:
            raise
        sentence = f"{error.comment}: {advice.format(peer=peer)}"
        raise AssociationRejected(sentence, error.result, error.source, error.reason) from None
    except EncryptionFailed as error:
        raise EncryptionFailed(f"{error.comment}{_advice_on_certificate(error)}") from error
    _log(peer, contexts, association)
    return association


def _log(peer: Peer, proposed: Sequence[Proposal], association: Association) -> None:
    """Log an association, and at level DEBUG each of its presentation contexts."""
    log, accepted = logging.getLogger("pacs"), association.contexts
    agreed = f"{len(accepted)} of {len(proposed)} presentation contexts accepted"
    secure = f", {association.protection}" if association.protection else ""
    log.info("associated with %s as %s: %s%s", peer, peer.calling_ae_title, agreed, secure)
    for place, (abstract_syntax, syntaxes) in enumerate(proposed):
        context = accepted.get(2 * place + 1)
        answer = f"accepted with {context.transfer_syntax}" if context else f"refused with {', '.join(syntaxes)}"
        log.debug("presentation context %d: %s %s", 2 * place + 1, abstract_syntax, answer)


@contextmanager
def associated(
    peer: Peer,
    contexts: Sequence[Proposal],
    *,
    roles: Mapping[str, tuple[bool, bool]] | None = None,
    extended: Mapping[str, bytes] | None = None,
) -> Iterator[Association]:
    """Associate with a peer for the body, and release the association. Raises as `associate`."""
    association, seconds = associate(peer, contexts, roles=roles, extended=extended), peer.deadlines.release
    try:
        yield association
    except KeyboardInterrupt as error:
        seconds = _after(error, seconds)
        raise
    finally:
        association.release(seconds)


@contextmanager
def abandoning(exchange: Exchange, peer: Peer) -> Iterator[None]:
    """Cancel a request if it is not over after the body, and wait for its final response."""
    seconds = peer.deadlines.cancel
    try:
        yield
    except KeyboardInterrupt as error:
        seconds = _after(error, seconds)
        raise
    finally:
        exchange.abandon(seconds)


def _after(error: KeyboardInterrupt, seconds: float) -> float:
    """Return the time that a peer has after a Ctrl-C."""
    return 0.0 if isinstance(error, StopNow) else min(seconds, INTERRUPTED_SECONDS)


def _advice_on_certificate(error: EncryptionFailed) -> str:
    """Return how a certificate that was not accepted can be, '' for another failure of TLS."""
    code = getattr(error.__cause__, "verify_code", 0)
    if code in _OTHER_HOST:
        return "; accept another host name (--no-hostname, check_hostname=False), or the certificate by its fingerprint"
    if code:
        return "; name the CA that signed it (--ca), or accept the certificate by its SHA-256 (--fingerprint)"
    return ""


_OTHER_HOST = (62, 64)
"""Codes of OpenSSL: X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH."""

_ADVICE = {
    (1, 3): "configure our AE title {peer.calling_ae_title} at the peer, or use a calling AE title that it knows",
    (1, 7): "the AE title of the peer is not {peer.ae_title}",
}
"""Advice for a rejection, by its source and reason (PS3.8 Table 9-21)."""
