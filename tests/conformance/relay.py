"""A relay that changes the messages between the checks and a conformant server."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pacs.conformance.checks import wire
from pacs.conformance.checks.wire import DimseMessage, MessageAssembler

Change = Callable[[DimseMessage], "list[DimseMessage] | DimseMessage"]
"""Returns the messages that replace a message; an empty list drops it."""

PIECE = 4000


def unchanged(message: DimseMessage) -> DimseMessage:
    """Return the message unchanged."""
    return message


@dataclass(frozen=True)
class Changes:
    """The changes that a relay makes."""

    answers: Change = unchanged
    """Of messages from the server."""
    requests: Change = unchanged
    """Of messages to the server."""
    pdu: Callable[[int, bytes], "tuple[int, bytes] | None"] = lambda kind, body: (kind, body)
    """Of other PDUs from the server; None closes the connection."""
    offer: Callable[[bytes], bytes] = lambda body: body
    """Of the body of an A-ASSOCIATE-RQ."""
    piece: int = PIECE
    """The longest fragment that the relay sends, in bytes."""


@dataclass
class Relay:
    """A listening relay; `changes` may be replaced while it runs."""

    upstream: int
    changes: Changes
    port: int = 0
    calls: int = 0
    """The number of connections so far."""
    sockets: list[socket.socket] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def listen(self, listening: socket.socket) -> None:
        """Accept connections until the socket is closed."""
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                self.calls += 1
                server = socket.create_connection(("127.0.0.1", self.upstream), 20)
                self.sockets += [client, server]
                self.start(self.pump, client, server, lambda: self.changes.requests, self._requested)
                self.start(self.pump, server, client, lambda: self.changes.answers, self.changes.pdu)

    def start(self, work, *arguments) -> None:
        """Run a function in a thread that `relaying` joins."""
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _requested(self, kind: int, body: bytes) -> tuple[int, bytes]:
        return kind, self.changes.offer(body) if kind == wire.ASSOCIATE_RQ else body

    def pump(self, source: socket.socket, target: socket.socket, change, other) -> None:
        """Forward PDUs from one side to the other, P-DATA-TF as whole messages."""
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
            b"" if message.data is None else wire.fragments(message.context, 0, message.data, self.changes.piece + 6)
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
def relaying(upstream: int, changes: Changes, port: int = 0) -> Iterator[Relay]:
    """Run a relay to a port of this machine."""
    relay = Relay(upstream, changes)
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
    """Change only the messages that satisfy a condition."""
    return lambda message: change(message) if condition(message) else message


def is_final(kind: int) -> Callable[[DimseMessage], bool]:
    """Return a condition: the final response of this service."""
    return lambda message: message.field == kind | wire.RESPONSE and not message.is_pending


def is_pending(kind: int) -> Callable[[DimseMessage], bool]:
    """Return a condition: a pending response of this service."""
    return lambda message: message.field == kind | wire.RESPONSE and message.is_pending


def is_request(kind: int) -> Callable[[DimseMessage], bool]:
    """Return a condition: a request with this Command Field."""
    return lambda message: message.field == kind


def set_element(tag: int, value: "int | str | None") -> Change:
    """Set a command element, or remove it (None)."""

    def change(message: DimseMessage) -> DimseMessage:
        elements = {each: raw_value for each, raw_value in message.elements.items() if each != tag}
        if value is not None:
            elements[tag] = value.to_bytes(2, "little") if isinstance(value, int) else value.encode()
        return DimseMessage(elements, message.context, message.data)

    return change


def change_data(change: Callable[[bytes], bytes]) -> Change:
    """Change the data set."""
    return lambda message: DimseMessage(message.elements, message.context, change(message.data or b""))


def add_data(data: bytes) -> Change:
    """Add a data set."""
    return lambda message: DimseMessage(set_element(wire.DATA_SET_TYPE, 1)(message).elements, message.context, data)


def drop(_: DimseMessage) -> list[DimseMessage]:
    """Drop the message."""
    return []


def duplicate(message: DimseMessage) -> list[DimseMessage]:
    """Send the message twice."""
    return [message, message]


def edit(**values: object) -> Change:
    """Set attributes by keyword in a data set in Implicit VR Little Endian, or delete them (None)."""

    def change(data: bytes) -> bytes:
        dataset = wire.decoded(data)
        for keyword, value in values.items():
            if value is not None:
                setattr(dataset, keyword, value)
            elif keyword in dataset:
                delattr(dataset, keyword)
        return wire.encoded(dataset)

    return change_data(change)
