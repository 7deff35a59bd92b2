"""Each thing that can be wrong is made wrong, and `featurestore doctor` says so and what to do."""

from __future__ import annotations

import json
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from postgres_servers import postgres_server
from redis_servers import RedisServer, valkey_binary

from featurestore import FeatureStore
from featurestore.cli import doctor_machine
from featurestore.cli.doctor import Finding, examine
from featurestore.cli.init import write_repository
from featurestore.cli.main import run
from featurestore.timeline import DAY_US, MINUTE_US, SECOND_US, Clock, SystemClock

VARIABLES = {"GRPC": "127.0.0.1:0", "HTTP": "127.0.0.1:0"}


class Ahead(Clock):
    """A clock that is off."""

    def __init__(self, by_us: int) -> None:
        self._by_us = by_us

    def now_us(self) -> int:
        return SystemClock().now_us() + self._by_us


@pytest.fixture(autouse=True)
def free_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(f"FEATURESTORE__SERVING__{name}", value)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository that was only just made."""
    folder = tmp_path / "shop"
    write_repository(folder, now_us=SystemClock().now_us())
    return folder


@pytest.fixture
def well(repo: Path) -> Path:
    """One that is applied and materialized."""
    with FeatureStore(repo) as fs:
        fs.apply()
        fs.materialize()
    return repo


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as running:
        yield running


def found(repo: Path, check: str, text: str = "", *, clock: Clock | None = None) -> Finding:
    """The finding of a check that says `text`, the worst first."""
    order = ("problem", "warning", "ok")
    every = examine(repo, clock=clock)
    matching = [one for one in every if one.check == check and text in one.what]
    assert matching, every
    first = min(matching, key=lambda one: order.index(one.state))
    assert bool(first.to_do) == (first.state != "ok"), first
    return first


def test_all_is_well(well: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--repo", str(well), "--json"], debug=False) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["counts"]["problem"] == 0
    assert {one["check"] for one in told["findings"]} >= {
        *("settings", "definitions", "versions", "files", "disk", "descriptors", "ports"),
        *("exposure", "online", "registry", "serving", "freshness"),
    } - {"ports"}
    wrong = [one for one in told["findings"] if one["state"] != "ok"]
    assert [one for one in wrong if one["check"] not in ("disk", "descriptors")] == []
    assert run(["doctor", "--repo", str(well)], debug=False) == 0
    assert "0 problems" in capsys.readouterr().out


def test_a_new_repository_is_told_the_next_steps(repo: Path) -> None:
    assert "featurestore apply" in found(repo, "serving").to_do
    assert found(repo, "freshness", "never materialized").state == "warning"


def test_settings_and_definitions(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repo / "broken.py").write_text("from featurestore import Entity\nEntity('a b')\n")
    assert found(repo, "definitions").state == "problem"
    for check in ("serving", "freshness"):
        assert found(repo, check).what == "not looked at, for want of definitions"
    (repo / "featurestore.toml").write_text("[projct]\n")
    assert found(repo, "settings").state == "problem"
    assert run(["doctor", "--repo", str(repo)], debug=False) == 1
    printed = capsys.readouterr().out
    assert "✗ settings" in printed
    assert "1 problem, 0 warnings, 0 ok" in printed


def test_changes_and_age(well: Path) -> None:
    definitions = well / "features.py"
    text = definitions.read_text().replace('ttl="30d"', 'ttl="31d"')
    definitions.write_text(text)
    assert "not applied" in found(well, "serving", "not applied").what
    assert found(well, "freshness", clock=Ahead(40 * DAY_US)).state == "warning"


def test_the_registry(well: Path) -> None:
    with closing(sqlite3.connect(well / ".featurestore" / "registry.db")) as database:
        (table,) = [
            name
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if "version" in name
        ]
        database.execute(f"UPDATE {table} SET version_num = '9999'")
        database.commit()
    assert "newer" in found(well, "registry").what
    (well / ".featurestore" / "registry.db").write_bytes(b"no database" * 1_000)
    assert found(well, "registry").state == "problem"


def test_files_that_others_can_read(well: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = well / "token"
    token.write_text("fs_x")
    token.chmod(0o644)
    monkeypatch.setenv("FEATURESTORE__SECURITY__TOKEN_FILE", "token")
    assert found(well, "files", "token_file").state == "problem"
    token.chmod(0o600)
    assert found(well, "files").state == "ok"
    toml = well / "featurestore.toml"
    url = "redis://me:hunter2@127.0.0.1:1/0"
    toml.write_text(toml.read_text().replace("lmdb:.featurestore/online", url))
    toml.chmod(0o644)
    assert found(well, "files", "password").state == "problem"
    assert "hunter2" not in repr(examine(well))


def test_this_machine(well: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURESTORE__SERVING__CONNECTIONS_MAX", "2000000000")
    assert "LimitNOFILE" in found(well, "descriptors").to_do
    monkeypatch.setattr(doctor_machine, "DISK_MB_LOW", 2**60)
    assert found(well, "disk").state == "warning"
    monkeypatch.setattr(doctor_machine, "DISK_MB_NONE", 2**60)
    assert found(well, "disk").state == "problem"
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        monkeypatch.setenv("FEATURESTORE__SERVING__GRPC", address)
        assert found(well, "ports", "somebody listens").where == address
    assert found(well, "ports", "free").state == "ok"
    monkeypatch.setenv("FEATURESTORE__TRACING__OTLP_ENDPOINT", f"http://{address}")
    assert found(well, "tracing").state == "warning"
    monkeypatch.setattr(doctor_machine, "version", lambda name: "0.1" if name == "lmdb" else "99")
    assert "lmdb 0.1 (needs" in found(well, "versions", "lmdb").what


def test_what_is_exposed(well: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(well, "exposure").state == "ok"
    monkeypatch.setenv("FEATURESTORE__SERVING__GRPC", "0.0.0.0:0")
    assert "tls_cert" in found(well, "exposure", "plain text").to_do
    assert found(well, "exposure").state == "problem"
    monkeypatch.setenv("FEATURESTORE__SERVING__INSECURE", "true")
    monkeypatch.setenv("FEATURESTORE__SERVING__GRPC_DOOR", "native")
    assert found(well, "exposure").state == "warning"
    assert "grpcio" in found(well, "exposure", "native").to_do
    monkeypatch.setenv("FEATURESTORE__ONLINE__URL", "redis://192.0.2.1:6379/0")
    monkeypatch.setenv("FEATURESTORE__ONLINE__TIMEOUT_MS", "50")
    assert "rediss" in found(well, "exposure", "online").to_do
    assert found(well, "online").state == "problem"


class TestValkey:
    @pytest.fixture(autouse=True)
    def on_valkey(self, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FEATURESTORE__ONLINE__URL", valkey.url)

    def test_well_and_no_probe_is_left(self, repo: Path, valkey: RedisServer) -> None:
        valkey.command("FLUSHALL")
        assert found(repo, "online").state == "ok"
        assert found(repo, "online", "valkey 9").state == "ok"
        assert valkey.command("DBSIZE") == b":0\r\n"

    def test_eviction_and_memory(self, repo: Path, valkey: RedisServer) -> None:
        valkey.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        try:
            assert "noeviction" in found(repo, "online", "allkeys-lru").to_do
        finally:
            valkey.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        valkey.command("CONFIG", "SET", "maxmemory", "1mb")
        try:
            assert found(repo, "online", "% of maxmemory").state == "warning"
        finally:
            valkey.command("CONFIG", "SET", "maxmemory", "0")

    def test_clocks(self, repo: Path) -> None:
        assert found(repo, "online", "clock").state == "ok"
        late = found(repo, "online", "behind", clock=Ahead(-5 * SECOND_US))
        assert (late.state, "NTP" in late.to_do) == ("warning", True)
        assert found(repo, "online", "ahead", clock=Ahead(2 * MINUTE_US)).state == "problem"

    def test_a_user_who_may_only_read(
        self, repo: Path, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rights = "on >pw resetchannels %R~fs/shop/* +ping +client|setname +hmget"
        valkey.command("ACL", "SETUSER", "reader", *rights.split())
        url = valkey.url.replace("://", "://reader:pw@")
        monkeypatch.setenv("FEATURESTORE__ONLINE__URL", url)
        refused = found(repo, "online")
        assert refused.state == "problem"
        assert "pw" not in repr(refused).replace("://", "")

    def test_gone(self, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FEATURESTORE__ONLINE__URL", "redis://127.0.0.1:1/0")
        assert found(repo, "online").state == "problem"


@pytest.mark.slow
def test_postgres(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg

    with postgres_server() as postgres:
        monkeypatch.setenv("FEATURESTORE__REGISTRY__URL", postgres.get_uri())
        assert found(repo, "registry").state == "ok"
        assert found(repo, "registry", "PostgreSQL 1").state == "ok"
        assert found(repo, "registry", "clock", clock=Ahead(2 * MINUTE_US)).state == "problem"
        with psycopg.connect(postgres.get_uri(), autocommit=True) as connection:
            name: Any = connection.info.dbname
            connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        assert "replica" in found(repo, "registry").what
