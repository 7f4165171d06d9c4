"""Who may send to a receiver of ours, and on which addresses it listens for them."""

import socket
from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal, Protocol

from pacs.client.peer import Peer
from pacs.errors import CalledTitleUnknown, CallerUnknown, DestinationUnreachable, InvalidArgument

Senders = Literal["peer", "anyone"] | Collection[str]
"""Who may send: the peer alone, from any address of its host; anyone; or the peer and these addresses or networks."""

EVERYWHERE = "0.0.0.0"  # noqa: S104
"""All of IPv4: where others than the peer may send, they may reach us by any address."""

LOOPBACK = "127.0.0.1"

MOST_TOLD = 3
"""Associations that were refused of which an error tells."""


class Calling(Protocol):
    """Who asks to be let in."""

    @property
    def called_ae_title(self) -> str:
        """By which AE title it calls us."""

    @property
    def address(self) -> str:
        """From where."""


class Door:
    """Lets in who may associate with a receiver, and remembers whom it did not let in."""

    def __init__(self, networks: Collection[IPv4Network | IPv6Network] | None = None, ae_title: str = "") -> None:
        """From these networks, all where that is None, and by this AE title, any where that is ''."""
        self._networks = networks
        self._ae_title = ae_title
        self._refused: dict[str, None] = {}

    @classmethod
    def of(cls, peer: Peer, senders: Senders, ae_title: str) -> "Door":
        """The door for who sends for a peer. Raises InvalidArgument, DestinationUnreachable for an unknown host."""
        if senders == "anyone":
            return cls(None, ae_title)
        more = () if senders == "peer" else (senders,) if isinstance(senders, str) else senders
        theirs = [ip_network(_plain(host)) for _, host in _addresses(peer)]
        return cls((*theirs, *map(_network, more)), ae_title)

    @property
    def is_open(self) -> bool:
        """Whether anyone may come, from wherever."""
        return self._networks is None

    @property
    def refused(self) -> str:
        """Whom it did not let in and what to do about it, '' where it let in everybody."""
        return "; ".join(self._refused)

    def admit(self, caller: Calling) -> None:
        """See that a caller may associate. Raises CallerUnknown, CalledTitleUnknown."""
        address = ip_address(_plain(caller.address))
        if self._networks is not None and not any(address in each for each in self._networks):
            self._note(f"an association from {address} was refused: pass senders=['{address}'] (--from) if it may send")
            raise CallerUnknown("it may not send to this receiver")
        if self._ae_title and caller.called_ae_title != self._ae_title:
            self._note(f"an association from {address} was refused: it called us {caller.called_ae_title!r}")
            raise CalledTitleUnknown(f"this receiver is {self._ae_title}")

    def _note(self, sentence: str) -> None:
        if len(self._refused) < MOST_TOLD:
            self._refused[sentence] = None


def listening_for(peer: Peer, senders: Senders, host: str, port: int) -> list[str]:
    """On which addresses to listen for who sends for a peer: on `host`, where that is said.

    Else on those of ours by which the peer is reached, of which a port that is still to be chosen can be on one only,
    and everywhere where others may send. Raises DestinationUnreachable.
    """
    if host:
        return [host]
    if senders != "peer":
        return [EVERYWHERE]
    found = sorted(filter(None, (_ours(*each) for each in _addresses(peer))), key=lambda each: ":" in each)
    if not found:
        raise DestinationUnreachable("The peer cannot be reached: there is no way to its network")
    return list(dict.fromkeys(found))[: None if port else 1]


def _ours(family: int, host: str) -> str:
    """The address of ours by which another is reached, '' where there is no way to it; nothing is sent."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _addresses(peer: Peer) -> list[tuple[int, str]]:
    """The family and address of every way to a peer. Raises DestinationUnreachable."""
    try:
        found = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    except OSError:
        raise DestinationUnreachable("The peer cannot be reached: unknown host") from None
    return [(each[0], str(each[4][0])) for each in found]


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise InvalidArgument(
            f"Who may send is an address or a network, as 10.0.0.7 or 10.0.0.0/24, not {text!r}"
        ) from None


def _plain(address: str) -> str:
    """Without the zone of a link-local one."""
    return address.partition("%")[0]
