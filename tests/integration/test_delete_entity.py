"""Deleting entities: what is gone, for whom, and what comes back, on LMDB and on Valkey."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from redis_servers import RedisServer, valkey_binary
from s3_servers import BUCKET, KEY, SECRET, S3Server

from featurestore import FeatureStore
from featurestore.cli.main import run
from featurestore.errors import (
    InvalidJoinKey,
    InvalidRequest,
    LimitExceeded,
    MissingJoinKey,
    StoreUnavailable,
)
from featurestore.jobs import deletions as jobs_deletions
from featurestore.timeline import HOUR_US, ManualClock, to_us
from tests.conftest import INSTANT, MakeRepo, utc, write_rows

NOON = utc(2024, 5, 1, 12)
DEFINITIONS = """
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource, SqlSource

plane = Entity("plane", join_keys={"tail": "string"})
gate = Entity("gate", join_keys={"gate": "int64"})
leg = Entity("leg", join_keys={"tail": "string", "dest": "string"})
other = Entity("other", join_keys={"tail": "string"})
flights = FileSource("flights", "data/*.parquet", "at", "known", lateness="1d")
doubled = SqlSource("doubled", "SELECT tail, \\"at\\", known, v * 2 AS w FROM flights",
    "at", "known")
newest = FeatureView("newest", plane, flights, [Feature("v")])
twice = FeatureView("twice", plane, doubled, [Feature("w")])
at_gate = FeatureView("at_gate", [plane, gate], flights, [Feature("v")])
on_leg = FeatureView("on_leg", leg, flights, [Feature("v")])
of_other = FeatureView("of_other", other, flights, [Feature("v")])
gates = FeatureView("gates", gate, flights, [Feature("v")])
world = FeatureView("world", features=[Feature("v")], source=flights)
everything = FeatureService("everything",
    features=[newest, twice, at_gate, on_leg, of_other, gates, world])
