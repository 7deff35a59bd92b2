"""The contract of an offline engine. A new engine's test file is four lines:

class TestMyEngine(EngineContract):
    @pytest.fixture
    def engine(self, tmp_path):
        with MyEngine.open(OfflineSettings(), temp_directory=str(tmp_path)) as engine: yield engine
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from featurestore.config import OfflineSettings
from featurestore.dtypes import INT64, STRING, TIMESTAMP
from featurestore.engines.base import Engine
from featurestore.testing.compare import (
    LEFT,
    as_of_expected,
    as_of_input,
    as_of_rel,
    check_same_rows,
    compare_as_of,
    compare_latest,
    run,
)
from featurestore.testing.data import Case, Request, make_case, seeded, write_case
from featurestore.testing.engine_deletions import DeletionsContract
from featurestore.testing.engine_joins import JoinsContract
from featurestore.testing.engine_latest import LatestContract
from featurestore.testing.engine_nodes import NodesContract
from featurestore.testing.engine_reads import ReadsContract
from featurestore.testing.engine_windows import WindowsContract
from featurestore.testing.oracle import RowShape, Value

HOT_ROWS = 200_000


class EngineContract(
    ReadsContract,
    NodesContract,
    LatestContract,
    JoinsContract,
    DeletionsContract,
    WindowsContract,
):
    """All that an engine must do: every relation node, and every rule of latest features,
    statuses and types, on small cases written out and on random ones beside the oracle.

    Subclasses give the fixture `engine`, an engine opened with default settings.
    """

    @pytest.mark.parametrize("threads", [1, 2, 4])
    def test_the_answer_does_not_depend_on_threads(
        self, engine: Engine, tmp_path: Path, threads: int
    ) -> None:
        settings = OfflineSettings(threads=threads)
        with type(engine).open(settings, temp_directory=str(tmp_path / "spill")) as other:
            for seed in range(5):
                case = make_case(seeded(seed), rows_max=200, requests_max=100)
                compare_as_of(other, case, tmp_path)
                compare_latest(other, case, tmp_path)

    @pytest.mark.parametrize("batch_rows", [1, 3, 64])
    def test_the_answer_does_not_depend_on_batches(
        self, engine: Engine, tmp_path: Path, batch_rows: int
    ) -> None:
        for seed in range(5):
            case = make_case(seeded(seed), rows_max=100, requests_max=100)
            compare_as_of(engine, case, tmp_path, batch_rows=batch_rows)
            compare_latest(engine, case, tmp_path, batch_rows=batch_rows)

    @pytest.mark.slow
    @pytest.mark.parametrize("as_of", ["known", "event"])
    def test_a_hot_key(self, engine: Engine, tmp_path: Path, as_of: str) -> None:
        """One key with most rows of the source, many of them late, and a few requests."""
        rows = [
            {"key": "hot", "at": n, "known": n + n * 7919 % 101, "v": n} for n in range(HOT_ROWS)
        ]
        case = hot_case(rows, [Request(("hot",), n * 3_989) for n in range(50)], as_of=as_of)
        found = run(
            engine, as_of_rel(case, write_case(case, tmp_path)), inputs={LEFT: as_of_input(case)}
        )
        check_same_rows(found, as_of_expected(case))

    @pytest.mark.slow
    def test_many_requests_for_a_hot_key(self, engine: Engine, tmp_path: Path) -> None:
        """Every row is known at once, so the answer at T is row ⌊T / 10⌋."""
        rows = [{"key": "hot", "at": 10 * n, "known": None, "v": n} for n in range(HOT_ROWS)]
        case = hot_case(rows, [Request(("hot",), 17 * n) for n in range(HOT_ROWS // 2)])
        found = run(
            engine, as_of_rel(case, write_case(case, tmp_path)), inputs={LEFT: as_of_input(case)}
        )
        assert len(found) == HOT_ROWS // 2
        assert all(row["found v"] == row["asked at"] // 10 for row in found)


def hot_case(
    rows: Sequence[Mapping[str, Value]], requests: Sequence[Request], *, as_of: str = "known"
) -> Case:
    """A case of columns `key`, `at`, `known` and `v` without a ttl."""
    dtypes = {"key": STRING, "at": TIMESTAMP, "known": TIMESTAMP, "v": INT64}
    return Case(
        dtypes=dtypes,
        shape=RowShape(
            keys=("key",), event_time="at", created_time="known", tiebreak=tuple(sorted(dtypes))
        ),
        features=("v",),
        rows=tuple(rows),
        requests=tuple(requests),
        as_of="event" if as_of == "event" else "known",
        known_until_us=None,
        ttl_us=None,
        grace_us=None,
        bounds={},
        unit="us",
        zone=None,
        files=1,
    )
