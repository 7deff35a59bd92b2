"""Training sets: an entity frame's keys and times, and the features that were known then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from featurestore.compiler.derived import Derived, LaterStep, derived, step_column
from featurestore.compiler.program import Program, program_of
from featurestore.compiler.rel import AsOfJoin, Derive, Input, Project, Rel, Stamped, WindowJoin
from featurestore.compiler.scans import Files, feature_column, view_rel
from featurestore.compiler.selection import output_names
from featurestore.compiler.typed import OnDemandUse, TypedRepo, Use, ViewUse
from featurestore.compiler.window_inputs import window_functions
from featurestore.definitions import expression as expressions
from featurestore.dtypes import INT32, INT64, TIMESTAMP, DType
from featurestore.errors import InvalidRequest, NameClash
from featurestore.statuses import Status

AsOf = Literal["known", "event"]
FRAME = "entity_frame"
"""The name of the `Input` that holds the frame's keys and times."""
TIME = "time"
"""Its column of request times, int64 µs."""
INSTANT = "instant"
"""Its column of request times as timestamps, where an expression asks for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameKey:
    """A key column of the `Input`: which column of the entity frame it is made of."""

    name: str
    column: str
    dtype: DType
    needed_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameInput:
    """A column of the `Input` that holds a request input: the frame's column of that name."""

    name: str
    column: str
    dtype: DType
    needed_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """What to run: `rel` yields one row per frame row, in order, with the columns `features` and
    then `statuses` (int32). `keys` and `inputs` say how the `Input` is made of the frame, `dtypes`
    which columns it has.

    Where Python has to compute something, `later` says what, from columns of `rel` and of steps
    before; `rel` then yields what they read (`TIME` among it), and `columns` name those that are
    the features and statuses, in order.

    Where values without a result are counted, a bool column for each of `counted` (`view:feature`)
    follows the statuses.
    """

    rel: Rel
    keys: tuple[FrameKey, ...]
    features: Mapping[str, DType]
    statuses: tuple[str, ...]
    dtypes: Mapping[str, DType]
    inputs: tuple[FrameInput, ...] = ()
    later: tuple[LaterStep, ...] = ()
    columns: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()


def status_column(use: str) -> str:
    """The output column that holds the status of a view's rows."""
    return f"{use}__status"


def compile_training(
    uses: Sequence[Use],
    frame_columns: Sequence[str],
    *,
    repo: TypedRepo,
    files: Files,
    as_of: AsOf = "known",
    known_until_us: int | None = None,
    full_feature_names: bool = False,
    include_status: bool = False,
    count_undefined: bool = False,
) -> TrainingSet:
    """The training set of `uses` for an entity frame with `frame_columns`; `count_undefined` adds
    where a value that is computed on demand is NULL for want of a result.

    Raises `NameClash` where two output columns would have one name, `InvalidRequest` for an
    unknown `as_of`.
    """
    if as_of not in ("known", "event"):
        raise InvalidRequest(f'as_of is "known" or "event", not {as_of!r}')
    names = output_names(uses, full_feature_names=full_feature_names, taken=frame_columns)
    statuses = tuple(status_column(use.name) for use in uses) if include_status else ()
    _check_statuses(statuses, [*frame_columns, *names.values()])
    program = program_of(uses)
    cells = _cells(program, names)
    keys = _frame_keys(program.joined)
    inputs = tuple(
        FrameInput(name=f"request:{r.name}", column=r.name, dtype=r.dtype, needed_by=r.needed_by)
        for r in program.requests
    )
    dtypes = {key.name: key.dtype for key in keys.values()} | {TIME: INT64}
    dtypes |= {one.name: one.dtype for one in inputs}
    if any(step.asks_time for step in program.steps):
        dtypes[INSTANT] = TIMESTAMP
    rel: Rel = Input(name=FRAME, dtypes=dtypes)
    # Windows stand above all as-of joins, which are found side by side only next to each other.
    numbered = sorted(enumerate(program.joined), key=lambda one: one[1].view.is_windowed)
    for index, use in numbered:
        outputs = {f.name: cells[index, f.name] for f in use.features}
        join = _window_join if use.view.is_windowed else _as_of_join
        rel = join(
            rel,
            use,
            outputs,
            right=view_rel(use.view, repo, files, features=use.features),
            keys={
                keys[column].name: key.name
                for key, column in zip(use.view.keys, use.key_columns, strict=True)
            },
            as_of=as_of,
            known_until_us=known_until_us,
        )
    features = {names[use.name, f.name]: f.dtype for use in uses for f in use.features}
    wanted = {
        names[use.name, f.name]: step_column(index, f.name)
        if isinstance(use, OnDemandUse)
        else cells[index, f.name]
        for use, index in program.outputs
        for f in use.features
    }
    if include_status:
        wanted |= {status_column(use.name): _status(use.name) for use in uses}
        rel = _always_present(rel, uses)
    requests = {one.column: one.name for one in inputs}
    found = derived(rel, program, cells, requests, INSTANT, with_undefined=count_undefined)
    wanted |= found.undefined
    yielded = _yielded(found, wanted.values()) if found.later else wanted
    return TrainingSet(
        rel=Project(input=found.rel, columns=yielded),
        keys=tuple(keys.values()),
        inputs=inputs,
        features=features,
        statuses=statuses,
        dtypes=dtypes,
        later=found.later,
        columns=tuple(wanted.values()),
        counted=tuple(found.undefined),
    )


