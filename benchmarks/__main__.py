"""`python -m benchmarks`: measure this archive and other servers on this machine, and print a table of the results."""

import argparse
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import chart, report
from benchmarks.associations import idle, setup
from benchmarks.bench import Bench, Row, say
from benchmarks.client import RequestFailed
from benchmarks.convert import convert
from benchmarks.find import find
from benchmarks.ingest import raw, storescu
from benchmarks.memory import memory
from benchmarks.million import million
from benchmarks.move import move
from benchmarks.peers import SYSTEMS
from benchmarks.processes import NotRunning
from benchmarks.report import Report
from benchmarks.workers import workers

Family = Callable[[Bench], Iterator[Row]]

FAMILIES: dict[str, Family] = {
    "storescu": storescu,
    "ingest": raw,
    "find": find,
    "move": move,
    "convert": convert,
    "setup": setup,
    "idle": idle,
    "workers": workers,
    "memory": memory,
    "million": million,
}
"""All measurements by their name for `--only`."""

LARGE = ("memory", "million")
"""Measurements that need minutes and gigabytes; they run with --large, if named with --only, or small with --quick."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that the started processes are ended
    bench = Bench(
        runs=options.runs or (1 if options.quick else 5),
        quick=options.quick,
        chosen=options.systems or tuple(SYSTEMS),
        settings=options.set,
        parent=options.folder,
    )
    large = options.large or options.quick
    names = options.only or [name for name in FAMILIES if large or name not in LARGE]
    rows: list[Row] = []
    failed = [name for name in names if not _run_family(FAMILIES[name], bench, rows)]
    command = shlex.join(["python", "-m", "benchmarks", *(sys.argv[1:] if arguments is None else arguments)])
    _write(Report(rows, command, options.quick), options)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def _run_family(family: Family, bench: Bench, rows: list[Row]) -> bool:
    """Add the rows of a measurement, also of one that fails; return whether it succeeded."""
    try:
        rows.extend(family(bench))
    except (NotRunning, RequestFailed, OSError, subprocess.SubprocessError) as error:
        say(f"{family.__name__} failed: {error}")
        return False
    return True


def _write(written: Report, options: argparse.Namespace) -> None:
    if options.json:
        sys.stdout.write(report.as_json(written))
    elif sys.stdout.isatty():
        report.show(written)
    else:
        sys.stdout.write(report.markdown(written))
    if options.out:
        content = report.as_json(written) if options.out.suffix == ".json" else report.markdown(written)
        options.out.write_text(content, encoding="utf-8")
    if options.chart:
        options.chart.write_text(chart.svg(written.rows), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition(": ")[2])
    add = parser.add_argument
    add("--quick", action="store_true", help="use small loads and one run, to test the benchmarks themselves")
    add("--large", action="store_true", help=f"also measure {' and '.join(LARGE)}: 2 GB instances, 1,000,000 studies")
    add(
        "--only",
        nargs="+",
        choices=FAMILIES,
        metavar="NAME",
        help=f"measurements to run: {', '.join(FAMILIES)} (default: all but the large ones)",
    )
    add(
        "--systems",
        nargs="+",
        choices=SYSTEMS,
        metavar="NAME",
        help=f"servers to measure: {', '.join(SYSTEMS)} (default: all that are installed)",
    )
    add("--runs", type=_positive, help="number of interleaved runs (default: 5; 1 with --quick)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="setting of this archive, as for `pacs serve`; may be given several times",
    )
    add("--folder", type=Path, default=Path(tempfile.gettempdir()), help="folder for all data, on a real disk")
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--out", type=Path, metavar="FILE", help="also write the table to FILE; JSON if it ends in .json")
    add("--chart", type=Path, metavar="FILE", help="draw the medians in FILE as SVG")
    return parser


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return int(text)


if __name__ == "__main__":
    main()
