"""`pacs peers`: the table of known AEs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pacs.cli.options import config_option, configured
from pacs.cli.output import json_option, show

if TYPE_CHECKING:
    from pacs.config import Config, Peer

COLUMNS = ("ae_title", "host", "port", "tls", "manner", "services", "destinations", "addresses", "associations")


@click.group()
def peers() -> None:
    """The table of known AEs: move destinations, and who may call."""


@peers.command("list")
@configured
@json_option
def list_peers(config: "Config", *, as_json: bool) -> None:
    """List the known AEs."""
    show(COLUMNS, [_row(config, each) for each in config.peers], as_json=as_json)


def _row(config: "Config", peer: "Peer") -> tuple[object, ...]:
    return (
        peer.ae_title,
        peer.host,
        peer.port,
        "yes" if peer.tls else "no",
        peer.manner or config.query.manner,
        " ".join(peer.services),
        "all" if peer.destinations is None else " ".join(peer.destinations),
        " ".join(peer.addresses) or "any",
        peer.associations,
    )


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
    click.echo(f"{block}\nwas added to {file}; a server that runs reads it at a SIGHUP, or when it is started again")
