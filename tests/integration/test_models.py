"""The model registry: versions, artifacts in every form, stages, history."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_repository import (
    NOW_US,
    Pinned,
    features,
    labels,
    logistic,
    open_store,
    pin,
    template,
    write_repository,
)

from featurestore import FeatureStore
from featurestore.errors import (
    CorruptRow,
    InvalidRequest,
    RecordNotFound,
    SignatureMismatch,
    SnapshotMissing,
    UnknownService,
)
from featurestore.timeline import ManualClock


@pytest.fixture(scope="module")
def model() -> Any:
    return logistic()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pinned]:
    return template(tmp_path_factory.mktemp("template") / "repo")


@pytest.fixture
def store(tmp_path: Path, made: tuple[Path, Pinned]) -> Iterator[FeatureStore]:
    shutil.copytree(made[0], tmp_path / "repo")
    with open_store(tmp_path / "repo") as opened:
        yield opened


@pytest.fixture
def pinned(made: tuple[Path, Pinned]) -> Pinned:
    return made[1]


class TestRegistering:
    def test_a_version_and_where_it_comes_from(
        self, store: FeatureStore, pinned: Pinned, model: Any
    ) -> None:
        version = store.models.register("late", model, run=pinned.run, metrics={"auc": 0.8})
        assert (version.ref, version.flavor, version.metrics) == ("late/1", "joblib", {"auc": 0.8})
        assert (version.run, version.training_set) == (pinned.run, pinned.training_set)
        assert version.service_name == "late_model"
        assert version.service_version == store.repo.services["late_model"].version
        assert version.lineage_complete
        assert version.signature is not None
        assert version.signature.body() == {
            "inputs": [["weight", "float64"], ["count", "int64"], ["far", "bool"]],
            "outputs": [["late", "bool"]],
        }
        assert version.libraries["scikit-learn"]
        assert store.models.get("late") == store.models.get("late/1") == version
        assert store.models.get(version.id) == version
        up = {edge[1] for edge in store.registry.walk(version.id, direction="up")}
        assert any(record.startswith("source:parcels@") for record in up)

    def test_numbers_count_up_and_each_has_one_winner(
        self, store: FeatureStore, pinned: Pinned
    ) -> None:
        def register(number: int) -> int:
            path = store.settings.root / f"{number}.bin"
            path.write_bytes(b"model %d" % number)
            with open_store(store.settings.root) as own:
                return own.models.register("late", path, training_set="parcels").number

        with ThreadPoolExecutor(6) as pool:
            numbers = list(pool.map(register, range(12)))
        assert sorted(numbers) == list(range(1, 13))
        assert [one.version.number for one in store.models.list("late")] == list(range(1, 13))

    def test_what_is_missing_is_said(self, store: FeatureStore, model: Any) -> None:
        version = store.models.register("late", model)
        assert version.missing == ("run", "training_set", "service")
        assert not version.lineage_complete
        assert store.registry.record(version.id).record.body["lineage_complete"] is False
        unpinned = pin(store, unpinned=("parcels",), name="loose")
        version = store.models.register("late", model, run=unpinned.run, training_set="loose")
        assert version.missing == ("pin of source parcels",)

    def test_a_service_that_is_not_applied_is_written_with_it(
        self, tmp_path: Path, model: Any
    ) -> None:
        with open_store(write_repository(tmp_path / "new")) as store:
            version = store.models.register("late", model, service="late_model")
            assert version.service_version == store.repo.services["late_model"].version
            assert store.registry.record(str(version.service)).record.kind == "service"
            with pytest.raises(UnknownService, match="Did you mean 'late_model'"):
                store.models.register("late", model, service="late_mode")

    def test_what_is_not_there(self, store: FeatureStore, model: Any) -> None:
        for arguments in ({"run": "nope"}, {"training_set": "nope"}, {"run": "run:x@abcd"}):
            with pytest.raises(RecordNotFound):
                store.models.register("late", model, **arguments)
        with pytest.raises(RecordNotFound):
            store.models.get("late")
        with pytest.raises(InvalidRequest, match="is no run"):
            store.models.register("late", model, run=7)
        assert store.models.list() == ()

    def test_a_record_of_another_kind_is_no_training_set(
        self, store: FeatureStore, pinned: Pinned, model: Any
    ) -> None:
        with pytest.raises(InvalidRequest, match="a training_set, not a run"):
            store.models.register("late", model, run=pinned.training_set)

    @pytest.mark.parametrize("name", ["../late", "late/production", "", "a@b", "x\0y"])
    def test_hostile_names(self, store: FeatureStore, model: Any, name: str) -> None:
        with pytest.raises(InvalidRequest, match="not a model's name"):
            store.models.register(name, model)


class TestSignature:
    def test_another_order_of_columns(self, store: FeatureStore, pinned: Pinned) -> None:
        from sklearn.linear_model import LogisticRegression

        swapped = features()[["count", "weight", "far"]]
        model = LogisticRegression().fit(swapped, np.arange(len(swapped)) % 2)
        with pytest.raises(SignatureMismatch, match="the order differs from feature 1") as raised:
            store.models.register("late", model, run=pinned.run)
        assert raised.value.service == "late_model"
        assert store.models.list() == ()

    @pytest.mark.parametrize(
        ("inputs", "words"),
        [
            ({"weight": "float64", "count": "int64"}, "does not read 'far'"),
            ({"weight": "string", "count": "int64", "far": "bool"}, "reads string"),
            (
                {"weight": "float64", "count": "int64", "far": "bool", "colour": "string"},
                "no feature 'colour'",
            ),
        ],
    )
    def test_names_and_types(
        self, store: FeatureStore, pinned: Pinned, model: Any, inputs: Any, words: str
    ) -> None:
        with pytest.raises(SignatureMismatch, match=words):
            store.models.register("late", model, run=pinned.run, signature={"inputs": inputs})

    def test_full_names_and_join_keys(
        self, store: FeatureStore, pinned: Pinned, model: Any
    ) -> None:
        inputs = {
            "depot": "int64", "load__weight": "float64", "load__count": "float64",
            "load__far": "int32",
        }  # fmt: skip
        version = store.models.register("late", model, run=pinned.run, signature={"inputs": inputs})
        assert version.lineage_complete


class TestForms:
    def test_joblib_takes_trust(self, store: FeatureStore, model: Any) -> None:
        store.models.register("late", model)
        with pytest.raises(InvalidRequest, match=r"late/1 is a pickle.*trust=True"):
            store.models.load("late")
        loaded = store.models.load("late", trust=True)
        assert (loaded.predict(features()) == model.predict(features())).all()

    def test_a_joblib_file(self, store: FeatureStore, model: Any, tmp_path: Path) -> None:
        import joblib

        joblib.dump(model, tmp_path / "m.joblib")
        version = store.models.register("late", tmp_path / "m.joblib")
        assert (version.flavor, version.artifact.file) == ("joblib", "m.joblib")
        assert store.models.load("late", trust=True).coef_.shape == (1, 3)

    def test_skops_loads_what_is_harmless(self, store: FeatureStore, model: Any) -> None:
        version = store.models.register("late", model, flavor="skops")
        assert version.artifact.file == "model.skops"
        loaded = store.models.load("late")
        assert np.allclose(loaded.coef_, model.coef_)

    def test_skops_refuses_what_is_not(self, store: FeatureStore) -> None:
        from sklearn.preprocessing import FunctionTransformer

        store.models.register("odd", FunctionTransformer(os.path.join), flavor="skops")
        with pytest.raises(InvalidRequest, match="does not know to be harmless"):
            store.models.load("odd")

    def test_onnx(self, store: FeatureStore) -> None:
        store.models.register("line", onnx_line())
        session = store.models.load("line")
        (answer,) = session.run(None, {"x": np.array([[1.0, 2.0]], np.float32)})
        assert answer.ravel().tolist() == [8.0]

    def test_a_file_and_a_folder(self, store: FeatureStore, tmp_path: Path) -> None:
        (tmp_path / "net" / "deep").mkdir(parents=True)
        (tmp_path / "net" / "deep" / "w.bin").write_bytes(b"weights")
        (tmp_path / "net" / "config.json").write_text("{}")
        assert store.models.register("file", tmp_path / "net" / "config.json").flavor == "file"
        assert store.models.load("file") == b"{}"
        assert store.models.register("net", str(tmp_path / "net")).flavor == "folder"
        with pytest.raises(InvalidRequest, match="download"):
            store.models.load("net")
        found = store.models.download("net", tmp_path / "copy")
        assert found == tmp_path / "copy" / "net"
        assert (found / "deep" / "w.bin").read_bytes() == b"weights"

    def test_an_mlflow_folder_is_not_loaded_where_mlflow_is_not(
        self, store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "MLmodel").write_text("flavors: {}\n")
        assert store.models.register("guest", tmp_path / "m").flavor == "mlflow"
        monkeypatch.delitem(sys.modules, "mlflow", raising=False)
        with pytest.raises(InvalidRequest, match="which we never do"):
            store.models.load("guest", trust=True)
        assert (store.models.download("guest", tmp_path / "copy") / "MLmodel").is_file()

    def test_a_function_by_reference(
        self, store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "rules_of_thumb.py").write_text("def heavy(table):\n    return [1.0]\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        version = store.models.register("rule", "rules_of_thumb:heavy")
        assert (version.flavor, version.artifact.reference) == ("callable", "rules_of_thumb:heavy")
        with pytest.raises(InvalidRequest, match="trust=True"):
            store.models.load("rule")
        function = store.models.load("rule", trust=True)
        assert function(None) == [1.0]
        assert store.models.register("rule", function).artifact == version.artifact
        (tmp_path / "rules_of_thumb.py").write_text("def heavy(table):\n    return [0.0]\n")
        with pytest.raises(SnapshotMissing, match="has changed since"):
            store.models.load("rule", trust=True)

    @pytest.mark.parametrize(
        ("artifact", "flavor", "words"),
        [
            (None, None, "needs its artifact"),
            ("nowhere.bin", None, "is not there"),
            ("no_such_module:f", None, "is the module installed"),
            ("os:no_such_function", None, "no function"),
            (lambda table: 1.0, None, "can't be found again"),
            ({"a": 1}, "onnx", "no ONNX model"),
            ({"a": 1}, "file", "kept as joblib, skops or onnx"),
            ({"a": 1}, "pickl", "no flavor 'pickl'"),
        ],
    )
    def test_what_is_no_model(
        self, store: FeatureStore, artifact: Any, flavor: str | None, words: str
    ) -> None:
        with pytest.raises(InvalidRequest, match=words):
            store.models.register("late", artifact, flavor=flavor)
        assert store.models.list() == ()

    def test_a_link_out_of_the_folder(self, store: FeatureStore, tmp_path: Path) -> None:
        (tmp_path / "net").mkdir()
        (tmp_path / "secret").write_text("x")
        (tmp_path / "net" / "w").symlink_to(tmp_path / "secret")
        with pytest.raises(InvalidRequest, match="is a link to a folder, or out of"):
            store.models.register("net", tmp_path / "net")

    def test_changed_and_missing_bytes(self, store: FeatureStore, model: Any) -> None:
        version = store.models.register("late", model)
        digest = version.artifact.digest
        kept = store.settings.root / ".featurestore/offline/artifacts" / digest[:2] / digest
        kept.write_bytes(kept.read_bytes()[:-1] + b"!")
        with pytest.raises(CorruptRow):
            store.models.load("late", trust=True)
        kept.unlink()
        with pytest.raises(SnapshotMissing):
            store.models.load("late", trust=True)

    def test_a_record_does_not_say_where_a_download_goes(
        self, store: FeatureStore, tmp_path: Path
    ) -> None:
        from featurestore.records import Record

        (tmp_path / "m.bin").write_bytes(b"x")
        good = store.models.register("late", tmp_path / "m.bin")
        body = dict(store.registry.record(good.id).record.body)
        body["artifact"] = body["artifact"] | {"file": "../../evil"}
        evil = Record(kind="model", name="evil", body=body)
        store.registry.commit(records=[evil], aliases={"model/evil": evil.id})
        found = store.models.download("evil", tmp_path / "copy")
        assert found == tmp_path / "copy" / "evil"


MLFLOW = """
import sys
import mlflow.pyfunc, mlflow.sklearn
from model_repository import features, logistic, open_store

