"""Gates and metrics as pure rules: metrics against scikit-learn, bootstrap, slices, data."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from featurestore.definitions.gates import DataContract, Gates
from featurestore.errors import DefinitionError, GateFailed, InvalidRequest, TypeMismatch
from featurestore.lifecycle import gates as rules
from featurestore.lifecycle.gates import DataFacts, Judged
from featurestore.lifecycle.metrics import METRICS, measure, metric_of, paired_bootstrap

RANDOM = np.random.default_rng(3)
TRUTH = (RANDOM.random(400) < 0.3).astype(np.float64)
SCORE = np.round(np.clip(0.3 * TRUTH + 0.7 * RANDOM.random(400), 0.01, 0.99), 2)  # with ties
WEIGHT = RANDOM.integers(0, 4, 400).astype(np.float64)
SAID = (SCORE >= 0.5).astype(float)
NUMBERS = RANDOM.normal(10, 3, 400)
GUESSES = NUMBERS + RANDOM.normal(0, 1, 400)


@pytest.mark.parametrize(
    ("name", "function", "second"),
    [
        ("auc", reference.roc_auc_score, SCORE),
        ("log_loss", reference.log_loss, SCORE),
        ("brier", reference.brier_score_loss, SCORE),
        ("accuracy", reference.accuracy_score, SAID),
        ("precision", reference.precision_score, SAID),
        ("recall", reference.recall_score, SAID),
        ("f1", reference.f1_score, SAID),
    ],
)
def test_metrics_of_classes_are_scikit_learns(name: str, function: Any, second: Any) -> None:
    found = metric_of(name).prepare(TRUTH, SCORE)
    assert found(WEIGHT) == pytest.approx(function(TRUTH, second, sample_weight=WEIGHT))
    assert measure(name, TRUTH, SCORE) == pytest.approx(function(TRUTH, second))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("mae", reference.mean_absolute_error),
        ("mse", reference.mean_squared_error),
        ("rmse", reference.root_mean_squared_error),
        ("r2", reference.r2_score),
    ],
)
def test_metrics_of_numbers_are_scikit_learns(name: str, function: Any) -> None:
    found = metric_of(name).prepare(NUMBERS, GUESSES)
    assert found(WEIGHT) == pytest.approx(function(NUMBERS, GUESSES, sample_weight=WEIGHT))


@pytest.mark.parametrize("name", ["auc", "precision", "recall"])
def test_without_a_row_of_a_class_there_is_no_value(name: str) -> None:
    nothing = np.zeros(5)
    assert math.isnan(measure(name, nothing, nothing))
    assert math.isnan(measure("auc", np.zeros(0), np.zeros(0)))


def test_an_unknown_metric() -> None:
    with pytest.raises(InvalidRequest, match="Did you mean 'auc'"):
        metric_of("aucc")
    assert "auc" in METRICS


class TestBootstrap:
    def run(self, challenger: Any, metric: str = "auc", **more: Any) -> Any:
        settings = {"confidence": 0.95, "resamples": 300, "seed": 1} | more
        return paired_bootstrap(metric, TRUTH, challenger, SCORE, **settings)

    def test_the_same_predictions_differ_by_nothing(self) -> None:
        found = self.run(SCORE)
        assert (found.difference, found.lower) == (0.0, 0.0)

    def test_it_is_seeded(self) -> None:
        noisy = SCORE + RANDOM.normal(0, 0.1, 400)
        assert self.run(noisy) == self.run(noisy)
        assert self.run(noisy).lower != self.run(noisy, seed=2).lower

    def test_a_better_model_is_better_with_confidence(self) -> None:
        better = np.clip(SCORE + 0.3 * TRUTH, 0, 1)
        assert self.run(better).lower > 0.05
        assert self.run(better, metric="log_loss").lower > 0  # signed: more is better
        assert self.run(better, confidence=0.5).lower > self.run(better, confidence=0.99).lower

    def test_the_bound_covers_what_it_says(self) -> None:
        """Of many samples from a world in which both are equally good, the bound lies above 0 in
        about 5 of 100 (here at most 12 of 120: more has a chance below 0.04)."""
        random, above = np.random.default_rng(11), 0
        for _ in range(120):
            truth = (random.random(200) < 0.5).astype(float)
            one, other = (truth + random.normal(0, 1.5, 200) for _ in range(2))
            found = paired_bootstrap(
                "auc", truth, one, other, confidence=0.95, resamples=100, seed=5
            )
            above += found.lower > 0
        assert above <= 12

    def test_no_value_in_any_resample(self) -> None:
        nothing = np.zeros(5)
        found = paired_bootstrap(
            "auc", nothing, nothing, nothing, confidence=0.9, resamples=100, seed=0
        )
        assert math.isnan(found.lower)


JUDGED = Judged(
    evaluation="evaluation:m@1",
    truth=TRUTH,
    score=SCORE,
    slices={"side": np.where(np.arange(400) % 2 == 0, "left", "right"), "key": np.arange(400)},
)


def test_bounds() -> None:
    auc = measure("auc", TRUTH, SCORE)
    assert rules.bound_gate("auc", auc, JUDGED, at_least=True).passed
    low = rules.bound_gate("auc", auc + 0.01, JUDGED, at_least=True)
    assert not low.passed
    assert "not ≥" in low.message
    assert low.evidence["found"] == auc
    assert rules.bound_gate("brier", 1.0, JUDGED, at_least=False).passed
    assert not rules.bound_gate("brier", 0.001, JUDGED, at_least=False).passed
    none = Judged(evaluation="e", truth=np.zeros(3), score=np.zeros(3))
    nothing = rules.bound_gate("auc", 0.0, none, at_least=True)
    assert not nothing.passed
    assert nothing.to_dict()["evidence"]["found"] is None


def test_no_worse_than_the_champion() -> None:
    gates = Gates("m", evaluate_on="t", no_worse={"auc": 0.02}, resamples=200)
    worse = Judged(evaluation="e2", truth=TRUTH, score=1 - SCORE)
    found = rules.champion_gate("auc", 0.02, worse, JUDGED, gates)
    assert not found.passed
    assert found.evidence["confidence"] == 0.95
    assert "0.95 confidence" in found.message
    assert rules.champion_gate("auc", 0.02, JUDGED, JUDGED, gates).passed
    json.dumps(found.to_dict(), allow_nan=False)


class TestSlices:
    def gate(self, column: str, bound: float, metric: str = "auc", rows_min: int = 30) -> Any:
        return rules.slice_gate(column, metric, bound, JUDGED, rows_min=rows_min)

    def test_every_slice_must_hold(self) -> None:
        fine = self.gate("side", 0.5)
        assert fine.passed
        assert {name for _, name, _ in fine.evidence["worst"]} == {"left", "right"}
        worst = fine.evidence["worst"][0][0]
        between = (worst + fine.evidence["worst"][1][0]) / 2
        bad = self.gate("side", between)
        assert not bad.passed
        assert bad.message.startswith("1 of 2 slices")

    def test_where_lower_is_better_the_bound_is_above(self) -> None:
        assert self.gate("side", 1.0, "brier").passed
        assert not self.gate("side", 0.01, "brier").passed

    def test_small_slices_are_left_out(self) -> None:
        none = self.gate("key", 0.5)
        assert not none.passed
        assert none.evidence["slices_left_out"] == 400

    def test_no_such_column_and_too_many_slices(self) -> None:
        assert "no column 'where'" in self.gate("where", 0.5).message
        many = Judged(
            evaluation="e", truth=np.zeros(1500), score=np.zeros(1500),
            slices={"key": np.arange(1500)},
        )  # fmt: skip
        found = rules.slice_gate("key", "auc", 0.5, many, rows_min=1)
        assert "SLICES_MAX" in found.message


def test_budgets() -> None:
    assert rules.latency_gate(2.0, {"p50_ms": 1.0, "p99_ms": 1.9}, "e").passed
    assert not rules.latency_gate(2.0, {"p50_ms": 1.0, "p99_ms": 2.1}, "e").passed
    assert rules.size_gate(10, 10).passed
    assert not rules.size_gate(10, 11).passed


class TestContract:
    facts = DataFacts(
        columns=("temp", "wind", "key", "empty"),
        rows=100,
        nulls={"temp": 5, "wind": 0, "empty": 100},
        ranges={"temp": (-10.0, 35.0), "wind": (0.0, 80.0), "empty": (None, None)},
        repeated=3,
        newest_us=1_000_000,
    )

    def gates(self, now_us: int = 2_000_000, **promises: Any) -> dict[str, bool]:
        found = rules.contract_gates(DataContract(**promises), self.facts, now_us=now_us)
        return {one.name: one.passed for one in found}

    def test_nothing_promised_is_nothing_asked(self) -> None:
        assert self.gates() == {}

    def test_rows(self) -> None:
        assert self.gates(rows_min=100) == {"training set: at least 100 rows": True}
        assert not any(self.gates(rows_min=101).values())

    def test_null_rates(self) -> None:
        assert list(self.gates(null_rate_max={"temp": 0.05}).values()) == [True]
        assert list(self.gates(null_rate_max={"temp": 0.04}).values()) == [False]
        assert list(self.gates(null_rate_max={"tmp": 1.0}).values()) == [False]

    def test_ranges(self) -> None:
        wanted = {"temp": (-10, 35), "wind": (None, 79), "empty": (0, 1), "tmp": (0, 1)}
        assert list(self.gates(ranges=wanted).values()) == [True, False, True, False]

    def test_uniqueness(self) -> None:
        assert list(self.gates(unique=["key"]).values()) == [False]
        assert list(self.gates(unique="tmp").values()) == [False]

    def test_age(self) -> None:
        assert list(self.gates(age_max="1s").values()) == [True]
        assert list(self.gates(age_max="1s", now_us=2_000_001).values()) == [False]
        none = DataFacts(columns=(), rows=0, nulls={}, ranges={})
        (found,) = rules.contract_gates(DataContract(age_max="1s"), none, now_us=0)
        assert found.message == "there are no events"


def test_skew() -> None:
    assert rules.skew_gate(0.99, equal=99, values=100, causes=[]).passed
    assert not rules.skew_gate(0.999, equal=99, values=100, causes=["late"]).passed
    assert "materialize" in rules.skew_gate(0.5, equal=0, values=0, causes=[]).message


def test_what_failed_is_raised_with_what_to_do() -> None:
    bad = rules.missing("evaluation", "evaluation", "was not evaluated; run: …")
    with pytest.raises(GateFailed, match=r"m/1 did not pass 1 of its gates: evaluation: was not"):
        rules.check_passed([bad], what="m/1", request="r1")
    with pytest.raises(GateFailed) as raised:
        rules.check_passed([bad], what="m/1")
    assert raised.value.failed == ["evaluation"]
    rules.check_passed([], what="m/1")


class TestDeclarations:
    def test_their_fingerprint_covers_what_they_ask(self) -> None:
        base = Gates("m", evaluate_on="t", minimum={"auc": 0.7})
        assert base.fingerprint == Gates("m", evaluate_on="t", minimum={"auc": 0.7}).fingerprint
        for other in (
            Gates("m", evaluate_on="t", minimum={"auc": 0.71}),
            Gates("m", evaluate_on="t", minimum={"auc": 0.7}, approvals=2),
            Gates("m", evaluate_on="t", minimum={"auc": 0.7}, contracts=DataContract(rows_min=1)),
        ):
            assert other.fingerprint != base.fingerprint
        json.dumps(base.body(), allow_nan=False)

    def test_metrics(self) -> None:
        gates = Gates(
            "m", evaluate_on="t", minimum={"auc": 0.7}, maximum={"brier": 0.2},
            no_worse={"auc": 0.0}, slices={"carrier": {"f1": 0.5}},
        )  # fmt: skip
        assert gates.metrics == ("auc", "brier", "f1")
        assert gates.judges
        assert not Gates("m", size_bytes_max=5).judges

    @pytest.mark.parametrize(
        ("bad", "error"),
        [
            ({"minimum": {"auc": 0.7}}, DefinitionError),
            ({"minimum": {"auc": "much"}}, TypeMismatch),
            ({"minimum": ["auc"]}, TypeMismatch),
            ({"no_worse": {"auc": -0.1}}, TypeMismatch),
            ({"confidence": 1.0}, TypeMismatch),
            ({"resamples": 1}, TypeMismatch),
            ({"resamples": 1.5}, TypeMismatch),
            ({"approvals": 0}, TypeMismatch),
            ({"size_bytes_max": True}, TypeMismatch),
            ({"slices": {"carrier": 0.5}}, TypeMismatch),
            ({"contracts": {"rows_min": 5}}, TypeMismatch),
            ({"skew_rate_min": 1.1}, TypeMismatch),
        ],
    )
    def test_what_is_wrong_is_said(self, bad: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match="gates 'm'"):
            Gates("m", **bad)

    @pytest.mark.parametrize(
        "bad",
        [
            {"null_rate_max": {"temp": 1.5}},
            {"ranges": {"temp": 5}},
            {"ranges": {"temp": (1, 2, 3)}},
            {"ranges": 7},
            {"unique": 7},
            {"rows_min": -1},
            {"age_max": "soon"},
        ],
    )
    def test_what_is_wrong_in_a_contract_is_said(self, bad: Any) -> None:
        with pytest.raises(DefinitionError, match="data contract 'training set'"):
            DataContract(**bad)
