"""A worker that is killed or stopped while it holds what others need: a claim, the write lock, an association slot."""

import os
import signal
import socket
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from pacs.testing import study, write
from tests.cli.test_commitment import NEVER, filled, known
from tests.cli.test_daemon import process
from tests.cli.test_workers import children, workers
from tests.committing import references, requester
from tests.crash import examining
from tests.crash.load import Ledger, Sender, stop_all
from tests.crash.servers import Site
from tests.databases import fresh_database
from tests.waiting import eventually

DATASETS = study(series=1, instances=3)
STORED = references(DATASETS)


@contextmanager
def silent(port):
    """Listen as a peer that accepts a connection and never answers; yields a function that waits for a caller."""
    with closing(socket.create_server(("127.0.0.1", port))) as listener:
        listener.settimeout(60)

        def caller(pids):
            """Return which of some processes has connected."""
            connection, (_, port) = listener.accept()
            stack.append(connection)
            (found,) = [pid for pid in pids if port in local_ports(pid)]
            return found

        stack: list[socket.socket] = []
        yield caller
        for each in stack:
            each.close()


def local_ports(pid):
    """Return the local TCP ports of the connections of a process."""
    inodes = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(each))
        except FileNotFoundError:
            continue
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(line[1].partition(":")[2], 16) for line in lines if f"socket:[{line[9]}]" in inodes}


@pytest.mark.parametrize(
    ("count", "kind"),
    [
        (1, "sqlite"),
        (4, "postgresql"),
        pytest.param(4, "sqlite", marks=pytest.mark.long),
        pytest.param(1, "postgresql", marks=pytest.mark.long),
    ],
)
def test_a_report_that_a_killed_process_was_sending_is_sent_at_once(tmp_path, request, count, kind):
    """By the worker that replaces it, or by the next start: its claim would last for minutes."""
    peer = requester()
    write(DATASETS, tmp_path / "out")
    with ExitStack() as stack:
        url = stack.enter_context(fresh_database(kind, request, tmp_path))
        words = (*known(peer, tmp_path), *NEVER, "--set", f"database.url={url}")
        run = workers(tmp_path, count, *words) if count > 1 else process(tmp_path, *words, "--workers", "1")
        server = stack.enter_context(run)
        filled(tmp_path, server)
        with silent(peer.port) as caller:
            assert peer.ask(server.port, STORED) == 0x0000
            os.kill(caller(children(server) or [server.pid]), signal.SIGKILL)
        if count == 1:
            server.communicate(timeout=20)
            with peer.listening(), process(tmp_path, *words):
                assert peer.report().committed == STORED
        else:
            with peer.listening():
                assert peer.report().committed == STORED
    assert peer.reports.empty()


# --- the write lock of SQLite ------------------------------------------------------------------------------------


def holder_stopped(server, path):
    """Stop a worker at a moment at which it holds the lock on a file, and return its id."""
    for _ in range(2000):
        for pid in server.workers():
            os.kill(pid, signal.SIGSTOP)
            eventually(partial(is_stopped, pid))  # it may release the lock until then
            if holds(pid, path):
                return pid
            os.kill(pid, signal.SIGCONT)
    raise AssertionError("no worker was stopped while it held the lock")


def is_stopped(pid):
    """Return whether all threads of a process are stopped."""
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


def holds(pid, path):
    """Return whether a process holds the lock on a file, which others may wait for."""
    inode = f":{path.stat().st_ino}"
    locks = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return any(line[1] == "FLOCK" and line[4] == str(pid) and line[5].endswith(inode) for line in locks)


@pytest.mark.parametrize("end", [signal.SIGCONT, pytest.param(signal.SIGKILL, marks=pytest.mark.long)])
def test_a_worker_that_holds_the_write_lock_keeps_others_only_waiting(tmp_path, end):
    """While it is stopped, stores of the others are refused in time; when it is killed, or goes on, they succeed."""
    site = Site(tmp_path / "site", settings=("server.workers=4", "database.wait_seconds=0.3"), log=tmp_path / "log")
    ledger, server = Ledger(), site.start()
    try:
        senders = [Sender(ledger, server.port, str(number), (9_000,)) for number in range(8)]
        assert eventually(lambda: len(ledger.acknowledged) > 20)
        pid = holder_stopped(server, site.folder / "pacs.db-turn")
        # The stopped worker may have all associations so far, but accepts none of these.
        senders += [Sender(ledger, server.port, str(number), (9_000,)) for number in range(8, 12)]
        refused = ledger.answers[0xA700]
        assert eventually(lambda: ledger.answers[0xA700] >= refused + 10)
        os.kill(pid, end)
        count = len(ledger.acknowledged)
        assert eventually(lambda: len(ledger.acknowledged) > count + 20)
        stop_all(senders)
        assert server.stop() == 0
        server = site.start()
        assert not examining.examine(server.port, ledger, ledger.studies()).total()
        assert not examining.examine_consistency(server.port, site.files).total()
    finally:
        server.kill()
    assert set(ledger.answers) == {0x0000, 0xA700}
    assert "Traceback" not in site.log.read_text()