"""
TYPES = {
    "tail": pa.string(), "gate": pa.int64(), "dest": pa.string(),
    "at": INSTANT, "known": INSTANT, "v": pa.int64(),
}  # fmt: skip
VIEWS = ("newest", "twice", "at_gate", "on_leg", "of_other", "gates", "world")
KEYS = [
    {"tail": tail, "gate": gate, "dest": dest}
    for tail, gate, dest in [("a", 1, "x"), ("a", 2, "y"), ("b", 1, "x"), ("ü:/", 3, "z")]
]
OF_PLANE = ("newest", "twice", "at_gate", "on_leg")
"""The views that deleting a plane reaches."""


@dataclass
class Airport:
    """A repository whose flights are materialized at noon."""

    folder: Path
    store: FeatureStore
    clock: ManualClock

    def land(self, name: str, *rows: tuple[dict[str, Any], float, float, int]) -> None:
        """A file of flights: key, hours after noon at which they were and became known, value."""
        write_rows(
            self.folder / f"data/{name}.parquet",
            [
                key
                | {
                    "at": to_us(NOON) + int(at * HOUR_US),
                    "known": to_us(NOON) + int(known * HOUR_US),
                    "v": v,
                }
                for key, at, known, v in rows
            ],
            TYPES,
        )

    def online(self) -> dict[str, list[Any]]:
        found = self.store.get_online_features("everything", KEYS, full_feature_names=True)
        return self._by_view(found.to_dict())

    def offline(self, hours: float = 0.0, **options: Any) -> dict[str, list[Any]]:
        at = to_us(NOON) + int(hours * HOUR_US) + (0 if hours else self.passed_us)
        times = pa.array([at] * len(KEYS), INSTANT)
        frame = pa.Table.from_pylist(KEYS).append_column("event_timestamp", times)
        job = self.store.get_historical_features(
            frame, "everything", full_feature_names=True, **options
        )
        return self._by_view(job.to_arrow().to_pydict())

    @property
    def passed_us(self) -> int:
        return self.clock.now_us() - to_us(NOON)

    def _by_view(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {view: columns[f"{view}__{'w' if view == 'twice' else 'v'}"] for view in VIEWS}


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as server:
        yield server


@pytest.fixture(params=["lmdb", "valkey"])
def airport(request: pytest.FixtureRequest, make_repo: MakeRepo, valkey: RedisServer) -> Any:
    valkey.command("FLUSHALL")
    url = "lmdb:.featurestore/online" if request.param == "lmdb" else valkey.url
    folder = make_repo(DEFINITIONS, online={"url": url, "timeout_ms": 30_000})
    clock = ManualClock(to_us(NOON))
    with FeatureStore(folder, clock=clock) as store:
        made = Airport(folder, store, clock)
        rows = [(key, -5.0 + n, -5.0 + n, n) for n, key in enumerate(KEYS)]
        made.land("1", *rows, (KEYS[3], -9, -9, 90))
        store.apply()
        store.materialize()
        yield made


BEFORE = {
    "newest": [1, 1, 2, 3], "twice": [2, 2, 4, 6], "at_gate": [0, 1, 2, 3], "on_leg": [0, 1, 2, 3],
    "of_other": [1, 1, 2, 3], "gates": [2, 1, 2, 3], "world": [3, 3, 3, 3],
}  # fmt: skip


def without(*places: int, **changed: Any) -> dict[str, list[Any]]:
    """`BEFORE` without the planes of these keys."""
    gone = {KEYS[place]["tail"] for place in places}
    after = {view: list(values) for view, values in BEFORE.items()}
    for view in OF_PLANE:
        after[view] = [
            None if key["tail"] in gone else value
            for key, value in zip(KEYS, after[view], strict=True)
        ]
    return after | changed


def check(airport: Airport, expected: dict[str, list[Any]], *, verify: bool = False) -> None:
    assert airport.online() == expected
    assert airport.offline() == expected
    assert not verify or airport.store.verify().rate == 1.0


def test_it_is_gone_everywhere_for_good(airport: Airport) -> None:
    check(airport, BEFORE)
    done = airport.store.delete_entity("plane", {"tail": "a"})
    assert (done.entity, done.keys, done.at_us) == ("plane", 1, to_us(NOON))
    assert done.rows_removed == 6, "newest and twice one each, at_gate and on_leg two each"
    after = without(0, 1)
    check(airport, after)
    assert airport.offline(hours=-4)["newest"] == [None, None, None, 90], "the past too"
    assert airport.offline(hours=-3.5, as_of="event")["newest"][:2] == [None, None]
    airport.clock.advance(HOUR_US)
    airport.store.materialize()
    check(airport, after)
    airport.store.materialize(start=utc(2024, 5, 1), end=utc(2024, 5, 2))
    check(airport, after)
    airport.store.materialize(replace=True)
    check(airport, after)
    changes = airport.store.get_historical_features(features=["newest"], end=utc(2025, 1, 1))
    assert set(changes.to_arrow()["tail"].to_pylist()) == {"b", "ü:/"}
    again = airport.store.delete_entity("plane", {"tail": "a"})
    assert again.rows_removed == 0
    check(airport, after, verify=True)


def test_what_becomes_known_later_counts(airport: Airport) -> None:
    airport.store.delete_entity("plane", [{"tail": "a"}, {"tail": "ü:/"}])
    check(airport, without(0, 1, 3))
    airport.clock.advance(2 * HOUR_US)
    # One row happened long before the deletion and becomes known after it; another was known just
    # then and lands late.
    airport.land("2", (KEYS[0], -8, 1, 70), (KEYS[3], -1, 0, 80))
    airport.store.materialize()
    after = without(3, newest=[70, 70, 2, None], twice=[140, 140, 4, None])
    after |= {"at_gate": [70, None, 2, None], "on_leg": [70, None, 2, None]}
    after |= {"of_other": [1, 1, 2, 80], "gates": [2, 1, 2, 80], "world": [80] * 4}
    check(airport, after)
    assert airport.offline(hours=0.5)["newest"] == [None, None, 2, None]
    airport.store.materialize(replace=True)
    check(airport, after, verify=True)


def test_old_generations_are_emptied_too(airport: Airport) -> None:
    airport.store.materialize(["newest"], replace=True)
    done = airport.store.delete_entity("plane", {"tail": "b"})
    assert done.rows_removed == 5, "newest twice, twice, at_gate, on_leg"
    check(airport, without(2))


def test_a_run_under_way_does_not_bring_it_back(airport: Airport) -> None:
    """The deletion comes when the run has read and written its rows, and before it ends."""
    deleted = []

    def progress(view: str, rows: int) -> None:
        if view == "newest" and not deleted:
            with FeatureStore(airport.folder, clock=airport.clock) as other:
                deleted.append(other.delete_entity("plane", {"tail": "a"}))
            # What a slower writer of the same run would do now:
            put_back(airport, saved)

    saved = held(airport)
    airport.store.materialize(["newest"], start=utc(2024, 5, 1), end=NOON, progress=progress)
    assert deleted
    assert airport.online()["newest"] == [None, None, 2, 3]


def held(airport: Airport) -> list[Any]:
    """What is written from now on, batch by batch."""
    written: list[Any] = []
    plain = airport.store.online_store.write

    def write(batch: Any) -> Any:
        written.append(batch)
        return plain(batch)

    airport.store.online_store.write = write  # type: ignore[method-assign]
    return written


def put_back(airport: Airport, batches: list[Any]) -> None:
    for batch in list(batches):
        airport.store.online_store.write(batch)


def test_a_store_that_fails_in_between(airport: Airport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline it is gone already; running it again finishes it."""

    def fail(*_: Any, **__: Any) -> bool:
        raise StoreUnavailable("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(type(airport.store.online_store), "delete", fail)
        with pytest.raises(StoreUnavailable):
            airport.store.delete_entity("plane", {"tail": "a"})
    assert airport.offline() == without(0, 1)
    assert airport.online() == BEFORE
    airport.store.delete_entity("plane", {"tail": "a"})
    check(airport, without(0, 1))
    records = airport.store.registry.records(kind="deletion")
    assert [stored.record.name for stored in records] == ["plane"], "the same fact twice is one"
    assert "a" not in records[0].record.body.values(), "the record names no key"


def test_what_it_does_not_take(airport: Airport, monkeypatch: pytest.MonkeyPatch) -> None:
    delete = airport.store.delete_entity
    with pytest.raises(InvalidRequest, match="Did you mean 'plane'"):
        delete("plain", {"tail": "a"})
    with pytest.raises(MissingJoinKey):
        delete("leg", {"tail": "a"})
    with pytest.raises(InvalidJoinKey, match="no such join key"):
        delete("plane", {"tail": "a", "tial": "b"})
    with pytest.raises(InvalidJoinKey, match="must be string"):
        delete("plane", {"tail": 7})
    with pytest.raises(InvalidJoinKey, match="no NULL"):
        delete("plane", [{"tail": "a"}, {"tail": None}])
    for nothing in ([], {"tail": []}):
        with pytest.raises((InvalidRequest, MissingJoinKey)):
            delete("plane", nothing)
    monkeypatch.setattr(jobs_deletions, "KEYS_PER_DELETION_MAX", 1)
    with pytest.raises(LimitExceeded):
        delete("plane", {"tail": ["a", "b"]})
    check(airport, BEFORE)


def test_on_the_command_line(airport: Airport, capsys: pytest.CaptureFixture[str]) -> None:
    airport.store.close()
    repo = ["--repo", str(airport.folder)]
    assert run(["delete-entity", "plane", "-e", "tail=a", "-e", "tail=b", *repo], debug=False) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("2 of plane deleted as of ")
    assert printed.endswith("10 online rows removed\n")
    assert run(["delete-entity", "gate", "-e", "gate:=3", "--json", *repo], debug=False) == 0
    assert '"keys": 1' in capsys.readouterr().out
    assert run(["delete-entity", "plane", *repo], debug=False) == 1
    assert "[invalid-request]" in capsys.readouterr().err


def test_with_the_offline_folder_on_s3(
    make_repo: MakeRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with S3Server() as server:
        offline = {"path": f"s3://{BUCKET}/ours", "s3_endpoint": server.endpoint}
        folder = make_repo(DEFINITIONS, offline=offline)
        clock = ManualClock(to_us(NOON))
        with FeatureStore(folder, clock=clock) as store:
            airport = Airport(folder, store, clock)
            airport.land("1", *[(key, -5.0 + n, -5.0 + n, n) for n, key in enumerate(KEYS)])
            store.apply()
            store.materialize()
            store.delete_entity("plane", {"tail": "a"})
            store.materialize(replace=True)
            check(airport, without(0, 1))
