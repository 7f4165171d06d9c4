"""The table: on a terminal with colours, as Markdown where it is piped, as JSON for programs."""

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.bench import Better, Row
from benchmarks.goals import Verdict, ratio, verdicts
from benchmarks.peers import PEERS, SYSTEMS

HEADINGS = ("what", "unit")
AGAINST = "pacs ÷ best peer"

Table = tuple[list[str], list[list[str]]]
"""The headings and the cells of a table."""


def machine() -> str:
    """The kind of machine, without its name."""
    model = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "")
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    facts = (f"{os.cpu_count()} cores", model, f"{memory / 2**20:.0f} GB of memory", platform.system())
    return ", ".join(filter(None, (*facts, f"Python {platform.python_version()}")))


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def results(rows: Sequence[Row]) -> Table:
    """Medians, and the least and the most of the runs, by system; and how many times better this archive is."""
    names = [name for name in SYSTEMS if any(name in row.values for row in rows)]
    headings = [*HEADINGS, *names, *([AGAINST] if any(name in PEERS for name in names) else [])]
    return headings, [_cells(row, names)[: len(headings)] for row in rows]


def _cells(row: Row, names: Iterable[str]) -> list[str]:
    times = ratio(row, "pacs", [name for name in PEERS if name in row.values])
    arrow = "↑" if row.line.better is Better.MORE else "↓"
    return [
        row.line.title,
        f"{row.line.unit} {arrow}",
        *(_spread(row.values.get(name, [])) for name in names),
        f"{number(times)} ×" if times is not None else "",
    ]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    middle = (
        sorted(values)[len(values) // 2] if len(values) % 2 else sum(sorted(values)[len(values) // 2 - 1 :][:2]) / 2
    )
    return number(middle) if len(values) == 1 else f"{number(middle)} ({number(min(values))}–{number(max(values))})"


def number(value: float) -> str:
    """Three digits that count, thousands with commas."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def notes(rows: Sequence[Row]) -> list[str]:
    """What is to be said about single cells, each thing once."""
    keys: dict[str, list[str]] = {}
    for row in rows:
        for name, note in row.notes.items():
            keys.setdefault(f"{name}: {note}", []).append(row.line.key)
    return [f"{note} ({_some(where)})" for note, where in keys.items()]


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys) if len(keys) <= 3 else f"{keys[0]} to {keys[-1]}, {len(keys)} rows"


def goals(rows: Sequence[Row]) -> Table:
    """What was to be reached, and what was."""
    return ["goal", "bound", "measured", "reached"], [_goal(verdict) for verdict in verdicts(rows)]


def _goal(verdict: Verdict) -> list[str]:
    word, unit = ("at most", "") if verdict.goal.at_most else ("at least", " ×")
    reached = "yes" if verdict.reached else "no"
    return [verdict.goal.title, f"{word} {verdict.goal.bound:g}{unit}", f"{number(verdict.value)}{unit}", reached]


# --- writing -----------------------------------------------------------------------------------------------------


def markdown(rows: Sequence[Row]) -> str:
    """Everything as Markdown."""
    parts = [f"On {machine()}. Medians of the runs (least–most); ↑ more is better, ↓ less is better.", ""]
    parts += _markdown_table(results(rows))
    if verdicts(rows):
        parts += ["", *_markdown_table(goals(rows))]
    parts += ["", *(f"- {note}" for note in notes(rows))] if notes(rows) else []
    return "\n".join(parts) + "\n"


def _markdown_table(table: Table) -> list[str]:
    headings, cells = table
    return [_line(headings), _line(["---"] * len(headings)), *map(_line, cells)]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def as_json(rows: Sequence[Row]) -> str:
    """Everything as JSON, every run's value included."""
    found = [
        {**asdict(row.line), "better": row.line.better.value, "values": row.values, "notes": row.notes} for row in rows
    ]
    reached = [{"goal": each.goal.title, "value": each.value, "reached": each.reached} for each in verdicts(rows)]
    return json.dumps({"machine": machine(), "rows": found, "goals": reached}, indent=1, ensure_ascii=False) + "\n"


def show(rows: Sequence[Row]) -> None:
    """Everything on a terminal."""
    from rich.console import Console

    console = Console()
    console.print(machine())
    console.print(_rich(results(rows)))
    if verdicts(rows):
        console.print(_rich(goals(rows)))
    for note in notes(rows):
        console.print(note, style="dim", markup=False, highlight=False)


def _rich(table: Table) -> object:
    from rich.table import Table as Rich

    headings, cells = table
    drawn = Rich(*headings)
    for row in cells:
        drawn.add_row(*row)
    return drawn
