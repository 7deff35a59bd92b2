"""The newest run of a table or view is the end of an index, however long the ledger is."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let the indexes of the ledger end with the order of its runs."""
    for column in ("table", "view"):
        op.drop_index(f"materialization_{column}", "materialization")
        op.create_index(f"materialization_{column}", "materialization", ["project", column, "seq"])
