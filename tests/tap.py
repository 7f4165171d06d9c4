"""What really went over the wire: a tap between a client and a server, which alters nothing and forgets nothing."""

import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from threading import Thread

from tests import raw

PATIENCE = 20
"""Seconds after which a connection on which nothing comes is given up."""


@dataclass
class Tap:
    """A port of 127.0.0.1 that leads on to another one, and the bytes every client sent to it."""

    target: int
    listener: socket.socket
    said: list[bytearray] = field(default_factory=list)
    threads: list[Thread] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)

    @property
    def port(self) -> int:
        """Where clients connect."""
        return int(self.listener.getsockname()[1])

    def data_sets(self) -> dict[str, bytes]:
        """The data sets of the C-STORE requests that were sent, by Affected SOP Instance UID.

        All clients must have closed their connections.
        """
        for thread in self.threads:
            thread.join(PATIENCE)
        stored = [
            message for said in self.said for message in raw.messages(_values(said)) if message.number(0x0100) == 1
        ]
        return {message.text(0x1000): message.data or b"" for message in stored}

    def serve(self) -> None:
        """Take in one client after the other until the listener is closed."""
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self._start(client, socket.create_connection(("127.0.0.1", self.target)))

    def _start(self, client: socket.socket, server: socket.socket) -> None:
        self.said.append(bytearray())
        self.sockets += [client, server]
        for source, target, record in ((client, server, self.said[-1]), (server, client, bytearray())):
            source.settimeout(PATIENCE)
            self.threads.append(Thread(target=_pass_on, args=(source, target, record), daemon=True))
            self.threads[-1].start()


@contextmanager
def tapping(target: int) -> Iterator[Tap]:
    """A tap in front of a port of 127.0.0.1, for the `with` block."""
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


def _pass_on(source: socket.socket, target: socket.socket, record: bytearray) -> None:
    """Copy what comes until the source closes; then nothing more is sent to the target."""
    try:
        while piece := source.recv(1 << 17):
            record += piece
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        target.close()


def _values(said: bytearray) -> Iterator[bytes]:
    """The bodies of the P-DATA-TF PDUs among the bytes of one side."""
    at = 0
    while at < len(said):
        kind, length = struct.unpack_from(">BxL", said, at)
        if kind == 0x04:
            yield bytes(said[at + 6 : at + 6 + length])
        at += 6 + length
