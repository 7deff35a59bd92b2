"""What the windows of a state hold at the time of a request.

A function is generated for each view as a server uses it, once per plan: it looks up the first tile
of each window and reads what all tiles from there on make. Only where the right end of a window
cuts the events, or some are not known yet, are these looked at one by one.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from featurestore.dtypes import DType, Kind
from featurestore.partials import INT64_MAX, INT64_MIN
from featurestore.value_bytes import Reader
from featurestore.wire.one_row import row_encoder
from featurestore.wire.window_layout import (
    BEHIND_US,
    EVER_US,
    NEVER_US,
    Group,
    Lane,
    PartialLane,
    WindowLayout,
    WindowOutput,
    empty_value,
)
from featurestore.wire.window_state_pb2 import WindowState

if TYPE_CHECKING:
    import numpy as np

    from featurestore.wire.layout import RowLayout

Evaluate = Callable[[bytes, int], bytes | None]
"""A function of a state and the request's time: the row that it makes; None where the key is not
found."""

_INT_MAX, _INT_MIN = 2**63 - 1, -(2**63)
_ZERO_OF = {
    ("add", "integers"): 0,
    ("min", "integers"): _INT_MAX,
    ("max", "integers"): _INT_MIN,
    ("add", "doubles"): 0.0,
    ("min", "doubles"): math.inf,
    ("max", "doubles"): -math.inf,
}


def window_evaluator(layout: WindowLayout, rows: RowLayout, selected: Sequence[int]) -> Evaluate:
    """The function for the features `selected` of a view, whose rows lie as `rows`.

    It raises `CorruptRow` for bytes that are no state of this view.
    """
    source, names = _source(layout, selected)
    names |= {
        "encode": row_encoder(rows),
        "slowly": _slowly_of(layout, selected),
        "check_head": layout.check_head,
        "parse": WindowState.FromString,
        "failed": layout.corrupt,
    }
    exec(compile(source, f"<windows of {layout.view}>", "exec"), names)  # noqa: S102 (our own)
    evaluate: Evaluate = names["evaluate"]
    return evaluate


# --- the usual case, generated --------------------------------------------------------------------


def _source(layout: WindowLayout, selected: Sequence[int]) -> tuple[str, dict[str, Any]]:
    """The text of `evaluate`, and the names that it needs."""
    names: dict[str, Any] = {
        "bisect_left": bisect_left,
        "MALFORMED": MALFORMED,
        "isfinite": math.isfinite,
    }
    reach_us = layout.reach_us
    delay_us = max((layout.outputs[n].delay_us for n in selected), default=0)
    exact = any(layout.outputs[n].hop_us == 0 for n in selected)
    is_gone = f"newest == {EVER_US}" if reach_us is None else f"newest < now - {reach_us}"
    lines = [
        "def evaluate(state, now):",
        "    check_head(state)",
        "    try:",
        "        message = parse(state)",
        "        newest = message.event_time_us",
        "        created = message.created_time_us",
        f"        if created > now or newest >= now - {delay_us} or {exact}:",
        "            values = slowly(message, now)",
        "            if values is None:",
        "                return None",
        "            newest, values = values",
        "            return encode(newest, min(created, now), values)",
        f"        if {is_gone}:",
        "            return None",
    ]
    body: list[str] = []
    for g, group in enumerate(layout.groups):
        outputs = [n for n in selected if layout.group_of[n] == g]
        if outputs:
            body += _group_source(layout, g, group, outputs, names)
    body.append(f"return encode(newest, created, ({''.join(f'v{n}, ' for n in selected)}))")
    lines += [f"        {line}" for line in body]
    lines += [
        "    except MALFORMED as error:",
        "        raise failed(state, str(error)) from error",
    ]
    return "\n".join(lines), names


MALFORMED: tuple[type[Exception], ...] = (ValueError, IndexError, OverflowError, DecodeError)
"""What reading bytes that are no state can raise; becomes `CorruptRow`."""


def _group_source(
    layout: WindowLayout, g: int, group: Group, outputs: Sequence[int], names: dict[str, Any]
) -> Iterator[str]:
    yield f"tiles = message.tiles[{g}]"
    yield 'starts = memoryview(tiles.starts_us).cast("q")'
    yield "count, sealed = len(starts), tiles.sealed"
    yield 'integers = memoryview(tiles.integers).cast("q")'
    yield f"if len(integers) != {len(group.integers)} * count or sealed > count:"
    yield '    raise ValueError("its tiles have columns of different lengths")'
    if group.doubles:
        yield 'doubles = memoryview(tiles.doubles).cast("d")'
    if group.partials:
        yield "partials = tiles.partials"
        yield f"if len(partials) != {len(group.partials)} * count:"
        yield '    raise ValueError("its tiles have columns of different lengths")'
    by_window: dict[int | None, list[int]] = {}
    for n in outputs:
        by_window.setdefault(layout.outputs[n].window_us, []).append(n)
    for window_us, mine in by_window.items():
        if window_us is None:
            yield "at = 0"
        else:
            start = f"(now - {group.delay_us + window_us}) // {group.hop_us} * {group.hop_us}"
            yield f"at = bisect_left(starts, {start})"
        yield from _window_source(layout, group, mine, names)


def _window_source(
    layout: WindowLayout, group: Group, outputs: Sequence[int], names: dict[str, Any]
) -> Iterator[str]:
    integers: dict[Lane, int] = {}
    doubles: dict[Lane, int] = {}
    partials: dict[PartialLane, int] = {}
    for n in outputs:
        one, two, three = layout.lanes_of(layout.outputs[n])
        integers |= {lane: group.integers.index(lane) for lane in one}
        doubles |= {lane: group.doubles.index(lane) for lane in two}
        partials |= {lane: group.partials.index(lane) for lane in three}
    lanes = [("integers", lane, k) for lane, k in integers.items()]
    lanes += [("doubles", lane, k) for lane, k in doubles.items()]
    empty, single, double = [], [], []
    for slot, lane, k in lanes:
        name, first, second = f"{slot[0]}{k}", _at(slot, k, "at"), _at(slot, k, "sealed")
        names[f"{lane.op}_{slot}"] = _ZERO_OF[lane.op, slot]
        empty.append(f"{name} = {lane.op}_{slot}")
        single.append(f"{name} = {first}")
        joined = f"{first} + {second}" if lane.op == "add" else f"{lane.op}({first}, {second})"
        double.append(f"{name} = {joined}")
    for kept, k in partials.items():
        partial = layout.partial(kept)
        names |= {f"decode{k}_{id(partial)}": partial.decode}
        names |= {f"merge{k}_{id(partial)}": partial.merge}
        names |= {f"whole{k}_{id(partial)}": _whole_of(partial)}
        decode, merge = f"decode{k}_{id(partial)}", f"merge{k}_{id(partial)}"
        names[f"identity{k}_{id(partial)}"] = partial.identity
        empty.append(f"p{k} = identity{k}_{id(partial)}()")
        if kept.scalar:
            first, second = _at("partials", k, "at"), _at("partials", k, "sealed")
            single.append(f"p{k} = {decode}({first})")
            double.append(f"p{k} = {merge}({decode}({first}), {decode}({second}))")
        else:
            rest = f"partials[{_place(k, 'at')}:{_place(k + 1, '0')}]"
            single.append(f"p{k} = whole{k}_{id(partial)}({rest})")
            double.append(single[-1])
    yield "if at == count:"
    yield f"    {'; '.join(empty)}"
    yield "elif at >= sealed or sealed == count:"
    yield f"    {'; '.join(single)}"
    yield "else:"
    yield f"    {'; '.join(double)}"
    for n in outputs:
        yield f"v{n} = {_result_source(layout, group, n, names)}"


def _place(lane: int, at: str) -> str:
    if lane == 0:
        return at
    times = "count" if lane == 1 else f"{lane} * count"
    return times if at == "0" else f"{times} + {at}"


def _at(slot: str, lane: int, at: str) -> str:
    return f"{slot}[{_place(lane, at)}]"


def _whole_of(partial: Any) -> Callable[[Sequence[bytes]], Any]:
    merge_all, decode = partial.merge_all, partial.decode

    def whole(parts: Sequence[bytes]) -> Any:
        return merge_all(map(decode, parts))

    return whole


def _result_source(layout: WindowLayout, group: Group, n: int, names: dict[str, Any]) -> str:
    output = layout.outputs[n]
    integers, doubles, partials = layout.lanes_of(output)
    count = f"i{group.integers.index(integers[0])}"
    if partials:
        names[f"result{n}"] = layout.partial(output).result
        return f"result{n}(p{group.partials.index(partials[0])})"
    match output.function:
        case "count":
            return count
        case "min" | "max":
            lane = f"i{group.integers.index(integers[1])}" if len(integers) > 1 else ""
            lane = lane or f"d{group.doubles.index(doubles[0])}"
            return f"{lane} if {count} else None"
        case _ if doubles:
            value = f"d{group.doubles.index(doubles[0])}"
            names[output.function] = _FLOATS[output.function]
            return f"{output.function}({count}, {value})"
        case _:
            low, high = (f"i{group.integers.index(lane)}" for lane in integers[1:])
            name = f"{output.function}_of_integers"
            names[name] = _INTEGERS[output.function]
            return f"{name}({count}, {low}, {high})"


def _sum(count: int, total: float) -> float | None:
    return total + 0.0 if count and math.isfinite(total) else None


def _mean(count: int, total: float) -> float | None:
    return total / count + 0.0 if count and math.isfinite(total) else None


def _sum_of_integers(count: int, low: int, high: int) -> int | None:
    total = (high << 32) + low
    return total if count and INT64_MIN <= total <= INT64_MAX else None


def _mean_of_integers(count: int, low: int, high: int) -> float | None:
    return float((high << 32) + low) / count if count else None


_FLOATS: dict[str, Callable[[int, float], float | None]] = {"sum": _sum, "mean": _mean}
_INTEGERS: dict[str, Callable[[int, int, int], int | float | None]] = {
    "sum": _sum_of_integers,
    "mean": _mean_of_integers,
}


# --- event by event -------------------------------------------------------------------------------


def _slowly_of(
    layout: WindowLayout, selected: Sequence[int]
) -> Callable[[WindowState, int], tuple[int, list[Any]] | None]:
    """A function of a state and the request's time: the newest event, and the values; None where
    the key is not found."""

    def slowly(message: WindowState, now_us: int) -> tuple[int, list[Any]] | None:
        raw = _Raw(layout, message, now_us)
        newest = message.folded_newest_us if message.HasField("folded_newest_us") else EVER_US
        if raw.visible.any():
            newest = max(newest, int(raw.event_us[raw.visible].max()))
        if newest == EVER_US:
            return None
        if layout.reach_us is not None and newest < now_us - layout.reach_us:
            return None
        return newest, [_value(layout, n, message, raw, now_us) for n in selected]

    return slowly


class _Raw:
    """The events of a state, in columns."""

    def __init__(self, layout: WindowLayout, message: WindowState, now_us: int) -> None:
        import numpy as np

        events = message.events
        self._layout, self._events = layout, events
        self.event_us = np.frombuffer(events.event_times_us, np.int64)
        count = len(self.event_us)
        created = np.frombuffer(events.created_us, np.int64)
        until = np.full(count, NEVER_US, np.int64)
        if events.until_us:
            until = np.frombuffer(events.until_us, np.int64)
        if not len(created) == len(until) == count:
            raise ValueError("its events have columns of different lengths")
        known = np.maximum(self.event_us, created)
        self.visible = (known <= now_us) & (now_us < until)
        self.unstable = (known > message.written_us - BEHIND_US) | (until != NEVER_US)
        if count and len(events.values) != len(layout.inputs):
            raise ValueError("its events have other columns")

    def chosen(self, output: WindowOutput, mask: np.typing.NDArray[np.bool_]) -> Any:
        """The places of events that count for an output."""
        import numpy as np

        present = np.frombuffer(self._events.values[output.input].present, bool)
        return np.flatnonzero(mask & present)

    def values(self, output: WindowOutput, places: Any) -> list[Any]:
        """What events at these places bring in."""
        import numpy as np

        dtype = self._layout.inputs[output.input].dtype
        column = self._events.values[output.input]
        if dtype is None:
            return [None] * len(places)
        if dtype.slot == "blobs":
            return [Reader(column.blobs[place]).value(dtype) for place in places]
        if dtype.slot == "doubles":
            found: list[Any] = np.frombuffer(column.doubles, np.float64)[places].tolist()
        else:
            found = np.frombuffer(column.integers, np.int64)[places].tolist()
        return found

    def ids(self, places: Any) -> list[Any]:
        """Their event ids."""
        import numpy as np

        if self._events.text_ids:
            return [self._events.text_ids[place] for place in places]
        if self._events.integer_ids:
            found: list[Any] = np.frombuffer(self._events.integer_ids, np.int64)[places].tolist()
            return found
        return [None] * len(places)


def _value(layout: WindowLayout, n: int, message: WindowState, raw: _Raw, now_us: int) -> Any:
    """One feature: what is in tiles, and the events that are not."""
    output, g = layout.outputs[n], layout.group_of[n]
    group, tiles = layout.groups[g], (message.stable or message.tiles)[g]
    partial = layout.partial(output)
    end_us = now_us - output.delay_us
    mask = raw.visible & (raw.event_us < end_us)
    start_us = EVER_US
    if output.window_us is not None:
        start_us = end_us - output.window_us
        start_us -= start_us % group.hop_us if group.hop_us else 0
        mask &= raw.event_us >= start_us
    state = partial.identity()
    if group.hop_us:
        mask &= (raw.event_us >= tiles.end_us) | raw.unstable
        state = _sealed(layout, output, group, tiles, start_us)
    places = raw.chosen(output, mask) if len(raw.event_us) else []
    if not len(places):
        return partial.result(state)
    times = raw.event_us[places].tolist()
    for value, time, one in zip(raw.values(output, places), times, raw.ids(places), strict=True):
        state = partial.add(state, value, (time, one))
    return partial.result(state)


def _sealed(
    layout: WindowLayout, output: WindowOutput, group: Group, tiles: Any, start_us: int
) -> Any:
    """What the sealed tiles from `start_us` on make, as a state of the output's partial."""
    partial = layout.partial(output)
    starts = memoryview(tiles.starts_us).cast("q")
    count, sealed = len(starts), tiles.sealed
    at = bisect_left(starts, start_us)
    if at >= sealed:
        return partial.identity()
    integers, doubles, partials = layout.lanes_of(output)
    if partials:
        k = group.partials.index(partials[0])
        stop = at + 1 if partials[0].scalar else sealed
        return partial.merge_all(
            map(partial.decode, tiles.partials[k * count + at : k * count + stop])
        )
    column = memoryview(tiles.integers).cast("q")
    found: list[Any] = [column[group.integers.index(lane) * count + at] for lane in integers]
    if doubles:
        k = group.doubles.index(doubles[0])
        found.append(memoryview(tiles.doubles).cast("d")[k * count + at])
    if output.function == "count":
        return found[0]
    if not found[0]:
        return partial.identity()
    if output.function in ("min", "max"):
        return found[1]
    return found[0], found[1] if doubles else (found[2] << 32) + found[1]


def empty_of(dtype: DType, function: str) -> int | None:
    """What a feature holds where its key is not found."""
    return empty_value(function) if dtype.kind is Kind.INT64 else None
