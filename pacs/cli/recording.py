"""`pacs record` and `pacs replay`: associations on tape."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

import click

from pacs.cli.output import counted
from pacs.errors import ConfigurationError, StorageUnavailable

port_option = click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="PORT",
    help="The port to listen on; 0 takes any free one.",
)
host_option = click.option(
    "--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="The address to listen on."
)


@click.command(short_help="Record associations between an SCU and a server.")
@click.argument("target", metavar="[AE_TITLE@]HOST:PORT")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@host_option
@port_option
def record(target: str, file: Path, host: str, port: int) -> None:
    """Stand between an SCU and the server at HOST:PORT, and write what they say to each other to FILE, de-identified.

    The SCU calls the port that is printed instead of the server's. Ctrl-C ends the recording. Encrypted associations
    cannot be recorded.
    """
    from pacs.config import split_address
    from pacs.recording.file_format import RecordingWriter
    from pacs.recording.relay import Relay

    try:
        address = split_address(target.rpartition("@")[2])
    except ValueError as error:
        raise click.UsageError(f"{target!r}: {error}") from error
    with _until_signalled() as wait, _opened(file) as stream, ExitStack() as running:
        writer = RecordingWriter(stream)
        with _listening(host, port):
            relay = running.enter_context(Relay((host, port), address, writer.write))
        click.echo(f"pacs records: call {host}:{relay.port} instead of {address[0]}:{address[1]}; Ctrl-C ends it")
        wait()
        failure = relay.failure
    if failure is not None:
        why = getattr(failure, "strerror", None) or type(failure).__name__
        raise StorageUnavailable(f"the recording ended early ({why}): what was said before is in {file}")
    said = f"{counted(writer.associations, 'association')}, {counted(writer.messages, 'message')}"
    click.echo(f"{said} in {file}: names, texts, dates and UIDs are pseudonyms, codes and times are not;")
    click.echo("look at it before you give it away")


@click.command(short_help="Serve as the server of a recording did.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@host_option
@port_option
def replay(file: Path, host: str, port: int) -> None:
    """Answer as the server in FILE did, a file that `pacs record` has written. Ctrl-C ends it.

    Answers are chosen by likeness, not by matching: a request has the answers of the recorded request of its operation
    that is most like it and was not used yet, whatever keys it asks for. One that is like none has some answer, too.
    """
    from pacs.dimse.server.server import Server
    from pacs.recording.file_format import read
    from pacs.recording.replay import Replay

    settings = Replay(read(file)).settings
    server = Server([(host, port)], settings)
    with _until_signalled() as wait:
        with _listening(host, port):
            server.start()
        try:
            click.echo(f"pacs replays {file} on {host}:{server.port}; Ctrl-C ends it")
            wait()
        finally:
            server.stop()


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    """A new file for a recording. Raises StorageUnavailable where there cannot be one."""
    try:
        stream = file.open("w", encoding="utf-8")
    except OSError as error:
        raise StorageUnavailable(f"{file}: cannot be written ({error.strerror})") from error
    try:
        yield stream
    finally:
        with suppress(OSError):  # it is flushed with every line: what could not be written was told already
            stream.close()


@contextmanager
def _listening(host: str, port: int) -> Iterator[None]:
    """Where the body begins to listen: says so where that cannot be."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host}:{port} ({error.strerror}): name another --port") from error


@contextmanager
def _until_signalled() -> Iterator[Callable[[], object]]:
    """What waits for Ctrl-C, or SIGTERM: either may come from the beginning of the block on."""
    from pacs.daemon import SignalWaiter

    with SignalWaiter((signal.SIGTERM, signal.SIGINT)) as waiter:
        yield waiter.wait
