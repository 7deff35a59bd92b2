"""What a plan says will be read, held against what lies there and what is then materialized."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.compiler.change_plan import Backfill, Build, Category
from featurestore.timeline import DAY_US, SECOND_US, ManualClock, SystemClock
from tests.conftest import INSTANT, MakeRepo

DEFINITIONS = """
from featurestore import Aggregation, Entity, Feature, FeatureView, FileSource, SqlSource

item = Entity("item", join_keys={{"item": "int64"}})
sales = FileSource("sales", path="data/*.parquet", event_time="sold_at", created_time="known_at",
    field_mapping={{"at": "sold_at", "known": "known_at"}})
big = SqlSource("big", "SELECT item, sold_at, cents FROM sales", event_time="sold_at")
{views}
"""
RECENT = """
recent = FeatureView("recent", entities=[item], source=sales, ttl="{ttl}",
    grace="0s", features=[Feature("cents")])
"""
NOW_US = SystemClock().now_us() // DAY_US * DAY_US
ROWS_PER_DAY = 100


@pytest.fixture
def folder(make_repo: MakeRepo) -> Path:
    """Forty days, a row group each, of 100 sales a day; one in ten has no time."""
    made = make_repo("")
    (made / "data").mkdir()
    schema = pa.schema([("item", pa.int64()), ("at", INSTANT), ("known", INSTANT),
                        ("cents", pa.int64()), ("note", pa.string())])  # fmt: skip
    with pq.ParquetWriter(made / "data" / "1.parquet", schema) as writer:
        for day in range(40, 0, -1):
            begin = NOW_US - day * DAY_US
            at = [
                None if n % 10 == 9 else begin + n * (DAY_US // ROWS_PER_DAY)
                for n in range(ROWS_PER_DAY)
            ]
            known = [(one or begin) + SECOND_US for one in at]
            notes = [f"{day} {n} {'x' * 200}" for n in range(ROWS_PER_DAY)]
            columns = [range(ROWS_PER_DAY), at, known, range(ROWS_PER_DAY), notes]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
            writer.write_table(pa.table(arrays, schema=schema))
    return made


def builds(folder: Path, *views: str) -> dict[str, Build]:
    with opened(folder, *views) as fs:
        return {build.view: build for build in fs.plan().builds}


def opened(folder: Path, *views: str) -> FeatureStore:
    text = DEFINITIONS.format(views="\n".join(views))
    (folder / "definitions.py").write_text(text)
    return FeatureStore(folder, clock=ManualClock(NOW_US))


def filled(folder: Path, *views: str) -> Backfill:
    (build,) = builds(folder, *views).values()
    assert build.backfill is not None
    return build.backfill


def test_a_bound_between_row_groups_is_exact(folder: Path) -> None:
    found = filled(folder, RECENT.format(ttl="10d"))
    assert (found.rows, found.exact) == (900, True)
    assert (found.start_us, found.end_us) == (NOW_US - 10 * DAY_US, NOW_US)
    assert 900 < found.bytes < 900 * 50, "the notes are not read"


def test_a_bound_within_a_row_group_is_an_estimate(folder: Path) -> None:
    found = filled(folder, RECENT.format(ttl="36h"))
    assert not found.exact
    assert found.rows == pytest.approx(135, abs=2)


def test_all_of_a_source_without_bounds(folder: Path) -> None:
    views = 'ever = FeatureView("ever", entities=[item], source=sales, features=[Feature("note")])'
    found = filled(folder, views)
    assert (found.start_us, found.rows, found.exact) == (None, 3600, True)
    assert found.bytes > filled(folder, RECENT.format(ttl="400d")).bytes


def test_what_a_query_makes_of_its_rows_no_footer_says(folder: Path) -> None:
    views = 'large = FeatureView("large", entities=[item], source=big, features=[Feature("cents")])'
    found = filled(folder, views)
    assert (found.rows, found.exact) == (4000, False)


def test_a_window_reaches_back_as_long_as_it_is(folder: Path) -> None:
    views = (
        'sums = FeatureView("sums", entities=[item], source=sales, '
        'features=[Aggregation("cents", "sum", window="5d")])'
    )
    found = filled(folder, views)
    with opened(folder, views) as fs:
        reach_us = fs.repo.views["sums"].reach_us
    assert reach_us is not None
    assert found.start_us == NOW_US - reach_us < NOW_US - 5 * DAY_US, "and a hop"
    assert found.rows == pytest.approx(452, abs=2)


def test_what_was_pushed_counts(folder: Path) -> None:
    with opened(folder, RECENT.format(ttl="10d")) as fs:
        fs.apply()
        fs.materialize()
        at = NOW_US - DAY_US // 2
        rows = [{"item": 1000 + n, "sold_at": at, "known_at": at, "cents": n, "note": ""}
                for n in range(7)]  # fmt: skip
        fs.push("sales", rows)
        fs.materialize()
    changed = RECENT.format(ttl="10d").replace('"cents"', '"cents", "cents * 2"')
    build = builds(folder, changed)["recent"]
    assert build.backfill is not None
    assert build.backfill.rows == 907
    with opened(folder, changed) as fs:
        old = fs.registry.records(kind="online_table")[0].record.body["storage_hash"]
        assert build.beside == old


def test_a_longer_ttl_needs_the_rows_that_were_left_out(folder: Path) -> None:
    with opened(folder, RECENT.format(ttl="10d")) as fs:
        fs.apply()
        fs.materialize()
    found = builds(folder, RECENT.format(ttl="20d"))["recent"]
    assert not found.is_new
    assert found.backfill is not None
    assert (found.backfill.rows, found.backfill.exact) == (1800, True)
    assert builds(folder, RECENT.format(ttl="5d")) == {}
    with opened(folder, RECENT.format(ttl="20d")) as fs:
        assert "must reach further back" in str(fs.plan())
        fs.apply()
        (row,) = fs.materialize()
        assert row.start_us == NOW_US - 20 * DAY_US


def test_a_file_that_goes_away_while_planning_costs_only_its_estimate(folder: Path) -> None:
    with opened(folder, RECENT.format(ttl="10d")) as fs:
        assert fs.repo.views
        (folder / "data" / "1.parquet").unlink()
        (build,) = fs.plan().builds
        assert build.backfill is None


def test_a_reviewed_plan_with_estimates_is_applied(folder: Path) -> None:
    with opened(folder, RECENT.format(ttl="10d")) as fs:
        plan = fs.plan()
        again = type(plan).from_json(plan.to_json())
        assert again == plan
        assert fs.apply(again).plan == plan


# --- what counts as a change, by the files that people edit ---------------------------------------

BASE = """
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource

