"""The command `pacs`. Commands import heavy packages when they run, so that `pacs --help` is fast."""

import logging
import traceback
from typing import Any

import click

from pacs import __version__
from pacs.cli import (
    archive,
    check,
    completion,
    configuration,
    conformance,
    database,
    dump,
    explain,
    importing,
    listing,
    maintenance,
    passcode,
    peers,
    query,
    recording,
    render,
    serve,
    transfers,
)
from pacs.cli.exit_status import INTERRUPTED, exit_status
from pacs.cli.output import print_error
from pacs.cli.peer_hints import with_hint
from pacs.cli.streams import checked_output, escape_output
from pacs.cli.verbosity import Verbosity, add_verbosity, verbosity
from pacs.errors import PacsError


class Commands(click.Group):
    """The group of all commands; shows a `PacsError`, and output that fails, as a sentence instead of a traceback."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run as the program `pacs`."""
        escape_output()
        return super().main(*arguments, **options)

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        """Parse the options, which may print the help."""
        with checked_output():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, and write all of its output."""
        with checked_output():
            return self._run(ctx)

    def _run(self, ctx: click.Context) -> Any:
        """Run a command; end it with the exit status of a PacsError.

        Warnings of libraries go to the log, which only some commands show: pydicom's quote values of patients, and what
        a user must know is said in a sentence.
        """
        logging.captureWarnings(True)
        try:
            return super().invoke(ctx)
        except PacsError as error:
            if verbosity() is Verbosity.DEBUG:
                traceback.print_exception(error)
            print_error("\n".join((with_hint(error), *getattr(error, "__notes__", ()))))
            raise click.exceptions.Exit(exit_status(error)) from error
        except (KeyboardInterrupt, click.Abort) as error:
            if isinstance(error, click.Abort) and not isinstance(error.__context__, KeyboardInterrupt):
                raise  # the user did not confirm
            print_error("interrupted")
            raise click.exceptions.Exit(INTERRUPTED) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pacs")
def main() -> None:
    """DICOM archive and client: C-STORE, C-FIND, C-MOVE, C-GET and storage commitment."""


for command in (
    serve.serve,
    check.check,
    database.db,
    importing.import_,
    listing.ls,
    archive.delete,
    archive.export,
    dump.dump,
    render.render,
    explain.explain,
    maintenance.fsck,
    maintenance.reindex,
    maintenance.backup,
    maintenance.restore,
    query.echo,
    query.find,
    transfers.store,
    transfers.move,
    transfers.get,
    transfers.fetch,
    transfers.commit,
    peers.peers,
    configuration.config,
    passcode.passcode,
    conformance.conformance,
    recording.record,
    recording.replay,
    completion.completion,
):
    add_verbosity(command, sets_log_level=command is serve.serve)
    main.add_command(command)
