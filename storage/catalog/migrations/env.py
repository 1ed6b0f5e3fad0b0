"""Alembic's entry point: runs the migrations on the connection that `database.upgrade` hands over."""

from alembic import context

from dcmpress.storage.catalog.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
