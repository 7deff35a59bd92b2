"""The DuckDB text of representative relations (`--update-golden` renews it)."""

from __future__ import annotations

from pathlib import Path

import pytest

from featurestore import (
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    FileSource,
    OnDemandFeatureView,
    RequestSource,
    SqlSource,
)
from featurestore.compiler.passes import run_passes
from featurestore.compiler.rel import DataFiles, Latest, Rel, Scan
from featurestore.compiler.resolve import resolve
from featurestore.compiler.scans import view_rel
from featurestore.compiler.selection import select
from featurestore.compiler.training import compile_training
from featurestore.compiler.typed import TypedRepo
from featurestore.definitions.repo import collect
from featurestore.dtypes import DATE, FLOAT64, INT32, INT64, STRING, TIMESTAMP, DType
from featurestore.engines.duckdb_scans import FileGroup
from featurestore.engines.duckdb_sql import Ask, to_sql
from featurestore.engines.duckdb_winners import PAIRS_PER_ROW_MAX
from featurestore.timeline import to_us

SCHEMAS: dict[str, dict[str, DType]] = {
    "weather": {
        "airport": STRING,
        "observed_at": TIMESTAMP,
        "published_at": TIMESTAMP,
        "temp": FLOAT64,
        "wind": INT32,
        "year": INT64,
    },
    "planes": {"tailnum": STRING, "seats": INT64, "bought": DATE, "change": STRING},
    "seen": {"airport": STRING, "last": TIMESTAMP, "days": INT64},
}
FILES = {
    "weather": DataFiles(
        format="parquet",
        paths=("/data/weather/year=2013/a.parquet", "/data/weather/year=2014/it's [b].parquet"),
        schema=SCHEMAS["weather"],
        partitions=({"year": "2013"}, {"year": "2014"}),
    ),
    "planes": DataFiles(
        format="csv",
        paths=("/data/planes.csv",),
        schema=SCHEMAS["planes"],
        csv_options={
            "delimiter": ";",
            "names": '[["tailnum", "seats", "bought", "change"]]',
            "null_texts": '["", "NA"]',
        },
    ),
}
DUCKDB_TYPES = (
    {"airport": "VARCHAR", "observed_at": "TIMESTAMP WITH TIME ZONE", "published_at": "TIMESTAMP",
     "temp": "DOUBLE", "wind": "INTEGER"},
    {"airport": "VARCHAR", "observed_at": "TIMESTAMP_NS", "published_at": "TIMESTAMP",
     "temp": "FLOAT"},
)  # fmt: skip


def repository() -> TypedRepo:
    airport, plane = Entity("airport"), Entity("plane", join_keys={"tailnum": "string"})
    weather = FileSource("weather", "weather/", "observed_at", "published_at")
    planes = FileSource(
        "planes", "planes.csv", "bought", event_time_is="end", op="change", tiebreak=("seats",)
    )
    seen = SqlSource(
        "seen",
        "SELECT airport, max(observed_at) AS last, count(*) AS days FROM weather GROUP BY airport",
        "last",
    )
    conditions = FeatureView(
        "conditions",
        entities=[airport],
        source=weather,
        ttl="3h",
        features=[Feature("temp"), Feature("knots", "wind * 0.868976")],
    )
    fleet = FeatureView("fleet", entities=[plane], source=planes, features=[Feature("seats")])
    life = FeatureView("life", entities=[airport], source=seen, features=[Feature("days")])
    delays = FeatureService(
        "delays", features=[conditions.with_join_key_map({"airport": "origin"}), fleet]
    )
    asked = RequestSource("asked", {"distance": "float64"})
    comfort = OnDemandFeatureView(
        "comfort",
        inputs=[conditions, asked],
        features=[
            Feature("by_distance", "temp / distance"),
            Feature("drift", "coalesce(knots / distance, 0.0) / sqrt(temp)"),
            Feature("swing", "sqrt(abs(temp)) - sqrt(temp)"),
        ],
    )
    definitions = collect(
        [airport, plane, weather, planes, seen, asked, conditions, fleet, life, comfort, delays]
    )
    return resolve(definitions, SCHEMAS, project="golden")


def groups(scan: Scan) -> list[FileGroup]:
    if scan.files.format == "csv":
        return []
    pairs = zip(scan.files.paths, DUCKDB_TYPES, strict=True)
    return [FileGroup(paths=(path,), types=types) for path, types in pairs]


def answered(*, rows: int, asked: int) -> Ask:
    """Bounds of the times, `rows` on the left, and `asked` rows of each key on both sides."""

    def ask(query: str) -> tuple[int, ...]:
        if "max(asked)" in query:
            return (rows, asked, rows * asked)
        return (int(asked <= PAIRS_PER_ROW_MAX),) if "sum(asked)" in query else (1_000, 2_000)

    return ask


def check(
    name: str, rel: Rel, request: pytest.FixtureRequest, *, rows: int = 1, asked: int = 1
) -> None:
    text = to_sql(run_passes(rel), groups, answered(rows=rows, asked=asked)) + "\n"
    path = Path(__file__).parent / "sql" / f"{name}.sql"
    if request.config.getoption("--update-golden", default=False):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "rows", "asked"),
    [
        ("training_few_rows", 100, 1),
        ("training", 100_000, 1),
        ("training_hot_keys", 100_000, 1_000),
    ],
)
def test_a_training_set(name: str, rows: int, asked: int, request: pytest.FixtureRequest) -> None:
    repo = repository()
    compiled = compile_training(
        select(repo, "delays"),
        ["origin", "tailnum", "event_timestamp"],
        repo=repo,
        files=FILES,
        known_until_us=to_us("2014-01-01T00:00:00Z"),
        include_status=True,
    )
    check(name, compiled.rel, request, rows=rows, asked=asked)


def test_a_training_set_with_features_on_demand(request: pytest.FixtureRequest) -> None:
    repo = repository()
    frame = ["airport", "distance", "event_timestamp"]
    compiled = compile_training(
        select(repo, ["comfort", "conditions:temp"]), frame, repo=repo, files=FILES
    )
    check("training_on_demand", compiled.rel, request, rows=100)


def test_the_latest_rows_of_a_query(request: pytest.FixtureRequest) -> None:
    repo = repository()
    rows = view_rel(repo.views["life"], repo, FILES)
    check("latest", Latest(input=rows, known_after_us=0, known_until_us=10), request)
