"""Conditions of faults, and the reproducible randomness of scenarios."""

import gc
import threading
import weakref
from dataclasses import fields

import pytest
from pydicom import Dataset

from pacs.faults.model import DIMSE, Fault, Scenario, is_among, merged
from pacs.faults.selection import ArmedFaults, MessageInfo
from pacs.testing import serving, study
from pacs.testing.message_log import MessageLog
from tests.archives import FIND, MOVE, identifier
from tests.committing import references, requester
from tests.committing import request as ask
from tests.raw import C_ECHO, C_FIND, C_MOVE, IMPLICIT, Raw, associate_rq, element, request
from tests.waiting import eventually

VERIFICATION = "1.2.840.10008.1.1"

ECHO = MessageInfo("C-ECHO", "ME", "PACS")


@pytest.mark.parametrize(
    ("which", "numbers"),
    [
        ("", [1, 2, 3, 4, 5, 6]),
        (3, [3]),
        ((1, 4), [1, 4]),
        ("every 2", [2, 4, 6]),
        ("from 4", [4, 5, 6]),
        ("first 2", [1, 2]),
    ],
)
def test_a_selection_has_several_forms(which, numbers):
    """Numbers from 1, and words for common selections."""
    assert [number for number in range(1, 7) if is_among(which, number)] == numbers


@pytest.mark.parametrize(
    ("fault", "written"),
    [
        (
            Fault("C-FIND", nth="every 3", status=0xA700, after=2),
            "Fault('C-FIND', nth='every 3', status=0xA700, after=2)",
        ),
        (Fault(silent=True), "Fault(silent=True)"),
        (
            Fault("C-MOVE", final_status=0, offending=(0x00100020,), message_id=7),
            "Fault('C-MOVE', final_status=0x0000, offending=(0x00100020,), message_id=7)",
        ),
    ],
)
def test_the_repr_of_a_fault_is_code(fault, written):
    """With the fields that differ from their defaults, as valid code."""
    assert repr(fault) == written
    assert eval(written, {"Fault": Fault}) == fault


def test_the_repr_of_an_armed_fault_has_its_counts():
    """Alone and in the list of all faults."""
    chooser = ArmedFaults(Scenario())
    assert repr(chooser) == "<faults: none>"
    armed = chooser.add(Fault("C-ECHO", nth=2, status=0x0122))
    chooser.choose(ECHO)
    chooser.choose(ECHO)
    assert repr(armed) == "<Fault('C-ECHO', nth=2, status=0x0122), number 1: applied to 1 of 2 messages>"
    assert repr(chooser) == f"<faults: {armed!r}>"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"operation": "C-FIN"}, "operation: expected one of association, C-ECHO"),
        ({"nth": "each 3"}, 'nth: expected a number, a list of numbers, "every 3"'),
        ({"nth": 0}, "nth: expected numbers of 1 or more"),
        ({"probability": 1.5}, "probability: expected 0 to 1"),
        ({"level": "study"}, "level: expected one of PATIENT"),
        ({"operation": "C-ECHO", "status": 0x10000}, "status: expected 0 to 0xFFFF"),
        ({"operation": "C-ECHO", "full_disk": True}, "full_disk: expected operation to be one of C-STORE"),
        ({"reject": (1, 1, 1)}, "reject: expected operation to be one of association"),
        ({"operation": "association", "reject": (0, 1, 1)}, "reject: expected result, source and reason"),
        ({"operation": "C-FIND", "delay": -1.0}, "delay: expected a number of 0 or more"),
        ({"operation": "C-FIND", "pendings": "sometimes"}, 'pendings: expected "none", "every 3" or "at the end"'),
        ({"operation": "C-MOVE", "counts": "odd"}, 'counts: expected "missing", "wrong" or "zero at failure", not'),
        ({"operation": "C-MOVE", "fail": 1.5}, "fail: expected a fraction"),
        ({"operation": "C-MOVE", "fail": "some"}, "fail: expected a number"),
        ({"operation": "association", "refuse": ("*",), "refuse_result": 9}, "refuse_result: expected 1, 2, 3 or 4"),
    ],
)
def test_an_invalid_fault_raises_with_the_expected_value(said, expected):
    """When it is created."""
    with pytest.raises(ValueError, match="^" + expected.replace("(", r"\(")):
        Fault(**said)


