"""Plans change under a running server; requests never notice more than that."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import promised, until, wait_for

from featurestore.client import FeatureClient
from featurestore.config import Settings
from featurestore.errors import (
    CorruptPlan,
    LimitExceeded,
    UnknownService,
    UnknownView,
)
from featurestore.jobs.project import open_online_store, open_registry
from featurestore.records import Record
from featurestore.serving.metrics import Metrics
from featurestore.serving.reload import VERSIONS_HELD_MAX, PlanBook, follow
from featurestore.serving.serve import ServerProcess
from featurestore.stores.registry.base import Registry
from featurestore.testing.served import (
    ServedView,
    narrowed,
    publish_plans,
    served_settings,
    serving_plan,
)
from featurestore.timeline import SystemClock
from featurestore.wire.plans import ALL_VIEWS, ServingPlan

VIEW = ServedView(name="v", keys={"id": "int64"}, features={"a": "int64", "b": "int64"})
OLD = narrowed(serving_plan("m", [VIEW]), {"v": ["a"]})
NEW = dataclasses.replace(serving_plan("m", [VIEW]), service_version="ab" * 32)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = served_settings(tmp_path)
    with open_online_store(made.online, root=tmp_path) as store:
        VIEW.write(store, {(1,): {"a": 1, "b": 2}}, event_us=0)
    return made


@pytest.fixture
def registry(settings: Settings) -> Iterator[Registry]:
    with open_registry(settings, clock=SystemClock(), author="test") as opened:
        yield opened


@pytest.fixture
def book(registry: Registry) -> PlanBook:
    return PlanBook(registry, "prod")


def pin_plan(registry: Registry, plan: ServingPlan, blob: str | None = None) -> None:
    """Pin the plan of a service's version, as a model in use does."""
    body = {"blob": blob or plan.hash, "service_version": plan.service_version}
    record = Record(kind="serving_plan", name=plan.service, body=body)
    alias = f"pinned/prod/{plan.service}/{plan.service_version[:16]}"
    registry.commit(records=[record], blobs=[plan.to_bytes()], aliases={alias: record.id})


def test_a_version_that_is_pinned_is_served_by_name(settings: Settings, registry: Registry) -> None:
    publish_plans(registry, NEW)
    pin_plan(registry, OLD)
    version = OLD.service_version[:8]
    with ServerProcess.start(settings) as server, FeatureClient(server.grpc_target) as client:
        assert client.get_online_features("m", [{"id": 1}]).to_dict() == {
            "id": [1],
            "a": [1],
            "b": [2],
        }
        pinned = client.get_online_features(f"m@{version}", [{"id": 1}])
        assert pinned.to_dict() == {"id": [1], "a": [1]}
        assert [info.name for info in client.get_serving_info().services] == ["m"]


def test_pins_come_and_go_without_touching_what_is_served(
    book: PlanBook, registry: Registry
) -> None:
    publish_plans(registry, NEW)
    book.refresh()
    pin_plan(registry, OLD)
    ref = f"m@{OLD.service_version[:8]}"
    with pytest.raises(UnknownService):
        book.compiled(ref)
    assert book.refresh().changed == ()
    assert book.compiled(ref).plan_version == OLD.hash
    assert book.compiled("m").plan_version == NEW.hash
    before = book.compiled(ref)
    book.refresh()
    assert book.compiled(ref) is before, "a page that stays stays compiled"
    registry.commit(aliases=dict.fromkeys(registry.aliases("pinned/")))
    book.refresh()
    with pytest.raises(UnknownService):
        book.compiled(ref)


def test_a_pinned_version_of_a_service_that_is_gone(book: PlanBook, registry: Registry) -> None:
    pin_plan(registry, OLD)
    book.refresh()
    assert book.compiled(f"m@{OLD.service_version[:8]}").plan_version == OLD.hash
    with pytest.raises(UnknownService):
        book.compiled("m")
    with pytest.raises(UnknownService, match=f"m@{OLD.service_version[:8]}"):
        book.compiled("m@00000000")


def test_a_pinned_plan_that_can_not_be_read_harms_nobody(
    book: PlanBook, registry: Registry
) -> None:
    publish_plans(registry, NEW)
    pin_plan(registry, OLD, blob="0" * 64)
    reload = book.refresh()
    assert [name for name, _ in reload.failed] == [f"m@{OLD.service_version[:16]}"]
    assert book.compiled("m").plan_version == NEW.hash


def test_a_running_server_follows_the_alias(settings: Settings, registry: Registry) -> None:
    publish_plans(registry, OLD)
    with ServerProcess.start(settings) as server, FeatureClient(server.grpc_target) as client:
        first = client.get_online_features("m", [{"id": 1}])
        assert first.to_dict() == {"id": [1], "a": [1]}
        publish_plans(registry, NEW)

        def moved() -> bool:
            return client.get_online_features("m", [{"id": 1}]).plan_version == NEW.hash

        assert wait_for(moved) < promised(2)
        assert client.get_online_features("m", [{"id": 1}]).to_dict() == {
            "id": [1],
            "a": [1],
            "b": [2],
        }
        pinned = client.get_online_features(f"m@{OLD.service_version[:12]}", [{"id": 1}])
        assert pinned.plan_version == OLD.hash


