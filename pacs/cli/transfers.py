"""`pacs store`, `move`, `get`, `fetch` and `commit`, with progress bars."""

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pacs.cli.completion import complete_title
from pacs.cli.exit_status import FAILED, PARTLY
from pacs.cli.matching_keys import WORDS, QueryArguments, Selects, query_options
from pacs.cli.options import Command, Seconds, as_option, with_options
from pacs.cli.output import plural, print_error, safe, size
from pacs.cli.peer_options import PeerCall, peer_command
from pacs.cli.progress import transfer_progress
from pacs.cli.reasons import print_some
from pacs.cli.verbosity import say
from pacs.dicom.levels import PLURAL, QueryLevel
from pacs.errors import AssociationLost, OperationFailed

if TYPE_CHECKING:
    from pacs.client import Committed, NotStored, Peer, Retrieved, Senders
    from pacs.dicom.commitment import Failure

EXAMPLES = 10
"""Number of failed instances shown."""

SENDING = "PEER PATH..."

to_option = click.option(
    "--to", "-od", "folder", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
    help="Folder for the received instances; default: the working directory.",
)  # fmt: skip
port_option = click.option(
    "--port", type=click.IntRange(0, 65535), default=11113, show_default=True, metavar="PORT",
    help="Local port that receives the instances, as configured at the sender; 0 chooses a free port.",
)  # fmt: skip
from_option = click.option(
    "--from", "others", multiple=True, metavar="ADDRESS|anyone",
    help="Further sender that may connect: an address, a network, or `anyone`; may be given several times.",
)  # fmt: skip
_receive_cert = click.option(
    "--receive-cert", default="", metavar="FILE",
    help="Certificate (PEM) of this host: senders must connect with TLS. Without it, they connect without TLS.",
)  # fmt: skip
_receive_key = click.option(
    "--receive-key", default="", metavar="FILE", help="Private key (PEM) of --receive-cert; default: in the same file."
)


_PERSISTENCE = (
    click.option("--check", is_flag=True, help="Query PEER for what should arrive, and fail unless all of it has."),
    click.option(
        "--retries", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
        help="Repeat a failed retrieve up to N times, after 1, 2, 4 ... 60 seconds.",
    ),
    click.option(
        "--max-time", type=Seconds(), metavar="SECONDS",
        help="Time limit of the whole retrieve, with its retries.",
    ),
)  # fmt: skip
_wait = click.option(
    "--wait", type=Seconds(or_none=True), default=10.0, show_default=True, metavar="SECONDS",
    help="After the final response to a C-MOVE, wait at most this time after each instance for the next one.",
)  # fmt: skip


persistence_options = with_options(*_PERSISTENCE)
"""Adds `--check`, `--retries` and `--max-time`, which are passed to the client by these names."""


