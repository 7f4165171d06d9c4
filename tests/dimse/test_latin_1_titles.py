"""AE titles in Latin-1, against the standard: such a peer is configured like any other, its title arrives unchanged."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from pacs import client
from pacs.dimse.upper.pdus import ASSOCIATE_RQ, decode, encoded_titles
from pacs.testing import serving, study
from tests.archives import take_in
from tests.programs import free_port
from tests.tap import Tap, tapping

TITLE, ENCODED = "MÜNSTER 1", b"M\xdcNSTER 1"
HOST = "127.0.0.1"
DATASETS = study(series=1, instances=2)


@dataclass
class Site:
    """An archive that knows only the peer, and what each side sent to the other."""

    port: int
    requested: Tap
    destined: Tap
    folder: Path

    @property
    def peer(self) -> client.Peer:
        """The archive, called by the peer."""
        return client.Peer("PACS", HOST, self.requested.port, calling_ae_title=TITLE)


@pytest.fixture
def site(tmp_path):
    """A running site with two instances."""
    mine = free_port()
    with tapping(mine) as destined:
        peer = {"ae_title": TITLE, "host": HOST, "port": destined.port, "destinations": [TITLE]}
        settings = {
            "peers": [peer], "access.callers": "peers", "audit.file": str(tmp_path / "audit"),
            "commitment.same_association_seconds": 0,
        }  # fmt: skip
        with serving(tmp_path / "pacs", settings) as archive, tapping(archive.port) as requested:
            take_in(archive, DATASETS)
            yield Site(mine, requested, destined, tmp_path)


def test_a_peer_with_a_title_in_latin_1_moves_to_itself(site):
    """As caller, destination and move originator, with its bytes on the wire and its characters in the audit log."""
    keys = {"StudyInstanceUID": DATASETS[0].StudyInstanceUID}
    to = site.folder / "in"
    moved = client.move_and_store(site.peer, keys, to=to, port=site.port, level="STUDY")
    assert (moved.completed, moved.failed, len(list(to.rglob("*.dcm")))) == (2, 0, 2)
    (asked,), (sent,) = site.requested.sent, site.destined.sent
    assert asked[10:42] == b"PACS".ljust(16) + ENCODED.ljust(16)
    assert sent[10:42] == ENCODED.ljust(16) + b"PACS".ljust(16)
    assert asked.count(ENCODED) == 2  # the calling AE title and the move destination
    assert sent.count(ENCODED) == 3  # the called AE title and two move originators
    audited = (site.folder / "audit").read_text("ascii").splitlines()
    assert (json.loads(audited[-1])["destination"], json.loads(audited[-1])["calling_ae_title"]) == (TITLE, TITLE)


def test_a_peer_with_a_title_in_latin_1_gets_its_report(site):
    """On a new association, which is found by the title of the requestor."""
    committed = client.commit(site.peer, DATASETS, port=site.port)
    assert (len(committed.committed), committed.failed) == (2, ())
    assert site.destined.sent[0][10:26] == ENCODED.ljust(16)


def test_each_title_that_can_be_configured_is_understood_as_it_is_sent():
    """All characters of Latin-1 that are printable."""
    for char in (each for each in map(chr, range(0x100)) if each.isprintable() and each != "\\"):
        title = f"A{char}B"
        assert client.Peer(title, HOST, 1).ae_title == title
        body = b"\0\1\0\0" + encoded_titles(title, f"{char}B")
        received = decode(ASSOCIATE_RQ, b"\1\0" + len(body).to_bytes(4, "big") + body).primitive
        assert (received.called_ae_title, received.calling_ae_title) == (title, f"{char}B".strip())
