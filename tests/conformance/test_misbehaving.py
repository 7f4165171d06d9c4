"""Servers that hang, abort, die or never end: the run says so, and goes on."""

import socket
import threading

import pytest

from pacs.conformance.checks import Kind, Peer, Specimens, Unreachable, examine, selected, wire
from pacs.conformance.checks.receiver import REFUSED, Receiver
from pacs.conformance.checks.wire import C_CANCEL, C_FIND, C_STORE
from pacs.testing import serving, study
from tests.archives import take_in
from tests.conformance.tampering import Plant, holds, is_pending, is_request, lost, relaying, says, when
from tests.waiting import eventually


def test_a_server_that_says_nothing_is_not_reached(silent):
    """Nor waited for longer than asked."""
    with pytest.raises(Unreachable, match=r"no answer within 0\.3 s"):
        examine(Peer("NOBODY", "127.0.0.1", silent, patience=0.3), Specimens())


def test_a_server_that_is_not_there_is_not_reached(free_receiver):
    """Which says where it was looked for."""
    with pytest.raises(Unreachable, match=rf"no connection to 127\.0\.0\.1:{free_receiver}"):
        examine(Peer("NOBODY", "127.0.0.1", free_receiver), Specimens())


def test_whoever_does_not_answer_deviates_and_the_next_check_is_asked(strict):
    """Queries get lost here; a C-ECHO is answered."""
    with relaying(strict.port, Plant(requests=when(is_request(C_FIND), lost))) as relay:
        found = strict.examine("F7", "N1", "F8", port=relay.port, patience=0.5).verdicts
    assert found["F7"].kind is found["F8"].kind is Kind.DEVIATES
    assert found["F7"].seen == "no answer within 0.5 s"
    assert found["N1"].kind is Kind.CONFORMS


def test_matches_without_an_end_come_to_one(strict):
    """However many there are: an association takes a bounded time."""

    def endless(message):
        return [message] * 2000

    def drip(message):
        stop.wait(0.05)
        return endless(message)

    stop = threading.Event()
    plant = Plant(
        answers=lambda each: (
            drip(each) if is_pending(C_FIND)(each) else lost(each) if each.field == C_FIND | wire.RESPONSE else each
        )
    )
    with relaying(strict.port, plant) as relay:
        verdict = strict.verdict("F8", port=relay.port, patience=0.5)
    assert verdict.kind is Kind.DEVIATES
    assert verdict.seen in ("no answer within 0.5 s", "it goes on without an end")


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (says(wire.STATUS, None), "a response has no Status"),
        (says(wire.RESPONDING_TO, 99), "a response to Message ID 99"),
        (says(wire.STATUS, "long"), "a response has no Status"),
        (holds(lambda data: b"\x08\x00\x05\x00\xff\xff\xff\x7f"), ""),
        (holds(lambda data: b""), ""),
    ],
)
def test_answers_that_are_none_do_not_end_the_run(strict, change, seen):
    """Whatever comes, there is a verdict, which is not that all is well."""
    plant = Plant(answers=when(lambda each: each.field == C_FIND | wire.RESPONSE and each.is_pending, change))
    with relaying(strict.port, plant) as relay:
        found = strict.examine("F6", "M14c", "K5", port=relay.port, patience=3).verdicts
    assert not {each.kind for each in found.values()} & {Kind.CONFORMS, Kind.FREE}
    assert seen in found["F6"].seen


def test_a_server_that_dies_is_asked_no_more(strict):
    """After a few checks in vain: the rest could not be asked, and says why."""
    gone = threading.Event()

    def close(kind, body):
        return None if gone.is_set() else (kind, body)

    with relaying(strict.port, Plant(pdu=close)) as relay:
        names = ["N1", "F1", "F2", "F3", "F4", "F5", "F6"]
        peer = Peer("PACS", "127.0.0.1", relay.port, patience=1)
        column = examine(
            peer,
            Specimens(),
            checks=selected(names),
            on_check=lambda check, _: gone.set() if check.id == "N1" else None,
        )
    assert column.verdicts["N1"].kind is Kind.CONFORMS
    assert column.verdicts["F6"].kind is Kind.NOT_ASKED
    assert column.verdicts["F6"].seen == "the server answers no more"


def test_a_server_that_takes_no_instances_is_asked_what_needs_none(strict):
    """The rest could not be asked: nothing is well by default."""
    with relaying(strict.port, Plant(requests=when(is_request(C_STORE), lost))) as relay:
        found = strict.examine("N1", "S6", "F7", "V5", "G1", "X1", "J1", port=relay.port, patience=0.05).verdicts
    assert found.pop("N1").kind is Kind.CONFORMS
    assert {each.kind for each in found.values()} == {Kind.NOT_ASKED}


def test_without_a_receiver_moves_could_not_be_asked(strict):
    """And the destination that nobody knows still can."""
    peer = Peer("PACS", "127.0.0.1", strict.port)
    found = examine(peer, Specimens(), checks=selected(["moving"])).verdicts
    assert found.pop("V2").kind is Kind.CONFORMS
    assert {each.kind for each in found.values()} == {Kind.NOT_ASKED}


def test_a_server_that_does_not_know_the_receiver_is_told_what_to_list(strict, free_receiver):
    """In a line that can be pasted."""
    peer = Peer("PACS", "127.0.0.1", strict.port)
    column = examine(peer, Specimens(), ("UNKNOWN", free_receiver), checks=selected(["V5"]))
    assert column.verdicts["V5"].kind is Kind.NOT_ASKED
    assert f"pacs peers add UNKNOWN 127.0.0.1 {free_receiver}" in column.verdicts["V5"].seen


