"""MLflow as a guest: its runs know what they learned from, and are ours after a `sync`. What uses
mlflow runs in processes of its own, as its users' programs do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from featurestore import FeatureStore
from featurestore.cli.init import write_repository
from featurestore.errors import RecordNotFound
from featurestore.timeline import SystemClock

pytestmark = pytest.mark.slow

BEGIN = """
    import json, sys
    import numpy as np
    import pandas as pd
    from featurestore import FeatureStore
    fs = FeatureStore(sys.argv[1])
    visits = pd.read_csv(sys.argv[1] + "/visits.csv")
    assert "mlflow" not in sys.modules
"""

AUTOLOG = """
    training_set = fs.create_training_set("visits", visits, "offer_model")
    assert "mlflow" not in sys.modules

    import mlflow
    from sklearn.linear_model import LogisticRegression
    mlflow.sklearn.autolog()
    x = training_set.to_pandas().select_dtypes("number").fillna(0)
    LogisticRegression().fit(x, np.arange(len(x)) % 2)

    mlflow.sklearn.autolog(disable=True)
    with mlflow.start_run() as both:
        second = fs.create_training_set("more", visits.head(9), "offer_model")
        job = fs.get_historical_features(visits, "offer_model")
        mlflow.log_metrics({"auc": 0.5, "loss": float("nan")}, step=0)
        mlflow.log_metrics({"auc": 0.75, "loss": float("inf")}, step=1)
        mlflow.log_params({"depth": 6, "rate": 0.1, "kind": "tree"})
    from featurestore.jobs.mlflow_guest import settle
    assert settle(60)
    with mlflow.start_run() as third:
        pass

    client = mlflow.MlflowClient()
    [auto] = [r for r in client.search_runs(["0"]) if "estimator_name" in r.data.tags]
    mlflow.register_model(f"runs:/{auto.info.run_id}/model", "offers")
    client.set_registered_model_alias("offers", "champion", "1")
    seen = {
        "set": training_set.id, "second": second.id, "auto": auto.info.run_id,
        "both": both.info.run_id, "third": third.info.run_id, "features": job.features,
        "tags": {r.info.run_id: r.data.tags for r in client.search_runs(["0"])},
    }
