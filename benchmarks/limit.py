"""The limit: a program that reads, writes and fsyncs the data sets of C-STORE requests, and does nothing else.

`python -m benchmarks.limit PORT [FOLDER]` accepts every association and presentation context. With a folder, each data
set is written to a file as it is received, and fsynced before the response; no header is read and there is no index.
Without a folder it is a sink that only responds. With `--uncompressed` it accepts only Explicit and Implicit VR Little
Endian.
"""

import argparse
import os
import socket as sockets
import struct
import threading
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path

from benchmarks import wire
from pacs.conformance.checks.wire import (
    ASSOCIATE_RQ,
    COMMAND,
    EXPLICIT,
    IMPLICIT,
    LAST,
    P_DATA,
    RELEASE_RP,
    RELEASE_RQ,
    SOP_INSTANCE,
    command_value,
    pdu,
)

BUFFER = 1 << 20
"""Bytes read at once; the longest accepted PDU fits in."""


def main() -> None:
    """Serve until the process is killed."""
    options = argparse.ArgumentParser()
    options.add_argument("port", type=int)
    options.add_argument("folder", type=Path, nargs="?")
    options.add_argument("--uncompressed", action="store_true")
    given = options.parse_args()
    accepted = (EXPLICIT, IMPLICIT) if given.uncompressed else None
    with sockets.create_server(("127.0.0.1", given.port), backlog=128) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection, given.folder, accepted), daemon=True).start()


def _serve(connection: sockets.socket, folder: Path | None, accepted: Container[str] | None) -> None:
    connection.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
    with connection, suppress(ConnectionError):
        for kind, body in _pdus(connection):
            if kind == ASSOCIATE_RQ:
                connection.sendall(wire.associate_ac(bytes(body), accepted))
                reception = _Reception(connection, folder)
            elif kind == P_DATA:
                reception.take(body)
            elif kind == RELEASE_RQ:
                connection.sendall(pdu(RELEASE_RP, bytes(4)))


def _pdus(connection: sockets.socket) -> Iterator[tuple[int, memoryview]]:
    """Yield types and bodies of the received PDUs; a body is valid until the next one is read."""
    view = memoryview(bytearray(BUFFER))
    start = end = 0
    while True:
        needed = 6 + struct.unpack_from(">L", view, start + 2)[0] if end - start >= 6 else 6
        if end - start >= needed > 6 or (needed == 6 and end - start > 6):
            yield view[start], view[start + 6 : start + needed]
            start += needed
            continue
        if start + max(needed, BUFFER // 4) > BUFFER:
            view[: end - start] = bytes(view[start:end])
            start, end = 0, end - start
        count = connection.recv_into(view[end:])
        wire.acknowledge_at_once(connection)
        if not count:
            return
        end += count


class _Reception:
    """The messages of one association."""

    def __init__(self, connection: sockets.socket, folder: Path | None) -> None:
        self._connection, self._folder = connection, folder
        self._command = b""
        self._file: int | None = None

    def take(self, body: memoryview) -> None:
        """Process the PDVs of a P-DATA-TF."""
        at = 0
        while at < len(body):
            length, context, header = struct.unpack_from(">LBB", body, at)
            self._fragment(context, header, body[at + 6 : at + 4 + length])
            at += 4 + length

    def _fragment(self, context: int, header: int, data: memoryview) -> None:
        if header & COMMAND:
            self._command = bytes(data)
            return
        if self._folder is not None:
            self._write(self._folder, data)
        if header & LAST:
            self._finish()
            self._connection.sendall(wire.store_rsp(context, self._command))

    def _write(self, folder: Path, data: memoryview) -> None:
        if self._file is None:
            name = command_value(self._command, SOP_INSTANCE).decode().strip("\0")
            self._file = os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        while data:
            data = data[os.write(self._file, data) :]

    def _finish(self) -> None:
        if self._file is not None:
            os.fsync(self._file)
            os.close(self._file)
            self._file = None


if __name__ == "__main__":
    main()
