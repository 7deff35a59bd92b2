"""On-demand views at the time of a request: stored rows and request inputs → rows of their own.

Compiled once per plan. Then each entity is a list of values: of every lookup those that some view
reads, the request inputs, and what the views compute, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from featurestore.dtypes import DType
from featurestore.errors import InvalidRequestInput, MissingRequestInput
from featurestore.statuses import Status
from featurestore.user_functions import (
    BatchFunction,
    Failures,
    RowFunction,
    batch_function,
    counted_in,
    row_function,
)
from featurestore.wire.inputs import Inputs
from featurestore.wire.layout import RowLayout
from featurestore.wire.one_row import row_encoder
from featurestore.wire.pick import Pick, row_picker
from featurestore.wire.plans import Lookup, OnDemand, ServingPlan

if TYPE_CHECKING:
    from featurestore.exprlib import Losses

Judged = tuple[int, int, bytes | None]
"""Status, event time and row of one entity and lookup."""
Judgements = tuple[Sequence[int], Sequence[int], Sequence[bytes | None]]
"""Statuses, event times and rows of many entities and one lookup."""
Values = Sequence[Any]
_PRESENT = int(Status.PRESENT)


@dataclass(frozen=True, slots=True)
class _Step:
    """One view: `arguments` picks what `function` is given out of an entity's values, and what
    `batch` is given out of the columns of many."""

    function: RowFunction
    batch: BatchFunction
    arguments: Callable[[Values], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Sent:
    """One view of the answer: lookup number `lookup`, cut by `cut` (None: sent whole), or else the
    row that `encode` makes of the values that `picked` are."""

    lookup: int
    cut: Callable[[bytes], bytes] | None = None
    encode: Callable[[int, int, Sequence[Any]], bytes] | None = None
    picked: Callable[[Values], Sequence[Any]] | None = None


@dataclass(frozen=True, slots=True)
class Derivation:
    """What a plan with on-demand views needs beyond its lookups.

    `inputs` are (name, type, the views that read it). `picks` are the values wanted of each lookup:
    how they are read, and what stands for a row that is not PRESENT.
    """

    inputs: tuple[tuple[str, DType, str], ...]
    picks: tuple[tuple[Pick, tuple[int | None, ...]], ...]
    steps: tuple[_Step, ...]
    sent: tuple[Sent, ...]
    lost: tuple[tuple[str, tuple[Losses, ...], Failures], ...]

    def columns(self, given: Inputs | None, count: int) -> list[Sequence[Any]]:
        """The request inputs in order, a value per entity.

        Raises `MissingRequestInput`, `InvalidRequestInput`.
        """
        there = given or {}
        found = []
        for name, dtype, needed_by in self.inputs:
            column = there.get(name)
            if column is None:
                raise MissingRequestInput(name, needed_by=needed_by, known=there)
            found.append(column.as_dtype(dtype, count))
        return found

    def rows(
        self, judged: Sequence[Judged], inputs: Sequence[Any], now_us: int
    ) -> list[tuple[int, int, bytes | None]]:
        """Status, event time and row (None: none is sent) of each view of the answer, for one
        entity; `judged` by lookup, `inputs` in order. Raises `CorruptRow`."""
        values: list[Any] = [None]  # what comes from nowhere
        for (pick, nothing), (status, _, row) in zip(self.picks, judged, strict=True):
            if nothing:
                there = row is not None and status == _PRESENT
                values += pick(row) if there and row is not None else nothing
        values += inputs
        for step in self.steps:
            values += step.function(now_us, *step.arguments(values))
        found: list[tuple[int, int, bytes | None]] = []
        for sent in self.sent:
            if sent.encode is not None and sent.picked is not None:
                row = sent.encode(now_us, now_us, sent.picked(values))
                found.append((_PRESENT, now_us, row))
                continue
            status, event_us, row = judged[sent.lookup]
            if row is None or status != _PRESENT:
                found.append((status, event_us, None))
            else:
                found.append((status, event_us, row if sent.cut is None else sent.cut(row)))
        return found

    def take_lost(self) -> Mapping[str, tuple[int, int]]:
        """By view, how many values became NULL since the last time: for want of a result (÷ 0,
        overflow), and because a Python function failed."""
        found: dict[str, tuple[int, int]] = {}
        for view, losses, failures in self.lost:
            undefined = sum(sum(one.take().values()) for one in losses if not one.is_empty)
            failed = failures.take() if failures.count else 0
            if undefined or failed:
                found[view] = (undefined, failed)
        return found

    def columns_of(
        self, judged: Sequence[Judgements], inputs: Sequence[Sequence[Any]], now_us: int
    ) -> list[Judgements]:
        """As `rows`, for many entities: statuses, event times and rows of each view of the answer;
        `judged` by lookup, `inputs` in order. Raises `CorruptRow`."""
        count = len(judged[0][0]) if judged else len(inputs[0])
        values: list[Sequence[Any]] = [[None] * count]  # what comes from nowhere
        for (pick, nothing), (statuses, _, rows) in zip(self.picks, judged, strict=True):
            if nothing:
                picked = [
                    nothing if row is None or status != _PRESENT else pick(row)
                    for status, row in zip(statuses, rows, strict=True)
                ]
                values += map(list, zip(*picked, strict=True))
        values += inputs
        for step in self.steps:
            values += step.batch(now_us, count, *step.arguments(values))
        found: list[Judgements] = []
        for sent in self.sent:
            if sent.encode is not None and sent.picked is not None:
                columns = sent.picked(values)
                now = repeat(now_us)
                made = list(map(sent.encode, now, now, zip(*columns, strict=True)))
                found.append((bytes((_PRESENT,)) * count, [now_us] * count, made))
                continue
            statuses, event_times, rows = judged[sent.lookup]
            cut = sent.cut or _whole
            kept = [
                None if row is None or status != _PRESENT else cut(row)
                for status, row in zip(statuses, rows, strict=True)
            ]
            found.append((statuses, event_times, kept))
        return found


def features_read(plan: ServingPlan) -> list[dict[int, int]]:
    """For each lookup the features that on-demand views read, numbered in order of first use."""
    wanted: list[dict[int, int]] = [{} for _ in plan.lookups]
    for step in plan.on_demand:
        for origin in step.origins:
            if origin.kind == "lookup":
                wanted[origin.index].setdefault(origin.feature, len(wanted[origin.index]))
    return wanted


def derivation_of(
    plan: ServingPlan,
    held: Sequence[tuple[int, ...]],
    cuts: Sequence[Callable[[bytes], bytes] | None],
) -> Derivation | None:
    """The derivation of a plan; None where it has no on-demand views. The rows of its lookups have
    the features `held`, and `cuts` cut them to what is sent. Raises `InvalidFunction`,
    `InvalidRequestInput`."""
    if not plan.on_demand:
        return None
    wanted = features_read(plan)
    starts = [1 + start for start in _starts([len(features) for features in wanted])]
    first_input = starts[-1]
    first_step = first_input + len(plan.request_inputs)
    computed = [first_step + start for start in _starts([len(s.computed) for s in plan.on_demand])]

    def places(step: OnDemand) -> list[int]:
        """Where the arguments of a step stand among an entity's values."""
        found = []
        for origin in step.origins:
            if origin.kind == "lookup":
                found.append(starts[origin.index] + wanted[origin.index][origin.feature])
            elif origin.kind == "request":
                found.append(first_input + origin.index)
            elif origin.kind == "on_demand":
                found.append(computed[origin.index] + origin.feature)
            else:
                found.append(0)
        return found

    steps: list[_Step] = []
    lost: list[tuple[str, tuple[Losses, ...], Failures]] = []
    for step in plan.on_demand:
        failures = Failures()
        by_row = row_function(step.code, failures)
        steps.append(_Step(by_row, batch_function(step.code, by_row), picking(places(step))))
        lost.append((step.view, tuple(counted_in(step.code)), failures))
    return Derivation(
        inputs=_inputs(plan),
        picks=tuple(
            (_picker(use, own, features), _nothing(use, features))
            for use, own, features in zip(plan.lookups, held, wanted, strict=True)
        ),
        steps=tuple(steps),
        sent=tuple(_sent(plan, index, computed, cuts) for index in plan.outputs),
        lost=tuple(lost),
    )


