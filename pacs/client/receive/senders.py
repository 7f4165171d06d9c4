"""The senders that a receiver accepts, and the addresses that it listens on."""

import socket
from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal

from pacs.client.peer import Peer
from pacs.dimse.association.establishment import CallingAE
from pacs.errors import CalledTitleUnknown, CallerUnknown, DestinationUnreachable, InvalidArgument
from pacs.support.name_lookup import resolved

Senders = Literal["peer", "anyone"] | Collection[str]
"""Allowed senders: the peer alone, from any address of its host; anyone; or the peer and these addresses or networks.
"""

ALL_IPV4 = "0.0.0.0"  # noqa: S104
"""All IPv4 addresses: other senders than the peer may use any of them."""

LOOPBACK = "127.0.0.1"

MAX_REFUSALS = 3
"""Maximum number of refused associations, and of reasons to refuse an instance, in an error message."""


class SenderFilter:
    """Decides which senders may associate with a receiver, and records refusals for error messages."""

    def __init__(self, networks: Collection[IPv4Network | IPv6Network] | None = None, ae_title: str = "") -> None:
        """Accept these networks (None: all) and this called AE title ('': any)."""
        self._networks = networks
        self._ae_title = ae_title
        self._refusals: dict[str, None] = {}
        self.has_admitted = False
        """Whether a requestor was accepted: it knows the address of this receiver."""

    @classmethod
    def of(cls, peer: Peer, senders: Senders, ae_title: str) -> "SenderFilter":
        """Return the filter for a retrieve from a peer. Raises InvalidArgument, DestinationUnreachable for an unknown
        host.
        """
        if senders == "anyone":
            return cls(None, ae_title)
        more = () if senders == "peer" else (senders,) if isinstance(senders, str) else senders
        theirs = [ip_network(_without_zone(host)) for _, host in _addresses(peer)]
        return cls((*theirs, *map(_parse_network, more)), ae_title)

    @property
    def admits_anyone(self) -> bool:
        """Whether any address is accepted."""
        return self._networks is None

    @property
    def refusals(self) -> str:
        """The refused associations with advice for each, '' if there were none."""
        return "; ".join(self._refusals)

    def admit(self, caller: CallingAE) -> None:
        """Check a requestor. Raises CallerUnknown, CalledTitleUnknown."""
        address = ip_address(_without_zone(caller.address))
        if self._networks is not None and not any(address in each for each in self._networks):
            self._add_refusal(
                f"an association from {address} was refused: pass senders=['{address}'] (--from) if it may send"
            )
            raise CallerUnknown("this address may not send to this receiver")
        if self._ae_title and caller.called_ae_title != self._ae_title:
            self._add_refusal(f"an association from {address} was refused: it called us {caller.called_ae_title!r}")
            raise CalledTitleUnknown(f"this receiver is {self._ae_title}")
        self.has_admitted = True

    def _add_refusal(self, sentence: str) -> None:
        if len(self._refusals) < MAX_REFUSALS:
            self._refusals[sentence] = None


def listen_addresses(peer: Peer, senders: Senders, host: str, port: int) -> list[str]:
    """Return the local addresses to listen on.

    This is `host` if it is given; all IPv4 addresses if others than the peer may send; otherwise the addresses that
    reach the peer, only one of them if the port is still to be chosen. Raises DestinationUnreachable.
    """
    if host:
        return [host]
    if senders != "peer":
        return [ALL_IPV4]
    found = sorted(filter(None, (_local_address(*each) for each in _addresses(peer))), key=lambda each: ":" in each)
    if not found:
        raise DestinationUnreachable("The peer cannot be reached: there is no route to its network")
    return list(dict.fromkeys(found))[: None if port else 1]


def _local_address(family: int, host: str) -> str:
    """Return the local address that reaches a host, '' if there is no route; nothing is sent."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _addresses(peer: Peer) -> list[tuple[int, str]]:
    """Return the family and address of each address of a peer. Raises DestinationUnreachable."""
    try:
        found = resolved(peer.host, peer.port, peer.deadlines.connect)
    except OSError:
        raise DestinationUnreachable("The peer cannot be reached: unknown host") from None
    return [(each[0], str(each[4][0])) for each in found]


def _parse_network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise InvalidArgument(
            f"A sender is an address or a network, such as 10.0.0.7 or 10.0.0.0/24, not {text!r}"
        ) from None


def _without_zone(address: str) -> str:
    """Return a link-local address without its zone."""
    return address.partition("%")[0]
