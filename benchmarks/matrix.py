"""`python -m benchmarks.matrix`: the conformance run against this archive and three others, as `docs/matrix.md`.

Each that is installed is started on loopback as for the benchmarks, one after the other: as it ships, but that the
receiver of the run is listed as a move destination, and that longer PDUs and everybody's queries are taken.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import peers
from benchmarks.peers import SINK, Site
from benchmarks.processes import free_port, program
from pacs import __version__
from pacs.conformance.checks import Column, Peer, Specimens, examine
from pacs.conformance.checks.printing import markdown, totals

TEXT = Path(__file__).with_name("matrix.md")
"""How the matrix is read; what is in braces is filled in."""

RECEIVER = SINK
"""Our AE title: the benchmarks' systems know it as a move destination."""

SYSTEMS = {
    "pacs": ("pacs", ()),
    "pacs, strict": ("pacs", ("query.manner=strict",)),
    "Orthanc": ("orthanc", ()),
    "dcmqrscp": ("dcmqrscp", ()),
    "qrscp": ("qrscp", ()),
}
"""The columns: how the benchmarks call the system, and its settings."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Examine the systems and write the matrix."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.matrix", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=Path("docs/matrix.md"), help="where the matrix goes")
    parser.add_argument("--system", action="append", choices=SYSTEMS, help="only this one; several times")
    asked = parser.parse_args(arguments)
    chosen = [name for name in asked.system or SYSTEMS if peers.is_installed(SYSTEMS[name][0])]
    asked.output.write_text(_document({name: _examined(name) for name in chosen}), "utf-8")


def _examined(name: str) -> Column:
    """What came of the checks on one system."""
    system, settings = SYSTEMS[name]
    folder, port = Path(tempfile.mkdtemp(prefix="matrix-")), free_port()
    try:
        with peers.SYSTEMS[system](Site(folder / system, port, settings)) as running:
            peer = Peer(running.ae_title, "127.0.0.1", running.port, calling=RECEIVER)
            column = examine(peer, Specimens(), (RECEIVER, port))
    finally:
        shutil.rmtree(folder)
    print(f"{name}: {totals(column)}", file=sys.stderr)
    return column


def _document(columns: dict[str, Column]) -> str:
    """The text of the page."""
    versions = ", ".join(dict.fromkeys(_version(SYSTEMS[name][0]) for name in columns))
    table = markdown(list(columns.values()), list(columns))
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return TEXT.read_text("utf-8").format(date=date, versions=versions, matrix=table)


def _version(system: str) -> str:
    """A system and its version, as it says it itself."""
    if system == "pacs":
        return f"pacs {__version__}"
    if system == "qrscp":
        return f"pynetdicom's qrscp {version('pynetdicom')}"
    said = subprocess.run([str(program(peers.NEEDS[system])), "--version"], capture_output=True, text=True, check=False)
    words = said.stdout.replace("$dcmtk:", "DCMTK's").split()
    return f"Orthanc {words[1]}" if system == "orthanc" else " ".join(words[:3])


if __name__ == "__main__":
    main()
