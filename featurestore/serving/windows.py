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
)
from featurestore.wire.window_state_pb2 import WindowState, WindowTiles

if TYPE_CHECKING:
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
    finishers = [_finisher(layout, n) for n in selected]
    groups: dict[int, dict[int | None, list[int]]] = {}
    for place, n in enumerate(selected):
        of_group = groups.setdefault(layout.group_of[n], {})
        of_group.setdefault(layout.outputs[n].window_us, []).append(place)

    def slowly(message: WindowState, now_us: int) -> tuple[int, list[Any]] | None:
        raw = _Raw(layout, message, now_us)
        newest = message.folded_newest_us if message.HasField("folded_newest_us") else EVER_US
        newest = max([newest, *(raw.event_us[place] for place in raw.visible)])
        if newest == EVER_US:
            return None
        if layout.reach_us is not None and newest < now_us - layout.reach_us:
            return None
        values: list[Any] = [None] * len(finishers)
        for g, windows in groups.items():
            group = layout.groups[g]
            tiles = _Sealed((message.stable or message.tiles)[g])
            end_us = now_us - group.delay_us
            loose = raw.before(end_us, tiles.end_us if group.hop_us else EVER_US)
            for window_us, places in windows.items():
                start_us, events = EVER_US, loose
                if window_us is not None:
                    start_us = end_us - window_us
                    start_us -= start_us % group.hop_us if group.hop_us else 0
                    events = [place for place in loose if raw.event_us[place] >= start_us]
                tiles.go_to(start_us)
                for place in places:
                    values[place] = finishers[place](tiles, raw, events)
        return newest, values

    return slowly


class _Sealed:
    """The sealed tiles of one group: those from where one last went to."""

    def __init__(self, tiles: WindowTiles) -> None:
        self.end_us = tiles.end_us
        self._starts = memoryview(tiles.starts_us).cast("q")
        self.count, self._sealed = len(self._starts), tiles.sealed
        self.integers = memoryview(tiles.integers).cast("q")
        self.doubles = memoryview(tiles.doubles).cast("d")
        self.partials = tiles.partials
        self.at = 0

    def go_to(self, start_us: int) -> None:
        """Begin with the first tile that starts at `start_us` or later."""
        self.at = bisect_left(self._starts, start_us)

    @property
    def some(self) -> bool:
        """Whether there is a sealed tile from there on."""
        return self.at < self._sealed

    def states(self, lane: int, *, scalar: bool) -> Sequence[bytes]:
        """The states of a lane of partials from there on."""
        first = lane * self.count
        stop = min(self.at + 1, self._sealed) if scalar else self._sealed
        return self.partials[first + self.at : first + stop]


class _Raw:
    """The events of a state. `visible` are the places of those that count at the request's time."""

    def __init__(self, layout: WindowLayout, message: WindowState, now_us: int) -> None:
        events = message.events
        self._inputs, self._events = layout.inputs, events
        self.event_us = memoryview(events.event_times_us).cast("q").tolist()
        created = memoryview(events.created_us).cast("q").tolist()
        count = len(self.event_us)
        until = [NEVER_US] * count
        if events.until_us:
            until = memoryview(events.until_us).cast("q").tolist()
        if not len(created) == len(until) == count:
            raise ValueError("its events have columns of different lengths")
        if count and len(events.values) != len(layout.inputs):
            raise ValueError("its events have other columns")
        stable_us = message.written_us - BEHIND_US
        self.visible = [
            place
            for place, known in enumerate(map(max, self.event_us, created))
            if known <= now_us < until[place]
        ]
        self._unstable = {
            place
            for place in self.visible
            if until[place] != NEVER_US or max(self.event_us[place], created[place]) > stable_us
        }
        self._found: dict[tuple[int, int], tuple[list[int], list[int], list[Any]]] = {}

    def before(self, end_us: int, sealed_us: int) -> list[int]:
        """The places of visible events before `end_us` that are in no sealed tile: those from
        `sealed_us` on, and those that became known only a moment before."""
        event_us, unstable = self.event_us, self._unstable
        return [
            place
            for place in self.visible
            if event_us[place] < end_us and (event_us[place] >= sealed_us or place in unstable)
        ]

    def counting(self, n: int, events: list[int]) -> tuple[list[int], list[Any]]:
        """Which of the events count for an input, and what they bring in."""
        # The list is kept with what was found, so that no other one gets its identity.
        known = self._found.get((n, id(events)))
        if known is None:
            present = self._events.values[n].present if events else b""
            places = [place for place in events if present[place]]
            known = self._found[n, id(events)] = (events, places, self._values(n, places))
        return known[1], known[2]

    def _values(self, n: int, places: Sequence[int]) -> list[Any]:
        dtype = self._inputs[n].dtype
        if dtype is None or not places:
            return [None] * len(places)
        column = self._events.values[n]
        if dtype.slot == "blobs":
            return [Reader(column.blobs[place]).value(dtype) for place in places]
        whole: memoryview[Any] = memoryview(column.integers).cast("q")
        if dtype.slot == "doubles":
            whole = memoryview(column.doubles).cast("d")
        return [whole[place] for place in places]

    def orders(self, places: Sequence[int]) -> list[tuple[int, int | str | None]]:
        """Where they stand in a window."""
        ids: Sequence[int | str | None] = [None] * len(self.event_us)
        if self._events.text_ids:
            ids = self._events.text_ids
        elif self._events.integer_ids:
            ids = memoryview(self._events.integer_ids).cast("q")
        return [(self.event_us[place], ids[place]) for place in places]


