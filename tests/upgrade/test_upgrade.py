"""Archives and backups of earlier versions: started, restored, upgraded and rolled back."""

import hashlib
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from pacs.archive import Archive
from pacs.config.sources import from_settings
from pacs.observability.events import Event, SchemaUpgraded
from tests.crash.servers import Site
from tests.databases import KINDS, postgres_database
from tests.upgrade import STATES, WITH_BACKUPS, Contents, checkout, unpack
from tests.upgrade.place import Place, examine

OBJECTS = "*/*/*/*/*.dcm"
SMALL = 1 << 20
"""Bytes of an instance that is synced by itself, not by the journal."""

RESTORED_BY_JOURNAL = ("230fff2", "892689e", "49f6a1d", "f5f5b75", "19a4496")
"""The states with a journal that today's code reads. The first journal was laid out otherwise, for a day."""


@pytest.fixture
def older(pacs, tmp_path: Path) -> Place:
    """An archive whose SQLite index has the first schema."""
    unpack("892689e", tmp_path)
    return Place(pacs, f"sqlite:///{tmp_path / 'stopped' / 'pacs.db'}", tmp_path / "stopped" / "files")


def after_power_cut(commit: str, folder: Path) -> None:
    """Give the killed archive the index that it had before, and empty the small files that are in its journal as well.

    An index without marker, of the first state, was synced with each commit, and loses nothing.
    """
    if (folder / "killed" / "files" / "running").exists():
        for path in (folder / "killed").glob("pacs.db*"):
            path.unlink()
        shutil.copyfile(folder / "stopped" / "pacs.db", folder / "killed" / "pacs.db")
    if commit in RESTORED_BY_JOURNAL:
        before = {path.name for path in (folder / "stopped" / "files").glob(OBJECTS)}
        for path in (folder / "killed" / "files").glob(OBJECTS):
            if path.name not in before and path.stat().st_size < SMALL:
                path.write_bytes(b"")


@pytest.mark.parametrize("commit", STATES)
@pytest.mark.parametrize("how", ["stopped", "killed", "after a power cut"])
def test_an_archive_of_every_earlier_version_serves(pacs, tmp_path: Path, commit: str, how: str):
    """After a clean stop, after SIGKILL, and after a power cut that took rows and small files: all are found."""
    contents = unpack(commit, tmp_path)
    if how == "after a power cut":
        after_power_cut(commit, tmp_path)
    kind = "stopped" if how == "stopped" else "killed"
    archive = Place(pacs, f"sqlite:///{tmp_path / kind / 'pacs.db'}", tmp_path / kind / "files")
    archive.require(contents[kind], 90)


@pytest.mark.parametrize(
    "command", ["ls studies", "import sent.json", "export out --all", "fsck", "backup out", "reindex"]
)
def test_a_command_does_not_upgrade_a_schema(older: Place, tmp_path: Path, command: str):
    """It names the command that does."""
    index = older.files.parent / "pacs.db"
    before = hashlib.sha256(index.read_bytes()).digest()
    words = [tmp_path / word if word in ("out", "sent.json") else word for word in command.split()]
    assert "the index has an older schema: run `pacs db upgrade`" in older(*words, status=1)
    assert hashlib.sha256(index.read_bytes()).digest() == before


def test_an_upgrade_is_announced(older: Place):
    """By `pacs db upgrade`, once."""
    assert "was upgraded from schema 20261121 to" in older("db", "upgrade")
    assert "already has schema" in older("db", "upgrade")


def test_a_server_that_upgrades_the_schema_logs_it(older: Place):
    """A second start has nothing to upgrade."""
    for number in (1, 0):
        seen: list[Event] = []
        settings = {"database.url": older.url, "files.url": str(older.files), "server.port": 0, "web.enabled": False}
        with Archive(from_settings(settings)) as archive:
            archive.events.subscribe(seen.append)
            archive.prepare()
        upgrades = [each for each in seen if isinstance(each, SchemaUpgraded)]
        assert [each.before for each in upgrades] == ["20261121"] * number


