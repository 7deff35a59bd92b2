"""A repository with something of everything, and `featurestore ui` on it as a process."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from model_repository import labels, logistic, parcels, write_repository

from featurestore import FeatureStore

HOSTILE = '<img src=x onerror="alert(1)">&amp;'
MORE = f"""
from featurestore import OnDemandFeatureView, RequestSource
hurry = RequestSource("hurry", schema={{"hours": "float64"}})
pace = OnDemandFeatureView("pace", inputs=[load, hurry],
                           features=[Feature("per_hour", "weight / hours")],
                           description={HOSTILE!r}, owner="ops@example.org", tags={{"team": "ops"}})
quick = FeatureService("quick", [load[["weight"]], pace], description="What a quick answer needs")
"""


@dataclass(frozen=True)
class Filled:
    """The repository, and the ids of what is in it."""

    folder: Path
    request: str
    run: str


def fill(folder: Path) -> Filled:
    """Apply, make a training set, two runs and two versions of a model; one waits for approval."""
    write_repository(folder, gates=MORE)
    frame = (
        parcels()
        .select(["depot", "at", "late"])
        .rename_columns(["depot", "event_timestamp", "late"])
    )
    with FeatureStore(folder) as store:
        store.apply()
        store.materialize()
        learned = store.create_training_set(
            "parcels", frame, "late_model", label="late", splits={"train": 0.8, "test": 0.2}
        )
        for number in (1, 2):
            model = logistic(C=10.0**number)
            with store.start_run(
                "late", name=f"C{number}", training_set=learned, params={"C": number}
            ) as run:
                for step in range(20):
                    run.log_metric("loss", 1 / (step + number), step=step)
                run.log_metric("auc", 0.7 + number / 10)
            store.models.register("late", model, run=run.id, metrics={"auc": 0.7 + number / 10})
        first = store.models.promote("late/1", "production", reason="the first", by="ann")
        store.models.approve(first.id, by="bob")
        second = store.models.promote("late/2", "production", reason="better", by="ann")
        assert len(labels())
        return Filled(folder, second.id, run.run_id)


@contextmanager
def served_page(folder: Path, **environment: str) -> Iterator[str]:
    """`featurestore ui` on a free port; its URL without the last slash."""
    command = [
        sys.executable,
        "-m",
        "featurestore",
        "ui",
        "--repo",
        str(folder),
        "--listen",
        "127.0.0.1:0",
    ]
    import os

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
            found = re.search(r"https?://\S+", said)
            assert found, said + process.stdout.read()
            yield found[0].rstrip("/")
        finally:
            process.terminate()
            process.wait(20)


def mark_of(page: httpx.Response) -> str:
    """What a form of this page carries."""
    found = re.search(r'name="mark" value="([0-9a-f]{64})"', page.text)
    assert found, page.text
    return found[1]
