"""A profile says of all rows what is cheap to say of all, and of a fair sample the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from featurestore.jobs import profile as profiles
from featurestore.jobs.profile import Profiler
from featurestore.jobs.row_digest import RowDigest
from tests.conftest import utc


def profile(table: pa.Table, rows: int = 65_536, **settings: Any) -> dict[str, Any]:
    digest, found = RowDigest(table.schema), Profiler(table.schema, **settings)
    for batch in table.to_batches(max_chunksize=rows):
        digest.add(batch, found.see)
        found.add(batch)
    return found.profile()


def test_numbers() -> None:
    values = [*range(1, 101), None]
    found = profile(pa.table({"x": pa.array(values, pa.int64())}))["columns"]["x"]
    assert (found["count"], found["nulls"], found["min"], found["max"]) == (101, 1, 1, 100)
    assert found["mean"] == pytest.approx(50.5)
    assert found["std"] == pytest.approx(np.std(range(1, 101)))
    assert found["distinct"] == pytest.approx(100, abs=3)
    assert found["quantiles"]["0.5"] == 50
    assert found["quantiles"]["0.95"] == 95
    assert sum(found["histogram"]["counts"]) == 100
    assert found["histogram"]["edges"][0] == 1
    assert found["top"][0] == {"value": 1, "count": 1}


def test_texts_instants_and_booleans() -> None:
    table = pa.table(
        {
            "page": ["home"] * 3 + ["cart", "x" * 100],
            "at": pa.array([utc(2024, 5, day) for day in range(1, 6)], pa.timestamp("us", "UTC")),
            "late": [True, False, True, None, True],
            "lists": [[1], [2], [3], [4], [5]],
        }
    )
    found = profile(table)["columns"]
    top = found["page"]["top"]
    assert top[0] == {"value": "home", "count": 3}
    assert all(len(one["value"]) <= profiles.TEXT_CHARS_MAX for one in top)
    assert found["at"]["min"] == "2024-05-01T00:00:00Z"
    assert found["at"]["mean"] == "2024-05-03T00:00:00Z"
    assert found["late"]["mean"] == 0.75
    assert found["lists"] == {
        "type": "list<element: int64>" if "element" in str(table["lists"].type) else
        str(table["lists"].type), "count": 5, "nulls": 0, "distinct": 5,
    }  # fmt: skip


def test_what_is_not_finite_is_left_out_of_measures() -> None:
    found = profile(pa.table({"x": [1.0, float("nan"), float("inf"), 3.0]}))["columns"]["x"]
    assert (found["min"], found["max"], found["mean"]) == (1.0, 3.0, 2.0)
    empty = profile(pa.table({"x": pa.array([None, None], pa.float64())}))["columns"]["x"]
    assert empty == {"type": "double", "count": 2, "nulls": 2, "distinct": 0}


def test_keys_are_counted_and_never_shown() -> None:
    found = profile(pa.table({"user": ["ann", "bob"]}), keys=["user"])["columns"]["user"]
    assert found == {"type": "string", "count": 2, "nulls": 0, "distinct": 2}


def test_moments_keep_their_digits_beside_a_large_mean() -> None:
    numbers = np.random.default_rng(1).normal(1e9, 1.0, 20_000)
    found = profile(pa.table({"x": numbers}), rows=1_000)["columns"]["x"]
    assert found["std"] == pytest.approx(numbers.std(), rel=1e-9)
    assert found["mean"] == pytest.approx(numbers.mean(), rel=1e-15)


def test_a_sample_is_fair_bounded_and_the_same_for_any_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profiles, "SAMPLE_ROWS_MAX", 2_000)
    table = pa.table({"x": np.arange(100_000), "c": np.arange(100_000) % 4})
    found, again = profile(table, rows=30_000), profile(table, rows=777)
    for name, facts in found["columns"].items():
        for measure in ("mean", "std"):
            other = again["columns"][name].pop(measure)
            assert facts.pop(measure) == pytest.approx(other)  # sums round as they are grouped
    assert found == again
    assert found["sample_rows"] == 2_000
    assert found["columns"]["x"]["quantiles"]["0.5"] == pytest.approx(50_000, rel=0.1)
    assert {one["value"] for one in found["columns"]["c"]["top"]} == {0, 1, 2, 3}
    assert found["columns"]["x"]["distinct"] == pytest.approx(100_000, rel=0.05)
    assert found["columns"]["c"]["distinct"] == 4
