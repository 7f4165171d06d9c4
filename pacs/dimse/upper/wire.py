"""One TCP socket: a receive buffer that is filled and looked into without copies, and writes that gather buffers.

The socket never blocks by itself: whoever needs bytes or room waits with `pacs.dimse.upper.waiting`, where it can be
interrupted.
"""

import contextlib
import mmap
import socket
from collections.abc import Callable, Sequence

from pacs.support.buffers import remainder

Buffer = bytes | bytearray | memoryview

RECEIVE_BUFFER = 1 << 18
FIRST_BUFFER = 1 << 12
"""What a connection costs until it has said something: many of them never do (P7)."""

MOST_AT_ONCE = 512
"""How many buffers are handed over at once; Linux takes 1024."""

_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""A peer that lost its power sends no FIN: it is noticed after a minute. Not every system has these options."""


class Wire:
    """A connected, or still connecting, TCP socket. `capacity` is that of its receive buffer, in bytes."""

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
        """Whether the peer has closed, or the connection broke: no more bytes will come than are in the buffer."""
        self.received = 0
        """How many bytes have come in."""
        self.is_torn = False
        """Whether a write stopped in the middle: nothing that is written now would be understood."""

    def fileno(self) -> int:
        """The file descriptor, for waiting; -1 once closed."""
        return self._socket.fileno()

    # --- in -----------------------------------------------------------------------------------------------------

    @property
    def available(self) -> memoryview:
        """What came in and was not consumed: valid until the next `fill`, `reserve` or `consume`."""
        return self._buffer[self._start : self._end]

    def consume(self, count: int) -> None:
        """Have done with the first `count` available bytes."""
        self._start += count
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._buffer) != self._capacity:
                self._buffer = _pages(self._capacity)

    def reserve(self, count: int) -> None:
        """Make room towards `count` bytes being available at once, by moving what is there to the front if need be.

        The buffer grows as bytes come: what is announced and not sent costs nothing. To be called again until they
        are there.
        """
        size = len(self._buffer)
        if self._start + count <= size or self._end < size < count:
            return
        held = self._end - self._start
        target = self._buffer if count <= size else _pages(min(count, 2 * size))
        target[:held] = self._buffer[self._start : self._end]
        self._buffer, self._start, self._end = target, 0, held

    def fill(self) -> bool:
        """Take in what has arrived, as far as there is room, without waiting: whether anything, or the end, came."""
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
        """Acknowledge what has come at once: a peer with Nagle on waits 40 ms for it before it sends the rest.

        To be called before waiting for the rest of something; what is whole is acknowledged with its answer.
        """
        if hasattr(socket, "TCP_QUICKACK"):
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    # --- out ----------------------------------------------------------------------------------------------------

    def write(self, buffers: Sequence[Buffer], wait_for_room: Callable[[], None]) -> None:
        """Write all of `buffers`, calling `wait_for_room` whenever the socket takes no more.

        Raises ConnectionError when the peer is gone, and what `wait_for_room` raises.
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
        """Write messages, as many at once as the socket takes: how many went. None begins that is not `wanted` then.

        Raises ConnectionError when the peer is gone, and what `wait_for_room` raises.
        """
        sent = 0
        while sent < len(messages) and wanted():
            written = self._send([memoryview(each) for each in messages[sent : sent + MOST_AT_ONCE]])
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
        """Write the rest of a message, a part of which has gone."""
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
        """Say that nothing more comes; what was written is still delivered."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """End both directions: whoever waits for this socket in another thread wakes up."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def discard(self) -> None:
        """Throw away what has arrived and not been consumed, so that `fill` has room."""
        self._start = self._end = 0

    def close(self) -> None:
        """Give the socket back. Only its owner may do this: another thread could still be waiting for the number."""
        self._socket.close()


def _pages(size: int) -> memoryview:
    """Memory that begins with a page: the system copies into it in two thirds of the time."""
    return memoryview(mmap.mmap(-1, size))
