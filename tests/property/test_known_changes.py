"""Training sets without an entity frame, beside the oracle: which rows there are, in which order,
and that each is what the same question with that key and time as its frame gives."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from case_repository import (
    TIME,
    arrow_frame,
    as_defined,
    frame_dtypes,
    uses_of,
    write_data,
    write_definitions,
)
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from featurestore import FeatureStore
from featurestore.statuses import Status
from featurestore.testing.compare import check_same_rows
from featurestore.testing.data import Case, Choose, make_case, seeded, to_rows
from featurestore.testing.oracle import changes, same, training_rows

T = TypeVar("T")
FUZZ_SECONDS = int(os.environ.get("FEATURESTORE_FUZZ_SECONDS", "0"))
SEEDS = range(12)


def cases_of_one_entity(choose: Choose) -> list[Case]:
    """One or two views of the same keys (of the same types), with rows on one grid."""
    first = as_defined(make_case(choose, rows_max=12, requests_max=4))
    cases = [first]
    if choose((True, False)):
        for _ in range(40):
            other = as_defined(make_case(choose, rows_max=8, requests_max=2))
            if other.shape.keys == first.shape.keys:
                cases.append(other)
                break
    return cases


def compare_changes(choose: Choose) -> int:
    """Raise `AssertionError` where the store's rows are not the oracle's; returns how many."""
    cases = cases_of_one_entity(choose)
    rows = [case.settled() for case in cases]
    instants = sorted({i for some in rows for row in some for i in (row.event_us, row.known_us)})
    around = [instant + beside for instant in instants or [0] for beside in (0, 0, 1)]
    start_us, end_us = choose((None, choose(around))), choose(around) + choose((1, 86_400_000_000))
    if start_us is not None and start_us >= end_us:
        start_us, end_us = end_us, start_us + 1
    known_until_us = choose((None, choose(around)))
    as_of = cases[0].as_of
    uses = uses_of(cases, rows)
    frame = changes(
        uses, start_us=start_us, end_us=end_us, as_of=as_of, known_until_us=known_until_us
    )
    expected = training_rows(frame, uses, as_of=as_of, known_until_us=known_until_us)
    with tempfile.TemporaryDirectory() as folder:
        write_definitions(Path(folder), cases)
        for number, case in enumerate(cases):
            write_data(Path(folder), number, case)
        with FeatureStore(folder) as store:
            options = {
                "as_of": as_of,
                "known_until": known_until_us,
                "full_feature_names": True,
                "include_status": True,
            }
            found = store.get_historical_features(
                features="everything", start=start_us, end=end_us, **options
            ).to_arrow()
            keys = frame_dtypes(cases)
            again = store.get_historical_features(
                arrow_frame(to_rows(found), keys), "everything", **options
            ).to_arrow()
    assert again.equals(found), "a row is not what its own key and time give"
    names = [f"v{number}__status" for number in range(len(cases))]
    plain = [
        {k: int(Status[v]) if k in names else v for k, v in row.items()} for row in to_rows(found)
    ]
    check_same_rows(plain, expected, cases)
    order = [[row[name] for name in (TIME, *keys)] for row in plain]
    assert same(order, [[row[name] for name in (TIME, *keys)] for row in expected])
    return len(plain)


@settings(
    max_examples=FUZZ_SECONDS or 6,
    # An example opens a store: shrinking takes minutes, which only who fuzzes waits for.
    phases=tuple(Phase) if FUZZ_SECONDS else (Phase.generate,),
)
@given(data=st.data())
def test_drawn_histories(data: st.DataObject) -> None:
    def choose(options: Sequence[T], /) -> T:
        return data.draw(st.sampled_from(options))

    compare_changes(choose)


def test_many_histories() -> None:
    assert sum(compare_changes(seeded(seed)) for seed in SEEDS) > len(SEEDS)
