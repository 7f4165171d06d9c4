"""The encrypting wire: pieces arrive whole, and TLS messages without data cost neither memory nor time."""

import select
import socket
import ssl
import threading

import pytest

from pacs.dimse.upper.tls import MOST_OVERHEAD, Certificates, SecureWire, acceptor_context, requestor_context
from tests.certificates import Authority


@pytest.fixture
def wires(tmp_path):
    """Both ends of an encrypted connection: acceptor and requestor."""
    authority = Authority(tmp_path)
    pair = authority.sign("pacs", "localhost")
    files = Certificates(certificate=pair.certificate, key=pair.key, ca=authority.path)
    theirs, ours = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
    calling = SecureWire(theirs, 1 << 18, requestor_context(files, is_pinned=False), "localhost")
    called = SecureWire(ours, 1 << 18, acceptor_context(files))
    thread = threading.Thread(target=called.handshake, args=(lambda events: wait(called, events),))
    thread.start()
    calling.handshake(lambda events: wait(calling, events))
    thread.join()
    yield calling, called
    calling.close()
    called.close()


@pytest.fixture(autouse=True)
def _no_tcp(monkeypatch):
    """Ignore TCP options, which socket pairs do not have."""
    monkeypatch.setattr(SecureWire, "acknowledge", lambda _self: None)
    original = socket.socket.setsockopt

    def setsockopt(self, level, *rest):
        return None if level == socket.IPPROTO_TCP else original(self, level, *rest)

    monkeypatch.setattr(socket.socket, "setsockopt", setsockopt)


def wait(wire, events):
    """Wait until the socket has one of some events."""
    poller = select.poll()
    poller.register(wire.fileno(), events)
    assert poller.poll(20_000)


def taken(wire, count):
    """Return so many bytes that arrive."""
    received = bytearray()
    while len(received) < count:
        if not wire.fill():
            wait(wire, select.POLLIN)
        received += wire.available
        wire.consume(len(wire.available))
        assert not wire.at_end
    return bytes(received)


@pytest.mark.parametrize("sizes", [(1,), (0, 3, 0), (100_000, 5, 300_000), (1,) * 700])
def test_many_buffers_arrive_whole_through_a_small_socket_buffer(wires, sizes):
    """In order, each byte once."""
    calling, called = wires
    buffers = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    reader = threading.Thread(target=lambda: found.append(taken(called, sum(sizes))))
    found = []
    reader.start()
    calling.write(buffers, lambda: wait(calling, select.POLLOUT))
    reader.join()
    assert found == [b"".join(buffers)]


def test_p6_tls_messages_without_data_end_the_connection(wires, monkeypatch):
    """TLS has messages of its own, such as KeyUpdate, which a peer could send for ever."""
    calling, called = wires

    class Silent:
        def read(self, *_):
            raise ssl.SSLWantReadError

    monkeypatch.setattr(called, "_tls", Silent())
    sent = 0
    while sent < 4 * MOST_OVERHEAD and not called.at_end:
        sent += calling._socket.send(bytes(1 << 14))
        called.fill()
    assert called.at_end
    assert sent <= 2 * MOST_OVERHEAD


def test_the_end_of_the_connection_follows_the_last_bytes(wires):
    """The last bytes first."""
    calling, called = wires
    calling.write([b"last words"], lambda: wait(calling, select.POLLOUT))
    calling.end_writing()
    assert taken(called, 10) == b"last words"
    while not called.fill():
        wait(called, select.POLLIN)
    assert called.at_end
