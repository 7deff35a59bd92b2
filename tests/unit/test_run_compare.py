"""What runs differ in."""

from __future__ import annotations

import math
from typing import Any

from featurestore.lifecycle.run_compare import Compared, Learned, compare
from featurestore.stores.registry.run_words import Metric, RunFacts


def facts(run_id: str, **more: Any) -> RunFacts:
    return RunFacts(
        run_id=run_id, record_id=f"run:e/{run_id}@{'0' * 64}", experiment="e", name=run_id,
        status="FINISHED", started_at_us=0, ended_at_us=1, user="ann", **more,
    )  # fmt: skip


def metric(value: float) -> Metric:
    return Metric(value, 0, 0, None, None, 1)


def names(differences: tuple[Any, ...]) -> dict[str, tuple[Any, ...]]:
    return {each.name: each.values for each in differences}


def test_only_what_differs_is_shown() -> None:
    found = compare(
        [
            Compared(
                facts=facts(
                    "a",
                    params={"same": 1, "depth": 4, "one": True, "only": "x"},
                    metrics={"auc": metric(0.7), "nan": metric(math.nan), "mixed": metric(1.0)},
                    tags={"team": "x"},
                )
            ),
            Compared(
                facts=facts(
                    "b",
                    params={"same": 1, "depth": 6, "one": 1},
                    metrics={
                        "auc": metric(0.8), "nan": metric(math.nan), "mixed": metric(math.nan)
                    },
                    tags={"team": "x"},
                )
            ),
        ]
    )  # fmt: skip
    assert names(found.params) == {"depth": (4, 6), "one": (True, 1), "only": ("x", None)}
    assert list(names(found.metrics)) == ["auc", "mixed"]
    assert (found.tags, found.training_data, found.surroundings) == ((), (), ())
    assert [run.run_id for run in found.runs] == ["a", "b"]


def test_how_training_data_differs() -> None:
    def learned(name: str, rows: int, version: str, **body: Any) -> Learned:
        return Learned(
            id=f"training_set:{name}@{version * 64}",
            body={"rows": rows, "label": "late", "known_until_us": 5, **body},
            snapshots={"landings": version},
            features={"plane:delay": version, "plane:seats": "1"},
        )

    one = Compared(
        facts=facts("a"),
        learned=(
            learned("trips", 10, "a", splits={"train": 1}, entity_frame={"digest": "a" * 64}),
        ),
    )
    two = Compared(facts=facts("b"), learned=(learned("trips", 12, "b"),))
    found = names(compare([one, two]).training_data)
    assert found["rows"] == (10, 12)
    assert found["snapshot of landings"] == ("a", "b")
    assert found["feature plane:delay"] == ("a", "b")
    assert found["entity frame"] == ("aaaaaaaa", None)
    assert found["splits"] == ("{'train': 1}", None)
    assert found["training set"] == ("training_set:trips@aaaaaaaa", "training_set:trips@bbbbbbbb")
    assert not {"label", "known_until", "feature plane:seats"} & found.keys()
    both = Compared(facts=facts("c"), learned=(learned("trips", 10, "a"), learned("more", 1, "c")))
    assert names(compare([one, both]).training_data)["more: rows"] == (None, 1)


def test_how_surroundings_differ() -> None:
    one = {
        "code": {"program": "a.py", "commit": "c1"},
        "environment": {"python": "3.12", "lock": {"digest": "a" * 64}, "packages": {"x": "1"}},
    }
    two = {
        "code": {"program": "a.py", "commit": "c2"},
        "environment": {"python": "3.12", "lock": None, "packages": {"x": "2"}, "host": "h"},
    }
    found = compare([Compared(facts=facts("a"), body=one), Compared(facts=facts("b"), body=two)])
    assert names(found.surroundings) == {
        "commit": ("c1", "c2"), "lock": ("aaaaaaaa", None), "host": (None, "h"),
        "package x": ("1", "2"),
    }  # fmt: skip
