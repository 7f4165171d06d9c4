"""Let the wall clock jump at each step of ingest, storage commitment and recovery: `python -m tests.clock`."""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.clock import matrix

DATABASES = list(dict.fromkeys(database for database, _ in matrix.ARCHIVES))


def main(words: Sequence[str]) -> int:
    """Make every jump at every step and print the totals; return 1 when something went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.clock", description=__doc__)
    parser.add_argument("--folder", type=Path, help="Folder to work in; default: a temporary folder.")
    parser.add_argument(
        "--database", choices=DATABASES, action="append", help="Default: all; may be given several times."
    )
    given = parser.parse_args(words)
    results = {}
    with tempfile.TemporaryDirectory(prefix="pacs-clock-", dir=given.folder) as folder:
        for database, workers in matrix.ARCHIVES:
            if database in (given.database or DATABASES):
                name = f"{database}, {workers} worker{'s' * (workers > 1)}"
                own = Path(folder) / name
                own.mkdir()
                results[name] = matrix.run(own, database, workers, report=_report)
    print(matrix.totals(results))
    return int(not all(map(matrix.is_clean, results.values())))


def _report(sentence: str) -> None:
    print(time.strftime("%H:%M:%S"), sentence, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