def test_a_server_starts_with_nothing_to_serve(settings: Settings, registry: Registry) -> None:
    with ServerProcess.start(settings) as server, FeatureClient(server.grpc_target) as client:
        with pytest.raises(UnknownService, match="materialized"):
            client.get_online_features("m", [{"id": 1}])
        with pytest.raises(UnknownView):
            client.get_online_features(["v:a"], [{"id": 1}])
        publish_plans(registry, OLD, dataclasses.replace(NEW, service=ALL_VIEWS))

        def served() -> bool:
            return bool(client.get_serving_info().services)

        wait_for(served)
        assert client.get_online_features(["v:b"], [{"id": 1}]).to_dict() == {"id": [1], "b": [2]}


def test_requests_under_way_keep_their_plan(registry: Registry, book: PlanBook) -> None:
    publish_plans(registry, OLD)
    assert book.refresh().changed == ("m",)
    taken = book.compiled("m")
    publish_plans(registry, NEW)
    book.refresh()
    assert taken.plan == OLD
    assert book.compiled("m").plan == NEW
    assert book.compiled("m") is book.compiled("m")


def test_where_nothing_moved_nothing_happens(registry: Registry, book: PlanBook) -> None:
    publish_plans(registry, OLD)
    book.refresh()
    before = book.compiled("m")
    assert book.refresh().changed == ()
    assert book.compiled("m") is before


def test_versions_are_held_up_to_a_limit(registry: Registry, book: PlanBook) -> None:
    plans = [
        dataclasses.replace(OLD, service_version=f"{n:08x}" + "0" * 56)
        for n in range(VERSIONS_HELD_MAX + 2)
    ]
    for plan in plans:
        publish_plans(registry, plan)
        book.refresh()
    assert book.compiled("m").plan == plans[-1]
    assert book.compiled(f"m@{plans[-2].service_version}").plan == plans[-2]
    with pytest.raises(UnknownService, match="m@00000005"):
        book.compiled("m@00000000")
    with pytest.raises(UnknownService):
        book.compiled("m@0000000")


def test_a_removed_alias_ends_the_service(registry: Registry, book: PlanBook) -> None:
    publish_plans(registry, OLD)
    book.refresh()
    registry.commit(aliases={"serving/prod/m": None})
    assert book.refresh().changed == ("m",)
    with pytest.raises(UnknownService):
        book.compiled("m")


def test_a_plan_that_cannot_be_read_leaves_the_old_one(registry: Registry, book: PlanBook) -> None:
    publish_plans(registry, OLD)
    book.refresh()
    rubbish = b"\xff\xff rubbish"
    digest = hashlib.sha256(rubbish).hexdigest()
    record = Record(kind="serving_plan", name="m", body={"blob": digest})
    registry.commit(records=[record], blobs=[rubbish], aliases={"serving/prod/m": record.id})
    reload = book.refresh()
    assert reload.changed == ()
    ((service, error),) = reload.failed
    assert (service, type(error)) == ("m", CorruptPlan)
    assert book.compiled("m").plan == OLD


def test_the_plan_of_all_views_is_no_service(registry: Registry, book: PlanBook) -> None:
    publish_plans(registry, dataclasses.replace(NEW, service=ALL_VIEWS))
    book.refresh()
    assert book.plans == {}
    with pytest.raises(UnknownService):
        book.compiled("*")
    assert book.compiled(("v:b", "v:a")).schema.views[0].features[0].name == "b"


def test_long_lists_are_refused_before_they_are_compiled(registry: Registry) -> None:
    small = PlanBook(registry, "prod", features_max=3)
    with pytest.raises(LimitExceeded, match="features_per_request_max"):
        small.compiled(("v:a",) * 4)


async def test_a_registry_that_goes_away_stops_nothing(
    settings: Settings, registry: Registry
) -> None:
    publish_plans(registry, OLD)
    book, metrics = PlanBook(registry, "prod"), Metrics()
    book.refresh()
    database = settings.root / "registry.db"
    aside = database.rename(database.with_suffix(".aside"))
    database.mkdir()
    registry.close()
    following = asyncio.create_task(follow(book, 0.01, metrics))
    try:
        failed = 'featurestore_plan_reloads_total{result="failed"}'
        await until(lambda: failed in metrics.exposition()[0].decode())
        assert book.compiled("m").plan == OLD
        database.rmdir()
        aside.rename(database)
        publish_plans(registry, NEW)
        await until(lambda: book.compiled("m").plan == NEW)
    finally:
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
