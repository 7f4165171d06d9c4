"""PDUs that are invalid, too long, too early or too late: they end their association and nothing else."""

import select
import struct
import threading
import time
from contextlib import suppress

import pytest

from tests import raw
from tests.docs.requests import FIND, VERIFICATION
from tests.hostile.daemons import Daemon, associated, connected, ended, megabytes
from tests.raw import IMPLICIT, Raw, associate_rq, item, pdu

SETTINGS = {"limits.negotiation_seconds": 1.0, "limits.message_seconds": 1.0, "limits.least_rate": 4096}

USUAL = associate_rq([(1, VERIFICATION, [IMPLICIT])])
ECHO = raw.request(raw.C_ECHO, 1, VERIFICATION, 1, None)
RELEASE, ABORT = pdu(0x05, bytes(4)), pdu(0x07, bytes(4))


def request_with(body: bytes, length: int | None = None) -> bytes:
    """Return an A-ASSOCIATE-RQ with these items; `length` is announced instead of its own."""
    whole = USUAL[6:74] + body
    return pdu(1, whole, length)


def proposing(number: int, *inside: bytes) -> bytes:
    """Return a presentation context item."""
    return item(0x20, struct.pack(">Bxxx", number) + b"".join(inside))


APPLICATION = item(0x10, raw.APPLICATION_CONTEXT.encode())
ABSTRACT, TRANSFER = item(0x30, VERIFICATION.encode()), item(0x40, IMPLICIT.encode())
USER = item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3"))

BEFORE = {
    "type 0": pdu(0, b"x" * 10),
    "type 8": pdu(8, b"x" * 10),
    "type 255": pdu(255, b"x" * 10),
    "length 0": pdu(1, b""),
    "length 1": pdu(1, b"\0"),
    "4 GiB": pdu(1, b"", 0xFFFFFFFF),
    "A-ASSOCIATE-AC": pdu(2, USUAL[6:]),
    "A-ASSOCIATE-RJ": pdu(3, b"\0\1\1\1"),
    "P-DATA-TF": ECHO,
    "A-RELEASE-RQ": RELEASE,
    "A-RELEASE-RP": pdu(6, bytes(4)),
    "random bytes": bytes((each * 89 + 7) % 256 for each in range(4096)),
    "zeros": bytes(4096),
    "HTTP": b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n",
    "ClientHello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(512),
    "no items": request_with(b""),
    "no application context": request_with(proposing(1, ABSTRACT, TRANSFER) + USER),
    "an item longer than the PDU": request_with(APPLICATION + struct.pack(">BxH", 0x20, 0xFFFF) + b"\1\0\0\0"),
    "an item cut in its head": request_with(APPLICATION + proposing(1, ABSTRACT, TRANSFER) + USER + b"\x50"),
    "a sub-item longer than its item": request_with(
        APPLICATION + proposing(1, struct.pack(">BxH", 0x30, 0x4000), TRANSFER) + USER
    ),
    "no abstract syntax": request_with(APPLICATION + proposing(1, TRANSFER) + USER),
    "no transfer syntax": request_with(APPLICATION + proposing(1, ABSTRACT) + USER),
    "a length too short for it": request_with(APPLICATION + proposing(1, ABSTRACT, TRANSFER) + USER, 100),
    "129 contexts": associate_rq([(each, VERIFICATION, [IMPLICIT]) for each in range(129)]),
    "a role selection cut short": associate_rq([(1, VERIFICATION, [IMPLICIT])], extra=item(0x54, b"\0\x40x")),
    "protocol version 0": associate_rq([(1, VERIFICATION, [IMPLICIT])], version=0),
    "another application context": associate_rq([(1, VERIFICATION, [IMPLICIT])], application="1.2.3"),
}
"""Bytes instead of an association request."""


