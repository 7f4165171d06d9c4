"""The raw client: it encodes messages beforehand, sends command and data set with one write, and sets TCP_NODELAY.

It acknowledges received data at once, so that a stall between Nagle's algorithm and delayed acknowledgements can only
come from the server. Optionally it delays acknowledgements, as most clients do.
"""

import socket as sockets
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

from benchmarks import wire
from benchmarks.wire import ProposedContext, number_of
from pacs.conformance.checks.wire import (
    ASSOCIATE_AC,
    C_FIND,
    C_GET,
    C_MOVE,
    EXPLICIT,
    IMPLICIT,
    LAST,
    NO_DATA_SET,
    P_DATA,
    PENDING,
    RELEASE_RP,
    RELEASE_RQ,
    RESPONSE,
    AssociateAccept,
    pdu,
    pdvs,
)

PATIENCE = 120
"""Seconds without data after which a server has failed."""

STORAGE: ProposedContext = (wire.CT_IMAGE_STORAGE, [EXPLICIT])
QUERY: ProposedContext = (wire.STUDY_ROOT_FIND, [IMPLICIT])
RETRIEVE: ProposedContext = (wire.STUDY_ROOT_MOVE, [IMPLICIT])

GET: ProposedContext = (wire.STUDY_ROOT_GET, [IMPLICIT])

Instance = tuple[str, bytes]
"""A SOP Instance UID and the data set of a CT image, its elements in explicit VR little endian."""


class RequestFailed(Exception):
    """A server did not perform a request."""


class Association:
    """An open association with a server on this machine."""

    def __init__(
        self,
        port: int,
        called: str,
        contexts: Sequence[ProposedContext] = (STORAGE,),
        *,
        delays: bool = False,
        secure: bool = False,
        receives: Sequence[str] = (),
    ) -> None:
        """Associate; `delays` acknowledgements as most clients do; `secure` uses TLS; `receives` by C-GET."""
        self._socket = sockets.create_connection(("127.0.0.1", port), PATIENCE)
        self._socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        self._received, self._at, self._delays = b"", 0, delays
        if secure:
            self._socket = _without_verification().wrap_socket(self._socket)
        self.send(wire.associate_rq(called, contexts, receives))
        kind, body = self._pdu()
        if kind != ASSOCIATE_AC:
            raise RequestFailed(f"the association was answered by a PDU of type {kind}")
        answer = AssociateAccept.decode(body)
        self.accepted = sorted(number for number, (result, _) in answer.results.items() if result == 0)
        self.longest_pdu = answer.max_pdu or wire.MAX_PDU
        if not self.accepted:
            raise RequestFailed("no presentation context was accepted")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        with self._socket:
            if kind is None:
                self.send(pdu(RELEASE_RQ, bytes(4)))
                if self._pdu()[0] != RELEASE_RP:
                    raise RequestFailed("the release was not answered")

    def send(self, data: bytes) -> None:
        """Send whole PDUs."""
        self._socket.sendall(data)

    def store(self, message: bytes) -> None:
        """Send an encoded C-STORE-RQ and wait for success. Raises RequestFailed."""
        self.send(message)
        self.expect_success()

    def expect_success(self) -> None:
        """Receive the final response. Raises RequestFailed if it is not Success."""
        for command in self.responses():
            status = number_of(command, 0x0900)
            if status not in (0x0000, *PENDING):
                raise RequestFailed(f"the response has status {status:04X}")

    def responses(self) -> Iterator[bytes]:
        """Yield the command sets of the responses up to the final one, each after its data set."""
        status, command = PENDING[0], b""
        while status in PENDING:
            kind, body = self._pdu()
            if kind != P_DATA:
                raise RequestFailed(f"a PDU of type {kind} came instead of a response")
            for _, header, data in pdvs(body):
                command = data if header & 1 else command
                if header & 2 and not (header & 1 and number_of(command, 0x0800) != NO_DATA_SET):
                    status = number_of(command, 0x0900)
                    yield command

    def receive_stores(self) -> int:
        """Accept the images of a C-GET up to its final response, and return their number. Raises RequestFailed."""
        stored, command = 0, b""
        while True:
            kind, body = self._pdu()
            if kind != P_DATA:
                raise RequestFailed(f"a PDU of type {kind} came instead of a message")
            for context, header, data in pdvs(body):
                command = data if header & 1 else command
                if header == LAST:
                    self.send(wire.store_rsp(context, command))
                    stored += 1
                elif header & 1 and number_of(command, 0x0100) == C_GET | RESPONSE:
                    status = number_of(command, 0x0900)
                    if status == 0:
                        return stored
                    if status not in PENDING:
                        raise RequestFailed(f"the response has status {status:04X}")

    def _pdu(self) -> tuple[int, bytes]:
        self._need(6)
        kind, length = struct.unpack_from(">BxL", self._received, self._at)
        self._need(6 + length)
        start, self._at = self._at + 6, self._at + 6 + length
        return kind, self._received[start : self._at]

    def _need(self, count: int) -> None:
        """Receive until `count` bytes are available."""
        while len(self._received) - self._at < count:
            piece = self._socket.recv(1 << 18)
            if not piece:
                raise RequestFailed("the server closed the connection")
            if not self._delays:
                wire.acknowledge_at_once(self._socket)
            self._received, self._at = self._received[self._at :] + piece, 0


