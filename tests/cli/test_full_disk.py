"""Commands of upkeep on a disk that becomes full or read-only while they run: they end with a sentence, and leave an
archive in which they succeed afterwards.
"""

import os
import subprocess
from contextlib import contextmanager

import pytest

from pacs.testing import study, write
from tests.crash.faults import may_mount, mounted

STUDIES = [study(series=1, instances=12, number=number) for number in range(3)]

ROOMS = (0, 40, 300)
MORE_ROOMS = tuple(range(4, 800, 12))
"""KiB that are free when a command begins, so that it stops at different steps."""


class Site:
    """An archive on a small file system, and `pacs` with its settings."""

    def __init__(self, pacs, disk):
        self._pacs, self.disk = pacs, disk
        self.settings = {
            "files.url": disk / "files",
            "database.url": f"sqlite:///{disk}/pacs.db",
            "audit.file": disk / "audit",
            "limits.free_space": 0,
        }

    def __call__(self, *words):
        """Run a command."""
        chosen = [part for name, value in self.settings.items() for part in ("--set", f"{name}={value}")]
        return self._pacs(*(str(self.disk / "backup") if each == "BACKUP" else each for each in words), *chosen)

    def lose_index(self):
        """Remove the index: `fsck --repair` takes in all files again, and `reindex` builds it anew."""
        for each in self.disk.glob("pacs.db*"):
            each.unlink()

    @contextmanager
    def full(self, kibibytes):
        """Fill the file system but for some KiB in the `with` block."""
        filler, free = self.disk / "filler", os.statvfs(self.disk)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - (kibibytes << 10)))
        yield
        filler.unlink()


@pytest.fixture
def site(pacs, tmp_path, monkeypatch):
    """An archive of three studies."""
    if not may_mount():
        pytest.skip("this machine does not allow mounts")
    for module in ("fsck", "reindex"):
        monkeypatch.setattr(f"pacs.services.{module}.GRACE", 0)
    for number, each in enumerate(STUDIES):
        write(each, tmp_path / "in" / str(number))
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=32m", "pacs", disk):
        site = Site(pacs, disk)
        assert site("import", tmp_path / "in").exit_code == 0
        yield site


COMMANDS = {
    "delete": ("delete", f"StudyInstanceUID={STUDIES[2][0].StudyInstanceUID}", "--yes"),
    "fsck": ("fsck", "--repair"),
    "reindex": ("reindex",),
    "backup": ("backup", "BACKUP"),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("rooms", [ROOMS, pytest.param(MORE_ROOMS, marks=pytest.mark.long)], ids=["", "long"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_fills_the_disk_ends_with_a_sentence_and_succeeds_with_room(site, name, rooms):
    """Whichever step it stops at; it leaves nothing half-done."""
    stopped = 0
    for kibibytes in rooms:
        if name in ("fsck", "reindex"):
            site.lose_index()
        with site.full(kibibytes):
            stopped += is_stopped(site(*COMMANDS[name]))
    assert stopped
    check_afterwards(site, name)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_on_a_read_only_disk_ends_with_a_sentence_and_succeeds_when_it_is_writable(site, name):
    """The whole file system, as after an error of the disk."""
    with mounted("--bind", site.disk, site.disk):
        subprocess.run(["mount", "-o", "remount,bind,ro", site.disk], check=True)
        assert is_stopped(site(*COMMANDS[name]))
    check_afterwards(site, name)


def is_stopped(done):
    """Return whether a command ended with status 1 or 2; then it said why, in one line."""
    if done.exit_code == 0:
        return False
    assert done.exit_code in (1, 2)
    assert done.stderr.splitlines()[-1].startswith(("pacs: ", "Error: "))
    assert "Traceback" not in done.stderr
    return True


def check_afterwards(site, name):
    """Run the command again, with success, and find an archive without problems and without leftovers."""
    assert site(*COMMANDS[name]).exit_code == 0
    checked = site("fsck")
    expected = 24 if name == "delete" else 36
    assert (checked.exit_code, checked.stderr) == (0, f"{expected} instances, {expected} files: no problems\n")
    left = [each for folder in ("incoming", "upkeep") for each in (site.disk / "files" / folder).glob("*/*")]
    assert not left
    if name == "backup":
        restored = Site(site._pacs, site.disk / "restored")
        assert restored("restore", str(site.disk / "backup")).exit_code == 0
        assert restored("fsck").stderr.startswith("36 instances, 36 files: no problems")
