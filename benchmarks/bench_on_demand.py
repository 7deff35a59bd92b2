"""What features on demand add: to a lookup, and to a training set.

    python benchmarks/bench_on_demand.py [--quick] [--json FILE]

Twenty expressions over ten features and a request input, beside the same features without them, by
turns. Processor time counts. `lookup` is the server's work without the store: from a request to the
bytes of its answer, request inputs read.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from results import RUNS, Result, parser, report

from featurestore import FeatureStore
from featurestore.serving.assemble import Limits, Request, finish, prepare
from featurestore.serving.compiled import CompiledPlan, compile_plan
from featurestore.wire.entities import read_entities
from featurestore.wire.inputs import read_inputs

SHAPES = (
    "f{0} / distance",
    "f{0} * 2 + f{1}",
    "CASE WHEN f{0} > f{1} THEN 1.5 ELSE 0.5 END",
    "coalesce(f{0}, 0) - distance",
    "sqrt(abs(f{0}))",
)
EXPRESSIONS = [SHAPES[i % 5].format(i % 10, (i + 3) % 10) for i in range(20)]
DEFINITIONS = f"""
from featurestore import (
    Entity, Feature, FeatureService, FeatureView, FileSource, OnDemandFeatureView, RequestSource,
    on_demand_feature_view,
)

user = Entity("user", join_keys={{"user": "int64"}})
rows = FileSource("rows", "rows.parquet", "at")
view = FeatureView("view", [user], rows, [Feature(f"f{{i}}") for i in range(30)])
asked = RequestSource("asked", {{"distance": "float64"}})
computed = OnDemandFeatureView("computed", [view, asked], [
    Feature(f"o{{i}}", text) for i, text in enumerate({EXPRESSIONS!r})])

@on_demand_feature_view(inputs=[view, asked], schema={{"x": "float64"}})
def function(f0, distance):
    return {{"x": None if f0 is None else f0 * distance}}

ten = [f"f{{i}}" for i in range(10)]
plain = FeatureService("plain", view[ten])
expressions = FeatureService("expressions", [view[ten], computed])
functions = FeatureService("functions", [view[ten], function])
"""
BEGIN_US, SPAN_US = 1_700_000_000_000_000, 10**13
LOOKUP_LIMIT_US = 15.0


def cpu_s(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def make_repository(root: Path, rows: int, users: int) -> None:
    root.mkdir()
    (root / "featurestore.toml").write_text('[project]\nname = "bench"\n')
    (root / "definitions.py").write_text(DEFINITIONS)
    generator = np.random.default_rng(1)
    columns: dict[str, Any] = {
        "user": generator.integers(0, users, rows),
        "at": instants(generator, rows),
        **{f"f{i}": generator.random(rows) for i in range(30)},
    }
    pq.write_table(pa.table(columns), root / "rows.parquet")


def instants(generator: np.random.Generator, count: int) -> pa.Array:
    found = generator.integers(BEGIN_US, BEGIN_US + SPAN_US, count)
    return pa.array(found).cast(pa.timestamp("us", tz="UTC"))


def bench_training(store: FeatureStore, rows: int, users: int) -> list[Result]:
    generator = np.random.default_rng(2)
    frame = pa.table(
        {
            "user": generator.integers(0, users, rows),
            "event_timestamp": instants(generator, rows),
            "distance": generator.random(rows),
        }
    )

    def run(service: str) -> Callable[[], object]:
        return lambda: sum(
            batch.num_rows for batch in store.get_historical_features(frame, service).to_batches()
        )

    names = ("plain", "expressions", "functions")
    run("plain")()
    times = {name: [] for name in names}
    for _ in range(RUNS):
        for name in names:
            times[name].append(cpu_s(run(name)))
    best = {name: min(found) for name, found in times.items()}
    target = {"expressions": 1.1, "functions": None}
    what = {"expressions": "20 expressions", "functions": "a Python function"}
    return [
        Result(
            job=f"training set, {rows:,} rows",
            setting=f"with {what[name]}",
            ours=best[name],
            floor=best["plain"],
            floor_name="without",
            unit="s CPU",
            higher_is_better=False,
            target=target[name],
        )
        for name in what
    ]


def bench_lookups(store: FeatureStore, users: Sequence[int], repeat: int) -> Result:
    store.apply()
    store.materialize()
    plans = {
        plan.service: compile_plan(plan)
        for plan in (served(store, name) for name in ("plain", "expressions"))
    }
    times: dict[str, list[float]] = {name: [] for name in plans}
    for _ in range(2 * RUNS):
        for name, plan in plans.items():
            inputs = {"distance": [3.0] * len(users)} if name == "expressions" else None
            work = lookup(store, plan, users, inputs)
            times[name].append(cpu_s(lambda w=work: [w() for _ in range(repeat)]) / repeat * 1e6)
    with_, without = min(times["expressions"]), min(times["plain"])
    count = len(users)
    return Result(
        job="lookup, 20 expressions add",
        setting=f"{count} key{'' if count == 1 else 's'}",
        ours=(with_ - without) / count,
        unit="µs CPU per key",
        higher_is_better=False,
        limit=LOOKUP_LIMIT_US,
        note=f"{without:.1f} → {with_:.1f} µs",
    )


def served(store: FeatureStore, service: str) -> Any:
    """The serving plan of a service."""
    from featurestore.wire.plans import ServingPlan

    environment = store.settings.project.environment
    alias = store.registry.aliases(f"serving/{environment}/{service}")
    (target,) = (found.target for name, found in alias.items() if name.endswith(f"/{service}"))
    blob = store.registry.record(target).record.body["blob"]
    return ServingPlan.from_bytes(store.registry.blob(str(blob)))


def lookup(
    store: FeatureStore,
    plan: CompiledPlan,
    users: Sequence[int],
    inputs: Mapping[str, Sequence[float]] | None,
) -> Callable[[], object]:
    entities, limits = read_entities({"user": list(users)}), Limits()
    now_us = BEGIN_US + SPAN_US

    def ask(found: Sequence[Sequence[bytes | None]] | None = None) -> Any:
        request = Request(
            count=entities.count,
            columns=entities.columns,
            event_times=True,
            inputs=read_inputs(inputs),
        )
        prepared = prepare(plan, request, limits)
        if found is None:
            return store.online_store.read(prepared.reads)
        return finish(plan, request, prepared, found, now_us)

    rows = ask()
    return lambda: ask(rows)


def main() -> None:
    asked = parser(__doc__).parse_args()
    rows, frame = (100_000, 100_000) if asked.quick else (2_000_000, 1_000_000)
    with tempfile.TemporaryDirectory(prefix="fs_bench_") as name:
        root = Path(name) / "repo"
        make_repository(root, rows, users=10_000)
        with FeatureStore(root) as store:
            found = bench_training(store, frame, users=10_000)
            found += [
                bench_lookups(store, range(count), repeat)
                for count, repeat in ((1, 2_000), (100, 50))
            ]
    report(found, asked)


if __name__ == "__main__":
    main()
