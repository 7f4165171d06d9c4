"""Who sends to the receiver of a retrieve without having been asked: what it gets, and what it can not do."""

import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace

import pytest
from pydicom import dcmread

from benchmarks.processes import free_port
from pacs import client
from pacs.client import Deadlines, InvalidArgument
from pacs.dimse.messages.command import Command, CommandField
from pacs.errors import AssociationLost, AssociationRejected, DestinationUnreachable, OperationFailed, PeerTimeout
from pacs.testing import study
from tests.client.scripted import answer, deliver, scripted
from tests.raw import IMPLICIT, associate_rq, encoded

DATASETS = study(series=1, instances=3)
ASKED = {"StudyInstanceUID": DATASETS[0].StudyInstanceUID}
FOREIGN = study("EVE^MALLORY", series=1, instances=3, patient_id="P2")
VERIFICATION = "1.2.840.10008.1.1"
ACCEPTED, REJECTED = b"\2", b"\3"


@pytest.fixture(autouse=True)
def _no_uid_is_of_both():
    """What nobody asks for is of another study."""
    assert FOREIGN[0].StudyInstanceUID != DATASETS[0].StudyInstanceUID


def altered(dataset):
    """The same instance with other content."""
    other = deepcopy(dataset)
    other.PatientName = "EVE^WAS^HERE"
    return other