"""

SYNC = """
    import dataclasses, os
    from featurestore.errors import StoreUnavailable
    from featurestore.jobs.mlflow_guest import settle

    def sync():
        return dataclasses.asdict(fs.runs.sync_mlflow(sys.argv[2]))

    first, model = sync(), fs.models.get("mlflow:models:/offers@champion")
    # What an approved promotion ends in.
    fs.registry.commit(aliases={"model/offers/production": model.id}, reason="approved by bo")
    seen["named"] = fs.lineage.of("mlflow:models:/offers@champion").root == model.id
    again = sync()
    with mlflow.start_run(run_id=third.info.run_id):
        mlflow.log_metric("auc", 0.8, step=2)
        mlflow.set_tag("reviewed", "yes")
    client.set_registered_model_alias("offers", "champion2", "1")
    client.delete_registered_model_alias("offers", "champion")
    later = sync()
    with mlflow.start_run():
        mlflow.set_tracking_uri("http://127.0.0.1:1")
        down = fs.create_training_set("down", visits.head(3), "offer_model")
        told = settle(0)
        mlflow.set_tracking_uri(sys.argv[2])
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    try:
        fs.runs.sync_mlflow("http://127.0.0.1:1")
    except StoreUnavailable as error:
        seen["away"] = str(error)
    import contextlib, io
    from featurestore.cli.main import run

    def shell(*arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            given = ["sync", "mlflow", *arguments, "--repo", sys.argv[1]]
            status = run(given, debug=False)
        return [status, out.getvalue(), err.getvalue()]

    seen["shell"] = [
        shell("--tracking-uri", sys.argv[2]),
        shell("--tracking-uri", sys.argv[2], "--experiment", "Default", "--json"),
        shell("--experiment", "Defautl"),
    ]
    print(json.dumps(seen | {
        "first": first, "again": again, "later": later, "down": [down.rows, told],
        "aliases": client.get_registered_model("offers").aliases,
        "mirrored": client.get_model_version("offers", "1").tags,
    }))
"""


def run(*bodies: str, repo: Path, uri: str) -> Any:
    """What a program prints last, as JSON."""
    program = "".join(map(textwrap.dedent, bodies))
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT": "1",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-c", program, str(repo), uri]
    done = subprocess.run(
        command, check=False, cwd=repo.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_mlflow_is_a_guest(tmp_path: Path) -> None:
    repo, uri = tmp_path / "shop", f"sqlite:///{tmp_path / 'mlflow.db'}"
    write_repository(repo, now_us=SystemClock().now_us())
    seen = run(BEGIN, AUTOLOG, SYNC, repo=repo, uri=uri)

    tags = seen["tags"]
    assert tags[seen["auto"]]["featurestore.training_set"] == seen["set"]
    assert tags[seen["both"]]["featurestore.training_set"] == seen["second"]
    assert tags[seen["both"]]["featurestore.retrievals"] == "2"
    assert json.loads(tags[seen["both"]]["featurestore.features.2.1"]) == seen["features"]
    assert json.loads(tags[seen["both"]]["featurestore.retrieved.2"])["service"] == "offer_model"
    assert tags[seen["third"]]["featurestore.training_set"] == seen["second"]

    first, again, later = seen["first"], seen["again"], seen["later"]
    assert (first["runs_new"], first["models_new"], first["skipped"]) == (3, ["offers/1"], [])
    assert first["aliases_moved"] == ["mlflow/offers/champion"]
    assert (again["runs_new"], again["runs_changed"], again["runs_same"]) == (0, 0, 3)
    assert (again["models_new"], again["models_same"], again["skipped"]) == ([], 1, [])
    assert again["mirrored"] == ["offers@production → 1"]
    assert (later["runs_changed"], later["runs_same"], later["mirrored"]) == (1, 2, [])
    assert {k: str(v) for k, v in seen["aliases"].items()} == {"champion2": "1", "production": "1"}
    assert seen["mirrored"]["featurestore.promoted"] == "production: approved by bo"
    assert seen["away"].startswith("MLflow at http://127.0.0.1:1 can't be used: ")

    assert seen["named"], "questions take the names of MLflow's models"

    plain, as_json, wrong = seen["shell"]
    assert plain[0] == 0
    assert "1 new" in plain[1], plain  # the run in which MLflow was away for a while
    assert (as_json[0], json.loads(as_json[1])["runs_same"]) == (0, 4)
    assert wrong[0] == 1
    assert "There is: Default" in wrong[2]
    assert seen["down"] == [3, False]  # the training went on before MLflow had answered

    with FeatureStore(repo) as fs:
        auto, both = fs.runs.get(seen["auto"]), fs.runs.get(seen["both"])
        assert (auto.facts.training_sets, auto.facts.status) == ((seen["set"],), "FINISHED")
        assert auto.facts.metrics["training_score"].points == 1
        assert both.facts.training_sets == (seen["second"],)
        assert both.facts.params == {"depth": 6, "rate": 0.1, "kind": "tree"}
        assert [str(p.value) for p in fs.runs.metric(seen["both"], "loss")] == ["nan", "inf"]
        assert both.facts.metrics["auc"].value == 0.75
        [found] = fs.runs.search("params.depth = 6 and metrics.auc > 0.7")
        assert found.run_id == seen["both"]
        third = fs.runs.get(seen["third"]).facts
        assert (third.metrics["auc"].value, third.tags["reviewed"]) == (0.8, "yes")
        model = fs.models.get("mlflow:models:/offers/1")
        assert model == fs.models.get("mlflow:models:/offers@champion2")
        assert (model.run, model.training_set) == (auto.facts.record_id, seen["set"])
        assert model.flavor == "mlflow"
        down = {link.child for link in fs.registry.walk(seen["set"], direction="down")}
        assert model.id in down
        with pytest.raises(RecordNotFound, match="sync mlflow"):
            fs.models.get("mlflow:models:/offers@challenger")
