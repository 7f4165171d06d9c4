"""`pacs db`: the schema of the index."""

from contextlib import closing
from typing import TYPE_CHECKING

import click

from pacs.cli.options import configured

if TYPE_CHECKING:
    from pacs.config import Config


@click.group()
def db() -> None:
    """The schema of the index."""


@db.command()
@configured
def upgrade(config: "Config") -> None:
    """Bring the schema of the index to that of this version."""
    from pacs.index import schema
    from pacs.index.database import Index

    with closing(Index(config.database.url)) as index:
        index.probe()
        before = schema.current(index)
        schema.upgrade(index)
        after = schema.current(index)
    click.echo(f"the index is at schema {after}" + (" already" if before == after else ""))


@db.command("check")
@configured
def check_schema(config: "Config") -> None:
    """Say whether the schema of the index is that of this version."""
    from pacs.index import schema
    from pacs.index.database import Index

    with closing(Index(config.database.url)) as index:
        index.probe()
        schema.check(index)
    click.echo(f"the index is at schema {schema.head()}, as it has to be")
