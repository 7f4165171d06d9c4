"""`python -m benchmarks.matrix`: check this archive and three other servers, and write `docs/matrix.md`.

Each installed server is started on loopback, one after the other, with its default configuration, except that the
storage SCP of the checks is a known move destination, everybody may query, and longer PDUs are accepted.
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
from pacs.conformance.checks.association import CheckedServer
from pacs.conformance.checks.matrix import markdown, totals
from pacs.conformance.checks.runner import ServerResults, run_checks
from pacs.conformance.checks.sample_data import SampleData

TEXT = Path(__file__).with_name("matrix.md")
"""The template of the page."""

RECEIVER = SINK
"""Our AE title, which the servers of the benchmarks know as a move destination."""

SYSTEMS = {
    "pacs": ("pacs", ()),
    "pacs, strict": ("pacs", ("query.manner=strict",)),
    "Orthanc": ("orthanc", ()),
    "dcmqrscp": ("dcmqrscp", ()),
    "qrscp": ("qrscp", ()),
}
"""The columns: the name of the server in the benchmarks, and its settings."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Check the servers and write the matrix."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.matrix", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=Path("docs/matrix.md"), help="file to write")
    parser.add_argument(
        "--system", action="append", choices=SYSTEMS, help="check only this server; may be given several times"
    )
    options = parser.parse_args(arguments)
    chosen = [name for name in options.system or SYSTEMS if peers.is_installed(SYSTEMS[name][0])]
    options.output.write_text(_document({name: _check(name) for name in chosen}), "utf-8")


def _check(name: str) -> ServerResults:
    """Start a server and return the results of the checks."""
    system, settings = SYSTEMS[name]
    folder, port = Path(tempfile.mkdtemp(prefix="matrix-")), free_port()
    try:
        with peers.SYSTEMS[system](Site(folder / system, port, settings)) as running:
            peer = CheckedServer(running.ae_title, "127.0.0.1", running.port, calling=RECEIVER)
            column = run_checks(peer, SampleData(), (RECEIVER, port))
    finally:
        shutil.rmtree(folder)
    print(f"{name}: {totals(column)}", file=sys.stderr)
    return column


def _document(columns: dict[str, ServerResults]) -> str:
    """Return the page."""
    versions = ", ".join(dict.fromkeys(_version(SYSTEMS[name][0]) for name in columns))
    table = markdown(list(columns.values()), list(columns))
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return TEXT.read_text("utf-8").format(date=date, versions=versions, matrix=table)


def _version(system: str) -> str:
    """Return the name and version of a server as it reports them."""
    if system == "pacs":
        return f"pacs {__version__}"
    if system == "qrscp":
        return f"pynetdicom's qrscp {version('pynetdicom')}"
    said = subprocess.run([str(program(peers.NEEDS[system])), "--version"], capture_output=True, text=True, check=False)
    words = said.stdout.replace("$dcmtk:", "DCMTK's").split()
    return f"Orthanc {words[1]}" if system == "orthanc" else " ".join(words[:3])


if __name__ == "__main__":
    main()
