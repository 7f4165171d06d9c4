"""Access control: who may associate, and whether a principal has a right, by the rules and the table of peers."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address

from pacs.dicom.matching_mode import MatchingMode
from pacs.errors import CalledTitleUnknown, CallerUnknown, NotAuthorized
from pacs.services.peers import ALL_RIGHTS, Peer, Peers, Right

CACHED_PRINCIPALS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationRequestor:
    """The requestor of an association. `certificate` is the SHA-256 fingerprint of its TLS certificate, or ''."""

    ae_title: str
    called_ae_title: str
    address: str
    certificate: str = ""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who requests an operation, and what the configuration says about it.

    `name` is the calling AE title, `peer` its entry in the table of peers, None if it has none.
    """

    name: str
    peer: Peer | None
    rights: frozenset[Right]
    matching_mode: MatchingMode
    is_explained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules for all AEs. `titles` are the AE titles of this server; associations are requested with the first."""

    titles: Sequence[str] = ("PACS",)
    any_called_title: bool = True
    """Whether an association is accepted when the called AE title is not one of `titles`."""
    any_caller: bool = True
    """Whether an AE that is not among the peers may associate."""
    rights: frozenset[Right] = ALL_RIGHTS
    """The rights of an AE that is not among the peers."""


class Access:
    """Applies the rules and the table of peers."""

    def __init__(self, rules: Rules, peers: Peers) -> None:
        self._rules, self.peers = rules, peers
        self._principals = lru_cache(CACHED_PRINCIPALS)(self._make_principal)

    def admit(self, caller: AssociationRequestor) -> None:
        """Check that a caller may associate. Raises CalledTitleUnknown or CallerUnknown, which say what to change."""
        rules = self._rules
        if not rules.any_called_title and caller.called_ae_title not in rules.titles:
            raise CalledTitleUnknown('add it to server.aliases, or set access.called_ae = "any"')
        peer = self.peers.find(caller.ae_title)
        if peer is not None:
            _check_origin(peer, caller)
        elif not rules.any_caller:
            title = shlex.quote(caller.ae_title)  # the command is pasted into a shell
            raise CallerUnknown(f"allow it with `pacs peers add {title} {caller.address} PORT`")

    def principal(self, ae_title: str) -> Principal:
        """Return the principal with a calling AE title."""
        return self._principals(ae_title)

    def _make_principal(self, ae_title: str) -> Principal:
        peers, peer = self.peers, self.peers.find(ae_title)
        return Principal(
            name=ae_title,
            peer=peer,
            rights=self._rules.rights if peer is None else peer.rights,
            matching_mode=peers.matching_mode if peer is None or peer.matching_mode is None else peer.matching_mode,
            is_explained=peers.explains_all or (peer is not None and peer.explain),
        )

    def require(self, principal: Principal, right: Right) -> None:
        """Check that a principal has a right. Raises NotAuthorized."""
        if right not in principal.rights:
            key = "access.services" if principal.peer is None else "services of its [[peers]]"
            raise NotAuthorized(f"Not authorized: {right.value!r} is not in {key}")

    def destination(self, principal: Principal, ae_title: str) -> Peer:
        """Return the move destination that a principal named. Raises UnknownDestination, NotAuthorized."""
        destination = self.peers.destination(ae_title)
        allowed = principal.peer.destinations if principal.peer is not None else None
        if allowed is not None and destination.ae_title not in allowed:
            raise NotAuthorized("Not authorized: not in destinations of its [[peers]]")
        return destination


def _check_origin(peer: Peer, caller: AssociationRequestor) -> None:
    """Check address and certificate of a caller with the AE title of a peer. Raises CallerUnknown."""
    address = ip_address(caller.address.partition("%")[0])  # without the zone of a link-local address
    if peer.addresses and not any(address in network for network in peer.addresses):
        raise CallerUnknown(f"{caller.address} is not in addresses of the [[peers]] block of {peer.ae_title}")
    if peer.certificates and caller.certificate not in peer.certificates:
        block = f"certificates of the [[peers]] block of {peer.ae_title}"
        if not caller.certificate:
            raise CallerUnknown(f"it must connect with TLS and one of the {block}")
        raise CallerUnknown(f"its certificate, SHA-256 {caller.certificate}, is not in {block}")
