"""`pacs peers`: list, add, change, remove and verify peers."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pacs.cli.completion import complete_title
from pacs.cli.exit_status import PARTLY, UNREACHABLE
from pacs.cli.options import with_config, with_options, with_sources
from pacs.cli.output import json_option, show
from pacs.cli.peer_options import configured_peers_command
from pacs.cli.verbosity import say
from pacs.errors import PacsError

if TYPE_CHECKING:
    from pacs import client
    from pacs.config import Config, PeerEntry, Sources

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

AT_ONCE = 16
"""Number of peers that are verified at the same time."""


@click.group()
def peers() -> None:
    """List, add, change, remove and verify peers: the known remote AEs.

    Peers are in [[peers]] of the configuration file, and in peers.toml in the folder of the data. These commands change
    peers.toml only.
    """


# --- list and echo -----------------------------------------------------------------------------------------------


@peers.command("list")
@with_config
@json_option
def list_peers(config: "Config", *, as_json: bool) -> None:
    """List the peers of the configuration file and of peers.toml."""
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


@peers.command("echo", short_help="Send a C-ECHO to peers.")
@configured_peers_command
@json_option
def echo_peers(called: "list[client.Peer]", *, as_json: bool) -> None:
    """Send a C-ECHO to each peer, or to those with these AE titles, and print which answer.

    The exit status is 3 when some peers do not answer, 4 when none does.
    """
    from concurrent.futures import ThreadPoolExecutor

    if not called:
        say("no peers; add one with `pacs peers add AE_TITLE HOST PORT`", err=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(_answer, called))
    rows = [(each.ae_title, each.host, each.port, *answer) for each, answer in zip(called, answers, strict=True)]
    show(("ae_title", "host", "port", "answers", "milliseconds", "error"), rows, as_json=as_json)
    silent = sum(answer[0] == "no" for answer in answers)
    if silent:
        raise click.exceptions.Exit(PARTLY if silent < len(answers) else UNREACHABLE)


def _answer(peer: "client.Peer") -> tuple[str, float | None, str]:
    """Return whether a peer answers a C-ECHO, the milliseconds until then, and why not."""
    from pacs import client

    try:
        return "yes", round(client.echo(peer) * 1000, 1), ""
    except PacsError as error:
        return "no", None, error.comment


# --- add, edit and remove ----------------------------------------------------------------------------------------


def _words(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> list[str] | None:
    """Split words at commas; '' is an empty list."""
    return None if text is None else [each.strip() for each in text.split(",") if each.strip()]


_LISTS: Mapping[str, tuple[str, str]] = {
    "services": ("SERVICE,...", "What the peer may use: store, find, move, get, commit."),
    "addresses": ("NETWORK,...", "Addresses or networks from which the peer may call."),
    "destinations": ("TITLE,...", "Peers to which the peer may move instances."),
    "certificates": ("SHA256,...", "Fingerprints of the certificates that the peer may use."),
    "transfer_syntaxes": ("SYNTAX,...", "Preferred transfer syntaxes among those that the peer proposes."),
    "send_as": ("SYNTAX,...", "Transfer syntaxes to convert into what the peer does not accept."),
}
_OPTIONS = (
    click.option("--manner", metavar="MODE", help='"tolerant" or "strict"; default: as the server.'),
    click.option(
        "--roles",
        metavar="MODE",
        help='"strict", or "lenient" to assume roles that the peer does not negotiate; default: strict.',
    ),
    click.option("--associations", type=int, metavar="N", help="Parallel associations of one C-MOVE to the peer."),
    click.option("--tls/--no-tls", default=None, help="Whether to connect to the peer with TLS."),
    click.option("--explain/--no-explain", default=None, help="Whether to log how its requests are interpreted."),
    *(
        click.option(f"--{key.replace('_', '-')}", key, callback=_words, metavar=metavar, help=help)
        for key, (metavar, help) in _LISTS.items()
    ),
)


_peer_keys = with_options(*_OPTIONS)
"""Adds an option for each key of a peer except its AE title, host and port."""


@peers.command(short_help="Add a peer to peers.toml.")
@click.argument("ae_title")
@click.argument("host")
@click.argument("port", type=int)
@_peer_keys
@with_sources
def add(sources: "Sources", **values: Any) -> None:
    """Add a peer to peers.toml in the folder of the data, which is created if it does not exist."""
    from pacs.config import PeersFile

    file = PeersFile(sources)
    _say_changed(sources, file.path, f"{file.add(values)}\nadded to")


@peers.command(short_help="Change a peer in peers.toml.")
@click.argument("ae_title", shell_complete=complete_title)
@click.option("--ae-title", "new_title", metavar="TITLE", help="New AE title.")
@click.option("--host", metavar="HOST", help="New host name or address.")
@click.option("--port", type=int, metavar="PORT", help="New TCP port.")
@_peer_keys
@click.option("--default", "defaults", multiple=True, metavar="KEY", help="Give a key, such as manner, its default.")
@with_sources
def edit(sources: "Sources", ae_title: str, new_title: str | None, defaults: tuple[str, ...], **values: Any) -> None:
    """Change the given values of a peer in peers.toml; its other values stay."""
    from pacs.config import PeersFile

    changed: dict[str, Any] = {key: value for key, value in values.items() if value is not None}
    changed |= {"ae_title": new_title} if new_title else {}
    changed |= dict.fromkeys(each.replace("-", "_") for each in defaults)
    if not changed:
        raise click.UsageError("nothing to change; expected an option such as --port")
    file = PeersFile(sources)
    _say_changed(sources, file.path, f"{file.edit(ae_title, changed)}\nchanged in")


@peers.command(short_help="Remove peers from peers.toml.")
@click.argument("ae_titles", nargs=-1, required=True, metavar="AE_TITLE...", shell_complete=complete_title)
@with_sources
def remove(sources: "Sources", ae_titles: tuple[str, ...]) -> None:
    """Remove peers from peers.toml."""
    from pacs.config import PeersFile

    file = PeersFile(sources)
    file.remove(*ae_titles)
    _say_changed(sources, file.path, f"{', '.join(ae_titles)} removed from")


def _say_changed(sources: "Sources", path: Path, what: str) -> None:
    """Say what was changed in which file, and how a running server gets it."""
    say(f"{what} {path}; {_how_to_apply(sources)}")


def _how_to_apply(sources: "Sources") -> str:
    from pacs.files.layout import RUNNING
    from pacs.files.running_marker import running_servers
    from pacs.services.sharing import reload_commands

    commands = reload_commands(running_servers(Path(sources.config().files.url) / RUNNING))
    return f"apply it to the running server with {' and '.join(commands)}" if commands else "the next start reads it"
