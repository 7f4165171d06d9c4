"""Messages, C-CANCEL, release and loss on a running server, whatever its thread is doing at the time."""

import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable

import pytest

from pacs.dimse.association.association import Association, AssociationLimits
from pacs.dimse.messages.message import Message
from pacs.dimse.upper.waiting import WaitContext
from pacs.errors import AssociationLost, Cancelled
from pacs.support.cancellation import Cancellation
from tests.dimse import raw
from tests.dimse.conftest import Archive, Serve
from tests.dimse.raw import (
    ABORT,
    CT_CONTEXT,
    DATA_SET,
    LAST,
    RELEASE_RP,
    RELEASE_RQ,
    Peer,
    cancel_rq,
    echo_rq,
    find_rq,
    p_data,
    pdu,
    pdv,
    store_rq,
)
from tests.dimse.test_upper_layer import resident_kib

PENDING, CANCELLED, SUCCESS = 0xFF00, 0xFE00, 0x0000
AT_ONCE = 3.0
"""Seconds that are 'at once' on a busy machine; a wait that nothing interrupts is ten times as long here."""


def answering(matches: int, data: bytes = b"\0\0") -> Callable[[Association, Message], None]:
    """Return a C-FIND handler with so many matches that stops when it is cancelled."""

    def find(association: Association, message: Message) -> None:
        message.read(1 << 20)
        with association.operation(message) as cancellation:
            for _ in range(matches):
                if cancellation.requested:
                    break
                association.send(message.context.id, message.command.response(PENDING), data)
            final = CANCELLED if cancellation.requested else SUCCESS
            association.send(message.context.id, message.command.response(final))

    return find


def statuses(peer: Peer) -> list[int]:
    """Return the statuses of one operation, up to the final one."""
    found = [peer.status()]
    while found[-1] == PENDING:
        found.append(peer.status())
    return found


# --- C-CANCEL ----------------------------------------------------------------------------------------------------


def test_p4_a_cancel_in_the_same_packet_as_its_request_is_seen(serve: Serve) -> None:
    """Thirty times out of thirty, before the first match (P5 too)."""
    archive = serve(find=answering(1000))
    with Peer(archive.port) as peer:
        peer.associate()
        for message_id in range(1, 31):
            peer.send(find_rq(message_id), cancel_rq(message_id))
            assert statuses(peer) == [CANCELLED]


def test_x1_a_cancel_between_answers_is_seen_before_the_next_two(serve: Serve) -> None:
    """The sender processes input after every response."""
    seen: list[int] = []

    def find(association: Association, message: Message) -> None:
        with association.operation(message) as cancellation:
            sent = 0
            while not cancellation.requested:
                association.send(message.context.id, message.command.response(PENDING), b"\0\0")
                sent += 1
                if sent == 5:
                    read_five.wait(10)
                    cancel_sent.wait(10)
            seen.append(sent)
            association.send(message.context.id, message.command.response(CANCELLED))

    read_five, cancel_sent = threading.Event(), threading.Event()
    archive = serve(find=find)
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(find_rq())
        assert [peer.status() for _ in range(5)] == [PENDING] * 5
        read_five.set()
        peer.send(cancel_rq())
        time.sleep(0.05)
        cancel_sent.set()
        assert len(statuses(peer)) <= 3
    assert seen[0] <= 7


def test_x3_x4_a_cancel_for_nothing_is_ignored(serve: Serve) -> None:
    """For an unknown Message ID, before any request, and after the final response."""
    archive = serve(find=answering(2))
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(cancel_rq(1), cancel_rq(77))
        peer.send(find_rq(1), cancel_rq(2))
        assert statuses(peer) == [PENDING, PENDING, SUCCESS]
        peer.send(cancel_rq(1), echo_rq(2))
        assert peer.status() == SUCCESS


def test_x5_a_message_id_that_was_cancelled_can_be_used_again(serve: Serve) -> None:
    """Also after a cancel that came too late for it."""
    archive = serve(find=answering(2))
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(find_rq(1), cancel_rq(1))
        assert statuses(peer) == [CANCELLED]
        peer.send(cancel_rq(1))
        for _ in range(2):
            peer.send(find_rq(1))
            assert statuses(peer) == [PENDING, PENDING, SUCCESS]


