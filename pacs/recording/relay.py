"""Forwards connections to another port byte for byte, and decodes them."""

import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Self

from pacs.recording.sniffer import Side, SniffedEvent, Sniffer
from pacs.support.sockets import listening
from pacs.support.wakeup import WakeUp

OnEvent = Callable[[int, float, SniffedEvent], None]
"""Receives the number of the association, the seconds since the relay opened, and the event."""

CHUNK = 1 << 17
CONNECT_SECONDS = 10.0
BACKLOG = 16
MAX_CONNECTIONS = 32
"""Maximum number of simultaneous connections; further ones are closed."""


class Relay:
    """Accepts connections on (host, port) during a `with` block and forwards them to `target`.

    `on_event` is called by one thread at a time. Raises OSError if the address is not available.
    """

    def __init__(self, address: tuple[str, int], target: tuple[str, int], on_event: OnEvent) -> None:
        self._address = address
        self._target = target
        self._on_event = on_event
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._numbers = count(1)
        self._threads: list[threading.Thread] = []
        self._sockets: set[socket.socket] = set()
        self.failure: Exception | None = None
        """The exception that ended the recording; forwarding continues."""
        self._wake_up = WakeUp()

    def __enter__(self) -> Self:
        self._listener = listening(*self._address, BACKLOG)
        self._accepting = threading.Thread(target=self._accept_all, name="pacs-relay", daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._wake_up.wake()
        self._accepting.join()
        with self._lock:
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()
        self._wake_up.close()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        port: int = self._listener.getsockname()[1]
        return port

    def _accept_all(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_up, selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            while all(key.fileobj is not self._wake_up for key, _ in selector.select()):
                with suppress(BlockingIOError):
                    connection, _ = self._listener.accept()
                    self._threads = [each for each in self._threads if each.is_alive()]
                    if len(self._threads) >= MAX_CONNECTIONS:
                        connection.close()
                        continue
                    self._threads.append(
                        threading.Thread(target=self._forward, args=(connection,), name="pacs-relay", daemon=True)
                    )
                    self._threads[-1].start()

    def _forward(self, connection: socket.socket) -> None:
        """Forward one connection; close it if the target cannot be reached."""
        with connection:
            connection.setblocking(True)
            with suppress(OSError), socket.create_connection(self._target, CONNECT_SECONDS) as onward:
                onward.settimeout(None)
                with self._lock:
                    self._sockets |= {connection, onward}
                try:
                    self._forward_both_ways(connection, onward)
                finally:
                    with self._lock:
                        self._sockets -= {connection, onward}

    def _forward_both_ways(self, requestor: socket.socket, acceptor: socket.socket) -> None:
        """Forward each direction in a thread, so that a slow reader does not block the other direction."""
        sniffer, number = Sniffer(), next(self._numbers)

        def forward(side: Side, source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                chunk = b"?"
                while chunk:
                    chunk = source.recv(CHUNK)
                    self._report(number, sniffer, side, chunk)
                    target.sendall(chunk)
                target.shutdown(socket.SHUT_WR)
                return
            for each in (source, target):  # one side is closed: close the other
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

        for each in (requestor, acceptor):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=forward, args=("acceptor", acceptor, requestor), name="pacs-relay", daemon=True)
        back.start()
        forward("requestor", requestor, acceptor)
        back.join()

    def _report(self, number: int, sniffer: Sniffer, side: Side, chunk: bytes) -> None:
        """Report the events before the other side can respond; an error here does not disturb the connection."""
        with self._lock:
            if self.failure is not None:
                return
            try:
                for event in sniffer.feed(side, chunk):
                    self._on_event(number, time.monotonic() - self._began, event)
            except Exception as error:  # a full disk, or a defect in the sniffer
                self.failure = error
