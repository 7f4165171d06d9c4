"""`python -m benchmarks.history FILE CHART`: draw the figures of a results file over its commits, as SVG.

Each panel is one line of the table, each curve one system, each point the median of the runs at one commit. Only the
cells of one machine and of the same settings are comparable: those of the newest cell are drawn.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.chart import COLOURS, LINES
from benchmarks.report import number
from benchmarks.results import lines

History = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Medians by key, system and commit."""

WIDTH, HEIGHT, LEFT, TOP = 860, 150, 70, 30


def history(cells: Sequence[Mapping[str, Any]]) -> tuple[list[str], History]:
    """Return the commits in the order of their first cell, and the medians of all keys."""
    newest = cells[-1] if cells else {}
    same = [each for each in cells if all(each[name] == newest[name] for name in ("machine", "options"))]
    runs: dict[str, dict[str, dict[str, list[float]]]] = {}
    for each in same:
        for key, value in each["values"].items():
            runs.setdefault(key, {}).setdefault(each["system"], {}).setdefault(each["commit"], []).append(value)
    medians = {
        key: {system: {commit: median(values) for commit, values in of.items()} for system, of in systems.items()}
        for key, systems in runs.items()
    }
    return list(dict.fromkeys(each["commit"] for each in same)), medians


def svg(commits: Sequence[str], medians: History, keys: Sequence[str]) -> str:
    """Return a chart with a panel for each key that was measured."""
    shown = [key for key in keys if key in medians]
    drawn = [part for place, key in enumerate(shown) for part in _panel(key, medians[key], commits, place * HEIGHT)]
    style = "text{font:12px system-ui,sans-serif;fill:#333}.head{font-weight:600}"
    height = HEIGHT * max(1, len(shown)) + 20
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">'
    background = f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
    return "\n".join([opening, f"<style>{style}</style>", background, *drawn, "</svg>"]) + "\n"


def _panel(key: str, systems: Mapping[str, Mapping[str, float]], commits: Sequence[str], top: int) -> Iterator[str]:
    highest = max(value for of in systems.values() for value in of.values()) or 1
    width, height = WIDTH - LEFT - 150, HEIGHT - TOP - 34
    xs = {commit: LEFT + width * (place + 0.5) / len(commits) for place, commit in enumerate(commits)}
    bottom = top + TOP + height
    yield f'<text class="head" x="10" y="{top + 18}">{escape(key)}</text>'
    yield f'<text x="{LEFT - 8}" y="{top + TOP + 8}" text-anchor="end">{number(highest)}</text>'
    yield f'<line x1="{LEFT}" x2="{LEFT + width}" y1="{bottom}" y2="{bottom}" stroke="#bbb"/>'
    for commit, x in xs.items():
        yield f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{escape(commit[:10])}</text>'
    for place, (system, of) in enumerate(systems.items()):
        colour = COLOURS.get(system, "#333")
        points = [(xs[each], bottom - height * of[each] / highest) for each in commits if each in of]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)
        last = number(next(of[each] for each in reversed(commits) if each in of))
        yield f'<text x="{WIDTH - 140}" y="{top + TOP + 12 + 15 * place}" style="fill:{colour}">{system} {last}</text>'


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the chart."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.history", description=(__doc__ or "").partition(": ")[2].partition("\n")[0]
    )
    parser.add_argument("file", type=Path, help="results file of `python -m benchmarks`")
    parser.add_argument("chart", type=Path, help="file for the chart")
    parser.add_argument(
        "--keys", nargs="+", default=LINES, metavar="KEY", help="lines to draw (default: the most telling)"
    )
    options = parser.parse_args(arguments)
    options.chart.write_text(svg(*history(list(lines(options.file))), options.keys), encoding="utf-8")


if __name__ == "__main__":
    main()