def test_a_cancel_for_a_queued_request_is_kept_for_it(serve: Serve) -> None:
    """Two requests and a cancel of the second in one packet: the first is not cancelled."""
    archive = serve(find=answering(2))
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(find_rq(1), find_rq(2), cancel_rq(2))
        assert statuses(peer) == [PENDING, PENDING, SUCCESS]
        assert statuses(peer) == [CANCELLED]


# --- while the thread is busy elsewhere --------------------------------------------------------------------------

COUNT_FOR_EVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (cancel_rq(), "C-CANCEL"),
        (pdu(RELEASE_RQ, bytes(4)), "A-RELEASE"),
        (pdu(ABORT, bytes(4)), "A-ABORT"),
        (pdu(0x09, bytes(4)), "protocol violation"),
        (None, "connection lost"),
    ],
    ids=["cancel", "release", "abort", "violation", "loss"],
)
def test_x1_what_arrives_interrupts_the_sql_that_runs(serve: Serve, sent: bytes | None, reason: str) -> None:
    """A query without end ends at once, and the operation has the reason."""
    reasons: list[str | None] = []
    running, done = threading.Event(), threading.Event()

    def find(association: Association, message: Message) -> None:
        database = sqlite3.connect(":memory:")
        try:
            with association.operation(message) as cancellation:
                with pytest.raises(Cancelled), association.busy(), cancellation.interrupting(database.interrupt):
                    running.set()
                    database.execute(COUNT_FOR_EVER).fetchall()
                reasons.append(cancellation.reason)
                done.set()
                if association.is_established:
                    association.send(message.context.id, message.command.response(CANCELLED))
        finally:
            database.close()

    archive = serve(find=find)
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(find_rq())
        assert running.wait(10)
        time.sleep(0.1)
        began = time.monotonic()
        if sent is None:
            peer.socket.close()
        else:
            peer.send(sent)
        assert done.wait(30)
        assert time.monotonic() - began < AT_ONCE
        assert reasons == [reason]
        if sent == cancel_rq():
            assert peer.status() == CANCELLED


def test_v7_pending_responses_go_out_while_the_thread_is_busy(serve: Serve) -> None:
    """The cancel monitor sends them when they are due, and none after the final response."""

    def find(association: Association, message: Message) -> None:
        with association.operation(message) as cancellation:

            def tick() -> None:
                association.send(message.context.id, message.command.response(PENDING), b"\0\0")

            wait_context = WaitContext(cancellation, sources=(association,), every=0.05, tick=tick)
            with association.busy(wait_context):
                time.sleep(0.5)
            association.send(message.context.id, message.command.response(SUCCESS))

    archive = serve(find=find)
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(find_rq())
        assert 3 <= len(statuses(peer)) <= 11
        peer.send(echo_rq(9))
        assert peer.status() == SUCCESS


def test_many_busy_associations_are_watched_by_one_thread(serve: Serve) -> None:
    """Each cancel reaches its own operation."""
    reasons: list[str | None] = []
    running = threading.Barrier(9)

    def find(association: Association, message: Message) -> None:
        stop = threading.Event()
        with association.operation(message) as cancellation, association.busy():
            running.wait(20)
            try:
                with cancellation.interrupting(stop.set):
                    stop.wait(30)
            except Cancelled:
                reasons.append(cancellation.reason)
        association.send(message.context.id, message.command.response(CANCELLED))

    def monitors() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name == "pacs-cancel-monitor"]

    others = set(monitors())  # of other tests of this process
    archive = serve(find=find)
    peers = [Peer(archive.port) for _ in range(8)]
    for peer in peers:
        peer.associate()
        peer.send(find_rq())
    running.wait(20)
    for peer in peers:
        peer.send(cancel_rq())
    assert [peer.status() for peer in peers] == [CANCELLED] * 8
    assert reasons == ["C-CANCEL"] * 8
    assert len(set(monitors()) - others) <= 1
    for peer in peers:
        peer.socket.close()