repo, folder = sys.argv[1:]
model = logistic()
mlflow.sklearn.save_model(model, folder)
with open_store(repo) as store:
    version = store.models.register("guest", folder, training_set="parcels")
    loaded = store.models.load("guest", trust=True)
    assert (loaded.predict(features()) == model.predict(features())).all()
    found = store.models.evaluate("guest", "parcels", trust=True)
    print(version.flavor, round(found.metrics["accuracy"], 3))
"""


@pytest.mark.slow
def test_a_real_mlflow_model(store: FeatureStore, tmp_path: Path, model: Any) -> None:
    """In a process of its own, for no other test shall have imported mlflow."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MLFLOW, store.settings.root, tmp_path / "guest"],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    accuracy = (model.predict(features()) == labels()).mean()
    assert done.stdout.split() == ["mlflow", str(round(accuracy, 3))], done.stderr


def onnx_line() -> Any:
    """y = 2·x₁ + 3·x₂ as a real ONNX model."""
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])
    weights = helper.make_tensor("w", TensorProto.FLOAT, [2, 1], [2.0, 3.0])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "line", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return model


def test_a_run_logs_the_model_that_it_made(store: FeatureStore, model: Any) -> None:
    with store.start_run("late", training_set="parcels") as run:
        run.log_metrics({"auc": 0.7, "loss": float("nan")})
        run.log_metric("auc", 0.8, step=1)
        version = run.log_model(model, "late", description="from a run")
    assert version.run == run.id
    assert version.training_set == store.training_set("parcels").id
    assert version.lineage_complete
    assert version.metrics == {"auc": 0.8}
    by_id = store.models.register("late", model, run=run.run_id[:12])
    assert by_id.run == run.id
    with pytest.raises(InvalidRequest, match="has ended"):
        run.log_model(model, "late")
    up = store.lineage.of(version.id)
    assert "parcels.weight" in str(up)


