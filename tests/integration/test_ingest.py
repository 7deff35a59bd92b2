"""Streams into their sources: Redis streams on Valkey, Kafka on librdkafka's mock cluster."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Producer
from patience import wait_for
from redis_servers import RedisServer, valkey_binary

from featurestore import FeatureStore
from featurestore.errors import InvalidRepository, InvalidRequest, InvalidSettings, UnknownSource
from featurestore.jobs import ingest
from featurestore.serving.ingest_metrics import IngestMetrics
from featurestore.stores.offline import wal
from featurestore.stores.streams import redis
from featurestore.stores.streams.kafka import KafkaTopic
from featurestore.stores.streams.redis import RedisStream
from featurestore.timeline import HOUR_US, SECOND_US, SystemClock, format_instant
from tests.conftest import INSTANT, MakeRepo, write_rows

pytestmark = pytest.mark.slow

NOW = SystemClock().now_us() // SECOND_US * SECOND_US
DEFINITIONS = """
from featurestore import (
    Aggregation, Entity, Feature, FeatureService, FeatureView, FileSource, StreamSource,
)

plane = Entity("plane")
landings = FileSource(
    "landings", path="data/*.parquet", event_time="at", created_time="known_at", event_id="id",
)
arrivals = StreamSource("URL/landings", source=landings)
gates = StreamSource(
    "URL/gates", schema={"plane": "string", "at": "timestamp", "gate": "int64"}, event_time="at",
)
history = FeatureView(
    "history", entities=[plane], source=landings,
    features=[Aggregation("*", "count", window="7d"), Aggregation("delay", "sum", window="7d")],
)
last = FeatureView("last", entities=[plane], source=landings, features=[Feature("delay")])
gate = FeatureView("gate", entities=[plane], source=gates, features=[Feature("gate")])
model = FeatureService("model", features=[history, last, gate])
"""
Send = Callable[[str, Sequence[Any]], None]


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as server:
        yield server


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    """The address of a cluster of one broker, inside librdkafka."""
    cluster = Producer({"bootstrap.servers": "nowhere", "test.mock.num.brokers": 1})
    metadata = cluster.list_topics(timeout=10)
    (broker,) = metadata.brokers.values()
    yield f"{broker.host}:{broker.port}"
    cluster.flush(1)


class Airport:
    """A repository with two streams, materialized, and what sends messages to them."""

    def __init__(self, folder: Path, url: str, send: Send) -> None:
        self.folder, self.url, self.send = folder, url, send
        self.fs = self.open()
        self.fs.apply()
        self.fs.materialize()

    def open(self) -> FeatureStore:
        return FeatureStore(self.folder, overrides={"offline.threads": 1})

    def take(self) -> dict[str, ingest.Ingested]:
        with self.open() as fs:
            return {one.stream: one for one in fs.ingest(until_empty=True)}

    def look(self, plane: str = "N1") -> dict[str, Any]:
        with self.open() as fs:
            found = fs.get_online_features("model", [{"plane": plane}]).to_dict()
        return {name: values[0] for name, values in found.items() if name != "plane"}

    def offline(self, plane: str = "N1") -> dict[str, Any]:
        now = pa.array([SystemClock().now_us()], INSTANT)
        table = pa.table({"plane": [plane], "event_timestamp": now})
        with self.open() as fs:
            (row,) = fs.get_historical_features(table, "model").to_arrow().to_pylist()
        return {name: row[name] for name in row if name not in table.column_names}


def landing(n: int, delay: float, **more: Any) -> dict[str, Any]:
    at = format_instant(NOW - HOUR_US + n)
    return {"id": n, "plane": "N1", "at": at, "delay": delay} | more


@pytest.fixture(params=["redis", "kafka"])
def airport(request: pytest.FixtureRequest, make_repo: MakeRepo) -> Iterator[Airport]:
    if request.param == "redis":
        valkey: RedisServer = request.getfixturevalue("valkey")
        valkey.command("FLUSHALL")
        url = valkey.url

        def send(stream: str, messages: Sequence[Any]) -> None:
            for message in messages:
                text = message if isinstance(message, str) else json.dumps(message)
                valkey.command("XADD", stream, "*", "json", text)
    else:
        address = request.getfixturevalue("kafka")
        prefix = f"t{time.time_ns()}."
        url = f"kafka://{address}"
        producer = Producer({"bootstrap.servers": address})

        def send(stream: str, messages: Sequence[Any]) -> None:
            for message in messages:
                text = message if isinstance(message, str) else json.dumps(message)
                producer.produce(prefix + stream, text.encode())
            producer.flush(10)

    definitions = DEFINITIONS.replace("URL", url)
    if request.param == "kafka":
        # The mock cluster notices that a consumer has left by its silence.
        for name in ("landings", "gates"):
            address_of = f"{url}/{prefix}{name}?session.timeout.ms=6000"
            definitions = definitions.replace(f'"{url}/{name}"', f'"{address_of}"')
        definitions = definitions.replace("source=landings)", 'source=landings, name="landings")')
        definitions = definitions.replace(
            'event_time="at",\n)\nhistory', 'event_time="at", name="gates",\n)\nhistory'
        )
    folder = make_repo(definitions, name=f"p{time.time_ns()}")
    types = {"plane": "string", "delay": "double", "id": "int64"}
    old = {"plane": "N1", "at": NOW - 2 * HOUR_US, "known_at": NOW - 2 * HOUR_US, "delay": 1.0}
    write_rows(
        folder / "data" / "1.parquet",
        [{**old, "id": 0}],
        {"at": INSTANT, "known_at": INSTANT} | {n: pa.type_for_alias(t) for n, t in types.items()},
    )
    send("landings", [])
    send("gates", [{"plane": "N0", "at": format_instant(NOW - HOUR_US), "gate": 1}])
    made = Airport(folder, url, send)
    yield made
    made.fs.close()


def test_messages_count_once_online_and_offline_and_poison_is_put_aside(airport: Airport) -> None:
    airport.send(
        "landings",
        [landing(1, 10.0), landing(2, 20.0), landing(1, 10.0), "{", [1], {"id": 3}, landing(4, "x"),
         landing(5, 5.0, more=1)],
    )  # fmt: skip
    airport.send("gates", [{"plane": "N1", "at": format_instant(NOW), "gate": 7}])
    taken = airport.take()
    assert (taken["landings"].messages, taken["landings"].dead) == (8, 5)
    assert taken["gates"].rows == 2
    wanted = {"count_7d": 3, "delay_sum_7d": 31.0, "delay": 20.0, "gate": 7}
    assert airport.look() == wanted == airport.offline()
    with airport.open() as fs:
        letters = fs.dead_letters("landings")
    assert {letter["reason"] for letter in letters} == {"invalid-rows"}
    assert any("not JSON" in letter["message"] for letter in letters)
    assert any("no column 'more'" in letter["message"] for letter in letters)
    assert all(letter["origin"].startswith("landings ") for letter in letters)
    # Nothing is left, and nothing comes again.
    assert {one.messages for one in airport.take().values()} == {0}
    assert airport.look() == wanted


def test_what_was_read_and_not_acknowledged_comes_again_and_changes_nothing(
    airport: Airport, monkeypatch: pytest.MonkeyPatch
) -> None:
    airport.send("landings", [landing(1, 10.0), landing(2, 20.0)])
    kind = RedisStream if airport.url.startswith("redis") else KafkaTopic

    class Died(Exception):
        pass

    def die(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr(kind, "done", die)
        # It ends, though no more messages come.
        with airport.open() as fs, pytest.raises(Died):
            fs.ingest()
    before = airport.look()
    assert before["count_7d"] == 3
    claim_at_once(monkeypatch)
    assert airport.take()["landings"].messages == 2
    assert airport.look() == before == airport.offline()


def test_a_topic_is_not_waited_for_until_a_batch_is_full(kafka: str) -> None:
    topic = f"alone{time.time_ns()}"
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce(topic, b"{}")
    producer.flush(10)
    reader = KafkaTopic.open(f"kafka://{kafka}/{topic}", group="alone")
    try:
        began = time.monotonic()
        (message,) = reader.read(wait_ms=120_000)
        assert message.data == b"{}"
        assert time.monotonic() - began < 60
    finally:
        reader.close()


def group_of(airport: Airport) -> str:
    project = airport.fs.settings.project
    return f"featurestore-{project.name}-{project.environment}-landings"


def test_long_messages_are_written_in_parts(
    airport: Airport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them at once would be more than a record of the log may be."""
    airport.send("landings", [landing(n, 1.0, plane=f"N{'1' * 900}") for n in range(1, 61)])
    monkeypatch.setattr(ingest, "READ_BYTES_MAX", 10_000)
    monkeypatch.setattr(wal, "RECORD_BYTES_MAX", 30_000)
    taken = airport.take()["landings"]
    assert (taken.messages, taken.rows, taken.dead) == (60, 60, 0)
    assert airport.look(f"N{'1' * 900}")["count_7d"] == 60


