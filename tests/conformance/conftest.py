"""A server in the strict matching mode that knows our storage SCP, and checks of it."""

import socket
from dataclasses import dataclass

import pytest

from benchmarks.processes import free_port
from pacs.conformance.checks.association import CheckedServer
from pacs.conformance.checks.results import CheckResult
from pacs.conformance.checks.runner import ServerResults, run_checks, selected
from pacs.conformance.checks.sample_data import SampleData
from pacs.testing import serving

TITLE = "PACSRUN"
SAMPLES = SampleData()


@dataclass(frozen=True)
class ServerUnderTest:
    """A running server, and the port that it has listed for our storage SCP."""

    port: int
    receiving: int
    ae_title: str = "PACS"

    def run_checks(self, *names: str, port: int = 0, receiving: int = 0, timeout: float = 10) -> ServerResults:
        """Run the checks with these ids or themes, all if there are none, against the server or a relay to it."""
        peer = CheckedServer(self.ae_title, "127.0.0.1", port or self.port, TITLE, timeout)
        return run_checks(peer, SAMPLES, (TITLE, receiving or self.receiving), checks=selected(names))

    def result(self, name: str, **options: float) -> CheckResult:
        """Run one check and return its result."""
        return self.run_checks(name, **options).results[name]


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A server in the strict matching mode."""
    port = free_port()
    settings = {
        "query.manner": "strict",
        "limits.associations_per_address": 0,
        "peers": [{"ae_title": TITLE, "host": "127.0.0.1", "port": port}],
    }
    with serving(tmp_path_factory.mktemp("strict"), settings) as archive:
        yield ServerUnderTest(archive.port, port)


@pytest.fixture
def silent():
    """The port of a server that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def free_receiver():
    """A free port for our storage SCP."""
    return free_port()
