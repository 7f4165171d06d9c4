"""Kill the archive, cut its power, or take away its disk or database: `python -m tests.crash kills|cuts|faults`."""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.crash import cuts, faults, kills


def main(words: Sequence[str]) -> int:
    """Run one of the harnesses and print its totals; return 1 when something was lost or wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--folder", type=Path, help="Folder to work in; default: a temporary folder.")
    chosen = parser.add_subparsers(dest="what", required=True)
    killing = chosen.add_parser("kills", help="SIGKILL under load, at any moment and at each step of storing.")
    killing.add_argument("--kills", type=int, default=60, help="Kills of each archive; default: 60.")
    killing.add_argument(
        "--only", choices=kills.CAMPAIGNS, action="append", help="Archive to test; may be given several times."
    )
    killing.add_argument(
        "--peer",
        choices=kills.PEERS,
        action="append",
        default=[],
        help="Other archive to test as well; may be given several times.",
    )
    killing.add_argument("--seed", type=int, default=int(time.time()))
    cutting = chosen.add_parser("cuts", help="Power cuts at every point of the recorded disk operations.")
    cutting.add_argument(
        "--instances", type=int, default=24, help="Instances sent by each of four senders; default: 24."
    )
    cutting.add_argument("--recoveries", type=int, default=6, help="Recoveries to record and cut; default: 6.")
    cutting.add_argument(
        "--one-in", type=int, default=1, help="Make one cut at every N-th point; 1 makes all cuts at all points."
    )
    cutting.add_argument("--seed", type=int, default=int(time.time()))
    failing = chosen.add_parser("faults", help="Full disk, read-only disk, missing database.")
    failing.add_argument(
        "--only", choices=faults.FAULTS, action="append", help="Fault to test; may be given several times."
    )
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="pacs-crash-", dir=given.folder) as folder:
        return {"kills": _kills, "cuts": _cuts, "faults": _faults}[given.what](given, Path(folder))


def _kills(given: argparse.Namespace, folder: Path) -> int:
    own = [each for each in kills.CAMPAIGNS if each not in kills.PEERS]
    names = given.only or [*own, *given.peer]
    print(f"seed {given.seed}", file=sys.stderr)
    results = {}
    for name in names:
        results[name] = kills.run(folder, name, given.kills, seed=given.seed, report=_report)
        print(f"\n{name}\n\n{results[name].steps()}\n\n{kills.totals({name: results[name]})}", flush=True)
    print(f"\n{kills.totals(results)}")
    return int(not all(kills.is_clean(each) for name, each in results.items() if name not in kills.PEERS))


def _cuts(given: argparse.Namespace, folder: Path) -> int:
    chosen = cuts.every_survival if given.one_in == 1 else cuts.one_in(given.one_in, given.seed)
    print(f"seed {given.seed}", file=sys.stderr)
    results = cuts.run(
        folder,
        instances=given.instances,
        seconds=6,
        recoveries=given.recoveries,
        chosen=chosen,
        seed=given.seed,
        report=_report,
    )
    for name, result in results.items():
        print(f"\n{name}\n\n{result}")
        print(*result.worst, sep="\n")
    return int(any(each.worst for each in results.values()))


def _faults(given: argparse.Namespace, folder: Path) -> int:
    results = {}
    for number, name in enumerate(given.only or faults.FAULTS):
        own = folder / str(number)
        own.mkdir()
        results[name] = faults.run(own, name)
        _report(f"{name}: {results[name]}")
    print(faults.totals(results))
    return int(not all(each.resumed and not each.faults.total() for each in results.values()))


def _report(sentence: str) -> None:
    print(time.strftime("%H:%M:%S"), sentence, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