def _as_of_join(
    left: Rel,
    use: ViewUse,
    outputs: Mapping[str, str],
    *,
    right: Stamped,
    keys: Mapping[str, str],
    as_of: AsOf,
    known_until_us: int | None,
) -> Rel:
    return AsOfJoin(
        left=left,
        right=right,
        keys=keys,
        left_time=TIME,
        columns={out: feature_column(feature) for feature, out in outputs.items()},
        status=_status(use.name),
        as_of=as_of,
        known_until_us=known_until_us,
        ttl_us=use.view.ttl_us,
        grace_us=use.view.grace_us,
    )


def _window_join(
    left: Rel,
    use: ViewUse,
    outputs: Mapping[str, str],
    *,
    right: Stamped,
    keys: Mapping[str, str],
    as_of: AsOf,
    known_until_us: int | None,
) -> Rel:
    view = use.view
    functions = window_functions(view)
    return WindowJoin(
        left=left,
        right=right,
        keys=keys,
        left_time=TIME,
        functions={out: functions[feature] for feature, out in outputs.items()},
        status=_status(use.name),
        as_of=as_of,
        known_until_us=known_until_us,
        event_id=view.source.definition.event_id,
        correction_horizon_us=view.correction_horizon_us,
        reach_us=view.reach_us,
    )


def _yielded(found: Derived, wanted: Iterable[str]) -> dict[str, str]:
    """What the engine yields where Python goes on: what is asked for, and what the steps read."""
    read = dict.fromkeys((TIME, *wanted, *(c for step in found.later for c in step.arguments)))
    made = {column for step in found.later for column in step.columns}
    return {column: column for column in read if column not in made}


def _always_present(rel: Rel, uses: Sequence[Use]) -> Rel:
    """On-demand views have a value whatever their inputs are, be it NULL."""
    there = expressions.Cast(expressions.Literal(int(Status.PRESENT), INT64), INT32)
    columns = {_status(use.name): (there, INT32) for use in uses if isinstance(use, OnDemandUse)}
    return Derive(input=rel, columns=columns) if columns else rel


def _cells(program: Program, names: Mapping[tuple[str, str], str]) -> dict[tuple[int, str], str]:
    """For each feature of each joined view its column, beside the frame's keys, which may have the
    name that it has in the output."""
    found = {
        (index, feature.name): f"in:{use.name}:{feature.name}"
        for index, use in enumerate(program.joined)
        for feature in use.features
    }
    for use, index in program.outputs:
        if isinstance(use, ViewUse):
            found |= {(index, f.name): f"out:{names[use.name, f.name]}" for f in use.features}
    return found


def _status(use: str) -> str:
    return f"status:{use}"


def _frame_keys(uses: Sequence[ViewUse]) -> dict[str, FrameKey]:
    """The frame's key columns by name. Each has one type: `select` has seen to that."""
    found: dict[str, FrameKey] = {}
    for use in uses:
        for key, column in zip(use.view.keys, use.key_columns, strict=True):
            name = f"key:{column}"
            frame_key = FrameKey(name=name, column=column, dtype=key.dtype, needed_by=use.name)
            found.setdefault(column, frame_key)
    return found


def _check_statuses(statuses: Sequence[str], taken: Sequence[str]) -> None:
    used = {name.casefold() for name in taken}
    clashes = [name for name in statuses if name.casefold() in used]
    if clashes:
        hint = 'Leave include_status out, or give the view another name with view.with_name("…").'
        raise NameClash(clashes, hint=hint)
