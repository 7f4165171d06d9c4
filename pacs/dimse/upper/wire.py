"""One TCP socket: a receive buffer that is filled and read without copies, and writes that gather buffers.

The socket never blocks. Callers wait for input or output with `pacs.dimse.upper.waiting`, where a wait can be
interrupted. P-ids such as P7 are explained in docs/checklist.md.
"""

import contextlib
import mmap
import socket
from collections.abc import Callable, Sequence

from pacs.support.buffers import remainder

Buffer = bytes | bytearray | memoryview

RECEIVE_BUFFER = 1 << 18
FIRST_BUFFER = 1 << 12
"""The buffer of a connection until its first input is consumed: many connections never send any (P7)."""

MOST_AT_ONCE = 512
"""The most buffers of one system call; Linux allows 1024."""

_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""A peer that lost power sends no FIN: keepalive notices it after a minute. Not every system has these options."""


class Wire:
    """A connected, or still connecting, TCP socket with a receive buffer of `capacity` bytes."""

    def __init__(self, connection: socket.socket, capacity: int = RECEIVE_BUFFER) -> None:
        self._socket = connection
        self._capacity = max(capacity, RECEIVE_BUFFER)
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._buffer = memoryview(bytearray(FIRST_BUFFER))
        self._start = self._end = 0
        self.at_end = False
        """Whether the peer has closed or the connection is lost: no more bytes follow those in the buffer."""
        self.received = 0
        """The number of bytes received so far."""
        self.is_torn = False
        """Whether a write stopped in the middle, so that the peer would misinterpret any further bytes."""

    def fileno(self) -> int:
        """Return the file descriptor; -1 once closed."""
        return self._socket.fileno()

    # --- input --------------------------------------------------------------------------------------------------

    @property
    def available(self) -> memoryview:
        """The bytes received and not consumed; valid until the next `fill`, `reserve` or `consume`."""
        return self._buffer[self._start : self._end]

    def consume(self, count: int) -> None:
        """Remove the first `count` available bytes."""
        self._start += count
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._buffer) != self._capacity:
                self._buffer = _pages(self._capacity)

    def reserve(self, count: int) -> None:
        """Make room for `count` available bytes; move those in the buffer to its front if necessary.

        The buffer grows only as bytes arrive, so that announced bytes that never come cost no memory. The caller calls
        this again until all have arrived.
        """
        size = len(self._buffer)
        if self._start + count <= size or self._end < size < count:
            return
        held = self._end - self._start
        target = self._buffer if count <= size else _pages(min(count, 2 * size))
        target[:held] = self._buffer[self._start : self._end]
        self._buffer, self._start, self._end = target, 0, held

    def fill(self) -> bool:
        """Read what has arrived, as far as there is room, without waiting. Return whether bytes, or the end, came."""
        if self.at_end or self._end == len(self._buffer):
            return False
        try:
            count = self._socket.recv_into(self._buffer[self._end :])
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            count = 0
        self.at_end = count == 0
        self._end += count
        self.received += count
        return True

    def acknowledge(self) -> None:
        """Send the TCP acknowledgement at once: a peer with Nagle's algorithm waits for it before it sends the rest.

        This saves 40 ms. Call it before waiting for the rest of a message; the response acknowledges a whole one.
        """
        if hasattr(socket, "TCP_QUICKACK"):
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    # --- output -------------------------------------------------------------------------------------------------

    def write(self, buffers: Sequence[Buffer], wait_for_room: Callable[[], None]) -> None:
        """Write all of `buffers`; call `wait_for_room` whenever the send buffer is full.

        Raises ConnectionError when the connection is lost, and what `wait_for_room` raises.
        """
        written = self._send(buffers)
        if written == sum(map(len, buffers)):
            return
        begun = written > 0
        rest = remainder([memoryview(each) for each in buffers if len(each)], written)
        try:
            while rest:
                if not written:
                    wait_for_room()
                written = self._send(rest)
                begun = begun or written > 0
                rest = remainder(rest, written)
        except BaseException:
            self.is_torn = self.is_torn or begun
            raise

    def write_each(
        self, messages: Sequence[bytes], wait_for_room: Callable[[], None], wanted: Callable[[], bool]
    ) -> int:
        """Write messages, many per system call, until `wanted` returns False. Return how many were written.

        Raises ConnectionError when the connection is lost, and what `wait_for_room` raises.
        """
        sent = 0
        while sent < len(messages) and wanted():
            # One copy of small messages takes less time than a buffer for each.
            written = self._send([b"".join(messages[sent : sent + MOST_AT_ONCE])])
            if not written:
                wait_for_room()
            while sent < len(messages) and written >= len(messages[sent]):
                written -= len(messages[sent])
                sent += 1
            if written:
                self._finish(memoryview(messages[sent])[written:], wait_for_room)
                sent += 1
        return sent

    def _finish(self, rest: memoryview, wait_for_room: Callable[[], None]) -> None:
        """Write the rest of a partly written message."""
        self.is_torn = True
        self.write([rest], wait_for_room)
        self.is_torn = False

    def _send(self, buffers: Sequence[Buffer]) -> int:
        try:
            return self._socket.sendmsg(buffers[:MOST_AT_ONCE])
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self.is_torn = True
            raise ConnectionError(str(error)) from error

    # --- the end ------------------------------------------------------------------------------------------------

    def end_writing(self) -> None:
        """Close the sending direction; what was written is still delivered."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def shut_down(self) -> None:
        """Close both directions; a thread that waits for this socket wakes up."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def discard(self) -> None:
        """Remove all available bytes, so that `fill` has room."""
        self._start = self._end = 0

    def close(self) -> None:
        """Close the socket. Only for its owner: another thread could still wait for the descriptor."""
        self._socket.close()


def _pages(size: int) -> memoryview:
    """Return page-aligned memory: the system copies into it in two thirds of the time."""
    return memoryview(mmap.mmap(-1, size))
