"""Which AEs may associate, from which addresses, with which certificate, and their rights."""

from ipaddress import ip_network

import pytest

from pacs.errors import CalledTitleUnknown, CallerUnknown, NotAuthorized, UnknownDestination
from pacs.services.access import Access, AssociationRequestor, Rules
from pacs.services.peers import Peer, Peers, Right

ROOM = Peer(
    "ROOM",
    "10.0.0.5",
    104,
    addresses=(ip_network("10.0.0.0/24"), ip_network("fd00::/8")),
    rights=frozenset({Right.STORE}),
    destinations=frozenset({"ROOM"}),
)
SAFE = Peer("SAFE", "10.0.0.6", 104, certificates=frozenset({"ab" * 32}))
FREE = Peer("FREE", "10.0.0.7", 104, destinations=None)
PEERS = Peers([ROOM, SAFE, FREE])


def caller(
    ae_title: str, address: str = "10.0.0.5", called: str = "PACS", certificate: str = ""
) -> AssociationRequestor:
    """Return a request to associate."""
    return AssociationRequestor(ae_title=ae_title, called_ae_title=called, address=address, certificate=certificate)


@pytest.mark.parametrize("address", ["10.0.0.5", "10.0.0.255", "fd00::1", "fd12::1%eth0"])
def test_a_peer_may_call_from_its_networks(address):
    """IPv4 and IPv6, also with the zone of a link-local address."""
    Access(Rules(), PEERS).admit(caller("ROOM", address))


@pytest.mark.parametrize("address", ["10.0.1.5", "127.0.0.1", "::1", "fe80::1%eth0"])
def test_another_address_may_not_use_the_title_of_a_peer(address):
    """Also where any AE may associate: a peer's title is only its own. The reason names the key to change."""
    with pytest.raises(CallerUnknown, match=r"is not in addresses of the \[\[peers\]\] block of ROOM"):
        Access(Rules(), PEERS).admit(caller("ROOM", address))


@pytest.mark.parametrize(("shown", "why"), [("", "must connect with TLS"), ("cd" * 32, "SHA-256 cdcd")])
def test_a_peer_with_certificates_must_present_one_of_them(shown, why):
    """Without TLS there is none."""
    access = Access(Rules(), PEERS)
    access.admit(caller("SAFE", certificate="ab" * 32))
    with pytest.raises(CallerUnknown, match=why):
        access.admit(caller("SAFE", certificate=shown))


def test_unknown_aes_may_associate_only_where_any_caller_may():
    """The reason names the command that adds a peer."""
    Access(Rules(), PEERS).admit(caller("STRANGER"))
    with pytest.raises(CallerUnknown, match=r"pacs peers add STRANGER 10\.0\.0\.5 PORT"):
        Access(Rules(any_caller=False), PEERS).admit(caller("STRANGER"))


def test_the_command_that_adds_a_peer_is_quoted_for_the_shell():
    """An AE title may contain shell syntax."""
    with pytest.raises(CallerUnknown, match=r"pacs peers add '\$\(reboot\)' 10\.0\.0\.5 PORT"):
        Access(Rules(any_caller=False), PEERS).admit(caller("$(reboot)"))


def test_aliases_are_accepted_as_called_ae_titles():
    """Where the called AE title has to be one of the server."""
    access = Access(Rules(titles=("PACS", "OLD"), any_called_title=False), PEERS)
    for title in ("PACS", "OLD"):
        access.admit(caller("FREE", called=title))
    with pytest.raises(CalledTitleUnknown, match=r"server\.aliases"):
        access.admit(caller("FREE", called="NEW"))


def test_a_peer_has_the_rights_of_its_block_and_an_unknown_ae_those_of_the_rules():
    """The comment fits into an Error Comment and names the key."""
    access = Access(Rules(rights=frozenset({Right.FIND})), PEERS)
    access.require(access.principal("ROOM"), Right.STORE)
    access.require(access.principal("STRANGER"), Right.FIND)
    access.require(access.principal("FREE"), Right.GET)
    for title, right, key in (("ROOM", Right.FIND, "its [[peers]]"), ("STRANGER", Right.STORE, "access.services")):
        with pytest.raises(NotAuthorized) as refused:
            access.require(access.principal(title), right)
        assert key in refused.value.comment
        assert len(refused.value.comment) <= 64


def test_a_peer_may_retrieve_to_its_destinations_only():
    """A destination that is no peer is unknown for all."""
    access = Access(Rules(), PEERS)
    assert access.destination(access.principal("ROOM"), "ROOM") is ROOM
    assert access.destination(access.principal("FREE"), "SAFE") is SAFE
    assert access.destination(access.principal("STRANGER"), "SAFE") is SAFE
    with pytest.raises(NotAuthorized, match="destinations"):
        access.destination(access.principal("ROOM"), "SAFE")
    with pytest.raises(UnknownDestination):
        access.destination(access.principal("ROOM"), "NOWHERE")
