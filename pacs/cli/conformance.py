"""`pacs conformance`: what this server promises, and what any server does."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

from pacs.cli.exit_status import FAILED, UNREACHABLE
from pacs.cli.options import reconfigured
from pacs.cli.output import complain, json_option, safe, show, show_json
from pacs.cli.progress import progress

if TYPE_CHECKING:
    from pacs.config import Config
    from pacs.conformance.checks.association import CheckedServer
    from pacs.conformance.checks.results import Check
    from pacs.conformance.checks.runner import ServerResults
    from pacs.conformance.checks.sample_data import SampleData

Answer = TypeVar("Answer")

RECEIVER = "PACSRUN:11119"


@click.group(short_help="Print the DICOM conformance statement, or check any server.", invoke_without_command=True)
@reconfigured
def conformance(read: Callable[[], "Config"]) -> None:
    """Print the DICOM conformance statement (PS3.2) of this configuration in Markdown."""
    if click.get_current_context().invoked_subcommand is None:
        from pacs.conformance.statement.render import conformance_statement

        click.echo(conformance_statement(read()), nl=False)


@conformance.command(short_help="Examine any servers as a black box.")
@click.option(
    "--against", "written", multiple=True, required=True, metavar="AET@HOST:PORT", help="Whom; several times."
)
@click.option(
    "--receive",
    default=RECEIVER,
    show_default=True,
    metavar="AET:PORT",
    help="Our AE title, and the port on which we receive what is moved to it: list both on the server.",
)
@click.option("--prefix", default="PACSRUN", show_default=True, help="What Patient IDs of what is stored begin with.")
@click.option("--only", multiple=True, metavar="ID|THEME", help="Only these checks; several times.")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds a server may say nothing.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown instead of a table.")
@click.option("--yes", is_flag=True, help="Do not ask before anything is stored: needed without a terminal.")
@json_option
def run(
    written: Sequence[str],
    receive: str,
    prefix: str,
    only: Sequence[str],
    timeout: float,
    *,
    as_markdown: bool,
    as_json: bool,
    yes: bool,
) -> None:
    """Ask servers the checklist of Query/Retrieve, and print what each of them does beside what the standard says.

    Small instances are stored and stay there; nothing is deleted or changed that was there. It asks before; without
    a terminal it needs --yes. Exit status 0 is no deviation, 1 some, 2 no consent, 4 a server that cannot be reached.
    """
    title, port = _receiver(receive)
    servers = [_peer(each, title, timeout) for each in written]
    checks, samples = _selected(only), _specimens(prefix)
    _require_consent(yes=yes)
    there = _answering(servers, _reached)
    if there:
        _announce(there, samples, yes=yes)
    columns = _answering(there, lambda each: _examined(each, samples, (title, port), checks))
    _print(columns, as_json=as_json, as_markdown=as_markdown)
    if len(columns) < len(servers):
        raise click.exceptions.Exit(UNREACHABLE)
    _conclude(columns)


def _answering(servers: "Iterable[CheckedServer]", ask: "Callable[[CheckedServer], Answer]") -> "list[Answer]":
    """What came of asking the servers that can be reached; the others are complained of."""
    from pacs.conformance.checks.association import Unreachable

    answers = []
    for each in servers:
        try:
            answers.append(ask(each))
        except Unreachable as error:
            complain(str(error))
    return answers


def _reached(peer: "CheckedServer") -> "CheckedServer":
    """The same server, which has taken an association. Raises Unreachable."""
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
        raise click.BadParameter(f"{text!r} is not AET:PORT, such as {RECEIVER}", param_hint="--receive")
    return title.strip(), int(port)


def _peer(text: str, calling: str, timeout: float) -> "CheckedServer":
    from pacs.conformance.checks.association import CheckedServer

    try:
        return CheckedServer.parse(text, calling, timeout)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--against") from error


def _specimens(prefix: str) -> "SampleData":
    from pacs.conformance.checks.sample_data import SampleData

    if not (prefix.isascii() and prefix.replace("-", "").isalnum() and len(prefix) <= 32):
        raise click.BadParameter("up to 32 letters, digits and hyphens", param_hint="--prefix")
    return SampleData(prefix)


def _selected(words: Iterable[str]) -> "list[Check]":
    from pacs.conformance.checks.runner import CHECKS, selected

    try:
        return selected(words)
    except KeyError as error:
        themes = ", ".join(dict.fromkeys(each.theme for each in CHECKS))
        raise click.BadParameter(f"{error.args[0]!r} is no check; themes are {themes}", param_hint="--only") from error


def _require_consent(*, yes: bool) -> None:
    """Raises click.UsageError where nothing was agreed to and nobody can be asked."""
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("instances are stored and stay there, and there is no terminal to ask on: add --yes")


def _announce(servers: "Sequence[CheckedServer]", samples: "SampleData", *, yes: bool) -> None:
    """Say what will be stored where, and ask on a terminal."""
    from pacs.conformance.checks.sample_data import PROBES

    click.echo(
        f"{len(list(samples))} small instances, and up to {PROBES} more that may be refused, are stored with Patient "
        f"IDs beginning with {samples.prefix}-, one without any, and stay there, on {', '.join(map(str, servers))}",
        err=True,
    )
    if not yes:
        click.confirm("Go on?", abort=True, err=True)


def _examined(
    peer: "CheckedServer", samples: "SampleData", receiving: tuple[str, int], checks: "Sequence[Check]"
) -> "ServerResults":
    """What came of the checks on a server, with a progress bar on a terminal. Raises Unreachable."""
    from pacs.conformance.checks.runner import run_checks

    with progress(str(peer), len(checks)) as advance:
        try:
            return run_checks(peer, samples, receiving, checks=checks, on_check=lambda *_: advance(1))
        except OSError as error:
            why = f"nothing can be received on port {receiving[1]}: {error.strerror}"
            raise click.BadParameter(why, param_hint="--receive") from error


def _conclude(columns: "Sequence[ServerResults]") -> None:
    """Say the totals, and end with exit status 1 where there are deviations."""
    from pacs.conformance.checks.matrix import totals
    from pacs.conformance.checks.results import ResultKind

    for each in columns:
        click.echo(f"{each.server} ({safe(each.implementation) or 'unnamed'}): {totals(each)}", err=True)
    if any(each.count(ResultKind.DEVIATES) for each in columns):
        raise click.exceptions.Exit(FAILED)
