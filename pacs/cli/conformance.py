"""`pacs conformance`: the conformance statement, and conformance checks of any server."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pacs.cli.completion import complete_title
from pacs.cli.exit_status import FAILED, UNREACHABLE
from pacs.cli.options import Seconds, with_config_loader
from pacs.cli.output import confirm, json_option, print_error, safe, show, show_json
from pacs.cli.peer_options import identity_and_tls_options, peers_of
from pacs.cli.progress import progress_bar
from pacs.cli.verbosity import say

if TYPE_CHECKING:
    from pacs.client import Peer
    from pacs.config import Config
    from pacs.conformance.checks.association import CheckedServer
    from pacs.conformance.checks.results import Check
    from pacs.conformance.checks.runner import ServerResults
    from pacs.conformance.checks.sample_data import SampleData

Result = TypeVar("Result")

RECEIVER = "PACSRUN:11119"


@click.group(short_help="Print the DICOM conformance statement, or check a server.", invoke_without_command=True)
@with_config_loader
def conformance(read: Callable[[], "Config"]) -> None:
    """Print the DICOM conformance statement (PS3.2) of this configuration in Markdown."""
    if click.get_current_context().invoked_subcommand is None:
        from pacs.conformance.statement.render import conformance_statement

        click.echo(conformance_statement(read()), nl=False)


@conformance.command(short_help="Run conformance checks against servers.")
@click.argument("peers", nargs=-1, metavar="PEER...", shell_complete=complete_title)
@click.option(
    "--against", multiple=True, metavar="PEER", help="Server to test, as the argument; may be given several times."
)
@click.option(
    "--receive",
    default=RECEIVER,
    show_default=True,
    metavar="AET:PORT",
    help="Local AE title and port that receive C-MOVE sub-operations; configure both on the server.",
)
@click.option(
    "--prefix", default="PACSRUN", show_default=True, help="Prefix of the Patient IDs of the stored test instances."
)
@click.option(
    "--only", multiple=True, metavar="ID|THEME", help="Run only this check or theme; may be given several times."
)
@click.option(
    "--timeout",
    type=Seconds(),
    default=10.0,
    metavar="SECONDS",
    show_default=True,
    help="Seconds to wait for each response.",
)
@identity_and_tls_options
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown instead of a table.")
@click.option("--yes", is_flag=True, help="Store without confirmation; required without a terminal.")
@json_option
@with_config_loader
def run(
    read: Callable[[], "Config"],
    peers: Sequence[str],
    *,
    against: Sequence[str],
    receive: str,
    prefix: str,
    only: Sequence[str],
    timeout: float,
    as_markdown: bool,
    as_json: bool,
    yes: bool,
    **options: Any,
) -> None:
    """Run the Query/Retrieve checklist against servers, and compare the behaviour of each with the standard.

    PEER is AE_TITLE@HOST:PORT, or the AE title of a configured peer. The options of TLS are for all of them.

    Small test instances are stored and remain on the servers, after confirmation; existing data is not changed. The
    exit status is 1 for deviations, or if the storing is not confirmed, and 4 if a server cannot be reached.
    """
    title, port = _receiver(receive)
    if not (peers or against):
        raise click.MissingParameter(param_type="argument", param_hint="'PEER...'")
    written = (*peers, *against)
    servers = [_server(each, title, timeout) for each in peers_of(read, written, options)]
    checks, samples = _selected(only), _sample_data(prefix)
    _require_consent(yes=yes)
    reachable = _for_reachable(servers, _reached)
    if reachable:
        _announce(reachable, samples, yes=yes)
    columns = _for_reachable(reachable, lambda each: _examined(each, samples, (title, port), checks))
    _print(columns, as_json=as_json, as_markdown=as_markdown)
    if len(columns) < len(servers):
        raise click.exceptions.Exit(UNREACHABLE)
    _conclude(columns)


def _for_reachable(servers: "Iterable[CheckedServer]", ask: "Callable[[CheckedServer], Result]") -> "list[Result]":
    """Return the results of the reachable servers; print an error for the others."""
    from pacs.conformance.checks.association import Unreachable

    answers = []
    for each in servers:
        try:
            answers.append(ask(each))
        except Unreachable as error:
            print_error(str(error))
    return answers


def _reached(peer: "CheckedServer") -> "CheckedServer":
    """Return the server once it has accepted an association. Raises Unreachable."""
    from pacs.conformance.checks.runner import implementation_name

    implementation_name(peer)
    return peer


def _print(columns: "Sequence[ServerResults]", *, as_json: bool, as_markdown: bool) -> None:
    from pacs.conformance.checks import matrix

    names = [str(each.server) for each in columns]
    if as_json:
        show_json(matrix.as_json(columns))
    elif as_markdown:
        click.echo(matrix.markdown(columns, names), nl=False)
    elif columns:
        show(("check", "question", *names), matrix.rows(columns))


def _receiver(text: str) -> tuple[str, int]:
    title, _, port = text.rpartition(":")
    if not 0 < len(title.strip()) <= 16 or not port.isdecimal() or int(port) > 65535:
        raise click.BadParameter(f"{text!r} is not AET:PORT; expected for example {RECEIVER}", param_hint="--receive")
    return title.strip(), int(port)


def _server(peer: "Peer", calling: str, timeout: float) -> "CheckedServer":
    from pacs.conformance.checks.association import CheckedServer
    from pacs.conformance.checks.wire import user_identity

    identity = user_identity(peer.user, peer.passcode, peer.token)
    server = CheckedServer(peer.ae_title, peer.host, peer.port, calling, timeout, identity)
    tls = peer.protection
    return server if tls is None else replace(server, tls=tls.context, fingerprints=tls.certificates)


def _sample_data(prefix: str) -> "SampleData":
    from pacs.conformance.checks.sample_data import SampleData

    if not (prefix.isascii() and prefix.replace("-", "").isalnum() and len(prefix) <= 32):
        raise click.BadParameter(
            f"{prefix!r} is not a prefix; expected up to 32 letters, digits and hyphens", param_hint="--prefix"
        )
    return SampleData(prefix)


def _selected(words: Iterable[str]) -> "list[Check]":
    from pacs.conformance.checks.runner import CHECKS, selected

    try:
        return selected(words)
    except KeyError as error:
        themes = ", ".join(dict.fromkeys(each.theme for each in CHECKS))
        raise click.BadParameter(
            f"{error.args[0]!r} is not a check; themes are {themes}", param_hint="--only"
        ) from error


def _require_consent(*, yes: bool) -> None:
    """Raise click.UsageError without --yes and without a terminal to confirm on."""
    if not yes and not sys.stdin.isatty():
        raise click.UsageError(
            "test instances are stored and remain on the server; confirm with --yes, as there is no terminal"
        )


def _announce(servers: "Sequence[CheckedServer]", samples: "SampleData", *, yes: bool) -> None:
    """Print what will be stored on which servers, and ask for confirmation on a terminal."""
    from pacs.conformance.checks.sample_data import PROBES

    click.echo(
        f"Stores {len(list(samples))} small instances, and up to {PROBES} more that may be refused, on "
        f"{', '.join(map(str, servers))}, where they remain. Their Patient IDs begin with {samples.prefix}-; one "
        "instance has none.",
        err=True,
    )
    if not yes:
        confirm("Continue?", otherwise="nothing was stored", err=True)


def _examined(
    peer: "CheckedServer", samples: "SampleData", receiving: tuple[str, int], checks: "Sequence[Check]"
) -> "ServerResults":
    """Run the checks on a server, with a progress bar on a terminal. Raises Unreachable."""
    from pacs.conformance.checks.runner import run_checks

    with progress_bar(str(peer), len(checks)) as advance:
        try:
            return run_checks(peer, samples, receiving, checks=checks, on_check=lambda *_: advance(1))
        except OSError as error:
            why = f"cannot listen on port {receiving[1]} ({error.strerror})"
            raise click.BadParameter(why, param_hint="--receive") from error


def _conclude(columns: "Sequence[ServerResults]") -> None:
    """Print the totals, and end with exit status 1 if there are deviations."""
    from pacs.conformance.checks.matrix import totals
    from pacs.conformance.checks.results import ResultKind

    for each in columns:
        say(f"{each.server} ({safe(each.implementation) or 'unnamed'}): {totals(each)}", err=True)
    if any(each.count(ResultKind.DEVIATES) for each in columns):
        raise click.exceptions.Exit(FAILED)
