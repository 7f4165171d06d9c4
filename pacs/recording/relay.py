"""A port that leads on to another one: what goes by is passed on byte for byte, and overheard."""

import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Self

from pacs.recording.sniffer import Heard, Overhearing, Side
from pacs.support.sockets import listening
from pacs.support.wakeup import WakeUp

Witness = Callable[[int, float, Heard], None]
"""Told the number of the association, the seconds since the relay was opened, and what was said."""

CHUNK = 1 << 17
CONNECT_SECONDS = 10.0
BACKLOG = 16
MOST_AT_ONCE = 32
"""How many connections are led on at the same time; one more is closed."""


class Relay:
    """Accepts connections on (host, port) while its `with` block runs, each led on to `target`.

    `witness` is called by one thread at a time. Raises OSError when the address cannot be listened on.
    """

    def __init__(self, address: tuple[str, int], target: tuple[str, int], witness: Witness) -> None:
        self._address = address
        self._target = target
        self._witness = witness
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._numbers = count(1)
        self._threads: list[threading.Thread] = []
        self._sockets: set[socket.socket] = set()
        self.failure: Exception | None = None
        """What ended the telling; the passing on goes on."""
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
        """Where it listens."""
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
                    if len(self._threads) >= MOST_AT_ONCE:
                        connection.close()
                        continue
                    self._threads.append(
                        threading.Thread(target=self._lead_on, args=(connection,), name="pacs-relay", daemon=True)
                    )
                    self._threads[-1].start()

    def _lead_on(self, connection: socket.socket) -> None:
        """The life of one connection. Where the target cannot be reached it is closed, which its caller sees."""
        with connection:
            connection.setblocking(True)
            with suppress(OSError), socket.create_connection(self._target, CONNECT_SECONDS) as onwards:
                onwards.settimeout(None)
                with self._lock:
                    self._sockets |= {connection, onwards}
                try:
                    self._both_ways(connection, onwards)
                finally:
                    with self._lock:
                        self._sockets -= {connection, onwards}

    def _both_ways(self, requestor: socket.socket, acceptor: socket.socket) -> None:
        """Pass on what comes from either side, each in a thread: who does not read holds up nobody else."""
        overhearing, number = Overhearing(), next(self._numbers)

        def pass_on(side: Side, source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                chunk = b"?"
                while chunk:
                    chunk = source.recv(CHUNK)
                    self._tell(number, overhearing, side, chunk)
                    target.sendall(chunk)
                target.shutdown(socket.SHUT_WR)
                return
            for each in (source, target):  # one is gone: the other hears it
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

        for each in (requestor, acceptor):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=pass_on, args=("acceptor", acceptor, requestor), name="pacs-relay", daemon=True)
        back.start()
        pass_on("requestor", requestor, acceptor)
        back.join()

    def _tell(self, number: int, overhearing: Overhearing, side: Side, chunk: bytes) -> None:
        """Tell the witness, before the other side can answer; what goes wrong with that is no matter of the two."""
        with self._lock:
            if self.failure is not None:
                return
            try:
                for heard in overhearing.hear(side, chunk):
                    self._witness(number, time.monotonic() - self._began, heard)
            except Exception as error:  # a full disk, or a defect of ours
                self.failure = error
