"""Output of the commands: tables on a terminal, CSV in a pipe, JSON with `--json`.

Texts come from peers and files. JSON has them exactly. In tables and CSV unprintable characters are escaped, because a
terminal may interpret them; in CSV an apostrophe is put before what a spreadsheet would take for a formula.
"""

import csv
import json
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import click

from pacs.cli.exit_status import FAILED

Row = Sequence[Any]

LONGEST_CELL, NARROWEST = 400, 8
"""Maximum number of characters of a value in a table, and the minimum width of a column."""

_FORMULA = re.compile(r"[-+=@\t\r\n\uff0b\uff0d\uff1d\uff20]")
"""The first character of a formula, also in full width."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_NUMBERS = re.compile(rf"{_NUMBER}(?:\\{_NUMBER})*", re.ASCII)
"""A number, or several separated by backslashes, which no spreadsheet takes for a formula."""

json_option = click.option("as_json", "--json", is_flag=True, help="Print JSON instead of a table.")


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def is_table(*, as_json: bool) -> bool:
    """Whether `show` prints a table."""
    return not as_json and is_terminal()


def show(
    columns: Sequence[str],
    rows: Iterable[Row],
    *,
    as_json: bool = False,
    counted: str = "",
    total: int | None = None,
) -> int:
    """Print `rows` under `columns`, which are the field names in CSV and JSON; return the number of rows.

    With `counted`, the noun for the rows, a table has one line for each row, with shortened values, and ends with their
    number; `total` is that of all rows, where only the first ones are printed. Without rows there is no table then.
    """
    if as_json:
        found = [dict(zip(columns, row, strict=True)) for row in rows]
        show_json(found)
        return len(found)
    if not is_table(as_json=as_json):
        return _csv(columns, rows)
    all_rows = list(rows)
    if all_rows or not counted:
        number = f"\n{_number(counted, len(all_rows), total or len(all_rows))}" if counted else ""
        _print_by_page(_table(columns, all_rows, is_shortened=bool(counted)) + number)
    return len(all_rows)


def _number(counted: str, shown: int, total: int) -> str:
    """Return the line with the number of rows."""
    return plural(total, counted) if shown == total else f"{shown} of {plural(total, counted)}"


def _print_by_page(text: str) -> None:
    """Print a text, with a pager if it is longer than the terminal."""
    if text.count("\n") + 1 < shutil.get_terminal_size().lines:
        click.echo(text)
    else:
        os.environ.setdefault("LESS", "-FRX")  # as git: colours, and the text stays on the screen
        click.echo_via_pager(text, color=True)


def _csv(columns: Sequence[str], rows: Iterable[Row]) -> int:
    """Write CSV row by row; the header is written with the first row, or at the end if there are no rows."""
    writer, count = csv.writer(sys.stdout, lineterminator="\n"), 0
    for row in rows:
        if not count:
            writer.writerow(csv_row(columns))
        writer.writerow(csv_row(row))
        count += 1
    if not count:
        writer.writerow(csv_row(columns))
    return count


def csv_row(row: Row) -> list[Any]:
    """Return a row for CSV whose texts neither a terminal nor a spreadsheet interprets."""
    return [_csv_text(each) if isinstance(each, str) else each for each in row]


def _csv_text(text: str) -> str:
    """Escape unprintable characters, except for spaces and line breaks, and put an apostrophe before a formula."""
    if not text.isprintable():
        kept = "\t\r\n" if "\n" in text else "\t"  # the writer quotes no cell because of a CR alone
        text = "".join(each if each in kept or _is_space(each) else safe(each) for each in text)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBERS.fullmatch(text) else text


def _is_space(character: str) -> bool:
    """Return whether a character is a space, such as the ideographic one of Japanese names."""
    return unicodedata.category(character) == "Zs"


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


def confirm(question: str, *, otherwise: str, err: bool = False) -> None:
    """Ask a question, and end the command unless the answer is yes; `otherwise` says what was not done then."""
    remedy = ""
    try:
        if click.confirm(question, err=err):
            return
    except click.Abort as abort:
        click.echo(err=True)
        if isinstance(abort.__context__, KeyboardInterrupt):
            print_error(otherwise)
            raise
        remedy = "; use --yes to confirm without a question"  # the end of standard input
    print_error(f"{otherwise}{remedy}")
    raise click.exceptions.Exit(FAILED)


def plural(number: int, thing: str) -> str:
    """Return a number with its noun, in the plural where needed; "series" is its own plural."""
    if number == 1 or thing.endswith("s"):
        return f"{number} {thing}"
    return f"{number} {thing[:-1]}ies" if thing.endswith("y") else f"{number} {thing}s"


def size(number: int) -> str:
    """Return a number of bytes in a suitable unit."""
    exponent = min((max(number, 1).bit_length() - 1) // 10, 4)
    return f"{number / 1024**exponent:.{int(exponent > 0)}f} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[exponent]}"


def _table(columns: Sequence[str], rows: Sequence[Row], *, is_shortened: bool) -> str:
    """Return a table that fits the terminal: with one line for each row if `is_shortened`, else with wrapped values.

    UIDs come last and are always whole, so that they can be copied. If they do not fit, each row is a paragraph.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    order = sorted(range(len(columns)), key=lambda place: columns[place].endswith("UID"))
    texts = [[safe(str(row[place]))[:LONGEST_CELL] for place in order] for row in rows]
    heads = [columns[place] for place in order]
    widths = _widths(heads, texts, console.width, is_shortened=is_shortened)
    if widths is None:
        return _paragraphs(heads, texts)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for head, width in zip(heads, widths, strict=True):
        whole = is_shortened or head.endswith("UID")
        table.add_column(
            _heading(head), overflow="ellipsis" if is_shortened else "fold", no_wrap=whole, max_width=width
        )
    for row in texts:
        table.add_row(*map(escape, row))
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip("\n")


def _widths(
    heads: Sequence[str], texts: Sequence[Sequence[str]], width: int, *, is_shortened: bool
) -> list[int | None] | None:
    """Return the widths of the columns, None for one that may be wrapped; None if the table does not fit."""
    from rich.cells import cell_len

    longest = [max((cell_len(row[place]) for row in texts), default=0) for place in range(len(heads))]
    if not is_shortened:
        least = [size if head.endswith("UID") else NARROWEST for head, size in zip(heads, longest, strict=True)]
        return None if sum(least) + len(heads) > width else [None] * len(heads)
    least = [max(map(len, _heading(head).split("\n"))) for head in heads]
    widths = [max(pair) for pair in zip(longest, least, strict=True)]
    least = [full if head.endswith("UID") else short for head, full, short in zip(heads, widths, least, strict=True)]
    if sum(least) + len(heads) - 1 > width:
        return None
    while sum(widths) + len(heads) - 1 > width:
        spare = [full - short for full, short in zip(widths, least, strict=True)]
        widest = max(range(len(heads)), key=lambda place: (spare[place] > 0, widths[place]))
        widths[widest] -= 1
    return list(widths)


def _paragraphs(heads: Sequence[str], texts: Sequence[Sequence[str]]) -> str:
    width = max(map(len, heads))
    labels = [click.style(head.ljust(width), bold=True) for head in heads]
    rows = (zip(labels, row, strict=True) for row in texts)
    return "\n\n".join("\n".join(f"{label}  {text}" for label, text in row if text) for row in rows)


def _heading(column: str) -> str:
    """Return the column heading for a keyword, on up to two lines; NumberOfStudyRelatedSeries becomes Series."""
    short = re.sub(r"^NumberOf(Patient|Study|Series)Related", "", column)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", short).replace(" ", "\n", 1)
