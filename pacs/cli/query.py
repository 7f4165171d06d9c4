"""`pacs echo` and `pacs find`: whether an AE is there, and what it has."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from pacs.cli.keys import Question, name_of, questioning
from pacs.cli.output import json_option, show
from pacs.cli.peer_options import Call, calling
from pacs.dicom.levels import USUAL_KEYS

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.dataelem import DataElement


@click.command(short_help="Ask an AE whether it is there (C-ECHO).")
@calling()
def echo(call: Call) -> None:
    """Ask an AE for a C-ECHO, and say how long it took.

    PEER is AE_TITLE@HOST:PORT, a peer of the configuration, or HOST PORT with -aec AE_TITLE.
    """
    from pacs import client

    peer = call.alone()
    seconds = client.echo(peer)
    click.echo(f"{peer} answers C-ECHO in {seconds * 1000:.1f} ms")


@click.command(short_help="Ask an AE what it has (C-FIND).")
@calling()
@questioning()
@click.option("--limit", "--cancel", type=click.IntRange(min=1), metavar="N", help="Cancel after N matches (C-CANCEL).")
@json_option
def find(call: Call, question: Question, *, limit: int | None, as_json: bool) -> None:
    """Ask an AE what it has: a table on a terminal, CSV where it is piped, or --json.

    -k KEY=VALUE has to match, -k KEY is answered too; where every key has a value, the usual ones of the level are
    answered as well. PEER is AE_TITLE@HOST:PORT, a peer of the configuration, or HOST PORT with -aec AE_TITLE.
    """
    from pacs import client

    peer = call.alone()
    identifier, columns = question.identifier, list(question.keys)
    for keyword in _usual_keys(question):
        setattr(identifier, keyword, None)
        columns.append(keyword)
    matches = client.find(peer, identifier, model=question.root, limit=limit)
    if not show(columns, _rows(columns, matches, as_json=as_json), as_json=as_json):
        click.echo("nothing matches", err=True)


def _usual_keys(question: Question) -> list[str]:
    """The usual keys of the level, where everything that was asked has to match."""
    if any(each.value in (None, "", []) for each in question.identifier):
        return []
    return [keyword for keyword in USUAL_KEYS[question.level] if keyword not in question.identifier]


def _rows(columns: Sequence[str], matches: "Iterable[Dataset]", *, as_json: bool) -> Iterator[list[Any]]:
    """What each match has in the columns."""
    for match in matches:
        elements = {name_of(each): each for each in match}
        yield [_shown(elements.get(column), as_json=as_json) for column in columns]


def _shown(element: "DataElement | None", *, as_json: bool) -> Any:
    """The value of an element as text; for JSON several values are a list, and items objects."""
    if element is None or element.value is None:
        return ""
    if element.VR == "SQ":
        items = [{name_of(each): _shown(each, as_json=True) for each in item} for item in element.value]
        return items if as_json else "; ".join(map(_line, items))
    if element.VM > 1:
        values = [str(each) for each in element.value]
        return values if as_json else "\\".join(values)
    return str(element.value)


def _line(item: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in item.items())
