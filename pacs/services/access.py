"""Who is let in, and what each may do: the rules of the configuration, asked by every mouth."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from pacs.errors import CalledTitleUnknown, CallerUnknown, NotAuthorized
from pacs.services.peers import EVERYTHING, Peer, Peers, Right


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks to be let in. `certificate` is the SHA-256 fingerprint of the one it showed by TLS, or ''."""

    ae_title: str
    called_ae_title: str
    address: str
    certificate: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules that are the same for all. `titles` are our AE titles, the first is the one we call with."""

    titles: Sequence[str] = ("PACS",)
    by_any_title: bool = True
    """Whether the called AE title may be none of ours."""
    anybody: bool = True
    """Whether an AE that is not among the peers may call."""
    rights: frozenset[Right] = EVERYTHING
    """What such an AE may do."""


class Access:
    """The rules and the peers they are about."""

    def __init__(self, rules: Rules, peers: Peers) -> None:
        self._rules, self._peers = rules, peers

    def admit(self, caller: Caller) -> None:
        """See that a caller may associate. Raises CalledTitleUnknown, CallerUnknown; comments say what to mend."""
        rules = self._rules
        if not rules.by_any_title and caller.called_ae_title not in rules.titles:
            raise CalledTitleUnknown('ours are in server.ae_title and server.aliases, or access.called_ae = "any"')
        peer = self._peers.find(caller.ae_title)
        if peer is not None:
            _check_origin(peer, caller)
        elif not rules.anybody:
            title = shlex.quote(caller.ae_title)  # somebody will paste this into a shell
            raise CallerUnknown(f"let it in with `pacs peers add {title} {caller.address} PORT`")

    def require(self, ae_title: str, right: Right) -> None:
        """See that an AE may do something. Raises NotAuthorized."""
        peer = self._peers.find(ae_title)
        if right not in (self._rules.rights if peer is None else peer.rights):
            whose = "access.services" if peer is None else "services of its [[peers]]"
            raise NotAuthorized(f"Not authorized: {right.value!r} is not in {whose}")

    def destination(self, ae_title: str, destination: str) -> Peer:
        """The peer that an AE wants to have images moved to. Raises UnknownDestination, NotAuthorized."""
        found, asking = self._peers.destination(destination), self._peers.find(ae_title)
        if asking is not None and asking.destinations is not None and found.ae_title not in asking.destinations:
            raise NotAuthorized("Not authorized: not in destinations of its [[peers]]")
        return found


def _check_origin(peer: Peer, caller: Caller) -> None:
    """See that whoever calls with a peer's AE title is that peer. Raises CallerUnknown."""
    address = ip_address(caller.address.partition("%")[0])  # without the zone of a link-local one
    if peer.addresses and not any(address in network for network in peer.addresses):
        raise CallerUnknown(f"{caller.address} is not in addresses of the [[peers]] block of {peer.ae_title}")
    if peer.certificates and caller.certificate not in peer.certificates:
        block = f"certificates of the [[peers]] block of {peer.ae_title}"
        if not caller.certificate:
            raise CallerUnknown(f"it has to call with TLS and show one of the {block}")
        raise CallerUnknown(f"its certificate, SHA-256 {caller.certificate}, is not in {block}")
