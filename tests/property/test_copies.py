"""Sorted copies change no answer: random repositories, some of whose files landed after the copy
was written, beside the oracle and beside the same question without a copy."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from case_repository import (
    arrow_frame,
    as_defined,
    entity_rows,
    frame_dtypes,
    land,
    uses_of,
    write_definitions,
)
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from featurestore import FeatureStore
from featurestore.jobs import copies, optimize
from featurestore.statuses import Status
from featurestore.testing.compare import check_same_rows
from featurestore.testing.data import Choose, make_case, seeded, to_rows
from featurestore.testing.oracle import training_rows

T = TypeVar("T")
FUZZ_SECONDS = int(os.environ.get("FEATURESTORE_FUZZ_SECONDS", "0"))
SEEDS = range(15)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimize, "GROUP_ROWS", 2)
    monkeypatch.setattr(optimize, "FILE_ROWS", 5)
    monkeypatch.setattr(copies, "SHARE_MAX", 1.0)


def compare_copies(choose: Choose) -> int:
    """Raise `AssertionError` where a copy changes an answer; returns how many copies were read."""
    cases = [as_defined(make_case(choose, rows_max=20, requests_max=6)) for _ in range(2)]
    frame = entity_rows(choose, cases, 8)
    as_of, known_until_us = cases[0].as_of, cases[0].known_until_us
    uses = uses_of(cases, [case.settled() for case in cases])
    expected = training_rows(frame, uses, as_of=as_of, known_until_us=known_until_us)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_definitions(folder, cases)
        later = []
        for number, case in enumerate(cases):
            first = [row for row in range(len(case.rows)) if choose((True, True, False))]
            later.append([row for row in range(len(case.rows)) if row not in first])
            land(folder, number, case, "first", first)
        with FeatureStore(folder) as store:
            optimized = store.optimize()
        for number, case in enumerate(cases):
            if later[number]:
                land(folder, number, case, "later", later[number])
        with FeatureStore(folder) as store:
            job = store.get_historical_features(
                arrow_frame(frame, frame_dtypes(cases)),
                "everything",
                as_of=as_of,
                known_until=known_until_us,
                full_feature_names=True,
                include_status=True,
            )
            found = to_rows(job.to_arrow())
    names = [f"v{number}__status" for number in range(len(cases))]
    plain = [{k: int(Status[v]) if k in names else v for k, v in row.items()} for row in found]
    check_same_rows(plain, expected, cases)
    return len(optimized)


@settings(
    max_examples=FUZZ_SECONDS or 5,
    # An example opens a store: shrinking takes minutes, which only who fuzzes waits for.
    phases=tuple(Phase) if FUZZ_SECONDS else (Phase.generate,),
)
@given(data=st.data())
def test_drawn_repositories(data: st.DataObject) -> None:
    def choose(options: Sequence[T], /) -> T:
        return data.draw(st.sampled_from(options))

    compare_copies(choose)


def test_many_repositories(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    plain = copies._Work._read

    def noting(self: copies._Work, scan: object, *rest: object) -> object:
        read.append("copy")
        return plain(self, scan, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(copies._Work, "_read", noting)
    made = sum(compare_copies(seeded(seed)) for seed in SEEDS)
    assert made > len(SEEDS)
    assert len(read) > len(SEEDS) / 2
