"""`pacs fsck`, `reindex`, `backup` and `restore` with each kind of database and beside a running server."""

import json
import re
import threading
import time

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import CTImageStorage
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as Get

from benchmarks import data, wire
from benchmarks.client import Association
from pacs.observability.events import Notice
from pacs.testing import serving, study, write
from tests.archives import take_in
from tests.cli.test_daemon import process
from tests.databases import KINDS, fresh_database, opened
from tests.upkeep import rows, tree


class Typed:
    """Runs `pacs` with a database and a folder."""

    def __init__(self, pacs, url, root):
        self.pacs, self.url, self.root = pacs, url, root

    def __call__(self, *words, status=0):
        """Return the output of a command; check its exit status."""
        where = ("--set", f"database.url={self.url}", "--set", f"files.url={self.root}")
        result = self.pacs(*words, *where)
        assert result.exit_code == status, (result.stdout, result.stderr)
        return result

    def rows(self):
        """Return all rows of the index."""
        with opened(self.url) as index:
            return rows(index)

    def damage(self):
        """Change a byte of a file; return its key."""
        path = min(self.root.glob("[0-9]*/*/*/*/*.dcm"))
        path.write_bytes(path.read_bytes()[:-1] + b"X")
        return str(path.relative_to(self.root))


@pytest.fixture
def alone(monkeypatch):
    """Remove the wait for concurrent processes, as there are none."""
    for module in ("fsck", "reindex"):
        monkeypatch.setattr(f"pacs.services.{module}.GRACE", 0)


@pytest.fixture
def typed(pacs, alone, database_url, tmp_path):
    """`pacs` with an archive of six images, on each kind of database."""
    archive = Typed(pacs, database_url, tmp_path / "files")
    write(study(instances=3), tmp_path / "in")
    archive("import", tmp_path / "in")
    return archive


@pytest.fixture(params=KINDS)
def new(request, pacs, tmp_path):
    """`pacs` with an empty archive, on each kind of database."""
    folder = tmp_path / "new"
    folder.mkdir()
    with fresh_database(request.param, request, folder) as url:
        yield Typed(pacs, url, folder / "files")


def test_fsck_reports_no_problems(typed):
    """On standard error; standard output is empty."""
    result = typed("fsck")
    assert (result.stdout, result.stderr) == ("", "6 instances, 6 files: no problems\n")
    assert json.loads(typed("fsck", "--json").stdout) == []


def test_fsck_lists_problems_and_repairs(typed):
    """As a table, exit status 1 until repaired; --quick does not find a changed byte."""
    key = typed.damage()
    assert typed("fsck", "--quick").stdout == ""
    result = typed("fsck", status=1)
    assert "6 files: 1 problem, 0 repaired\nrun `pacs fsck --repair`" in result.stderr
    heads, line = result.stdout.splitlines()
    assert heads == "Problem,File,SOPInstanceUID,Explanation,Done"
    assert line.startswith(f"digest,{key},2.25.")
    (found,) = json.loads(typed("fsck", "--repair", "--json").stdout)
    assert (found["Problem"], found["File"]) == ("digest", key)
    assert found["Done"] == f"row removed, file moved to quarantine/{key}: send it again"
    assert typed("fsck").stderr == "5 instances, 5 files: no problems\n"


def test_fsck_lists_what_a_dead_process_left_and_calls_it_no_problem(typed):
    """A half-written file: exit status 0, and how it is removed."""
    (typed.root / "incoming" / "left").write_bytes(b"half")
    result = typed("fsck")
    assert result.stdout.splitlines()[1].startswith("leftover,left,")
    next_step = "the next start or `pacs fsck --repair` removes what is left"
    assert result.stderr == f"6 instances, 6 files: no problems; 1 leftover of processes that died: {next_step}\n"
    assert typed("fsck", "--repair").stderr.endswith("no problems; 1 leftover of processes that died: removed\n")
    assert typed("fsck").stdout == ""


def test_reindex_rebuilds_a_lost_index(typed, new):
    """In another database of either kind, with the same folder."""
    before = typed.rows()
    lost = Typed(typed.pacs, new.url, typed.root)
    assert lost("reindex").stdout == "6 instances in the index: 6 added, 0 rows corrected, 0 removed\n"
    assert lost.rows() == before
    assert lost("reindex").stdout == "6 instances in the index: 0 added, 0 rows corrected, 0 removed\n"


def test_reindex_lists_unusable_files(typed):
    """With the reason, and exit status 1."""
    path = typed.root / typed.damage()
    path.write_bytes(b"nothing")
    result = typed("reindex", status=3)
    assert "5 instances in the index: 0 added, 0 rows corrected, 1 removed" in result.stdout
    assert result.stderr.startswith("1 file not indexed:\n    2")
    assert "Not a DICOM file" in result.stderr


