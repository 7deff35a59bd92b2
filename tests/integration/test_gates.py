"""Gates on real models and a real training set: evaluations, champion and challenger, slices, data,
skew."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_repository import (
    ROWS,
    Pinned,
    entity_frame,
    features,
    labels,
    logistic,
    open_store,
    pin,
    template,
)

from featurestore import FeatureStore
from featurestore.cli.main import run
from featurestore.errors import (
    GateFailed,
    InvalidRepository,
    InvalidRequest,
    LimitExceeded,
    ProductionImpact,
    RecordNotFound,
)
from featurestore.jobs import evaluations
from featurestore.lifecycle.promotions import State

GATES = """
from featurestore import DataContract, Gates

late_gates = Gates(
    "late",
    evaluate_on="parcels/test",
    minimum={"auc": 0.7},
    maximum={"log_loss": 0.9},
    no_worse={"auc": 0.02},
    resamples=200,
    slices={"far": {"auc": 0.6}},
    latency_ms_max=10_000,
    size_bytes_max=100_000,
    contracts=[
        DataContract(rows_min=500, null_rate_max={"weight": 0.0, "late": 0.0},
                     ranges={"weight": (-50, 50), "count": (1, 49)},
                     unique=["depot", "event_timestamp"]),
        DataContract(of="parcels", unique="depot", null_rate_max={"weight": 0.0}, age_max="30d"),
    ],
)
"""


@pytest.fixture(scope="module")
def good() -> Any:
    return logistic()


@pytest.fixture(scope="module")
def useless() -> Any:
    """A model that has learnt from shuffled labels."""
    from sklearn.linear_model import LogisticRegression

    shuffled = np.random.default_rng(1).permutation(labels())
    return LogisticRegression().fit(features(), shuffled)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pinned]:
    return template(tmp_path_factory.mktemp("template") / "repo", gates=GATES)


@pytest.fixture
def store(tmp_path: Path, made: tuple[Path, Pinned]) -> Iterator[FeatureStore]:
    shutil.copytree(made[0], tmp_path / "repo")
    with open_store(tmp_path / "repo") as opened:
        yield opened


@pytest.fixture
def pinned(made: tuple[Path, Pinned]) -> Pinned:
    return made[1]


def set_gates(store: FeatureStore, text: str) -> None:
    file = store.settings.root / "definitions.py"
    head = file.read_text().partition("\nlate_gates =")[0]
    file.write_text(f"{head}\nlate_gates = Gates({text})\n")


def outcomes(store: FeatureStore, ref: str, *, trust: bool = False) -> dict[str, bool]:
    report = store.models.check_gates(ref, trust=trust)
    return {result.name: result.passed for result in report.results}


class TestEvaluating:
    def test_its_numbers_are_scikit_learns(
        self, store: FeatureStore, pinned: Pinned, good: Any
    ) -> None:
        from sklearn.metrics import brier_score_loss, roc_auc_score

        store.models.register("late", good, run=pinned.run)
        found = store.models.evaluate("late", "parcels/test", metrics=["f1"], trust=True)
        rows = store.training_set("parcels").to_pandas(split="test")
        said = good.predict_proba(rows[["weight", "count", "far"]])[:, 1]
        assert found.rows == len(rows) == store.training_set("parcels").splits["test"]
        assert found.metrics["auc"] == pytest.approx(roc_auc_score(rows["late"], said))
        assert found.metrics["brier"] == pytest.approx(brier_score_loss(rows["late"], said))
        assert set(found.metrics) == {"accuracy", "auc", "brier", "f1", "log_loss"}
        assert 0 < found.latency["p50_ms"] <= found.latency["p99_ms"]
        assert store.models.evaluations("late") == (found,)
        judged = evaluations.judged(store.models._models().artifacts, found)
        assert np.allclose(judged.score, said)
        up = {edge[1] for edge in store.registry.walk(found.id, direction="up")}
        assert pinned.training_set in up

    def test_a_function_onnx_and_given_scores(
        self, store: FeatureStore, pinned: Pinned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "rule_of_gates.py").write_text(
            "import pyarrow.compute as pc\n"
            "def heavy(table):\n"
            "    return pc.greater(table['weight'], 10.0).cast('float64').to_numpy()\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        store.models.register("rule", "rule_of_gates:heavy", run=pinned.run)
        rule = store.models.evaluate("rule", "parcels", trust=True)
        assert rule.rows == ROWS
        assert 0.6 < rule.metrics["auc"] < 0.9
        store.models.register("net", onnx_logistic(logistic()), run=pinned.run)
        store.models.register("late", logistic(), run=pinned.run)
        late = store.models.evaluate("late", "parcels", trust=True)
        net = store.models.evaluate("net", "parcels")  # ONNX takes no trust
        assert net.metrics["auc"] == pytest.approx(late.metrics["auc"], abs=1e-3)
        rows = store.training_set("parcels").to_arrow()
        given = store.models.evaluate("late", "parcels", scores=rows["weight"].to_numpy())
        assert given.latency == {}
        assert given.metrics["auc"] > 0.5

    def test_a_regression(self, store: FeatureStore, pinned: Pinned) -> None:
        from sklearn.linear_model import LinearRegression

        model = LinearRegression().fit(features(), features()["weight"] * 2)
        signature = {
            "inputs": {"weight": "float64", "count": "int64", "far": "bool"},
            "outputs": {"double": "float64"},
        }
        store.models.register("double", model, run=pinned.run, signature=signature)
        found = store.models.evaluate("double", "parcels", label="weight", trust=True)
        assert set(found.metrics) == {"mae", "r2", "rmse"}
        assert found.metrics["mae"] == pytest.approx(np.mean(features()["weight"]), rel=0.2)

    def test_what_is_wrong(
        self, store: FeatureStore, pinned: Pinned, good: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.models.register("late", good, run=pinned.run)
        for on, more, words in (
            ("parcels", {}, "trust=True"),
            ("parcels/nope", {"trust": True}, "no split 'nope'"),
            ("parcels", {"trust": True, "label": "event_timestamp"}, "judged by numbers"),
            ("parcels", {"trust": True, "label": "nope"}, "no column 'nope'"),
            ("parcels", {"trust": True, "metrics": ["nope"]}, "no metric"),
            ("parcels", {"scores": [1.0]}, "1 answers for 600 rows"),
            ("parcels", {"scores": [float("nan")] * ROWS}, "with NaN"),
            ("parcels", {"scores": ["x"] * ROWS}, "does not answer with numbers"),
        ):
            with pytest.raises(InvalidRequest, match=words):
                store.models.evaluate("late", on, **more)  # type: ignore[arg-type]
        with pytest.raises(RecordNotFound):
            store.models.evaluate("late", "nope", trust=True)
        monkeypatch.setattr(evaluations, "EVALUATION_ROWS_MAX", 10)
        with pytest.raises(LimitExceeded, match="EVALUATION_ROWS_MAX"):
            store.models.evaluate("late", "parcels", trust=True)
        assert store.models.evaluations("late") == ()

    def test_rows_without_a_label_are_left_out(self, store: FeatureStore, good: Any) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        frame = entity_frame()
        late = pc.if_else(pa.array(np.arange(ROWS) < 100), None, frame["late"])
        frame = frame.set_column(2, "late", late)
        store.create_training_set("open", frame, "late_model", label="late")
        store.models.register("late", good, training_set="open")
        found = store.models.evaluate("late", "open", trust=True)
        assert (found.rows, found.rows_without_label) == (500, 100)


def onnx_logistic(model: Any) -> Any:
    """The same logistic regression as an ONNX graph: sigmoid(x·w + b)."""
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])
    weights = helper.make_tensor("w", TensorProto.FLOAT, [3, 1], model.coef_.ravel())
    bias = helper.make_tensor("b", TensorProto.FLOAT, [1], model.intercept_)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Add", ["xw", "b"], ["z"]),
        helper.make_node("Sigmoid", ["z"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "logistic", [x], [y], [weights, bias])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    made.ir_version = 8
    return made


def test_a_comparison_on_the_same_rows(
    store: FeatureStore, pinned: Pinned, good: Any, useless: Any
) -> None:
    store.models.register("late", useless, run=pinned.run)
    store.models.register("late", good, run=pinned.run)
    store.models.evaluate("late/1", "parcels", trust=True)
    store.models.evaluate("late/2", "parcels/test", trust=True)
    assert store.models.compare("late/2", "late/1").paired == ()
    store.models.evaluate("late/1", "parcels/test", trust=True)
    found = store.models.compare("late/2", "late/1")
    assert (found.on, found.split) == (pinned.training_set, "test")
    by_metric = {one.metric: one for one in found.paired}
    assert set(by_metric) == {"accuracy", "auc", "brier", "log_loss"}
    assert by_metric["auc"].lower > 0
    assert by_metric["brier"].difference > 0  # signed: more is better
    assert run(["models", "compare", "late/2", "--with", "late/1", "-r", str(store.settings.root)],
               debug=False) == 0  # fmt: skip


class TestTheSpine:
    """From a column to what is live, and from what is live back to its rows."""

    def test_there_and_back(self, store: FeatureStore, pinned: Pinned, good: Any) -> None:
        store.models.register("late", good, run=pinned.run)
        request = store.models.promote("late", "production", reason="x", by="ann", trust=True)
        store.models.approve(request.id, by="bob")
        assert store.reproduce("model/late/production").verdict.name == "EXACT"
        (hit,) = store.lineage.impact("parcels.weight").blast.models
        assert (hit.label, hit.transformation) == ("late v1", "DIRECT")
        assert "model/late/production" in hit.aliases
        file = store.settings.root / "definitions.py"
        file.write_text(
            file.read_text().replace('Feature("weight")', 'Feature("weight", "-weight")')
        )
        with open_store(store.settings.root) as changed:
            with pytest.raises(ProductionImpact, match="late"):
                changed.apply()
            assert run(["ci", "-r", str(store.settings.root)], debug=False) == 1
            because = ["--allow-production-impact", "We mean it"]
            assert run(["ci", *because, "-r", str(store.settings.root)], debug=False) == 0
            store.models.archive("late/production", reason="replaced")
            changed.apply()


class TestGates:
    def test_a_good_model_passes_all_of_them(
        self, store: FeatureStore, pinned: Pinned, good: Any
    ) -> None:
        store.models.register("late", good, run=pinned.run)
        request = store.models.promote("late", "production", reason="x", by="ann", trust=True)
        assert request.state is State.PENDING_APPROVAL
        report = store.models.report(request.id)
        assert report is not None
        kinds = [result.kind for result in report.results]
        assert len(kinds) == 16
        assert set(kinds) == {
            "signature", "metric", "champion", "slice", "latency", "size", "contract",
        }  # fmt: skip
        assert request.evidence is not None
        (evaluation,) = store.models.evaluations("late")
        assert request.evidence.evaluations == (evaluation.id,)
        up = {edge[1] for edge in store.registry.walk(report.record, direction="up", depth_max=1)}
        assert evaluation.id in up
        assert store.models.approve(request.id, by="bob").state is State.APPLIED

    def test_nothing_is_loaded_without_trust(
        self, store: FeatureStore, pinned: Pinned, good: Any
    ) -> None:
        store.models.register("late", good, run=pinned.run)
        with pytest.raises(GateFailed, match="models evaluate late/1 --on parcels/test --trust"):
            store.models.promote("late", "production", reason="x", by="ann")
        store.models.evaluate("late", "parcels/test", trust=True)
        request = store.models.promote("late", "production", reason="x", by="ann")
        assert request.state is State.PENDING_APPROVAL

    def test_a_useless_model_fails_and_says_by_how_much(
        self, store: FeatureStore, pinned: Pinned, good: Any, useless: Any
    ) -> None:
        store.models.register("late", good, run=pinned.run)
        request = store.models.promote("late", "production", reason="x", by="ann", trust=True)
        store.models.approve(request.id, by="bob")
        store.models.register("late", useless, run=pinned.run)
        with pytest.raises(GateFailed) as raised:
            store.models.promote("late/2", "production", reason="x", by="ann", trust=True)
        assert "auc no worse than the champion's by 0.02" in raised.value.failed
        assert "auc ≥ 0.7" in raised.value.failed
        report = store.models.report(raised.value.request)
        assert report is not None
        (champion,) = [r for r in report.results if r.kind == "champion"]
        assert champion.evidence["confidence"] == 0.95
        assert champion.evidence["lower"] < -0.02
        assert champion.evidence["champion"] > champion.evidence["challenger"]
        assert store.models.get("late/production").number == 1

    def test_the_champion_is_judged_on_the_same_rows(
        self, store: FeatureStore, pinned: Pinned, good: Any
    ) -> None:
        for _ in range(2):
            store.models.register("late", good, run=pinned.run)
        store.models.evaluate("late/1", "parcels/test", trust=True)
        store.models.approve(
            store.models.promote("late/1", "production", reason="x", by="ann").id, by="bob"
        )
        pin(store)  # a newer set of the same name
        store.models.evaluate("late/2", "parcels/test", trust=True)
        with pytest.raises(GateFailed, match="champion late/1 was not evaluated on the same rows"):
            store.models.promote("late/2", "production", reason="x", by="ann")
        assert all(outcomes(store, "late/2", trust=True).values())

    def test_contracts_of_data_that_breaks_them(
        self, store: FeatureStore, pinned: Pinned, good: Any
    ) -> None:
        store.models.register("late", good, run=pinned.run)
        set_gates(
            store,
            """"late", contracts=[
                DataContract(rows_min=601, null_rate_max={"nope": 0.5},
                    ranges={"weight": (0, 12), "far": (0, 1), "event_timestamp": (0, 1)},
                    unique=["far"]),
                DataContract(of="parcels", ranges={"count": (2, None)}, unique=["depot", "far"],
                    age_max="1d"),
                DataContract(of="nope"),
            ]""",
        )
        found = outcomes(store, "late")
        assert {name: passed for name, passed in found.items() if not name.startswith("serv")} == {
            "training set: at least 601 rows": False,
            "training set: at most 0.5 of nope NULL": False,
            "training set: weight from 0 to 12": False,
            "training set: far from 0 to 1": True,
            "training set: event_timestamp from 0 to 1": True,
            "training set: far unique": False,
            "parcels: count from 2 to ∞": False,
            "parcels: depot, far unique": True,
            "parcels: newest event at most 1d old": False,
            "nope: contract": False,
        }

    def test_skew_replays_both_paths(self, store: FeatureStore, pinned: Pinned, good: Any) -> None:
        store.models.register("late", good, run=pinned.run)
        set_gates(store, '"late", skew_rate_min=1.0, skew_samples=50')
        name = "online and offline agree on at least 1"
        assert outcomes(store, "late")[name] is False  # nothing is materialized
        store.materialize()
        assert outcomes(store, "late")[name] is True

    def test_budgets_that_nothing_keeps(
        self, store: FeatureStore, pinned: Pinned, good: Any
    ) -> None:
        store.models.register("late", good, run=pinned.run)
        set_gates(
            store,
            '"late", evaluate_on="parcels", latency_ms_max=0.0000001, size_bytes_max=5, '
            'slices={"nope": {"auc": 0.5}, "depot": {"auc": 0.5}}',
        )
        found = outcomes(store, "late", trust=True)
        assert [passed for name, passed in found.items() if "service" not in name] == [False] * 4
        store.models.evaluate("late", "parcels", scores=np.linspace(0, 1, ROWS))
        report = store.models.check_gates("late")
        (latency,) = [r for r in report.results if r.kind == "latency"]
        assert "given scores" in latency.message

    def test_no_gates_are_declared(self, store: FeatureStore, pinned: Pinned, good: Any) -> None:
        store.models.register("other", good, run=pinned.run)
        assert list(outcomes(store, "other")) == ["service late_model as the model knows it"]

    def test_what_can_not_be_looked_at_fails(
        self, store: FeatureStore, pinned: Pinned, good: Any
    ) -> None:
        store.models.register("late", good, run=pinned.run)
        set_gates(store, '"late", evaluate_on="nope/test", minimum={"auc": 0.5}')
        assert outcomes(store, "late")["evaluation"] is False
        set_gates(store, '"late", evaluate_on="parcels", minimum={"auc": 0.5}')
        found = store.models.evaluate("late", "parcels", trust=True)
        kept = store.settings.root / ".featurestore/offline/artifacts" / found.predictions[:2]
        (kept / found.predictions).unlink()
        with pytest.raises(GateFailed, match=r"evaluation: .* is gone") as raised:
            store.models.promote("late", "production", reason="x", by="ann")
        assert store.models.promotion(raised.value.request).state is State.CHECKS_FAILED

    def test_gates_change_no_version(self, store: FeatureStore) -> None:
        set_gates(store, '"late", size_bytes_max=7')
        with open_store(store.settings.root) as again:
            assert again.repo.version == store.repo.version
            assert again.plan().is_empty

    def test_gates_that_are_wrong_or_double(self, store: FeatureStore, good: Any) -> None:
        store.models.register("late", good)
        set_gates(store, '"late", resamples=1)\nsecond = Gates("late"')
        with open_store(store.settings.root) as again:
            with pytest.raises(InvalidRepository) as raised:
                again.plan()
            assert len(raised.value.errors) == 2
            with pytest.raises(InvalidRepository):
                again.models.check_gates("late")