def knock(port, origin="127.0.0.2", called="PACSCU"):
    """Ask for an association from an address of this machine: the type of the PDU that answers, and the socket."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(origin, 0))
    connection.sendall(associate_rq([(1, VERIFICATION, [IMPLICIT])], called=called))
    return connection.recv(1), connection


def announcing(count, deliveries):
    """A PACS that makes some deliveries, and says it has sent so many instances."""

    def move(association, message):
        deliveries()
        answer(association, message, 0x0000, completed=count, failed=0, warning=0)

    return scripted(move=move)


# --- what counts -------------------------------------------------------------------------------------------------


def test_what_nobody_asked_for_stands_for_nothing_that_is_lost(tmp_path):
    """Three were announced, three came, and none of them was asked for."""
    port = free_port()
    with (
        announcing(3, lambda: deliver(port, FOREIGN)) as pacs,
        pytest.raises(OperationFailed, match="3 more") as raised,
    ):
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=0.3)
    assert (raised.value.retrieved.paths, raised.value.retrieved.unasked) == ((), 3)


def test_one_instance_again_and_again_stands_for_no_other(tmp_path):
    """On other associations than the one that brought it, nobody knows who repeats it."""
    port = free_port()

    def thrice():
        for _ in range(3):
            assert deliver(port, DATASETS[:1]) == []

    with announcing(3, thrice) as pacs, pytest.raises(OperationFailed, match="2 more"):
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=0.3)


@pytest.mark.parametrize("senders", ["peer", "anyone"])
def test_a_repeat_of_the_pacs_counts_where_nobody_else_can_have_sent_it(tmp_path, senders):
    """By the same content, on the same association, and only while the door is closed to others."""
    port = free_port()
    with announcing(2, lambda: deliver(port, [DATASETS[0], DATASETS[0]])) as pacs:
        if senders == "peer":
            got = client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=0.3)
            assert (len(got.paths), got.completed) == (1, 2)
            return
        with pytest.raises(OperationFailed, match="1 more"):
            client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=0.3, senders=senders)


def test_what_was_there_before_counts_as_it_comes_again(tmp_path):
    """Once, and again on the same association."""
    port = free_port()
    with announcing(3, lambda: deliver(port, DATASETS)) as pacs:
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port)
    with announcing(4, lambda: deliver(port, [*DATASETS, DATASETS[0]])) as pacs:
        got = client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port)
    assert len(got.skipped) == 3


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_instance_that_comes_twice_with_different_content_is_no_success(tmp_path, overwrite):
    """The second is refused with C011, whoever sent which of them; the first is kept."""
    port, refused = free_port(), []

    def both():
        refused.extend(deliver(port, [altered(DATASETS[0])], "EVE"))
        refused.extend(deliver(port, DATASETS, "PACS"))

    with announcing(3, both) as pacs, pytest.raises(OperationFailed, match="twice with different content") as raised:
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, overwrite=overwrite)
    retrieved = raised.value.retrieved
    assert refused == [0xC011]
    assert retrieved.conflicts == (DATASETS[0].SOPInstanceUID,)
    assert {str(each.PatientName) for each in retrieved.datasets()} == {"EVE^WAS^HERE", str(DATASETS[0].PatientName)}


def test_a_fetch_does_not_cover_up_a_conflict_by_another_way(tmp_path):
    """A C-MOVE would find the first of the two in the folder, and be content."""

    def get(association, message):
        for number, each in enumerate((altered(DATASETS[0]), *DATASETS), start=2):
            context = next(one for one in association.contexts.values() if one.abstract_syntax == each.SOPClassUID)
            uid = str(each.SOPInstanceUID)
            command = Command.request(
                CommandField.C_STORE, number, each.SOPClassUID, priority=0, affected_sop_instance_uid=uid
            )
            association.send(context.id, command, encoded(each, context.transfer_syntax))
            assert association.receive(20).command.is_response
        answer(association, message, 0x0000, completed=3, failed=0, warning=0)

    with scripted(get=get) as pacs, pytest.raises(OperationFailed, match="twice") as raised:
        client.fetch(pacs.peer, ASKED, to=tmp_path)
    assert raised.value.retrieved.conflicts == (DATASETS[0].SOPInstanceUID,)


def test_who_receives_whatever_comes_may_have_it_replaced(tmp_path):
    """With `overwrite` the last one is kept, without it the first, and the other is refused."""
    for overwrite, statuses, name in ((True, [], "EVE^WAS^HERE"), (False, [0xC011], str(DATASETS[0].PatientName))):
        with client.receiving(tmp_path / name, overwrite=overwrite) as receiver:
            assert deliver(receiver.port, DATASETS[:1]) == []
            assert deliver(receiver.port, [altered(DATASETS[0])]) == statuses
            (path,) = receiver.arrived
        assert str(dcmread(path).PatientName) == name


# --- who is let in -----------------------------------------------------------------------------------------------


def test_only_the_host_of_the_pacs_may_send(tmp_path):
    """Another is rejected, and where something is missing then, the error says who tried and what to pass."""
    port, answers = free_port(), []

    def stranger():
        kind, connection = knock(port)
        connection.close()
        answers.append(kind)

    with announcing(3, stranger) as pacs, pytest.raises(OperationFailed, match=r"127\.0\.0\.2 was refused.*senders="):
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=0.3)
    assert answers == [REJECTED]


def test_who_was_refused_is_said_too_where_the_pacs_says_that_it_failed(tmp_path):
    """A node that is not let in makes the PACS answer A702: that is the reason, not the port."""
    port = free_port()

    def move(association, message):
        knock(port)[1].close()
        answer(association, message, 0xA702, failed=3, completed=0, warning=0)

    with scripted(move=move) as pacs, pytest.raises(OperationFailed, match=r"A702.*127\.0\.0\.2 was refused"):
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port)


@pytest.mark.parametrize("senders", ["anyone", ["127.0.0.2"], ["127.0.0.0/30"]])
def test_others_may_send_where_that_is_said(tmp_path, senders):
    """Anyone, an address or a network; whoever they are, they reach us by any address of ours."""
    port, answers = free_port(), []

    def other():
        for origin in ("127.0.0.1", "127.0.0.2"):
            kind, connection = knock(port, origin)
            connection.close()
            answers.append(kind)
        socket.create_connection(("127.0.0.9", port), timeout=20).close()
        deliver(port, DATASETS)

    with announcing(3, other) as pacs:
        assert len(client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, senders=senders).paths) == 3
    assert answers == [ACCEPTED, ACCEPTED]


def test_who_calls_us_by_another_title_is_refused(tmp_path):
    """A PACS calls the destination that it was asked for; who means another was not asked."""
    port, refused = free_port(), []

    def mistaken():
        with pytest.raises(AssociationRejected):
            deliver(port, DATASETS, called="OTHER")
        refused.append(True)

    with announcing(3, mistaken) as pacs, pytest.raises(OperationFailed, match="called us 'OTHER'"):
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=0.3)
    assert refused == [True]


def test_it_listens_where_the_pacs_is_reached_and_nowhere_else(tmp_path):
    """On loopback for a PACS on loopback; and so does a receiver for whom nobody said a host."""
    port, elsewhere = free_port(), []

    def look():
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.9", port), timeout=20)
        elsewhere.append(deliver(port, DATASETS))

    with announcing(3, look) as pacs:
        client.move_and_store(pacs.peer, ASKED, to=tmp_path / "in", port=port)
    assert elsewhere == [[]]
    with client.receiving(tmp_path / "other") as receiver, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.9", receiver.port), timeout=20)
    with client.receiving(tmp_path / "third", host="127.0.0.9") as receiver:
        socket.create_connection(("127.0.0.9", receiver.port), timeout=20).close()


def test_a_sender_that_is_no_address_is_a_mistake(tmp_path):
    """And a PACS whose host is not known cannot be listened for."""
    with scripted() as pacs, pytest.raises(InvalidArgument, match=r"10\.0\.0\.0/24"):
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, senders=["everybody"])
    with pytest.raises(DestinationUnreachable, match="unknown host"):
        client.move_and_store("PACS@nowhere.invalid:104", ASKED, to=tmp_path)


def test_strangers_cannot_take_more_places_than_there_are(tmp_path):
    """The seventeenth association is rejected, and nothing is the worse for it."""
    with client.receiving(tmp_path) as receiver:
        found = [knock(receiver.port) for _ in range(17)]
        assert [kind for kind, _ in found] == [ACCEPTED] * 16 + [REJECTED]
        for _, connection in found:
            connection.close()


def test_who_associates_and_says_nothing_does_not_keep_its_place(tmp_path):
    """After `Deadlines.response` it is aborted, while the retrieve goes on."""
    port = free_port()

    def move(association, message):
        _, connection = knock(port, "127.0.0.1")
        connection.settimeout(0.1)
        until, rest = time.monotonic() + 15, b"more"
        while rest and time.monotonic() < until:
            answer(association, message, 0xFF00, remaining=3, completed=0, failed=0, warning=0)
            with suppress(TimeoutError):
                rest = connection.recv(4096)
        connection.close()
        if not rest:
            deliver(port, DATASETS)
        answer(association, message, 0x0000, completed=3, failed=0, warning=0)

    with scripted(move=move) as pacs:
        peer = replace(pacs.peer, deadlines=Deadlines(response=1))
        assert len(client.move_and_store(peer, ASKED, to=tmp_path, port=port, wait=1).paths) == 3


# --- what it cannot prolong --------------------------------------------------------------------------------------


def pestering(port, datasets, ends):
    """Send the same again and again for a while, until nobody takes it any more."""
    until = time.monotonic() + 15
    while not ends.is_set() and time.monotonic() < until:
        try:
            deliver(port, datasets, "EVE")
        except DestinationUnreachable:
            return
        ends.wait(0.1)


@pytest.mark.parametrize("status", [None, 0x0000])
@pytest.mark.parametrize("datasets", [FOREIGN[:1], DATASETS[:1]], ids=["unasked", "repeated"])
def test_what_is_refused_or_repeated_is_no_sign_of_life(tmp_path, status, datasets):
    """Neither while the PACS is silent, nor once it said Success and the rest is waited for."""
    port, ends = free_port(), threading.Event()
    eve = threading.Thread(target=pestering, args=(port, datasets, ends))

    def move(association, message):
        eve.start()
        if status is not None:
            answer(association, message, status, completed=3, failed=0, warning=0)
        association.receive(30)

    began = time.monotonic()
    with scripted(move=move) as pacs:
        peer = replace(pacs.peer, deadlines=Deadlines(response=1, cancel=0.5, release=0.5))
        with pytest.raises(PeerTimeout if status is None else OperationFailed):
            client.move_and_store(peer, ASKED, to=tmp_path, port=port, wait=1)
        took = time.monotonic() - began
        ends.set()
        eve.join()
    assert took < 12


def test_what_is_refused_in_a_get_is_no_sign_of_life(tmp_path):
    """A PACS that stores what nobody asked for on our association, for ever, is given up."""

    def get(association, message):
        each, until = FOREIGN[0], time.monotonic() + 15
        context = next(one for one in association.contexts.values() if one.abstract_syntax == each.SOPClassUID)
        uid = str(each.SOPInstanceUID)
        command = Command.request(CommandField.C_STORE, 2, each.SOPClassUID, priority=0, affected_sop_instance_uid=uid)
        while time.monotonic() < until:
            association.send(context.id, command, encoded(each, context.transfer_syntax))
            if association.receive(20) is None:
                return

    began = time.monotonic()
    with scripted(get=get) as pacs, pytest.raises(AssociationLost):
        client.get(replace(pacs.peer, deadlines=Deadlines(response=1, cancel=0.5)), ASKED, to=tmp_path)
    assert time.monotonic() - began < 12


NARROW = """
import resource, signal, sys
from benchmarks.processes import free_port
from pacs import client
from pacs.testing import study
from tests.client.scripted import answer, deliver, scripted

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
wanted, strange = study(series=1, instances=3), study("EVE^X", series=1, instances=1, size=600, patient_id="P2")
asked = {"StudyInstanceUID": wanted[0].StudyInstanceUID}
if sys.argv[2] == "IMAGE":
    asked |= {"SeriesInstanceUID": wanted[0].SeriesInstanceUID, "SOPInstanceUID": [d.SOPInstanceUID for d in wanted]}
port = free_port()

def move(association, message):
    print([hex(each) for each in deliver(port, strange)], deliver(port, wanted))
    answer(association, message, 0, completed=3, failed=0, warning=0)

resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
with scripted(move=move) as pacs:
    print(len(client.move_and_store(pacs.peer, asked, to=sys.argv[1], port=port, level=sys.argv[2]).paths))
"""


@pytest.mark.parametrize("level", ["STUDY", "IMAGE"])
def test_what_nobody_asked_for_is_not_written_and_may_be_larger_than_the_disk(tmp_path, level):
    """It is refused by its UIDs, before a byte of it is in a file: its size ends nothing."""
    ran = subprocess.run([sys.executable, "-c", NARROW, tmp_path, level], capture_output=True, text=True, check=False)
    assert ran.stdout.splitlines() == ["['0x124'] []", "3"], ran.stderr
