"""Running operations and last events, in memory that all workers share."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from pacs.dimse.scu import echo
from pacs.observability.activity import MOST_EVENTS, MOST_RUNNING, Activity
from pacs.observability.events import (
    AssociationAccepted,
    AssociationEnded,
    InstanceStored,
    Notice,
    OperationFinished,
    OperationStarted,
    SubOperationFinished,
)
from pacs.testing import Fault, serving, study
from tests.archives import take_in
from tests.dimse.test_explained import ask
from tests.programs import run, start
from tests.waiting import eventually

AES = {"calling_ae_title": "WS", "called_ae_title": "PACS"}


def accepted(association="a-1"):
    """The beginning of an association."""
    return AssociationAccepted(association=association, address="127.0.0.1:1", **AES)


def ended(association="a-1", **counts):
    """The end of an association."""
    return AssociationEnded(
        association=association, address="127.0.0.1:1", how="released", duration=0.5, counts=counts, **AES
    )


def started(message_id=1, association="a-1", kind="C-FIND"):
    """The beginning of an operation."""
    return OperationStarted(association=association, kind=kind, message_id=message_id, **AES)


def finished(message_id=1, association="a-1", kind="C-FIND", **values):
    """The end of an operation."""
    return OperationFinished(
        association=association, kind=kind, message_id=message_id, status=0, duration=0.1, **AES, **values
    )


@pytest.fixture
def activity():
    """The activity of a server with one process."""
    return Activity()


@pytest.fixture
def record(activity):
    """The subscriber of that process."""
    return activity.recorder(0)


def test_associations_and_operations_are_running_until_they_end(activity, record):
    """Oldest first, with AE titles, ids and times."""
    record(accepted())
    record(started())
    association, operation = activity.running()
    assert (association["kind"], association["address"], association["worker"]) == ("association", "127.0.0.1:1", 0)
    assert (operation["kind"], operation["message_id"], operation["association"]) == ("C-FIND", 1, "a-1")
    assert {each["calling_ae_title"] for each in (association, operation)} == {"WS"}
    assert association["started"] <= operation["started"]
    record(finished(counts={"matches": 3}))
    record(ended(store=2))
    assert activity.running() == []
    assert [each["event"] for each in activity.events()] == ["association ended", "operation"]
    assert activity.events()[1]["counts"] == {"matches": 3}


def test_single_instances_are_not_recorded(activity, record):
    """Neither C-STOREs nor sub-operations."""
    record(finished(kind="C-STORE"))
    record(
        InstanceStored(
            sop_class_uid="1",
            transfer_syntax="2",
            size=3,
            source_ae="WS",
            sop_instance_uid="4",
            series_instance_uid="5",
            study_instance_uid="6",
        )
    )
    record(
        SubOperationFinished(
            association="a",
            destination="D",
            sop_class_uid="1",
            transfer_syntax="2",
            sop_instance_uid="3",
            status=0xA700,
            duration=1.0,
        )
    )
    assert activity.running() == activity.events() == []


def test_only_the_last_events_are_kept(activity, record):
    """Newest first."""
    for number in range(MOST_EVENTS + 20):
        record(Notice(sentence=str(number)))
    assert [each["sentence"] for each in activity.events()] == [str(each) for each in range(MOST_EVENTS + 19, 19, -1)]


def test_more_running_operations_than_slots_are_not_shown(activity, record):
    """Those that end make room again."""
    for number in range(MOST_RUNNING + 5):
        record(accepted(f"a-{number}"))
    assert len(activity.running()) == MOST_RUNNING
    record(ended("a-0"))
    record(ended(f"a-{MOST_RUNNING + 1}"))
    record(accepted("b-1"))
    assert len(activity.running()) == MOST_RUNNING


def test_long_texts_are_shortened(activity, record):
    """An entry that is still too long keeps its short values."""
    record(Notice(sentence="x" * 10_000))
    record(finished(counts={f"count {number}": number for number in range(1000)}, comment="\N{SNOWMAN}" * 500))
    long, notice = activity.events()
    assert (long["kind"], long["status"], "counts" in long, "comment" in long) == ("C-FIND", 0, False, False)
    assert notice["sentence"].endswith("x…")


def test_the_successor_of_a_dead_worker_continues(activity, record):
    """Its events follow those of the dead one; what that one was doing is over."""
    record(accepted())
    record(Notice(sentence="before"))
    activity.recorder(0)(Notice(sentence="after"))
    assert activity.running() == []
    assert [each["sentence"] for each in activity.events()] == ["after", "before"]


def test_entries_are_whole_while_others_write(activity, record):
    """Read by one thread, written by two."""

    def write(name):
        for number in range(300):
            record(started(number, name))
            record(finished(number, name))

    writers = [Thread(target=write, args=(name,)) for name in ("a", "b")]
    for each in writers:
        each.start()
    while any(each.is_alive() for each in writers):
        assert all(each["kind"] == "C-FIND" for each in activity.running() + activity.events())
    for each in writers:
        each.join()
    assert activity.running() == []


WORKERS = """
import os
from pacs.dimse.scu import echo
from pacs.observability.activity import Activity
from pacs.observability.events import Notice

