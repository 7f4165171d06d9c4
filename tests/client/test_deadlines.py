"""Every wait ends, whatever a peer sends meanwhile, and no exception of the caller is lost."""

import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from pydicom import Dataset

from pacs import client
from pacs.client import Deadlines, Reference
from pacs.errors import AssociationLost, PeerTimeout
from pacs.testing import study
from tests.client.scripted import answer, matches, scripted, send_slowly
from tests.raw import command_set, pdv, us

DATASETS = study(series=1, instances=1)
ASKED = {"StudyInstanceUID": DATASETS[0].StudyInstanceUID}
ONE = Reference("1.2.840.10008.5.1.4.1.1.2", "1.2.3")
FAR_TOO_LONG = b"\x08\x00\x05\x00" + (17 << 20).to_bytes(4, "little") + bytes(17 << 20)

FLOOD = (
    pdv(1, command_set([us(0x0100, 0x8030), us(0x0120, 1), us(0x0800, 0x0101), us(0x0900, 0xFF00)]), command=True) * 99
)

LONG = 12
"""Seconds longer than any deadline in this file, which are at most two."""


def hasty(pacs, **deadlines):
    """Return the same PACS with short deadlines."""
    return replace(
        pacs.peer, deadlines=Deadlines(**{"response": 1, "message": 2, "cancel": 1, "release": 1} | deadlines)
    )


def pending(association, message):
    """Send Pending responses without a data set until the association ends."""
    until = time.monotonic() + LONG + 5
    while association.is_established and time.monotonic() < until:
        answer(association, message, 0xFF00)
        time.sleep(0.2)


VERBS = {
    "echo": client.echo,
    "find": lambda peer: list(client.find(peer, ASKED)),
    "commit": lambda peer: client.commit(peer, ONE, timeout=5),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_meaningless_pending_response_aborts(verb):
    """A Pending response to an operation without any, or to a C-FIND without a match: the association is aborted."""
    began = time.monotonic()
    with scripted(**{verb: pending}) as pacs:
        with pytest.raises(AssociationLost, match="Pending"):
            VERBS[verb](hasty(pacs))
        assert time.monotonic() - began < LONG
        assert pacs.ends() == ["A-ABORT"]


def test_a_pending_response_to_a_store_is_a_failure():
    """The instance is not stored."""
    with scripted(store=pending) as pacs:
        (failed,) = client.store(hasty(pacs), *DATASETS).failed
        assert "Pending" in failed.comment


@pytest.mark.parametrize(("size", "most", "pause"), [(400, 64, 0.3), (12 << 20, 1 << 17, 0.05)], ids=["bytes", "PDUs"])
def test_a_slow_match_times_out(size, most, pause):
    """A response has the deadline of a message, however its bytes are distributed."""
    value = bytes(size)
    data = b"\x08\x00\x52\x00" + len(value).to_bytes(4, "little") + value
    began = time.monotonic()
    with scripted(
        find=lambda association, message: send_slowly(association, message, 0xFF00, data, pause, most)
    ) as pacs:
        with pytest.raises(PeerTimeout):
            list(client.find(hasty(pacs, message=1), ASKED))
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("pause", [0.2, 0])
def test_requests_of_the_peer_do_not_extend_the_deadline(pause):
    """Refused requests of the peer do not extend our deadline."""

    def find(association, message):
        until = time.monotonic() + LONG + 5
        while association.is_established and time.monotonic() < until:
            association.send(message.context.id, message.command)
            time.sleep(pause)

    began = time.monotonic()
    with scripted(find=find) as pacs, pytest.raises(PeerTimeout):
        list(client.find(hasty(pacs, write=2), ASKED))
    assert time.monotonic() - began < LONG


def test_input_after_a_release_request_does_not_extend_the_deadline():
    """The deadline for the answer to a release is not extended by other input."""

    def flood(association, message):
        answer(association, message, 0x0000)
        until = time.monotonic() + LONG + 5
        with suppress(AssociationLost):
            while time.monotonic() < until:
                association.send_prepared([[FLOOD]])

    began = time.monotonic()
    with scripted(echo=flood) as pacs:
        client.echo(hasty(pacs))
        assert time.monotonic() - began < LONG


# --- exceptions of the caller ------------------------------------------------------------------------------------


class Enough(Exception):
    """Raised by a progress callback."""


@pytest.mark.parametrize("said", [FAR_TOO_LONG, b"\xff" * 11], ids=["too long", "no data set"])
def test_a_bad_last_response_hides_no_exception(said):
    """The caller's exception is raised, and the association ends."""

    def move(association, message):
        answer(association, message, 0xFF00, remaining=3, completed=0, failed=0, warning=0)
        association.process_input()
        answer(association, message, 0xFE00, said)

    def stop(_progress):
        raise Enough

    with scripted(move=move) as pacs:
        with pytest.raises(Enough):
            client.move(hasty(pacs, cancel=5), ASKED, destination="X", on_progress=stop)
        assert pacs.ends()


def test_a_loop_can_be_left_before_a_large_match():
    """A match of 17 MiB that arrives afterwards is discarded."""

    def find(association, message):
        matches(association, message, [Dataset()])
        answer(association, message, 0xFF00, FAR_TOO_LONG)
        answer(association, message, 0xFE00)

    with scripted(find=find) as pacs:
        for _ in client.find(hasty(pacs, cancel=5), ASKED):
            break
        assert pacs.ends() == ["A-ABORT"]


INTERRUPTED = {
    "store": lambda peer: client.store(peer, *DATASETS),
    "commit": lambda peer: client.commit(peer, ONE),
    "echo": client.echo,
}


@pytest.mark.parametrize("verb", INTERRUPTED)
def test_ctrl_c_during_a_request_aborts(verb):
    """A peer that does not respond to a request would not answer a release either."""

    def interrupt(association, message):
        message.drain()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        association.receive(20)

    with scripted(**{verb: interrupt}) as pacs:
        with pytest.raises(KeyboardInterrupt):
            INTERRUPTED[verb](pacs.peer)
        assert pacs.ends() == ["A-ABORT"]
