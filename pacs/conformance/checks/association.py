"""An association with the server that is asked, and the connections it opens to us: bounded in time and bytes."""

import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pacs.conformance.checks import wire
from pacs.conformance.checks.verdicts import NotOffered
from pacs.conformance.checks.wire import (
    AssociateAccept,
    AssociateRequest,
    DimseMessage,
    Malformed,
    MessageAssembler,
    Value,
)

LONGEST_PDU = 64 << 20
"""Bytes: whoever announces more is not listened to."""

LONGEST_ASSOCIATION = 12
"""How many times its patience an association may take, whatever keeps coming."""

REJECTED_BECAUSE = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognized",
    (1, 7): "called AE title not recognized",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}
"""The reasons of A-ASSOCIATE-RJ by source and reason (PS3.8 Table 9-21)."""


class Ended(Exception):
    """The association is over, or the server silent, where an answer was due; the text says what was seen."""


class Aborted(Ended):
    """A-ABORT came."""


class Unreachable(Exception):
    """No connection came about."""


class Rejected(Exception):
    """A-ASSOCIATE-RJ: result, source and reason."""

    def __init__(self, body: bytes) -> None:
        self.triplet = tuple(body[1:4])
        why = REJECTED_BECAUSE.get((body[2], body[3]), "a reason that is not in the table") if len(body) > 3 else "?"
        super().__init__(f"A-ASSOCIATE-RJ {'/'.join(map(str, self.triplet))}, {why}")


_WRITTEN = re.compile(r"(?P<title>[^@\\]{1,16})@(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:@/]+):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True)
class Peer:
    """Whom we ask, and as whom; `patience` is how many seconds a server may say nothing."""

    ae_title: str
    host: str
    port: int
    calling: str = "PACSRUN"
    patience: float = 10.0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.ae_title}@{host}:{self.port}"

    @classmethod
    def parse(cls, text: str, calling: str = "PACSRUN", patience: float = 10.0) -> "Peer":
        """The peer that is written as AET@host:port. Raises ValueError."""
        found = _WRITTEN.fullmatch(text)
        if not found or not 0 < int(found["port"]) < 65536:
            raise ValueError(f"{text!r} is not AET@host:port, such as PACS@127.0.0.1:11112 or PACS@[::1]:11112")
        return cls(found["title"].strip(), found["host"].strip("[]"), int(found["port"]), calling, patience)

    def connect(self) -> "Line":
        """A TCP connection. Raises Unreachable."""
        try:
            return Line(socket.create_connection((self.host, self.port), self.patience), self.patience)
        except OSError as error:
            raise Unreachable(f"no connection to {self.host}:{self.port}: {error.strerror or error}") from error

    def associate(
        self, contexts: Iterable[tuple[str, Sequence[str]] | str], *, called: str = "", **options: Any
    ) -> "Association":
        """Associate for abstract syntaxes, in Implicit VR Little Endian unless transfer syntaxes are named.

        `options` are fields of `AssociateRequest`. Raises Unreachable, Rejected, Ended, Malformed.
        """
        pairs = [(each, (wire.IMPLICIT,)) if isinstance(each, str) else each for each in contexts]
        offer = AssociateRequest(pairs, called or self.ae_title, self.calling, **options)
        line = self.connect()
        try:
            line.send(offer.encode())
            kind, body = line.pdu()
            if kind == wire.ASSOCIATE_RJ:
                raise Rejected(body)
            if kind != wire.ASSOCIATE_AC:
                raise Ended(f"{NAMES.get(kind, f'a PDU of type {kind:02X}H')} instead of A-ASSOCIATE-AC")
            return Association(line, offer, AssociateAccept.decode(body))
        except BaseException:
            line.close()
            raise


NAMES = {
    1: "A-ASSOCIATE-RQ", 2: "A-ASSOCIATE-AC", 3: "A-ASSOCIATE-RJ", 4: "P-DATA-TF", 5: "A-RELEASE-RQ",
    6: "A-RELEASE-RP", 7: "A-ABORT",
}  # fmt: skip