def on_demand_layout(step: OnDemand) -> RowLayout:
    """How the row that is sent of an on-demand view lies."""
    return RowLayout(tuple((f.name, f.dtype) for f in step.features), step.tag, step.name)


def picking(places: Sequence[int]) -> Callable[[Values], Sequence[Any]]:
    """Like `itemgetter`, and a sequence also for one place or none."""
    if len(places) > 1:
        return itemgetter(*places)
    if places:
        return itemgetter(slice(places[0], places[0] + 1))
    return lambda _: ()


def _sent(
    plan: ServingPlan,
    index: int,
    computed: Sequence[int],
    cuts: Sequence[Callable[[bytes], bytes] | None],
) -> Sent:
    if index < len(plan.lookups):
        return Sent(index, cuts[index])
    number = index - len(plan.lookups)
    step = plan.on_demand[number]
    picked = picking([computed[number] + feature for feature in step.selected])
    return Sent(-1, encode=row_encoder(on_demand_layout(step)), picked=picked)


def _whole(row: bytes) -> bytes:
    return row


def _starts(sizes: Sequence[int]) -> list[int]:
    """Where each part begins, and at last where all end."""
    found = [0]
    for size in sizes:
        found.append(found[-1] + size)
    return found


def _nothing(use: Lookup, features: Iterable[int]) -> tuple[Any, ...]:
    """The values of a key that is not found: of windows that count, 0, of maps, one without
    entries."""
    if use.windows is None:
        return tuple(None for _ in features)
    return tuple(map(use.windows.empty, features))


def _picker(use: Lookup, held: tuple[int, ...], features: Iterable[int]) -> Pick:
    layout = RowLayout(tuple((f.name, f.dtype) for f in use.stored), use.tag, use.name)
    return row_picker(layout.subset(held), [held.index(feature) for feature in features])


def _inputs(plan: ServingPlan) -> tuple[tuple[str, DType, str], ...]:
    users: list[dict[str, None]] = [{} for _ in plan.request_inputs]
    for step in plan.on_demand:
        for origin in step.origins:
            if origin.kind == "request":
                users[origin.index][step.name] = None
    types: dict[str, DType] = {}
    for one in plan.request_inputs:
        other = types.setdefault(one.name, one.dtype)
        if other != one.dtype:
            raise InvalidRequestInput(
                one.name,
                f"is {other} for one of these views and {one.dtype} for another; "
                "ask for them in two requests",
            )
    return tuple(
        (one.name, one.dtype, ", ".join(named))
        for one, named in zip(plan.request_inputs, users, strict=True)
    )
