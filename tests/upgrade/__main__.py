"""Write the archives and the backup of some commits: `python -m tests.upgrade COMMIT...`."""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from pydicom import Dataset

from tests import raw
from tests.crash.client import associated
from tests.crash.servers import Site
from tests.index.archives import DATASETS
from tests.index.instances import dataset
from tests.upgrade import ARCHIVES, checkout
from tests.upkeep import series_of

LARGE = 600_000
"""Words of pixels of an instance that is too large for the journal."""


def main(commit: str) -> None:
    """Write archives and backup of a commit."""
    with tempfile.TemporaryDirectory(prefix="pacs-upgrade-") as name:
        program, data = Path(name, "program"), Path(name, "data")
        checkout(commit, program)
        data.mkdir()
        sent = _write(program, data)
        (data / "sent.json").write_text(json.dumps(sent, indent=1))
        with tarfile.open(ARCHIVES / f"{commit}.tar.xz", "w:xz") as archive:
            for path in sorted(data.iterdir()):
                archive.add(path, path.name)


def _write(program: Path, data: Path) -> dict[str, dict[str, tuple[str, str]]]:
    stopped, killed = (
        Site(data / each, settings=("storage.duplicates=replace",), program=program) for each in ("stopped", "killed")
    )
    large = dataset(11, BitsAllocated=16, PixelData=bytes(2 * LARGE))
    again = dataset(2, InstanceNumber=22, OtherPatientIDs=["X1", "X2"])
    server = stopped.start()
    sent = _send(server.port, [*DATASETS, large, again, *series_of(1, 2)])
    assert server.stop() == 0
    if (
        subprocess.run(stopped.command("backup", "--help"), cwd=program, capture_output=True, check=False).returncode
        == 0
    ):
        subprocess.run(stopped.command("backup", data / "backup"), cwd=program, check=True)
    shutil.copytree(stopped.folder, killed.folder)
    server = killed.start()
    try:
        more = _send(server.port, [*series_of(2, 3), dataset(12, BitsAllocated=16, PixelData=bytes(2 * LARGE))])
    finally:
        server.kill()
    return {"stopped": sent, "killed": sent | more}


def _send(port: int, datasets: list[Dataset]) -> dict[str, tuple[str, str]]:
    sent = {}
    with associated(port) as client:
        for each in datasets:
            data = raw.encoded(each, raw.EXPLICIT)
            assert client.store(each.SOPInstanceUID, data).status == 0
            sent[str(each.SOPInstanceUID)] = (str(each.StudyInstanceUID), hashlib.sha256(data).hexdigest())
    return sent


for each in sys.argv[1:]:
    main(each)
