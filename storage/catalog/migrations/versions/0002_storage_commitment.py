"""Requests for storage commitment, which survive restarts."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the table and its index."""
    op.create_table(
        "commitment_request",
        sa.Column("pk", KEY, nullable=False),
        sa.Column("transaction_uid", TEXT, nullable=False),
        sa.Column("requestor_ae", TEXT, nullable=False),
        sa.Column("references", TEXT, nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("pk", name="pk_commitment_request"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_commitment_request_next_attempt_at", "commitment_request", ["next_attempt_at"])
