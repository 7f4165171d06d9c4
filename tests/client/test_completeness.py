"""What did not arrive is never a success: late instances, checks by C-FIND, time limits and retries."""

import threading
import time

import pytest

from benchmarks.processes import free_port
from pacs import client
from pacs.client import Deadlines, Peer, retries
from pacs.client.retries import pause_after
from pacs.errors import (
    AssociationLost,
    DestinationUnreachable,
    InvalidArgument,
    NotSupported,
    OperationFailed,
    TimeLimitReached,
)
from pacs.testing import Fault, serving, study
from tests.client.scripted import answer, deliver, matches, scripted

IMAGES = list(study(series=1, instances=3))
ASKED = {"StudyInstanceUID": IMAGES[0].StudyInstanceUID}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    """Retries come at once."""
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.01)


def late(port, images=IMAGES):
    """Return a C-MOVE handler that answers Success at once, without counts, and sends each image on its own later."""

    def send():
        for each in images:
            time.sleep(0.2)
            deliver(port, [each])

    def move(association, message):
        threading.Thread(target=send).start()
        answer(association, message, 0x0000)

    return move


def listing(images=IMAGES):
    """Return a C-FIND handler that lists these images."""

    def find(association, message):
        level = "SERIES" if b"SERIES" in message.read(1 << 16) else "IMAGE"
        matches(association, message, images[:1] if level == "SERIES" else images)
        answer(association, message, 0x0000)

    return find


def counting(number):
    """Return a C-FIND handler that knows the number of instances of a study only."""

    def find(association, message):
        is_count = b"STUDY" in message.read(1 << 16)
        if is_count:
            found = study(series=1, instances=1)[0]
            found.NumberOfStudyRelatedInstances = number
            matches(association, message, [found])
        answer(association, message, 0x0000 if is_count else 0xA900)

    return find


# --- late arrivals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("find", [listing(), counting(3)], ids=["listed", "counted"])
def test_instances_after_a_success_without_counts_are_waited_for(tmp_path, find):
    """A C-FIND says how many there are, so that `wait` is not used up."""
    port = free_port()
    with scripted(move=late(port), find=find) as pacs:
        retrieved = client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=3600)
    assert (len(retrieved.paths), retrieved.expected) == (3, 3)


def test_without_counts_and_without_a_c_find_the_whole_wait_passes(tmp_path):
    """The PACS supports no query; `expected` says that nobody knows."""
    port = free_port()
    with scripted(move=late(port)) as pacs:
        retrieved = client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=5)
    assert (len(retrieved.paths), retrieved.expected) == (3, None)


def test_what_is_listed_and_does_not_come_is_named(tmp_path):
    """A failure, with what arrived."""
    port = free_port()
    with scripted(move=late(port, IMAGES[:2]), find=listing()) as pacs, pytest.raises(OperationFailed) as raised:
        client.move_and_store(pacs.peer, ASKED, to=tmp_path, port=port, wait=2)
    assert "lists 1 more than arrived here" in str(raised.value)
    assert raised.value.retrieved.missing == (IMAGES[2].SOPInstanceUID,)
    assert len(raised.value.retrieved.paths) == 2


# --- check -------------------------------------------------------------------------------------------------------


def test_counts_of_a_pacs_that_sends_less_than_it_has_are_checked(tmp_path):
    """It says "1 completed", and means it."""

    def move(association, message):
        deliver(port, IMAGES[:1])
        answer(association, message, 0x0000, completed=1, remaining=0, failed=0, warning=0)

    port = free_port()
    with scripted(move=move, find=listing()) as pacs:
        retrieve = {"to": tmp_path, "port": port, "wait": 1}
        assert len(client.move_and_store(pacs.peer, ASKED, **retrieve).paths) == 1
        with pytest.raises(OperationFailed, match="lists 2 more"):
            client.move_and_store(pacs.peer, ASKED, check=True, **retrieve)


def test_what_is_sent_to_another_ae_is_checked_by_the_counts():
    """There is nothing else to see of it."""

    def move(association, message):
        answer(association, message, 0x0000, completed=1, remaining=0, failed=0, warning=0)

    with scripted(move=move, find=listing()) as pacs:
        assert client.move(pacs.peer, ASKED, destination="OTHER").completed == 1
        with pytest.raises(OperationFailed, match="lists 2 more than it reports sending to OTHER"):
            client.move(pacs.peer, ASKED, destination="OTHER", check=True)


