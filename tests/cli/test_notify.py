"""What systemd is told by `pacs serve`: this end of the socket is systemd's, the other one the real daemon's."""

import os
import signal
import socket
import struct
import subprocess
import sys
from contextlib import contextmanager

import pytest

from pacs.observability.systemd import Notifier
from tests.cli.test_daemon import process

SEVERAL = [1, 2]


@contextmanager
def systemd(address):
    """The socket that systemd listens on, which tells who sent."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        listening.bind("\0" + address[1:] if address.startswith("@") else address)
        listening.settimeout(20)
        yield listening


def heard(listening):
    """The next message: its sender's process id and its lines."""
    data, ancillary, _, _ = listening.recvmsg(4096, 1024)
    (credentials,) = (each for level, kind, each in ancillary if kind == socket.SCM_CREDENTIALS)
    return struct.unpack("3i", credentials)[0], data.decode().split("\n")


def waiting(listening):
    """What has come and was not heard yet."""
    found = []
    listening.setblocking(False)
    try:
        while True:
            found.append(heard(listening)[1])
    except BlockingIOError:
        return found
    finally:
        listening.settimeout(20)


def started(folder, address, *words, watchdog=""):
    """`pacs serve` as systemd would start it."""
    environment = os.environ | {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": watchdog}
    return process(folder, *words, env=environment)


linux = pytest.mark.skipif(sys.platform != "linux", reason="credentials and abstract names are Linux's")


@linux
@pytest.mark.parametrize(("workers", "abstract"), [(1, True), (2, False)], ids=["an abstract name", "a path, workers"])
def test_ready_and_stopping_are_told_by_the_main_process(tmp_path, workers, abstract):
    """In this order, once each, whatever number of workers serve; NotifyAccess=main hears nobody else."""
    address = f"@pacs-test-{os.getpid()}-{workers}" if abstract else str(tmp_path / "notify")
    with systemd(address) as listening, started(tmp_path, address, "--workers", str(workers)) as server:
        status = f"STATUS=Serving as PACS on 127.0.0.1:{server.port}"
        assert heard(listening) == (server.pid, ["READY=1", status])
        server.send_signal(signal.SIGTERM)
        assert heard(listening) == (server.pid, ["STOPPING=1", "STATUS=Draining: waiting for running operations"])
        server.communicate(timeout=20)
        assert waiting(listening) == []
    assert server.returncode == 0


@linux
@pytest.mark.parametrize("workers", SEVERAL)
def test_the_watchdog_hears_nothing_while_the_database_is_gone(tmp_path, workers):
    """And hears again when it is back; the log says why, once. Nobody sees that we ask ourselves."""
    address = str(tmp_path / "notify")
    words = ("--workers", str(workers), "--set", "access.callers=peers")
    with systemd(address) as listening, started(tmp_path, address, *words, watchdog="1200000") as server:
        assert heard(listening)[1][0] == "READY=1"
        for _ in range(3):
            assert heard(listening) == (server.pid, ["WATCHDOG=1"])
        (tmp_path / "pacs.db").rename(tmp_path / "away")
        told = "the watchdog is no longer notified; database: the file of the index is gone"
        assert sum(told in server.stderr.readline() for _ in range(workers)) == workers
        waiting(listening)
        listening.settimeout(1)
        with pytest.raises(TimeoutError):
            heard(listening)
        listening.settimeout(20)
        (tmp_path / "away").rename(tmp_path / "pacs.db")
        assert heard(listening)[1] == ["WATCHDOG=1"]
        server.send_signal(signal.SIGTERM)
        _, err = server.communicate(timeout=20)
    assert "association" not in err
    assert "C-ECHO" not in err


@linux
def test_a_reload_is_told_with_its_moment(tmp_path):
    """As sd_notify(3) wants it: microseconds of the monotonic clock; `ready` ends it."""
    address = str(tmp_path / "notify")
    with systemd(address) as listening:
        notifier = Notifier(address)
        notifier.reloading()
        notifier.ready("well")
        began, ended = heard(listening)[1], heard(listening)[1]
    assert began[0] == "RELOADING=1"
    name, _, value = began[1].partition("=")
    assert (name, value.isdecimal()) == ("MONOTONIC_USEC", True)
    assert ended == ["READY=1", "STATUS=well"]


def test_without_a_systemd_nobody_is_told(tmp_path):
    """Nor is a socket that is gone a reason to fail."""
    Notifier().ready("well")
    Notifier(str(tmp_path / "nobody")).alive()
    assert Notifier.from_environment({"WATCHDOG_USEC": "1000000"}).watchdog_seconds is None


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_who_waits_for_signs_of_life_is_read_from_the_environment(environment, seconds):
    """sd_watchdog_enabled(3)."""
    notifier = Notifier.from_environment(environment | {"NOTIFY_SOCKET": "/run/systemd/notify"})
    assert notifier.watchdog_seconds == seconds


@linux
def test_a_server_that_cannot_start_tells_nothing(tmp_path):
    """Its exit status does."""
    address = str(tmp_path / "notify")
    with systemd(address) as listening:
        command = [sys.executable, "-m", "pacs", "serve", "--set", "files.url=s3://bucket/x"]
        ran = subprocess.run(command, env=os.environ | {"NOTIFY_SOCKET": address}, capture_output=True, check=False)
        assert ran.returncode == 2
        assert waiting(listening) == []
