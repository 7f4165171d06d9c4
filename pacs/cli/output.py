"""Tables: for people on a terminal, CSV where the output is piped, JSON where it is asked for."""

import csv
import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

Row = Sequence[Any]

json_option = click.option("as_json", "--json", is_flag=True, help="Print JSON instead of a table.")


def show(columns: Sequence[str], rows: Iterable[Row], *, as_json: bool = False) -> None:
    """Print `rows` under `columns`, whose names are those of the fields in CSV and JSON."""
    if as_json:
        show_json([dict(zip(columns, row, strict=True)) for row in rows])
    elif sys.stdout.isatty():
        _table(columns, rows)
    else:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def show_json(value: Any) -> None:
    """Print JSON that people can read and no terminal obeys: what is not printable is escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    click.echo("".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text))


def safe(text: str) -> str:
    """What a peer had a part in, so that it moves no cursor."""
    from pacs.telemetry import printable

    return printable(text)


def complain(text: str) -> None:
    """Print an error as people see it, on standard error."""
    for line in text.splitlines():
        click.echo(f"pacs: {safe(line)}", err=True)


def counted(number: int, thing: str) -> str:
    """`number` of a thing whose plural ends in s or, from y, in ies; "series" is its own plural."""
    if number == 1 or thing.endswith("s"):
        return f"{number} {thing}"
    return f"{number} {thing[:-1]}ies" if thing.endswith("y") else f"{number} {thing}s"


def size(number: int) -> str:
    """A number of bytes in the unit that people would say it in."""
    exponent = min((max(number, 1).bit_length() - 1) // 10, 4)
    return f"{number / 1024**exponent:.{int(exponent > 0)}f} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[exponent]}"


def _table(columns: Sequence[str], rows: Iterable[Row]) -> None:
    """A table no wider than the terminal: nothing is cut off, what is long takes several lines, UIDs stand last."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from pacs.telemetry import printable

    order = sorted(range(len(columns)), key=lambda place: columns[place].endswith("UID"))
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for place in order:
        table.add_column(_heading(columns[place]), overflow="fold")
    for row in rows:
        table.add_row(*(escape(printable(str(row[place]), 400)) for place in order))
    Console().print(table)


def _heading(column: str) -> str:
    """A keyword of PS3.6 as people read it, on two lines: NumberOfStudyRelatedSeries is Series."""
    short = re.sub(r"^NumberOf(Patient|Study|Series)Related", "", column)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", short).replace(" ", "\n", 1)
