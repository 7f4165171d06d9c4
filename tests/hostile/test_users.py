"""Wrong user identities and AE titles on the running daemon."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pacs.services.users import hash_passcode
from tests import raw
from tests.docs.requests import VERIFICATION, identity
from tests.hostile.conftest import Start
from tests.hostile.daemons import Daemon
from tests.raw import IMPLICIT, Raw

SETTINGS = {
    "access.callers": "peers",
    "access.users": "optional",
    "users": [{"name": "alice", "passcode": hash_passcode("secret")}, {"name": "bob"}],
    "peers": [
        {"ae_title": "CHECK", "host": "127.0.0.1", "port": 104},
        {"ae_title": "RAW", "host": "127.0.0.1", "port": 104},
        {"ae_title": "ROOM", "host": "127.0.0.1", "port": 104, "addresses": ["10.0.0.0/8"]},
    ],
    "jwt.key": "k" * 40,
}


@pytest.fixture(scope="module")
def running(start: Start) -> Daemon:
    """The daemon with these settings, after its hashing threads have started and allocated memory."""
    daemon = start(SETTINGS)
    at_once(20, lambda: answer(daemon, identity(2, b"alice", b"wrong")))
    daemon.settle()
    return daemon


@pytest.fixture
def daemon(running: Daemon) -> Iterator[Daemon]:
    """The daemon of this module, checked after the test."""
    yield running
    running.check()


def at_once(count: int, call: Callable[[], object]) -> None:
    """Run a function in this many threads, and wait for them."""
    threads = [threading.Thread(target=call) for _ in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


IDENTITIES = {
    "a name of 60 kB": identity(1, b"x" * 60000),
    "a name of NULs": identity(1, bytes(100)),
    "an empty name": identity(1, b""),
    "a name of escapes": identity(1, b"\x1b[2J\r\n2026 [error] fake"),
    "a name that is no text": identity(1, b"\xff\xfe\x80"),
    "a passcode of 60 kB": identity(2, b"alice", b"x" * 60000),
    "a passcode of NULs": identity(2, b"alice", bytes(10)),
    "no passcode": identity(2, b"alice"),
    "only a name": identity(1, b"alice"),
    "Kerberos": identity(3, b"ticket" * 100),
    "SAML": identity(4, b"<saml>" * 1000),
    "a token of 60 kB": identity(5, b"a" * 60000),
    "a token of dots": identity(5, b"." * 1000),
    "a token without a signature": identity(5, b"eyJhbGciOiJub25lIn0.eyJzdWIiOiJib2IifQ."),
    "a token of deep brackets": identity(5, b"W1tbW1tb" * 4000 + b".W10.x"),
    "a kind that is none": identity(99, b"alice"),
    "two of them": identity(1, b"nobody") + identity(1, b"bob"),
}
"""Wrong user identities."""


def answer(daemon: Daemon, extra: bytes = b"", calling: str = "RAW") -> tuple[int, bytes]:
    """Return the PDU that answers an association request."""
    with Raw(daemon.port) as client:
        client.send(raw.associate_rq([(1, VERIFICATION, [IMPLICIT])], calling=calling, extra=extra))
        kind, body = client.pdu()
        if kind == 0x02:
            client.release()
    return kind, body


@pytest.mark.parametrize("said", IDENTITIES.values(), ids=IDENTITIES)
def test_a_wrong_user_identity_is_rejected(daemon: Daemon, said: bytes) -> None:
    """With an A-ASSOCIATE-RJ, or an A-ABORT for an invalid item; one log line."""
    assert answer(daemon, said)[0] in (0x03, 0x07)


TITLES = ["STRANGER", "$(reboot)", "`reboot`", "a;b|c&d", "'", "\\", "-rf", "ROOM", "check"]


@pytest.mark.parametrize("title", TITLES)
def test_an_unknown_ae_title_is_rejected(daemon: Daemon, title: str) -> None:
    """With 1/1/3, or an A-ABORT for an invalid title; the log line has the command that adds it, safe to paste."""
    kind, body = answer(daemon, calling=title)
    assert (kind, body) == (0x03, b"\0\1\1\3") or kind == 0x07
    (line,) = daemon.incidents()
    assert f"pacs peers add {title} " not in line or title.isalnum() or title == "-rf"
    daemon.lines = 0


def test_hundreds_of_passcodes_delay_no_other(daemon: Daemon) -> None:
    """A hundred wrong passcodes at once, each costly to hash: other peers are served in time, and memory is bounded."""
    kinds = []

    def call() -> None:
        try:
            kinds.append(answer(daemon, identity(2, b"alice", b"wrong"))[0])
        except (OSError, ConnectionError):
            kinds.append(0)

    threads = [threading.Thread(target=call) for _ in range(100)]
    for each in threads:
        each.start()
    for _ in range(5):
        daemon.check_echo()
        time.sleep(0.1)
    for each in threads:
        each.join()
    assert set(kinds) <= {0x03, 0}
    assert kinds.count(0x03) >= 50
    time.sleep(0.2)
    assert len(daemon.incidents()) >= kinds.count(0x03)
    daemon.lines = 0
    assert answer(daemon, identity(2, b"alice", b"secret"))[0] == 0x02
