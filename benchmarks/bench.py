"""Settings and result rows of all measurements, and the interleaved runs."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar, cast

from benchmarks import peers, processes
from benchmarks.client import RequestFailed
from benchmarks.peers import Site, System
from benchmarks.processes import NotRunning
from benchmarks.results import Cell, Results


class Better(Enum):
    """Whether higher or lower values are better."""

    MORE = "more"
    LESS = "less"


@dataclass(frozen=True)
class Line:
    """The subject of a row of the table. `key` names it in goals and in JSON."""

    key: str
    title: str
    unit: str
    better: Better


@dataclass
class Row:
    """The values of one line by system, one for each run; notes by system; systems with an easier load."""

    line: Line
    values: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    eased: frozenset[str] = frozenset()

    def median(self, system: str) -> float | None:
        """Return the median of the runs of a system, None without a run."""
        values = self.values.get(system)
        return median(values) if values else None


Made = TypeVar("Made")

Measure = Callable[["Archive", int], Sequence[float]]
"""Measures a system in one run; returns one value for each line."""


class Archive:
    """A system that starts when it is first needed, and can be begun again with an empty archive."""

    def __init__(self, name: str, folder: Path, start: Callable[[], AbstractContextManager[System]]) -> None:
        self.name = name
        self._prepared: dict[str, object] = {}
        self._folder, self._start = folder, start
        self._stack = ExitStack()
        self._system: System | None = None

    @property
    def system(self) -> System:
        """The running system."""
        if self._system is None:
            self._system = self._stack.enter_context(self._start())
        return self._system

    def once(self, what: str, prepare: Callable[[System], Made]) -> Made:
        """Return what a preparation makes of the system, which is done once for each archive."""
        if what not in self._prepared:
            self._prepared[what] = prepare(self.system)
        return cast("Made", self._prepared[what])

    def settled(self) -> System:
        """Return the running system once its worker processes have started: it listens before."""
        self.once("settled", _wait_until_idle)
        return self.system

    def size(self) -> int:
        """Return the bytes that it has on the disk."""
        if self._system is None:
            return 0
        return sum(entry.stat().st_size for entry in self._folder.rglob("*") if entry.is_file())

    def close(self) -> None:
        """End the system and remove its folder; the next use begins with an empty archive."""
        self._stack.close()
        self._system = None
        self._prepared.clear()
        discard(self._folder)


LEAST_FREE = 20 * 10**9
"""With fewer free bytes on the disk, folders are removed at once."""

_discarded: list[Path] = []


def discard(folder: Path) -> None:
    """Remove a folder at the end: after many files were removed, ext4 creates files slowly for minutes."""
    if not folder.exists():
        return
    if shutil.disk_usage(folder).free < LEAST_FREE:
        shutil.rmtree(folder, ignore_errors=True)
        return
    target = Path(tempfile.mkdtemp(prefix="pacs-benchmark-removed-", dir=folder.parent))
    folder.rename(target / folder.name)
    _discarded.append(target)


def remove_discarded() -> None:
    """Remove all folders that were discarded."""
    while _discarded:
        shutil.rmtree(_discarded.pop(), ignore_errors=True)


@dataclass(frozen=True)
class Sustained:
    """How long stores are measured, of which shapes, on how many associations."""

    shapes: Sequence[str] = ("one-a-study", "ct-512kB")
    associations: Sequence[int] = (1, 4)
    seconds: float = 30.0
    warm_up: float = 5.0


@dataclass(frozen=True)
class Bench:
    """The settings of one invocation."""

    runs: int = 5
    quick: bool = False
    chosen: Sequence[str] = tuple(peers.SYSTEMS)
    settings: Sequence[str] = ()
    parent: Path = Path(tempfile.gettempdir())
    results: Results | None = None
    sustained: Sustained = Sustained()
    subset: bool = False
    """Measure only the most telling cells."""

    def of(self, usual: int, quick: int) -> int:
        """Return the size of a load, depending on --quick."""
        return quick if self.quick else usual

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Make a folder, and discard it at the end."""
        path = Path(tempfile.mkdtemp(prefix="pacs-benchmark-", dir=self.parent))
        path.chmod(0o755)  # PostgreSQL runs as another user
        try:
            yield path
        finally:
            discard(path)

    @contextmanager
    def archives(
        self, *names: str, encrypted: bool = False, uncompressed: bool = False, settings: Sequence[str] = ()
    ) -> Iterator[list[Archive]]:
        """Prepare those of these systems that were chosen and are installed; each starts at its first use.

        With `uncompressed` their move destinations accept only uncompressed transfer syntaxes. `settings` are what a
        load needs in the configuration of this archive.
        """
        with (
            self.folder() as folder,
            peers.destinations(folder, uncompressed=uncompressed) as (sink_port, far_port),
            ExitStack() as stack,
        ):
            certificate = peers.make_certificate(folder) if encrypted else None
            sites = {
                name: Site(folder / name, sink_port, (*settings, *self.settings), far_port, certificate)
                for name in self.installed(names)
            }
            archives = [Archive(name, site.folder, partial(peers.SYSTEMS[name], site)) for name, site in sites.items()]
            for each in archives:
                stack.callback(each.close)
            yield archives

    def installed(self, names: Sequence[str]) -> list[str]:
        """Return those of these systems that were chosen and are installed."""
        wanted = [name for name in names if name in self.chosen]
        for name in wanted:
            if not peers.is_installed(name):
                say(f"{name} is not installed")
        return [name for name in wanted if peers.is_installed(name)]

    def interleave(
        self,
        lines: Sequence[Line],
        systems: Sequence[Archive],
        measure: Measure,
        eased: Mapping[str, str] | None = None,
    ) -> list[Row]:
        """Measure each system in turn, once for each run. A system that fails is omitted from then on.

        `eased` are systems with an easier load than the others, and that load; they are not compared with this archive.
        """
        rows = [Row(line, notes=dict(eased or {}), eased=frozenset(eased or ())) for line in lines]
        failed: set[str] = set()
        for run in range(self.runs):
            for system in systems:
                if system.name in failed:
                    continue
                cell = self._cell(lines, system, run, measure)
                if cell.failure:
                    failed.add(system.name)
                for row in rows:
                    _take(row, cell)
        return rows

    def _cell(self, lines: Sequence[Line], system: Archive, run: int, measure: Measure) -> Cell:
        """Return a finished cell of the results file, or measure it and add it there."""
        key = lines[0].key
        found = self.results.finished(key, system.name, run) if self.results else None
        say(f"{key}: run {run + 1} of {self.runs}, {system.name}{' (finished before)' if found else ''}")
        if found:
            return found
        os.sync()
        try:
            values = measure(system, run)
        except (OSError, RequestFailed, NotRunning, subprocess.SubprocessError) as error:
            say(f"{system.name} failed: {error}")
            return Cell(system.name, run, {}, failure=str(error))
        cell = Cell(system.name, run, {line.key: value for line, value in zip(lines, values, strict=True)})
        if self.results:
            self.results.add(cell)
        return cell


def _wait_until_idle(system: System) -> None:
    """Wait until the system needs no processor time, at most some seconds."""
    used = -1.0
    for _ in range(20):
        before, used = used, processes.cpu_seconds(system.pid)
        if used == before:
            return
        time.sleep(0.25)


def _take(row: Row, cell: Cell) -> None:
    if cell.failure:
        row.notes[cell.system] = f"failed: {cell.failure}"
    else:
        row.values.setdefault(cell.system, []).append(cell.values[row.line.key])


def say(sentence: str) -> None:
    """Print progress on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {sentence}", file=sys.stderr, flush=True)
