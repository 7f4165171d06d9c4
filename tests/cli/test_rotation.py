"""Rotation of the audit log and of the log of the server while instances are stored, by one process and by four."""

import gzip
import json
import shutil
import signal
import subprocess
import threading
from contextlib import contextmanager
from itertools import count

import pytest

from tests.cli.test_daemon import ROOT, process
from tests.crash.client import associated
from tests.crash.load import Instance, uid
from tests.programs import needs
from tests.waiting import eventually

ROTATIONS = 6
SENDERS = 4
NAMES = ("one process", "four workers")


class Running:
    """A server with an audit log, and senders that store until `stop`."""

    def __init__(self, server, folder):
        self.server, self.audit, self.log = server, folder / "audit" / "log", folder / "log"
        self.stored, self._stopping = set(), threading.Event()
        self._threads = [threading.Thread(target=self._store, args=(number,)) for number in range(SENDERS)]
        for each in self._threads:
            each.start()

    def _store(self, sender):
        with associated(self.server.port) as client:
            for number in count():
                if self._stopping.is_set():
                    return
                instance = Instance(uid("rotation", sender, number), uid("study", sender), 2000)
                assert client.store(instance.uid, instance.data).status == 0
                self.stored.add(instance.uid)

    def go_on(self):
        """Wait until some more instances are stored."""
        enough = len(self.stored) + 2 * SENDERS
        assert eventually(lambda: len(self.stored) >= enough)

    def reload(self, expected="configuration reloaded"):
        """Send SIGHUP and wait for what the log says about it."""
        seen = self.log.read_text().count(expected)
        self.server.send_signal(signal.SIGHUP)
        assert eventually(lambda: self.log.read_text().count(expected) > seen)

    def stop(self):
        """Stop the senders, then the server; each line of its log is a whole JSON object."""
        self._stopping.set()
        for each in self._threads:
            each.join()
        self.server.send_signal(signal.SIGTERM)
        assert self.server.wait(60) == 0
        assert all(json.loads(line)["event"] for line in self.log.read_text().splitlines())

    def records(self):
        """Return the SOP Instance UIDs of all records in all files of the audit log; each line is whole."""
        lines = [line for each in self.audit.parent.iterdir() for line in each.read_bytes().splitlines()]
        return [json.loads(line)["sop_instance_uids"][0] for line in lines]


@pytest.fixture(params=[pytest.param((), marks=pytest.mark.long), ("--workers", "4")], ids=NAMES)
def running(request, tmp_path):
    """A running server and its senders."""
    with _running(tmp_path, *request.param) as found:
        yield found


@contextmanager
def _running(folder, *words):
    (folder / "audit").mkdir()
    chosen = ("--set", f"audit.file={folder}/audit/log", "--set", "log.format=json", *words)
    with (folder / "log").open("w") as err, process(folder, *chosen, stderr=err) as server:
        found = Running(server, folder)
        try:
            yield found
        finally:
            found._stopping.set()


def test_each_record_is_in_one_of_the_renamed_files(running):
    """As logrotate does by default, with and without `create`: no record is lost, torn or doubled."""
    for number in range(ROTATIONS):
        running.go_on()
        running.audit.rename(running.audit.with_suffix(f".{number}"))
        if number % 2:
            running.audit.touch()
        running.reload()
        assert eventually(lambda: running.audit.exists() and running.audit.stat().st_size)
    running.stop()
    assert sorted(running.records()) == sorted(running.stored)


def test_a_truncated_file_goes_on_with_whole_lines(running):
    """As logrotate does with `copytruncate`, without a reload: there is no hole at its beginning."""
    for _ in range(ROTATIONS):
        running.go_on()
        shutil.copyfile(running.audit, running.audit.parent.with_name("copy"))
        with running.audit.open("r+b") as file:
            file.truncate()
    running.go_on()
    running.stop()
    assert 0 < len(running.records()) <= len(running.stored)
    assert set(running.records()) <= running.stored


def test_a_removed_file_is_made_again_by_a_reload_and_a_removed_folder_refuses_it(running):
    """Instances are stored meanwhile; without the folder the log says what is wrong, and each process goes on."""
    running.audit.unlink()
    running.reload()
    running.go_on()
    assert running.audit.stat().st_size
    shutil.rmtree(running.audit.parent)
    running.reload(expected="reload rejected, previous settings kept: audit.file")
    running.go_on()
    running.audit.parent.mkdir()
    running.reload()
    running.go_on()
    running.stop()
    assert set(running.records()) <= running.stored
    assert running.records()


def test_logrotate_loses_no_record_with_the_example_of_contrib(running, tmp_path):
    """Real runs of it, the second one compresses the first renamed file; each new file is private."""
    program = needs("logrotate")
    rules, state = tmp_path / "pacs.logrotate", tmp_path / "state"
    owner = f"{running.audit.owner()} {running.audit.group()}"
    text = (ROOT / "contrib" / "pacs.logrotate").read_text().replace("/var/log/pacs/audit.log", str(running.audit))
    text = text.replace("pacs pacs", owner).replace("systemctl reload pacs.service", f"kill -HUP {running.server.pid}")
    rules.write_text(text)
    rules.chmod(0o644)
    for number in range(1, 4):
        running.go_on()
        seen = running.log.read_text().count("configuration reloaded")
        subprocess.run([program, "--force", "--state", state, rules], check=True, timeout=60)
        assert eventually(lambda before=seen: running.log.read_text().count("configuration reloaded") > before, 60)
        assert len(list(running.audit.parent.iterdir())) == number + 1
    running.go_on()
    running.stop()
    assert {each.stat().st_mode & 0o777 for each in running.audit.parent.iterdir()} == {0o640}
    for each in running.audit.parent.glob("*.gz"):
        each.with_suffix("").write_bytes(gzip.decompress(each.read_bytes()))
        each.unlink()
    assert sorted(running.records()) == sorted(running.stored)
