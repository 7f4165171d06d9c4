"""A power cut after the wall clock was turned: every acknowledged instance is found after the next start."""

import shutil
import sqlite3
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from tests.clock.clock import HOUR, Clock
from tests.clock.matrix import EVERY_JUMP
from tests.crash.client import associated
from tests.crash.load import Instance, eventually, uid
from tests.crash.servers import Server, Site

STUDY = uid("study")


def store(server: Server, *names: str) -> dict[str, str]:
    """Store an instance of the study for each name; return the SHA-256 of the acknowledged ones by UID."""
    stored = {}
    with associated(server.port) as client:
        for name in names:
            instance = Instance(uid("instance", name), STUDY, 9_000, 0)
            data = instance.data
            assert client.store(instance.uid, data).status == 0
            stored[instance.uid] = sha256(data).hexdigest()
    return stored


def retrieved(server: Server) -> dict[str, str]:
    """Retrieve the study; return the SHA-256 of its instances by UID."""
    with associated(server.port, retrieves=True) as client:
        return client.get(STUDY)


class Log:
    """The log of an SQLite index, which is durable up to the moment at which this is made."""

    def __init__(self, site: Site) -> None:
        self._database = site.folder / "pacs.db"
        self._path = site.folder / "pacs.db-wal"
        self._durable = self._path.stat().st_size
        self._rows = self._count(site)

    def lose(self, site: Site) -> None:
        """Remove what was never synced, as a power cut may."""
        with self._path.open("r+b") as file:
            file.truncate(self._durable)
        site.folder.joinpath("pacs.db-shm").unlink(missing_ok=True)
        assert self._count(site) == self._rows

    def _count(self, site: Site) -> int:
        """Count the instances in a copy of the index."""
        copy = site.folder / "copy"
        copy.mkdir()
        for each in (self._database, self._path):
            shutil.copy(each, copy)
        with closing(sqlite3.connect(copy / "pacs.db")) as connection:
            found = int(connection.execute("SELECT count(*) FROM image").fetchone()[0])
        shutil.rmtree(copy)
        return found


@pytest.mark.parametrize("jump", [26 * HOUR, -26 * HOUR])
def test_nothing_acknowledged_is_lost_after_a_jump(tmp_path: Path, clock: Clock, jump: int):
    """Back and forward, and the other way round, on SQLite with two workers."""
    cut_after_jumps(Site(tmp_path, "", ("server.workers=2",), tmp_path / "log"), clock, jump)


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("jump", EVERY_JUMP)
def test_nothing_acknowledged_is_lost_after_any_jump(
    tmp_path: Path, clock: Clock, database_url: str, jump: int, workers: int
):
    """On both databases."""
    url = database_url if database_url.startswith("postgresql") else ""
    cut_after_jumps(Site(tmp_path, url, (f"server.workers={workers}",), tmp_path / "log"), clock, jump)


def cut_after_jumps(site: Site, clock: Clock, jump: int) -> None:
    """Turn the clock while the server runs, cut the power, and turn it again before the next start; then back."""
    acknowledged: dict[str, str] = {}
    for number, turn in enumerate((jump, -jump)):
        server = site.start(*clock.prefix)
        try:
            assert retrieved(server) == acknowledged
            acknowledged |= store(server, *(f"before {number} {each}" for each in range(3)))
            log = None if site.url else Log(site)
            clock.jump(turn)
            acknowledged |= store(server, *(f"after {number} {each}" for each in range(3)))
        finally:
            server.kill()
            assert eventually(server.is_gone)
        if log is not None:
            log.lose(site)
        clock.jump(turn)
    server = site.start(*clock.prefix)
    try:
        assert retrieved(server) == acknowledged
    finally:
        assert server.stop() == 0
    assert list((site.files / "running").iterdir()) == []