@pytest.mark.parametrize("sent", BEFORE.values(), ids=BEFORE)
def test_an_invalid_association_request_is_refused(daemon: Daemon, sent: bytes) -> None:
    """With A-ABORT or A-ASSOCIATE-RJ and one log line, or the context is not accepted."""
    with Raw(daemon.port) as client:
        client.send(sent)
        try:
            kind, body = client.pdu()
        except ConnectionError:
            kind, body = 0, b""
        if kind == 0x02:
            assert all(result != 0 for result, _ in raw.contexts(body).values())
            client.release()
    assert kind in (0x02, 0x03, 0x07)
    daemon.lines = int(kind != 0x02)


STRANGE = {
    "an unknown item": USUAL[:6] + USUAL[6:] + item(0x99, b"x" * 1000),
    "an unknown sub-item": associate_rq([(1, VERIFICATION, [IMPLICIT])], extra=item(0x5A, b"x" * 1000)),
    "a context twice": associate_rq([(1, VERIFICATION, [IMPLICIT])] * 2),
    "a context with id 0": associate_rq([(1, VERIFICATION, [IMPLICIT]), (0, VERIFICATION, [IMPLICIT])]),
    "even ids": associate_rq(
        [(each + each % 2, VERIFICATION, [IMPLICIT]) for each in range(1, 127)] + [(1, VERIFICATION, [IMPLICIT])]
    ),
    "an abstract syntax of 10 kB": associate_rq([(1, VERIFICATION, [IMPLICIT]), (3, "1." * 5000 + "1", [IMPLICIT])]),
    "128 contexts of 30 transfer syntaxes": associate_rq(
        [(2 * each + 1, VERIFICATION, [f"1.2.{other}" for other in range(29)] + [IMPLICIT]) for each in range(128)]
    ),
    "ten thousand sub-items": associate_rq([(1, VERIFICATION, [IMPLICIT])], extra=item(0x5A, b"") * 10000),
    "identities by the hundred": associate_rq(
        [(1, VERIFICATION, [IMPLICIT])], extra=item(0x58, b"\1\1\0\1x\0\0") * 100
    ),
    "an identity that is longer than its item": associate_rq(
        [(1, VERIFICATION, [IMPLICIT])], extra=item(0x58, b"\2\1" + struct.pack(">H", 0xFFFF) + b"x")
    ),
    "extended negotiation of nothing": associate_rq([(1, VERIFICATION, [IMPLICIT])], extra=item(0x56, b"\0\0")),
    "a longest PDU of 1 byte": associate_rq([(1, VERIFICATION, [IMPLICIT])], max_pdu=1),
    "a longest PDU of 4 GiB": associate_rq([(1, VERIFICATION, [IMPLICIT])], max_pdu=0xFFFFFFFF),
}
"""Unusual association requests."""


@pytest.mark.parametrize("sent", STRANGE.values(), ids=STRANGE)
def test_an_unusual_association_request_is_served_or_refused(daemon: Daemon, sent: bytes) -> None:
    """With an A-ASSOCIATE-AC and a C-ECHO, or with an A-ABORT or A-ASSOCIATE-RJ and one log line."""
    sent = sent[:2] + struct.pack(">L", len(sent) - 6) + sent[6:]
    with Raw(daemon.port) as client:
        client.send(sent)
        kind, _ = client.pdu()
        if kind == 0x02:
            client.send(ECHO)
            assert client.message().status == 0x0000
            client.release()
    assert kind in (0x02, 0x03, 0x07)
    daemon.lines = int(kind != 0x02)


WITHIN = {
    "a second A-ASSOCIATE-RQ": USUAL,
    "A-ASSOCIATE-AC": pdu(2, USUAL[6:]),
    "A-ASSOCIATE-RJ": pdu(3, b"\0\1\1\1"),
    "A-RELEASE-RP": pdu(6, bytes(4)),
    "type 0": pdu(0, b"x"),
    "type 8": pdu(8, b"x" * 4),
    "type 255": pdu(255, b""),
    "P-DATA-TF of 4 GiB": pdu(4, bytes(1000), 0xFFFFFFFF),
    "A-RELEASE-RQ of 1 MiB": pdu(5, bytes(1 << 20)),
    "A-ABORT of 4 GiB": pdu(7, bytes(1000), 0xFFFFFFFF),
    "data behind the release": RELEASE + ECHO,
    "two releases": RELEASE + RELEASE,
    "an abort behind the release": RELEASE + ABORT,
    "an abort behind a request": ECHO + ABORT,
    "an abort before its end": ECHO[:40] + ABORT,
    "A-ABORT without a body": pdu(7, b""),
}
"""Bytes that are not allowed on an association."""


