"""`pacs serve --workers N`: processes that share the load, are killed, replaced and stopped."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from pacs.archive import Archive
from pacs.config import from_settings
from pacs.dimse.scu import echo
from pacs.errors import AssociationRejected
from pacs.testing import study
from tests import raw
from tests.archives import identifier
from tests.cli.test_daemon import FIND, READY, ROOT, associated, process, wait_until_nobody_listens
from tests.programs import start
from tests.raw import Raw
from tests.waiting import eventually

CT = "1.2.840.10008.5.1.4.1.1.2"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the test finds processes in /proc")


@contextmanager
def workers(folder, count, *words, url="", **options):
    """Run `pacs serve` with several workers in a new process group; kill all at the end."""
    chosen = ("--workers", str(count), *words, *(("--set", f"database.url={url}") if url else ()))
    with process(folder, *chosen, start_new_session=True, **options) as server:
        try:
            yield server
        finally:
            if server.returncode is None:
                os.killpg(server.pid, signal.SIGKILL)


def children(server):
    """Return the process ids of the workers."""
    return [int(each) for each in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]


def lives(pid):
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ask(server):
    """Send a C-ECHO. Raises AssociationRejected."""
    echo("127.0.0.1", server.port, calling_ae_title="WS", called_ae_title="PACS", timeout=10)


def stopped(server, number=signal.SIGTERM):
    """Stop a server; return its further output and its log."""
    server.send_signal(number)
    return server.communicate(timeout=20)


class Client(Raw):
    """An association for C-STORE and C-FIND."""

    def __enter__(self):
        self.associate((1, CT, [raw.EXPLICIT]), (3, FIND, [raw.IMPLICIT]))
        return self

    def store(self, dataset):
        """Return the status of a C-STORE."""
        uid = raw.element(0x1000, dataset.SOPInstanceUID.encode())
        self.send(raw.request(raw.C_STORE, 1, CT, 1, raw.encoded(dataset, raw.EXPLICIT), [uid]))
        return self.message().status

    def found(self):
        """Return the SOP Instance UIDs of all instances."""
        self.send(raw.request(raw.C_FIND, 3, FIND, 2, identifier("IMAGE", SOPInstanceUID="")))
        return {each.dataset().SOPInstanceUID for each in self.until_final()[:-1]}


# --- serving -----------------------------------------------------------------------------------------------------


def test_workers_share_associations(tmp_path):
    """Twelve simultaneous ones over three workers; there is one ready line."""
    with workers(tmp_path, 3) as server, ExitStack() as stack:
        served_by = {f"{each:x}" for each in children(server)}
        for _ in range(12):
            stack.enter_context(associated(server.port))
        stack.close()
        out, err = stopped(server)
    assert (server.returncode, out) == (0, "")
    counts = Counter(re.findall(r"association ended +association=(\w+)-", err))
    assert set(counts) == served_by
    assert min(counts.values()) >= 3, counts
    assert "Traceback" not in err


def test_an_instance_stored_by_one_worker_is_found_by_another(tmp_path, database_url):
    """Immediately, on four associations with two workers."""
    datasets = study(series=1, instances=4)
    with workers(tmp_path, 2, url=database_url) as server, ExitStack() as stack:
        associations = [stack.enter_context(Client(server.port)) for _ in datasets]
        stored = set()
        for association, dataset in zip(associations, datasets, strict=True):
            assert association.store(dataset) == 0
            stored.add(dataset.SOPInstanceUID)
            assert [each.found() for each in associations] == [stored] * 4
        stack.close()
        _, err = stopped(server)
    assert len(set(re.findall(r"operation +association=(\w+)-", err))) == 2


def test_the_limit_of_associations_is_that_of_the_whole_server(tmp_path):
    """The one beyond them is rejected, whichever worker it comes to; a dead worker's places are free again.

    When the server stops, the drain timeout ends the remaining associations.
    """
    words = ("--set", "limits.associations=3", "--set", "limits.drain_seconds=0.5")
    with workers(tmp_path, 2, *words) as server:
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(associated(server.port))
            for _ in range(4):
                with pytest.raises(AssociationRejected) as refused:
                    ask(server)
                assert (refused.value.result, refused.value.source, refused.value.reason) == (2, 3, 2)
            dead = children(server)
            for each in dead:
                os.kill(each, signal.SIGKILL)
            eventually(lambda: len(set(children(server)) - set(dead)) == 2)
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(associated(server.port))
            with pytest.raises(AssociationRejected):
                ask(server)
            stopped(server)
    assert server.returncode == 0


# --- dead workers ------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_and_nothing_acknowledged_is_lost(tmp_path, database_url):
    """While four associations store; the next start recovers what it left."""
    datasets = study(series=4, instances=25)
    with workers(tmp_path, 2, url=database_url) as server:

        def store(part):
            with Client(server.port) as association, suppress(ConnectionError):
                all_associated.wait(20)
                for dataset in part:
                    assert association.store(dataset) == 0
                    acknowledged.add(dataset.SOPInstanceUID)

        all_associated = threading.Barrier(4)
        acknowledged, (victim, survivor) = set(), children(server)
        with ThreadPoolExecutor(4) as pool:
            parts = [pool.submit(store, datasets[each::4]) for each in range(4)]
            eventually(lambda: len(acknowledged) > 12)
            os.kill(victim, signal.SIGKILL)
            for each in parts:
                each.result()
        eventually(lambda: len(set(children(server)) - {victim}) == 2)
        assert survivor in children(server)
        assert Path(f"/proc/{server.pid}/status").read_text().count("Threads:\t1\n") == 1
        with Client(server.port) as association:
            assert association.found() >= acknowledged
        _, err = stopped(server)
    assert server.returncode == 0
    assert f"worker {victim:x} was killed by signal 9; starting another one" in err
    assert len(list((tmp_path / "files" / "running").iterdir())) == 1
    journals = tmp_path / "files" / "journal"
    assert len(list(journals.iterdir())) == 1
    with Archive(settings(tmp_path, url=database_url)) as archive:
        archive.start()
        uids = [each.sop_instance_uid for each in archive.maintenance.instances({})]
        assert set(uids) >= acknowledged
        assert len(uids) == len(list(archive.files.keys()))
        assert [*(tmp_path / "files" / "incoming").iterdir(), *journals.iterdir()] == []


def settings(folder, **others):
    """Return the configuration of a server with its data in a folder."""
    url = others.pop("url", "") or f"sqlite:///{folder}/pacs.db"
    fixed = {"server.port": 0, "web.enabled": False, "database.url": url, "files.url": f"{folder}/files"}
    return from_settings(fixed | others)


FAILING = """
import sys
from pacs import workers
from pacs.cli import main
from pacs.errors import StorageUnavailable