def test_the_input_of_a_peer_that_does_not_wait_is_queued_up_to_a_limit(serve: Serve) -> None:
    """Input while its thread is busy is queued up to a limit, then left to TCP; no message is lost."""
    release, busy = threading.Event(), threading.Event()

    def find(association: Association, message: Message) -> None:
        message.read(1 << 20)
        with association.operation(message) as cancellation, association.busy():
            busy.set()
            release.wait(20)
            assert not association.wants_input
            assert not cancellation.requested
        association.send(message.context.id, message.command.response(SUCCESS))

    archive = serve(find=find, limits=AssociationLimits(held=100_000))
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(find_rq())
        assert busy.wait(10)
        data = bytes(range(256)) * 200

        def flood() -> None:
            for number in range(60):
                fragments = [
                    p_data(pdv(CT_CONTEXT, DATA_SET, data[at : at + 12_800])) for at in range(0, 51_200, 12_800)
                ]
                peer.send(store_rq(number + 2), *fragments, p_data(pdv(CT_CONTEXT, DATA_SET | LAST, b"")))

        before = resident_kib()
        sender = threading.Thread(target=flood)
        sender.start()
        time.sleep(0.5)
        assert resident_kib() - before < 4096
        release.set()
        assert [peer.status() for _ in range(61)] == [SUCCESS] * 61
        sender.join()
    digest = hashlib.sha256(data).hexdigest()
    assert archive.received == [("RAW", raw.EXPLICIT, len(data), digest)] * 60


# --- data sets ---------------------------------------------------------------------------------------------------


