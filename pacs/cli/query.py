"""`pacs echo` and `pacs find`."""

from contextlib import closing
from dataclasses import replace

import click

from pacs.cli.listing import show_matches
from pacs.cli.matching_keys import WORDS, QueryArguments, query_options
from pacs.cli.output import json_option
from pacs.cli.peer_options import PeerCall, peer_command
from pacs.cli.verbosity import say


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
@peer_command(f"PEER {WORDS}", takes_words=True)
@query_options()
@click.option("--limit", "--cancel", type=click.IntRange(min=1), metavar="N", help="Stop after N matches (C-CANCEL).")
@click.option(
    "--charset",
    default="",
    metavar="TERM",
    help="Character set of answers that name none, such as 'ISO_IR 100'; -k SpecificCharacterSet asks for it.",
)
@json_option
def find(call: PeerCall, query: QueryArguments, *, limit: int | None, charset: str, as_json: bool) -> None:
    """Query PEER with a C-FIND, and print the matches as a table on a terminal, else as CSV, or with --json as JSON.

    -k KEY=VALUE is a matching key, -k KEY a return key; a level and matching keys may also follow PEER. If only
    matching keys are given, the usual keys of the level are returned as well. PEER is AE_TITLE@HOST:PORT, the AE title
    of a configured peer, or HOST PORT with -aec AE_TITLE.
    """
    from pacs import client

    peer = replace(call.alone(), character_set=charset)
    identifier = query.returning(query.columns()).identifier
    with closing(client.find(peer, identifier, model=query.root, limit=limit)) as matches:
        show_matches(query, matches, as_json=as_json)
