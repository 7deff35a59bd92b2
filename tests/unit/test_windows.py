"""Where windows begin and end, and the states that their functions merge."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from window_spans import enters_us, leaves_us

from featurestore import sketches, windows
from featurestore.aggregates import AGGREGATES, checked_parameters, output_dtype
from featurestore.dtypes import BOOL, BYTES, FLOAT64, INT64, STRING, TIMESTAMP, DType, map_of, parse
from featurestore.errors import CorruptRow
from featurestore.partials import Partial, bybucket, partial_of
from featurestore.timeline import DAY_US, HOUR_US, MINUTE_US
from featurestore.value_bytes import Reader, put_int, scaled, unscaled

DECIMAL = parse("decimal(18,3)")
instants = st.integers(-40 * DAY_US, 40 * DAY_US)


class TestBounds:
    @pytest.mark.parametrize(
        ("window_us", "hop_us"),
        [
            (12 * HOUR_US - 1, 5 * MINUTE_US),
            (12 * HOUR_US, HOUR_US),
            (12 * DAY_US - 1, HOUR_US),
            (12 * DAY_US, DAY_US),
            (None, DAY_US),
        ],
    )
    def test_auto(self, window_us: int | None, hop_us: int) -> None:
        assert windows.auto_hop_us(window_us) == hop_us

    def test_floors_before_1970_too(self) -> None:
        assert windows.bounds(-1, 10, 0, 10) == (-20, -1)
        assert windows.tile_of(-1, 5) == -5
        assert windows.bounds(0, None, 3, 5) == (None, -3)

    @given(
        e=instants,
        at=instants,
        window=st.none() | st.integers(1, 3 * DAY_US),
        delay=st.integers(0, DAY_US),
        hop=st.sampled_from([0, 1, 7, 1_000, HOUR_US, DAY_US]),
    )
    def test_an_event_is_in_from_its_entry_until_it_leaves(
        self, e: int, at: int, window: int | None, delay: int, hop: int
    ) -> None:
        start, end = windows.bounds(at, window, delay, hop)
        leaves = leaves_us(e, window, delay, hop)
        entered = at >= enters_us(e, delay)
        assert ((start is None or start <= e) and e < end) == (
            entered and (leaves is None or at < leaves)
        )


NUMBERS = ["count", "sum", "mean", "min", "max", "var", "std", "first", "last", "approx_quantile"]
OF_ANY = [name for name, row in AGGREGATES.items() if not row.numeric]
PARAMETERS = {"n": 3, "q": 0.5}

values: dict[DType, st.SearchStrategy[Any]] = {
    INT64: st.integers(-(2**62), 2**62) | st.integers(-3, 3),
    FLOAT64: st.floats(-1e6, 1e6) | st.sampled_from([0.0, -1.5, 2.0]),
    DECIMAL: st.integers(-(10**18) + 1, 10**18 - 1).map(lambda n: Decimal(n).scaleb(-3)),
    STRING: st.text(max_size=3),
    BYTES: st.binary(max_size=3),
    TIMESTAMP: instants,
}


def partial(function: str, dtype: DType) -> Partial[Any]:
    wanted = {name: PARAMETERS.get(name) for name in AGGREGATES[function].parameters}
    return partial_of(function, dtype, checked_parameters(function, wanted))


def state(of: Partial[Any], rows: list[tuple[Any, tuple[int, int]]]) -> Any:
    found = of.identity()
    for value, order in rows:
        found = of.add(found, value, order)
    return found


def close(left: Any, right: Any, rows: list[tuple[Any, tuple[int, int]]]) -> bool:
    if not isinstance(left, float) or not isinstance(right, float):
        return bool(left == right) and type(left) is type(right)
    size = math.fsum(abs(float(value)) for value, _ in rows)
    return abs(left - right) <= 1e-9 * max(size, size * size)


@pytest.mark.parametrize("dtype", values, ids=str)
@settings(max_examples=40)
@given(data=st.data())
def test_any_tiling_and_order_of_merging_agree(dtype: DType, data: st.DataObject) -> None:
    names = OF_ANY if dtype in (STRING, BYTES, TIMESTAMP) else list(AGGREGATES)
    function = data.draw(st.sampled_from(names))
    orders = st.tuples(st.integers(0, 3), st.integers(0, 40))
    rows = data.draw(
        st.lists(st.tuples(values[dtype], orders), max_size=12, unique_by=lambda r: r[1])
    )
    of = partial(function, dtype)
    whole = state(of, rows)
    shuffled = data.draw(st.permutations(rows))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    parts = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    tiles = [of.decode(of.encode(state(of, part))) for part in parts]
    before = [of.encode(tile) for tile in tiles]
    merged = of.identity()
    for tile in tiles:
        merged = of.merge(merged, tile)
    assert [of.encode(tile) for tile in tiles] == before, "merge changed its second state"
    assert close(of.result(merged), of.result(whole), rows)
    if function not in ("var", "std") and not (function in ("sum", "mean") and dtype == FLOAT64):
        assert of.encode(merged) == of.encode(whole)
    assert close(of.result(of.merge(merged, of.identity())), of.result(whole), rows)
    if not rows:
        assert of.result(merged) == AGGREGATES[function].empty


class TestReach:
    def test_the_longest_decides(self) -> None:
        @dataclass(frozen=True)
        class Span:
            window_us: int | None
            delay_us: int = 0
            hop_us: int = 0

        spans = [Span(10, 5, 2), Span(12), Span(3, 13)]
        assert windows.reach_us(spans) == 17
        assert windows.reach_us([*spans, Span(None)]) is None


class TestValueBytes:
    @given(value=st.integers(-(2**80), 2**80))
    def test_integers_of_any_size(self, value: int) -> None:
        out = bytearray()
        put_int(out, value)
        assert Reader(bytes(out)).int() == value

    @pytest.mark.parametrize(
        ("text", "scale", "whole"), [("1.10", 2, 110), ("-12E+1", 1, -1200), ("1.500", 1, 15)]
    )
    def test_decimals_by_value(self, text: str, scale: int, whole: int) -> None:
        assert unscaled(Decimal(text), scale) == whole
        assert scaled(whole, scale) == Decimal(text)

    @pytest.mark.parametrize("text", ["1.55", "NaN"])
    def test_decimals_that_do_not_fit(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"digits behind|not a number"):
            unscaled(Decimal(text), 1)

    def test_booleans_and_text_ids_come_back(self) -> None:
        of = partial("last_n", BOOL)
        rows: list[tuple[bool, tuple[int, str]]] = [(True, (5, "b")), (False, (5, "a"))]
        state = of.identity()
        for value, order in rows:
            state = of.add(state, value, order)
        back = of.decode(of.encode(state))
        assert back == state == [(5, "a", False), (5, "b", True)]
        assert isinstance(back[0][2], bool)


@settings(max_examples=60)
@given(data=st.data())
def test_any_tiling_of_buckets_agrees(data: st.DataObject) -> None:
    """Also past a limit of buckets, from where on nothing is kept."""
    function = data.draw(st.sampled_from([*AGGREGATES]))
    dtype = map_of(STRING, INT64)
    wanted = {name: PARAMETERS.get(name) for name in AGGREGATES[function].parameters}
    of = partial_of(function, dtype, checked_parameters(function, wanted))
    pairs = st.tuples(st.sampled_from("abcdé"), st.integers(-3, 3)).map(lambda p: {p[0]: p[1]})
    orders = st.tuples(st.integers(0, 3), st.integers(0, 40))
    rows = data.draw(st.lists(st.tuples(pairs, orders), max_size=12, unique_by=lambda r: r[1]))
    with patch.object(bybucket, "BUCKETS_PER_KEY_MAX", 3):
        whole = state(of, rows)
        parts = [data.draw(st.permutations(rows[n::3])) for n in range(3)]
        tiles = [of.decode(of.encode(state(of, part))) for part in parts]
        merged = of.merge_all(data.draw(st.permutations(tiles)))
    plain = partial(function, INT64)
    buckets = sorted({bucket for row, _ in rows for bucket in row})
    if len(buckets) > 3:
        assert whole is merged is of.result(merged) is None
        assert of.encode(merged) == b""
        return
    found = of.result(merged)
    assert [*found] == buckets
    for bucket in buckets:
        mine = [(row[bucket], order) for row, order in rows if bucket in row]
        assert close(found[bucket], plain.result(state(plain, mine)), mine)
    if function not in ("var", "std"):
        assert of.encode(merged) == of.encode(whole)


class TestResults:
    rows: ClassVar = [(v, (e, e)) for e, v in enumerate([5, -3, 5, 2])]

    @pytest.mark.parametrize(
        ("function", "expected"),
        [
            ("count", 4),
            ("sum", 9),
            ("mean", 2.25),
            ("min", -3),
            ("max", 5),
            ("var", float(Fraction(63, 4) - Fraction(81, 16))),
            ("first", 5),
            ("last", 2),
            ("first_n", [5, -3, 5]),
            ("last_n", [-3, 5, 2]),
            ("count_distinct", 3),
            ("approx_count_distinct", 3),
            ("top_k", [5, -3, 2]),
        ],
    )
    def test_of_integers(self, function: str, expected: object) -> None:
        of = partial(function, INT64)
        assert of.result(state(of, self.rows)) == expected

    def test_sums_that_do_not_fit_are_null(self) -> None:
        of = partial("sum", INT64)
        rows = [(2**63 - 1, (0, 0)), (1, (1, 1))]
        assert of.result(state(of, rows)) is None
        assert of.result(of.add(state(of, rows), -1, (2, 2))) == 2**63 - 1
        assert partial("mean", INT64).result(state(of, rows)) == 2.0**62
        wide = partial("sum", parse("decimal(38,0)"))
        most = Decimal(10**38 - 1)
        assert wide.result(state(wide, [(most, (0, 0))])) == most
        assert wide.result(state(wide, [(most, (0, 0)), (Decimal(1), (1, 1))])) is None
        floats = partial("sum", FLOAT64)
        assert floats.result(state(floats, [(1e308, (0, 0)), (1e308, (1, 1))])) is None

    def test_infinite_values_have_no_variance(self) -> None:
        of = partial("var", FLOAT64)
        assert of.result(state(of, [(float("-inf"), (0, 0))])) is None
        assert of.result(state(of, [(1.0, (0, 0)), (float("inf"), (1, 1))])) is None

    def test_damaged_bytes(self) -> None:
        of = partial("first_n", STRING)
        data = of.encode(of.add(of.identity(), "abc", (5, 7)))
        for wrong in (data[:-1], data + b"\0"):
            with pytest.raises(CorruptRow):
                of.decode(wrong)


class TestSketches:
    @pytest.mark.parametrize("count", [1, 10, 1_000, 30_000])
    def test_distinct_within_four_errors(self, count: int) -> None:
        of = partial("approx_count_distinct", INT64)
        found = of.identity()
        for n in range(count):
            found = of.add(found, n * 7919, (n, n))
        assert abs(of.result(found) - count) <= max(1, 4 * 0.0163 * count)

    @pytest.mark.parametrize("error", [0.001, 0.01, 0.2])
    def test_the_middle_of_a_bucket_is_near_all_of_it(self, error: float) -> None:
        width, source = sketches.bucket_width(error), random.Random(3)
        found = [source.uniform(-5, 5) * 10.0 ** source.randrange(-300, 300) for _ in range(3_000)]
        for value in found:
            near = sketches.value_of(sketches.bucket_of(value, width), width)
            assert abs(near - value) <= error * 1.000001 * abs(value)
        ordered = sorted(found)
        buckets = [sketches.bucket_of(value, width) for value in ordered]
        assert buckets == sorted(buckets)

    def test_nearly_full_registers(self) -> None:
        """Every register holds something: the estimate has no empty ones to go by."""
        of = partial_of("approx_count_distinct", INT64, {"error": 0.25})
        state = {register: 60 if register == 3 else 5 for register in range(1 << 5)}
        assert of.decode(of.encode(state)) == state
        assert 300 < of.result(state) < 3_000
        assert of.result(of.identity()) == 0
        full = dict.fromkeys(range(1 << 5), 60)
        assert of.result(full) > 1e15

    def test_an_error_that_no_sketch_has(self) -> None:
        with pytest.raises(ValueError, match="the least error is"):
            sketches.precision_of(1e-9)

    def test_the_greatest_float(self) -> None:
        most = 1.7976931348623157e308
        near = sketches.value_of(sketches.bucket_of(most, 0.02), 0.02)
        assert abs(near - most) <= 0.011 * most

    def test_zero_and_infinity(self) -> None:
        for value in (0.0, math.inf, -math.inf):
            assert sketches.value_of(sketches.bucket_of(value, 0.02), 0.02) == value


class TestTypes:
    @pytest.mark.parametrize(
        ("function", "argument", "expected"),
        [
            ("count", "string", "int64"),
            ("sum", "int32", "int64"),
            ("sum", "float32", "float64"),
            ("sum", "decimal(9,2)", "decimal(38,2)"),
            ("mean", "decimal(9,2)", "float64"),
            ("min", "date", "date"),
            ("last_n", "string", "list<string>"),
            ("count_distinct", "bytes", "int64"),
        ],
    )
    def test_what_comes_out(self, function: str, argument: str, expected: str) -> None:
        assert str(output_dtype(function, parse(argument))) == expected

    @pytest.mark.parametrize(
        ("function", "argument"),
        [("sum", "string"), ("mean", "timestamp"), ("min", "list<int64>"), ("sum", None)],
    )
    def test_what_is_not_taken(self, function: str, argument: str | None) -> None:
        with pytest.raises(ValueError, match=r"takes|needs"):
            output_dtype(function, None if argument is None else parse(argument))
