"""An object that wakes a thread waiting in `select` or `poll`, from another thread or from a signal handler."""

import socket
from contextlib import suppress
from typing import Self


class WakeUp:
    """A socket pair: `wake` makes `fileno` readable until `clear`. Use it in a `with` block, or close it."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor to wait for; it is readable after `wake`."""
        return self._reader.fileno()

    @property
    def write_fileno(self) -> int:
        """The descriptor for `signal.set_wakeup_fd`, which writes the number of each signal as one byte."""
        return self._writer.fileno()

    def wake(self) -> None:
        """Wake the waiting thread, or the next one that waits. Does nothing when already woken or closed."""
        with suppress(OSError):
            self._writer.send(b"\0")

    def clear(self) -> None:
        """Forget the calls of `wake` so far; after thousands of them some may be left."""
        with suppress(BlockingIOError):
            self._reader.recv(4096)

    def close(self) -> None:
        """Close both sockets. No other thread may wait for it any more."""
        self._reader.close()
        self._writer.close()
