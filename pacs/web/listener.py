"""Where HTTP is listened for, and the thread it is answered in. uvicorn does HTTP; what a stranger may cost is ours.

uvicorn gives up a connection only between two requests. Here one that is without a whole request for `WAIT` seconds is
given up, whatever it sends, and so is one that reads nothing of its answers for that time; and there is always room
for one more: beyond `MOST_CONNECTIONS` the one that waits longest makes room.
"""

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pacs.support.sockets import listening

if TYPE_CHECKING:
    import uvicorn

Application = Callable[..., Any]

WAIT = 10.0
"""Seconds a connection may take for its request, and again after each answer."""

KEEP_ALIVE = 5
"""Seconds a connection may be silent after an answer."""

HANDSHAKE = 3.0
"""Seconds TLS may take to begin."""

MOST_CONNECTIONS = 100

BACKLOG = 128
"""How many connections may wait to be accepted."""

LONGEST_HEAD = 16384
"""Bytes of a request before its body."""

STOPPING = 5.0
"""Seconds the end may take."""


class WebServer:
    """Answers HTTP on one address, with `tls` HTTPS, by the application that `make` makes, in a thread of its own.

    What it needs is imported in that thread: nobody waits for it. It serves alone, or as one of several workers, which
    share the listener.
    """

    def __init__(
        self, host: str, port: int, make: Callable[[], Application], tls: ssl.SSLContext | None = None
    ) -> None:
        self._host, self._port = host, port
        self._make = make
        self._tls = tls
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._server: uvicorn.Server | None = None
        self._is_over = False

    def listen(self) -> None:
        """Listen, and answer nothing yet. Raises OSError when the address cannot be had."""
        self._listener = listening(self._host, self._port, BACKLOG)

    @property
    def port(self) -> int:
        """The port that is listened on, also where 0 was asked for; 0 while nobody listens."""
        return int(self._listener.getsockname()[1]) if self._listener is not None else 0

    def join(self, listening: "WebServer") -> None:
        """Share the listener of the server that listened before this process was forked."""
        self._listener = listening._listener

    def start(self) -> None:
        """Begin to answer."""
        self._thread = threading.Thread(target=self._run, name="pacs-web", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Answer no more; what is being answered has a moment. Twice does no harm."""
        with self._lock:
            self._is_over = True
            if self._server is not None:
                self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(STOPPING)
        if self._listener is not None:
            self._listener.close()
        self._thread = self._listener = None

    def _run(self) -> None:
        listener = self._listener
        try:
            server = _server(self._make(), self._tls)
            with self._lock:
                if self._is_over:
                    return
                self._server = server
            asyncio.run(_serve(server, [listener] if listener is not None else []))
        except Exception:
            logging.getLogger("pacs").exception("the web listener failed")


async def _serve(server: "uvicorn.Server", listeners: list[socket.socket]) -> None:
    """Answer until the server is told to exit. Who begins with TLS and goes on is waited for as everybody else is."""
    loop = asyncio.get_running_loop()
    if server.config.ssl is not None:  # uvicorn leaves asyncio's own time, a minute, and has no setting for it
        create = partial(loop.create_server, ssl_handshake_timeout=HANDSHAKE)
        loop.create_server = create  # type: ignore[method-assign]
    await server.serve(sockets=listeners)


def _server(application: Application, tls: ssl.SSLContext | None) -> "uvicorn.Server":
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Connection(H11Protocol):
        """A connection that is given up when it is without a whole request for too long."""

        _waits_since = 0.0
        _deadline: asyncio.TimerHandle | None = None
        _stuck: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()
            self._make_room()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._deadline, self._stuck):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            self._stuck = self.loop.call_later(WAIT, self.transport.abort)
            super().pause_writing()

        def resume_writing(self) -> None:
            if self._stuck is not None:
                self._stuck.cancel()
            super().resume_writing()

        def on_response_complete(self) -> None:
            self._wait()
            super().on_response_complete()

        def _wait(self) -> None:
            """Wait for a request, for so long from now on."""
            if self._deadline is not None:
                self._deadline.cancel()
            self._waits_since = self.loop.time()
            self._deadline = self.loop.call_later(WAIT, self._give_up)

        def _give_up(self) -> None:
            if self._is_waiting:
                self.transport.abort()

        @property
        def _is_waiting(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        @property
        def _is_there(self) -> bool:
            return not self.transport.is_closing()

        def _make_room(self) -> None:
            there = [each for each in self.connections if isinstance(each, Connection) and each._is_there]
            waiting = [each for each in there if each._is_waiting]
            if len(there) > MOST_CONNECTIONS and waiting:
                min(waiting, key=lambda each: each._waits_since).transport.abort()

    config = uvicorn.Config(
        application,
        http=Connection,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=2 * MOST_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=LONGEST_HEAD,
    )
    config.load()
    config.ssl = tls
    return uvicorn.Server(config)
