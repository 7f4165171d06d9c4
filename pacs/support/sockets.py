"""A socket that listens: made in one way for every mouth."""

import socket

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound


def reached(host: str) -> str:
    """Where what listens on an address is reached from this machine."""
    return _EVERYWHERE.get(host, host)


def listening(host: str, port: int, backlog: int) -> socket.socket:
    """A socket that listens on an address and blocks nobody who accepts from it. Raises OSError."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
