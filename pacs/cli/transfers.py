"""`pacs store`, `move`, `get`, `fetch` and `commit`: instances on their way, with a bar that shows how far they are."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pacs.cli.exit_status import FAILED, PARTLY
from pacs.cli.keys import Question, questioning
from pacs.cli.output import complain, counted, safe, size
from pacs.cli.peer_options import Call, calling
from pacs.cli.progress import shown
from pacs.errors import OperationFailed

if TYPE_CHECKING:
    from pacs.client import NotStored, Retrieved, Senders

EXAMPLES = 10
"""Instances shown of those that failed."""

SENDING = "PEER PATH..."

to_option = click.option(
    "--to", "-od", "folder", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
    help="Where the instances are written, by study and series; the working directory unless given.",
)  # fmt: skip
port_option = click.option(
    "--port", type=click.IntRange(0, 65535), default=11113, show_default=True, metavar="PORT",
    help="Where we listen for what is sent: who sends has it in its table. 0 takes any free port.",
)  # fmt: skip
from_option = click.option(
    "--from", "others", multiple=True, metavar="ADDRESS|anyone",
    help="Who may send to us besides the host of PEER, and then on any address of ours: an address, a network, anyone.",
)  # fmt: skip

verbose_option = click.option("-v", "--verbose", is_flag=True, help="Say each step: the counts as they come.")


# --- store and commit --------------------------------------------------------------------------------------------


@click.command(short_help="Send files and folders to an AE (C-STORE).")
@calling(SENDING)
@verbose_option
def store(call: Call, *, verbose: bool) -> None:
    """Send files and folders to an AE: PEER, then their paths, or - to read paths from standard input.

    What is no DICOM file in a folder is left out. PEER is AE_TITLE@HOST:PORT, a peer of the configuration, or HOST
    PORT with -aec AE_TITLE. The exit status is 1 when nothing was stored, 3 when something was refused.
    """
    from pacs import client

    paths = _paths(call.rest)
    with shown("storing", verbose=verbose) as tell:
        done = client.store(call.peer, *paths, on_progress=tell)
    left_out = f", {counted(done.skipped, 'file')} left out" if done.skipped else ""
    stored = f"{counted(done.completed, 'instance')}, {size(done.bytes)} stored"
    warned = f", {done.warning} with a warning" if done.warning else ""
    click.echo(f"{stored}{warned}, {len(done.failed)} failed{left_out}")
    _tell_not_stored(done.failed)
    if not (done.failed or done.completed):
        complain(f"there is no DICOM file in {', '.join(map(str, paths))}")
    if done.failed or not done.completed:
        raise click.exceptions.Exit(PARTLY if done.completed else FAILED)


@click.command(short_help="Ask an AE to answer for instances (storage commitment).")
@calling(SENDING)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, metavar="PORT", help="Take the report on this port of ours too."
)
@from_option
@click.option("--wait", type=float, default=60.0, show_default=True, metavar="SECONDS", help="For the report.")
def commit(call: Call, *, port: int, others: tuple[str, ...], wait: float) -> None:
    """Ask an AE to commit itself to keep the instances in files and folders: PEER, then their paths.

    The report comes on the same association, or with --port on one to us, where the AE knows us. The exit status is 1
    when there is no commitment to any, 3 when there is none to some; what is not reported has none.
    """
    from pacs import client

    done = client.commit(call.peer, _paths(call.rest), port=port, senders=_senders(others), timeout=wait)
    click.echo(f"committed to {counted(len(done.committed), 'instance')}, not to {len(done.failed)}")
    for each in done.failed[:EXAMPLES]:
        why = "not reported" if each.reference in done.unreported else f"failure reason 0x{each.reason:04X}"
        click.echo(f"    {safe(each.reference.sop_instance_uid)}: {why}", err=True)
    if done.failed:
        raise click.exceptions.Exit(PARTLY if done.committed else FAILED)


def _senders(others: tuple[str, ...]) -> "Senders":
    return "anyone" if "anyone" in others else others or "peer"


def _paths(words: Sequence[str]) -> list[Path]:
    """The paths named, with those on standard input where one is -."""
    if not words:
        raise click.UsageError("what to send is missing: expected files or folders behind PEER")
    paths = [Path(each) for word in words for each in (_lines() if word == "-" else [word])]
    for path in paths:
        if not path.exists():
            raise click.UsageError(f"{str(path)!r} is not there")
    return paths


def _lines() -> list[str]:
    return [line.rstrip("\n") for line in sys.stdin if line.strip()]


def _tell_not_stored(failed: "Sequence[NotStored]") -> None:
    """Each reason with how often it applied, and some of what it applied to."""
    reasons = Counter((each.status, each.comment) for each in failed)
    for (status, comment), count in reasons.most_common():
        code = "" if status is None else f"0x{status:04X}, "
        click.echo(f"{count} failed: {code}{safe(comment)}", err=True)
        those = [each.what for each in failed if (each.status, each.comment) == (status, comment)]
        for what in those[:EXAMPLES]:
            click.echo(f"    {safe(str(what))}", err=True)
        if len(those) > EXAMPLES:
            click.echo(f"    and {len(those) - EXAMPLES} more", err=True)


# --- retrieves ---------------------------------------------------------------------------------------------------


@click.command(short_help="Have an AE send instances, to us or elsewhere (C-MOVE).")
@calling()
@questioning(is_retrieve=True)
@click.option("-aem", "--destination", metavar="TITLE", help="The AE it sends to; without it, to us, into --to.")
@to_option
@port_option
@from_option
@verbose_option
def move(
    call: Call,
    question: Question,
    *,
    destination: str | None,
    folder: Path | None,
    port: int,
    others: tuple[str, ...],
    verbose: bool,
) -> None:
    """Have an AE send instances to another AE, -aem TITLE, or to us, into --to FOLDER.

    For the latter the AE has to know our AE title (-aet, else PACSCU), this host and --port; its host alone may send,
    and who is named by --from. PEER is AE_TITLE@HOST:PORT, a peer of the configuration, or HOST PORT with -aec
    AE_TITLE. The exit status is 3 when a part failed.
    """
    from pacs import client

    peer, identifier, root = call.alone(), question.identifier, question.root
    if destination is not None and folder is not None:
        raise click.UsageError("expected either -aem TITLE, another AE, or --to FOLDER")
    with _judged() as judge, shown("moving", verbose=verbose) as tell:
        if destination is None:
            to, title, senders = folder or Path(), call.receives_as, _senders(others)
            done = client.move_and_store(
                peer, identifier, to=to, ae_title=title, port=port, senders=senders, model=root, on_progress=tell
            )
            judge(done, to)
        else:
            judge(client.move(peer, identifier, destination=destination, model=root, on_progress=tell))


@click.command(short_help="Retrieve instances on the same association (C-GET).")
@calling()
@questioning(is_retrieve=True)
@to_option
@verbose_option
def get(call: Call, question: Question, *, folder: Path | None, verbose: bool) -> None:
    """Retrieve instances from an AE on the association that asks for them, into --to FOLDER.

    PEER is AE_TITLE@HOST:PORT, a peer of the configuration, or HOST PORT with -aec AE_TITLE. The exit status is 3 when
    a part failed.
    """
    from pacs import client

    peer, to = call.alone(), folder or Path()
    with _judged() as judge, shown("getting", verbose=verbose) as tell:
        judge(client.get(peer, question.identifier, to=to, model=question.root, on_progress=tell), to)


@click.command(short_help="Retrieve what a folder does not have yet, in the way that works.")
@calling()
@questioning()
@to_option
@port_option
@from_option
@verbose_option
def fetch(
    call: Call, question: Question, *, folder: Path | None, port: int, others: tuple[str, ...], verbose: bool
) -> None:
    """Retrieve instances into --to FOLDER: by C-GET where the AE offers it, else by C-MOVE to us.

    What the folder has already is not asked for again. PEER is AE_TITLE@HOST:PORT, a peer of the configuration, or HOST
    PORT with -aec AE_TITLE. The exit status is 3 when a part failed.
    """
    from pacs import client

    peer, to, root, senders = call.alone(), folder or Path(), question.root, _senders(others)
    with _judged() as judge, shown("fetching", verbose=verbose) as tell:
        done = client.fetch(
            peer,
            question.identifier,
            to=to,
            ae_title=call.receives_as,
            port=port,
            senders=senders,
            model=root,
            on_progress=tell,
        )
        judge(done, to)


@contextmanager
def _judged() -> "Iterator[Callable[..., None]]":
    """What to call with the outcome of a retrieve, and the folder it went to if it did; it is told at the end.

    A failure that left something behind ends the command with `PARTLY`.
    """
    told: list[tuple[Retrieved, Path | None]] = []
    try:
        yield lambda retrieved, folder=None: told.append((retrieved, folder))
    except OperationFailed as error:
        if not _has_something(error.retrieved):
            raise
        complain(str(error))
        _tell_uids(error.failed_uids)
        raise click.exceptions.Exit(PARTLY) from error
    for retrieved, folder in told:
        click.echo(_told(retrieved, folder))
        if _is_nothing(retrieved, folder):
            complain("nothing matches")
            raise click.exceptions.Exit(FAILED)


def _is_nothing(retrieved: "Retrieved", folder: Path | None) -> bool:
    """Whether nothing came: to another AE it is known only where the PACS counts."""
    if folder is not None:
        return not retrieved.paths
    return retrieved.completed == 0 and not retrieved.warning


def _has_something(retrieved: "Retrieved | None") -> bool:
    return retrieved is not None and bool(retrieved.paths or retrieved.completed or retrieved.warning)


def _told(retrieved: "Retrieved", folder: Path | None) -> str:
    warned = f", {retrieved.warning} with a warning" if retrieved.warning else ""
    if folder is None:
        return f"{counted((retrieved.completed or 0) + (retrieved.warning or 0), 'instance')} sent{warned}"
    known = f", {len(retrieved.skipped)} there already" if retrieved.skipped else ""
    again = (
        f"; {size(retrieved.bytes)} came, `pacs fetch` asks only for what is missing" if _came_again(retrieved) else ""
    )
    new = len(retrieved.paths) - len(retrieved.skipped)
    came = "" if again else f", {size(retrieved.bytes)}"
    return f"{counted(new, 'instance')}{came} in {folder}{known}{warned}{again}"


def _came_again(retrieved: "Retrieved") -> bool:
    """Whether most of what came was there already, and came in vain."""
    return bool(retrieved.bytes) and 2 * len(retrieved.skipped) > len(retrieved.paths)


def _tell_uids(uids: Iterable[str]) -> None:
    listed = list(uids)
    for uid in listed[:EXAMPLES]:
        click.echo(f"    {safe(uid)}", err=True)
    if len(listed) > EXAMPLES:
        click.echo(f"    and {len(listed) - EXAMPLES} more", err=True)
