"""A relay that delays each direction of a TCP connection, as a long line does, and does not limit its throughput.

`python -m benchmarks.relay PORT TARGET` accepts connections on PORT of 127.0.0.1, and passes what it receives to TARGET
after a delay, in both directions. With the delay of 10 ms that is set, a request and its response take 20 ms more. So
does the TCP handshake, which a relay cannot see: the first bytes of a connection wait for a round trip longer.
"""

import argparse
import socket as sockets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from threading import Thread

from benchmarks.processes import free_port, running

DELAY = 0.010
"""Seconds that each direction takes."""

PIECE = 1 << 18
"""Bytes that are read at once."""

ON_THE_WAY = 512
"""Pieces that are on the way in one direction before the sender has to wait: far more than fit into 10 ms."""

REPOSITORY = Path(__file__).parent.parent

Line = Queue[tuple[float, bytes]]
"""The bytes on the way, each piece with the time at which it arrives; an empty piece is the end of the stream."""


@contextmanager
def relay(folder: Path, target: int, delay: float = DELAY) -> Iterator[int]:
    """Run a relay to the port `target` as a process of its own, and yield its port. Raises NotRunning."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.relay", port, target, "--delay", delay]
    with running(command, folder, port, {"PYTHONPATH": str(REPOSITORY)}):
        yield port


def main() -> None:
    """Relay until the process is killed."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.relay")
    options.add_argument("port", type=int, help="port to listen on")
    options.add_argument("target", type=int, help="port to which connections are passed on")
    options.add_argument("--delay", type=float, default=DELAY, help=f"seconds of each direction (default: {DELAY})")
    given = options.parse_args()
    with sockets.create_server(("127.0.0.1", given.port), backlog=128) as listener:
        while True:
            near, _ = listener.accept()
            _start(_connect, near, given.target, given.delay)


def _start(function: object, *arguments: object) -> None:
    Thread(target=function, args=arguments, daemon=True).start()  # type: ignore[arg-type]


def _connect(near: sockets.socket, target: int, delay: float) -> None:
    """Connect to the target after the round trip of the handshake, and relay both directions."""
    time.sleep(2 * delay)
    try:
        far = sockets.create_connection(("127.0.0.1", target))
    except OSError:
        near.close()
        return
    for each in (near, far):
        each.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
    for source, destination in ((near, far), (far, near)):
        line: Line = Queue(ON_THE_WAY)
        _start(_read, source, line, delay)
        _start(_write, destination, line)


def _read(source: sockets.socket, line: Line, delay: float) -> None:
    """Put what arrives on the line, up to the end of the stream; a reset ends it as well."""
    piece = b"-"
    while piece:
        piece = b""
        with suppress(ConnectionError):
            piece = source.recv(PIECE)
        line.put((time.monotonic() + delay, piece))


def _write(destination: sockets.socket, line: Line) -> None:
    """Pass each piece on when it is due; once the destination is gone, discard what is left."""
    gone = False
    for due, piece in iter(line.get, None):
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            if not gone and piece:
                destination.sendall(piece)
            elif not piece:
                destination.shutdown(sockets.SHUT_WR)
        except OSError:
            gone = True
        if not piece:
            return


if __name__ == "__main__":
    main()