def test_a_check_that_is_not_possible_fails(tmp_path):
    """A C-GET from a PACS without C-FIND."""

    def get(association, message):
        answer(association, message, 0x0000, completed=0, remaining=0, failed=0, warning=0)

    with scripted(get=get) as pacs, pytest.raises(OperationFailed, match="does not list its instances"):
        client.get(pacs.peer, ASKED, to=tmp_path, check=True)


@pytest.mark.parametrize("retrieve", [client.get, client.fetch])
def test_a_complete_retrieve_passes_its_check(tmp_path, retrieve):
    """From a real archive."""
    with serving(tmp_path / "pacs") as archive:
        archive.add(*IMAGES)
        retrieved = retrieve(archive.address, ASKED, to=tmp_path / "out", check=True, max_time=60, retries=1)
    assert (len(retrieved.paths), retrieved.expected, retrieved.missing) == (3, 3, ())


# --- time limit --------------------------------------------------------------------------------------------------

ENDLESS = Deadlines(response=3600, message=3600, cancel=3600, negotiation=3600)


@pytest.mark.parametrize("verb", ["move", "get", "fetch"])
def test_a_silent_pacs_has_max_time(tmp_path, verb):
    """Every other deadline is an hour."""
    with serving(tmp_path / "pacs", watched=True) as archive:
        archive.add(*IMAGES)
        peer = Peer.parse(archive.address, deadlines=ENDLESS)
        archive.faults.add(Fault("C-FIND" if verb == "fetch" else f"C-{verb.upper()}", silent=True))
        with pytest.raises(TimeLimitReached):
            if verb == "move":
                client.move(peer, ASKED, destination="OTHER", max_time=1, retries=5)
            else:
                getattr(client, verb)(peer, ASKED, to=tmp_path / "out", max_time=1, retries=5)


def test_a_pacs_that_sends_slowly_has_max_time(tmp_path):
    """However often an instance arrives; the error has those that did."""
    with serving(tmp_path / "pacs", watched=True) as archive:
        archive.add(*study(series=1, instances=30))
        archive.faults.add(Fault("C-GET", delay_each=0.3))
        with pytest.raises(TimeLimitReached) as raised:
            client.get(Peer.parse(archive.address, deadlines=ENDLESS), ASKED, to=tmp_path / "out", max_time=2)
    assert 0 < len(raised.value.retrieved.paths) < 30


@pytest.mark.parametrize("mistaken", [{"max_time": 0}, {"max_time": float("nan")}, {"retries": -1}])
def test_mistaken_limits_are_refused(tmp_path, mistaken):
    """Before any association."""
    with pytest.raises(InvalidArgument):
        client.get("PACS@127.0.0.1:1", ASKED, to=tmp_path, **mistaken)


# --- retries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retrieve", [client.get, client.fetch])
def test_a_retrieve_that_fails_twice_succeeds_at_the_third_attempt(tmp_path, retrieve):
    """First the PACS aborts after one instance, then it has no memory. All files of the call count as new."""
    with serving(tmp_path / "pacs", watched=True) as archive:
        archive.add(*IMAGES)
        for fault in (
            Fault("C-GET", abort_sent=3, nth=1),
            Fault("C-GET", status=0xA701, nth=2),
            Fault("C-MOVE", status=0xA702),
        ):
            archive.faults.add(fault)
        retrieved = retrieve(archive.address, ASKED, to=tmp_path / "out", retries=2)
    assert (len(retrieved.paths), retrieved.skipped) == (3, ())


def test_an_unreachable_pacs_is_tried_again(tmp_path):
    """As often as was asked; then the error is raised."""
    tried = []

    def attempt(peer):
        tried.append(peer)
        raise DestinationUnreachable("off")

    with pytest.raises(DestinationUnreachable):
        retries.persistently(attempt, "PACS@127.0.0.1:1", max_time=None, retries=3)
    assert len(tried) == 4


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AssociationLost("x"), True),
        (TimeLimitReached(), False),
        (NotSupported("x"), False),
        (OperationFailed("C-GET", 0xA702, "x"), True),
        (OperationFailed("C-MOVE", 0xA801, "x"), False),
        (client.AssociationRejected("x", 2, 3, 1), True),
        (client.AssociationRejected("x", 1, 1, 7), False),
    ],
)
def test_only_failures_that_may_pass_are_worth_a_retry(error, expected):
    """By status, and by the result of a rejection."""
    assert retries.is_transient(error) is expected


def test_pauses_between_attempts_double_up_to_a_minute(monkeypatch):
    """However many attempts there are: a retrieve may wait for days for a PACS that is off."""
    monkeypatch.setattr(retries, "FIRST_PAUSE", 1.0)
    assert [pause_after(number) for number in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert pause_after(5000) == 60
