"""The command `pacs`. What is heavy is imported inside the commands, so that `pacs --help` answers at once."""

from typing import Any

import click

from pacs import __version__
from pacs.cli import (
    archive,
    check,
    conformance,
    database,
    explain,
    maintenance,
    passcode,
    peers,
    query,
    recording,
    serve,
    transfers,
)
from pacs.cli.exit_status import INTERRUPTED, exit_status
from pacs.cli.output import complain
from pacs.errors import PacsError


class Commands(click.Group):
    """The group of commands, with the project's own errors shown as sentences: what is wrong and how to mend it."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a PacsError ends it with its exit status."""
        try:
            return super().invoke(ctx)
        except PacsError as error:
            complain("\n".join((error.comment, *getattr(error, "__notes__", ()))))
            raise click.exceptions.Exit(exit_status(error)) from error
        except KeyboardInterrupt as error:
            complain("interrupted")
            raise click.exceptions.Exit(INTERRUPTED) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pacs")
def main() -> None:
    """A DICOM archive: store, find, move and get, over an SQL index and a file store."""


for command in (
    serve.serve,
    check.check,
    database.db,
    archive.import_,
    archive.ls,
    archive.delete,
    archive.export,
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
    passcode.passcode,
    conformance.conformance,
    recording.record,
    recording.replay,
):
    main.add_command(command)
