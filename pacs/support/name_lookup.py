"""Addresses of host names, looked up in bounded time: `getaddrinfo` itself may take a minute, and ignores Ctrl-C."""

import socket
import threading
from collections.abc import Sequence
from typing import Any

from pacs.errors import OutOfResources
from pacs.support.threads import start_thread

Found = tuple[Any, Any, int, str, Any]
"""One result of `getaddrinfo`."""


def resolved(host: str, port: int, seconds: float) -> Sequence[Found]:
    """Return the addresses of a host for TCP. Raises OSError, a TimeoutError after `seconds`."""
    try:
        return _found(host, port, socket.AI_NUMERICHOST)
    except OSError:
        pass  # a name
    lookup = _Lookup(host, port)
    try:
        start_thread("pacs-lookup", lookup.run)
    except OutOfResources as error:
        raise OSError(error.comment) from error
    if not lookup.is_done.wait(max(0.0, seconds)):
        raise TimeoutError(f"{host} was not found in time")
    if lookup.error is not None:
        raise lookup.error
    return lookup.found


def _found(host: str, port: int, flags: int = 0) -> Sequence[Found]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as error:
        raise OSError(f"no host can have the name {host!r}") from error


class _Lookup:
    """The lookup of a name in a thread of its own, which outlives it if the time is over."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self.is_done = threading.Event()
        self.found: Sequence[Found] = ()
        self.error: OSError | None = None

    def run(self) -> None:
        """Look up the name."""
        try:
            self.found = _found(self._host, self._port)
        except OSError as error:
            self.error = error
        finally:
            self.is_done.set()
