"""A relay between the conformance run and a server that plants deviations: the server itself is as it should be."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pacs.conformance.checks import wire
from pacs.conformance.checks.wire import DimseMessage, MessageAssembler

Change = Callable[[DimseMessage], "list[DimseMessage] | DimseMessage"]
"""What becomes of a message; an empty list when it gets lost."""

PIECE = 4000


def as_it_is(message: DimseMessage) -> DimseMessage:
    """No change."""
    return message


@dataclass(frozen=True)
class Plant:
    """What the relay changes."""

    answers: Change = as_it_is
    """Messages of the server to the run."""
    requests: Change = as_it_is
    """Messages of the run to the server."""
    pdu: Callable[[int, bytes], "tuple[int, bytes] | None"] = lambda kind, body: (kind, body)
    """Other PDUs of the server; None closes the connection."""
    offer: Callable[[bytes], bytes] = lambda body: body
    """The body of an A-ASSOCIATE-RQ to the server."""
    piece: int = PIECE
    """How many bytes of a message the relay puts into one PDU."""


@dataclass
class Relay:
    """Where the relay listens; `plant` may be changed while it runs."""

    upstream: int
    plant: Plant
    port: int = 0
    calls: int = 0
    """How many associations there have been."""
    sockets: list[socket.socket] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def listen(self, listening: socket.socket) -> None:
        """Relay every connection until the socket is closed."""
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                self.calls += 1
                server = socket.create_connection(("127.0.0.1", self.upstream), 20)
                self.sockets += [client, server]
                self.start(self.pump, client, server, lambda: self.plant.requests, self._requested)
                self.start(self.pump, server, client, lambda: self.plant.answers, self.plant.pdu)

    def start(self, work, *arguments) -> None:
        """Run something in a thread that `relaying` waits for."""
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _requested(self, kind: int, body: bytes) -> tuple[int, bytes]:
        return kind, self.plant.offer(body) if kind == wire.ASSOCIATE_RQ else body

    def pump(self, source: socket.socket, target: socket.socket, change, other) -> None:
        """Carry PDUs from one side to the other, P-DATA message by message."""
        assembly = MessageAssembler()
        try:
            while True:
                kind, body = _pdu(source)
                if kind == wire.P_DATA:
                    whole = [assembly.add(*each) for each in wire.pdvs(body)]
                    for message in whole:
                        if message is not None:
                            target.sendall(self._encoded(change()(message)))
                else:
                    said = other(kind, body)
                    if said is None:
                        break
                    target.sendall(wire.pdu(*said))
        except (OSError, ConnectionError):
            pass
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _encoded(self, messages: "list[DimseMessage] | DimseMessage") -> bytes:
        return b"".join(self._pdus(each) for each in (messages if isinstance(messages, list) else [messages]))

    def _pdus(self, message: DimseMessage) -> bytes:
        command = wire.command_set({tag: value for tag, value in message.elements.items() if tag})
        sent = wire.fragments(message.context, wire.COMMAND, command, len(command) + 6)
        return sent + (
            b"" if message.data is None else wire.fragments(message.context, 0, message.data, self.plant.piece + 6)
        )


def _pdu(source: socket.socket) -> tuple[int, bytes]:
    head = _read(source, 6)
    return head[0], _read(source, int.from_bytes(head[2:], "big"))


def _read(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = source.recv(count - len(data))
        if not piece:
            raise ConnectionError
        data += piece
    return data


@contextmanager
def relaying(upstream: int, plant: Plant, port: int = 0) -> Iterator[Relay]:
    """A relay to a port of this machine, for the `with` block."""
    relay = Relay(upstream, plant)
    with socket.create_server(("127.0.0.1", port)) as listening:
        relay.port = listening.getsockname()[1]
        relay.start(relay.listen, listening)
        try:
            yield relay
        finally:
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            for each in relay.sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            for thread in relay.threads:
                thread.join()
            for each in relay.sockets:
                each.close()


# --- changes -------------------------------------------------------------------------------------------------------


def when(condition: Callable[[DimseMessage], bool], change: Change) -> Change:
    """A change of those messages alone for which a condition holds."""
    return lambda message: change(message) if condition(message) else message


def is_final(kind: int) -> Callable[[DimseMessage], bool]:
    """Whether a message is the last response of this Command Field's service."""
    return lambda message: message.field == kind | wire.RESPONSE and not message.is_pending


def is_pending(kind: int) -> Callable[[DimseMessage], bool]:
    """Whether a message is a pending response of this Command Field's service."""
    return lambda message: message.field == kind | wire.RESPONSE and message.is_pending


def is_request(kind: int) -> Callable[[DimseMessage], bool]:
    """Whether a message is a request with this Command Field."""
    return lambda message: message.field == kind


def says(tag: int, value: "int | str | None") -> Change:
    """Another value of a command element, or none."""

    def change(message: DimseMessage) -> DimseMessage:
        elements = {each: raw_value for each, raw_value in message.elements.items() if each != tag}
        if value is not None:
            elements[tag] = value.to_bytes(2, "little") if isinstance(value, int) else value.encode()
        return DimseMessage(elements, message.context, message.data)

    return change


def holds(change: Callable[[bytes], bytes]) -> Change:
    """Another data set."""
    return lambda message: DimseMessage(message.elements, message.context, change(message.data or b""))


def with_data(data: bytes) -> Change:
    """A data set where there was none."""
    return lambda message: DimseMessage(says(wire.DATA_SET_TYPE, 1)(message).elements, message.context, data)


def lost(_: DimseMessage) -> list[DimseMessage]:
    """The message gets lost."""
    return []


def twice(message: DimseMessage) -> list[DimseMessage]:
    """The message comes two times."""
    return [message, message]


def edited(**values: object) -> Change:
    """Attributes set by keyword in the data set, in Implicit VR Little Endian; None deletes one."""

    def change(data: bytes) -> bytes:
        dataset = wire.decoded(data)
        for keyword, value in values.items():
            if value is not None:
                setattr(dataset, keyword, value)
            elif keyword in dataset:
                delattr(dataset, keyword)
        return wire.encoded(dataset)

    return holds(change)
