"""The ledger counts the values of a run that are NULL for want of a result."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; runs of before counted none."""
    op.add_column(
        "materialization",
        sa.Column("values_undefined", sa.BigInteger, nullable=False, server_default="0"),
    )
