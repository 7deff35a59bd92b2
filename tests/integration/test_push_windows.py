"""Push into windowed views: counted once, corrected, deleted, late, and equal offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from redis_servers import RedisServer, valkey_binary
from test_windows_online import DEFINITIONS, FIRST, NOON, Airport, landing

from featurestore.errors import InvalidRequest
from featurestore.timeline import DAY_US, HOUR_US
from tests.conftest import INSTANT, MakeRepo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as server:
        yield server


@pytest.fixture(params=["lmdb", "redis"])
def airport(request: pytest.FixtureRequest, make_repo: MakeRepo) -> Iterator[Airport]:
    overrides: dict[str, Any] = {"offline.threads": 1}
    if request.param == "redis":
        valkey: RedisServer = request.getfixturevalue("valkey")
        valkey.command("FLUSHALL")
        overrides["online.url"] = valkey.url
    made = Airport(
        make_repo(DEFINITIONS.replace("EVENT_ID", 'event_id="id", op="op",')), **overrides
    )
    made.land(
        landing("N1", NOON - 1, 30.0, 1),
        landing("N1", NOON - HOUR_US - 1, 10.0, 2),
        landing("N1", NOON - 8 * DAY_US, 99.0, 3),
    )
    made.fs.apply()
    made.fs.materialize()
    yield made
    made.fs.close()


def offline(airport: Airport, plane: str) -> dict[str, Any]:
    frame = pa.table(
        {"plane": [plane], "event_timestamp": pa.array([airport.clock.now_us()], INSTANT)}
    )
    (row,) = airport.fs.get_historical_features(frame, "model").to_arrow().to_pylist()
    return {name: row[name] for name in FIRST}


def agreed(airport: Airport, plane: str = "N1") -> dict[str, Any]:
    """The features, the same online and offline."""
    online, _ = airport.look(plane)
    assert online == pytest.approx(offline(airport, plane), nan_ok=True)
    return online


def pushed(airport: Airport, *rows: dict[str, Any]) -> Any:
    """Push rows, and the same rows again, which changes nothing."""
    result = airport.fs.push("landings", list(rows))
    before = airport.look(rows[0]["plane"])
    airport.fs.push("landings", list(rows))
    assert airport.look(rows[0]["plane"]) == before
    return result


def test_rows_count_once_in_windows_however_often_they_come(airport: Airport) -> None:
    assert agreed(airport) == FIRST
    airport.clock.advance(60)
    pushed(airport, landing("N1", NOON + 1, 50.0, 10), landing("N1", NOON + 2, None, 11))
    found = agreed(airport)
    assert (found["count_7d"], found["worst"], found["delay_mean_7d"]) == (4, 50.0, 30.0)
    airport.fs.materialize()
    assert agreed(airport) == found


def test_corrections_deletes_and_late_rows(airport: Airport) -> None:
    airport.clock.advance(60)
    pushed(airport, landing("N1", NOON + 1, 50.0, 10, known_at=NOON + 1))
    pushed(airport, landing("N1", NOON + 1, 20.0, 10, known_at=NOON + 2))
    assert agreed(airport)["worst"] == 30.0
    pushed(airport, landing("N1", NOON - 1, None, 1, known_at=NOON + 3, op="D"))
    assert agreed(airport)["count_7d"] == 2
    pushed(airport, landing("N1", NOON - 3 * DAY_US, 90.0, 12, known_at=None))
    found = agreed(airport)
    assert (found["count_7d"], found["worst"]) == (3, 90.0)


def test_a_correction_beyond_the_horizon_is_a_dead_letter(airport: Airport) -> None:
    airport.clock.advance(2 * DAY_US)
    result = airport.fs.push("landings", [landing("N1", NOON - 1, 7.0, 1, known_at=None)])
    assert [(dead.row, dead.reason) for dead in result.dead] == [(0, "too-late")]
    (letter,) = airport.fs.dead_letters("landings")
    assert (letter["reason"], '"delay": 7.0' in letter["row"]) == ("too-late", True)
    assert agreed(airport)["worst"] == 30.0


def test_what_was_known_in_time_and_comes_late_counts_online_after_the_next_run(
    airport: Airport,
) -> None:
    """However long ago it was known: a run takes up the keys of what has arrived since the last."""
    airport.clock.advance(10 * HOUR_US)
    airport.fs.push("landings", [landing("N1", NOON, 40.0, 4, known_at=NOON)])
    airport.clock.advance(3 * DAY_US)
    airport.fs.materialize()
    before = agreed(airport)
    late = landing("N1", NOON, 90.0, 4, known_at=NOON + HOUR_US)
    result = airport.fs.push("landings", [late])
    assert [(dead.row, dead.reason) for dead in result.dead] == [(0, "arrived-late")]
    assert airport.look("N1")[0]["worst"] == before["worst"] == 40.0
    assert offline(airport, "N1")["worst"] == 90.0
    airport.clock.advance(1)
    airport.fs.materialize()
    assert agreed(airport)["worst"] == 90.0


def test_a_key_that_is_null_feeds_no_window_and_does_not_shift_the_others(
    airport: Airport,
) -> None:
    airport.clock.advance(2 * DAY_US)
    rows = [
        {**landing("x", NOON, 1.0, 20), "plane": None},
        landing("N1", NOON - 1, 7.0, 1, known_at=None),
        landing("N9", NOON, 3.0, 21),
    ]
    result = airport.fs.push("landings", rows)
    assert [dead.row for dead in result.dead] == [1]
    assert agreed(airport, "N9")["count_7d"] == 1


def test_a_new_generation_that_is_filled_meanwhile_loses_nothing(airport: Airport) -> None:
    airport.clock.advance(60)
    airport.fs.push("landings", [landing("N1", NOON + 1, 50.0, 10)])
    airport.fs.materialize(replace=True)
    airport.fs.push("landings", [landing("N1", NOON + 2, 60.0, 11)])
    assert agreed(airport)["count_7d"] == 4


def test_a_generation_that_another_process_has_made_is_caught_up(airport: Airport) -> None:
    airport.clock.advance(60)
    airport.fs.push("landings", [landing("N1", NOON + 1, 50.0, 10)])
    with airport.open() as other:
        other.materialize(replace=True)
    # Still into the generation that it knows.
    airport.fs.push("landings", [landing("N1", NOON + 2, 60.0, 11)])
    airport.fs.close()
    assert airport.look("N1")[0]["count_7d"] == 4


def test_windows_without_ids_take_no_pushes(make_repo: MakeRepo, tmp_path: Path) -> None:
    airport = Airport(make_repo(DEFINITIONS.replace("EVENT_ID", "")))
    airport.land(landing("N1", NOON - 1, 30.0, 1))
    with airport.fs as fs:
        fs.apply()
        with pytest.raises(InvalidRequest, match=r"no event_id.*'history'"):
            fs.push("landings", [landing("N1", NOON, 1.0, 2, op=None)])
        assert fs.dead_letters("landings") == []
