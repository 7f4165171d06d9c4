"""Connections of the HTTP server, with limits on what a client can cost.

uvicorn has a timeout only between two requests. This server also closes a connection that sends no complete request
for `WAIT` seconds, or that does not read its response for that time. Beyond `MOST_CONNECTIONS` it closes the connection
that has waited longest for a request.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

WAIT = 10.0
"""Seconds for a complete request, from the connection or the response before."""

MOST_CONNECTIONS = 100
"""Maximum number of connections."""


class Connection(H11Protocol):
    """A connection that is closed when it sends no complete request for too long."""

    _waits_since = 0.0
    _deadline: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout for the first request."""
        super().connection_made(transport)
        self._wait()
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeouts."""
        for timer in (self._deadline, self._stuck):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the timeout for a client that does not read."""
        self._stuck = self.loop.call_later(WAIT, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        """Cancel that timeout."""
        if self._stuck is not None:
            self._stuck.cancel()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Start the timeout for the next request."""
        self._wait()
        super().on_response_complete()

    def _wait(self) -> None:
        """Start the timeout for the next request."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._waits_since = self.loop.time()
        self._deadline = self.loop.call_later(WAIT, self._close_if_waiting)

    def _close_if_waiting(self) -> None:
        if self._is_waiting:
            self.transport.abort()

    @property
    def _is_waiting(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def _is_open(self) -> bool:
        return not self.transport.is_closing()

    def _make_room(self) -> None:
        opened = [each for each in self.connections if isinstance(each, Connection) and each._is_open]
        waiting = [each for each in opened if each._is_waiting]
        if len(opened) > MOST_CONNECTIONS and waiting:
            min(waiting, key=lambda each: each._waits_since).transport.abort()
