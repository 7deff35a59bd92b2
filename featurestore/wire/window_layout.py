"""How the states of a windowed view lie (`protos/featurestore/v1/window_state.proto`): which values
an event brings in, into which groups of tiles, and what each tile holds of them.

All of it follows from what the view aggregates. Pure Python, without numpy or Arrow.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from featurestore import dtypes, windows
from featurestore.aggregates import empty_value
from featurestore.dtypes import DType, Kind
from featurestore.errors import CorruptRow
from featurestore.partials import Partial, partial_of
from featurestore.timeline import SECOND_US
from featurestore.wire import serving_plan_pb2 as pb
from featurestore.wire.layout import CREATED_TIME, EVENT_TIME, VIEW_TAG

BEHIND_US = 10 * SECOND_US
"""How far a request's clock may be behind the writer's and still get an exact answer."""
EVER_US = -(2**63)
"""The start of a tile that holds all that is older than the others."""
NEVER_US = 2**63 - 1
"""When a version is replaced that is not."""

STATE_HEAD = struct.Struct("<1sq1sq1sI1sQ")
"""The fixed head of a state: that of a row, then the revision."""
REVISION = b"\x21"

Parameters = tuple[tuple[str, int | float], ...]


@dataclass(frozen=True, slots=True)
class WindowInput:
    """A value that events bring in, where they count at all; `dtype` None: only that they do. What
    goes into buckets is a map with one entry: the bucket, and what it gets."""

    dtype: DType | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowOutput:
    """One feature: `function` of an input over a window (None: lifetime)."""

    function: str
    input: int
    window_us: int | None
    delay_us: int
    hop_us: int
    parameters: Parameters = ()


@dataclass(frozen=True, slots=True)
class Lane:
    """A number that tiles hold, by `op` (add, min, max) of what `part` of an input is: `count`,
    `sum`, `low` and `high` (of an integer that is added up, its lower 32 bits and the others),
    `least`, `greatest`."""

    op: str
    part: str
    input: int


@dataclass(frozen=True, slots=True)
class PartialLane:
    """A partial that tiles hold as bytes. A `scalar` one has the size of a value, whatever it is
    made of, so that what all later tiles make can stand in each."""

    function: str
    input: int
    parameters: Parameters
    scalar: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tiles of one hop that are cut off at one delay. `window_us` is the longest window that they
    serve, `lifetime` whether one has no left end. A hop of 0 has no tiles."""

    hop_us: int
    delay_us: int
    window_us: int
    lifetime: bool
    integers: tuple[Lane, ...]
    doubles: tuple[Lane, ...]
    partials: tuple[PartialLane, ...]

    def end_us(self, written_us: int) -> int:
        """Before this no request cuts off events any more. It need not be where a tile begins: what
        a tile has before it is in a window as a whole, or not at all."""
        return written_us - BEHIND_US - self.delay_us

    def begin_us(self, written_us: int) -> int:
        """Where the first tile begins that a request may still need (but for a lifetime)."""
        oldest = written_us - BEHIND_US - self.delay_us - self.window_us
        return windows.tile_of(oldest, self.hop_us)


_SCALAR = {"count", "sum", "mean", "min", "max", "var", "std", "first", "last"}
_Lanes = tuple[list[Lane], list[Lane], list[PartialLane]]


