"""The command `pacs`. What is heavy is imported inside the commands, so that `pacs --help` answers at once."""

from typing import Any

import click

from pacs import __version__
from pacs.cli import check, conformance, contents, database, explain, passcode, peers, serve, upkeep
from pacs.errors import ConfigurationError, PacsError


class Failure(click.ClickException):
    """An error as people see it: what is wrong and how to mend it. Never a traceback."""

    def show(self, file: Any = None) -> None:
        """Print each line of the error behind the name of the command."""
        for line in self.message.splitlines():
            click.echo(f"pacs: {line}", file=file, err=True)


class Mistake(Failure):
    """An error in the configuration, which ends a command like a mistake in its options."""

    exit_code = 2


class Commands(click.Group):
    """The group of commands, with the project's own errors shown as sentences."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a PacsError ends it with exit status 1, a mistake in the configuration with 2."""
        try:
            return super().invoke(ctx)
        except PacsError as error:
            failure = Mistake if isinstance(error, ConfigurationError) else Failure
            raise failure(error.comment) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pacs")
def main() -> None:
    """A DICOM archive: store, find, move and get, over an SQL index and a file store."""


for command in (
    serve.serve,
    check.check,
    database.db,
    contents.import_,
    contents.ls,
    contents.delete,
    contents.export,
    explain.explain,
    upkeep.fsck,
    upkeep.reindex,
    upkeep.backup,
    upkeep.restore,
    peers.peers,
    passcode.passcode,
    conformance.conformance,
):
    main.add_command(command)