def test_a_comparison_with_another_version(store: FeatureStore, pinned: Pinned, model: Any) -> None:
    store.models.register("late", model, run=pinned.run, metrics={"auc": 0.7, "f1": 0.5})
    store.models.register("late", logistic(C=0.1), metrics={"auc": 0.8})
    found = store.models.compare("late/2", "late/1")
    assert (found.model, found.champion) == ("late/2", "late/1")
    assert found.metrics == {"auc": (0.7, 0.8), "f1": (0.5, None)}
    assert found.differences["run"] == (pinned.run, None)
    assert "flavor" not in found.differences
    with pytest.raises(RecordNotFound, match="no version of it is in production"):
        store.models.compare("late/2")


def test_the_newest_as_of_an_instant(store: FeatureStore, model: Any) -> None:
    clock = store.clock
    assert isinstance(clock, ManualClock)
    store.models.register("late", model)
    clock.advance(10)
    store.models.register("late", model)
    assert store.models.get("late", at=NOW_US + 9).number == 1
    assert store.models.get("late").number == 2
    assert len(store.models.list("late", at=NOW_US + 9)) == 1
    with pytest.raises(RecordNotFound):
        store.models.get("late", at=NOW_US - 1)
    with pytest.raises(RecordNotFound):
        store.models.list("nope")
