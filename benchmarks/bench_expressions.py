"""What twenty typical expressions cost online: one generated function for one row, and for batches.

    python benchmarks/bench_expressions.py [--quick] [--json FILE]

The floor of the row function is what one would write by hand, with a test for NULL where one is
needed and none of the other rules (overflow, ÷ 0, inf); that of a batch is the row function, called
for each row. One value in twenty is NULL.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from results import Result, parser, report

from featurestore import exprlib
from featurestore.compiler.pysource import python_batch, python_function
from featurestore.definitions.expression import infer, parse_expression
from featurestore.dtypes import BOOL, DATE, FLOAT64, INT32, INT64, STRING, TIMESTAMP

SCHEMA = {
    "temp": FLOAT64,
    "wind": FLOAT64,
    "gust": FLOAT64,
    "dist": INT64,
    "seats": INT32,
    "carrier": STRING,
    "origin": STRING,
    "dep": TIMESTAMP,
    "arr": TIMESTAMP,
    "day": DATE,
    "late": BOOL,
}
TEXTS = """
(temp - 32) / 1.8
wind * 0.868976
coalesce(gust, wind) - wind
dist / nullif(seats, 0)
dist * 1.609344
hour(dep)
dayofweek(dep)
month(day)
hour(dep) * 60 + minute(dep)
date_diff('minute', dep, arr)
(epoch(request_time()) - epoch(dep)) / 60
CASE WHEN wind > 25 THEN 'strong' WHEN wind > 10 THEN 'fresh' ELSE 'calm' END
carrier IN ('UA', 'AA', 'DL')
carrier || '-' || origin
lower(origin)
late AND wind > 20
greatest(temp, wind, 0)
round(temp * wind / 10, 2)
dist BETWEEN 100 AND 1000
sqrt(wind * wind + coalesce(gust, 0) * coalesce(gust, 0))
""".strip().splitlines()
NOW_US = 1_372_636_800_000_000
NULLS = 0.05
BEST_OF = 5


def by_hand(now_us: int, *row: Any) -> tuple[Any, ...]:
    """The same values, but for edges."""
    from datetime import date
    from math import sqrt

    temp, wind, gust, dist, seats, carrier, origin, dep, arr, day, late = row
    hour = None if dep is None else dep // 3_600_000_000 % 24
    one = 0.0 if gust is None else gust
    known = [x for x in (temp, wind, 0.0) if x is not None]
    return (
        None if temp is None else (temp - 32) / 1.8,
        None if wind is None else wind * 0.868976,
        None if wind is None else (wind if gust is None else gust) - wind,
        None if dist is None or not seats else dist / seats,
        None if dist is None else dist * 1.609344,
        hour,
        None if dep is None else (dep // 86_400_000_000 + 4) % 7,
        None if day is None else date.fromordinal(day + 719_163).month,
        None if dep is None else hour * 60 + dep // 60_000_000 % 60,
        None if dep is None or arr is None else arr // 60_000_000 - dep // 60_000_000,
        None if dep is None else (now_us / 1e6 - dep / 1e6) / 60,
        "calm" if wind is None or wind <= 10 else "strong" if wind > 25 else "fresh",
        None if carrier is None else carrier in {"UA", "AA", "DL"},
        None if carrier is None or origin is None else f"{carrier}-{origin}",
        None if origin is None else origin.lower(),
        None if late is None or wind is None else late and wind > 20,
        max(known),
        None if temp is None or wind is None else round(temp * wind / 10, 2),
        None if dist is None else 100 <= dist <= 1000,
        None if wind is None else sqrt(wind * wind + one * one),
    )


def make_row(draw: random.Random) -> tuple[Any, ...]:
    departure = NOW_US + draw.randrange(10**12)
    row = (
        draw.uniform(0, 100),
        draw.uniform(0, 40),
        draw.uniform(0, 60),
        draw.randrange(3000),
        draw.randrange(300),
        draw.choice(["UA", "AA", "B6", "DL"]),
        draw.choice(["JFK", "LGA", "EWR"]),
        departure,
        departure + 10**10,
        departure // 86_400_000_000,
        draw.random() < 0.3,
    )
    return tuple(None if draw.random() < NULLS else value for value in row)


def best_us(runs: int, *works: Callable[[], object]) -> list[float]:
    """The least processor time of each work in µs, measured in turn, so that noise meets all."""
    best = [float("inf")] * len(works)
    for _ in range(BEST_OF):
        for place, work in enumerate(works):
            begun = time.process_time()
            for _ in range(runs):
                work()
            best[place] = min(best[place], (time.process_time() - begun) / runs * 1e6)
    return best


def main() -> None:
    asked = parser(__doc__).parse_args()
    outputs = []
    for position, text in enumerate(TEXTS):
        tree = parse_expression(text)
        outputs.append((f"o{position}", tree, infer(tree, SCHEMA)))
    row_function = exprlib.load(python_function("row", SCHEMA, outputs), "row")
    batch = exprlib.load(python_batch("batch", SCHEMA, outputs), "batch")
    draw = random.Random(1)  # test data
    rows = [make_row(draw) for _ in range(1_000)]
    runs = 3 if asked.quick else 20

    def each(function: Callable[..., object], count: int) -> Callable[[], object]:
        return lambda: [function(NOW_US, *row) for row in rows[:count]]

    ours, floor = best_us(runs, each(row_function, 1_000), each(by_hand, 1_000))
    results = [
        Result(
            job="20 expressions",
            setting="row by row",
            ours=ours / 1_000,
            floor=floor / 1_000,
            floor_name="by hand",
            unit="µs/row",
            higher_is_better=False,
            limit=15,
        )
    ]
    for count in (100, 1_000):
        columns = [list(column) for column in zip(*rows[:count], strict=True)]
        ours, floor = best_us(
            runs * 1_000 // count,
            lambda columns=columns, count=count: batch(NOW_US, count, *columns),
            each(row_function, count),
        )
        results.append(
            Result(
                job="20 expressions",
                setting=f"batch of {count:,} rows",
                ours=ours / count,
                floor=floor / count,
                floor_name="row by row",
                unit="µs/row",
                higher_is_better=False,
                target=1,
            )
        )
    report(results, asked)


if __name__ == "__main__":
    main()
