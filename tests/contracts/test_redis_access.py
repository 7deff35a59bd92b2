"""The rights that the guide gives the store's users are enough, and not one of them is too many."""

from __future__ import annotations

import pytest
from redis_access import PASSWORD, add_user, commands_of, denied_to, documented_rules
from redis_servers import RedisServer

from featurestore.errors import StoreAccessDenied
from featurestore.stores.online.redis import RedisStore
from featurestore.testing.online_rows import PREFIX, get, put, row

RULES = documented_rules("fs_writer", knows="hsetex")


@pytest.fixture(params=["valkey", "redis8"])
def server(request: pytest.FixtureRequest) -> RedisServer:
    found: RedisServer = request.getfixturevalue(request.param)
    found.command("FLUSHALL")
    return found


def as_user(server: RedisServer, name: str) -> str:
    return f"redis://{name}:{PASSWORD}@{server.host}:{server.port}/0"


def test_the_writer_is_denied_nothing(server: RedisServer) -> None:
    add_user(server, "fs_writer", RULES)
    assert denied_to(server, as_user(server, "fs_writer")) == b"*0\r\n"


@pytest.mark.parametrize("command", commands_of(RULES))
def test_the_writer_needs_each_right(server: RedisServer, command: str) -> None:
    add_user(server, "fs_writer", [rule for rule in RULES if rule != f"+{command}"])
    assert b"\r\n%b\r\n" % command.encode() in denied_to(server, as_user(server, "fs_writer"))


def test_the_reader_reads_and_nothing_else(server: RedisServer) -> None:
    add_user(server, "fs_writer", RULES)
    add_user(server, "fs_reader", documented_rules("fs_reader"))
    with (
        RedisStore(as_user(server, "fs_writer")) as writer,
        RedisStore(as_user(server, "fs_reader")) as reader,
    ):
        put(writer, PREFIX, row(1))
        reader.ping()
        assert get(reader, PREFIX) == row(1)
        with pytest.raises(StoreAccessDenied):
            put(reader, PREFIX, row(2))
        for denied in (reader, writer):
            with pytest.raises(StoreAccessDenied):
                get(denied, PREFIX.replace(b"shop", b"other"))