@pytest.mark.parametrize("sent", WITHIN.values(), ids=WITHIN)
def test_invalid_input_ends_the_association(daemon: Daemon, sent: bytes) -> None:
    """With one log line."""
    with Raw(daemon.port) as client:
        client.associate((1, VERIFICATION, [IMPLICIT]))
        with suppress(ConnectionError):
            client.send(sent)
        assert ended(client) is not None


@pytest.mark.parametrize("at", [1, 5, 6, 7, 11, 12, 40, len(ECHO) - 1])
def test_a_connection_closed_within_a_pdu_has_one_log_line(daemon: Daemon, at: int) -> None:
    """Wherever the PDU is cut."""
    with Raw(daemon.port) as client:
        client.associate((1, VERIFICATION, [IMPLICIT]))
        client.send(ECHO[:at])


@pytest.mark.parametrize("sent", [USUAL, ECHO], ids=["a request", "a message"])
def test_a_slow_association_ends_and_delays_no_other(daemon: Daemon, sent: bytes) -> None:
    """A byte each 50 ms is too slow: the association ends, and others are served meanwhile."""
    with Raw(daemon.port) as client:
        if sent is ECHO:
            client.associate((1, VERIFICATION, [IMPLICIT]))
        for place in range(1000):
            client.send(sent[place % len(sent) :][:1])
            if place % 10 == 0:
                daemon.check_echo()
            if select.select([client.socket], [], [], 0.05)[0]:
                break
        assert ended(client) is not None
    daemon.lines = 1 if sent is ECHO else 0


def test_p6_an_announced_length_allocates_no_memory(daemon: Daemon) -> None:
    """Twenty requests and twenty messages announce 4 GiB and send one mebibyte each; memory does not grow."""
    clients = [Raw(daemon.port) for _ in range(40)]
    for each in clients[20:]:
        each.associate((1, FIND, [IMPLICIT]))
    before = megabytes(daemon.process.pid)
    for each, kind in zip(clients, [1] * 20 + [4] * 20, strict=True):
        with suppress(OSError):
            each.send(pdu(kind, bytes(1 << 20), 0xFFFFFFFF))
    assert megabytes(daemon.process.pid) < before + 20
    daemon.check_echo()
    for each in clients:
        assert ended(each) is not None
        each.socket.close()
    daemon.lines = 40


def test_p6_the_longest_requests_cost_only_their_length(daemon: Daemon) -> None:
    """Ten peers send all but the last byte of a request of one mebibyte, and wait."""
    body = APPLICATION + proposing(1, ABSTRACT, TRANSFER) + USER
    body += item(0x99, bytes(60000)) * ((1 << 20) // 60004 - 1)
    clients = [Raw(daemon.port) for _ in range(10)]
    for each in clients:
        each.send(request_with(body)[:-1])
    daemon.check_echo()
    for each in clients:
        assert ended(each) is not None
        each.socket.close()
    daemon.lines = 0


def test_300_slow_connections_delay_no_other(daemon: Daemon) -> None:
    """Three hundred connections send a byte of a request now and then, from another address and from the same one."""
    over = threading.Event()
    sockets = [connected(daemon.port, "127.0.0.2" if each % 2 else "127.0.0.1") for each in range(300)]

    def trickle() -> None:
        for place in range(len(USUAL)):
            for each in sockets:
                with suppress(OSError):
                    each.send(USUAL[place : place + 1])
            if over.wait(0.1):
                return

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        for _ in range(10):
            with associated(daemon.port) as client:
                client.send(ECHO)
                assert client.message().status == 0x0000
                client.release()
            time.sleep(0.05)
    finally:
        over.set()
        thread.join()
        for each in sockets:
            each.close()
    daemon.lines = 0
