"""Archives and backups of earlier versions, written by those versions.

`python -m tests.upgrade COMMIT...` checks each commit out into a temporary folder and runs its `pacs`, with the
libraries of today. It is done once for a state of the repository that writes files, journal, markers, index or backups
differently; what it wrote is not changed afterwards. `archives/COMMIT.tar.xz` contains:

- `stopped/`: the folder of an archive on SQLite after a clean stop;
- `killed/`: the same with more instances, after SIGKILL: with a journal, a marker and an index that were in use;
- `backup/`: a backup of the first one, if the commit has `pacs backup`;
- `sent.json`: study and SHA-256 of the data set of each instance in `stopped` and `killed`.
"""

import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ARCHIVES = Path(__file__).parent / "archives"

STATES = {
    "a862ef7": "schema 20261121, every file synced",
    "5feba4f": "schema 20261121, markers of running servers",
    "c7371da": "schema 20261121, first journal",
    "239a0ba": "schema 20261121, workers",
    "230fff2": "schema 20261121, second journal",
    "892689e": "schema 20261121, first backups",
    "49f6a1d": "schema 20261124, storage commitments",
    "f5f5b75": "schema 20261124, before the modules were moved",
    "19a4496": "schema 20261124, before keys grew in spite of the clock",
}
"""The states of the repository: commit, and what is new in its archives."""

WITH_BACKUPS = ("892689e", "49f6a1d", "f5f5b75", "19a4496")


@dataclass(frozen=True)
class Sent:
    """An instance in an archive."""

    study: str
    digest: str


Contents = dict[str, Sent]
"""Instances by SOP Instance UID."""


def checkout(commit: str, folder: Path) -> None:
    """Check a commit out into a new folder. Raises CalledProcessError where the history is not there."""
    folder.mkdir()
    written = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "x"], cwd=folder, input=written, check=True)


def unpack(commit: str, folder: Path) -> dict[str, Contents]:
    """Unpack what a commit wrote, and return the instances in `stopped` and `killed`."""
    with tarfile.open(ARCHIVES / f"{commit}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    said = json.loads((folder / "sent.json").read_text())
    return {kind: {uid: Sent(*each) for uid, each in sent.items()} for kind, sent in said.items()}
