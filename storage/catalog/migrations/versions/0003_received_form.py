"""What was received, where a rule let another encoding of it be kept (pixel-exact)."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add three columns, which are empty for whatever is kept as it came."""
    op.add_column("instance", sa.Column("received_transfer_syntax_uid", TEXT, nullable=True))
    op.add_column("instance", sa.Column("received_size", sa.BigInteger(), nullable=True))
    op.add_column("instance", sa.Column("received_sha256", sa.LargeBinary(), nullable=True))
