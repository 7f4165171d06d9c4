"""Listening sockets of the DIMSE and the web server, and their addresses as text."""

import socket

_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound

PRIVILEGED = (
    "a port below 1024 needs a right: choose another server.port, or give the process CAP_NET_BIND_SERVICE "
    "(systemd: AmbientCapabilities)"
)
"""What to do where this user may not listen on a port."""


def reached(host: str) -> str:
    """Return the address at which a listener on `host` is reached from this machine."""
    return _LOOPBACK_OF.get(host, host)


def host_and_port(host: str, port: int) -> str:
    """Return HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listening(host: str, port: int, backlog: int) -> socket.socket:
    """Return a non-blocking socket that listens on an address. Raises OSError."""
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
