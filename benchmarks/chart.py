"""The chart as SVG: bars of the medians by system, with a panel for each line."""

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from benchmarks.bench import Better, Row
from benchmarks.peers import SYSTEMS
from benchmarks.report import number
from benchmarks.shapes import SHAPES

COLOURS = {
    "pacs": "#0b6e99",
    "pacs-1": "#0b6e99",
    "pacs-2": "#0b6e99",
    "pacs-4": "#0b6e99",
    "pacs-postgres": "#5aa9c7",
    "pacs-postgres-1": "#5aa9c7",
    "pacs-postgres-2": "#5aa9c7",
    "pacs-postgres-4": "#5aa9c7",
    "orthanc": "#b5651d",
    "orthanc-tuned": "#c98b4f",
    "orthanc-db": "#d9a066",
    "orthanc-gdcm": "#c98b4f",
    "dcmqrscp": "#7a7a7a",
    "qrscp": "#b0b0b0",
    "limit": "#2f2f2f",
    "sink": "#2f2f2f",
}

LINES = (
    "storescu", *(f"sustained.{shape}.{count}" for shape in SHAPES for count in (1, 4, 16)), "find.patient_id.last",
    "find.all.counts.rate", "loaded.find", "move.512kB", "get.512kB", "far.move.512kB", "setup.1", "idle.alone",
)  # fmt: skip
"""The lines of the chart."""

WIDTH, LEFT, BAR, GAP, HEAD = 860, 130, 15, 4, 26
SPACE = 500
"""The length of the longest bar of a panel, in pixels."""


def svg(rows: Sequence[Row]) -> str:
    """Return a chart of the rows in `LINES`; each panel has a scale of its own."""
    drawn, top = [], 16
    by_key = {row.line.key: row for row in rows}
    for row in (by_key[key] for key in LINES if key in by_key):
        panel = list(_panel(row, top))
        drawn += panel
        top += HEAD + len(_bars(row)) * (BAR + GAP) + 16
    style = "text{font:12px system-ui,sans-serif;fill:#333}.head{font-weight:600}.value{fill:#555}"
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}">'
    background = f'<rect width="{WIDTH}" height="{top}" fill="#fff"/>'
    return "\n".join([opening, f"<style>{style}</style>", background, *drawn, "</svg>"]) + "\n"


def _bars(row: Row) -> list[tuple[str, float]]:
    medians = ((name, row.median(name)) for name in SYSTEMS)
    return [(name, value) for name, value in medians if value is not None]


def _panel(row: Row, top: int) -> Iterator[str]:
    better = "more is better" if row.line.better is Better.MORE else "less is better"
    yield f'<text class="head" x="10" y="{top + 8}">{escape(row.line.title)} — {escape(row.line.unit)}, {better}</text>'
    bars = _bars(row)
    longest = max((value for _, value in bars), default=0) or 1
    for place, (name, value) in enumerate(bars):
        y = top + HEAD - 6 + place * (BAR + GAP)
        length = max(1.0, SPACE * value / longest)
        yield f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>'
        yield f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" fill="{COLOURS[name]}"/>'
        spread = f"{number(min(row.values[name]))}–{number(max(row.values[name]))}"
        yield f'<text class="value" x="{LEFT + length + 6:.1f}" y="{y + 12}">{number(value)} ({spread})</text>'
