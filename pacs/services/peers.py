"""The rights, and the table of known AEs: addresses, rights, move destinations, and settings of their own."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network

from pacs.dicom.matching_mode import TOLERANT, MatchingMode
from pacs.errors import UnknownDestination


class Right(Enum):
    """A right of a principal, by its name in the configuration. Verification needs none."""

    STORE = "store"
    FIND = "find"
    MOVE = "move"
    GET = "get"
    COMMIT = "commit"


ALL_RIGHTS = frozenset(Right)


@dataclass(frozen=True, slots=True)
class Peer:
    """A configured remote AE. `matching_mode` and `transfer_syntaxes` override those of the server unless empty.

    It may associate from the networks `addresses` with a TLS certificate whose SHA-256 fingerprint (lower case,
    hexadecimal) is in `certificates`; an empty one allows any. It may retrieve to the AE titles `destinations`, None
    for all peers. A C-MOVE opens at most `associations` to it at once. What it does not accept as it is stored is
    converted into the first of `send_as` that it accepts, else into an uncompressed transfer syntax. With
    `lenient_roles` it is assumed to have roles that it does not negotiate. `explain` explains its queries and
    retrieves.
    """

    ae_title: str
    host: str
    port: int
    matching_mode: MatchingMode | None = None
    transfer_syntaxes: tuple[str, ...] = ()
    send_as: tuple[str, ...] = ()
    associations: int = 1
    rights: frozenset[Right] = ALL_RIGHTS
    addresses: tuple[IPv4Network | IPv6Network, ...] = ()
    certificates: frozenset[str] = frozenset()
    destinations: frozenset[str] | None = None
    lenient_roles: bool = False
    explain: bool = False


class Peers:
    """The configured peers by AE title, compared exactly after padding is stripped (PS3.5 VR AE).

    `matching_mode` is that of all other AEs; with `explain` the queries and retrieves of all AEs are explained.
    """

    def __init__(
        self, peers: Iterable[Peer] = (), matching_mode: MatchingMode = TOLERANT, *, explain: bool = False
    ) -> None:
        self._peers = {peer.ae_title: peer for peer in peers}
        self.matching_mode = matching_mode
        self.explains_all = explain

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers.values())

    @property
    def titles(self) -> tuple[str, ...]:
        """The known AE titles, sorted."""
        return tuple(sorted(self._peers))

    def find(self, ae_title: str) -> Peer | None:
        """Return the peer with this AE title, or None."""
        return self._peers.get(ae_title.strip())

    def destination(self, ae_title: str) -> Peer:
        """Return the peer with the AE title of a move destination. Raises UnknownDestination."""
        peer = self.find(ae_title)
        if peer is None:
            raise UnknownDestination("Move destination is not among the peers of this server")
        return peer

    @property
    def explained(self) -> tuple[bool, frozenset[str]]:
        """Whether the requests of all AEs are explained, and the AE titles of the peers whose requests are."""
        return self.explains_all, frozenset(peer.ae_title for peer in self if peer.explain)

    @property
    def explains_any(self) -> bool:
        """Whether any request is explained."""
        return any(self.explained)

    def transfer_syntaxes_of(self, ae_title: str) -> tuple[str, ...]:
        """Return the preferred order of transfer syntaxes of an AE, empty if none is configured."""
        peer = self.find(ae_title)
        return peer.transfer_syntaxes if peer is not None else ()

    def send_as_of(self, ae_title: str) -> tuple[str, ...]:
        """Return the transfer syntaxes that instances for an AE are converted into, empty if none is configured."""
        peer = self.find(ae_title)
        return peer.send_as if peer is not None else ()

    def has_lenient_roles(self, ae_title: str) -> bool:
        """Return whether an AE is assumed to have the roles that it does not negotiate."""
        peer = self.find(ae_title)
        return peer is not None and peer.lenient_roles
