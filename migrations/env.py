"""How alembic meets the index: on the connection that `pacs.index.schema` hands over, inside its transaction."""

from alembic import context

from pacs.index.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
