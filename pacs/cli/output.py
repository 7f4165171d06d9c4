"""Output of the commands: tables on a terminal, CSV in a pipe, JSON with `--json`."""

import csv
import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

Row = Sequence[Any]

LONGEST_CELL, NARROWEST = 400, 8
"""Maximum number of characters of a value in a table, and the minimum width of a column."""

json_option = click.option("as_json", "--json", is_flag=True, help="Print JSON instead of a table.")


def show(columns: Sequence[str], rows: Iterable[Row], *, as_json: bool = False) -> int:
    """Print `rows` under `columns`, which are the field names in CSV and JSON; return the number of rows."""
    if as_json:
        found = [dict(zip(columns, row, strict=True)) for row in rows]
        show_json(found)
        return len(found)
    return _table(columns, list(rows)) if sys.stdout.isatty() else _csv(columns, rows)


def _csv(columns: Sequence[str], rows: Iterable[Row]) -> int:
    """Write CSV row by row; the header is written with the first row, or at the end if there are no rows."""
    writer, count = csv.writer(sys.stdout, lineterminator="\n"), 0
    for row in rows:
        if not count:
            writer.writerow(columns)
        writer.writerow(row)
        count += 1
    if not count:
        writer.writerow(columns)
    return count


def show_json(value: Any) -> None:
    """Print indented JSON with unprintable characters escaped, so that no terminal interprets them."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    click.echo("".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text))


def safe(text: str) -> str:
    """Escape unprintable characters of a text from a peer, so that no terminal interprets them."""
    from pacs.observability.logging import printable

    return printable(text)


def print_error(text: str) -> None:
    """Print an error message on standard error."""
    for line in text.splitlines():
        click.echo(f"pacs: {safe(line)}", err=True)


def plural(number: int, thing: str) -> str:
    """Return a number with its noun, in the plural where needed; "series" is its own plural."""
    if number == 1 or thing.endswith("s"):
        return f"{number} {thing}"
    return f"{number} {thing[:-1]}ies" if thing.endswith("y") else f"{number} {thing}s"


def size(number: int) -> str:
    """Return a number of bytes in a suitable unit."""
    exponent = min((max(number, 1).bit_length() - 1) // 10, 4)
    return f"{number / 1024**exponent:.{int(exponent > 0)}f} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[exponent]}"


def _table(columns: Sequence[str], rows: Sequence[Row]) -> int:
    """Print a table that fits the terminal: long values are wrapped, UID columns come last and are never wrapped.

    If the UIDs do not fit, each row is printed as a paragraph, so that UIDs can be copied.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    order = sorted(range(len(columns)), key=lambda place: columns[place].endswith("UID"))
    texts = [[safe(str(row[place]))[:LONGEST_CELL] for place in order] for row in rows]
    heads = [columns[place] for place in order]
    if _least_width(heads, texts) > console.width:
        _paragraphs(heads, texts)
        return len(rows)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for head in heads:
        table.add_column(_heading(head), overflow="fold", no_wrap=head.endswith("UID"))
    for row in texts:
        table.add_row(*map(escape, row))
    console.print(table)
    return len(rows)


def _least_width(heads: Sequence[str], texts: Sequence[Sequence[str]]) -> int:
    """Return the minimum width of a table: whole UIDs, and `NARROWEST` for every other column."""
    widths = (
        max((len(row[place]) for row in texts), default=0) if head.endswith("UID") else NARROWEST
        for place, head in enumerate(heads)
    )
    return sum(width + 1 for width in widths)


def _paragraphs(heads: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
    width = max(map(len, heads))
    for number, row in enumerate(texts):
        if number:
            click.echo()
        for head, text in zip(heads, row, strict=True):
            if text:
                click.echo(f"{click.style(head.ljust(width), bold=True)}  {text}")


def _heading(column: str) -> str:
    """Return the column heading for a keyword, on up to two lines; NumberOfStudyRelatedSeries becomes Series."""
    short = re.sub(r"^NumberOf(Patient|Study|Series)Related", "", column)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", short).replace(" ", "\n", 1)
