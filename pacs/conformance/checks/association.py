"""Associations with the checked server, bounded in time and bytes."""

import hashlib
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pacs.conformance.checks import wire
from pacs.conformance.checks.results import NotOffered
from pacs.conformance.checks.wire import (
    AssociateAccept,
    AssociateRequest,
    DimseMessage,
    Malformed,
    MessageAssembler,
    Value,
)

LONGEST_PDU = 64 << 20
"""The longest PDU that is read, in bytes."""

LONGEST_ASSOCIATION = 12
"""The longest duration of an association as a multiple of the timeout, even while data keep arriving."""

REJECTION_REASONS = {
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


class NoResponse(Exception):
    """The association ended, or the server was silent, where a response was due; the text says what was seen."""


class Aborted(NoResponse):
    """The server sent an A-ABORT."""


class Unreachable(Exception):
    """No connection could be established."""


class AssociateRejected(Exception):
    """The server sent an A-ASSOCIATE-RJ: result, source and reason."""

    def __init__(self, body: bytes) -> None:
        self.triplet = tuple(body[1:4])
        why = REJECTION_REASONS.get((body[2], body[3]), "a reason that is not in the table") if len(body) > 3 else "?"
        super().__init__(f"A-ASSOCIATE-RJ {'/'.join(map(str, self.triplet))}, {why}")


@dataclass(frozen=True)
class CheckedServer:
    """The address of a server to check, with our AE title and the longest silence accepted, in seconds."""

    ae_title: str
    host: str
    port: int
    calling: str = "PACSRUN"
    timeout: float = 10.0
    identity: bytes = field(default=b"", repr=False)
    """The User Identity sub-item of each association request that has no other, b"" for none."""
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    fingerprints: frozenset[str] = frozenset()
    """SHA-256 fingerprints of the certificates that the server may show; if empty, any that `tls` accepts."""

    def __str__(self) -> str:
        return f"{self.ae_title}@{self._address}"

    @property
    def _address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def connect(self) -> "PDUConnection":
        """Open a TCP connection, with TLS if that is set. Raises Unreachable."""
        try:
            connection = socket.create_connection((self.host, self.port), self.timeout)
            return PDUConnection(self._secured(connection, self.tls) if self.tls else connection, self.timeout)
        except OSError as error:
            raise Unreachable(f"no connection to {self._address}: {error.strerror or error}") from error

    def _secured(self, connection: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
        """Return a connection with TLS. Raises OSError."""
        with connection:  # which the secured one takes over
            secured = context.wrap_socket(connection, server_hostname=self.host)
        shown = hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()
        if self.fingerprints and shown not in self.fingerprints:
            secured.close()
            raise OSError(f"its certificate has the fingerprint {shown}")
        return secured

    def associate(
        self, contexts: Iterable[tuple[str, Sequence[str]] | str], *, called: str = "", **options: Any
    ) -> "ClientAssociation":
        """Associate for abstract syntaxes, in Implicit VR Little Endian unless transfer syntaxes are given.

        `options` are fields of `AssociateRequest`. Raises Unreachable, AssociateRejected, NoResponse, Malformed.
        """
        pairs = [(each, (wire.IMPLICIT,)) if isinstance(each, str) else each for each in contexts]
        options = {"more": self.identity} | options
        request = AssociateRequest(pairs, called or self.ae_title, self.calling, **options)
        connection = self.connect()
        try:
            connection.send(request.encode())
            kind, body = connection.pdu()
            if kind == wire.ASSOCIATE_RJ:
                raise AssociateRejected(body)
            if kind != wire.ASSOCIATE_AC:
                raise NoResponse(f"{pdu_name(kind)} instead of A-ASSOCIATE-AC")
            return ClientAssociation(connection, request, AssociateAccept.decode(body))
        except BaseException:
            connection.close()
            raise


_PDU_NAMES = {
    1: "A-ASSOCIATE-RQ", 2: "A-ASSOCIATE-AC", 3: "A-ASSOCIATE-RJ", 4: "P-DATA-TF", 5: "A-RELEASE-RQ",
    6: "A-RELEASE-RP", 7: "A-ABORT",
}  # fmt: skip


def pdu_name(kind: int) -> str:
    """Return the name of a PDU type."""
    return _PDU_NAMES.get(kind, f"a PDU of type {kind:02X}H")


def abort_text(body: bytes) -> str:
    """Return source and reason of an A-ABORT in words."""
    return f"A-ABORT (source {body[2]}, reason {body[3]})" if len(body) > 3 else "A-ABORT"


class PDUConnection:
    """A TCP connection that sends and receives PDUs; `timeout` is the longest silence, in seconds."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        self.socket = connection
        self.timeout = timeout
        self._end = time.monotonic() + LONGEST_ASSOCIATION * timeout
        self.longest = 0
        """The longest body of a received P-DATA-TF, in bytes."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> "PDUConnection":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send bytes. Raises NoResponse."""
        self.socket.settimeout(self.timeout)
        try:
            self.socket.sendall(data)
        except TimeoutError:
            raise NoResponse(f"nothing was read for {self.timeout:g} s") from None
        except OSError:
            with suppress(NoResponse, Malformed):
                self._raise_if_aborted()
            raise NoResponse("the connection was closed") from None

    def _raise_if_aborted(self) -> None:
        kind, body = self.pdu()
        if kind == wire.ABORT:
            raise Aborted(abort_text(body))

    def pdu(self) -> tuple[int, bytes]:
        """Receive a PDU; return its type and body. Raises NoResponse, Malformed."""
        deadline = min(time.monotonic() + self.timeout, self._end)
        head = self._read(6, deadline)
        length = int.from_bytes(head[2:], "big")
        if length > LONGEST_PDU:
            raise Malformed(f"a PDU announces {length} bytes")
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
                raise NoResponse(self._timeout_text()) from None
            except OSError:
                piece = b""
            if not piece:
                raise NoResponse("the connection was closed without A-ABORT or A-RELEASE")
            data += piece
        return bytes(data)

    def _timeout_text(self) -> str:
        is_endless = time.monotonic() >= self._end
        return "responses without an end" if is_endless else f"no response within {self.timeout:g} s"

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


@dataclass
class Responses:
    """The responses to one request, and the C-STORE requests of a C-GET between them."""

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


StoreHandler = Callable[[DimseMessage], int]
"""Takes a received C-STORE request, and returns the status of its response."""


class ClientAssociation:
    """An association that we requested; a `with` block releases it at its end."""

    def __init__(self, connection: PDUConnection, request: AssociateRequest, accept: AssociateAccept) -> None:
        self.connection = connection
        self.associate_request = request
        self.accept = accept
        self._assembler = MessageAssembler()
        self._ready: list[DimseMessage] = []
        self._message_id = 0

    def __enter__(self) -> "ClientAssociation":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                with suppress(NoResponse, Malformed):
                    self.release()
        finally:
            self.connection.close()

    def context(self, abstract: str) -> int:
        """Return the ID of the accepted context of an abstract syntax. Raises NotOffered."""
        for place, (each, _) in enumerate(self.associate_request.contexts):
            if each == abstract and self.accept.results.get(2 * place + 1, (4, ""))[0] == 0:
                return 2 * place + 1
        raise NotOffered(f"it accepts no context of {abstract}")

    def request(
        self, kind: int, abstract: str, data: bytes | None = None, more: Mapping[int, Value] | None = None
    ) -> tuple[int, bytes]:
        """Return Message ID and PDUs of a request; `more` are further or other command elements. Raises NotOffered."""
        self._message_id += 1
        elements: dict[int, Value] = {
            wire.REQUESTED_SOP_CLASS if kind == wire.N_ACTION else wire.SOP_CLASS: abstract,
            wire.FIELD: kind,
            wire.MESSAGE_ID: self._message_id,
            wire.DATA_SET_TYPE: wire.NO_DATA_SET if data is None else 0,
        }
        if kind not in (wire.C_ECHO, wire.N_ACTION):
            elements[wire.PRIORITY] = 0
        elements |= more or {}
        message_id = elements[wire.MESSAGE_ID]
        assert isinstance(message_id, int)
        return message_id, wire.p_data(self.context(abstract), elements, data, self.accept.max_pdu)

    def cancel(self, abstract: str, message_id: int) -> bytes:
        """Return the PDU of a C-CANCEL-RQ. Raises NotOffered."""
        elements: dict[int, Value] = {
            wire.FIELD: wire.C_CANCEL,
            wire.RESPONDING_TO: message_id,
            wire.DATA_SET_TYPE: wire.NO_DATA_SET,
        }
        return wire.p_data(self.context(abstract), elements, None, self.accept.max_pdu)

    def send(self, *pdus: bytes) -> None:
        """Send PDUs with one system call. Raises NoResponse."""
        self.connection.send(b"".join(pdus))

    def receive(self) -> DimseMessage:
        """Receive a message. Raises NoResponse, Malformed."""
        while not self._ready:
            kind, body = self.connection.pdu()
            if kind == wire.ABORT:
                raise Aborted(abort_text(body))
            if kind != wire.P_DATA:
                raise NoResponse(f"{pdu_name(kind)} instead of a response")
            found = (self._assembler.add(*each) for each in wire.pdvs(body))
            self._ready += [each for each in found if each is not None]
        return self._ready.pop(0)

    def responses(self, message_id: int, store: StoreHandler | None = None) -> Responses:
        """Receive up to the final response; `store` handles C-STORE requests. Raises NoResponse, Malformed."""
        found = Responses()
        while True:
            message = self.receive()
            if not message.field & wire.RESPONSE:
                found.stored.append(message)
                self.respond(message, store(message) if store else 0)
                continue
            if message.number(wire.RESPONDING_TO) != message_id:
                raise Malformed(f"a response to Message ID {message.number(wire.RESPONDING_TO)}, not to {message_id}")
            found.all.append(message)
            if not message.is_pending:
                return found

    def respond(self, request: DimseMessage, status: int) -> None:
        """Send the response to a request of the server. Raises NoResponse."""
        self.send(wire.p_data(request.context, request.response(status), None, self.accept.max_pdu))

    def perform(
        self, kind: int, abstract: str, data: bytes | None = None, more: Mapping[int, Value] | None = None
    ) -> Responses:
        """Send a request and receive its responses. Raises NotOffered, NoResponse, Malformed."""
        message_id, pdus = self.request(kind, abstract, data, more)
        self.send(pdus)
        return self.responses(message_id)

    def first_response(
        self, kind: int, abstract: str, data: bytes, more: Mapping[int, Value] | None = None
    ) -> DimseMessage:
        """Send a request and receive its first response; if it is Pending, cancel and abort.

        For requests that a server may answer with all its data. Raises NotOffered, NoResponse, Malformed.
        """
        message_id, pdus = self.request(kind, abstract, data, more)
        self.send(pdus)
        first = self.receive()
        if first.is_pending:
            self.send(self.cancel(abstract, message_id), wire.pdu(wire.ABORT, bytes(4)))
        return first

    def release(self) -> None:
        """Release. Raises NoResponse if the answer is not A-RELEASE-RP."""
        self.send(wire.pdu(wire.RELEASE_RQ, bytes(4)))
        kind, _ = self.connection.pdu()
        if kind != wire.RELEASE_RP:
            raise NoResponse(f"{pdu_name(kind)} instead of A-RELEASE-RP")
