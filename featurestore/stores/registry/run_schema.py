"""The tables of experiment tracking. A run has a numeric key of its own; a metric point is four
numbers. NaN is stored as NULL, which no comparison meets, on SQLite as on Postgres."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from featurestore.stores.registry.run_words import (
    EXPERIMENT_CHARS_MAX,
    KEY_CHARS_MAX,
    RUN_ID_CHARS,
    RUN_NAME_CHARS_MAX,
)
from featurestore.stores.registry.schema import (
    HASH_CHARS,
    PROJECT_CHARS_MAX,
    SEQUENCE,
    metadata,
)

run = Table(
    "run",
    metadata,
    Column("run", SEQUENCE, primary_key=True, autoincrement=True),
    Column("project", String(PROJECT_CHARS_MAX), nullable=False),
    Column("run_id", String(RUN_ID_CHARS), nullable=False),
    Column("record", SEQUENCE, ForeignKey("record.seq"), nullable=False),
    Column("parent", SEQUENCE, ForeignKey("run.run")),
    Column("experiment", String(EXPERIMENT_CHARS_MAX), nullable=False),
    Column("name", String(RUN_NAME_CHARS_MAX), nullable=False),
    Column("user", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("error", Text, nullable=False),
    Column("started_at_us", BigInteger, nullable=False),
    Column("ended_at_us", BigInteger),
    Column("heartbeat_at_us", BigInteger),
    UniqueConstraint("project", "run_id", name="run_id"),
    Index("run_experiment", "project", "experiment", "started_at_us"),
    Index("run_record", "record"),
    Index("run_parent", "parent"),
)

run_param = Table(
    "run_param",
    metadata,
    Column("run", SEQUENCE, ForeignKey("run.run"), primary_key=True, autoincrement=False),
    Column("key", String(KEY_CHARS_MAX), primary_key=True),
    Column("kind", String(8), nullable=False),
    Column("text", Text, nullable=False),
    Column("number", Float(53)),
)

run_tag = Table(
    "run_tag",
    metadata,
    Column("run", SEQUENCE, ForeignKey("run.run"), primary_key=True, autoincrement=False),
    Column("key", String(KEY_CHARS_MAX), primary_key=True),
    Column("text", Text, nullable=False),
)

run_note = Table(
    "run_note",
    metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("run", SEQUENCE, ForeignKey("run.run"), nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("author", Text, nullable=False),
    Column("text", Text, nullable=False),
    Index("run_note_run", "run"),
)

run_artifact = Table(
    "run_artifact",
    metadata,
    Column("run", SEQUENCE, ForeignKey("run.run"), primary_key=True, autoincrement=False),
    Column("path", String(512), primary_key=True),
    Column("digest", String(HASH_CHARS), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("at_us", BigInteger, nullable=False),
)

run_metric = Table(
    "run_metric",
    metadata,
    Column("metric", SEQUENCE, primary_key=True, autoincrement=True),
    Column("run", SEQUENCE, ForeignKey("run.run"), nullable=False),
    Column("key", String(KEY_CHARS_MAX), nullable=False),
    Column("value", Float(53)),
    Column("step", BigInteger, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("least", Float(53)),
    Column("greatest", Float(53)),
    Column("points", BigInteger, nullable=False),
    UniqueConstraint("run", "key", name="run_metric_key"),
)

metric_point = Table(
    "metric_point",
    metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("metric", SEQUENCE, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("value", Float(53)),
    Index("metric_point_step", "metric", "step"),
)

run_writer = Table(
    "run_writer",
    metadata,
    Column("run", SEQUENCE, ForeignKey("run.run"), primary_key=True, autoincrement=False),
    Column("writer", String(32), primary_key=True),
    Column("batch", Integer, nullable=False),
)
"""The last batch of points that came from each process, so that one sent again counts once."""
