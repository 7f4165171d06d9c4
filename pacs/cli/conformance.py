"""`pacs conformance`."""

from typing import TYPE_CHECKING

import click

from pacs.cli.options import configured

if TYPE_CHECKING:
    from pacs.config import Config


@click.command(short_help="Print the DICOM conformance statement.")
@configured
def conformance(config: "Config") -> None:
    """Print the DICOM conformance statement (PS3.2) of this configuration in Markdown."""
    from pacs.conformance import statement

    click.echo(statement(config), nl=False)
