"""Training sets without an entity frame: every key, at every instant at which its answer changed.

For `[start, end)` these are the instants at which another row became the winner of one of the
views, tombstones included. By known time a row becomes the winner when it is known, unless a row
with a later event time was known before it; by event time every new event time has a new winner.
A value that expires changes at no row's instant, and a repetition of a row changes nothing.

A windowed view answers something else whenever a row enters one of the windows asked for (which it
does when it is known, and older than the delay), leaves it (on a hop), or is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from featurestore.compiler.rel import (
    CREATED_US,
    EVENT_US,
    Project,
    Rel,
    Sql,
    Stamped,
    WindowChanges,
)
from featurestore.compiler.scans import Files, view_rel
from featurestore.compiler.training import AsOf
from featurestore.compiler.typed import TypedRepo, ViewUse
from featurestore.compiler.window_inputs import window_functions
from featurestore.dtypes import INT64, DType
from featurestore.errors import InvalidRequest
from featurestore.timeline import format_instant

AT = "instant_us"
"""The column of instants, int64 µs."""
CHANGES_MAX = 10_000_000
"""Rows of an answer of windowed views: a row of a source moves in and out of each of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The instants `[start_us, end_us)`; None is open."""

    start_us: int | None = None
    end_us: int | None = None

    def __post_init__(self) -> None:
        if self.start_us is None or self.end_us is None or self.start_us < self.end_us:
            return
        raise InvalidRequest(
            f"the span {format_instant(self.start_us)} to {format_instant(self.end_us)} is empty "
            "(it holds its start and not its end)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """`rel` yields each (key, instant) once, by instant and then by key: the keys as `k0`, `k1`, …
    and `AT`. `keys` are the entity columns that they stand for, with their types. More rows than
    `rows_max` (None: any number) are refused."""

    rel: Rel
    keys: Mapping[str, DType]
    rows_max: int | None = None


def compile_changes(
    uses: Sequence[ViewUse],
    span: Span,
    *,
    repo: TypedRepo,
    files: Files,
    as_of: AsOf = "known",
    known_until_us: int | None = None,
    with_status: bool = False,
) -> Changes:
    """When the answers of `uses` changed; `with_status`, also when a windowed view's status alone
    did. Raises `InvalidRequest` where their keys are not the same columns."""
    keys = _common_keys(uses)
    inner = {f"k{number}": dtype for number, dtype in enumerate(keys.values())}
    listed = ", ".join([*inner, AT])
    inputs: dict[str, Rel] = {}
    texts = []
    for number, use in enumerate(uses):
        by_column = dict(zip(use.key_columns, (key.name for key in use.view.keys), strict=True))
        columns = {f"k{n}": by_column[column] for n, column in enumerate(keys)}
        rows = view_rel(use.view, repo, files, features=())
        if use.view.is_windowed:
            inputs[f"v{number}"] = _moves(
                use,
                rows,
                columns,
                span=span,
                as_of=as_of,
                known_until_us=known_until_us,
                with_status=with_status,
            )
            texts.append(f"SELECT {listed} FROM v{number}")
        else:
            inputs[f"v{number}"] = _times(rows, columns)
            texts.append(_winners(f"v{number}", list(inner), span, as_of, known_until_us))
    return Changes(
        rel=Sql(
            query=f"{' UNION '.join(texts)} ORDER BY {', '.join([AT, *inner])}",
            inputs=inputs,
            dtypes={**inner, AT: INT64},
        ),
        keys=keys,
        rows_max=CHANGES_MAX if any(use.view.is_windowed for use in uses) else None,
    )


def _common_keys(uses: Sequence[ViewUse]) -> dict[str, DType]:
    first = uses[0]
    for use in uses:
        if set(use.key_columns) != set(first.key_columns):
            raise InvalidRequest(
                f"Without an entity frame all views must have the same keys, but {first.name} has "
                f"({', '.join(first.key_columns)}) and {use.name} ({', '.join(use.key_columns)}). "
                "Ask for them one by one, rename keys with .with_join_key_map({…}), or give an "
                "entity_df with all keys"
            )
    dtypes = (key.dtype for key in first.view.keys)
    return dict(zip(first.key_columns, dtypes, strict=True))


def _moves(
    use: ViewUse,
    rows: Stamped,
    keys: Mapping[str, str],
    *,
    span: Span,
    as_of: AsOf,
    known_until_us: int | None,
    with_status: bool,
) -> WindowChanges:
    view = use.view
    functions = window_functions(view)
    return WindowChanges(
        right=rows,
        keys=keys,
        functions={feature.name: functions[feature.name] for feature in use.features},
        at=AT,
        start_us=span.start_us,
        end_us=span.end_us,
        with_status=with_status,
        as_of=as_of,
        known_until_us=known_until_us,
        event_id=view.source.definition.event_id,
        correction_horizon_us=view.correction_horizon_us,
        reach_us=view.reach_us,
    )


def _times(rows: Stamped, keys: Mapping[str, str]) -> Rel:
    return Project(input=rows, columns={**keys, "e": EVENT_US, "c": CREATED_US})


def _winners(
    table: str, keys: Sequence[str], span: Span, as_of: AsOf, known_until_us: int | None
) -> str:
    """Keys and instants at which a row of `table` became the winner. Rows before the span take
    part, for a row that comes late may find a younger one there."""
    listed = "".join(f"{key}, " for key in keys)
    known = "CASE WHEN c > e THEN c ELSE e END"
    at = known if as_of == "known" else "e"
    bounds = [f"{known} <= {known_until_us}"] if known_until_us is not None else []
    if span.end_us is not None:
        bounds.append(f"{at} < {span.end_us}")
    where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
    by = f"PARTITION BY {listed[:-2]} " if keys else ""
    newest = f"max(e) OVER ({by}ORDER BY {at})"
    inner = f"SELECT {listed}e, {at} AS {AT}, {newest} AS newest FROM {table}{where}"
    conditions = ["e = newest"]
    if span.start_us is not None:
        conditions.append(f"{AT} >= {span.start_us}")
    return f"SELECT DISTINCT {listed}{AT} FROM ({inner}) AS r WHERE {' AND '.join(conditions)}"
