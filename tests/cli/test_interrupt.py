"""Ctrl-C ends a command in every phase, whatever the peer does. Here all deadlines of the client are an hour."""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress

import pytest

from pacs.client.peer import Peer
from pacs.client.receive.senders import listen_addresses
from pacs.errors import DestinationUnreachable
from pacs.support import name_lookup
from pacs.testing import Fault, serving, study, write
from tests import raw
from tests.docs.requests import CT
from tests.programs import PATIENCE, free_port, start
from tests.raw import Raw
from tests.waiting import eventually

AN_HOUR = """
from pacs.client.peer import Deadlines
from pacs.cli import main
for name in ("connect", "negotiation", "response", "message", "write", "cancel", "release"):
    Deadlines.__init__.__kwdefaults__[name] = 3600.0
main(prog_name="pacs")
"""


@contextmanager
def command(*words, folder, **options):
    """Start `pacs` with deadlines of an hour."""
    process = start(
        [sys.executable, "-c", AN_HOUR, *words],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def interrupted(process, presses=1):
    """Press Ctrl-C and return what the command says until its end."""
    process.send_signal(signal.SIGINT)
    told = process.stderr.readline()
    for _ in range(presses - 1):
        process.send_signal(signal.SIGINT)
    told += process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130, told
    return told.splitlines()


SAID = ["pacs: stopping; press Ctrl-C again to stop immediately", "pacs: interrupted"]


@pytest.fixture
def slow(tmp_path):
    """A watched server with one study of two instances."""
    with serving(tmp_path / "slow", watched=True) as server:
        server.add(study(series=1, instances=2, patient_id="P1"))
        yield server


# --- before there is an association ------------------------------------------------------------------------------


def test_while_the_names_of_files_are_read(tmp_path):
    """From a program that does not end, into a pipe that is read as soon as it took more than it holds."""
    with command("store", "PACS@127.0.0.1:1", "-", folder=tmp_path, stdin=subprocess.PIPE) as process:
        process.stdin.write("\n" * 2**20)
        process.stdin.flush()
        assert interrupted(process) == SAID


@pytest.mark.parametrize("words", [["echo"], ["fetch", "-k", "PatientID=P1"]])
def test_while_the_peer_does_not_answer_the_association_request(tmp_path, words):
    """It accepts the connection only."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = f"PACS@127.0.0.1:{listener.getsockname()[1]}"
        with command(words[0], peer, *words[1:], folder=tmp_path) as process:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(1)
                assert interrupted(process) == SAID


def test_while_the_name_of_the_host_is_looked_up(monkeypatch):
    """A name server that does not answer has the time to connect; `getaddrinfo` itself cannot be interrupted."""
    answered = threading.Event()

    def getaddrinfo(*arguments, flags=0, **options):
        if flags:
            raise socket.gaierror
        answered.wait(PATIENCE)
        return []

    monkeypatch.setattr(name_lookup.socket, "getaddrinfo", getaddrinfo)
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        name_lookup.resolved("pacs.example", 104, 3600)
    with pytest.raises(TimeoutError):
        name_lookup.resolved("pacs.example", 104, 0.01)
    answered.set()


def test_a_name_that_no_host_can_have_is_unknown():
    """Where the receiver looks it up too."""
    for host in ("a" * 70, "pacs.invalid"):
        with pytest.raises(DestinationUnreachable, match="unknown host"):
            listen_addresses(Peer("PACS", host, 104), "peer", "", 0)


# --- while the peer is silent ------------------------------------------------------------------------------------

SILENT = {
    "echo": ("C-ECHO", []),
    "find": ("C-FIND", ["-k", "PatientID=P1"]),
    "get": ("C-GET", ["-k", "PatientID=P1"]),
    "move": ("C-MOVE", ["-k", "PatientID=P1", "--port", "0"]),
    "fetch": ("C-FIND", ["-k", "PatientID=P1"]),
    "store": ("C-STORE", ["in"]),
    "commit": ("N-ACTION", ["in"]),
}
ALONE, AGAIN = ("echo", "find", "get", "store", "commit"), ("get", "move", "fetch")


@pytest.mark.parametrize(("verb", "presses"), [*((verb, 1) for verb in ALONE), *((verb, 2) for verb in AGAIN)])
def test_while_the_peer_does_not_respond(tmp_path, slow, verb, presses):
    """One Ctrl-C gives the peer two seconds, a second one none."""
    operation, words = SILENT[verb]
    write(study(series=1, instances=2, number=2), tmp_path / "in")
    slow.faults.add(Fault(operation, silent=True))
    with command(verb, slow.address, *words, folder=tmp_path) as process:
        slow.received.wait_for(lambda received: received.of(operation), PATIENCE)
        assert interrupted(process, presses) == SAID
        assert len(slow.received.of(operation)) == 1


# --- while instances are in transfer ------------------------------------------------------------------------------


def test_no_instance_is_sent_after_ctrl_c(tmp_path, slow):
    """The one that is being sent is completed."""
    write(study(series=1, instances=40, number=2), tmp_path / "in")
    slow.faults.add(Fault("C-STORE", delay=0.3))
    with command("store", slow.address, "in", folder=tmp_path) as process:
        slow.received.wait_for(lambda received: len(received.c_store) > 1, PATIENCE)
        sent = len(slow.received.c_store)
        assert interrupted(process) == SAID
        slow.received.wait_for_ends()
    assert len(slow.received.c_store) <= sent + 1


@pytest.mark.parametrize("verb", ["get", "move"])
def test_while_an_instance_arrives_without_end(tmp_path, slow, verb):
    """It has two seconds too, and there is no partial file."""
    port = free_port()
    with ExitStack() as stack:
        slow.add(study(series=1, instances=1, size=2048, patient_id="P2"))
        slow.faults.add(Fault("C-GET", bytes_per_second=1000))
        slow.faults.add(Fault("C-MOVE", silent=True))
        words = ["--to", "out", *(["--port", str(port)] if verb == "move" else [])]
        process = stack.enter_context(command(verb, slow.address, "-k", "PatientID=P2", *words, folder=tmp_path))
        if verb == "move":
            slow.received.wait_for(lambda received: received.c_move, PATIENCE)
            begin_instance(stack.enter_context(Raw(port)))
        eventually(lambda: list((tmp_path / "out").glob(".arriving-*")))
        assert interrupted(process) == SAID
    assert list((tmp_path / "out").glob(".arriving-*")) == []


def begin_instance(client):
    """Send a C-STORE request without its last bytes."""
    client.associate((1, CT, [raw.EXPLICIT]), calling="PACS", called="PACSCU")
    (image,) = study(series=1, instances=1, size=512, patient_id="P2")
    uid = raw.element(0x1000, image.SOPInstanceUID.encode())
    client.send(raw.request(raw.C_STORE, 1, CT, 1, raw.encoded(image, raw.EXPLICIT), [uid])[:-2])


def test_a_program_of_ones_own_ends_too(tmp_path, slow):
    """Ctrl-C in Python: two seconds for the response to the C-CANCEL, then the association is aborted."""
    slow.faults.add(Fault("C-FIND", silent=True))
    program = f"""
from pacs import client
peer = client.Peer.parse({slow.address!r}, deadlines=client.Deadlines(response=3600, cancel=3600, release=3600))
list(client.find(peer, {{"PatientID": ""}}))
"""
    process = start([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    with suppress(ProcessLookupError):
        slow.received.wait_for(lambda received: received.c_find, PATIENCE)
        process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=PATIENCE)[1].splitlines()[-1] == "KeyboardInterrupt"
