"""What Alembic runs to migrate: our open connection, inside our transaction and lock."""

from __future__ import annotations

from alembic import context

from featurestore.stores.registry.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
context.run_migrations()