@pytest.mark.parametrize("commit", WITH_BACKUPS)
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def test_a_backup_of_every_earlier_version_is_restored(new, tmp_path: Path, commit: str, kind: str):
    """Into either database; a backup of the result is restored into the other one, and again nothing is missing."""
    contents = unpack(commit, tmp_path)["stopped"]
    for number, target in enumerate((kind, *(set(KINDS) - {kind}))):
        archive = new(target)
        archive("restore", tmp_path / "backup")
        assert "no problems" in archive("fsck")
        contents = archive.require(contents, 90 + number)
        shutil.rmtree(tmp_path / "backup")
        archive("backup", tmp_path / "backup")


# --- with the program of the earlier version ---------------------------------------------------------------------


class Earlier:
    """The `pacs` of an earlier version, on a database and a folder."""

    def __init__(self, commit: str, program: Path) -> None:
        self.program = program
        try:
            checkout(commit, program)
        except subprocess.CalledProcessError:
            pytest.skip(f"the history of the repository with {commit} is not here")

    def __call__(self, url: str, files: Path, *words: object, status: int = 0) -> str:
        """Run a command, check its exit status, and return what it printed."""
        site = Site(files.parent, url, program=self.program)
        done = subprocess.run(
            site.command(*words), cwd=self.program, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    def examine(self, url: str, files: Path, sent: Contents) -> None:
        """Serve, and compare what is found and returned."""
        server = Site(files.parent, url, program=self.program).start()
        try:
            examine(server.port, sent)
            assert server.stop() == 0
        finally:
            server.kill()


@pytest.fixture
def empty(request, tmp_path: Path):
    """Return the URL of a new database without schema."""
    with ExitStack() as stack:

        def url(kind: str, name: str) -> str:
            if kind == "sqlite":
                return f"sqlite:///{tmp_path / name}.db"
            return stack.enter_context(postgres_database(request.getfixturevalue("postgres_server")))

        yield url


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("commit", WITH_BACKUPS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_version_is_upgraded_and_rolled_back(pacs, empty, tmp_path: Path, commit: str, kind: str):
    """As docs/howto/upgrade.md says: by `pacs db upgrade`; back by the earlier backup, and by the earlier reindex."""
    contents, earlier = unpack(commit, tmp_path)["stopped"], Earlier(commit, tmp_path / "program")
    url, files = empty(kind, "first"), tmp_path / "first" / "files"
    if kind == "postgresql":
        earlier(url, files, "db", "upgrade")
    earlier(url, files, "restore", tmp_path / "backup")
    earlier.examine(url, files, contents)
    archive = Place(pacs, url, files)
    archive("db", "upgrade")
    archive("check", "--set", "server.port=0")
    more = archive.require(contents, 90)

    other, restored = empty(kind, "second"), tmp_path / "second" / "files"
    rebuilt = empty(kind, "third")
    if kind == "postgresql":
        earlier(other, restored, "db", "upgrade")
        earlier(rebuilt, files, "db", "upgrade")
    earlier(other, restored, "restore", tmp_path / "backup")
    earlier.examine(other, restored, contents)
    earlier(rebuilt, files, "reindex")
    earlier.examine(rebuilt, files, more)


@pytest.mark.long
def test_an_earlier_version_refuses_a_newer_schema(pacs, empty, tmp_path: Path):
    """And today's version an older one on PostgreSQL; both name the command."""
    unpack("892689e", tmp_path)
    earlier = Earlier("892689e", tmp_path / "program")
    url, files = empty("postgresql", ""), tmp_path / "new" / "files"
    earlier(url, files, "db", "upgrade")
    earlier(url, files, "restore", tmp_path / "backup")
    archive = Place(pacs, url, files)
    assert "pacs db upgrade" in archive("serve", "--port", "0", status=1)
    archive("db", "upgrade")
    earlier(url, files, "serve", "--port", "0", status=1)
