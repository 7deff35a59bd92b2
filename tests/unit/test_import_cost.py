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


def test_imports_stay_small_and_quick() -> None:
    """The bounds that we promise; an idle machine stays at a tenth of the time, a sixth of the
    memory. CPU time, and the best of three, so that a busy machine does not fail."""
    script = (
        "import time\nimport featurestore\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print(time.process_time(), *[l.split()[1] for l in lines if l.startswith('VmHWM:')])"
    )
    times, peaks_kb = [], []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        seconds, peak_kb = done.stdout.split()
        times.append(float(seconds))
        peaks_kb.append(int(peak_kb))
    assert min(times) < 0.3
    assert max(peaks_kb) < 60 * 1024


def test_public_names_are_listed_and_there() -> None:
    assert set(featurestore.__all__) <= set(dir(featurestore))
    for name in featurestore.__all__:
        assert getattr(featurestore, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Featurestore'"):
        featurestore.Featurestore  # noqa: B018  # the access is what is tested