def test_the_receiver_takes_nothing_but_the_specimens():
    """What others send to its port is refused, and not kept."""
    specimens = Specimens()
    stranger = Specimens("ELSE").instance("1")
    with Receiver("PACSRUN", "127.0.0.1", 0, specimens.root) as receiver:
        peer = Peer("PACSRUN", "127.0.0.1", receiver.port)
        with peer.associate([(stranger.sop_class, (stranger.syntax,))]) as association:
            more = {wire.SOP_INSTANCE: stranger.uid}
            response = association.ask(C_STORE, stranger.sop_class, stranger.encode(), more)
    assert response.status == REFUSED


def test_other_data_on_the_server_changes_no_verdict(tmp_path, free_receiver):
    """Studies of other patients, with the same names and numbers."""
    with serving(tmp_path, {"query.manner": "strict"}) as archive:
        take_in(archive, study("Pacsrun^Alpha^Middle", AccessionNumber="ACC-a1", StudyDate="20200120"))
        peer = Peer("PACS", "127.0.0.1", archive.port)
        column = examine(peer, Specimens(), checks=selected(["finding", "matching"]))
    assert column.count(Kind.DEVIATES) == 0


def test_the_specimens_are_told_by_their_prefix():
    """Every UID and Patient ID of two prefixes is another, and those of one are the same each time."""
    one, same, other = (list(Specimens(prefix)) for prefix in ("A", "A", "B"))
    assert [each.encode() for each in one] == [each.encode() for each in same]
    assert not {each.uid for each in one} & {each.uid for each in other}
    assert {each.dataset.PatientID[:2] for each in other} == {"B-"}
    assert all(each.uid.startswith(Specimens("A").root) and len(each.uid) <= 64 for each in one)


def test_a_message_that_is_too_long_is_not_kept():
    """Of a server that sends without an end."""
    assembly = wire.MessageAssembler()
    piece = bytes(wire.LONGEST_MESSAGE // 2)
    assert assembly.add(1, 0, piece) is None
    assert assembly.add(1, 0, piece) is None
    with pytest.raises(wire.Malformed, match="longer than"):
        assembly.add(1, 0, b"\0")


@pytest.mark.parametrize("written", ["PACS@host:104", "A B@10.0.0.1:11112", "PACS@[::1]:104"])
def test_a_peer_is_written_as_it_is_read(written):
    """AET@host:port, IPv6 in brackets."""
    assert str(Peer.parse(written)) == written


@pytest.mark.parametrize(
    "written", ["PACS", "@host:104", "PACS@host", "PACS@host:0", "PACS@::1:104", "A" * 17 + "@h:1"]
)
def test_a_peer_that_is_not_written_so_is_said_to_be_none(written):
    """With an example."""
    with pytest.raises(ValueError, match="is not AET@host:port"):
        Peer.parse(written)


def test_a_port_that_is_taken_is_said(strict):
    """By the system's own error."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        examine(Peer("PACS", "127.0.0.1", strict.port), Specimens(), ("PACSRUN", taken.getsockname()[1]))


def test_a_server_that_indexes_later_is_waited_for(strict):
    """It answers that it has the instances before it finds them: here the first query finds nothing."""
    asked = []

    def late(message):
        if message.field != C_FIND | wire.RESPONSE:
            return message
        asked.extend([message] if not message.is_pending else [])
        return lost(message) if message.is_pending and len(asked) < 2 else message

    with relaying(strict.port, Plant(answers=late)) as relay:
        verdict = strict.verdict("F7", port=relay.port)
    assert len(asked) > 3
    assert verdict.kind is Kind.CONFORMS


def test_a_server_is_not_asked_for_everything_it_has(pacs_server):
    """What may be taken for a wish for all studies is cancelled behind the first match."""
    asked = []

    def note(message):
        asked.append(message.field)
        return message

    with relaying(pacs_server.port, Plant(requests=note)) as relay:
        peer = Peer("PACS", "127.0.0.1", relay.port)
        column = examine(peer, Specimens(), checks=selected(["F3"]))
        eventually(lambda: C_CANCEL in asked)
    assert column.verdicts["F3"].seen == "matches"


def test_a_server_that_looks_for_the_receiver_elsewhere_is_told_what_to_list(strict, free_receiver):
    """It knows the AE title with another port: nothing arrives, and that is no verdict on its moves."""
    peer = Peer("PACS", "127.0.0.1", strict.port)
    column = examine(peer, Specimens(), ("PACSRUN", free_receiver), checks=selected(["V5", "V6"]))
    assert {each.kind for each in column.verdicts.values()} == {Kind.NOT_ASKED}
    assert "ends with A702" in column.verdicts["V5"].seen
    assert f"pacs peers add PACSRUN 127.0.0.1 {free_receiver}" in column.verdicts["V5"].seen


def test_a_server_that_lets_nobody_in_says_who_we_are(tmp_path):
    """So that our AE title can be listed there."""
    with serving(tmp_path, {"access.callers": "peers"}) as archive:
        peer = Peer("PACS", "127.0.0.1", archive.port)
        with pytest.raises(Unreachable, match=r"calling AE title not recognized; our AE title is PACSRUN"):
            examine(peer, Specimens())