@pytest.mark.parametrize(
    ("fault", "info"),
    [
        (Fault("C-FIND", status=1), ECHO),
        (Fault(calling="YOU*", status=1), ECHO),
        (Fault(called="OTHER", status=1), ECHO),
        (Fault(level="SERIES", status=1), MessageInfo("C-FIND", "ME", "PACS", level="STUDY")),
        (
            Fault(sop_class="1.2.840.10008.5*", status=1),
            MessageInfo("C-ECHO", "ME", "PACS", sop_class="1.2.840.10008.1.1"),
        ),
        (Fault(status=1), MessageInfo("association", "ME", "PACS")),
        (Fault(delay=1.0), MessageInfo("N-EVENT-REPORT", "ME", "PACS")),
    ],
)
def test_other_messages_neither_match_nor_count(fault, info):
    """Only matching messages are counted."""
    chooser = ArmedFaults(Scenario())
    armed = chooser.add(fault)
    assert chooser.choose(info) is None
    assert (armed.seen, armed.fired) == (0, 0)


def test_a_fault_counts_matching_messages():
    """Other messages in between do not count."""
    chooser = ArmedFaults(Scenario(faults=(Fault("C-ECHO", calling="M?", nth="every 2", status=1),)))
    other = MessageInfo("C-ECHO", "OTHER", "PACS")
    met = [chooser.choose(each) is not None for each in (ECHO, other, ECHO, other, ECHO, ECHO)]
    assert met == [False, False, True, False, False, True]
    assert (chooser.armed[0].seen, chooser.armed[0].fired) == (4, 2)


def test_removed_faults_have_no_effect():
    """One fault, or all."""
    chooser = ArmedFaults(Scenario())
    first, _ = chooser.add(Fault(status=1)), chooser.add(Fault(delay=1.0))
    first.remove()
    first.remove()
    chosen = chooser.choose(ECHO)
    assert chosen is not None
    assert chosen.fault == Fault("C-ECHO", delay=1.0)
    chooser.clear()
    assert chooser.choose(ECHO) is None


def test_several_faults_of_one_message_are_merged():
    """The later one takes precedence; effects for other operations are left out."""
    both = merged([Fault(status=1, delay=2.0), Fault(status=3, full_disk=True)], "C-ECHO")
    assert both == Fault("C-ECHO", status=3, delay=2.0)


def test_the_seed_determines_random_choices():
    """And differs for another seed."""

    def met(seed):
        chooser = ArmedFaults(Scenario(seed=seed, faults=(Fault(probability=0.5, status=1),)))
        return [chooser.choose(ECHO) is not None for _ in range(64)]

    assert met(1) == met(1) != met(2)
    assert 16 < sum(met(1)) < 48


def test_every_field_has_a_description():
    """As a condition, or as an effect with its operations."""
    for each in fields(Fault):
        assert ("when" in each.metadata) != ("does" in each.metadata), each.name
        assert set(each.metadata.get("of", ())) <= {"association", *DIMSE}


def exchange(folder, seed):
    """Return all bytes that a client receives for some requests to a server with random faults."""
    faults = (
        Fault("C-FIND", nth="every 2", garble=2),
        Fault("C-FIND", probability=0.5, character_set="ISO_IR 192", duplicate="pendings"),
        Fault("C-FIND", probability=0.5, status=0xC001, after=1),
        Fault("C-FIND", jitter=0.01, pendings="every 2"),
    )
    came = []
    with serving(folder, scenario=Scenario(seed=seed, faults=faults)) as server:
        server.add(study(series=1, instances=4))
        for number in range(1, 7):
            with Raw(server.port) as client:
                client.associate((1, FIND, [IMPLICIT]), (3, VERIFICATION, [IMPLICIT]))
                asked = identifier("IMAGE", StudyInstanceUID=study()[0].StudyInstanceUID, SOPInstanceUID="")
                client.send(request(C_FIND, 1, FIND, number, asked), request(C_ECHO, 3, VERIFICATION, 99, None))
                came.append(up_to_the_echo(client))
    return came


def up_to_the_echo(client):
    """Return the PDUs up to the response to a C-ECHO in presentation context 3."""
    pdus = [client.pdu()]
    while pdus[-1][1][4] != 3:
        pdus.append(client.pdu())
    return pdus


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    """From two servers with the same scenario; another seed gives other bytes."""
    first, second, other = (exchange(tmp_path / name, seed) for name, seed in (("a", 7), ("b", 7), ("c", 8)))
    assert first == second
    assert first != other


@pytest.fixture
def committing(tmp_path):
    """A watched server that reports soon, and its instances."""
    with serving(tmp_path, {"commitment.same_association_seconds": 0.01}, watched=True) as server:
        held = study(series=1, instances=4)
        server.add(held)
        yield server, held