class Line:
    """A connection: PDUs in and out."""

    def __init__(self, connection: socket.socket, patience: float) -> None:
        self.socket = connection
        self.patience = patience
        self._end = time.monotonic() + LONGEST_ASSOCIATION * patience
        self.longest = 0
        """The longest body of a P-DATA-TF that came, in bytes."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send bytes in one piece, as far as they fit. Raises Ended."""
        self.socket.settimeout(self.patience)
        try:
            self.socket.sendall(data)
        except TimeoutError:
            raise Ended(f"nothing was read for {self.patience:g} s") from None
        except OSError:
            with suppress(Ended, Malformed):
                self._say_farewell()
            raise Ended("the connection was closed") from None

    def _say_farewell(self) -> None:
        """What came before the connection was closed: an A-ABORT is worth telling. Raises Ended."""
        kind, body = self.pdu()
        if kind == wire.ABORT:
            raise Aborted(_aborted(body))

    def pdu(self) -> tuple[int, bytes]:
        """The next PDU: its type and body. Raises Ended, Malformed."""
        deadline = min(time.monotonic() + self.patience, self._end)
        head = self._read(6, deadline)
        length = int.from_bytes(head[2:], "big")
        if length > LONGEST_PDU:
            raise Malformed(f"a PDU says it is {length} bytes long")
        body = self._read(length, deadline)
        if head[0] == wire.P_DATA:
            self.longest = max(self.longest, length)
        return head[0], body

    def _read(self, count: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < count:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                piece = self.socket.recv(min(count - len(data), 1 << 16))
            except TimeoutError:
                raise Ended(self._silence()) from None
            except OSError:
                piece = b""
            if not piece:
                raise Ended("the connection was closed without A-ABORT or A-RELEASE")
            data += piece
        return bytes(data)

    def _silence(self) -> str:
        is_endless = time.monotonic() >= self._end
        return "it goes on without an end" if is_endless else f"no answer within {self.patience:g} s"

    def close(self) -> None:
        """Give the socket back."""
        self.socket.close()


def _aborted(body: bytes) -> str:
    return f"A-ABORT (source {body[2]}, reason {body[3]})" if len(body) > 3 else "A-ABORT"


@dataclass
class Responses:
    """All that came back to one request: the responses, and the sub-operations in between of a C-GET."""

    all: list[DimseMessage] = field(default_factory=list)
    stored: list[DimseMessage] = field(default_factory=list)

    @property
    def final(self) -> DimseMessage:
        """The last response."""
        return self.all[-1]

    @property
    def status(self) -> int:
        """The final status."""
        return self.final.status

    @property
    def pending(self) -> list[DimseMessage]:
        """The responses before the last."""
        return self.all[:-1]


Store = Callable[[DimseMessage], int]
"""Takes an instance that came, and says with which status."""


class Association:
    """An association we asked for; released, as well as that works, at the end of a `with` block."""

    def __init__(self, line: Line, offer: AssociateRequest, answer: AssociateAccept) -> None:
        self.line = line
        self.offer = offer
        self.answer = answer
        self._assembly = MessageAssembler()
        self._ready: list[DimseMessage] = []
        self._message_id = 0

    def __enter__(self) -> "Association":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                with suppress(Ended, Malformed):
                    self.release()
        finally:
            self.line.close()

    def context(self, abstract: str) -> int:
        """The ID of the accepted context of an abstract syntax. Raises NotOffered."""
        for place, (each, _) in enumerate(self.offer.contexts):
            if each == abstract and self.answer.results.get(2 * place + 1, (4, ""))[0] == 0:
                return 2 * place + 1
        raise NotOffered(f"it accepts no context of {abstract}")

    def syntax(self, context: int) -> str:
        """The transfer syntax of an accepted context."""
        return self.answer.results[context][1]

    def request(
        self, kind: int, abstract: str, data: bytes | None = None, more: Mapping[int, Value] | None = None
    ) -> tuple[int, bytes]:
        """The Message ID and the PDUs of a request, not yet sent; `more` are elements that it has besides, or instead.

        Raises NotOffered.
        """
        self._message_id += 1
        says: dict[int, Value] = {
            wire.REQUESTED_SOP_CLASS if kind == wire.N_ACTION else wire.SOP_CLASS: abstract,
            wire.FIELD: kind,
            wire.MESSAGE_ID: self._message_id,
            wire.DATA_SET_TYPE: wire.NO_DATA_SET if data is None else 0,
        }
        if kind not in (wire.C_ECHO, wire.N_ACTION):
            says[wire.PRIORITY] = 0
        says |= more or {}
        return int(says[wire.MESSAGE_ID]), wire.p_data(self.context(abstract), says, data, self.answer.max_pdu)

    def cancel(self, abstract: str, message_id: int) -> bytes:
        """The PDU of a C-CANCEL-RQ, not yet sent. Raises NotOffered."""
        says: dict[int, Value] = {
            wire.FIELD: wire.C_CANCEL,
            wire.RESPONDING_TO: message_id,
            wire.DATA_SET_TYPE: wire.NO_DATA_SET,
        }
        return wire.p_data(self.context(abstract), says, None, self.answer.max_pdu)

    def send(self, *pdus: bytes) -> None:
        """Send PDUs, in one segment as far as they fit. Raises Ended."""
        self.line.send(b"".join(pdus))

    def receive(self) -> DimseMessage:
        """The next message. Raises Ended, Malformed."""
        while not self._ready:
            kind, body = self.line.pdu()
            if kind == wire.ABORT:
                raise Aborted(_aborted(body))
            if kind != wire.P_DATA:
                raise Ended(f"{NAMES.get(kind, f'a PDU of type {kind:02X}H')} where a response was due")
            found = (self._assembly.add(*each) for each in wire.pdvs(body))
            self._ready += [each for each in found if each is not None]
        return self._ready.pop(0)

    def responses(self, message_id: int, store: Store | None = None) -> Responses:
        """Everything up to the final response; C-STORE-RQs that come are taken by `store`. Raises Ended, Malformed."""
        found = Responses()
        while True:
            message = self.receive()
            if not message.field & wire.RESPONSE:
                found.stored.append(message)
                self.answer_to(message, store(message) if store else 0)
                continue
            if message.number(wire.RESPONDING_TO) != message_id:
                raise Malformed(f"a response to Message ID {message.number(wire.RESPONDING_TO)}, not to {message_id}")
            found.all.append(message)
            if not message.is_pending:
                return found

    def answer_to(self, message: DimseMessage, status: int) -> None:
        """Answer a request of the server's. Raises Ended."""
        self.send(wire.p_data(message.context, message.response(status), None, self.answer.max_pdu))

    def ask(
        self, kind: int, abstract: str, data: bytes | None = None, more: Mapping[int, Value] | None = None
    ) -> Responses:
        """Send a request and read its responses. Raises NotOffered, Ended, Malformed."""
        message_id, pdus = self.request(kind, abstract, data, more)
        self.send(pdus)
        return self.responses(message_id)

    def begin(self, kind: int, abstract: str, data: bytes, more: Mapping[int, Value] | None = None) -> DimseMessage:
        """Send a request and read its first response; where others would follow, cancel and abort.

        For what a server may take as a wish for everything it has. Raises NotOffered, Ended, Malformed.
        """
        message_id, pdus = self.request(kind, abstract, data, more)
        self.send(pdus)
        first = self.receive()
        if first.is_pending:
            self.send(self.cancel(abstract, message_id), wire.pdu(wire.ABORT, bytes(4)))
        return first

    def release(self) -> None:
        """Release. Raises Ended when the answer is another than A-RELEASE-RP."""
        self.send(wire.pdu(wire.RELEASE_RQ, bytes(4)))
        kind, _ = self.line.pdu()
        if kind != wire.RELEASE_RP:
            raise Ended(f"{NAMES.get(kind, f'a PDU of type {kind:02X}H')} instead of A-RELEASE-RP")
