"""The HTTP server: uvicorn in a thread, with limits on what a client can cost (`pacs.web.connection_limits`)."""

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pacs.support.exhaustion import ExhaustionWarning, exhaustion
from pacs.support.sockets import listening
from pacs.support.threads import start_thread

if TYPE_CHECKING:
    import uvicorn

Application = Callable[..., Any]

KEEP_ALIVE = 5
"""Seconds a connection may be idle after a response."""

HANDSHAKE = 3.0
"""Timeout of the TLS handshake in seconds."""

BACKLOG = 128
"""Number of connections that may wait to be accepted."""

LONGEST_HEAD = 16384
"""Maximum size of the request line and headers in bytes."""

RETRY = 1.0
"""Seconds until the server is started again after a resource was missing."""

STOPPING = 5.0
"""Seconds to wait for the thread to end."""


class WebServer:
    """Serves the application that `make` returns on one address, with `tls` by HTTPS, in a thread of its own.

    The thread imports uvicorn and the application, so that the start does not wait for them. Several workers share the
    listening socket, and what `preload` has imported before they were forked.
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
        """Listen, without accepting yet. Raises OSError."""
        self._listener = listening(self._host, self._port, BACKLOG)

    @property
    def port(self) -> int:
        """The port of the listening socket, 0 before `listen`."""
        return int(self._listener.getsockname()[1]) if self._listener is not None else 0

    def preload(self) -> None:
        """Import what the thread imports otherwise."""
        _server(self._make(), self._tls)

    def join(self, listening: "WebServer") -> None:
        """Share the listening socket of the supervisor's server."""
        self._listener = listening._listener

    def start(self) -> None:
        """Start the thread. Raises OutOfResources."""
        self._thread = start_thread("pacs-web", self._run)

    def stop(self) -> None:
        """Stop; a response in progress has a moment to end. Does nothing the second time."""
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
        """Serve; start again while only a resource is missing that may be free later."""
        waiting = ExhaustionWarning("HTTP requests have to wait")
        while not self._is_over:
            try:
                self._serve(waiting)
            except Exception as error:
                if (exhausted := exhaustion(error)) is None:
                    logging.getLogger("pacs").exception("the HTTP server failed")
                    return
                waiting.log(exhausted)
                time.sleep(RETRY)
            else:
                return

    def _serve(self, waiting: ExhaustionWarning) -> None:
        listener = self._listener
        server = _server(self._make(), self._tls)
        with self._lock:
            if self._is_over:
                return
            self._server = server
        asyncio.run(_serve(server, [listener] if listener is not None else [], waiting))


async def _serve(server: "uvicorn.Server", listeners: list[socket.socket], waiting: ExhaustionWarning) -> None:
    """Serve until the server is told to exit."""
    loop = asyncio.get_running_loop()

    def handle_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception) and (exhausted := exhaustion(error)) is not None:
            waiting.log(exhausted)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle_error)
    if server.config.ssl is not None:  # uvicorn has no setting for the handshake timeout, which is a minute in asyncio
        create = partial(loop.create_server, ssl_handshake_timeout=HANDSHAKE)
        loop.create_server = create  # type: ignore[method-assign]
    await server.serve(sockets=listeners)


def _server(application: Application, tls: ssl.SSLContext | None) -> "uvicorn.Server":
    import uvicorn

    from pacs.web.connection_limits import MOST_CONNECTIONS, Connection

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