@dataclass(frozen=True, kw_only=True)
class WindowLayout:
    """What a windowed view's states hold.

    `outputs` are the view's features in order, `dtypes` their types; `tag` is the view tag of its
    states. `id_dtype` is the type of the source's event ids (None: it has none),
    `correction_horizon_us` how long after a row another one of its id replaces it.
    """

    inputs: tuple[WindowInput, ...]
    outputs: tuple[WindowOutput, ...]
    dtypes: tuple[DType, ...]
    tag: int
    view: str = ""
    id_dtype: DType | None = None
    correction_horizon_us: int = 0

    @cached_property
    def reach_us(self) -> int | None:
        """How old the newest event of a key may be before the key is NOT_FOUND."""
        return windows.reach_us(self.outputs)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """One for each hop and delay, in the order of the outputs."""
        found: dict[tuple[int, int], list[WindowOutput]] = {}
        for output in self.outputs:
            found.setdefault((output.hop_us, output.delay_us), []).append(output)
        return tuple(self._group(*key, outputs) for key, outputs in found.items())

    @cached_property
    def group_of(self) -> tuple[int, ...]:
        """For each output the index of its group."""
        index = {(group.hop_us, group.delay_us): n for n, group in enumerate(self.groups)}
        return tuple(index[output.hop_us, output.delay_us] for output in self.outputs)

    def lanes_of(self, output: WindowOutput) -> _Lanes:
        """What a tile must hold for an output: integers, doubles and partials."""
        dtype, n = self.inputs[output.input].dtype, output.input
        count = Lane("add", "count", n)
        slot = None if dtype is None else dtype.slot
        if dtype is not None and dtype.kind is Kind.MAP:
            # As large as its buckets are many, so it stands once, in the tile that it is of.
            return [count], [], [PartialLane(output.function, n, output.parameters, False)]
        if output.function == "count":
            return [count], [], []
        if dtype is not None and dtype.kind is not Kind.DECIMAL:
            if output.function in ("sum", "mean"):
                if slot == "doubles":
                    return [count], [Lane("add", "sum", n)], []
                return [count, Lane("add", "low", n), Lane("add", "high", n)], [], []
            if output.function in ("min", "max") and slot != "blobs":
                part = "least" if output.function == "min" else "greatest"
                lane = Lane(output.function, part, n)
                return ([count], [lane], []) if slot == "doubles" else ([count, lane], [], [])
        scalar = output.function in _SCALAR
        return [count], [], [PartialLane(output.function, n, output.parameters, scalar)]

    def _group(self, hop_us: int, delay_us: int, outputs: list[WindowOutput]) -> Group:
        integers: dict[Lane, None] = {}
        doubles: dict[Lane, None] = {}
        partials: dict[PartialLane, None] = {}
        for output in outputs:
            one, two, three = self.lanes_of(output)
            integers.update(dict.fromkeys(one))
            doubles.update(dict.fromkeys(two))
            partials.update(dict.fromkeys(three))
        return Group(
            hop_us=hop_us,
            delay_us=delay_us,
            window_us=max(o.window_us or 0 for o in outputs),
            lifetime=any(o.window_us is None for o in outputs),
            integers=tuple(integers),
            doubles=tuple(doubles),
            partials=tuple(partials),
        )

    def partial(self, lane: PartialLane | WindowOutput) -> Partial[object]:
        """The partial of a lane or an output."""
        return partial_of(lane.function, self.inputs[lane.input].dtype, dict(lane.parameters))

    def head(self, event_us: int, created_us: int, revision: int) -> bytes:
        """The fixed head of a state."""
        return STATE_HEAD.pack(
            EVENT_TIME, event_us, CREATED_TIME, created_us, VIEW_TAG, self.tag, REVISION, revision
        )

    def check_head(self, state: bytes) -> None:
        """Raises `CorruptRow` for what does not begin as a state of this view does."""
        if len(state) < STATE_HEAD.size:
            raise self.corrupt(state, f"it ends within the first {STATE_HEAD.size} bytes")
        one, _, two, _, three, tag, four, _ = STATE_HEAD.unpack_from(state)
        if (one, two, three, four) != (EVENT_TIME, CREATED_TIME, VIEW_TAG, REVISION):
            raise self.corrupt(state, "it does not begin with its times and its revision")
        if tag != self.tag:
            reason = f"its view tag is {tag:08x}, not {self.tag:08x}; another version wrote it"
            raise self.corrupt(state, reason)

    def corrupt(self, state: bytes, reason: str) -> CorruptRow:
        """The error for bytes that are no state of this view."""
        subject = f"A stored state of view {self.view!r}" if self.view else "A stored state"
        return CorruptRow(
            f"{subject} ({len(state):,} bytes) cannot be read: {reason}. "
            "Write its view anew: featurestore materialize --replace"
        )

    def empty(self, output: int) -> int | dict[Any, Any] | None:
        """What an output holds over no rows; a map that nobody else has."""
        return empty_value(self.outputs[output].function, self.dtypes[output])

    def to_message(self) -> pb.Windows:
        """What a serving plan says of it."""
        return pb.Windows(
            inputs=[
                pb.WindowInput(dtype="" if i.dtype is None else str(i.dtype)) for i in self.inputs
            ],
            outputs=[_output_message(output) for output in self.outputs],
        )

    @classmethod
    def from_message(
        cls, message: pb.Windows, features: tuple[DType, ...], *, tag: int, view: str
    ) -> WindowLayout:
        """What `to_message` wrote. Raises `ValueError` for what contradicts itself."""
        outputs = tuple(map(_output, message.outputs))
        if len(outputs) != len(features):
            raise ValueError(f"{len(outputs)} windows for {len(features)} features")
        inputs = tuple(
            WindowInput(dtypes.parse(i.dtype) if i.dtype else None) for i in message.inputs
        )
        if any(output.input >= len(inputs) for output in outputs):
            raise ValueError("a window over an input that is not there")
        return cls(inputs=inputs, outputs=outputs, dtypes=features, tag=tag, view=view)


def _output_message(output: WindowOutput) -> pb.WindowOutput:
    return pb.WindowOutput(
        function=output.function,
        input=output.input,
        window_us=output.window_us,
        delay_us=output.delay_us,
        hop_us=output.hop_us,
        parameters=[
            pb.WindowParameter(name=name, integer=value)
            if isinstance(value, int)
            else pb.WindowParameter(name=name, number=value)
            for name, value in output.parameters
        ],
    )


def _output(message: pb.WindowOutput) -> WindowOutput:
    return WindowOutput(
        function=message.function,
        input=message.input,
        window_us=message.window_us if message.HasField("window_us") else None,
        delay_us=message.delay_us,
        hop_us=message.hop_us,
        parameters=tuple(
            (p.name, p.integer if p.HasField("integer") else p.number) for p in message.parameters
        ),
    )