class Watched(IngestMetrics):
    """Keeps the last lag."""

    last: int | None = None

    def lag(self, stream: str, messages: int) -> None:
        super().lag(stream, messages)
        self.last = messages


def test_the_lag_rises_while_the_store_is_away(
    valkey: RedisServer, make_repo: MakeRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = (
        f'clicks = StreamSource("{valkey.url}/clicks", schema={{"plane": "string", "at": '
        '"timestamp"}, event_time="at")\n'
        'plane = Entity("plane")\n'
        'last = FeatureView("last", [plane], clicks, [Feature("at")])\n'
    )
    imported = "from featurestore import Entity, Feature, FeatureView, StreamSource\n"
    monkeypatch.setattr(ingest, "LAG_EVERY_S", 0.05)
    valkey.command("FLUSHALL")
    message = json.dumps({"plane": "N1", "at": format_instant(NOW)})

    def send(count: int) -> None:
        for _ in range(count):
            valkey.command("XADD", "clicks", "*", "json", message)

    metrics, stop = Watched(), threading.Event()
    with RedisServer(valkey_binary()) as store:
        online = {"url": store.url, "timeout_ms": 300}
        folder = make_repo(imported + stream, online=online)
        with FeatureStore(folder) as fs:
            fs.apply()
            fs.materialize()
            found = list[Any]()
            work = threading.Thread(
                target=lambda: found.extend(fs.ingest(stop=stop, metrics=metrics))
            )
            work.start()
            try:
                wait_for(lambda: metrics.last == 0)
                store.pause()
                send(5)
                wait_for(lambda: metrics.last == 5)
                store.resume()
                wait_for(lambda: metrics.last == 0)
            finally:
                store.resume()
                stop.set()
                work.join()
    assert [one.messages for one in found] == [5]


def test_two_consumers_share_a_stream(airport: Airport) -> None:
    airport.send("landings", [landing(n, 1.0) for n in range(1, 401)])
    stop, found = threading.Event(), list[Any]()

    def work() -> None:
        with airport.open() as fs:
            found.extend(fs.ingest(["landings"], stop=stop))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while airport.look()["count_7d"] != 401 and time.monotonic() < deadline:
        time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    assert airport.look()["count_7d"] == 401 == airport.offline()["count_7d"]
    assert sum(one.messages for one in found) >= 400


def test_kill_9_anywhere_loses_and_doubles_nothing(
    airport: Airport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is killed again and again while messages arrive; then another one finishes."""
    command, sent = [sys.executable, "-m", "featurestore", "ingest", "landings"], 0
    # After each kill Kafka waits for the session of the one that died.
    for round_number in range(2 if airport.url.startswith("kafka") else 4):
        airport.send("landings", [landing(n, 1.0) for n in range(sent + 1, sent + 201)])
        sent += 200
        process = subprocess.Popen(command, cwd=airport.folder, stderr=subprocess.DEVNULL)
        time.sleep(1.2 + 0.35 * round_number)
        process.send_signal(signal.SIGKILL)
        process.wait()
    claim_at_once(monkeypatch)
    deadline = time.monotonic() + 60
    while airport.take()["landings"].messages and time.monotonic() < deadline:
        pass
    online = airport.look()
    assert (online["count_7d"], online["delay_sum_7d"]) == (sent + 1, sent + 1.0)
    assert airport.offline() == online


def claim_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take over what other consumers of a Redis stream have read, however short ago."""
    monkeypatch.setattr(
        RedisStream,
        "open",
        classmethod(lambda cls, url, *, group: cls(url, group=group, claim_idle_ms=0)),
    )


def test_a_text_that_is_no_text_is_poison_and_not_another_text(
    valkey: RedisServer, make_repo: MakeRepo
) -> None:
    """A field for each column; the server takes any bytes."""
    stream = (
        f'StreamSource("{valkey.url}/raw", schema={{"plane": "string", "at": "timestamp"}}, '
        'event_time="at", event_id="plane")'
    )
    folder = make_repo(f"from featurestore import StreamSource\nraw = {stream}\n")
    valkey.command("FLUSHALL")
    at = format_instant(NOW)
    with socket.create_connection((valkey.host, valkey.port), 5) as one:
        for plane in (b"N1", b"N\xff"):
            words = (b"XADD", b"raw", b"*", b"plane", plane, b"at", at.encode())
            bulks = [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
            one.sendall(b"*%d\r\n%b" % (len(words), b"".join(bulks)))
            assert one.recv(100)[:1] == b"$"
    with FeatureStore(folder) as fs:
        fs.apply()
        (taken,) = fs.ingest(until_empty=True)
        (letter,) = fs.dead_letters("raw")
    assert (taken.rows, taken.dead) == (1, 1)
    assert letter["reason"] == "invalid-rows"
    assert "column 'plane' is string" in letter["message"]
    assert json.loads(letter["row"].replace("\\", "\\\\")) == {"plane": "N\\xff", "at": at}


class TestDefinitions:
    @pytest.mark.parametrize(
        ("stream", "words"),
        [
            ('StreamSource("somewhere", source=landings)', "url is redis://"),
            ('StreamSource("redis://h/0/s")', "needs a source, or a schema"),
            ('StreamSource("redis://h/0/s", source=3)', "source is a FileSource"),
            ('StreamSource("redis://h/0/s", schema={"a": "int"}, event_time="a")', "not a type"),
            ('StreamSource("redis://h/0/s", schema={"a": "int64"}, event_time="a")', "is int64"),
            ('StreamSource("redis://h/0/s", schema={"a": "date"}, event_time="b")', "no column"),
            (
                'StreamSource("redis://h/0/s", source=landings, event_time="at")',
                "those of source; leave them out",
            ),
        ],
    )
    def test_wrong_ones_are_said(self, make_repo: MakeRepo, stream: str, words: str) -> None:
        folder = make_repo(
            "from featurestore import FileSource, StreamSource\n"
            'landings = FileSource("landings", "data/x.csv", "at")\n'
            f"wrong = {stream}\n"
        )
        (folder / "data").mkdir()
        (folder / "data" / "x.csv").write_text("at\n2024-01-01T00:00:00Z\n")
        with FeatureStore(folder) as fs, pytest.raises(InvalidRepository, match=words):
            fs.plan()

    def test_a_url_may_name_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(InvalidSettings, match="SECRET_OF_STREAM"):
            RedisStream("redis://:${SECRET_OF_STREAM}@h/0/s", group="g")
        monkeypatch.setenv("SECRET_OF_STREAM", "x")
        RedisStream("redis://:${SECRET_OF_STREAM}@h/0/s", group="g").close()

    def test_only_sources_that_have_streams_are_ingested(self, make_repo: MakeRepo) -> None:
        folder = make_repo(
            'from featurestore import FileSource\nx = FileSource("x", "data/x.csv", "at")\n'
        )
        (folder / "data").mkdir()
        (folder / "data" / "x.csv").write_text("at\n2024-01-01T00:00:00Z\n")
        with FeatureStore(folder) as fs:
            with pytest.raises(InvalidRequest, match="no StreamSource feeds x"):
                fs.ingest(["x"])
            with pytest.raises(UnknownSource, match="'y'"):
                fs.ingest(["y"])


def test_a_read_takes_several_calls_and_never_takes_its_own_for_lost(
    valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "MESSAGES_PER_CALL", 2)
    monkeypatch.setattr(redis, "MESSAGES_PER_READ", 6)
    valkey.command("FLUSHALL")
    for n in range(9):
        valkey.command("XADD", "calls", "*", "json", str(n))
    url = f"{valkey.url}/calls"
    with monkeypatch.context() as patched, RedisStream(url, group="bytes") as reader:
        patched.setattr(redis, "READ_BYTES_MAX", 3)
        assert [len(reader.read(wait_ms=1)) for _ in range(3)] == [4, 4, 1]
    with (
        RedisStream(url, group="g", claim_idle_ms=0) as mine,
        RedisStream(url, group="g", claim_idle_ms=0) as other,
    ):
        first, rest = mine.read(wait_ms=1), mine.read(wait_ms=1)
        assert [m.data for m in (*first, *rest)] == [b"%d" % n for n in range(9)]
        assert (len(first), mine.read(wait_ms=1), mine.lag()) == (6, [], 9)
        mine.done(first)
        # Another consumer takes what this one seems to have left.
        assert [m.data for m in other.read(wait_ms=1)] == [b"6", b"7"]
        mine.done(rest)
        assert (mine.lag(), mine.read(wait_ms=1), other.read(wait_ms=1)) == (0, [], [])
