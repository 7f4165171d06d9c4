"""An archive in the tests of upgrades and restores: commands on it, a server on it, and what it has to contain."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pacs.testing import serving
from tests import raw
from tests.crash.client import SERIES_INSTANCE_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, associated
from tests.index.instances import dataset
from tests.upgrade import Contents, Sent

PATIENT_ID = (0x0010, 0x0020)


@dataclass
class Place:
    """A database and a folder for files."""

    run: Any
    """Runs `pacs` in this process."""
    url: str
    files: Path

    def __call__(self, *words: object, status: int = 0) -> str:
        """Run a command of `pacs` on it, check the exit status, and return what it printed."""
        result = self.run(*words, "--set", f"database.url={self.url}", "--set", f"files.url={self.files}")
        assert result.exit_code == status, (result.stdout, result.stderr)
        return str(result.stdout + result.stderr)

    @contextmanager
    def serving(self, **settings: object) -> Iterator[int]:
        """Run a server on it, and yield the port."""
        chosen = {"database.url": self.url, "files.url": str(self.files), **settings}
        with serving(self.files.parent, chosen) as server:
            yield server.port

    def require(self, sent: Contents, number: int) -> Contents:
        """Check that a server finds and returns exactly these instances, and stores another one; return all."""
        with self.serving() as port:
            examine(port, sent)
            more = sent | store_next(port, number)
            examine(port, more)
        assert "no problems" in self("fsck")
        return more


def examine(port: int, sent: Contents) -> None:
    """Find the instances at each level, and compare the bytes of each with what was sent."""
    with associated(port, retrieves=True) as client:
        assert {each[PATIENT_ID] for each in client.find("PATIENT", {PATIENT_ID: ""})} == {"P1", ""}
        studies = {each[STUDY_INSTANCE_UID] for each in client.find("STUDY", {STUDY_INSTANCE_UID: ""})}
        assert studies == {each.study for each in sent.values()}
        for study in studies:
            expected = {uid: each.digest for uid, each in sent.items() if each.study == study}
            keys = {STUDY_INSTANCE_UID: study, SERIES_INSTANCE_UID: ""}
            series = [each[SERIES_INSTANCE_UID] for each in client.find("SERIES", keys)]
            images = [keys | {SERIES_INSTANCE_UID: each, SOP_INSTANCE_UID: ""} for each in series]
            found = [each[SOP_INSTANCE_UID] for image in images for each in client.find("IMAGE", image)]
            assert sorted(found) == sorted(expected)
            assert client.get(study) == expected


def store_next(port: int, number: int) -> Contents:
    """Store one more instance of a known series, and return it."""
    next_one = dataset(number, InstanceNumber=number)
    data = raw.encoded(next_one, raw.EXPLICIT)
    with associated(port) as client:
        assert client.store(next_one.SOPInstanceUID, data).status == 0
    return {str(next_one.SOPInstanceUID): Sent(str(next_one.StudyInstanceUID), hashlib.sha256(data).hexdigest())}
