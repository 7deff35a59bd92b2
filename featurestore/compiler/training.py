"""Training sets: an entity frame's keys and times, and the features that were known then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from featurestore.compiler.rel import AsOfJoin, Input, Project, Rel, Stamped, WindowJoin
from featurestore.compiler.scans import Files, feature_column, view_rel
from featurestore.compiler.selection import output_names
from featurestore.compiler.typed import TypedRepo, ViewUse
from featurestore.compiler.window_inputs import window_functions
from featurestore.dtypes import INT64, DType
from featurestore.errors import InvalidRequest, NameClash

AsOf = Literal["known", "event"]
FRAME = "entity_frame"
"""The name of the `Input` that holds the frame's keys and times."""
TIME = "time"
"""Its column of request times, int64 µs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameKey:
    """A key column of the `Input`: which column of the entity frame it is made of."""

    name: str
    column: str
    dtype: DType
    needed_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """What to run: `rel` yields one row per frame row, in order, with the columns `features` and
    then `statuses` (int32). `keys` say how the `Input` is made of the frame."""

    rel: Rel
    keys: tuple[FrameKey, ...]
    features: Mapping[str, DType]
    statuses: tuple[str, ...]


def status_column(use: str) -> str:
    """The output column that holds the status of a view's rows."""
    return f"{use}__status"


def compile_training(
    uses: Sequence[ViewUse],
    frame_columns: Sequence[str],
    *,
    repo: TypedRepo,
    files: Files,
    as_of: AsOf = "known",
    known_until_us: int | None = None,
    full_feature_names: bool = False,
    include_status: bool = False,
) -> TrainingSet:
    """The training set of `uses` for an entity frame with `frame_columns`.

    Raises `NameClash` where two output columns would have one name, `InvalidRequest` for an
    unknown `as_of`.
    """
    if as_of not in ("known", "event"):
        raise InvalidRequest(f'as_of is "known" or "event", not {as_of!r}')
    names = output_names(uses, full_feature_names=full_feature_names, taken=frame_columns)
    statuses = tuple(status_column(use.name) for use in uses) if include_status else ()
    _check_statuses(statuses, [*frame_columns, *names.values()])
    keys = _frame_keys(uses)
    dtypes = {key.name: key.dtype for key in keys.values()} | {TIME: INT64}
    rel: Rel = Input(name=FRAME, dtypes=dtypes)
    # Windows stand above all as-of joins, which are found side by side only next to each other.
    for use in sorted(uses, key=lambda use: use.view.is_windowed):
        outputs = {f.name: _inner(names[use.name, f.name]) for f in use.features}
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
    wanted = {name: _inner(name) for name in features}
    if include_status:
        wanted |= {status_column(use.name): _status(use.name) for use in uses}
    return TrainingSet(
        rel=Project(input=rel, columns=wanted),
        keys=tuple(keys.values()),
        features=features,
        statuses=statuses,
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


def _inner(name: str) -> str:
    """An output column while it stands beside the frame's keys, which may have its name."""
    return f"out:{name}"


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
