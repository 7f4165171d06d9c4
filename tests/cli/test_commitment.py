"""Storage commitment by the installed server: across restarts, with several workers, with several servers."""

import json
import signal
import time
from contextlib import ExitStack

import pytest

from pacs.testing import serving, study, write
from tests.cli.test_daemon import process
from tests.cli.test_workers import workers
from tests.committing import references, request, requester
from tests.programs import run

DATASETS = study(series=1, instances=3)
STORED = references(DATASETS)
NEVER = ("--set", "commitment.same_association_seconds=0")


def known(peer, folder):
    """Return the options that make a requestor a peer of the server."""
    file = folder / "config.toml"
    file.write_text("[[peers]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in peer.row.items()))
    return ("--config", str(file))


def heard(server, words):
    """Wait until a text is in the log."""
    while words not in (line := server.stderr.readline()):
        assert line, "the server has ended"


def filled(folder, server):
    """Store the instances that the tests request commitment for."""
    run("storescu", "-aec", "PACS", "127.0.0.1", server.port, "+sd", folder / "out")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_between_request_and_report(tmp_path, number):
    """Stopped cleanly or killed: the next process sends the report, once."""
    peer = requester()
    write(DATASETS, tmp_path / "out")
    words = (*known(peer, tmp_path), *NEVER)
    with process(tmp_path, *words) as server:
        filled(tmp_path, server)
        assert peer.ask(server.port, STORED) == 0x0000
        heard(server, "REQUESTER cannot be told of a storage commitment")
        server.send_signal(number)
        server.communicate(timeout=20)
    with peer.listening(), process(tmp_path, *words) as server:
        assert peer.report().committed == STORED
        assert peer.ask(server.port, STORED[:1], "1.2.9") == 0x0000
        assert peer.report().transaction == "1.2.9"
        server.send_signal(signal.SIGTERM)
        _, err = server.communicate(timeout=20)
    assert peer.reports.empty()
    assert err.count("commitment reported") == 2
    assert "Traceback" not in err


def test_several_workers_report_each_transaction_once(tmp_path):
    """Three workers, requestors that release immediately and one that waits: as many reports as requests."""
    peer = requester()
    write(DATASETS, tmp_path / "out")
    words = (*known(peer, tmp_path), "--set", "commitment.same_association_seconds=0.05")
    transactions = [f"1.2.{number}" for number in range(15)]
    with peer.listening(), workers(tmp_path, 3, *words) as server:
        filled(tmp_path, server)
        for each in transactions[:10]:
            assert peer.ask(server.port, STORED, each) == 0x0000
        told = [peer.report() for _ in transactions[:10]]
        with peer.associated(server.port) as association:
            for each in transactions[10:]:
                assert request(association, STORED, each) == 0x0000
            told += [peer.report() for _ in transactions[10:]]
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=20)
    assert sorted(each.transaction for each in told) == sorted(transactions)
    assert [each.is_same for each in told] == [False] * 10 + [True] * 5
    assert all(each.committed == STORED for each in told)
    assert peer.reports.empty()


def test_several_servers_on_one_database_report_each_transaction_once(tmp_path, database_url):
    """Both work on due reports; none is sent twice."""
    peer = requester()
    transactions = [f"1.2.{number}" for number in range(12)]
    settings = {
        "server.shared": True,
        "database.url": database_url,
        "files.url": str(tmp_path / "files"),
        "peers": [peer.row],
        "commitment.same_association_seconds": 0,
        "commitment.first_retry_seconds": 0.05,
        "commitment.longest_retry_seconds": 0.5,
    }
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(tmp_path / name, settings)) for name in ("one", "two")]
        write(DATASETS, tmp_path / "out")
        filled(tmp_path, servers[0])
        for place, each in enumerate(transactions):
            assert peer.ask(servers[place % 2].port, STORED, each) == 0x0000
        with peer.listening():
            told = [peer.report() for _ in transactions]
            deadline = time.monotonic() + 20
            while servers[0].commitments.seconds_until_due() is not None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    assert sorted(each.transaction for each in told) == sorted(transactions)
    assert peer.reports.empty()


def test_another_worker_reports_what_a_killed_one_had_claimed(tmp_path, database_url):
    """When its claim expires."""
    peer = requester()
    settings = {"database.url": database_url, "peers": [peer.row], "commitment.same_association_seconds": 0}
    with serving(tmp_path / "one", settings) as archive:
        write(DATASETS, tmp_path / "out")
        filled(tmp_path, archive)
        archive._reporter.stop()
        assert peer.ask(archive.port, STORED) == 0x0000
        claim = archive.commitments.claim()
        assert claim is not None
        archive.commitments.extend(claim, 0.2)
    with peer.listening(), serving(tmp_path / "one", settings):
        assert peer.report().committed == STORED
