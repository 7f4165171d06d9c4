"""Servers that hang, abort, die or never end: the run reports it, and continues."""

import socket
import threading

import pytest

from pacs.conformance.checks import wire
from pacs.conformance.checks.association import CheckedServer, Unreachable
from pacs.conformance.checks.results import ResultKind
from pacs.conformance.checks.runner import run_checks, selected
from pacs.conformance.checks.sample_data import SampleData
from pacs.conformance.checks.storage_scp import REFUSED, SampleReceiver
from pacs.conformance.checks.wire import C_CANCEL, C_FIND, C_STORE
from pacs.testing import serving, study
from tests.archives import take_in
from tests.conformance.relay import Changes, change_data, drop, is_pending, is_request, relaying, set_element, when
from tests.waiting import eventually


def test_a_silent_server_is_unreachable(silent):
    """After the given timeout."""
    with pytest.raises(Unreachable, match=r"no response within 0\.3 s"):
        run_checks(CheckedServer("NOBODY", "127.0.0.1", silent, timeout=0.3), SampleData())


def test_a_closed_port_is_unreachable(free_receiver):
    """The message names the address."""
    with pytest.raises(Unreachable, match=rf"no connection to 127\.0\.0\.1:{free_receiver}"):
        run_checks(CheckedServer("NOBODY", "127.0.0.1", free_receiver), SampleData())


def test_a_missing_response_deviates_and_the_next_check_runs(strict):
    """C-FIND requests are dropped; a C-ECHO is answered."""
    with relaying(strict.port, Changes(requests=when(is_request(C_FIND), drop))) as relay:
        found = strict.run_checks("F7", "N1", "F8", port=relay.port, timeout=0.5).results
    assert found["F7"].kind is found["F8"].kind is ResultKind.DEVIATES
    assert found["F7"].seen == "no response within 0.5 s"
    assert found["N1"].kind is ResultKind.CONFORMS


def test_endless_matches_end_the_check(strict):
    """The duration of an association is bounded."""

    def endless(message):
        return [message] * 2000

    def drip(message):
        stop.wait(0.05)
        return endless(message)

    stop = threading.Event()
    changes = Changes(
        answers=lambda each: (
            drip(each) if is_pending(C_FIND)(each) else drop(each) if each.field == C_FIND | wire.RESPONSE else each
        )
    )
    with relaying(strict.port, changes) as relay:
        result = strict.result("F8", port=relay.port, timeout=0.5)
    assert result.kind is ResultKind.DEVIATES
    assert result.seen in ("no response within 0.5 s", "responses without an end")


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (set_element(wire.STATUS, None), "a response has no Status"),
        (set_element(wire.RESPONDING_TO, 99), "a response to Message ID 99"),
        (set_element(wire.STATUS, "long"), "a response has no Status"),
        (change_data(lambda data: b"\x08\x00\x05\x00\xff\xff\xff\x7f"), ""),
        (change_data(lambda data: b""), ""),
    ],
)
def test_invalid_responses_do_not_end_the_run(strict, change, seen):
    """The check has a result, which is not that the server conforms."""
    changes = Changes(answers=when(lambda each: each.field == C_FIND | wire.RESPONSE and each.is_pending, change))
    with relaying(strict.port, changes) as relay:
        found = strict.run_checks("F6", "M14c", "K5", port=relay.port, timeout=3).results
    assert not {each.kind for each in found.values()} & {ResultKind.CONFORMS, ResultKind.FREE}
    assert seen in found["F6"].seen


def test_the_checks_stop_when_the_server_dies(strict):
    """After a few failed checks the rest is skipped, and says why."""
    gone = threading.Event()

    def close(kind, body):
        return None if gone.is_set() else (kind, body)

    with relaying(strict.port, Changes(pdu=close)) as relay:
        names = ["N1", "F1", "F2", "F3", "F4", "F5", "F6"]
        server = CheckedServer("PACS", "127.0.0.1", relay.port, timeout=1)
        found = run_checks(
            server,
            SampleData(),
            checks=selected(names),
            on_check=lambda check, _: gone.set() if check.id == "N1" else None,
        )
    assert found.results["N1"].kind is ResultKind.CONFORMS
    assert found.results["F6"].kind is ResultKind.NOT_ASKED
    assert found.results["F6"].seen == "the server does not answer any more"


def test_checks_that_need_no_instances_run_without_them(strict):
    """The other checks could not be asked: nothing conforms by default."""
    with relaying(strict.port, Changes(requests=when(is_request(C_STORE), drop))) as relay:
        found = strict.run_checks("N1", "S6", "F7", "V5", "G1", "X1", "J1", port=relay.port, timeout=0.05).results
    assert found.pop("N1").kind is ResultKind.CONFORMS
    assert {each.kind for each in found.values()} == {ResultKind.NOT_ASKED}


def test_without_a_receiver_the_checks_of_c_move_are_skipped(strict):
    """Except the one of an unknown destination."""
    server = CheckedServer("PACS", "127.0.0.1", strict.port)
    found = run_checks(server, SampleData(), checks=selected(["moving"])).results
    assert found.pop("V2").kind is ResultKind.CONFORMS
    assert {each.kind for each in found.values()} == {ResultKind.NOT_ASKED}


