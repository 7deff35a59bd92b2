"""The Redis store on the server that Debian ships: Redis 7.0, which expires only whole keys, spoken
to over TLS, by a user with the rights of the guide and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_access import PASSWORD, add_user, commands_of, denied_to, documented_rules
from redis_servers import RedisServer, debian_redis_binary
from tls_files import TlsFiles

from featurestore.errors import StoreAccessDenied, StoreUnavailable
from featurestore.stores.online.base import KeyFields
from featurestore.stores.online.redis import RedisStore
from featurestore.testing.online_rows import FIELD, PREFIX, get, put, row
from featurestore.testing.online_store import OnlineStoreContract, OnlineStoreOpener

pytestmark = pytest.mark.full

RULES = documented_rules("fs_writer", knows="pexpireat")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return TlsFiles.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls7(certificates: TlsFiles) -> Iterator[RedisServer]:
    """Debian's Redis with TLS, which asks its clients for a certificate too."""
    options = certificates.server_options
    with RedisServer(debian_redis_binary(), *options, tls=certificates.context) as server:
        add_user(server, "fs_writer", RULES)
        # The contract writes for several projects.
        add_user(server, "all_projects", [rule.replace("~fs/shop/", "~fs/") for rule in RULES])
        yield server


@pytest.fixture
def server(tls7: RedisServer) -> RedisServer:
    tls7.command("FLUSHALL")
    return tls7


@pytest.fixture
def query(certificates: TlsFiles) -> str:
    return certificates.query


def as_user(server: RedisServer, name: str, query: str) -> str:
    return f"rediss://{name}:{PASSWORD}@{server.host}:{server.port}/0{query}"


class TestRedis7OverTls(OnlineStoreContract):
    """Debian's Redis 7.0, over TLS, as users of an ACL"""

    @pytest.fixture
    def opener(self, server: RedisServer, query: str, tmp_path: Path) -> OnlineStoreOpener:
        return OnlineStoreOpener(RedisStore, as_user(server, "all_projects", query), tmp_path)


def test_it_is_a_server_without_field_expiry(server: RedisServer) -> None:
    assert b"redis_version:7.0." in server.command("INFO", "server")


def test_the_writer_is_denied_nothing(server: RedisServer, query: str) -> None:
    assert denied_to(server, as_user(server, "fs_writer", query)) == b"*0\r\n"


@pytest.mark.parametrize("command", commands_of(RULES))
def test_the_writer_needs_each_right(server: RedisServer, query: str, command: str) -> None:
    add_user(server, "less", [rule for rule in RULES if rule != f"+{command}"])
    denied = denied_to(server, as_user(server, "less", query))
    assert b"\r\n%b\r\n" % command.encode() in denied


def test_the_reader_reads_and_nothing_else(server: RedisServer, query: str) -> None:
    add_user(server, "fs_reader", documented_rules("fs_reader"))
    reads = [KeyFields(PREFIX, (FIELD,))]
    with (
        RedisStore(as_user(server, "fs_writer", query)) as writer,
        RedisStore(as_user(server, "fs_reader", query)) as reader,
    ):
        put(writer, PREFIX, row(1))
        assert get(reader, PREFIX) == row(1)
        assert asyncio.run(reader.read_async(reads)) == [[row(1)]]
        with pytest.raises(StoreAccessDenied):
            put(reader, PREFIX, row(2))


@pytest.mark.parametrize("wrong", ["plain", "authority", "certificate"])
def test_who_does_not_speak_its_tls_is_refused(server: RedisServer, query: str, wrong: str) -> None:
    url = {
        "plain": as_user(server, "fs_writer", "").replace("rediss:", "redis:"),
        "authority": as_user(server, "fs_writer", ""),
        "certificate": as_user(server, "fs_writer", query.partition("&")[0]),
    }[wrong]
    with RedisStore(url) as store:
        for call in (store.ping, lambda: put(store, PREFIX, row(1))):
            with pytest.raises(StoreUnavailable):
                call()
        with pytest.raises(StoreUnavailable):
            asyncio.run(store.read_async([KeyFields(PREFIX, (FIELD,))]))


def test_a_wrong_password_is_denied(server: RedisServer, query: str) -> None:
    url = as_user(server, "fs_writer", query).replace(PASSWORD, "hunter2")
    with RedisStore(url) as store, pytest.raises(StoreAccessDenied) as denied:
        store.ping()
    assert "hunter2" not in str(denied.value)
