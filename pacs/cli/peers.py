"""`pacs peers`: list and add the peers of the configuration."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pacs.cli.options import config_option, with_config
from pacs.cli.output import json_option, show
from pacs.cli.verbosity import say

if TYPE_CHECKING:
    from pacs.config import Config, PeerEntry

COLUMNS = (
    "ae_title",
    "host",
    "port",
    "tls",
    "manner",
    "services",
    "destinations",
    "addresses",
    "associations",
    "roles",
)


@click.group()
def peers() -> None:
    """List and add peers: the remote AEs of the configuration."""


@peers.command("list")
@with_config
@json_option
def list_peers(config: "Config", *, as_json: bool) -> None:
    """List the peers of the configuration."""
    show(COLUMNS, [_row(config, each) for each in config.peers], as_json=as_json)


def _row(config: "Config", peer: "PeerEntry") -> tuple[object, ...]:
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
        peer.roles,
    )


@peers.command(short_help="Add a peer to the configuration file.")
@click.argument("ae_title")
@click.argument("host")
@click.argument("port", type=int)
@click.option("--manner", help='Matching mode, "tolerant" or "strict"; default: that of the server.')
@click.option(
    "--roles", help='"strict", or "lenient" to assume roles that the peer does not negotiate; default: strict.'
)
@config_option
def add(ae_title: str, host: str, port: int, *, config_file: Path | None, **options: str | None) -> None:
    """Add a peer to the configuration file, which is created if it does not exist."""
    from pacs.config import DEFAULT_FILE, add_peer

    file = config_file or Path(DEFAULT_FILE)
    given = {key: value for key, value in options.items() if value}
    block = add_peer(file, ae_title=ae_title, host=host, port=port, **given)
    say(f"{block}\nadded to {file}; send SIGHUP to a running server, or restart it, to apply the change")
