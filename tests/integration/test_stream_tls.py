"""Streams of servers that speak TLS only and ask their clients for a certificate: Debian's Redis
alone, as a cluster, and behind Sentinel with a failover, from the message to the feature."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cluster_servers import RedisCluster, is_master
from patience import wait_for
from redis_servers import RedisServer, debian_redis_binary
from sentinel_servers import SentinelServers
from tls_files import TlsFiles

from featurestore import FeatureStore
from featurestore.errors import StoreUnavailable
from featurestore.jobs.ingest import Ingested
from featurestore.stores.online.redis_slots import key_slot
from featurestore.stores.streams.redis import RedisStream
from featurestore.timeline import SystemClock, format_instant
from tests.conftest import MakeRepo

pytestmark = pytest.mark.full

DEFINITIONS = """
from featurestore import Entity, Feature, FeatureService, FeatureView, StreamSource

gates = StreamSource(
    "URL", schema={"plane": "string", "at": "timestamp", "gate": "int64"}, event_time="at",
)
plane = Entity("plane")
gate = FeatureView("gate", entities=[plane], source=gates, features=[Feature("gate")])
model = FeatureService("model", features=[gate])
"""
STREAM = "gates"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return TlsFiles.make(tmp_path_factory.mktemp("certificates"))


class Airport:
    """A repository whose source is a stream, and who has the stream now."""

    def __init__(self, folder: Path, owner: Callable[[], RedisServer]) -> None:
        self._folder, self._owner = folder, owner
        with FeatureStore(folder) as fs:
            fs.apply()
            fs.materialize()

    def send(self, gate: int) -> None:
        at = format_instant(SystemClock().now_us() - 1)
        row = json.dumps({"plane": "N1", "at": at, "gate": gate})
        assert self._owner().command("XADD", STREAM, "*", "json", row)[:1] == b"$"

    def take(self) -> Ingested:
        with FeatureStore(self._folder) as fs:
            (found,) = fs.ingest(until_empty=True)
        return found

    def look(self) -> Any:
        with FeatureStore(self._folder) as fs:
            return fs.get_online_features("model", [{"plane": "N1"}]).to_dict()["gate"]


def goes_round(airport: Airport, gate: int) -> None:
    airport.send(gate)
    taken = airport.take()
    assert (taken.messages, taken.rows, taken.dead) == (1, 1, 0)
    assert airport.look() == [gate]


def repository(make_repo: MakeRepo, url: str, certificates: TlsFiles) -> Path:
    secure = url.replace("redis", "rediss", 1) + certificates.query
    return make_repo(DEFINITIONS.replace("URL", secure))


@contextmanager
def single(certificates: TlsFiles) -> Iterator[tuple[str, Callable[[], RedisServer]]]:
    binary, options = debian_redis_binary(), certificates.server_options
    with RedisServer(binary, *options, tls=certificates.context) as server:
        yield server.url, lambda: server


@contextmanager
def cluster(certificates: TlsFiles) -> Iterator[tuple[str, Callable[[], RedisServer]]]:
    options = [*certificates.server_options, "--tls-cluster", "yes", "--tls-replication", "yes"]
    binary, context = debian_redis_binary(), certificates.context
    with RedisCluster(*options, binary=binary, tls=context, replicas=False) as running:
        yield running.url, lambda: running.owner_of(key_slot(STREAM.encode()))


@pytest.mark.parametrize("kind", [single, cluster])
def test_a_message_becomes_a_feature(
    kind: Any, certificates: TlsFiles, make_repo: MakeRepo
) -> None:
    with kind(certificates) as (url, owner):
        airport = Airport(repository(make_repo, f"{url}/{STREAM}", certificates), owner)
        goes_round(airport, 7)
        goes_round(airport, 8)
        # Without TLS, and without a certificate, nobody gets in.
        authority = f"?ssl_ca_certs={certificates.folder}/ca.pem"
        for other in (url, url.replace("redis", "rediss", 1)):
            query = authority if other.startswith("rediss") else ""
            with (
                RedisStream(f"{other}/{STREAM}{query}", group="g") as reader,
                pytest.raises(StoreUnavailable),
            ):
                reader.read(wait_ms=1)


def test_a_failover_of_sentinels(certificates: TlsFiles, make_repo: MakeRepo) -> None:
    options = [*certificates.server_options, "--tls-replication", "yes"]
    binary, context = debian_redis_binary(), certificates.context
    with SentinelServers(*options, binary=binary, tls=context) as watched:
        url = f"{watched.url}/{STREAM}"
        airport = Airport(repository(make_repo, url, certificates), lambda: watched.master)
        goes_round(airport, 7)
        victim, successor = watched.first_pair
        victim.kill()
        wait_for(lambda: is_master(successor))
        goes_round(airport, 8)
