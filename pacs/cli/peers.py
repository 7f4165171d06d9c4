"""`pacs peers`: the table of known AEs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pacs.cli.options import config_option, configured
from pacs.cli.output import json_option, show

if TYPE_CHECKING:
    from pacs.config import Config

COLUMNS = ("ae_title", "host", "port", "manner")


@click.group()
def peers() -> None:
    """The table of known AEs: move destinations, and who may call."""


@peers.command("list")
@configured
@json_option
def list_peers(config: "Config", *, as_json: bool) -> None:
    """List the known AEs."""
    manner = config.query.manner
    rows = [(each.ae_title, each.host, each.port, each.manner or manner) for each in config.peers]
    show(COLUMNS, rows, as_json=as_json)


@peers.command(short_help="Add an AE to the configuration file.")
@click.argument("ae_title")
@click.argument("host")
@click.argument("port", type=int)
@click.option("--manner", help='"tolerant" or "strict", where it is not to be the server\'s.')
@config_option
def add(ae_title: str, host: str, port: int, manner: str | None, config_file: Path | None) -> None:
    """Add an AE to the configuration file, which is made if it is not there."""
    from pacs.config import DEFAULT_FILE, add_peer

    file = config_file or Path(DEFAULT_FILE)
    block = add_peer(file, ae_title=ae_title, host=host, port=port, **({"manner": manner} if manner else {}))
    click.echo(f"{block}\nwas added to {file}; a server that runs already reads it when it is started again")
