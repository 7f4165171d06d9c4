"""`python -m benchmarks`: measure this archive and other servers on this machine, and print a table of the results."""

import argparse
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import chart, report
from benchmarks.associations import idle, setup
from benchmarks.bench import Bench, Row, Sustained, remove_discarded, say
from benchmarks.client import RequestFailed
from benchmarks.convert import convert
from benchmarks.find import find
from benchmarks.loaded import loaded
from benchmarks.memory import memory
from benchmarks.million import million
from benchmarks.peers import SYSTEMS
from benchmarks.processes import NotRunning
from benchmarks.report import Report
from benchmarks.results import Results
from benchmarks.retrieve import far, retrieve
from benchmarks.shapes import SHAPES
from benchmarks.storescu import storescu
from benchmarks.sustained import encrypted, sustained
from benchmarks.workers import workers

Family = Callable[[Bench], Iterator[Row]]

FAMILIES: dict[str, Family] = {
    "storescu": storescu,
    "sustained": sustained,
    "tls": encrypted,
    "find": find,
    "loaded": loaded,
    "retrieve": retrieve,
    "far": far,
    "convert": convert,
    "setup": setup,
    "idle": idle,
    "workers": workers,
    "memory": memory,
    "million": million,
}
"""All measurements by their name for `--only`."""

DEFAULT = ("storescu", "sustained", "find", "loaded", "retrieve", "far", "setup", "idle")
"""The measurements without options: the most telling cells of them end within 25 minutes."""

SUBSET = ("pacs", "pacs-4", "orthanc", "dcmqrscp", "limit", "sink")
"""The systems without options."""

EVERYTHING = Sustained(shapes=tuple(SHAPES), associations=(1, 4, 16))
"""The loads that --all stores."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that the started processes are ended
    bench = _bench(options)
    names = options.only or [name for name in FAMILIES if options.all or options.quick or name in DEFAULT]
    rows: list[Row] = []
    try:
        failed = [name for name in names if not _run_family(FAMILIES[name], bench, rows)]
    finally:
        remove_discarded()
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


def _bench(options: argparse.Namespace) -> Bench:
    """Return the settings for these options; those that change a measurement are told in the results file."""
    extent = EVERYTHING if options.all else Sustained()
    subset = not (options.all or options.only or options.quick)
    given = {name: getattr(options, name) for name in ("shapes", "associations", "seconds", "warm_up")}
    quick = {"seconds": 0.5, "warm_up": 0.1} if options.quick else {}
    extent = replace(extent, **quick | {name: value for name, value in given.items() if value is not None})
    same = {"quick": options.quick, "set": options.set, "seconds": extent.seconds, "warm_up": extent.warm_up}
    return Bench(
        runs=options.runs or (1 if options.quick else 2 if subset else 5),
        quick=options.quick,
        chosen=options.systems or (SUBSET if subset else tuple(SYSTEMS)),
        settings=options.set,
        parent=options.folder,
        results=Results(options.results, same, options.again),
        sustained=extent,
        subset=subset,
    )


def _write(written: Report, options: argparse.Namespace) -> None:
    if sys.stdout.isatty():
        report.show(written)
    else:
        sys.stdout.write(report.markdown(written))
    if options.out:
        options.out.write_text(report.markdown(written), encoding="utf-8")
    if options.chart:
        options.chart.write_text(chart.svg(written.rows), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition(": ")[2])
    add = parser.add_argument
    add("--quick", action="store_true", help="use small loads and one run, to test the benchmarks themselves")
    add("--all", action="store_true", help="measure everything: about 12 hours")
    add(
        "--only",
        nargs="+",
        choices=FAMILIES,
        metavar="NAME",
        help=f"measurements to run: {', '.join(FAMILIES)} (default: the most telling cells, in 25 minutes)",
    )
    add(
        "--systems",
        nargs="+",
        choices=SYSTEMS,
        metavar="NAME",
        help=f"servers to measure: {', '.join(SYSTEMS)}; default: all that are installed",
    )
    add(
        "--runs",
        type=_positive,
        help="number of interleaved runs (default: 5; 2 without --only and --all, 1 with --quick)",
    )
    add(
        "--shapes",
        nargs="+",
        choices=SHAPES,
        metavar="NAME",
        help=f"shapes to store: {', '.join(SHAPES)} (default: {', '.join(Sustained.shapes)})",
    )
    add(
        "--associations",
        nargs="+",
        type=_positive,
        metavar="N",
        help="numbers of associations that store (default: 1 4)",
    )
    add("--seconds", type=float, help="seconds for which storing is measured (default: 30)")
    add("--warm-up", type=float, metavar="SECONDS", help="seconds of storing before (default: 5)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="setting of this archive, as for `pacs serve`; may be given several times",
    )
    add("--folder", type=Path, default=Path(tempfile.gettempdir()), help="folder for all data, on a real disk")
    add(
        "--results",
        type=Path,
        default=Path("benchmarks.jsonl"),
        metavar="FILE",
        help="file that has each finished cell as a line of JSON; an interrupted run goes on (default: %(default)s)",
    )
    add("--again", action="store_true", help="measure again what the results file has")
    add("--out", type=Path, metavar="FILE", help="also write the table to FILE")
    add("--chart", type=Path, metavar="FILE", help="draw the medians in FILE as SVG")
    return parser


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return int(text)


if __name__ == "__main__":
    main()