def _without_verification() -> ssl.SSLContext:
    """Return a TLS context that accepts every certificate: the server is on this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


# --- storing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoreResult:
    """The number of stored instances, and the time in seconds."""

    instances: int
    seconds: float

    @property
    def rate(self) -> float:
        """Instances per second."""
        return self.instances / self.seconds


def store(
    port: int,
    called: str,
    parts: Sequence[Iterable[Instance]],
    seconds: float = float("inf"),
    context: ProposedContext = STORAGE,
) -> StoreResult:
    """Store each part on an association of its own, concurrently, until all are stored or the time is over.

    Associations are open and messages encoded before the clock starts. Raises what the first failing one raised.
    """
    with ExitStack() as stack:
        associations = [stack.enter_context(Association(port, called, [context])) for _ in parts]
        encoded = [_encode(each, part) for each, part in zip(associations, parts, strict=True)]
        began = time.perf_counter()
        pairs = zip(associations, encoded, strict=True)
        counts = together([partial(_store_until, *pair, began + seconds) for pair in pairs])
        return StoreResult(sum(counts), time.perf_counter() - began)


def _encode(association: Association, instances: Iterable[Instance]) -> list[bytes]:
    context, longest = association.accepted[0], association.longest_pdu
    return [wire.store_rq(context, uid, at % 65535 + 1, data, longest) for at, (uid, data) in enumerate(instances)]


def _store_until(association: Association, messages: Sequence[bytes], end: float) -> int:
    for done, message in enumerate(messages):
        if time.perf_counter() >= end:
            return done
        association.store(message)
    return len(messages)


def together(calls: Sequence[Callable[[], int]]) -> list[int]:
    """Run the calls in threads of their own and return their results. Raises what the first failing one raised."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


# --- asking ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QueryResult:
    """The number of matches, and the seconds to the first and the last response."""

    matches: int
    first: float
    last: float


def find(association: Association, keys: bytes) -> QueryResult:
    """Run a C-FIND of the Study Root model on the first accepted context. Raises RequestFailed."""
    context = association.accepted[0]
    return _ask(association, wire.query_rq(C_FIND, context, wire.STUDY_ROOT_FIND, keys))[0]


def move(association: Association, keys: bytes, destination: str) -> QueryResult:
    """Run a C-MOVE of the Study Root model; its matches are the instances that were moved. Raises RequestFailed."""
    context = association.accepted[0]
    message = wire.query_rq(C_MOVE, context, wire.STUDY_ROOT_MOVE, keys, destination)
    answered, command = _ask(association, message)
    return replace(answered, matches=number_of(command, 0x1021))


def get(association: Association, keys: bytes) -> QueryResult:
    """Run a C-GET of the Study Root model; its matches are the instances that arrived. Raises RequestFailed."""
    began = time.perf_counter()
    association.send(wire.query_rq(C_GET, association.accepted[0], wire.STUDY_ROOT_GET, keys))
    return QueryResult(association.receive_stores(), 0.0, time.perf_counter() - began)


def _ask(association: Association, message: bytes) -> tuple[QueryResult, bytes]:
    """Send a request, receive its responses, return the final command set. Raises RequestFailed if it failed."""
    first, pending, command = 0.0, -1, b""
    began = time.perf_counter()
    association.send(message)
    for response in association.responses():
        first = first or time.perf_counter() - began
        pending, command = pending + 1, response
    last = time.perf_counter() - began
    status = number_of(command, 0x0900)
    if status:
        raise RequestFailed(f"the final response has status {status:04X}")
    return QueryResult(pending, first, last), command