def test_a_storage_commitment_report_can_have_failures(committing):
    """Event Type 2, with the chosen instances as failed and the others as committed."""
    server, held = committing
    armed = server.faults.add(Fault("N-EVENT-REPORT", fail=(2, 3)))
    asking = requester()
    with asking.associated(server.port) as association:
        assert ask(association, references(held)) == 0x0000
        told = asking.report()
    assert armed.fired == 1
    assert told.event_type == 2
    assert told.committed == references([held[0], held[3]])
    assert [each[1] for each in told.failed] == [held[1].SOPInstanceUID, held[2].SOPInstanceUID]


def test_a_request_for_commitment_can_be_refused(committing):
    """With any status; then nothing is reported."""
    server, held = committing
    server.faults.add(Fault("N-ACTION", status=0x0213, comment="Too much asked for"))
    assert requester().ask(server.port, references(held)) == 0x0213
    assert server.received.n_action[0].responses[0].comment == "Too much asked for"


def test_a_report_can_be_withheld(committing):
    """The next one arrives."""
    server, held = committing
    armed = server.faults.add(Fault("N-EVENT-REPORT", nth=1, silent=True))
    asking = requester()
    with asking.associated(server.port) as association:
        ask(association, references(held), "1.2.3.1")
        ask(association, references(held), "1.2.3.2")
        told = asking.report()
    assert (armed.seen, armed.fired) == (2, 1)
    assert isinstance(told.dataset, Dataset)


def test_an_ended_association_is_not_kept_in_memory(tmp_path, monkeypatch):
    """Neither its buffers nor its socket: a test server may run for days."""
    seen = []
    noted = MessageLog.associated

    def associated(notebook, requested, association):
        seen.append(weakref.ref(association))
        noted(notebook, requested, association)

    monkeypatch.setattr(MessageLog, "associated", associated)
    with serving(tmp_path, watched=True) as server:
        with Raw(server.port) as client:
            client.associate((3, VERIFICATION, [IMPLICIT]))
            client.send(request(C_ECHO, 3, VERIFICATION, 99, None))
            client.until_final()
            client.release()
        assert eventually(lambda: gc.collect() >= 0 and seen[0]() is None)


def test_a_report_can_end_the_association_instead(committing):
    """Its PDUs are counted like those of an operation."""
    server, held = committing
    armed = server.faults.add(Fault("N-EVENT-REPORT", drop_sent=2))
    asking = requester()
    with asking.associated(server.port) as association:
        ask(association, references(held))
        assert eventually(lambda: not association.is_established)
    assert armed.fired == 1
    assert server.received.wait_for_ends()[0].ended_by == "aborted here"


@pytest.mark.parametrize("triplet", [(1, 1, 3), (2, 3, 1), (1, 1, 200), (3, 9, 9)])
def test_any_rejection_can_be_sent(tmp_path, triplet):
    """With any result, source and reason, even undefined ones."""
    with serving(tmp_path, scenario=Scenario(faults=(Fault("association", reject=triplet),))) as server:
        with Raw(server.port) as client:
            client.send(associate_rq([(1, VERIFICATION, [IMPLICIT])]))
            assert client.pdu() == (0x03, bytes((0, *triplet)))
        assert [each.rejection for each in server.received.associations] == [triplet]


LONG = 3600.0


@pytest.mark.parametrize(
    "fault",
    [
        Fault("association", delay=LONG),
        Fault("C-ECHO", delay=LONG),
        Fault("C-ECHO", bytes_per_second=1, delay_each=LONG),
        Fault("C-MOVE", hang_destination=LONG),
        Fault("C-MOVE", hang_destination=LONG, success_first=True),
    ],
    ids=lambda each: f"{each.operation} {', '.join(each.effects)}",
)
def test_a_stopping_server_ends_its_delays(tmp_path, fault):
    """All delays end when the `with` block ends, long before an hour."""
    with serving(tmp_path, scenario=Scenario(faults=(fault,))) as server:
        server.add(study(series=1, instances=1))
        server.add_peer("SOMEWHERE", "127.0.0.1", 9)
        with Raw(server.port) as client:
            client.send(associate_rq([(1, MOVE, [IMPLICIT]), (3, VERIFICATION, [IMPLICIT])]))
            if fault.operation != "association":
                client.pdu()
                asked = identifier("STUDY", StudyInstanceUID=study()[0].StudyInstanceUID)
                to = [element(0x0600, b"SOMEWHERE")]
                is_move = fault.operation == "C-MOVE"
                client.send(
                    request(C_MOVE, 1, MOVE, 1, asked, to) if is_move else request(C_ECHO, 3, VERIFICATION, 1, None)
                )
            assert eventually(lambda: server.faults.armed[0].fired == 1)
            server.close()
    assert not [each for each in threading.enumerate() if each.name in ("pacs-association", "pacs-late")]
