"""The relay delays what passes it, and changes nothing."""

import socket
import threading
import time

from benchmarks.relay import relay


def echo(listener: socket.socket) -> None:
    """Send back what one connection sends, until it ends; connections that send nothing are ignored."""
    while True:
        connection, _ = listener.accept()
        with connection:
            while piece := connection.recv(1 << 16):
                connection.sendall(piece)


def test_the_relay_passes_everything_on_after_its_delay(tmp_path):
    """A round trip takes at least twice the delay; many bytes arrive in order, and the end of the stream as well."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=echo, args=(listener,), daemon=True).start()
        port = listener.getsockname()[1]
        with relay(tmp_path, port, 0.05) as port, socket.create_connection(("127.0.0.1", port), 30) as client:
            client.sendall(b"first")
            assert client.recv(100) == b"first"
            began = time.monotonic()
            client.sendall(b"second")
            assert client.recv(100) == b"second"
            assert time.monotonic() - began >= 0.1
            sent = bytes(range(256)) * 4096 * 8
            threading.Thread(target=lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR))).start()
            assert b"".join(iter(lambda: client.recv(1 << 18), b"")) == sent


def test_the_relay_closes_when_the_target_is_gone(tmp_path):
    """The connection ends instead of hanging."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = listener.getsockname()[1]
    with relay(tmp_path, target, 0.01) as port, socket.create_connection(("127.0.0.1", port), 30) as client:
        assert client.recv(1) == b""
