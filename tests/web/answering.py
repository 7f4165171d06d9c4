"""`pacs serve` with its web port, and HTTP as the standard library speaks it."""

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
    """`pacs serve` as a process of its own that answers HTTP: the port is in `.web`."""
    with process(folder, *WORDS, *words, **options) as server:
        server.web = int(WEB.fullmatch(server.stdout.readline())[1])
        yield server


def get(port, path, method="GET", timeout=20):
    """The status, the headers and the text of an answer."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def numbers(port):
    """The samples of /metrics: by name and labels as they stand there."""
    status, _, text = get(port, "/metrics")
    assert status == 200
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


@contextmanager
def associated(port, *contexts, **options):
    """An association that is open: by bytes, for Verification if nothing else is asked for."""
    with Raw(port) as client:
        client.associate(*(contexts or [(1, VERIFICATION, [IMPLICIT])]), **options)
        yield client
