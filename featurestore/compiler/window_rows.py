"""The rows that windows are made of: keys, times, id, and for each input of the view's aggregations
whether a row counts and what it brings in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurestore.aggregates import bucketed
from featurestore.compiler.rel import (
    ARRIVED,
    CREATED_US,
    DELETED,
    EVENT_US,
    Project,
    Sql,
)
from featurestore.compiler.scans import Files, view_rel
from featurestore.compiler.window_inputs import version_order, window_inputs
from featurestore.dtypes import INT32, INT64, DType
from featurestore.wire.plans import row_tag
from featurestore.wire.window_layout import WindowInput, WindowLayout, WindowOutput

if TYPE_CHECKING:
    from featurestore.compiler.materialization import Selection
    from featurestore.compiler.typed import TypedAggregation, TypedRepo, TypedView

EVENT_ID = "__event_id"


def input_column(n: int) -> str:
    """The column that holds the values of input `n`."""
    return f"input:{n}"


def counts_column(n: int) -> str:
    """The column that says which rows count for input `n`, where it has a condition."""
    return f"counts:{n}"


def bucket_column(n: int) -> str:
    """The column that holds the buckets of input `n`, where it has some."""
    return f"bucket:{n}"


def tie_column(n: int) -> str:
    """The column that holds column `n` of the view's `version_order`."""
    return f"tie:{n}"


def window_layout(view: TypedView) -> WindowLayout:
    """How the states of a windowed view lie."""
    read = _read(view)
    inputs = [read[index] for index in _inputs(view)]
    dtypes = dict(zip(read, map(_input_dtype, view.aggregations), strict=True))
    return WindowLayout(
        inputs=tuple(WindowInput(dtypes[one]) for one in inputs),
        outputs=tuple(
            WindowOutput(
                function=one.function,
                input=inputs.index(columns),
                window_us=one.window_us,
                delay_us=one.delay_us,
                hop_us=one.hop_us,
                parameters=tuple(sorted(one.parameters.items())),
            )
            for one, columns in zip(view.aggregations, read, strict=True)
        ),
        dtypes=tuple(one.dtype for one in view.aggregations),
        tag=row_tag(view.storage_hash),
        view=view.name,
        id_dtype=_id_dtype(view),
        correction_horizon_us=view.correction_horizon_us,
    )


def window_rel(
    view: TypedView,
    repo: TypedRepo,
    files: Files,
    *,
    with_arrival: bool = False,
    pushed: str | None = None,
) -> Project:
    """The rows of a windowed view, as its states are made of them: of its source, or those of the
    `Input` that `pushed` names (see `view_rel`). What was deleted is left out. `with_arrival` adds
    `ARRIVED` where there is a push log."""
    rows = view_rel(view, repo, files, with_arrival=with_arrival, pushed=pushed)
    columns = {key.name: key.name for key in view.keys}
    event_id = view.source.definition.event_id
    if event_id is not None:
        columns[EVENT_ID] = event_id
        columns |= {tie_column(n): name for n, name in enumerate(version_order(view))}
    inputs = window_inputs(view)
    for n, index in enumerate(_inputs(view)):
        value, condition = inputs.values[index], inputs.conditions[index]
        columns |= {} if value is None else {input_column(n): value}
        columns |= {} if condition is None else {counts_column(n): condition}
        bucket = inputs.buckets[index]
        columns |= {} if bucket is None else {bucket_column(n): bucket}
    columns |= {name: name for name in (EVENT_US, CREATED_US, DELETED)}
    if with_arrival and ARRIVED in rows.schema:
        columns[ARRIVED] = ARRIVED
    return Project(input=rows, columns=columns)


def rebuilt_rows(
    view: TypedView, rows: Project, selection: Selection, *, from_us: int | None
) -> Sql:
    """What the states of the keys that a selection touches are made of, ordered by key: all their
    rows known by its end, as far as they can be in a window that begins at `from_us` or later
    (None: all). A row that was pushed touches its key when it arrives, too: it may have been known
    long before."""
    known = f"greatest({EVENT_US}, {CREATED_US})"
    keys = [_quoted(key.name) for key in view.keys]
    conditions = [f"{known} <= {selection.known_until_us}"]
    if EVENT_ID in rows.schema:
        conditions.append(f"{EVENT_ID} IS NOT NULL")
    touching = [*conditions]
    if selection.known_after_us is not None:
        news = f"{known} > {selection.known_after_us}"
        if ARRIVED in rows.schema:
            news = f"({news} OR epoch_us({ARRIVED}) > {selection.known_after_us})"
        touching.append(news)
    if selection.event_from_us is not None:
        touching.append(f"{EVENT_US} >= {selection.event_from_us}")
    if selection.event_to_us is not None:
        touching.append(f"{EVENT_US} < {selection.event_to_us}")
    if len(touching) > len(conditions) + (selection.event_from_us is not None):
        of_key = "".join(f" AND t.{key} = r.{key}" for key in keys)
        conditions.append(f"EXISTS (SELECT 1 FROM rows t WHERE {' AND '.join(touching)}{of_key})")
    qualify = ""
    if from_us is not None and EVENT_ID in rows.schema:
        # All versions of an event decide together.
        of_event = ", ".join([*keys, EVENT_ID])
        qualify = f"QUALIFY max({known}) OVER (PARTITION BY {of_event}) >= {from_us}"
    elif from_us is not None:
        conditions.append(f"{EVENT_US} >= {from_us}")
    order = f"ORDER BY {', '.join(keys)}" if keys else ""
    query = f"SELECT r.* FROM rows r WHERE {' AND '.join(conditions)} {qualify} {order}"
    return Sql(query=query, inputs={"rows": rows}, dtypes=rows.schema)


def _inputs(view: TypedView) -> list[int]:
    """For each input one aggregation that has it, by its index: those that agree in argument,
    condition and bucket share an input."""
    return sorted({columns: n for n, columns in reversed([*enumerate(_read(view))])}.values())


def _read(view: TypedView) -> list[tuple[str | None, ...]]:
    """The columns of each aggregation's argument, condition and bucket."""
    inputs = window_inputs(view)
    return list(zip(inputs.values, inputs.conditions, inputs.buckets, strict=True))


def _input_dtype(aggregation: TypedAggregation) -> DType | None:
    kept = _kept_dtype(aggregation)
    return kept if aggregation.by_dtype is None else bucketed(aggregation.by_dtype, kept)


def _kept_dtype(aggregation: TypedAggregation) -> DType | None:
    """The type of what events keep of an argument. Of lists nothing is: they are counted only."""
    dtype = aggregation.argument_dtype
    return None if dtype is None or dtype.item is not None else dtype


def _id_dtype(view: TypedView) -> DType | None:
    event_id = view.source.definition.event_id
    if event_id is None:
        return None
    dtype = view.source.dtype(event_id)
    return INT64 if dtype == INT32 else dtype


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
