"""`import featurestore` is free: nothing heavy is loaded before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

import featurestore

HEAVY = (
    "pyarrow duckdb redis hiredis grpc lmdb pandas polars numpy sqlalchemy fastapi mlflow sqlglot"
)


def loaded_by(statement: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after `statement`."""
    script = f"import sys\n{statement}\nprint(*(set({HEAVY.split()!r}) & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import featurestore", set()),
        ("from featurestore import Entity, Feature, FeatureView, FileSource", set()),
        ("from featurestore import FeatureStore; FeatureStore", set()),
        ("from featurestore import FeatureClient; FeatureClient", {"grpc"}),
        ("import featurestore.cli.main", set()),
    ],
)
def test_imports_load_nothing_heavy(statement: str, allowed: set[str]) -> None:
    assert loaded_by(statement) <= allowed


def test_public_names_are_listed_and_there() -> None:
    assert set(featurestore.__all__) <= set(dir(featurestore))
    for name in featurestore.__all__:
        assert getattr(featurestore, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Featurestore'"):
        featurestore.Featurestore  # noqa: B018  # the access is what is tested