def fail(*_):
    raise StorageUnavailable("no worker today")

workers.Archive.join = fail
main(sys.argv[1:])
"""


def test_workers_that_cannot_be_started_end_the_server_with_a_sentence(tmp_path):
    """After some attempts, each with its reason; there is no ready line, and the recovery marker stays."""
    command = [sys.executable, "-c", FAILING, "serve", "--port", "0", "--workers", "2", "--set", "web.port=0"]
    ran = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(Path.cwd())}, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "pacs: workers end before they are ready; see the log for the reason" in ran.stderr
    assert 5 <= ran.stderr.count("ends: no worker today") <= 6
    assert "Traceback" not in ran.stderr


# --- stopping ----------------------------------------------------------------------------------------------------


def test_ctrl_c_on_a_terminal_drains_the_server(tmp_path):
    """It signals every process of the group: associations continue, and a second signal stops all."""
    with workers(tmp_path, 2, "--set", "limits.drain_seconds=3600") as server:
        with associated(server.port) as one, associated(server.port) as two:
            pids = children(server)
            os.killpg(server.pid, signal.SIGINT)
            wait_until_nobody_listens(server.port)
            assert [each.send_c_echo().Status for each in (one, two)] == [0, 0]
            stopped(server)
        assert server.returncode == 0
        assert not any(map(lives, pids))
    assert list((tmp_path / "files" / "running").iterdir()) == []


STARTING = """
import sys, time
from pathlib import Path
from tests.cli.test_workers import children, workers

with workers(Path(sys.argv[1]), 2) as server:
    print(server.pid, *children(server), flush=True)
    time.sleep(60)
"""


def test_a_server_of_a_test_ends_when_the_test_process_is_killed(tmp_path):
    """Supervisor and workers, although no `finally` runs there."""
    command = [sys.executable, "-c", STARTING, tmp_path]
    with start(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as testing:
        pids = list(map(int, testing.stdout.readline().split()))
        assert len(pids) == 3
        assert all(map(lives, pids))
        testing.kill()
    assert eventually(lambda: not any(map(lives, pids)))


def test_workers_do_not_outlive_their_supervisor(tmp_path):
    """When it is killed, they drain; the next start finds the port free and the recovery marker."""
    words = ("--set", "limits.drain_seconds=2")
    with workers(tmp_path, 2, *words) as server, associated(server.port) as one:
        pids = children(server)
        server.kill()
        wait_until_nobody_listens(server.port)
        assert one.send_c_echo().Status == 0
        one.release()
        eventually(lambda: not any(map(lives, pids)))
        out, _ = server.communicate(timeout=20)
    assert not READY.search(out)
    assert len(list((tmp_path / "files" / "running").iterdir())) == 1
    with Archive(settings(tmp_path, **{"server.port": server.port})) as archive:
        archive.start()
    assert list((tmp_path / "files" / "running").iterdir()) == []
