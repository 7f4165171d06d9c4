"""Thousands of silent, slow or short connections: other peers are served."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests import raw
from tests.docs.requests import CT, VERIFICATION, store_command
from tests.hostile import daemons
from tests.hostile.daemons import Daemon, associated, connected, ended, megabytes
from tests.raw import EXPLICIT, IMPLICIT, Raw
from tests.waiting import eventually

SETTINGS = {
    "limits.associations": 60,
    "limits.associations_per_address": 40,
    "limits.associations_per_ae": 20,
    "limits.message_seconds": 0.5,
    "limits.least_rate": 4096,
}
ECHO = raw.request(raw.C_ECHO, 1, VERIFICATION, 1, None)
HOSTILE = "127.0.0.2"
"""The address of hostile peers; others have 127.0.0.1."""


@contextmanager
def silent(port: int, count: int, address: str) -> Iterator[list[socket.socket]]:
    """Open silent connections."""
    with ExitStack() as stack:
        yield [stack.enter_context(connected(port, address)) for _ in range(count)]


@pytest.mark.parametrize("address", [HOSTILE, "127.0.0.1"])
def test_p7_300_silent_connections_delay_no_other(daemon: Daemon, address: str) -> None:
    """From another or the same address: C-ECHOs are answered in time, and nothing is logged."""
    with silent(daemon.port, 300, address):
        for _ in range(5):
            daemon.check_echo()
    daemon.lines = 0


@contextmanager
def idle(port: int, count: int, title: str, address: str = HOSTILE) -> Iterator[list[Raw]]:
    """Open idle associations, and close them at the end."""
    clients = []
    try:
        for _ in range(count):
            clients.append(Raw(port, source=address))
            clients[-1].associate((1, CT, [EXPLICIT]), calling=title)
        yield clients
    finally:
        for each in clients:
            each.socket.close()


def test_p7_idle_associations_of_one_address_block_no_other(daemon: Daemon) -> None:
    """One above the limit is rejected with 2/3/2, and another address is served. Each has one log line."""
    with idle(daemon.port, 20, "IDLE1"), idle(daemon.port, 20, "IDLE2"):
        with Raw(daemon.port, source=HOSTILE) as client:
            client.send(raw.associate_rq([(1, VERIFICATION, [IMPLICIT])], calling="OTHER"))
            assert client.pdu() == (0x03, b"\0\2\3\2")
        daemon.check_echo()
    daemon.lines = 41


def test_p7_idle_associations_of_one_ae_title_block_no_other(daemon: Daemon) -> None:
    """One above the limit is rejected with 2/3/2, from any address."""
    with idle(daemon.port, 20, "IDLE"):
        with Raw(daemon.port) as client:
            client.send(raw.associate_rq([(1, VERIFICATION, [IMPLICIT])], calling="IDLE"))
            assert client.pdu() == (0x03, b"\0\2\3\2")
        daemon.check_echo()
    daemon.lines = 21


def test_slow_data_sets_delay_no_other(daemon: Daemon) -> None:
    """Forty peers send a byte of a data set now and then: they are aborted, and others are served."""
    with idle(daemon.port, 20, "SLOW1") as some, idle(daemon.port, 20, "SLOW2") as others:
        clients = some + others
        for each in clients:
            each.send(store_command(CT))
        for place in range(20):
            for each in clients:
                with suppress(OSError):
                    each.send(raw.pdv(1, b"\0", command=False, last=False))
            if place % 5 == 0:
                daemon.check_echo()
            time.sleep(0.05)
        for each in clients:
            assert ended(each) is not None
    daemon.lines = 40


def test_many_associations_at_once_are_served_or_rejected(daemon: Daemon) -> None:
    """Two hundred associations at once: each gets an answer, and slots are released."""
    answers = []

    def call(number: int) -> None:
        try:
            with Raw(daemon.port, source=HOSTILE) as client:
                client.send(raw.associate_rq([(1, VERIFICATION, [IMPLICIT])], calling=f"CALLER{number % 50}"))
                answers.append(client.pdu()[0])
                if answers[-1] == 0x02:
                    client.release()
        except ConnectionError:
            answers.append(0)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(200)]
    for each in threads:
        each.start()
    daemon.check_echo()
    for each in threads:
        each.join()
    assert len(answers) == 200
    assert set(answers) <= {0x00, 0x02, 0x03}
    daemon.lines = answers.count(0x03)
    with idle(daemon.port, 20, "AFTER1"), idle(daemon.port, 20, "AFTER2"):
        daemon.check_echo()
    daemon.lines += 40


def test_p7_hundreds_of_health_checks_leave_nothing_behind(daemon: Daemon) -> None:
    """Connections that are closed or reset at once leave no log line, thread or descriptor."""
    for number in range(300):
        with socket.create_connection(("127.0.0.1", daemon.port)) as probe:
            if number % 2:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    daemon.lines = 0


@pytest.mark.parametrize("batches", [3, pytest.param(20, marks=pytest.mark.long)])
@pytest.mark.timeout(240)
def test_p7_thousands_of_connections_cost_as_much_as_hundreds(daemon: Daemon, batches: int) -> None:
    """Five hundred at a time, ten thousand with --long: at most 256 have a thread, and memory does not grow."""
    before, most = megabytes(daemon.process.pid), 0
    for batch in range(batches):
        with silent(daemon.port, 500, HOSTILE):
            most = max(most, daemons.count(daemon.process.pid, "task"))
            if batch % 2 == 0:
                daemon.check_echo()
    eventually(lambda: daemons.count(daemon.process.pid, "task") <= daemon.normal.threads)
    assert most <= 256 + 30
    assert megabytes(daemon.process.pid) <= before + daemons.GROWTH
    daemon.lines = 0


def test_a_harmless_association_is_not_disturbed(daemon: Daemon) -> None:
    """Its requests are answered in time while others connect, send noise, and leave."""
    over = threading.Event()

    def disturb() -> None:
        while not over.is_set():
            with suppress(OSError), connected(daemon.port, HOSTILE) as peer:
                peer.sendall(b"\xff" * 100)

    with associated(daemon.port) as client:
        threads = [threading.Thread(target=disturb) for _ in range(4)]
        for each in threads:
            each.start()
        for _ in range(20):
            client.send(ECHO)
            assert client.message().status == 0x0000
            time.sleep(0.01)
        over.set()
        for each in threads:
            each.join()
        client.release()
    time.sleep(0.1)
    assert all("no valid association request" in each for each in daemon.incidents())
    daemon.lines = 0
