"""The URL of a Redis-protocol server, and what its errors mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from hiredis import ReplyError

from featurestore.config import OnlineSettings
from featurestore.errors import (
    InvalidSettings,
    StoreAccessDenied,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreTimeout,
    StoreUnavailable,
)
from featurestore.stores.online.lmdb import LmdbStore
from featurestore.stores.online.redis import RedisStore
from featurestore.stores.online.redis_writes import expiry_argument
from featurestore.stores.online.resp import Target, failure, parse_target, refusal

TARGET = Target(host="db", port=6379)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("redis://", Target(host="localhost", port=6379)),
        ("redis://db", Target(host="db", port=6379)),
        ("redis://db:1/2", Target(host="db", port=1, db=2)),
        ("redis://db?db=2", Target(host="db", port=6379, db=2)),
        ("redis://[::1]:7/", Target(host="::1", port=7)),
        ("redis://:p%40ss%2F@db", Target(host="db", port=6379, password="p@ss/")),
        ("redis://me:pw@db", Target(host="db", port=6379, username="me", password="pw")),
        ("rediss://db", Target(host="db", port=6379, tls={})),
        (
            "rediss://db?ssl_ca_certs=/ca.pem&ssl_cert_reqs=none",
            Target(host="db", port=6379, tls={"ssl_ca_certs": "/ca.pem", "ssl_cert_reqs": "none"}),
        ),
    ],
)
def test_urls(url: str, target: Target) -> None:
    assert parse_target(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@db:port",
        "redis://:secret@db:99999",
        "redis://:secret@db/name",
        "redis://:secret@db?ssl_cert_reqs=none",
        "redis://:secret@db?timeout=5",
        "redis://:secret@db?db",
        "rediss://:secret@db?ssl_cert_reqs=optional",
    ],
)
def test_malformed_urls_are_refused_without_showing_the_password(url: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        parse_target(url)
    assert "secret" not in str(caught.value)


def test_servers_are_named_without_credentials() -> None:
    assert parse_target("rediss://me:secret@db:7/3").shown == "rediss://db:7/3"
    assert parse_target("redis://[::1]").shown == "redis://[::1]:6379/0"
    assert "secret" not in repr(parse_target("redis://me:secret@db"))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("NOAUTH Authentication required.", StoreAccessDenied),
        ("WRONGPASS invalid username-password pair or user is disabled.", StoreAccessDenied),
        ("NOPERM User reader has no permissions to run the 'evalsha' command", StoreAccessDenied),
        ("ERR AUTH <password> called without any password configured", StoreAccessDenied),
        ("ERR invalid password", StoreAccessDenied),
        ("LOADING Redis is loading the dataset in memory", StoreUnavailable),
        ("BUSY Redis is busy running a script.", StoreUnavailable),
        ("OOM command not allowed when used memory > 'maxmemory'.", StoreFull),
        ("MASTERDOWN Link with MASTER is down", StoreUnavailable),
        ("MISCONF Errors writing to the AOF file", StoreUnavailable),
        ("ERR max number of clients reached", StoreUnavailable),
        ("READONLY You can't write against a read only replica.", StoreReadOnly),
        ("MOVED 866 127.0.0.1:7000", StoreError),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", StoreError),
    ],
)
def test_what_servers_answer(text: str, error: type[StoreError]) -> None:
    found = refusal(TARGET, ReplyError(text))
    assert type(found) is error
    assert found.message.startswith(f"the online store redis://db:6379/0 answered: {text}")


def test_what_connections_raise() -> None:
    assert type(failure(TARGET, TimeoutError())) is StoreTimeout
    assert type(failure(TARGET, ConnectionRefusedError("refused"))) is StoreUnavailable
    assert "EOFError" in str(failure(TARGET, EOFError()))
    known = StoreReadOnly("x")
    assert failure(TARGET, known) is known


@pytest.mark.parametrize(
    ("at_us", "argument"),
    [
        (None, b""),
        (1_000, b"1"),
        (1_001, b"2"),
        (0, b"1"),
        (-5_000_000, b"1"),
        ((2**46 - 1) * 1_000, b"70368744177663"),
        ((2**46 - 1) * 1_000 + 1, b""),
        (2**63 - 1, b""),
    ],
)
def test_expiries_are_rounded_up_to_milliseconds(at_us: int | None, argument: bytes) -> None:
    assert expiry_argument(at_us) == argument


@pytest.mark.parametrize(
    ("url", "folder"),
    [("lmdb:a/b", "a/b"), ("lmdb://a/b", "a/b"), ("lmdb:///x/y", "/x/y"), ("lmdb:/x/y", "/x/y")],
)
def test_folders_of_lmdb_urls(tmp_path: Path, url: str, folder: str) -> None:
    with LmdbStore.open(OnlineSettings(url=url), root=tmp_path, read_only=True) as store:
        assert store.folder == (tmp_path / folder).resolve()


@pytest.mark.parametrize("url", ["lmdb:", "lmdb://"])
def test_an_lmdb_url_without_a_folder(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidSettings, match="names no folder"):
        LmdbStore.open(OnlineSettings(url=url), root=tmp_path)


def test_opening_a_malformed_url(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings):
        RedisStore.open(OnlineSettings(url="redis://db:port"), root=tmp_path)
