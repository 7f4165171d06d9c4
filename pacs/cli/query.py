"""`pacs echo` and `pacs find`."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from pacs.cli.matching_keys import QueryArguments, name_of, query_options
from pacs.cli.output import json_option, show
from pacs.cli.peer_options import PeerCall, peer_command
from pacs.cli.verbosity import say
from pacs.dicom.levels import USUAL_KEYS

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.dataelem import DataElement


@click.command(short_help="Send a C-ECHO.")
@peer_command()
def echo(call: PeerCall) -> None:
    """Send a C-ECHO to PEER and print the response time.

    PEER is AE_TITLE@HOST:PORT, the AE title of a configured peer, or HOST PORT with -aec AE_TITLE.
    """
    from pacs import client

    peer = call.alone()
    seconds = client.echo(peer)
    say(f"{peer} answered the C-ECHO in {seconds * 1000:.1f} ms")


@click.command(short_help="Query an AE (C-FIND).")
@peer_command()
@query_options()
@click.option("--limit", "--cancel", type=click.IntRange(min=1), metavar="N", help="Stop after N matches (C-CANCEL).")
@json_option
def find(call: PeerCall, query: QueryArguments, *, limit: int | None, as_json: bool) -> None:
    """Query PEER with a C-FIND, and print the matches as a table on a terminal, else as CSV, or with --json as JSON.

    -k KEY=VALUE is a matching key, -k KEY a return key. If only matching keys are given, the usual keys of the level
    are returned as well. PEER is AE_TITLE@HOST:PORT, the AE title of a configured peer, or HOST PORT with -aec
    AE_TITLE.
    """
    from pacs import client

    peer = call.alone()
    identifier, columns = query.identifier, list(query.keys)
    for keyword in _usual_keys(query):
        setattr(identifier, keyword, None)
        columns.append(keyword)
    matches = client.find(peer, identifier, model=query.root, limit=limit)
    count = show(columns, _rows(columns, matches, as_json=as_json), as_json=as_json)
    if not count:
        say("no matches", err=True)


def _usual_keys(query: QueryArguments) -> list[str]:
    """Return the usual keys of the level if every given key is a matching key, else none."""
    if any(each.value in (None, "", []) for each in query.identifier):
        return []
    return [keyword for keyword in USUAL_KEYS[query.level] if keyword not in query.identifier]


def _rows(columns: Sequence[str], matches: "Iterable[Dataset]", *, as_json: bool) -> Iterator[list[Any]]:
    """Yield the row of each match."""
    for match in matches:
        elements = {name_of(each): each for each in match}
        yield [_shown(elements.get(column), as_json=as_json) for column in columns]


def _shown(element: "DataElement | None", *, as_json: bool) -> Any:
    """Return the value of an element as text; for JSON several values as list and items as objects."""
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
