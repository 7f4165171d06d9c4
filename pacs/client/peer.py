"""Whom we call: an AE by its title, host and port, and how long each thing may take."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pacs.dimse.association.association import Association, Limits
from pacs.dimse.association.establishment import Protection, request
from pacs.dimse.upper.user_information import Proposal
from pacs.errors import AssociationRejected, InvalidArgument

_ADDRESS = re.compile(r"(?P<title>[^@]+)@(?:\[(?P<bracketed>[^\[\]]+)\]|(?P<host>[^\[\]:@]+)):(?P<port>[0-9]{1,5})")

CALLING_AE_TITLE = "PACSCU"
"""What we call ourselves unless another AE title is said."""

LEAST_RATE = 1024
"""Bytes in a second that a message has to bring, once the time for a message is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long each thing may take, in seconds: nothing that `pacs.client` does waits without one."""

    connect: float = 10.0
    """To reach the peer."""
    negotiation: float = 10.0
    """For its answer to our association request, and for the handshake of TLS."""
    response: float = 60.0
    """To the next response to a request, and between two requests of who sends to us. In a retrieve to us every
    instance that was asked for is a sign of life too, and every mebibyte of it."""
    message: float = 60.0
    """For the rest of a message that has begun to arrive; one with an instance has longer, as long as it brings
    `LEAST_RATE`."""
    write: float = 60.0
    """For the peer to take a mebibyte."""
    cancel: float = 10.0
    """For the final response after a C-CANCEL."""
    release: float = 5.0
    """For the answer to our release."""

    @property
    def limits(self) -> Limits:
        """The same for an association."""
        return Limits(
            connect=self.connect,
            negotiation=self.negotiation,
            message=self.message,
            least_rate=LEAST_RATE,
            write=self.write,
            idle=None,
        )


@dataclass(frozen=True, slots=True)
class Peer:
    """The AE we call, and the AE title by which we call it. Raises InvalidArgument for what can be none."""

    ae_title: str
    host: str
    port: int
    calling_ae_title: str = CALLING_AE_TITLE
    protection: Protection | None = None
    """How it is called with TLS, None where it is not."""
    deadlines: Deadlines = field(default_factory=Deadlines)

    def __post_init__(self) -> None:
        for title in (self.ae_title, self.calling_ae_title):
            check_ae_title(title)
        if not 0 < self.port <= 0xFFFF:
            raise InvalidArgument(f"A port is between 1 and 65535, not {self.port}")

    @classmethod
    def parse(cls, text: str, **others: Any) -> "Peer":
        """The peer at "AET@host:port" or "AET@[::1]:port"; `others` are the other fields. Raises InvalidArgument."""
        found = _ADDRESS.fullmatch(text.strip())
        if found is None:
            raise InvalidArgument(
                f"A peer is AET@host:port, as in PACS@127.0.0.1:11112 or PACS@[::1]:104, not {text!r}"
            )
        return cls(found["title"], found["bracketed"] or found["host"], int(found["port"]), **others)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.ae_title}@{host}:{self.port}"


def check_ae_title(title: str) -> None:
    r"""Raise InvalidArgument for what is no AE title: 1 to 16 printable ASCII characters without `\` (PS3.5 6.2)."""
    is_plain = title.isascii() and title.isprintable() and "\\" not in title
    if not (is_plain and len(title.strip()) > 0 and len(title) <= 16):
        raise InvalidArgument(rf"An AE title has 1 to 16 printable ASCII characters and no \, not {title!r}")


def peer_of(peer: Peer | str) -> Peer:
    """The peer, parsed where it is a text. Raises InvalidArgument."""
    return Peer.parse(peer) if isinstance(peer, str) else peer


def associate(
    peer: Peer,
    contexts: Sequence[Proposal],
    *,
    roles: Mapping[str, tuple[bool, bool]] | None = None,
    extended: Mapping[str, bytes] | None = None,
) -> Association:
    """An association with a peer. Raises DestinationUnreachable and its kinds, which say how to mend it if we know."""
    try:
        return request(
            peer.host,
            peer.port,
            calling_ae_title=peer.calling_ae_title,
            called_ae_title=peer.ae_title,
            contexts=contexts,
            roles=roles,
            extended=extended,
            limits=peer.deadlines.limits,
            protection=peer.protection,
        )
    except AssociationRejected as error:
        mending = _MENDING.get((error.source, error.reason))
        if mending is None:
            raise
        sentence = f"{error.comment}: {mending.format(peer=peer)}"
        raise AssociationRejected(sentence, error.result, error.source, error.reason) from None


_MENDING = {
    (1, 3): "have our AE title {peer.calling_ae_title} listed at the peer, or call with one that is",
    (1, 7): "the peer does not call itself {peer.ae_title}",
}
"""What to do about a rejection, by its source and reason (PS3.8 Table 9-21)."""