def test_an_unlisted_receiver_is_reported_with_the_command_that_lists_it(strict, free_receiver):
    """As a command that can be pasted."""
    server = CheckedServer("PACS", "127.0.0.1", strict.port)
    found = run_checks(server, SampleData(), ("UNKNOWN", free_receiver), checks=selected(["V5"]))
    assert found.results["V5"].kind is ResultKind.NOT_ASKED
    assert f"pacs peers add UNKNOWN 127.0.0.1 {free_receiver}" in found.results["V5"].seen


def test_the_receiver_stores_only_samples():
    """Other instances are refused."""
    samples = SampleData()
    stranger = SampleData("ELSE").instance("1")
    with SampleReceiver("PACSRUN", "127.0.0.1", 0, samples.root) as receiver:
        server = CheckedServer("PACSRUN", "127.0.0.1", receiver.port)
        with server.associate([(stranger.sop_class, (stranger.syntax,))]) as association:
            more = {wire.SOP_INSTANCE: stranger.uid}
            response = association.perform(C_STORE, stranger.sop_class, stranger.encode(), more)
    assert response.status == REFUSED


def test_other_data_on_the_server_changes_no_result(tmp_path, free_receiver):
    """Such as a study of another patient with the same name and accession number."""
    with serving(tmp_path, {"query.manner": "strict"}) as archive:
        take_in(archive, study("Pacsrun^Alpha^Middle", AccessionNumber="ACC-a1", StudyDate="20200120"))
        server = CheckedServer("PACS", "127.0.0.1", archive.port)
        found = run_checks(server, SampleData(), checks=selected(["finding", "matching"]))
    assert found.count(ResultKind.DEVIATES) == 0


def test_the_prefix_identifies_the_samples():
    """UIDs and Patient IDs differ between prefixes, and are the same in each run with one prefix."""
    one, same, other = (list(SampleData(prefix)) for prefix in ("A", "A", "B"))
    assert [each.encode() for each in one] == [each.encode() for each in same]
    assert not {each.uid for each in one} & {each.uid for each in other}
    assert {each.dataset.PatientID[:2] for each in other} == {"B-"}
    assert all(each.uid.startswith(SampleData("A").root) and len(each.uid) <= 64 for each in one)


def test_the_length_of_a_message_is_bounded():
    """For a server that never sends the last fragment."""
    assembly = wire.MessageAssembler()
    piece = bytes(wire.LONGEST_MESSAGE // 2)
    assert assembly.add(1, 0, piece) is None
    assert assembly.add(1, 0, piece) is None
    with pytest.raises(wire.Malformed, match="longer than"):
        assembly.add(1, 0, b"\0")


@pytest.mark.parametrize(
    ("server", "printed"),
    [
        (CheckedServer("PACS", "host", 104), "PACS@host:104"),
        (CheckedServer("A B", "10.0.0.1", 11112), "A B@10.0.0.1:11112"),
        (CheckedServer("PACS", "::1", 104), "PACS@[::1]:104"),
    ],
)
def test_a_server_is_printed_as_it_is_typed(server, printed):
    """As AET@host:port, with IPv6 addresses in brackets."""
    assert str(server) == printed


def test_a_port_in_use_is_an_os_error(strict):
    """Raised before any check runs."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        run_checks(CheckedServer("PACS", "127.0.0.1", strict.port), SampleData(), ("PACSRUN", taken.getsockname()[1]))


def test_the_run_waits_for_a_server_that_indexes_later(strict):
    """Here the first query after the C-STORE responses finds nothing."""
    asked = []

    def late(message):
        if message.field != C_FIND | wire.RESPONSE:
            return message
        asked.extend([message] if not message.is_pending else [])
        return drop(message) if message.is_pending and len(asked) < 2 else message

    with relaying(strict.port, Changes(answers=late)) as relay:
        result = strict.result("F7", port=relay.port)
    assert len(asked) > 3
    assert result.kind is ResultKind.CONFORMS


def test_a_query_for_all_studies_is_cancelled(pacs_server):
    """After the first match, so that the server does not list all its data."""
    asked = []

    def note(message):
        asked.append(message.field)
        return message

    with relaying(pacs_server.port, Changes(requests=note)) as relay:
        server = CheckedServer("PACS", "127.0.0.1", relay.port)
        found = run_checks(server, SampleData(), checks=selected(["F3"]))
        eventually(lambda: C_CANCEL in asked)
    assert found.results["F3"].seen == "matches"


def test_a_receiver_listed_with_another_port_is_reported(strict, free_receiver):
    """Nothing is received, so the checks of C-MOVE could not be asked."""
    server = CheckedServer("PACS", "127.0.0.1", strict.port)
    found = run_checks(server, SampleData(), ("PACSRUN", free_receiver), checks=selected(["V5", "V6"]))
    assert {each.kind for each in found.results.values()} == {ResultKind.NOT_ASKED}
    assert "ends with A702" in found.results["V5"].seen
    assert f"pacs peers add PACSRUN 127.0.0.1 {free_receiver}" in found.results["V5"].seen


def test_a_rejected_association_is_reported_with_our_ae_title(tmp_path):
    """So that the operator of the server can list it."""
    with serving(tmp_path, {"access.callers": "peers"}) as archive:
        server = CheckedServer("PACS", "127.0.0.1", archive.port)
        with pytest.raises(Unreachable, match=r"calling AE title not recognized; our AE title is PACSRUN"):
            run_checks(server, SampleData())
