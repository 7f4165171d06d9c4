"""The results file: one line of JSON for each finished cell, that is for each line, system and run.

A run that was interrupted goes on with the cells that the file lacks. Cells of another commit, of other settings or of
another machine are kept, for the history, and measured again.
"""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.processes import program

REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Cell:
    """The values of one system in one run, by the key of their line; none after a failure."""

    system: str
    run: int
    values: Mapping[str, float]
    failure: str = ""


@dataclass
class Results:
    """A results file, and what its finished cells have in common with those that are measured now."""

    path: Path
    options: Mapping[str, object] = field(default_factory=dict)
    again: bool = False
    """Measure finished cells again."""

    def __post_init__(self) -> None:
        same = {"commit": commit(), "machine": machine(), "options": dict(self.options)}
        self._same = json.loads(json.dumps(same))
        self._finished: dict[tuple[str, str, int], Cell] = {}
        for each in () if self.again else lines(self.path):
            if all(each.get(name) == value for name, value in self._same.items()):
                cell = Cell(each["system"], each["run"], each["values"])
                self._finished[next(iter(cell.values)), cell.system, cell.run] = cell

    def finished(self, key: str, system: str, run: int) -> Cell | None:
        """Return the finished cell whose first line has this key."""
        return self._finished.get((key, system, run))

    def add(self, cell: Cell) -> None:
        """Append a finished cell, and see that it is on the disk."""
        whole = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **self._same,
            "versions": versions(cell.system),
            "system": cell.system,
            "run": cell.run,
            "values": cell.values,
        }
        cut_off = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * cut_off + json.dumps(whole, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the cells of a file as they were written; one that was cut off by an interruption is omitted."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue


# --- what was measured, and where --------------------------------------------------------------------------------


@cache
def commit() -> str:
    """Return the commit, with a digest of what was changed since."""
    head = _output("git", "-C", str(REPOSITORY), "rev-parse", "--short=10", "HEAD") or "unknown"
    changed = _output("git", "-C", str(REPOSITORY), "diff", "HEAD", "--", "pacs", "benchmarks", "migrations")
    return f"{head}+{hashlib.sha256(changed.encode()).hexdigest()[:8]}" if changed else head


@cache
def versions(system: str) -> dict[str, str]:
    """Return the versions of Python and of the program of a system."""
    name = {"orthanc": "Orthanc", "dcmqrscp": "dcmqrscp"}.get(system.partition("-")[0])
    path = program(name) if name else None
    said = _output(path, "--version").splitlines()[:1] if path else []
    return {"python": platform.python_version(), **({str(name): said[0].strip()} if said else {})}


@cache
def machine() -> str:
    """Return a description of the machine, without its name."""
    model = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "")
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    facts = (f"{os.cpu_count()} cores", model, f"{memory / 2**20:.0f} GB of memory", platform.system())
    return ", ".join(filter(None, (*facts, f"Python {platform.python_version()}")))


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout.strip()
    except OSError:
        return ""