def store(peer: Peer, size: int, piece: int, message_id: int = 1) -> str:
    """Store so many bytes in PDUs of `piece` bytes each; return their digest."""
    digest = hashlib.sha256()
    peer.send(store_rq(message_id))
    for at in range(0, size, piece):
        data = at.to_bytes(8, "big") * (min(piece, size - at) // 8)
        digest.update(data)
        peer.send(p_data(pdv(CT_CONTEXT, DATA_SET | (LAST if at + piece >= size else 0), data)))
    return digest.hexdigest()


def test_a_large_instance_streams_through_in_bounded_memory(serve: Serve) -> None:
    """128 MiB arrive, and the process grows by less than 5."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.associate()
        store(peer, 1 << 20, 131_064)
        assert peer.status() == SUCCESS
        before = resident_kib()
        digest = store(peer, 1 << 27, 131_064)
        grown = resident_kib() - before
        assert peer.status() == SUCCESS
    assert archive.received[-1][2:] == (1 << 27, digest)
    assert grown < 5 * 1024, f"grew by {grown} KiB"


@pytest.mark.parametrize("max_pdu", [4096, 131_072, 1 << 20])
def test_pdus_of_the_announced_length_are_accepted(serve: Serve, max_pdu: int) -> None:
    """Exactly of the announced length, for several maximum lengths."""
    archive = serve(limits=AssociationLimits(max_pdu=max_pdu))
    with Peer(archive.port) as peer:
        accept = peer.associate()
        assert dict(raw.information_of(accept))[0x51] == max_pdu.to_bytes(4, "big")
        digest = store(peer, 3 * (max_pdu - 8), max_pdu - 8)
        assert peer.status() == SUCCESS
    assert archive.received == [("RAW", raw.EXPLICIT, 3 * (max_pdu - 8), digest)]


@pytest.mark.parametrize("max_pdu", [8, 9, 512, 4096, 16_384, 0])
def test_responses_keep_to_the_maximum_length_of_the_peer(serve: Serve, max_pdu: int) -> None:
    """No PDU is longer than the peer's maximum length; 0 is without limit."""
    answer = bytes(range(256)) * (400 if max_pdu > 100 or max_pdu == 0 else 8)
    archive = serve(find=answering(2, answer))
    with Peer(archive.port) as peer:
        peer.associate(information=raw.user_information(max_pdu))
        lengths: list[int] = []
        read = peer.pdu

        def measured() -> tuple[int, bytes]:
            kind, body = read()
            lengths.append(len(body))
            return kind, body

        peer.pdu = measured  # type: ignore[method-assign]
        peer.send(find_rq())
        assert [peer.response()[0xFFFF] for _ in range(2)] == [answer, answer]
        assert peer.status() == SUCCESS
    assert max(lengths) <= (max_pdu or 131_072)


def test_a_data_set_that_the_handler_does_not_read_is_discarded(serve: Serve) -> None:
    """The rest of a refused data set is not read as a command."""

    def refuse(association: Association, message: Message) -> None:
        association.send(message.context.id, message.command.response(0xA700, error_comment="No space"))

    archive = serve(store=refuse)
    with Peer(archive.port) as peer:
        peer.associate()
        for number in range(3):
            store(peer, 1 << 20, 16_000, number + 1)
            assert peer.status() == 0xA700
        peer.send(echo_rq(9))
        assert peer.status() == SUCCESS


def test_an_incomplete_data_set_raises_association_lost(serve: Serve) -> None:
    """The handler sees AssociationLost, not a shorter data set."""
    outcome: list[str] = []

    def keep(association: Association, message: Message) -> None:
        try:
            for _ in message.fragments():
                pass
            outcome.append("complete")
        except AssociationLost:
            outcome.append("lost")
            raise

    archive = serve(store=keep)
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(store_rq(), p_data(pdv(CT_CONTEXT, DATA_SET, bytes(1000))))
    assert archive.ended_by() == ["connection lost"]
    assert outcome == ["lost"]


def test_a_data_set_that_stops_half_way_times_out(serve: Serve) -> None:
    """The message time also runs between its PDUs."""
    archive = serve(limits=AssociationLimits(message=0.3, idle=None))
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(store_rq(), p_data(pdv(CT_CONTEXT, DATA_SET, bytes(1000))))
        assert peer.aborted()[0] == 0
    assert archive.ended_by() == ["timeout"]


# --- peers that do not read --------------------------------------------------------------------------------------


def test_f11_a_peer_that_does_not_read_hits_the_write_deadline(serve: Serve) -> None:
    """Its responses fill the socket's buffer; no further queue grows."""
    archive = serve(find=answering(1_000_000, bytes(60_000)), limits=AssociationLimits(write=0.5))
    with Peer(archive.port) as peer:
        peer.associate()
        before = resident_kib()
        peer.send(find_rq())
        assert archive.ended_by() == ["timeout"]
        assert resident_kib() - before < 16 * 1024


def test_x1_a_cancel_is_seen_while_the_peer_does_not_read(serve: Serve) -> None:
    """The thread that waits to write also processes input."""
    archive = serve(find=answering(1_000_000, bytes(60_000)))
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(find_rq())
        time.sleep(0.5)
        peer.send(cancel_rq())
        time.sleep(0.2)
        assert statuses(peer)[-1] == CANCELLED


def test_f11_an_abort_is_seen_while_the_peer_does_not_read(serve: Serve) -> None:
    """A closed connection, too."""
    archive = serve(find=answering(1_000_000, bytes(60_000)))
    for last in (pdu(ABORT, bytes(4)), b""):
        with Peer(archive.port) as peer:
            peer.associate()
            peer.send(find_rq())
            time.sleep(0.3)
            peer.send(last)
    ends = archive.ended_by(2)
    assert ends[0] in {"A-ABORT", "connection lost"}
    assert ends[1] == "connection lost"


# --- the end, seen from our side ---------------------------------------------------------------------------------


def ending(end: Callable[[Association], None]) -> Callable[[Association, Message], None]:
    """Return a C-FIND handler that ends the association."""

    def find(association: Association, message: Message) -> None:
        message.read(1 << 20)
        end(association)

    return find


def test_the_acceptor_can_release_too(serve: Serve) -> None:
    """PS3.8 7.2.2 allows it to both sides."""
    archive = serve(find=ending(lambda association: association.release()))
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(find_rq())
        assert peer.receive()[0] == RELEASE_RQ
        peer.send(pdu(RELEASE_RP, bytes(4)))
        assert peer.receive() == (0, b"")
    assert archive.ended_by() == ["A-RELEASE"]


def test_releases_that_collide_end_well_for_the_acceptor(serve: Serve) -> None:
    """PS3.8 7.2.2.7: the requestor confirms first, then the acceptor."""
    archive = serve(find=ending(lambda association: association.release()))
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(find_rq())
        assert peer.receive()[0] == RELEASE_RQ
        peer.send(pdu(RELEASE_RQ, bytes(4)))
        peer.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            peer.receive()  # the acceptor waits for the requestor's confirmation
        peer.socket.settimeout(10)
        peer.send(pdu(RELEASE_RP, bytes(4)))
        assert peer.receive()[0] == RELEASE_RP
    assert archive.ended_by() == ["A-RELEASE"]


def test_a_release_that_is_not_answered_ends_in_an_abort(serve: Serve) -> None:
    """Data that the peer still sends is discarded meanwhile."""
    archive = serve(find=ending(lambda association: association.release(0.3)))
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(find_rq())
        assert peer.receive()[0] == RELEASE_RQ
        peer.send(echo_rq())
        assert peer.receive()[0] == ABORT
    assert archive.ended_by() == ["timeout"]


def test_another_thread_can_abort_an_association_that_waits(serve: Serve) -> None:
    """The owner wakes at once."""
    held: list[Association] = []
    archive = serve(find=ending(held.append))
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(find_rq())
        while not held:
            time.sleep(0.01)
        time.sleep(0.05)
        began = time.monotonic()
        held[0].abort()
        assert peer.aborted() == (0, 0)
        assert archive.ended_by() == ["aborted here"]
        assert time.monotonic() - began < AT_ONCE


def test_nothing_can_be_sent_once_it_is_over(serve: Serve) -> None:
    """AssociationLost says how it ended."""
    seen: list[str] = []

    def find(association: Association, message: Message) -> None:
        message.read(1 << 20)
        association.abort()
        try:
            association.send(message.context.id, message.command.response(SUCCESS))
        except AssociationLost as error:
            seen.append(error.comment)

    archive = serve(find=find)
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(find_rq())
        peer.aborted()
        archive.ended_by()
    assert seen == ["The association is over: aborted here"]


def test_a_failing_data_source_aborts_the_association(serve: Serve) -> None:
    """Half a data set cannot be completed; the error of its source is raised."""

    def find(association: Association, message: Message) -> None:
        def data() -> object:
            yield bytes(3 << 20)
            raise OSError("the disk")

        with pytest.raises(OSError, match="disk"):
            association.send(message.context.id, message.command.response(PENDING), data())  # type: ignore[arg-type]
        assert not association.is_established

    archive = serve(find=find)
    with Peer(archive.port) as peer:
        peer.associate(information=raw.user_information(0))
        peer.send(find_rq())
        assert peer.aborted() == (0, 0)
    assert archive.ended_by() == ["aborted here"]


def test_an_operation_on_a_lost_association_begins_cancelled(serve: Serve) -> None:
    """The request and the abort arrived together."""
    reasons: list[str | None] = []

    def find(association: Association, message: Message) -> None:
        message.read(1 << 20)
        association.process_input()
        with association.operation(message) as cancellation:
            reasons.append(cancellation.reason)

    archive = serve(find=find)
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(find_rq(), pdu(ABORT, bytes(4)))
        assert archive.ended_by() == ["A-ABORT"]
    assert reasons == ["A-ABORT"]


def test_a_wait_after_a_cancel_lasts_for_the_grace(archive_of_nothing: Archive) -> None:
    """A graceful wait goes on after the cancel for the grace time; another wait ends at once."""
    import select

    from pacs.dimse.upper.waiting import wait

    cancellation = Cancellation()
    cancellation.cancel("C-CANCEL")
    with Peer(archive_of_nothing.port) as peer:
        for graceful, least in ((True, 0.3), (False, 0.0)):
            wait_context = WaitContext(cancellation, grace=0.3)
            began = time.monotonic()
            with pytest.raises(Cancelled):
                while True:
                    wait(peer.socket.fileno(), select.POLLIN, None, wait_context, graceful=graceful)
            assert least <= time.monotonic() - began < least + AT_ONCE


def test_x2_there_is_no_tick_after_a_cancel() -> None:
    """There is no Pending response after a cancel."""
    ticks: list[int] = []
    wait_context = WaitContext(Cancellation(), every=0.0, tick=lambda: ticks.append(1))
    assert wait_context.tick_if_due()
    wait_context.cancellation.cancel("C-CANCEL")
    assert wait_context.tick_due is None
    assert not wait_context.tick_if_due()
    assert ticks == [1]


@pytest.fixture
def archive_of_nothing(serve: Serve) -> Archive:
    """A server to connect to."""
    return serve()
