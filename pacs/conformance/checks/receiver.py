"""Our own storage SCP, the destination of C-MOVE: it answers as a check wants, and keeps what it was told."""

import socket
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pacs.conformance.checks import wire
from pacs.conformance.checks.association import Ended, Line
from pacs.conformance.checks.wire import DimseMessage, Malformed, MessageAssembler

COMMITMENT = "1.2.840.10008.1.20.1"
REFUSED = 0xA700


@dataclass(frozen=True)
class Behaviour:
    """How the receiver answers."""

    statuses: Mapping[str, int] = field(default_factory=dict)
    """The status of an instance by SOP Instance UID, otherwise Success."""
    refused: Collection[str] = ()
    """SOP Classes of which no context is accepted."""
    syntaxes: Collection[str] = ()
    """The transfer syntaxes that are accepted; none named is any, the first that is proposed."""
    hold: threading.Event | None = None
    """Where there is one, no instance is answered before it is set."""


@dataclass(frozen=True)
class Arrival:
    """An instance or report that came: the message, its transfer syntax, and who called."""

    message: DimseMessage
    syntax: str
    calling: str


class Receiver:
    """Listens under an AE title; `with` starts and stops it. `root` is what the UIDs it takes begin with."""

    def __init__(self, ae_title: str, host: str, port: int, root: str, patience: float = 10.0) -> None:
        self.ae_title = ae_title
        self.host = host
        self.port = port
        self._root = root
        self._patience = patience
        self._behaviour = Behaviour()
        self._changed = threading.Condition()
        self._arrived: list[Arrival] = []
        self._lines: set[Line] = set()
        self._threads: list[threading.Thread] = []
        self._socket: socket.socket | None = None

    def __enter__(self) -> "Receiver":
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def open(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listening = socket.create_server((self.host, self.port), family=family)
        self.port = listening.getsockname()[1]
        self._socket = listening
        self._start(self._listen, listening)

    def close(self) -> None:
        """Listen no longer, end every connection, and wait for the threads."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None
        with self._changed:
            lines = list(self._lines)
        for line in lines:
            with suppress(OSError):
                line.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Nobody listens on the port while the body runs."""
        self.close()
        try:
            yield
        finally:
            self.open()

    @contextmanager
    def behaving(self, behaviour: Behaviour) -> Iterator[list[Arrival]]:
        """Answer like this while the body runs; what arrives meanwhile comes into the list."""
        with self._changed:
            self._behaviour, self._arrived = behaviour, []
            arrived = self._arrived
        try:
            yield arrived
        finally:
            if behaviour.hold is not None:
                behaviour.hold.set()
            with self._changed:
                self._behaviour, self._arrived = Behaviour(), []

    def wait_for(self, arrived: list[Arrival], count: int, seconds: float) -> bool:
        """Wait until so many have arrived; whether they have, in time."""
        with self._changed:
            return self._changed.wait_for(lambda: len(arrived) >= count, seconds)

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _listen(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                self._start(self._serve, Line(connection, self._patience))

    def _serve(self, line: Line) -> None:
        with self._changed:
            self._lines.add(line)
        try:
            with suppress(Ended, Malformed, OSError, IndexError):  # whoever sends no association is not answered
                self._associate(line)
        finally:
            with self._changed:
                self._lines.discard(line)
            line.close()

    def _associate(self, line: Line) -> None:
        kind, body = line.pdu()
        if kind != wire.ASSOCIATE_RQ:
            return
        accepted = _accepted(body, self._behaviour)
        line.send(_accept(body, accepted))
        calling = wire.without_padding(body[20:36])
        assembly = MessageAssembler()
        while True:
            kind, body = line.pdu()
            if kind != wire.P_DATA:
                break
            for each in wire.pdvs(body):
                message = assembly.add(*each)
                if message is not None:
                    self._answer(line, Arrival(message, accepted.get(message.context, ("", ""))[1], calling))
        if kind == wire.RELEASE_RQ:
            line.send(wire.pdu(wire.RELEASE_RP, bytes(4)))

    def _answer(self, line: Line, arrival: Arrival) -> None:
        message, behaviour = arrival.message, self._behaviour
        uid = message.text(wire.SOP_INSTANCE)
        ours = message.field != wire.C_STORE or uid.startswith(self._root)
        if ours and message.field != wire.C_ECHO:
            with self._changed:
                self._arrived.append(arrival)
                self._changed.notify_all()
        if behaviour.hold is not None:
            behaviour.hold.wait(self._patience)
        status = behaviour.statuses.get(uid, 0) if ours else REFUSED
        line.send(wire.p_data(message.context, message.response(status), None, 16384))


def _accepted(body: bytes, behaviour: Behaviour) -> dict[int, tuple[int, str]]:
    """The result and transfer syntax of each proposed context."""
    found = {}
    for kind, inner in wire.items(body[68:]):
        if kind == 0x20:
            parts = list(wire.items(inner[4:]))
            abstract = next((wire.without_padding(each) for sub, each in parts if sub == 0x30), "")
            offered = [wire.without_padding(each) for sub, each in parts if sub == 0x40]
            fitting = [each for each in offered if not behaviour.syntaxes or each in behaviour.syntaxes]
            if abstract in behaviour.refused:
                found[inner[0]] = (3, wire.IMPLICIT)
            else:
                found[inner[0]] = (0, fitting[0]) if fitting else (4, wire.IMPLICIT)
    return found


def _accept(request: bytes, results: Mapping[int, tuple[int, str]]) -> bytes:
    """Return the A-ASSOCIATE-AC; all proposed roles are accepted, so that storage commitment can be reported."""
    user = next((inner for kind, inner in wire.items(request[68:]) if kind == 0x50), b"")
    roles = (wire.item(kind, inner) for kind, inner in wire.items(user) if kind == 0x54)
    return wire.associate_ac(request, results, *roles)
