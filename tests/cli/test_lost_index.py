"""A server whose index is deleted or replaced while it runs, or whose disk is full: it refuses, and says why."""

import os
import re
import shutil
import sqlite3
from contextlib import ExitStack, closing

import pytest

from pacs.testing import study
from tests import raw
from tests.archives import identifier
from tests.cli.test_workers import CT, Client, stopped
from tests.waiting import eventually
from tests.web.answering import answering, numbers
from tests.web.test_health import is_ready, not_ready, readiness

PATIENCE = 60
WORKERS = [1, 4]


class Asking(Client):
    """An association that returns responses rather than statuses."""

    def stored(self, dataset):
        """Return status and Error Comment of a C-STORE."""
        uid = raw.element(0x1000, dataset.SOPInstanceUID.encode())
        self.send(raw.request(raw.C_STORE, 1, CT, 1, raw.encoded(dataset, raw.EXPLICIT), [uid]))
        answer = self.message()
        return answer.status, answer.text(0x0902)

    def asked(self):
        """Return status and Error Comment of a C-FIND."""
        self.send(
            raw.request(raw.C_FIND, 3, "1.2.840.10008.5.1.4.1.2.2.1", 2, identifier("STUDY", StudyInstanceUID=""))
        )
        answer = self.until_final()[-1]
        return answer.status, answer.text(0x0902)


def lose(folder, name, how):
    """Move a file of the index away, and put a copy in its place if it is to be replaced."""
    (folder / name).rename(folder / "away")
    if how == "replaced":
        shutil.copyfile(folder / "away", folder / name)


@pytest.mark.parametrize(
    ("workers", "name", "how"),
    [(1, "pacs.db", "gone"), (1, "pacs.db", "replaced"), (4, "pacs.db", "gone"), (4, "pacs.db-wal", "gone")],
)
def test_a_server_without_its_index_refuses_until_it_is_back(tmp_path, workers, name, how):
    """Stores and queries get A700 with the reason, /readyz 503; nothing is acknowledged into a deleted file."""
    datasets = iter(study(series=1, instances=2 + 4 * workers, size=8))
    words = ("--workers", str(workers))
    with answering(tmp_path, *words) as server, ExitStack() as stack:
        eventually(lambda: is_ready(server.web), PATIENCE)
        clients = [stack.enter_context(Asking(server.port)) for _ in range(2 * workers)]
        assert clients[0].stored(next(datasets)) == (0, "")
        lose(tmp_path, name, how)
        said = {client.stored(next(datasets)) for client in clients} | {client.asked() for client in clients}
        assert {status for status, _ in said} == {0xA700}
        assert all(("was replaced" if how == "replaced" else "is gone") in comment for _, comment in said), said
        eventually(lambda: not_ready(server.web, "database"), PATIENCE)
        eventually(lambda: numbers(server.web)["pacs_database_up"] == 0, PATIENCE)
        os.replace(tmp_path / "away", tmp_path / name)
        eventually(lambda: is_ready(server.web), PATIENCE)
        for client in clients:
            assert client.stored(next(datasets)) == (0, "")
        stack.close()
        _, log = stopped(server)
    assert "Traceback" not in log
    notices = re.findall("until then stores and queries are refused", log)
    assert 1 <= len(notices) <= workers
    with closing(sqlite3.connect(tmp_path / "pacs.db")) as connection:
        assert connection.execute("SELECT count(*) FROM image").fetchone() == (1 + 2 * workers,)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_server_is_not_ready_while_less_than_the_free_space_is_left(tmp_path, workers):
    """As stores are refused."""
    words = ("--workers", str(workers), "--set", f"limits.free_space={2**50}")
    with answering(tmp_path, *words) as server:
        with Asking(server.port) as client:
            (dataset,) = study(series=1, instances=1, size=8)
            status, comment = client.stored(dataset)
        assert (status, "limits.free_space" in comment) == (0xA700, True)
        _, said = readiness(server.web)
        assert "limits.free_space" in said["reasons"]["files"]
        eventually(lambda: numbers(server.web)["pacs_files_up"] == 0, PATIENCE)
