"""The table of known AEs: who may call, what each may do, where it may have images moved to, how it is treated."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network

from pacs.dicom.matching_mode import TOLERANT, MatchingMode
from pacs.errors import UnknownDestination


class Right(Enum):
    """What an AE may do here, by the name the configuration has for it. Verification is everybody's."""

    STORE = "store"
    FIND = "find"
    MOVE = "move"
    GET = "get"
    COMMIT = "commit"


EVERYTHING = frozenset(Right)


@dataclass(frozen=True, slots=True)
class Peer:
    """A configured remote AE. `matching_mode` and `transfer_syntaxes` override the server's own where they are given.

    `addresses` are the networks it may call from and `certificates` the SHA-256 fingerprints (lower case, hexadecimal)
    of which it must show one, any where there are none. `destinations` are the AE titles it may have images moved to,
    None for all that are known. `associations` is how many one C-MOVE opens to it at once, at most. `explain` has each
    of its queries and retrieves explained.
    """

    ae_title: str
    host: str
    port: int
    matching_mode: MatchingMode | None = None
    transfer_syntaxes: tuple[str, ...] = ()
    associations: int = 1
    rights: frozenset[Right] = EVERYTHING
    addresses: tuple[IPv4Network | IPv6Network, ...] = ()
    certificates: frozenset[str] = frozenset()
    destinations: frozenset[str] | None = None
    explain: bool = False


class Peers:
    """The configured peers by AE title, compared exactly after the padding is gone (PS3.5 VR AE).

    With `explain` the queries and retrieves of everybody are explained.
    """

    def __init__(
        self, peers: Iterable[Peer] = (), matching_mode: MatchingMode = TOLERANT, *, explain: bool = False
    ) -> None:
        self._peers = {peer.ae_title: peer for peer in peers}
        self._matching_mode = matching_mode
        self._explain = explain

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers.values())

    @property
    def titles(self) -> tuple[str, ...]:
        """The known AE titles, sorted."""
        return tuple(sorted(self._peers))

    def find(self, ae_title: str) -> Peer | None:
        """The peer with this AE title, or None."""
        return self._peers.get(ae_title.strip())

    def destination(self, ae_title: str) -> Peer:
        """The peer a C-MOVE names. Raises UnknownDestination, which is 0xA801 on the wire."""
        peer = self.find(ae_title)
        if peer is None:
            raise UnknownDestination("Move destination is not among the peers of this server")
        return peer

    def matching_mode_of(self, ae_title: str) -> MatchingMode:
        """How queries and retrieves of this AE are understood: its own matching mode, or the server's."""
        peer = self.find(ae_title)
        return peer.matching_mode if peer is not None and peer.matching_mode is not None else self._matching_mode

    def explains(self, ae_title: str) -> bool:
        """Whether queries and retrieves of this AE are to be explained."""
        peer = self.find(ae_title)
        return self._explain or (peer is not None and peer.explain)

    @property
    def explained(self) -> tuple[bool, frozenset[str]]:
        """Whether those of everybody are, and the AE titles of the peers whose are."""
        return self._explain, frozenset(peer.ae_title for peer in self if peer.explain)

    @property
    def explains_any(self) -> bool:
        """Whether those of anybody are."""
        return any(self.explained)

    def transfer_syntaxes_of(self, ae_title: str) -> tuple[str, ...]:
        """The order of transfer syntaxes configured for this AE, empty where there is none."""
        peer = self.find(ae_title)
        return peer.transfer_syntaxes if peer is not None else ()
