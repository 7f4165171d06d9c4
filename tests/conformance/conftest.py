"""A server in the strict manner that knows the run's receiver, and the run against it."""

import socket
from dataclasses import dataclass

import pytest

from benchmarks.processes import free_port
from pacs.conformance.checks import Column, Peer, Specimens, Verdict, examine, selected
from pacs.testing import serving

TITLE = "PACSRUN"


@dataclass(frozen=True)
class Examined:
    """A server, and the port on which it looks for the run's receiver."""

    port: int
    receiving: int
    ae_title: str = "PACS"

    def examine(self, *names: str, port: int = 0, receiving: int = 0, patience: float = 10) -> Column:
        """The checks with these IDs or themes, all where none is named, asked of the server or of a relay to it."""
        peer = Peer(self.ae_title, "127.0.0.1", port or self.port, TITLE, patience)
        return examine(peer, Specimens(), (TITLE, receiving or self.receiving), checks=selected(names))

    def verdict(self, name: str, **options: float) -> Verdict:
        """The verdict of one check."""
        return self.examine(name, **options).verdicts[name]


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A server in the strict manner."""
    port = free_port()
    settings = {
        "query.manner": "strict",
        "limits.associations_per_address": 0,
        "peers": [{"ae_title": TITLE, "host": "127.0.0.1", "port": port}],
    }
    with serving(tmp_path_factory.mktemp("strict"), settings) as archive:
        yield Examined(archive.port, port)


@pytest.fixture
def silent():
    """The port of something that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def free_receiver():
    """A port for the run's receiver."""
    return free_port()
