"""`pacs record` and `pacs replay`: recordings of associations."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

import click

from pacs.cli.output import plural
from pacs.cli.verbosity import say
from pacs.errors import ConfigurationError, StorageUnavailable
from pacs.support.sockets import host_and_port

port_option = click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="PORT",
    help="Port to listen on; 0 chooses a free port.",
)
host_option = click.option(
    "--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on."
)


@click.command(short_help="Record associations between an SCU and a server.")
@click.argument("target", metavar="[AE_TITLE@]HOST:PORT")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@host_option
@port_option
def record(target: str, file: Path, host: str, port: int) -> None:
    """Relay associations to the server at HOST:PORT, and record them de-identified in FILE.

    Configure the SCU to connect to the printed port instead of the server's. Ctrl-C ends the recording. Associations
    with TLS cannot be recorded.
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
        ours, theirs = host_and_port(host, relay.port), host_and_port(*address)
        say(f"pacs is recording: connect to {ours} instead of {theirs}; stop with Ctrl-C")
        wait()
        failure = relay.failure
    if failure is not None:
        why = getattr(failure, "strerror", None) or type(failure).__name__
        raise StorageUnavailable(f"recording stopped early ({why}); {str(file)!r} has the messages until then")
    summary = f"{plural(writer.associations, 'association')}, {plural(writer.messages, 'message')}"
    say(f"{summary} in {file}. Names, texts, dates and UIDs are pseudonyms; codes and times are not.")
    say("Review the file before you share it.")


@click.command(short_help="Replay the server of a recording.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@host_option
@port_option
def replay(file: Path, host: str, port: int) -> None:
    """Answer like the server in FILE, a recording of `pacs record`. Ctrl-C ends it.

    A request gets the responses of the most similar recorded request of the same operation that was not used yet. Keys
    are not compared: a request that is similar to no recorded request also gets a recorded response.
    """
    from pacs.dimse.server.server import DimseServer
    from pacs.recording.file_format import read
    from pacs.recording.replay import Replay

    settings = Replay(read(file)).settings
    server = DimseServer([(host, port)], settings)
    with _until_signalled() as wait:
        with _listening(host, port):
            server.start()
        try:
            say(f"pacs is replaying {file} on {host_and_port(host, server.port)}; stop with Ctrl-C")
            wait()
        finally:
            server.stop()


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    """Create the file of a recording. Raises StorageUnavailable."""
    try:
        stream = file.open("w", encoding="utf-8")
    except OSError as error:
        raise StorageUnavailable(f"cannot write {str(file)!r} ({error.strerror}); choose another FILE") from error
    try:
        yield stream
    finally:
        with suppress(OSError):  # every line was flushed, and a failure of that reported
            stream.close()


@contextmanager
def _listening(host: str, port: int) -> Iterator[None]:
    """Translate an OSError of a body that begins to listen into a ConfigurationError."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host_and_port(host, port)} ({error.strerror}); choose another --port"
        ) from error


@contextmanager
def _until_signalled() -> Iterator[Callable[[], object]]:
    """Yield a function that waits for SIGINT or SIGTERM; signals count from the beginning of the block."""
    from pacs.daemon import SignalWaiter

    with SignalWaiter((signal.SIGTERM, signal.SIGINT)) as waiter:
        yield waiter.wait
