"""Records, edges, aliases and their events, blobs, and the ledger of materialization."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the first schema."""
    op.create_table(
        "record",
        sa.Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("project", sa.String(128), nullable=False),
        sa.Column("id", sa.String(642), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.UniqueConstraint("project", "id", name="record_id"),
    )
    op.create_index("record_kind_name", "record", ["project", "kind", "name"])
    op.create_table(
        "edge",
        sa.Column("project", sa.String(128), nullable=False),
        sa.Column(
            "child", SEQUENCE, sa.ForeignKey("record.seq"), primary_key=True, autoincrement=False
        ),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("parent", SEQUENCE, sa.ForeignKey("record.seq"), nullable=False),
        sa.Column("role", sa.String(64), nullable=False),
        sa.Column("transformation", sa.String(8), nullable=False),
    )
    op.create_index("edge_parent", "edge", ["parent", "child"])
    _create_aliases()
    op.create_table(
        "blob",
        sa.Column("project", sa.String(128), primary_key=True),
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    _create_ledger()


def _create_aliases() -> None:
    op.create_table(
        "alias",
        sa.Column("project", sa.String(128), primary_key=True),
        sa.Column("name", sa.String(512), primary_key=True),
        sa.Column("target", SEQUENCE, sa.ForeignKey("record.seq"), nullable=False),
        sa.Column("serial", sa.Integer, nullable=False),
    )
    op.create_table(
        "alias_event",
        sa.Column("project", sa.String(128), primary_key=True),
        sa.Column("name", sa.String(512), primary_key=True),
        sa.Column("serial", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("previous", SEQUENCE, sa.ForeignKey("record.seq")),
        sa.Column("target", SEQUENCE, sa.ForeignKey("record.seq")),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )


def _create_ledger() -> None:
    op.create_table(
        "materialization",
        sa.Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("project", sa.String(128), nullable=False),
        sa.Column("run_id", sa.String(128), nullable=False),
        sa.Column("view", sa.String(512), nullable=False),
        sa.Column("view_version", sa.String(64), nullable=False),
        sa.Column("table", sa.String(64), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("start_us", sa.BigInteger),
        sa.Column("end_us", sa.BigInteger, nullable=False),
        sa.Column("watermark_us", sa.BigInteger),
        sa.Column("reach_us", sa.BigInteger),
        sa.Column("rows_read", sa.BigInteger, nullable=False),
        sa.Column("rows_written", sa.BigInteger, nullable=False),
        sa.Column("rows_skipped", sa.BigInteger, nullable=False),
        sa.Column("started_at_us", sa.BigInteger, nullable=False),
        sa.Column("finished_at_us", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("project", "run_id", name="materialization_run"),
    )
    op.create_index("materialization_table", "materialization", ["project", "table"])
    op.create_index("materialization_view", "materialization", ["project", "view"])
