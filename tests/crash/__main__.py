"""Kill the archive, cut its power, or take away its disk or database: `python -m tests.crash kills|cuts|faults`."""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
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
        "--archives", choices=kills.CAMPAIGNS, nargs="+", default=kills.OWN, help="Archives to kill; default: our own."
    )
    killing.add_argument("--minutes", type=float, default=float("inf"), help="Stop after so many minutes.")
    killing.add_argument("--lanes", type=int, default=os.cpu_count(), help="Archives at a time; default: one per core.")
    killing.add_argument(
        "--totals", type=Path, help="JSON file for the totals, written after each turn; kills in it are not repeated."
    )
    killing.add_argument("--seed", type=int, default=int(time.time()))
    cutting = chosen.add_parser("cuts", help="Power cuts at every point of the recorded disk operations.")
    cutting.add_argument(
        "--loads", choices=cuts.LOADS, nargs="+", default=[*cuts.LOADS], help="What is cut; default: everything."
    )
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
    folder = Path(tempfile.mkdtemp(prefix="pacs-crash-", dir=given.folder))
    status = {"kills": _kills, "cuts": _cuts, "faults": _faults}[given.what](given, folder)
    if status:
        kills.say(f"what was wrong can be examined in {folder}")
    else:
        shutil.rmtree(folder)
    return status


def _kills(given: argparse.Namespace, folder: Path) -> int:
    print(f"seed {given.seed}", file=sys.stderr)
    results = _read(given.totals)
    turns = kills.run_all(
        folder, given.archives, given.kills, results, seed=given.seed, minutes=given.minutes, lanes=given.lanes
    )
    for _ in turns:
        _write(given.totals, results)
        kills.say(f"{sum(each.kills.total() for each in results.values())} kills in all")
    print(f"{kills.steps(results)}\n\n{kills.totals(results)}")
    return int(not all(each.is_clean for name, each in results.items() if name in kills.OWN))


def _read(path: Path | None) -> dict[str, kills.Totals]:
    """Read the totals of earlier runs."""
    if path is None or not path.exists():
        return {}
    return {name: kills.Totals.of(values) for name, values in json.loads(path.read_text()).items()}


def _write(path: Path | None, results: Mapping[str, kills.Totals]) -> None:
    if path is not None:
        new = path.with_suffix(".new")
        new.write_text(json.dumps({name: vars(each) for name, each in results.items()}, indent=2) + "\n")
        new.rename(path)


def _cuts(given: argparse.Namespace, folder: Path) -> int:
    chosen = cuts.every_survival if given.one_in == 1 else cuts.one_in(given.one_in, given.seed)
    print(f"seed {given.seed}", file=sys.stderr)
    are_wrong = False
    for load in given.loads:
        results = cuts.run(
            folder,
            load,
            instances=given.instances,
            seconds=6,
            recoveries=given.recoveries if load in cuts.RECOVERED else 0,
            chosen=chosen,
            seed=given.seed,
            report=kills.say,
        )
        for name, result in results.items():
            print(f"\n{name}\n\n{result}", *result.worst, sep="\n", flush=True)
            are_wrong |= bool(result.worst)
    return int(are_wrong)


def _faults(given: argparse.Namespace, folder: Path) -> int:
    results = {}
    for number, name in enumerate(given.only or faults.FAULTS):
        own = folder / str(number)
        own.mkdir()
        results[name] = faults.run(own, name)
        kills.say(f"{name}: {results[name]}")
    print(faults.totals(results))
    return int(not all(each.resumed and not each.faults.total() for each in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
