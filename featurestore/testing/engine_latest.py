"""What every engine must answer about a source's rows by themselves: `Stamped` and `Latest`."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from featurestore.compiler.rel import CREATED_US, DELETED, EVENT_US, Latest
from featurestore.dtypes import DATE, INT64, STRING, TIMESTAMP
from featurestore.engines.base import Engine
from featurestore.testing.compare import compare_latest, run
from featurestore.testing.data import make_case, seeded
from featurestore.testing.engine_joins import NOON, PARTS, hours, source, weather
from featurestore.testing.oracle import RowShape
from featurestore.timeline import HOUR_US, to_us

LATEST_SEEDS = range(120)


class LatestContract:
    """Which rows there are, and which of them are newest. Subclasses give the fixture `engine`."""

    @pytest.mark.parametrize(
        ("event_time_is", "midnight"), [("start", "2013-03-10"), ("end", "2013-03-11")]
    )
    def test_a_date_is_the_start_or_the_end_of_its_day(
        self, engine: Engine, tmp_path: Path, event_time_is: str, midnight: str
    ) -> None:
        dtypes = {"key": INT64, "day": DATE}
        shape = RowShape(
            keys=("key",),
            event_time="day",
            event_time_is="start" if event_time_is == "start" else "end",
            tiebreak=("day", "key"),
        )
        rel = source(tmp_path, dtypes, [(1, date(2013, 3, 10)), (2, None)], shape)
        [row] = run(engine, rel)
        assert row == {
            "key": 1,
            "day": date(2013, 3, 10),
            EVENT_US: to_us(midnight),
            CREATED_US: to_us(midnight),
            DELETED: False,
        }

    def test_stamped_leaves_out_null_keys_and_times(self, engine: Engine, tmp_path: Path) -> None:
        rows = weather(
            tmp_path, ("EWR", 1, 3, 1.0), (None, 1, 3, 2.0), ("EWR", None, 3, 3.0), ("", -1, 0, 4.0)
        )
        found = {(row["airport"], row[EVENT_US], row[CREATED_US]) for row in run(engine, rows)}
        assert found == {("EWR", hours(1), hours(3)), ("", hours(-1), hours(0))}

    @pytest.mark.parametrize(
        ("bounds", "temp"),
        [
            ({}, 40.0),
            ({"known_until_us": hours(4)}, 40.0),
            ({"known_until_us": NOON + 4 * HOUR_US - 1}, 30.0),
            ({"known_after_us": hours(3)}, 40.0),
            ({"known_after_us": hours(4)}, 15.0),
            ({"known_after_us": NOON + 4 * HOUR_US - 1, "event_to_us": hours(4)}, 15.0),
            ({"event_to_us": hours(4)}, 30.0),
            ({"event_to_us": NOON + 4 * HOUR_US + 1}, 40.0),
            ({"event_from_us": hours(4)}, 40.0),
            ({"event_from_us": NOON + 4 * HOUR_US + 1}, None),
            ({"event_from_us": hours(1), "event_to_us": hours(3)}, 15.0),
            ({"event_from_us": hours(1), "event_to_us": hours(3), "known_until_us": NOON}, None),
        ],
        ids=str,
    )
    def test_the_bounds_of_latest(
        self, engine: Engine, tmp_path: Path, bounds: dict[str, int], temp: float | None
    ) -> None:
        """Known time is open below and closed above, event time closed below and open above."""
        rows = weather(
            tmp_path,
            ("EWR", 1, None, 10.0),
            ("EWR", 1, 6, 15.0),
            ("EWR", 3, 2, 30.0),
            ("EWR", 4, 4, 40.0),
        )
        found = [row["temp"] for row in run(engine, Latest(input=rows, **bounds))]
        assert found == ([] if temp is None else [temp])

    def test_latest_keeps_tombstones_and_all_keys(self, engine: Engine, tmp_path: Path) -> None:
        dtypes = {"key": STRING, "at": TIMESTAMP, "op": STRING, "v": INT64}
        shape = RowShape(keys=("key",), event_time="at", op="op", tiebreak=("at", "key", "op", "v"))
        rows = [("a", 1, "U", 1), ("a", 2, "D", None), ("b", 5, None, 2), (None, 6, "U", 3)]
        found = run(engine, Latest(input=source(tmp_path, dtypes, rows, shape)))
        assert {(row["key"], row["v"], row[EVENT_US], row[DELETED]) for row in found} == {
            ("a", None, 2, True),
            ("b", 2, 5, False),
        }

    def test_latest_of_a_source_without_keys(self, engine: Engine, tmp_path: Path) -> None:
        shape = RowShape(keys=(), event_time="at", tiebreak=("at", "v"))
        dtypes = {"at": TIMESTAMP, "v": INT64}
        rel = source(tmp_path, dtypes, [(1, 10), (3, 30), (2, 20)], shape)
        assert [row["v"] for row in run(engine, Latest(input=rel))] == [30]
        empty = source(tmp_path, dtypes, [], shape)
        assert run(engine, Latest(input=empty)) == []

    @pytest.mark.parametrize("part", range(PARTS))
    def test_latest_rows_agree_with_the_oracle(
        self, engine: Engine, tmp_path: Path, part: int
    ) -> None:
        for seed in LATEST_SEEDS[part::PARTS]:
            compare_latest(engine, make_case(seeded(seed)), tmp_path)