def test_a_backup_is_restored_into_either_database(typed, new, tmp_path):
    """Bit for bit and row for row; a second backup copies only new files."""
    said = typed("backup", tmp_path / "backup").stdout
    assert re.fullmatch(r"6 instances, \d+\.\d KiB in .*backup: 6 new\n", said)
    assert typed("backup", tmp_path / "backup").stdout.endswith(": 0 new\n")
    assert new("restore", tmp_path / "backup").stdout.startswith("6 instances, ")
    assert new.rows() == typed.rows()
    assert tree(new.root) == tree(typed.root)
    assert new("fsck").stderr == "6 instances, 6 files: no problems\n"
    assert "the archive is not empty" in new("restore", tmp_path / "backup", status=2).stderr


def test_a_backup_of_a_damaged_archive_lists_omitted_files(typed, tmp_path):
    """Exit status 1; the rest is backed up."""
    key = typed.damage()
    result = typed("backup", tmp_path / "backup", status=3)
    assert result.stdout.startswith("5 instances")
    assert f"1 file left out; run `pacs fsck --repair` for details:\n    {key}: " in result.stderr


class Sender:
    """Sends images to a server until it is stopped."""

    def __init__(self, port):
        self.sent = {}
        self._port = port
        self._images = data.images("9 kB", 10**6)
        self.study = self._images.study_instance_uid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        with Association(self._port, "PACS") as association:
            for number, (uid, encoded) in enumerate(self._images, 1):
                if self._stop.is_set():
                    return
                context, longest = association.accepted[0], association.longest_pdu
                association.store(wire.store_rq(context, uid, number % 65535 + 1, encoded, longest))
                self.sent[uid] = encoded

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join()


def test_maintenance_beside_a_server_that_receives_images(pacs, tmp_path):
    """fsck, reindex and backup find no problems and change nothing; a restore has all sent instances."""
    typed = Typed(pacs, f"sqlite:///{tmp_path}/pacs.db", tmp_path / "files")
    with process(tmp_path) as server, Sender(server.port) as sender:
        while len(sender.sent) < 50:
            time.sleep(0.01)
        assert typed("fsck").stderr.endswith("no problems\n")
        assert re.search(r": \d+ added, 0 rows corrected, 0 removed", typed("reindex").stdout)
        before = dict(sender.sent)
        typed("backup", tmp_path / "backup")
        assert typed("fsck", "--repair").stderr.endswith("no problems\n")
    new = Typed(pacs, f"sqlite:///{tmp_path}/new.db", tmp_path / "new")
    new("restore", tmp_path / "backup")
    with serving(tmp_path, {"database.url": new.url, "files.url": str(new.root)}) as archive:
        received, status = get(archive.port, sender.study)
    assert (status, before.items() <= received.items()) == (0x0000, True)


def get(port, study_instance_uid):
    """Return the data sets of a C-GET of a study by UID, and its final status."""
    received = {}

    def keep(event):
        received[event.request.AffectedSOPInstanceUID] = event.request.DataSet.getvalue()
        return 0x0000

    ae = AE("WS")
    ae.add_requested_context(Get)
    ae.add_requested_context(CTImageStorage, ["1.2.840.10008.1.2.1"])
    role = build_role(CTImageStorage, scp_role=True)
    association = ae.associate("127.0.0.1", port, ext_neg=[role], evt_handlers=[(evt.EVT_C_STORE, keep)])
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", study_instance_uid
    (*_, (final, _)) = association.send_c_get(keys, Get)
    association.release()
    return received, final.Status


def test_a_damaged_instance_is_not_sent_with_files_verify(tmp_path):
    """It fails alone; one log line names the file and what to do, and so does an export."""
    datasets = study(series=1, instances=3)
    with serving(tmp_path, {"files.verify": True}) as archive:
        take_in(archive, datasets)
        path = sorted((tmp_path / "files").glob("[0-9]*/*/*/*/*.dcm"))[1]
        path.write_bytes(path.read_bytes()[:-1] + b"X")
        told = []
        archive.events.subscribe(lambda event: told.append(event.sentence) if isinstance(event, Notice) else None)
        received, status = get(archive.port, datasets[0].StudyInstanceUID)
        exported = archive.exporter.export(archive.maintenance.instances({}), tmp_path / "out")
    assert (sorted(received), status) == (sorted(datasets[place].SOPInstanceUID for place in (0, 2)), 0xB000)
    key = str(path.relative_to(tmp_path / "files"))
    assert told == [f"file {key} is damaged and was not given out: run `pacs fsck --repair`, and send it again"]
    assert [each.comment for each in exported.failed] == told
    assert not any(datasets[1].SOPInstanceUID in each.name for each in (tmp_path / "out").rglob("*"))
