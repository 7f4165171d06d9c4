"""Let the wall clock jump at each step of ingest, storage commitment and recovery: `python -m tests.clock`."""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.clock import matrix


def main(words: Sequence[str]) -> int:
    """Make every jump at every step and print the totals; return 1 when something went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.clock", description=__doc__)
    parser.add_argument("--folder", type=Path, help="Folder to work in; default: a temporary folder.")
    parser.add_argument(
        "--only", choices=matrix.ARCHIVES, action="append", help="Archive to test; may be given several times."
    )
    given = parser.parse_args(words)
    results = {}
    with tempfile.TemporaryDirectory(prefix="pacs-clock-", dir=given.folder) as folder:
        for number, name in enumerate(given.only or matrix.ARCHIVES):
            own = Path(folder) / str(number)
            own.mkdir()
            results[name] = matrix.run(own, name, report=_report)
    print(matrix.totals(results))
    return int(not all(map(matrix.is_clean, results.values())))


def _report(sentence: str) -> None:
    print(time.strftime("%H:%M:%S"), sentence, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
