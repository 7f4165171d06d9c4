"""Restores that are killed or refused, and backups that are made while instances arrive, are replaced and deleted."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash import examining
from tests.crash.load import SMALL, Ledger, Sender, eventually, stop_all
from tests.crash.servers import ROOT, Site, strace
from tests.databases import KINDS
from tests.upgrade import unpack
from tests.upgrade.place import examine

POINTS = {
    "before the first file": ("rename", "", 3),
    "while files are copied": ("rename", "", 6),
    "before the files are synced": ("syncfs", "", 1),
    "while rows are added (SQLite)": ("pwrite64", "index/pacs.db-wal", 20),
    "while rows are added (PostgreSQL)": ("sendto", "", 30),
    "before its mark is removed": ("unlink", "files/restoring", 1),
}
"""Points of a restore: the system call before which it is killed, the path that it concerns, and its number."""


def _points() -> Iterator[object]:
    for kind in KINDS:
        for name in POINTS:
            other = "(SQLite)" if kind == "postgresql" else "(PostgreSQL)"
            if other not in name:
                yield pytest.param(kind, name, marks=[pytest.mark.long] * ("rows" not in name))


@pytest.mark.parametrize(("kind", "point"), [*_points()])
def test_a_killed_restore_is_run_again(new, tmp_path: Path, kind: str, point: str):
    """By SIGKILL at one of its steps; then nothing is missing."""
    contents = unpack("f5f5b75", tmp_path)["stopped"]
    archive = new(kind)
    folder = archive.files.parent
    call, path, number = POINTS[point]
    killing = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
    killing += ["-P", folder / path] if path else []
    command = Site(folder, archive.url).command("restore", tmp_path / "backup")
    killed = subprocess.run(
        [strace(), "-f", "-qq", "-o", "/dev/null", *killing, *command],
        cwd=ROOT, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    archive("restore", tmp_path / "backup")
    archive.require(contents, 90)


@pytest.mark.parametrize("kind", KINDS)
def test_a_restore_over_a_live_archive_is_refused(new, tmp_path: Path, kind: str):
    """While it runs and after it has stopped; it serves as before."""
    contents = unpack("f5f5b75", tmp_path)["stopped"]
    archive = new(kind)
    archive("restore", tmp_path / "backup")
    with archive.serving() as port:
        assert "a server runs with this configuration: stop it first" in archive(
            "restore", tmp_path / "backup", status=2
        )
        examine(port, contents)
    assert "the archive is not empty" in archive("restore", tmp_path / "backup", status=2)
    archive.require(contents, 90)


@pytest.mark.parametrize("kind", KINDS)
def test_a_backup_under_load_has_all_that_was_acknowledged_before(new, tmp_path: Path, kind: str):
    """While instances arrive, are replaced and deleted: each in the version acknowledged before, or a later one."""
    source, target, ledger = new(kind), new(kind), Ledger()
    with source.serving(**{"storage.duplicates": "replace"}) as port:
        deleted = Sender(ledger, port, "deleted", SMALL[:4])
        assert eventually(lambda: ledger.answers[0] > 30)
        stop_all([deleted])
        senders = [Sender(ledger, port, f"{number}", SMALL[:4], replaces=True) for number in range(3)]
        study = ledger.studies()[0]
        ledger.begin_deleting(study)
        deletion = Site(source.files.parent, source.url).delete(study)
        while deletion.poll() is None:
            kept = {uid: ledger.allowed(uid)[0] for uid in set(ledger.acknowledged)}
            source("backup", tmp_path / "backup")
        stop_all(senders)
    assert deletion.returncode == 0
    target("restore", tmp_path / "backup")
    assert "no problems" in target("fsck")
    with target.serving() as port:
        found = examining.received(port, {ledger.sent[each].study for each in kept})
    for uid, digest in kept.items():
        later = ledger.digests[uid][ledger.digests[uid].index(digest) :]
        assert found[uid] in later
