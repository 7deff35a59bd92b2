"""Experiment tracking: runs, their parameters, metrics, tags, notes and artifacts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables of runs."""
    op.create_table(
        "run",
        sa.Column("run", SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("project", sa.String(128), nullable=False),
        sa.Column("run_id", sa.String(32), nullable=False),
        sa.Column("record", SEQUENCE, sa.ForeignKey("record.seq"), nullable=False),
        sa.Column("parent", SEQUENCE, sa.ForeignKey("run.run")),
        sa.Column("experiment", sa.String(256), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("started_at_us", sa.BigInteger, nullable=False),
        sa.Column("ended_at_us", sa.BigInteger),
        sa.Column("heartbeat_at_us", sa.BigInteger),
        sa.UniqueConstraint("project", "run_id", name="run_id"),
    )
    op.create_index("run_experiment", "run", ["project", "experiment", "started_at_us"])
    op.create_index("run_record", "run", ["record"])
    op.create_index("run_parent", "run", ["parent"])
    _create_texts()
    _create_metrics()


def _of_run() -> sa.Column[int]:
    return sa.Column(
        "run", SEQUENCE, sa.ForeignKey("run.run"), primary_key=True, autoincrement=False
    )


def _create_texts() -> None:
    op.create_table(
        "run_param",
        _of_run(),
        sa.Column("key", sa.String(250), primary_key=True),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("number", sa.Float(53)),
    )
    op.create_table(
        "run_tag",
        _of_run(),
        sa.Column("key", sa.String(250), primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_table(
        "run_note",
        sa.Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("run", SEQUENCE, sa.ForeignKey("run.run"), nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_index("run_note_run", "run_note", ["run"])
    op.create_table(
        "run_artifact",
        _of_run(),
        sa.Column("path", sa.String(512), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
    )


def _create_metrics() -> None:
    op.create_table(
        "run_metric",
        sa.Column("metric", SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("run", SEQUENCE, sa.ForeignKey("run.run"), nullable=False),
        sa.Column("key", sa.String(250), nullable=False),
        sa.Column("value", sa.Float(53)),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("least", sa.Float(53)),
        sa.Column("greatest", sa.Float(53)),
        sa.Column("points", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("run", "key", name="run_metric_key"),
    )
    op.create_table(
        "metric_point",
        sa.Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("metric", SEQUENCE, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("value", sa.Float(53)),
    )
    op.create_index("metric_point_step", "metric_point", ["metric", "step"])
    op.create_table(
        "run_writer",
        _of_run(),
        sa.Column("writer", sa.String(32), primary_key=True),
        sa.Column("batch", sa.Integer, nullable=False),
    )
