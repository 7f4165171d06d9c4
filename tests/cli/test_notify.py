"""Notifications of `pacs serve` to systemd."""

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
    """A socket like that of systemd, which tells the sender."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        listening.bind("\0" + address[1:] if address.startswith("@") else address)
        listening.settimeout(20)
        yield listening


def heard(listening):
    """Return process id and lines of the next notification."""
    data, ancillary, _, _ = listening.recvmsg(4096, 1024)
    (credentials,) = (each for level, kind, each in ancillary if kind == socket.SCM_CREDENTIALS)
    return struct.unpack("3i", credentials)[0], data.decode().split("\n")


def waiting(listening):
    """Return the notifications that were not read yet."""
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
    """Run `pacs serve` as systemd would start it."""
    environment = os.environ | {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": watchdog}
    return process(folder, *words, env=environment)


linux = pytest.mark.skipif(sys.platform != "linux", reason="credentials and abstract names are Linux's")


@linux
@pytest.mark.parametrize(("workers", "abstract"), [(1, True), (2, False)], ids=["an abstract name", "a path, workers"])
def test_the_main_process_notifies_ready_and_stopping(tmp_path, workers, abstract):
    """Once each, for any number of workers; NotifyAccess=main ignores other processes."""
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
def test_the_watchdog_is_not_notified_while_the_database_is_missing(tmp_path, workers):
    """It is again when it is back; the log gives the reason once, and no C-ECHO of the server to itself."""
    address = str(tmp_path / "notify")
    words = ("--workers", str(workers), "--set", "access.callers=peers")
    with systemd(address) as listening, started(tmp_path, address, *words, watchdog="1200000") as server:
        assert heard(listening)[1][0] == "READY=1"
        for _ in range(3):
            assert heard(listening) == (server.pid, ["WATCHDOG=1"])
        (tmp_path / "pacs.db").rename(tmp_path / "away")
        told = "the watchdog is no longer notified; database: the file of the index is gone"
        lines = (told in line for line in iter(server.stderr.readline, ""))
        assert all(any(lines) for _ in range(workers))  # other lines say the same for stores and queries
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
def test_a_reload_is_notified_with_its_time(tmp_path):
    """In microseconds of the monotonic clock (sd_notify(3)); `ready` ends it."""
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


def test_without_systemd_nothing_is_sent(tmp_path):
    """A missing socket is no error."""
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
def test_the_watchdog_period_is_read_from_the_environment(environment, seconds):
    """sd_watchdog_enabled(3)."""
    notifier = Notifier.from_environment(environment | {"NOTIFY_SOCKET": "/run/systemd/notify"})
    assert notifier.watchdog_seconds == seconds


@linux
def test_a_server_that_cannot_start_sends_nothing(tmp_path):
    """Its exit status suffices."""
    address = str(tmp_path / "notify")
    with systemd(address) as listening:
        command = [sys.executable, "-m", "pacs", "serve", "--set", "files.url=s3://bucket/x"]
        ran = subprocess.run(command, env=os.environ | {"NOTIFY_SOCKET": address}, capture_output=True, check=False)
        assert ran.returncode == 2
        assert waiting(listening) == []
