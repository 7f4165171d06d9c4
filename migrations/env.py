"""The environment of alembic: runs the migrations on the connection of `pacs.index.schema`, in its transaction."""

from alembic import context

from pacs.index.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