activity = Activity(2)
pid = os.fork()
activity.recorder(0 if pid else 1)(Notice(sentence="ours" if pid else "the child's"))
if not pid:
    os._exit(0)
os.waitpid(pid, 0)
print(sorted((each["worker"], each["sentence"]) for each in activity.events()))
"""


def test_every_worker_reads_what_all_have_written():
    """In memory that forked processes share."""
    assert run(sys.executable, "-c", WORKERS).strip() == """[(0, 'ours'), (1, "the child's")]"""


def test_a_running_server_shows_its_queries(tmp_path):
    """While they run, and afterwards as events; without what was asked."""
    with serving(tmp_path, watched=True) as archive:
        take_in(archive, study("DOE^JOHN", series=1, instances=1))
        archive.faults.add(Fault("C-FIND", delay=0.5))
        asking = Thread(target=ask, args=(archive,), kwargs={"PatientName": "SECRET*", "StudyInstanceUID": ""})
        asking.start()
        activity = archive.monitoring.activity
        assert eventually(lambda: {each["kind"] for each in activity.running()} == {"association", "C-FIND"})
        asking.join()
        assert eventually(lambda: activity.running() == [])
        assert {"operation", "association ended"} <= {each["event"] for each in activity.events()}
        assert "secret" not in str(activity.events()).lower()


SERVER = """
import json, sys
from pacs.archive import Archive
from pacs.config import from_settings
from pacs.observability.events import ServerReady
from pacs.workers import supervise

def show(event):
    if isinstance(event, ServerReady):
        print(archive.port, flush=True)

def show_activity():
    activity = archive.monitoring.activity
    print(json.dumps([activity.running(), activity.events()]), flush=True)

fixed = {"server.port": 0, "server.workers": 2, "web.enabled": False}
with Archive(from_settings(fixed), workers=2) as archive:
    archive.events.subscribe(show)
    supervise(archive, stopping=show_activity)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the worker is found in /proc")
def test_the_supervisor_reads_what_its_workers_have_done(tmp_path):
    """Operations of both, and its own notice of the death of one, whose associations are not running any more."""
    command = [sys.executable, "-c", SERVER]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    with start(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = int(server.stdout.readline())
            for _ in range(20):
                echo("127.0.0.1", port, calling_ae_title="WS", called_ae_title="PACS", timeout=10)
            victim = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()[0]
            os.kill(int(victim), signal.SIGKILL)
            assert eventually(lambda: victim not in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text())
            server.send_signal(signal.SIGTERM)
            running, events = json.loads(server.communicate(timeout=20)[0].splitlines()[-1])
        finally:
            server.kill()
    assert running == []
    assert [each["kind"] for each in events if each["event"] == "operation"] == ["C-ECHO"] * 20
    assert {each["worker"] for each in events if each["event"] == "association ended"} == {0, 1}
    (notice,) = (each for each in events if each["event"] == "notice")
    assert notice["worker"] == 2
    assert "was killed by signal 9" in notice["sentence"]


FAILING_WORKERS = """
from pathlib import Path
from pacs.errors import StorageUnavailable
from pacs.files.local import LocalFiles

real = LocalFiles.join

def join(files, prepared):
    if Path("full").exists():
        with open("failed", "a") as file:
            file.write("x")
        raise StorageUnavailable("no room")
    real(files, prepared)

LocalFiles.join = join
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the worker is found in /proc")
def test_a_worker_that_cannot_start_says_why(tmp_path):
    """Its notice is kept beside that of the supervisor, which has memory of its own."""
    command = [sys.executable, "-c", FAILING_WORKERS + SERVER]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    with start(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        try:
            server.stdout.readline()
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
            (tmp_path / "full").touch()
            assert eventually(children.read_text)
            os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
            failed = tmp_path / "failed"
            assert eventually(lambda: failed.exists() and failed.stat().st_size > 1)  # the first has said so by then
            server.send_signal(signal.SIGTERM)
            _, events = json.loads(server.communicate(timeout=20)[0].splitlines()[-1])
        finally:
            server.kill()
    reasons = [each for each in events if each.get("sentence", "").endswith("ends: no room")]
    assert reasons
    assert {each["worker"] for each in reasons} <= {0, 1}
