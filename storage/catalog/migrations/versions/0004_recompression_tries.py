"""How often a re-compression of a blob was begun in vain, and why it is not tried any more."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add two columns."""
    tries = sa.Column("recompression_tries", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    op.add_column("blob", tries)
    op.add_column("blob", sa.Column("left_alone", TEXT, nullable=True))