item = Entity("item", join_keys={"item": "int64"})
sales = FileSource("sales", path="data/1.parquet", event_time="at", created_time="known")
price = FeatureView("price", entities=[item], source=sales, ttl="7d",
    features=[Feature("dear", "cents * 2 > 100"), Feature("cents")])
shelf = FeatureService("shelf", features=[price[["cents"]]])
"""


def changed(folder: Path, old: str, new: str) -> dict[str, Category]:
    assert old in BASE
    (folder / "definitions.py").write_text(BASE.replace(old, new))
    with FeatureStore(folder) as fs:
        plan = fs.plan()
    assert plan.is_empty == (not plan.changes)
    return {f"{c.kind}:{c.name}": c.category for c in plan.changes}


@pytest.fixture
def applied(folder: Path) -> Path:
    (folder / "definitions.py").write_text(BASE)
    with FeatureStore(folder) as fs:
        fs.apply()
    return folder


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("cents * 2 > 100", "( cents*2 )  >  100"),
        ("\nfrom", "\n# a comment\n\n\nfrom"),
    ],
)
def test_layout_is_no_change(applied: Path, old: str, new: str) -> None:
    assert changed(applied, old, new) == {}


def test_a_renamed_file_is_no_change(applied: Path) -> None:
    (applied / "definitions.py").unlink()
    (applied / "deeper").mkdir()
    (applied / "deeper" / "prices.py").write_text("\n\n" + BASE)
    with FeatureStore(applied) as fs:
        assert fs.plan().is_empty


def test_a_new_feature_leaves_its_siblings_alone(applied: Path) -> None:
    assert changed(applied, 'Feature("cents")]', 'Feature("cents"), Feature("note")]') == {
        "view:price": Category.ADDITIVE,
        "feature:price.note": Category.ADDITIVE,
    }


@pytest.mark.parametrize(
    ("old", "new"), [('ttl="7d"', 'ttl="8d"'), ("data/1.parquet", "data/*.parquet")]
)
def test_a_new_ttl_or_source_breaks(applied: Path, old: str, new: str) -> None:
    found = changed(applied, old, new)
    assert {found[f"feature:price.{name}"] for name in ("cents", "dear")} == {Category.BREAKING}
    assert found["service:shelf"] == Category.BREAKING
