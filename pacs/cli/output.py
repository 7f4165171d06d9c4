"""Tables: for people on a terminal, CSV where the output is piped, JSON where it is asked for."""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

Row = Sequence[Any]

json_option = click.option("as_json", "--json", is_flag=True, help="Print JSON instead of a table.")


def show(columns: Sequence[str], rows: Iterable[Row], *, as_json: bool = False) -> None:
    """Print `rows` under `columns`, whose names are those of the fields in CSV and JSON."""
    if as_json:
        click.echo(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], ensure_ascii=False, indent=2))
    elif sys.stdout.isatty():
        _table(columns, rows)
    else:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _table(columns: Sequence[str], rows: Iterable[Row]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from pacs.telemetry import printable

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(escape(printable(str(cell), 100)) for cell in row))
    Console().print(table)
