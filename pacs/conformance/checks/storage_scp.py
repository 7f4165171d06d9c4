"""The storage SCP of the checks: the move destination, which responds as a check wants and records its requests."""

import socket
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pacs.conformance.checks import wire
from pacs.conformance.checks.association import NoResponse, PDUConnection
from pacs.conformance.checks.wire import DimseMessage, Malformed, MessageAssembler

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
REFUSED = 0xA700


@dataclass(frozen=True)
class SCPBehaviour:
    """How the storage SCP responds."""

    statuses: Mapping[str, int] = field(default_factory=dict)
    """The status by SOP Instance UID, otherwise Success."""
    refused: Collection[str] = ()
    """SOP Classes whose contexts are not accepted."""
    syntaxes: Collection[str] = ()
    """The accepted transfer syntaxes; if empty, the first proposed one is accepted."""
    hold: threading.Event | None = None
    """An event to wait for before each response."""


@dataclass(frozen=True)
class ReceivedMessage:
    """A received C-STORE or N-EVENT-REPORT request, its transfer syntax and the calling AE title."""

    message: DimseMessage
    syntax: str
    calling: str


class SampleReceiver:
    """A storage SCP; `with` starts and stops it. It stores only instances whose UIDs begin with `root`."""

    def __init__(self, ae_title: str, host: str, port: int, root: str, timeout: float = 10.0) -> None:
        self.ae_title = ae_title
        self.host = host
        self.port = port
        self._root = root
        self._timeout = timeout
        self._behaviour = SCPBehaviour()
        self._changed = threading.Condition()
        self._received: list[ReceivedMessage] = []
        self._connections: set[PDUConnection] = set()
        self._threads: list[threading.Thread] = []
        self._socket: socket.socket | None = None

    def __enter__(self) -> "SampleReceiver":
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def open(self) -> None:
        """Listen. Raises OSError if the port is in use."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.create_server((self.host, self.port), family=family)
        self.port = listener.getsockname()[1]
        self._socket = listener
        self._start(self._accept_connections, listener)

    def close(self) -> None:
        """Stop listening, close all connections, and join the threads."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None
        with self._changed:
            connections = list(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Do not listen during the block."""
        self.close()
        try:
            yield
        finally:
            self.open()

    @contextmanager
    def behaving(self, behaviour: SCPBehaviour) -> Iterator[list[ReceivedMessage]]:
        """Respond like this during the block; yield the list of what is received meanwhile."""
        with self._changed:
            self._behaviour, self._received = behaviour, []
            received = self._received
        try:
            yield received
        finally:
            if behaviour.hold is not None:
                behaviour.hold.set()
            with self._changed:
                self._behaviour, self._received = SCPBehaviour(), []

    def wait_for(self, received: list[ReceivedMessage], count: int, seconds: float) -> bool:
        """Wait until `count` messages were received; return whether that happened in time."""
        with self._changed:
            return self._changed.wait_for(lambda: len(received) >= count, seconds)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept_connections(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                self._start(self._serve, PDUConnection(connection, self._timeout))

    def _serve(self, connection: PDUConnection) -> None:
        with self._changed:
            self._connections.add(connection)
        try:
            with suppress(NoResponse, Malformed, OSError, IndexError):  # a broken association gets no answer
                self._associate(connection)
        finally:
            with self._changed:
                self._connections.discard(connection)
            connection.close()

    def _associate(self, connection: PDUConnection) -> None:
        kind, body = connection.pdu()
        if kind != wire.ASSOCIATE_RQ:
            return
        results = _negotiate(body, self._behaviour)
        connection.send(_accept(body, results))
        calling = wire.without_padding(body[20:36])
        assembler = MessageAssembler()
        while True:
            kind, body = connection.pdu()
            if kind != wire.P_DATA:
                break
            for each in wire.pdvs(body):
                message = assembler.add(*each)
                if message is not None:
                    syntax = results.get(message.context, (0, ""))[1]
                    self._respond(connection, ReceivedMessage(message, syntax, calling))
        if kind == wire.RELEASE_RQ:
            connection.send(wire.pdu(wire.RELEASE_RP, bytes(4)))

    def _respond(self, connection: PDUConnection, received: ReceivedMessage) -> None:
        message, behaviour = received.message, self._behaviour
        uid = message.text(wire.SOP_INSTANCE)
        is_sample = message.field != wire.C_STORE or uid.startswith(self._root)
        if is_sample and message.field != wire.C_ECHO:
            with self._changed:
                self._received.append(received)
                self._changed.notify_all()
        if behaviour.hold is not None:
            behaviour.hold.wait(self._timeout)
        status = behaviour.statuses.get(uid, 0) if is_sample else REFUSED
        connection.send(wire.p_data(message.context, message.response(status), None, 16384))


def _negotiate(body: bytes, behaviour: SCPBehaviour) -> dict[int, tuple[int, str]]:
    """Return result and transfer syntax of each proposed context."""
    results = {}
    for kind, inner in wire.items(body[68:]):
        if kind == 0x20:
            parts = list(wire.items(inner[4:]))
            abstract = next((wire.without_padding(each) for sub, each in parts if sub == 0x30), "")
            proposed = [wire.without_padding(each) for sub, each in parts if sub == 0x40]
            supported = [each for each in proposed if not behaviour.syntaxes or each in behaviour.syntaxes]
            if abstract in behaviour.refused:
                results[inner[0]] = (3, wire.IMPLICIT)
            else:
                results[inner[0]] = (0, supported[0]) if supported else (4, wire.IMPLICIT)
    return results


def _accept(request: bytes, results: Mapping[int, tuple[int, str]]) -> bytes:
    """Return the A-ASSOCIATE-AC; all proposed roles are accepted, so that storage commitment can be reported."""
    user = next((inner for kind, inner in wire.items(request[68:]) if kind == 0x50), b"")
    roles = (wire.item(kind, inner) for kind, inner in wire.items(user) if kind == 0x54)
    return wire.associate_ac(request, results, *roles)
