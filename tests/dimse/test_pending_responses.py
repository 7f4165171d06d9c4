"""Pending responses buffered for one write: when they are sent, and which after a cancel."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pacs.dimse.association.association import Association
from pacs.dimse.messages.message import Message
from pacs.dimse.scp.operation import MAX_WRITE, Operation, PendingResponses
from pacs.dimse.upper.wire import MOST_AT_ONCE, Wire
from pacs.errors import Cancelled
from pacs.support.cancellation import Cancellation
from tests.dimse.conftest import Serve
from tests.dimse.raw import Peer, cancel_rq, find_rq
from tests.dimse.test_association import PENDING, statuses

CANCELLED, SUCCESS = 0xFE00, 0x0000
Find = Callable[[Association, Message], None]


# --- the wire ----------------------------------------------------------------------------------------------------


@contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        yield ours, theirs


def received(connection: socket.socket, count: int) -> bytes:
    """Receive exactly `count` bytes."""
    data = b""
    while len(data) < count:
        data += connection.recv(count - len(data))
    return data


def never() -> None:
    """Return at once."""
    raise AssertionError("the socket takes everything")


def test_many_messages_are_sent_whole_and_in_order() -> None:
    """They are more than one system call takes, and of all lengths."""
    messages = [bytes([number % 256]) * (number % 7 + 1) for number in range(3 * MOST_AT_ONCE)]
    with connected() as (ours, theirs):
        wire = Wire(ours)
        assert wire.write_each(messages, never, lambda: True) == len(messages)
        assert received(theirs, sum(map(len, messages))) == b"".join(messages)


def test_x1_no_message_begins_after_a_cancel_while_the_socket_is_full() -> None:
    """The one that was sent in part is finished, and those behind it are not sent."""
    with connected() as (ours, theirs):
        wire, wanted = Wire(ours), [True]
        messages = [bytes([number]) * 100_000 for number in range(50)]
        data = bytearray()

        def make_room() -> None:
            wanted[0] = False
            data.extend(theirs.recv(1 << 20))

        sent = wire.write_each(messages, make_room, lambda: wanted[0])
        assert 0 < sent < len(messages)
        data += received(theirs, sent * 100_000 - len(data))
        assert data == b"".join(messages[:sent])
        assert not wire.is_torn
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)


def test_a_message_that_cannot_be_finished_leaves_the_wire_torn() -> None:
    """Nothing may be written behind half a PDU."""
    with connected() as (ours, _theirs):
        wire = Wire(ours)

        def give_up() -> None:
            raise TimeoutError

        with pytest.raises(TimeoutError):
            wire.write_each([bytes(10_000_000)], give_up, lambda: True)
        assert wire.is_torn


# --- Pending responses -------------------------------------------------------------------------------------------


def finding(body: Callable[[PendingResponses, Cancellation, list[int]], None], counts: list[int]) -> Find:
    """Return a C-FIND handler that sends what `body` adds, and appends how many were sent to `counts`."""

    def find(association: Association, message: Message) -> None:
        message.read(1 << 20)
        with association.operation(message) as cancellation:
            operation = Operation(association, message, cancellation)
            responses = PendingResponses(operation, PENDING)
            final = SUCCESS
            try:
                body(responses, cancellation, counts)
            except Cancelled:
                final = CANCELLED
            counts.append(responses.sent)
            association.send(message.context.id, message.command.response(final))

    return find


def test_the_first_response_is_sent_at_once(serve: Serve) -> None:
    """The peer reads it before there is a second."""
    was_read = threading.Event()
    counts: list[int] = []

    def body(responses: PendingResponses, _: Cancellation, __: list[int]) -> None:
        responses.add(b"\0\0")
        assert responses.sent == 1
        assert was_read.wait(10)
        for _number in range(2000):
            responses.add(b"\0\0")
        responses.flush()

    archive = serve(find=finding(body, counts))
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(find_rq())
        assert peer.status() == PENDING
        was_read.set()
        assert statuses(peer) == [PENDING] * 2000 + [SUCCESS]
    assert counts == [2001]


def test_a_limited_number_of_bytes_is_buffered(serve: Serve) -> None:
    """At most `MAX_WRITE` bytes are buffered."""
    counts: list[int] = []

    def body(responses: PendingResponses, _: Cancellation, behind: list[int]) -> None:
        for number in range(1000):
            responses.add(bytes(1000))
            behind.append(number + 1 - responses.sent)

    archive = serve(find=finding(body, counts))
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(find_rq())
        found = statuses(peer)
    assert found[-1] == SUCCESS
    assert counts[0] == 0
    assert 1 < max(counts[:-1]) <= MAX_WRITE // 1000


def test_x1_buffered_responses_are_not_sent_after_a_cancel(serve: Serve) -> None:
    """Responses are buffered when the C-CANCEL arrives, and none of them is sent."""
    gathered, cancel_sent = threading.Event(), threading.Event()
    counts: list[int] = []

    def body(responses: PendingResponses, cancellation: Cancellation, _: list[int]) -> None:
        responses.add(bytes(8))
        for _number in range(5):
            responses.add(bytes(8))
        gathered.set()
        assert cancel_sent.wait(10)
        responses.flush()

    archive = serve(find=finding(body, counts))
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(find_rq())
        assert gathered.wait(10)
        peer.send(cancel_rq())
        # On loopback the server's socket has it at once.
        cancel_sent.set()
        assert statuses(peer) == [PENDING, CANCELLED]
    assert counts == [1]
