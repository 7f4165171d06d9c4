"""A server that is killed under load, and started again: decisions 0030 and 0032."""

import hashlib
import random
import sqlite3
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

from benchmarks import data, wire
from benchmarks.client import Association, Refused
from tests.shell.test_daemon import process

KILLS = 3


class Sender:
    """Sends images on one association until the server is gone; what was answered with success is kept."""

    def __init__(self, port: int, size: str) -> None:
        self.acknowledged: dict[str, str] = {}
        self._port, self._size = port, size
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError, Refused), Association(self._port, "PACS") as association:
            for number, (uid, encoded) in enumerate(data.images(self._size, 10**6), 1):
                context, longest = association.accepted[0], association.longest_pdu
                association.store(wire.store_rq(context, uid, number % 65535 + 1, encoded, longest))
                self.acknowledged[uid] = hashlib.sha256(encoded).hexdigest()

    def join(self) -> dict[str, str]:
        """What was acknowledged, once the server is gone: UID -> digest."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.acknowledged


def stored(folder: Path) -> dict[str, str]:
    """The digests of the data sets of all instances in the index, by UID; every one's file has to be there."""
    with closing(sqlite3.connect(folder / "pacs.db")) as connection:
        rows = connection.execute("SELECT sop_instance_uid, file_key, data_offset FROM image").fetchall()
    return {
        uid: hashlib.sha256((folder / "files" / key).read_bytes()[offset:]).hexdigest() for uid, key, offset in rows
    }


def test_nothing_acknowledged_is_lost_and_nothing_stray_stays(tmp_path: Path):
    """Killed again and again at any moment: every acknowledged instance is there bit for bit, and files are rows."""
    acknowledged: dict[str, str] = {}
    for _ in range(KILLS):
        with process(tmp_path, stderr=None) as server:
            senders = [Sender(server.port, size) for size in ("9 kB", "9 kB", "512 kB")]
            time.sleep(random.uniform(0.1, 1.0))
            server.kill()
            server.wait(20)
        for sender in senders:
            acknowledged |= sender.join()
    with process(tmp_path, stderr=None) as server:
        found = stored(tmp_path)
        server.terminate()
        assert server.wait(20) == 0
    assert acknowledged
    assert acknowledged.items() <= found.items()
    files = tmp_path / "files"
    assert len(list(files.rglob("*.dcm"))) == len(found)
    assert [list((files / name).iterdir()) for name in ("incoming", "journal", "running")] == [[], [], []]