Finisher = Callable[[_Sealed, _Raw, list[int]], Any]
"""A function of sealed tiles and the places of events beside them: the value of a feature."""


def _finisher(layout: WindowLayout, n: int) -> Finisher:
    output, group = layout.outputs[n], layout.groups[layout.group_of[n]]
    integers, doubles, partials = layout.lanes_of(output)
    if partials or not group.hop_us:
        return _partial_finisher(layout, output, group)
    whole = [group.integers.index(lane) for lane in integers]
    broken = [group.doubles.index(lane) for lane in doubles]
    function, of_input = output.function, output.input
    finish: Callable[[int, Any], Any] = _FINISH[function, bool(doubles)]

    def lanes(tiles: _Sealed) -> list[Any]:
        if not tiles.some:
            return [0]
        count, at = tiles.count, tiles.at
        found: list[Any] = [tiles.integers[lane * count + at] for lane in whole]
        return found + [tiles.doubles[lane * count + at] for lane in broken]

    def value(tiles: _Sealed, raw: _Raw, events: list[int]) -> Any:
        count, *sealed = lanes(tiles)
        mine, more = raw.counting(of_input, events)
        if function == "count":
            return count + len(mine)
        if function in ("min", "max"):
            all_of_them = more + sealed if count else more
            return finish(0, all_of_them) if all_of_them else None
        total = sum(more) + (
            sealed[0] + (sealed[1] << 32 if len(sealed) > 1 else 0) if sealed else 0
        )
        return finish(count + len(mine), total)

    return value


def _partial_finisher(layout: WindowLayout, output: WindowOutput, group: Group) -> Finisher:
    partial = layout.partial(output)
    partials = layout.lanes_of(output)[2]
    lane = group.partials.index(partials[0]) if group.hop_us else 0
    scalar = bool(partials) and partials[0].scalar

    def value(tiles: _Sealed, raw: _Raw, events: list[int]) -> Any:
        state = partial.identity()
        if group.hop_us and tiles.some:
            state = partial.merge_all(map(partial.decode, tiles.states(lane, scalar=scalar)))
        mine, values = raw.counting(output.input, events)
        for one, order in zip(values, raw.orders(mine), strict=True):
            state = partial.add(state, one, order)
        return partial.result(state)

    return value


_FINISH: dict[tuple[str, bool], Callable[[int, Any], Any]] = {
    ("count", False): lambda count, _: count,
    ("sum", True): _sum,
    ("mean", True): _mean,
    ("sum", False): lambda count, total: _sum_of_integers(count, total, 0),
    ("mean", False): lambda count, total: _mean_of_integers(count, total, 0),
    **{("min", is_float): lambda _, values: min(values) for is_float in (False, True)},
    **{("max", is_float): lambda _, values: max(values) for is_float in (False, True)},
}
