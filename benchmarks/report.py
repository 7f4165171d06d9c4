"""The results as a table with colours on a terminal, as Markdown when piped."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from benchmarks.bench import Better, Row
from benchmarks.goals import GoalResult, goal_results, ratio
from benchmarks.peers import PEERS, SYSTEMS
from benchmarks.results import machine
from benchmarks.workers import Best, best

HEADINGS = ("what", "unit")
AGAINST = "pacs ÷ best peer"


@dataclass(frozen=True)
class Report:
    """The results and the command that made them; a quick run has no goals."""

    rows: Sequence[Row]
    command: str
    quick: bool

    @property
    def goal_results(self) -> list[GoalResult]:
        """The results of the goals."""
        return [] if self.quick else goal_results(self.rows)

    @property
    def heading(self) -> list[str]:
        """The lines above the table."""
        small = ["Quick loads: they test the benchmarks, and are no measurement."] if self.quick else []
        how = "Medians of the runs (least–most); ↑ more is better, ↓ less is better."
        return [f"`{self.command}`", f"On {machine()}. {how}", *small]


Table = tuple[list[str], list[list[str]]]
"""The headings and the cells of a table."""


def results(rows: Sequence[Row]) -> Table:
    """Return medians, least and greatest values by system, and the ratio of this archive to the best peer."""
    rows = [row for row in rows if not _is_sustained(row)]
    names = [name for name in SYSTEMS if any(name in row.values for row in rows)]
    headings = [*HEADINGS, *names, *([AGAINST] if any(name in PEERS for name in names) else [])]
    return headings, [_cells(row, names)[: len(headings)] for row in rows]


def _is_sustained(row: Row) -> bool:
    return row.line.key.startswith(("sustained.", "tls."))


DETAILS = {
    "worst": "worst second",
    "p50": "p50, ms",
    "p99": "p99, ms",
    "longest": "longest, ms",
    "server": "server, CPU ms",
    "sender": "sender, CPU ms",
    "memory": "MB more",
}
"""The columns of stores that last, by the ends of the keys of their lines."""


def sustained(rows: Sequence[Row]) -> Table:
    """Return what was measured of stores that last: a line for each load and system."""
    by_key = {row.line.key: row for row in rows if _is_sustained(row)}
    loads = [row for key, row in by_key.items() if f"{key}.p50" in by_key]
    lines = [_load(row, name, by_key) for row in loads for name in SYSTEMS if name in row.values]
    return ["what", "system", "rate", *DETAILS.values(), "÷ Orthanc"], lines


def _load(row: Row, name: str, by_key: Mapping[str, Row]) -> list[str]:
    times = ratio(row, name, ["orthanc"]) if name != "orthanc" else None
    details = (by_key[f"{row.line.key}.{each}"].median(name) for each in DETAILS)
    return [
        row.line.title,
        name,
        f"{_spread(row.values[name])} {row.line.unit}",
        *("" if value is None else number(value) for value in details),
        "" if times is None else f"{number(times)} ×",
    ]


def _cells(row: Row, names: Iterable[str]) -> list[str]:
    times = ratio(row, "pacs", [name for name in PEERS if name in row.values])
    arrow = "↑" if row.line.better is Better.MORE else "↓"
    return [
        row.line.title,
        f"{row.line.unit} {arrow}",
        *(_spread(row.values.get(name, [])) for name in names),
        f"{number(times)} ×" if times is not None and isfinite(times) else "",
    ]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    middle = (
        sorted(values)[len(values) // 2] if len(values) % 2 else sum(sorted(values)[len(values) // 2 - 1 :][:2]) / 2
    )
    return number(middle) if len(values) == 1 else f"{number(middle)} ({number(min(values))}–{number(max(values))})"


def number(value: float) -> str:
    """Return a number with three significant digits and commas for thousands."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def notes(rows: Sequence[Row]) -> list[str]:
    """Return the notes on single cells, each once."""
    keys: dict[str, list[str]] = {}
    for row in rows:
        for name, note in row.notes.items():
            keys.setdefault(f"{name}: {note}", []).append(row.line.key)
    return [f"{note} ({_some(where)})" for note, where in keys.items()]


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys) if len(keys) <= 3 else f"{keys[0]} to {keys[-1]}, {len(keys)} rows"


def goals(judged: Sequence[GoalResult]) -> Table:
    """Return the table of goals."""
    return ["goal", "at least or at most", "aim", "measured", "reached"], [_goal(result) for result in judged]


def workers(found: Sequence[Best]) -> Table:
    """Return the table of the best number of workers."""
    headings = ["database", "load", "best number of workers", "÷ one worker"]
    return headings, [[each.database, each.load, str(each.workers), f"{number(each.times)} ×"] for each in found]


def _goal(result: GoalResult) -> list[str]:
    goal, unit = result.goal, " ×" if result.goal.is_ratio else ""
    reached = "aim" if result.aim_reached else "yes" if result.reached else "no"
    bound = f"{'at most' if goal.at_most else 'at least'} {goal.bound:g}{unit}"
    return [goal.title, bound, f"{goal.aim:g}{unit}" if goal.aim else "", f"{number(result.value)}{unit}", reached]


# --- writing -----------------------------------------------------------------------------------------------------


def _tables(report: Report) -> Iterator[Table]:
    """Yield the tables that have lines."""
    found, judged = best(report.rows), report.goal_results
    for table in (sustained(report.rows), results(report.rows), goals(judged), workers(found)):
        if table[1]:
            yield table


def markdown(report: Report) -> str:
    """Return the report as Markdown."""
    parts = [line for sentence in report.heading for line in (sentence, "")]
    parts += [line for table in _tables(report) for line in (*_markdown_table(table), "")][:-1]
    if notes(report.rows):
        parts += ["", *(f"- {note}" for note in notes(report.rows))]
    return "\n".join(parts) + "\n"


def _markdown_table(table: Table) -> list[str]:
    headings, cells = table
    return [_line(headings), _line(["---"] * len(headings)), *map(_line, cells)]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def show(report: Report) -> None:
    """Print the report on a terminal."""
    from rich.console import Console

    console = Console()
    for sentence in report.heading:
        console.print(sentence, markup=False, highlight=False)
    for table in _tables(report):
        console.print(_rich(table))
    for note in notes(report.rows):
        console.print(note, style="dim", markup=False, highlight=False)


def _rich(table: Table) -> object:
    from rich.table import Table as Rich

    headings, cells = table
    drawn = Rich(*headings)
    for row in cells:
        drawn.add_row(*row)
    return drawn
