"""Signals at moments that operators do not choose: during the start, to a worker, twice, by the thousand."""

import os
import signal
import subprocess
import time
from contextlib import suppress

import pytest

from tests.cli.test_daemon import associated, wait_until_nobody_listens
from tests.crash import examining
from tests.crash.load import Ledger, Sender, stop_all
from tests.crash.servers import ROOT, Site
from tests.programs import start
from tests.waiting import eventually

WORKERS = pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 4])


def archive(folder, workers, *settings):
    """Return an archive that serves with some workers."""
    chosen = (f"server.workers={workers}", "web.enabled=false", *settings)
    return Site(folder / "site", settings=chosen, log=folder / "log")


def markers(site):
    """Return the markers of running servers."""
    with suppress(FileNotFoundError):
        return [each for each in (site.files / "running").iterdir() if not each.name.startswith(".")]
    return []


@pytest.mark.parametrize(
    ("moment", "workers"),
    [
        ("before the index", 1),
        ("before recovery", 4),
        pytest.param("before the index", 4, marks=pytest.mark.long),
        pytest.param("before recovery", 1, marks=pytest.mark.long),
    ],
)
def test_sigterm_during_the_start_ends_it_cleanly(tmp_path, moment, workers):
    """Also while it recovers from a kill; the next start serves what was stored."""
    site, ledger = archive(tmp_path, workers), Ledger()
    if moment == "before recovery":
        server = site.start()
        senders = [Sender(ledger, server.port, "one", (9_000,))]
        assert eventually(lambda: len(ledger.acknowledged) > 10)
        server.kill()
        stop_all(senders)
    before = set(markers(site))
    with site.log.open("a") as log:
        starting = start(site.command("serve", "--port", "0"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log)
    # A short recovery removes the markers of before between two looks.
    has_begun = (lambda: set(markers(site)) - before) if before else (site.folder / "pacs.db").exists
    assert eventually(lambda: has_begun() or starting.poll() is not None)
    starting.terminate()
    assert starting.wait(60) == 0
    assert not markers(site)
    server = site.start()
    assert not examining.examine(server.port, ledger, ledger.studies()).total()
    assert server.stop() == 0
    assert "Traceback" not in site.log.read_text()


@WORKERS
def test_a_second_sigint_stops_at_once(tmp_path, workers):
    """With an association open and an hour to drain."""
    site = archive(tmp_path, workers, "limits.drain_seconds=3600")
    server = site.start()
    with associated(server.port) as running:
        server.process.send_signal(signal.SIGINT)
        wait_until_nobody_listens(server.port)
        assert running.send_c_echo().Status == 0
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0
    assert eventually(server.is_gone)
    assert not markers(site)


def test_signals_to_a_worker_alone_are_for_the_supervisor(tmp_path):
    """SIGTERM, SIGINT and SIGHUP of a careless `pkill` change nothing in it; the server goes on with all workers."""
    site, ledger = archive(tmp_path, 4, "limits.drain_seconds=0.5"), Ledger()
    server = site.start()
    pids = server.workers()
    senders = [Sender(ledger, server.port, str(number), (9_000,)) for number in range(4)]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        count = len(ledger.acknowledged)
        for pid in pids:
            os.kill(pid, number)
        assert eventually(lambda count=count: len(ledger.acknowledged) > count + 20)
    stop_all(senders)
    assert server.workers() == pids
    assert server.stop() == 0
    assert set(ledger.answers) == {0}


@WORKERS
def test_storms_of_harmless_signals_disturb_nothing(tmp_path, workers):
    """SIGCHLD, SIGPIPE, SIGWINCH and SIGCONT by the thousand, to every process, while instances are stored."""
    site, ledger = archive(tmp_path, workers, "limits.drain_seconds=0.5"), Ledger()
    server = site.start()
    pids = [server.process.pid, *server.workers()]
    senders = [Sender(ledger, server.port, str(number), (9_000,)) for number in range(4)]
    for _ in range(500):
        for pid in pids:
            for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGWINCH, signal.SIGCONT):
                os.kill(pid, number)
        time.sleep(0.0005)
    count = len(ledger.acknowledged)
    assert eventually(lambda: len(ledger.acknowledged) > count + 20)
    stop_all(senders)
    assert [server.process.pid, *server.workers()] == pids
    assert set(ledger.answers) == {0}
    assert server.stop() == 0
    assert "Traceback" not in site.log.read_text()
