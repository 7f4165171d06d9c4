"""A proxy between a client and a server that records what the client sends."""

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from threading import Thread

from tests.raw import C_STORE, messages, pdus

PATIENCE = 20
"""Seconds without data after which a connection is closed."""


@dataclass
class Tap:
    """A port of 127.0.0.1 that forwards to another one, and the bytes that each client sent to it."""

    target: int
    listener: socket.socket
    sent: list[bytearray] = field(default_factory=list)
    threads: list[Thread] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)

    @property
    def port(self) -> int:
        """The port that clients connect to."""
        return int(self.listener.getsockname()[1])

    def data_sets(self) -> dict[str, bytes]:
        """Return the data sets of the C-STORE requests by Affected SOP Instance UID.

        All clients must have closed their connections.
        """
        for thread in self.threads:
            thread.join(PATIENCE)
        sent = [message for side in self.sent for message in messages(_p_data_bodies(side))]
        return {each.text(0x1000): each.data or b"" for each in sent if each.field == C_STORE}

    def serve(self) -> None:
        """Accept clients until the listener is closed."""
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self._start(client, socket.create_connection(("127.0.0.1", self.target)))

    def _start(self, client: socket.socket, server: socket.socket) -> None:
        self.sent.append(bytearray())
        self.sockets += [client, server]
        for source, target, record in ((client, server, self.sent[-1]), (server, client, bytearray())):
            source.settimeout(PATIENCE)
            self.threads.append(Thread(target=_forward, args=(source, target, record), daemon=True))
            self.threads[-1].start()


@contextmanager
def tapping(target: int) -> Iterator[Tap]:
    """Run a tap in front of a port of 127.0.0.1."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        tap = Tap(target, listener)
        thread = Thread(target=tap.serve, daemon=True)
        thread.start()
        try:
            yield tap
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for each in (thread, *tap.threads):
                each.join(PATIENCE)
            for connected in tap.sockets:
                connected.close()


def _forward(source: socket.socket, target: socket.socket, record: bytearray) -> None:
    """Forward and record bytes until the source closes its side, then close that side of the target."""
    try:
        while piece := source.recv(1 << 17):
            record += piece
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        target.close()


def _p_data_bodies(sent: bytearray) -> Iterator[bytes]:
    """Yield the bodies of the P-DATA-TF PDUs among the bytes of one side."""
    return (body for kind, body in pdus(bytes(sent)) if kind == 0x04)
