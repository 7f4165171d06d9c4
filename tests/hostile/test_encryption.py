"""Hostile peers on the TLS port of the running daemon (P8, docs/checklist.md)."""

import datetime
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trustme

from tests import raw
from tests.certificates import Authority
from tests.docs.requests import VERIFICATION
from tests.hostile import daemons
from tests.hostile.daemons import Daemon
from tests.raw import IMPLICIT


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The certificate authority that the daemon trusts."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Daemon]:
    """The daemon with TLS and client certificates."""
    ours = authority.sign("pacs", "localhost", "127.0.0.1")
    settings = {
        "tls.enabled": True,
        "tls.port": 0,
        "tls.certificate": ours.certificate,
        "tls.key": ours.key,
        "tls.ca": authority.path,
        "tls.client_certificates": "required",
        "limits.negotiation_seconds": 2.0,
    }
    with daemons.daemon(tmp_path_factory.mktemp("encryption"), settings) as daemon:
        yield daemon


@pytest.fixture
def daemon(running: Daemon, authority: Authority) -> Iterator[Daemon]:
    """The daemon of this module, checked after the test, also by TLS."""
    yield running
    right = authority.sign("right")
    assert echo(running, client(authority, right.certificate, right.key)) == 0x0000
    running.check()


def client(authority: Authority, certificate: str = "", key: str = "") -> ssl.SSLContext:
    """Return the SSL context of a client."""
    context = ssl.create_default_context(cafile=authority.path)
    if certificate:
        context.load_cert_chain(certificate, key)
    return context


def echo(daemon: Daemon, context: ssl.SSLContext) -> int:
    """Return the status of a C-ECHO by TLS. Raises OSError if the handshake fails."""
    with (
        socket.create_connection(("127.0.0.1", daemon.secure_port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        secured.sendall(raw.associate_rq([(1, VERIFICATION, [IMPLICIT])], calling="CHECK"))
        assert read(secured)[0] == 0x02
        secured.sendall(raw.request(raw.C_ECHO, 1, VERIFICATION, 1, None))
        response = next(raw.messages([read(secured)[1]]))
        secured.sendall(raw.pdu(0x05, bytes(4)))
        assert read(secured)[0] == 0x06
    return response.status


def read(secured: ssl.SSLSocket) -> tuple[int, bytes]:
    """Receive a PDU. Raises ConnectionError at the end."""
    data = b""
    while len(data) < 6 or len(data) < 6 + struct.unpack(">xxL", data[:6])[0]:
        piece = secured.recv(1 << 16)
        if not piece:
            raise ConnectionError
        data += piece
    return data[0], data[6:]


NOISE = {
    "a plain request": raw.associate_rq([(1, VERIFICATION, [IMPLICIT])]),
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "a record of 64 kB": b"\x16\x03\x01\xff\xff" + bytes(65535),
    "a ClientHello cut short": b"\x16\x03\x01\x00\x10\x01\x00\x00\x0c\x03\x03" + bytes(7),
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "SSL 2": b"\x80\x2e\x01\x00\x02" + bytes(60),
    "zeros": bytes(10000),
}


@pytest.mark.parametrize("sent", NOISE.values(), ids=NOISE)
def test_p8_an_invalid_handshake_is_refused(daemon: Daemon, sent: bytes) -> None:
    """One log line says that TLS failed; none if the peer just closes."""
    with socket.create_connection(("127.0.0.1", daemon.secure_port), 10) as peer, suppress(ConnectionError):
        peer.sendall(sent)
        while peer.recv(4096):
            pass
    said = daemon.incidents()
    assert len(said) <= 1
    assert all("TLS failed" in each for each in said)
    daemon.lines = 0


def test_p8_200_connections_without_a_client_hello_delay_no_other(daemon: Daemon, authority: Authority) -> None:
    """Neither on the plain nor on the TLS port; each is closed in time, without a log line."""
    right = authority.sign("waiting")
    context = client(authority, right.certificate, right.key)
    with ExitStack() as stack:
        peers = [
            stack.enter_context(socket.create_connection(("127.0.0.1", daemon.secure_port), 10)) for _ in range(200)
        ]
        for each in peers[::2]:
            each.sendall(b"\x16\x03\x01\x02\x00\x01")
        for _ in range(3):
            daemon.check_echo()
            assert echo(daemon, context) == 0x0000
        for each in peers:
            with suppress(ConnectionError):
                while each.recv(4096):
                    pass
    daemon.lines = 0


def issued(folder: Path, signer: trustme.CA, name: str, **options: object) -> tuple[str, str]:
    """Issue a certificate; return the paths of it and its key."""
    made = signer.issue_cert(f"{name}.example", **options)
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    made.cert_chain_pems[0].write_to_path(certificate)
    made.private_key_pem.write_to_path(key)
    return str(certificate), str(key)


@pytest.mark.parametrize("wrong", ["none", "expired", "self-signed", "of another authority", "an authority's own"])
def test_an_invalid_certificate_is_refused(daemon: Daemon, authority: Authority, tmp_path: Path, wrong: str) -> None:
    """One log line says what is wrong."""
    signer = authority._signer if wrong == "expired" else trustme.CA()
    options: dict[str, object] = {}
    if wrong == "expired":
        options["not_after"] = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    shown: tuple[str, str] = ("", "")
    if wrong in ("self-signed", "an authority's own"):
        signer.cert_pem.write_to_path(tmp_path / "ca.pem")
        signer.private_key_pem.write_to_path(tmp_path / "ca.key")
        shown = str(tmp_path / "ca.pem"), str(tmp_path / "ca.key")
    elif wrong != "none":
        shown = issued(tmp_path, signer, "wrong", **options)
    with pytest.raises(OSError):  # noqa: PT011 - an alert, or the end
        echo(daemon, client(authority, *shown))
    said = daemon.incidents()
    assert len(said) == 1
    assert "TLS failed" in said[0]
    assert "certificate" in said[0]
    daemon.lines = 0


def test_renegotiation_is_refused(daemon: Daemon, authority: Authority) -> None:
    """A TLS 1.2 client that requests it loses its connection, or the request is ignored.

    What Python's TLS cannot ask for is sent by OpenSSL's own client: `R` on a line of its own.
    """
    import subprocess

    from tests.programs import needs

    right = authority.sign("again")
    words = [needs("openssl"), "s_client", "-tls1_2", "-connect", f"127.0.0.1:{daemon.secure_port}"]
    words += ["-cert", right.certificate, "-key", right.key, "-CAfile", authority.path]
    ran = subprocess.run(words, input=b"R\n" * 20, capture_output=True, timeout=20, check=False)
    assert b"RENEGOTIATING" in ran.stdout + ran.stderr
    assert len(daemon.incidents()) <= 1
    daemon.lines = 0
