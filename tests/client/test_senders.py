"""Senders that a retrieve did not ask for: what they receive, and what they cannot do."""

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
    """The other instances belong to another study."""
    assert FOREIGN[0].StudyInstanceUID != DATASETS[0].StudyInstanceUID


def altered(dataset):
    """Return the same instance with other content."""
    other = deepcopy(dataset)
    other.PatientName = "EVE^WAS^HERE"
    return other


def request_association(port, origin="127.0.0.2", called="PACSCU"):
    """Request an association from an address of this machine; return the type of the answering PDU, and the socket."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(origin, 0))
    connection.sendall(associate_rq([(1, VERIFICATION, [IMPLICIT])], called=called))
    return connection.recv(1), connection


def announcing(count, deliveries):
    """Run a PACS that makes some deliveries and reports this many instances."""

    def move(association, message):
        deliveries()
        answer(association, message, 0x0000, completed=count, failed=0, warning=0)

    return scripted(move=move)


# --- counting ----------------------------------------------------------------------------------------------------


def test_unrequested_instances_do_not_count_as_announced(tmp_path):
    """Three announced and three arrived, but none of them was requested."""
    port = free_port()
    with (
        announcing(3, lambda: deliver(port, FOREIGN)) as pacs,
        pytest.raises(OperationFailed, match="3 more") as raised,
    ):
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=0.3)
    assert (raised.value.retrieved.paths, raised.value.retrieved.unasked) == ((), 3)


def test_repeats_on_other_associations_do_not_count(tmp_path):
    """On other associations than the first one, the sender of a repeat is unknown."""
    port = free_port()

    def thrice():
        for _ in range(3):
            assert deliver(port, DATASETS[:1]) == []

    with announcing(3, thrice) as pacs, pytest.raises(OperationFailed, match="2 more"):
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=0.3)


@pytest.mark.parametrize("senders", ["peer", "anyone"])
def test_repeats_count_if_only_the_pacs_can_send(tmp_path, senders):
    """With the same content, on the same association, and only if no other sender is allowed."""
    port = free_port()
    with announcing(2, lambda: deliver(port, [DATASETS[0], DATASETS[0]])) as pacs:
        if senders == "peer":
            got = client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=0.3)
            assert (len(got.paths), got.completed) == (1, 2)
            return
        with pytest.raises(OperationFailed, match="1 more"):
            client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=0.3, senders=senders)


def test_present_instances_count_when_they_arrive_again(tmp_path):
    """Once, and again on the same association."""
    port = free_port()
    with announcing(3, lambda: deliver(port, DATASETS)) as pacs:
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port)
    with announcing(4, lambda: deliver(port, [*DATASETS, DATASETS[0]])) as pacs:
        got = client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port)
    assert len(got.skipped) == 3


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_instance_with_two_contents_is_a_failure(tmp_path, overwrite):
    """The second is refused with C011 from any sender; the first is kept."""
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


def test_a_fetch_does_not_hide_a_conflict_by_a_second_retrieve(tmp_path):
    """A C-MOVE would find the first one in the folder and succeed."""

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


def test_a_receiver_can_replace_instances(tmp_path):
    """With `overwrite` the last one is kept; without it the first, and the other is refused."""
    for overwrite, statuses, name in ((True, [], "EVE^WAS^HERE"), (False, [0xC011], str(DATASETS[0].PatientName))):
        with client.receiving(tmp_path / name, overwrite=overwrite) as receiver:
            assert deliver(receiver.port, DATASETS[:1]) == []
            assert deliver(receiver.port, [altered(DATASETS[0])]) == statuses
            (path,) = receiver.arrived
        assert str(dcmread(path).PatientName) == name


# --- allowed senders ---------------------------------------------------------------------------------------------


def test_only_the_host_of_the_pacs_may_send(tmp_path):
    """Others are rejected; if instances are missing, the error names them and the argument that allows them."""
    port, answers = free_port(), []

    def stranger():
        kind, connection = request_association(port)
        connection.close()
        answers.append(kind)

    with announcing(3, stranger) as pacs, pytest.raises(OperationFailed, match=r"127\.0\.0\.2 was refused.*senders="):
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=0.3)
    assert answers == [REJECTED]


def test_refused_senders_are_named_when_the_pacs_fails(tmp_path):
    """A rejected node makes the PACS respond with A702; the rejection is the reason, not the port."""
    port = free_port()

    def move(association, message):
        request_association(port)[1].close()
        answer(association, message, 0xA702, failed=3, completed=0, warning=0)

    with scripted(move=move) as pacs, pytest.raises(OperationFailed, match=r"A702.*127\.0\.0\.2 was refused"):
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port)


@pytest.mark.parametrize("senders", ["anyone", ["127.0.0.2"], ["127.0.0.0/30"]])
def test_other_senders_can_be_allowed(tmp_path, senders):
    """Anyone, an address or a network; they may use any local address."""
    port, answers = free_port(), []

    def other():
        for origin in ("127.0.0.1", "127.0.0.2"):
            kind, connection = request_association(port, origin)
            connection.close()
            answers.append(kind)
        socket.create_connection(("127.0.0.9", port), timeout=20).close()
        deliver(port, DATASETS)

    with announcing(3, other) as pacs:
        assert len(client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, senders=senders).paths) == 3
    assert answers == [ACCEPTED, ACCEPTED]


def test_another_called_ae_title_is_refused(tmp_path):
    """A PACS uses the AE title of the move destination."""
    port, refused = free_port(), []

    def mistaken():
        with pytest.raises(AssociationRejected):
            deliver(port, DATASETS, called="OTHER")
        refused.append(True)

    with announcing(3, mistaken) as pacs, pytest.raises(OperationFailed, match="called us 'OTHER'"):
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=0.3)
    assert refused == [True]


def test_it_listens_only_where_the_pacs_is_reached(tmp_path):
    """On loopback for a PACS on loopback; a receiver without a host does the same."""
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


def test_an_invalid_sender_is_an_error(tmp_path):
    """So is a PACS with an unknown host."""
    with scripted() as pacs, pytest.raises(InvalidArgument, match=r"10\.0\.0\.0/24"):
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, senders=["everybody"])
    with pytest.raises(DestinationUnreachable, match="unknown host"):
        client.move_and_store("PACS@nowhere.invalid:104", ASKED, to=tmp_path)


def test_the_number_of_associations_is_limited(tmp_path):
    """The seventeenth association is rejected, and the retrieve succeeds."""
    with client.receiving(tmp_path) as receiver:
        found = [request_association(receiver.port) for _ in range(17)]
        assert [kind for kind, _ in found] == [ACCEPTED] * 16 + [REJECTED]
        for _, connection in found:
            connection.close()


def test_an_idle_association_is_aborted(tmp_path):
    """It is aborted after `Deadlines.response`, while the retrieve continues."""
    port = free_port()

    def move(association, message):
        _, connection = request_association(port, "127.0.0.1")
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


# --- deadlines ---------------------------------------------------------------------------------------------------


def sending_repeatedly(port, datasets, ends):
    """Send the same instance repeatedly until it is refused."""
    until = time.monotonic() + 15
    while not ends.is_set() and time.monotonic() < until:
        try:
            deliver(port, datasets, "EVE")
        except DestinationUnreachable:
            return
        ends.wait(0.1)


@pytest.mark.parametrize("status", [None, 0x0000])
@pytest.mark.parametrize("datasets", [FOREIGN[:1], DATASETS[:1]], ids=["unasked", "repeated"])
def test_refused_and_repeated_instances_do_not_extend_the_deadline(tmp_path, status, datasets):
    """Neither before the final response nor while the client waits for the rest."""
    port, ends = free_port(), threading.Event()
    eve = threading.Thread(target=sending_repeatedly, args=(port, datasets, ends))

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


def test_refused_instances_of_a_get_do_not_extend_the_deadline(tmp_path):
    """A PACS that keeps storing unrequested instances times out."""

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
def test_an_unrequested_instance_is_not_written(tmp_path, level):
    """It is refused by its UIDs before anything is written; its size does not matter."""
    ran = subprocess.run([sys.executable, "-c", NARROW, tmp_path, level], capture_output=True, text=True, check=False)
    assert ran.stdout.splitlines() == ["['0x124'] []", "3"], ran.stderr
