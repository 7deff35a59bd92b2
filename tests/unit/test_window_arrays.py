"""The array structures behind windows, beside loops."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from featurestore import sketches
from featurestore.dtypes import DType, parse
from featurestore.engines import window_intervals as intervals
from featurestore.engines.window_ranges import ADD, MOMENTS, Nodes, RangeTable, greatest, least
from featurestore.engines.window_rows import Places
from featurestore.engines.window_values import Values, as_int64, carried, decimal_sums, python_ints

INT_MAX = np.iinfo(np.int64).max


def ranges(rng: np.random.Generator, size: int, count: int) -> tuple[Any, Any]:
    low, high = np.sort(rng.integers(0, size + 1, (2, count)), axis=0)
    return low, high


class TestRangeTable:
    @pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 33, 100, 1_000, 4_097])
    def test_any_range(self, size: int) -> None:
        rng = np.random.default_rng(size)
        values = rng.integers(-50, 50, size)
        low, high = ranges(rng, size, 300)
        monoids = [(least(INT_MAX), min, INT_MAX), (greatest(-INT_MAX), max, -INT_MAX)]
        for monoid, by_hand, empty in monoids:
            (found,) = RangeTable((values,), monoid).over(low, high)
            wanted = [by_hand(values[a:b], default=empty) for a, b in zip(low, high, strict=True)]
            assert found.tolist() == wanted
        (sums,) = RangeTable((values.astype(float),), ADD).over(low, high)
        assert sums.tolist() == [values[a:b].sum() for a, b in zip(low, high, strict=True)]
        state = (np.ones(size), values + 1e6, np.zeros(size))
        count, mean, squares = RangeTable(state, MOMENTS).over(low, high)
        assert count.tolist() == (high - low).tolist()
        for n, (a, b) in enumerate(zip(low, high, strict=True)):
            if a < b:
                assert mean[n] == pytest.approx(values[a:b].mean() + 1e6, abs=1e-6)
                assert squares[n] == pytest.approx(values[a:b].var() * (b - a), abs=1e-4)


class TestNodes:
    @pytest.mark.parametrize("size", [1, 2, 3, 16, 100])
    def test_all_ranges_that_hold_a_place(self, size: int) -> None:
        rng = np.random.default_rng(size)
        first, last = ranges(rng, size, 200)
        values = rng.integers(-50, 50, 200)
        (found,) = Nodes(first, last, size).stabbed((values,), least(INT_MAX))
        (sums,) = Nodes(first, last, size).stabbed((values.astype(float),), ADD)
        for place in range(size):
            held = values[(first <= place) & (place < last)]
            assert found[place] == min(held, default=INT_MAX)
            assert sums[place] == held.sum()

    def test_without_ranges(self) -> None:
        none = np.zeros(0, dtype=np.int64)
        (found,) = Nodes(none, none, 3).stabbed((none,), least(7))
        assert found.tolist() == [7, 7, 7]


class TestPlaces:
    @pytest.mark.parametrize("unit", [1, 1 << 40, 1 << 58])
    def test_with_and_without_one_number(self, unit: int) -> None:
        """Widely spread instants of many groups do not fit into one number."""
        rng = np.random.default_rng(5)
        groups = np.sort(rng.integers(0, 50, 400))
        times = rng.integers(-3, 4, 400) * unit
        order = np.lexsort((times, groups))
        places = Places(groups, times[order], 50)
        asked, at = rng.integers(0, 50, 500), rng.integers(-8, 9, 500) * (unit // 2 or 1)
        found = places.at(asked, at)
        rows = list(zip(groups.tolist(), times[order].tolist(), strict=True))
        for group, time, place in zip(asked.tolist(), at.tolist(), found.tolist(), strict=True):
            assert place == sum(row < (group, time) for row in rows)
        assert (places._codes is None) == (unit > 1 << 50)


def by_hand(
    codes: Any, first: Any, last: Any, size: int, over: Callable[[list[int]], Any]
) -> list[Any]:
    rows = list(zip(codes.tolist(), first.tolist(), last.tolist(), strict=True))
    return [over([c for c, a, b in rows if a <= place < b]) for place in range(size)]


class TestIntervals:
    size = 40

    @pytest.fixture(params=[0, 1, 300])
    def rows(self, request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
        rng = np.random.default_rng(request.param)
        first, last = ranges(rng, self.size, request.param)
        kept = first < last
        return rng.integers(0, 12, request.param)[kept], first[kept], last[kept]

    def test_count_distinct(self, rows: tuple[Any, Any, Any]) -> None:
        found = intervals.count_distinct(*rows, self.size)
        assert found.tolist() == by_hand(*rows, self.size, lambda held: len(set(held)))

    @pytest.mark.parametrize("quantile", [0.0, 0.3, 0.5, 1.0])
    def test_quantiles(self, rows: tuple[Any, Any, Any], quantile: float) -> None:
        found, count = intervals.quantiles(*rows, size=self.size, quantile=quantile)
        wanted = by_hand(
            *rows,
            self.size,
            lambda held: sorted(held)[sketches.rank_of(quantile, len(held))] if held else None,
        )
        pairs = zip(found.tolist(), count.tolist(), strict=True)
        assert [code if n else None for code, n in pairs] == wanted

    def test_most_frequent(self, rows: tuple[Any, Any, Any]) -> None:
        def top(held: list[int]) -> list[int]:
            counts = Counter(held)
            return sorted(counts, key=lambda code: (-counts[code], code))[:3]

        found = intervals.most_frequent(*rows, size=self.size, n=3)
        assert found == by_hand(*rows, self.size, top)

    def test_estimates_are_those_of_the_sketch(self) -> None:
        rng = np.random.default_rng(1)
        values = rng.integers(0, 5_000, 20_000)
        hashes = intervals.hashes_of(values.tolist(), parse("int64"))
        first, last = ranges(rng, 30, 20_000)
        found = intervals.approx_distinct(hashes, first, last, size=30, precision=6)
        for place in range(30):
            held = hashes[(first <= place) & (place < last)]
            registers: dict[int, int] = {}
            for one in held.tolist():
                register, rank = sketches.register_of(one, 6)
                registers[register] = max(rank, registers.get(register, 0))
            histogram = [0] * 60
            histogram[0] = 64 - len(registers)
            for rank in registers.values():
                histogram[rank] += 1
            assert found[place] == sketches.estimate(histogram, 6)

    def test_buckets_are_those_of_the_sketch(self) -> None:
        rng = np.random.default_rng(1)
        values = rng.normal(size=2_000) * 10.0 ** rng.integers(-300, 300, 2_000)
        values[:4] = [0.0, math.inf, -math.inf, 5e-324]
        found = intervals.buckets(values, 0.02)
        assert found.tolist() == [sketches.bucket_of(v, 0.02) for v in values.tolist()]


def column(values: list[Any], dtype: DType, kind: pa.DataType) -> Values:
    return Values(pa.chunked_array([pa.array(values, kind)]), dtype, np.arange(len(values)))


class TestFloats:
    @pytest.mark.parametrize("digits", [5, 15, 18, 38])
    def test_decimals_are_rounded_once(self, digits: int) -> None:
        rng = np.random.default_rng(digits)
        kind, dtype = pa.decimal128(digits, 3), parse(f"decimal({digits},3)")
        wholes = ["".join(map(str, rng.integers(1, 10, digits))) for _ in range(200)]
        values = [Decimal(f"{whole[:-3]}.{whole[-3:]}") for whole in wholes]
        found = column([*values, None], dtype, kind).floats
        assert found[:-1].tolist() == [float(value) for value in values]


class TestSums:
    @pytest.mark.parametrize("size", [10, 2**62, 2**63])
    def test_of_integers(self, size: int) -> None:
        rng = np.random.default_rng(3)
        values = rng.integers(-size, size, 1_000)
        limbs = column(values.tolist(), parse("int64"), pa.int64()).limbs
        totals = carried([np.cumsum(limb) for limb in limbs])
        found, misfit = as_int64(totals)
        exact = np.cumsum(values.astype(object))
        assert python_ints(totals, np.arange(1_000)) == exact.tolist()
        for n, whole in enumerate(exact.tolist()):
            assert misfit[n] == (not -(2**63) <= whole < 2**63)
            assert misfit[n] or found[n] == whole

    @pytest.mark.parametrize("digits", [5, 18, 30, 38])
    def test_of_decimals(self, digits: int) -> None:
        rng = np.random.default_rng(3)
        wholes = [int("".join(map(str, rng.integers(0, 10, digits)))) for _ in range(50)]
        wholes = [whole if n % 3 else -whole for n, whole in enumerate(wholes)]
        dtype, out = parse(f"decimal({digits},2)"), parse("decimal(38,2)")
        values = [Decimal((int(w < 0), tuple(map(int, str(abs(w)))), -2)) for w in wholes]
        limbs = column(values, dtype, pa.decimal128(digits, 2)).limbs
        totals = carried([np.cumsum(limb) for limb in limbs])
        found = decimal_sums(totals, np.zeros(50, dtype=bool), out).to_pylist()
        total = 0
        for whole, value in zip(wholes, found, strict=True):
            total += whole
            if abs(total) >= 10**38:
                assert value is None
            else:
                assert value is not None
                sign, figures, exponent = value.as_tuple()
                assert exponent == -2
                assert (-1) ** sign * int("".join(map(str, figures))) == total