@dataclass(frozen=True, slots=True)
class Reception:
    """How this host receives what a C-MOVE sends to it: the options of `reception_options`."""

    port: int
    others: tuple[str, ...]
    certificate: str
    key: str
    wait: float

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for the client. Raises click.UsageError."""
        from pacs.client import acceptor_tls

        if self.key and not self.certificate:
            raise click.UsageError("--receive-key needs --receive-cert")
        tls = acceptor_tls(certificate=self.certificate, key=self.key) if self.certificate else None
        return {"port": self.port, "senders": _senders(self.others), "tls": tls, "wait": self.wait}


def reception_options(command: Command) -> Command:
    """Add port, senders, certificate and `--wait` to a command, and pass it `reception`, a Reception."""

    @with_options(port_option, from_option, _receive_cert, _receive_key, _wait)
    @wraps(command)
    def run(
        *args: Any,
        port: int,
        others: tuple[str, ...],
        receive_cert: str,
        receive_key: str,
        wait: float,
        **arguments: Any,
    ) -> None:
        command(*args, reception=Reception(port, others, receive_cert, receive_key, wait), **arguments)

    return run


# --- store and commit --------------------------------------------------------------------------------------------


@click.command(short_help="Send files and folders (C-STORE).")
@peer_command(SENDING)
@as_option
def store(call: PeerCall, *, send_as: tuple[str, ...]) -> None:
    """Send files and folders to PEER; - reads paths from standard input.

    Compressed images are decompressed where PEER does not accept them as they are; with --as, all images are converted.
    Files in folders that are not DICOM are skipped; damaged and unreadable ones count as failed. PEER is
    AE_TITLE@HOST:PORT, the AE title of a configured peer, or HOST PORT with -aec AE_TITLE. The exit status is 1 when
    nothing was stored, 3 when some instances failed.
    """
    from pacs import client

    paths = _paths(call.rest)
    with transfer_progress("storing") as show_progress:
        done = client.store(call.peer, *paths, send_as=send_as, on_progress=show_progress)
    skipped = f", {plural(done.skipped, 'file')} skipped" if done.skipped else ""
    stored = f"{plural(done.completed, 'instance')}, {size(done.bytes)} stored"
    warned = f", {done.warning} with a warning" if done.warning else ""
    converted = f", {done.converted} converted" if done.converted else ""
    say(f"{stored}{converted}{warned}, {len(done.failed)} failed{skipped}")
    for notice in done.notices:
        say(f"converted copies: {safe(notice)}", err=True)
    _print_not_stored(done.failed)
    if not (done.failed or done.completed):
        print_error(f"no DICOM file found in {', '.join(map(str, paths))}")
    if done.failed or not done.completed:
        raise click.exceptions.Exit(PARTLY if done.completed else FAILED)


@click.command(short_help="Request storage commitment (N-ACTION).")
@peer_command(SENDING)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="PORT",
    help="Also accept the report on this local port.",
)
@from_option
@click.option(
    "--wait",
    type=Seconds(or_none=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Timeout of the report.",
)
def commit(call: PeerCall, *, port: int, others: tuple[str, ...], wait: float) -> None:
    """Request storage commitment from PEER for the instances in files and folders.

    PEER reports on the same association or, with --port, on a new association to this host. The exit status is 1 when
    no instance was committed, 3 when some were not; an instance that was not reported counts as not committed.
    """
    from pacs import client

    done = client.commit(call.peer, _paths(call.rest), port=port, senders=_senders(others), timeout=wait)
    say(f"{plural(len(done.committed), 'instance')} committed, {len(done.failed)} not committed")
    print_some([_not_committed(done, each) for each in done.failed], EXAMPLES)
    if done.failed:
        raise click.exceptions.Exit(PARTLY if done.committed else FAILED)


def _not_committed(done: "Committed", failed: "Failure") -> str:
    is_reported = failed.reference not in done.unreported
    why = f"failure reason 0x{failed.reason:04X}" if is_reported else "not reported"
    return f"{failed.reference.sop_instance_uid}: {why}"


def _senders(others: tuple[str, ...]) -> "Senders":
    return "anyone" if "anyone" in others else others or "peer"


def _paths(words: Sequence[str]) -> list[Path]:
    """Return the given paths, with - replaced by the paths on standard input. Raises click.UsageError."""
    if not words:
        raise click.UsageError("no paths given; expected files or folders after PEER")
    paths = [Path(each) for word in words for each in (_lines() if word == "-" else [word])]
    for path in paths:
        if not path.exists():
            raise click.UsageError(f"{str(path)!r} does not exist")
    return paths


def _lines() -> list[str]:
    return [line.rstrip("\n") for line in sys.stdin if line.strip()]


def _print_not_stored(failed: "Sequence[NotStored]") -> None:
    """Print each reason with its count and some of the instances."""
    reasons = Counter((each.status, each.comment) for each in failed)
    for (status, comment), count in reasons.most_common():
        code = "" if status is None else f"0x{status:04X}, "
        click.echo(f"{count} failed: {code}{safe(comment)}", err=True)
        print_some([str(each.what) for each in failed if (each.status, each.comment) == (status, comment)], EXAMPLES)


# --- retrieves ---------------------------------------------------------------------------------------------------


@click.command(short_help="Retrieve instances, or move them to another AE (C-MOVE).")
@peer_command(f"PEER {WORDS}", takes_words=True)
@query_options(Selects.AT_A_PEER_TO_RETRIEVE)
@click.option(
    "-aem",
    "--destination",
    metavar="TITLE",
    shell_complete=complete_title,
    help="Move destination; default: this host, into --to.",
)
@to_option
@reception_options
@persistence_options
def move(
    call: PeerCall,
    query: QueryArguments,
    *,
    destination: str | None,
    folder: Path | None,
    reception: Reception,
    **persistence: Any,
) -> None:
    """Make PEER send instances to another AE, -aem TITLE, or to this host, into --to FOLDER.

    To send to this host, PEER must know the AE title (-aet, else PACSCU), this host and --port; only PEER and the hosts
    named by --from may connect. PEER is AE_TITLE@HOST:PORT, the AE title of a configured peer, or HOST PORT with -aec
    AE_TITLE. The exit status is 3 when some instances failed.
    """
    from pacs import client

    peer, identifier = call.alone(), query.identifier
    if destination is not None and folder is not None:
        raise click.UsageError("expected either -aem TITLE or --to FOLDER, not both")
    with _lookup_named(peer, query), _retrieve_result() as set_result, transfer_progress("moving") as show_progress:
        common = {"model": query.root, "on_progress": show_progress, **persistence}
        if destination is None:
            to, common = folder or Path(), common | reception.arguments()
            set_result(client.move_and_store(peer, identifier, to=to, ae_title=call.receives_as, **common), to)
        else:
            set_result(client.move(peer, identifier, destination=destination, **common))


@click.command(short_help="Retrieve instances (C-GET).")
@peer_command(f"PEER {WORDS}", takes_words=True)
@query_options(Selects.AT_A_PEER_TO_RETRIEVE)
@to_option
@persistence_options
def get(call: PeerCall, query: QueryArguments, *, folder: Path | None, **persistence: Any) -> None:
    """Retrieve instances from PEER with a C-GET into --to FOLDER.

    PEER is AE_TITLE@HOST:PORT, the AE title of a configured peer, or HOST PORT with -aec AE_TITLE. The exit status is 3
    when some instances failed.
    """
    from pacs import client

    peer, to = call.alone(), folder or Path()
    with _lookup_named(peer, query), _retrieve_result() as set_result, transfer_progress("getting") as show_progress:
        common = {"model": query.root, "on_progress": show_progress, **persistence}
        set_result(client.get(peer, query.identifier, to=to, **common), to)


@click.command(short_help="Retrieve missing instances (C-GET or C-MOVE).")
@peer_command(f"PEER {WORDS}", takes_words=True)
@query_options()
@to_option
@reception_options
@persistence_options
def fetch(
    call: PeerCall,
    query: QueryArguments,
    *,
    folder: Path | None,
    reception: Reception,
    **persistence: Any,
) -> None:
    """Retrieve instances into --to FOLDER: with C-GET if PEER supports it, else with C-MOVE to this host.

    Instances that are already in the folder are not retrieved again. PEER is AE_TITLE@HOST:PORT, the AE title of a
    configured peer, or HOST PORT with -aec AE_TITLE. The exit status is 3 when some instances failed.
    """
    from pacs import client

    peer, to = call.alone(), folder or Path()
    with _retrieve_result() as set_result, transfer_progress("fetching") as show_progress:
        common = {"model": query.root, "on_progress": show_progress, **reception.arguments(), **persistence}
        set_result(client.fetch(peer, query.identifier, to=to, ae_title=call.receives_as, **common), to)


@contextmanager
def _lookup_named(peer: "Peer", query: QueryArguments) -> Iterator[None]:
    """Add the command that lists the unique keys to the error of a body whose Identifier is not one of a retrieve."""
    from pacs.dicom.status import IDENTIFIER_DOES_NOT_MATCH

    try:
        yield
    except OperationFailed as error:
        if error.status == IDENTIFIER_DOES_NOT_MATCH:
            error.comment += f"; list the unique keys with `{_lookup(peer, query)}`"
        raise


def _lookup(peer: "Peer", query: QueryArguments) -> str:
    """Return the `pacs find` with the keys of a retrieve that has its unique keys as return keys."""
    from pacs.cli.values import tag_of, text_value
    from pacs.dicom.dataset import dictionary_vr

    tags = {key: tag_of(key) for key in query.keys if key not in query.returned}
    matching = {key: text_value(query.identifier, tag) for key, tag in tags.items() if dictionary_vr(tag) != "SQ"}
    words = [f"{key}={value}" for key, value in matching.items()]
    unique = [each.unique_key for each in QueryLevel if each <= query.level]
    more = [word for key in unique if key not in matching for word in ("-k", key)]
    return shlex.join(["pacs", "find", str(peer), PLURAL[query.level], *words, *more])


@contextmanager
def _retrieve_result() -> "Iterator[Callable[..., None]]":
    """Yield a function that takes the result of a retrieve and its folder, and print that result after the body.

    A failure after some instances ends the command with `PARTLY`.
    """
    results: list[tuple[Retrieved, Path | None]] = []
    try:
        yield lambda retrieved, folder=None: results.append((retrieved, folder))
    except (OperationFailed, AssociationLost) as error:
        if not _is_partial(error.retrieved):
            raise
        print_error(f"{error}\n{_count(error.retrieved)}")
        _print_uids((*error.retrieved.failed_uids, *error.retrieved.missing))
        raise click.exceptions.Exit(PARTLY) from error
    for retrieved, folder in results:
        say(_summary(retrieved, folder))
        if folder is not None and retrieved.expected is None:
            say(_UNCOUNTED, err=True)
        if _is_empty(retrieved, folder):
            print_error("no matches")
            raise click.exceptions.Exit(FAILED)


def _is_empty(retrieved: "Retrieved", folder: Path | None) -> bool:
    """Return whether a retrieve had no matches; to another AE this is known only if the peer counts sub-operations."""
    if folder is not None:
        return not retrieved.paths
    return retrieved.completed == 0 and not retrieved.warning


_UNCOUNTED = "PEER neither counts nor lists its instances, so that nothing says whether all have arrived"


def _count(retrieved: "Retrieved") -> str:
    """Return how much of a failed retrieve arrived, or was sent to another AE."""
    arrived = len(retrieved.paths) or (retrieved.completed or 0) + (retrieved.warning or 0)
    return f"{plural(arrived, 'instance')} arrived"


def _is_partial(retrieved: "Retrieved | None") -> bool:
    return retrieved is not None and bool(retrieved.paths or retrieved.completed or retrieved.warning)


def _summary(retrieved: "Retrieved", folder: Path | None) -> str:
    warned = f", {retrieved.warning} with a warning" if retrieved.warning else ""
    if folder is None:
        return f"{plural((retrieved.completed or 0) + (retrieved.warning or 0), 'instance')} sent{warned}"
    known = f", {len(retrieved.skipped)} already present" if retrieved.skipped else ""
    hint = (
        f"; {size(retrieved.bytes)} received, `pacs fetch` retrieves only missing instances"
        if _is_mostly_known(retrieved)
        else ""
    )
    new = len(retrieved.paths) - len(retrieved.skipped)
    received = "" if hint else f", {size(retrieved.bytes)}"
    return f"{plural(new, 'instance')}{received} in {folder}{known}{warned}{hint}"


def _is_mostly_known(retrieved: "Retrieved") -> bool:
    """Return whether most received instances were already in the folder."""
    return bool(retrieved.bytes) and 2 * len(retrieved.skipped) > len(retrieved.paths)


def _print_uids(uids: Iterable[str]) -> None:
    print_some(list(uids), EXAMPLES)
