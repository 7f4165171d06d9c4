"""Settings and result rows of all measurements, and the interleaved runs."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from statistics import median

from benchmarks import peers
from benchmarks.client import RequestFailed
from benchmarks.peers import System


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


Measure = Callable[[System, int], Sequence[float]]
"""Measures a system in one run; returns one value for each line."""


@dataclass(frozen=True)
class Bench:
    """The settings of one invocation."""

    runs: int = 5
    quick: bool = False
    chosen: Sequence[str] = tuple(peers.SYSTEMS)
    settings: Sequence[str] = ()
    parent: Path = Path(tempfile.gettempdir())

    def of(self, usual: int, quick: int) -> int:
        """Return the size of a load, depending on --quick."""
        return quick if self.quick else usual

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Make a folder, and remove it at the end."""
        path = Path(tempfile.mkdtemp(prefix="pacs-benchmark-", dir=self.parent))
        path.chmod(0o755)  # PostgreSQL runs as another user
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def systems(self, *names: str, uncompressed: bool = False) -> Iterator[list[System]]:
        """Run those of these systems that were chosen and are installed.

        With `uncompressed` their move destination accepts only uncompressed transfer syntaxes.
        """
        wanted = [name for name in names if name in self.chosen]
        for name in wanted:
            if not peers.is_installed(name):
                say(f"{name} is not installed")
        there = [name for name in wanted if peers.is_installed(name)]
        with self.folder() as folder, peers.systems(there, folder, self.settings, uncompressed) as started:
            yield started

    def interleave(
        self, lines: Sequence[Line], systems: Sequence[System], measure: Measure, eased: Mapping[str, str] | None = None
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
                say(f"{lines[0].key}: run {run + 1} of {self.runs}, {system.name}")
                os.sync()
                try:
                    values = measure(system, run)
                except (OSError, RequestFailed, subprocess.SubprocessError) as error:
                    failed.add(system.name)
                    say(f"{system.name} failed: {error}")
                    for row in rows:
                        row.notes[system.name] = f"failed: {error}"
                    continue
                for row, value in zip(rows, values, strict=True):
                    row.values.setdefault(system.name, []).append(value)
        return rows


def say(sentence: str) -> None:
    """Print progress on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {sentence}", file=sys.stderr, flush=True)
