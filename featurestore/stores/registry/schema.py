"""The tables of a registry, for any SQL database. Every table is divided by `project`.

Records have a numeric key of their own (`seq`, growing in the order of writing), so that edges are
small and a walk joins integers. Instants are µs since 1970, UTC, as 64-bit integers. The tables
themselves are made by the migrations; `SCHEMA_REVISION` is the newest of those.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from featurestore.records import RECORD_NAME_CHARS_MAX

SCHEMA_REVISION = "0005"
VERSION_TABLE = "featurestore_version"
"""Where the revision is kept. Not Alembic's default name: MLflow and others, which may share the
database, use that one."""

PROJECT_CHARS_MAX = 128
KIND_CHARS_MAX = 64
ROLE_CHARS_MAX = 64
ALIAS_NAME_CHARS_MAX = 512
ENVIRONMENT_CHARS_MAX = 64
USED_NAME_CHARS_MAX = 512
HASH_CHARS = 64
RECORD_ID_CHARS_MAX = KIND_CHARS_MAX + 1 + RECORD_NAME_CHARS_MAX + 1 + HASH_CHARS

# SQLite numbers rows by itself only in a column that is exactly INTEGER.
SEQUENCE = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData()

record = Table(
    "record",
    metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("project", String(PROJECT_CHARS_MAX), nullable=False),
    Column("id", String(RECORD_ID_CHARS_MAX), nullable=False),
    Column("kind", String(KIND_CHARS_MAX), nullable=False),
    Column("name", String(RECORD_NAME_CHARS_MAX), nullable=False),
    Column("hash", String(HASH_CHARS), nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at_us", BigInteger, nullable=False),
    Column("author", Text, nullable=False),
    UniqueConstraint("project", "id", name="record_id"),
    Index("record_kind_name", "project", "kind", "name"),
)

edge = Table(
    "edge",
    metadata,
    Column("project", String(PROJECT_CHARS_MAX), nullable=False),
    Column("child", SEQUENCE, ForeignKey("record.seq"), primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("parent", SEQUENCE, ForeignKey("record.seq"), nullable=False),
    Column("role", String(ROLE_CHARS_MAX), nullable=False),
    Column("transformation", String(8), nullable=False),
    Index("edge_parent", "parent", "child"),
)

alias = Table(
    "alias",
    metadata,
    Column("project", String(PROJECT_CHARS_MAX), primary_key=True),
    Column("name", String(ALIAS_NAME_CHARS_MAX), primary_key=True),
    Column("target", SEQUENCE, ForeignKey("record.seq"), nullable=False),
    Column("serial", Integer, nullable=False),
)

alias_event = Table(
    "alias_event",
    metadata,
    Column("project", String(PROJECT_CHARS_MAX), primary_key=True),
    Column("name", String(ALIAS_NAME_CHARS_MAX), primary_key=True),
    Column("serial", Integer, primary_key=True, autoincrement=False),
    Column("previous", SEQUENCE, ForeignKey("record.seq")),
    Column("target", SEQUENCE, ForeignKey("record.seq")),
    Column("at_us", BigInteger, nullable=False),
    Column("author", Text, nullable=False),
    Column("reason", Text, nullable=False),
)

blob = Table(
    "blob",
    metadata,
    Column("project", String(PROJECT_CHARS_MAX), primary_key=True),
    Column("digest", String(HASH_CHARS), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

materialization = Table(
    "materialization",
    metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("project", String(PROJECT_CHARS_MAX), nullable=False),
    Column("run_id", String(128), nullable=False),
    Column("view", String(RECORD_NAME_CHARS_MAX), nullable=False),
    Column("view_version", String(HASH_CHARS), nullable=False),
    Column("table", String(64), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("mode", String(16), nullable=False),
    Column("start_us", BigInteger),
    Column("end_us", BigInteger, nullable=False),
    Column("watermark_us", BigInteger),
    Column("reach_us", BigInteger),
    Column("rows_read", BigInteger, nullable=False),
    Column("rows_written", BigInteger, nullable=False),
    Column("rows_skipped", BigInteger, nullable=False),
    Column("started_at_us", BigInteger, nullable=False),
    Column("finished_at_us", BigInteger, nullable=False),
    Column("values_undefined", BigInteger, nullable=False, server_default="0"),
    UniqueConstraint("project", "run_id", name="materialization_run"),
    Index("materialization_table", "project", "table", "seq"),
    Index("materialization_view", "project", "view", "seq"),
)

online_use = Table(
    "online_use",
    metadata,
    Column("project", String(PROJECT_CHARS_MAX), primary_key=True),
    # Asked for by name, of all environments.
    Column("name", String(USED_NAME_CHARS_MAX), primary_key=True),
    Column("environment", String(ENVIRONMENT_CHARS_MAX), primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("last_us", BigInteger, nullable=False),
)
