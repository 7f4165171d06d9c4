"""`pacs serve` with HTTP, and an HTTP client of the standard library."""

import re
from contextlib import closing, contextmanager
from http.client import HTTPConnection

from tests.cli.test_daemon import process
from tests.raw import IMPLICIT, Raw

WEB = re.compile(r"pacs serves http://127\.0\.0\.1:(\d+)/healthz, /readyz and /metrics\n")
WORDS = ("--set", "web.enabled=true", "--set", "web.port=0")
VERIFICATION = "1.2.840.10008.1.1"


@contextmanager
def answering(folder, *words, **options):
    """Run `pacs serve` with HTTP; the port is `.web`."""
    with process(folder, *WORDS, *words, **options) as server:
        server.web = int(WEB.fullmatch(server.stdout.readline())[1])
        yield server


def get(port, path, method="GET", timeout=20):
    """Return status, headers and text of a response."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def numbers(port):
    """Return the samples of /metrics by name and labels."""
    status, _, text = get(port, "/metrics")
    assert status == 200
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


@contextmanager
def associated(port, *contexts, **options):
    """An open association, for Verification by default."""
    with Raw(port) as client:
        client.associate(*(contexts or [(1, VERIFICATION, [IMPLICIT])]), **options)
        yield client
