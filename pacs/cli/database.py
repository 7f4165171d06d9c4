"""`pacs db`: the schema of the index."""

from contextlib import closing
from typing import TYPE_CHECKING

import click

from pacs.cli.options import with_config
from pacs.cli.verbosity import say

if TYPE_CHECKING:
    from pacs.config import Config


@click.group()
def db() -> None:
    """Upgrade or check the database schema of the index."""


@db.command()
@with_config
def upgrade(config: "Config") -> None:
    """Upgrade the schema of the index to this version of pacs."""
    from pacs.index import schema
    from pacs.index.database import Index

    with closing(Index(config.database.url)) as index:
        index.probe()
        before = schema.current(index)
        schema.upgrade(index)
        after = schema.current(index)
    if before is None or before == after:
        say(f"the index {'now' if before is None else 'already'} has schema {after}")
    else:
        say(f"the index was upgraded from schema {before} to {after}; an older pacs cannot open it")


@db.command("check")
@with_config
def check_schema(config: "Config") -> None:
    """Check the schema of the index for this version of pacs."""
    from pacs.archive import require_existing
    from pacs.index import schema
    from pacs.index.database import Index

    require_existing(config, files=False)
    with closing(Index(config.database.url)) as index:
        index.probe()
        schema.check(index)
    say(f"the index has schema {schema.head()}, as expected")
