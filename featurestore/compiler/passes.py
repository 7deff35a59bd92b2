"""Rewrites that keep the meaning of a relation: pure functions, run in the order of `PASSES`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import assert_never

from featurestore.compiler.rel import (
    AsOfJoin,
    Derive,
    Filter,
    Input,
    Latest,
    Limit,
    Project,
    Rel,
    Scan,
    Sql,
    Stamped,
    Union,
    WindowChanges,
    WindowJoin,
)
from featurestore.definitions.expression import columns_of


def prune(rel: Rel) -> Rel:
    """Scans read, and nodes derive, only the columns that something above them needs.

    The schema of the result is that of `rel`.
    """
    pruned = _prune(rel, rel.schema)
    if list(pruned.schema) == list(rel.schema):
        return pruned
    return Project(input=pruned, columns={name: name for name in rel.schema})


def _prune(rel: Rel, needed: Collection[str]) -> Rel:  # noqa: PLR0911 - one per node
    """`rel` with at least the columns `needed`, in their order of before."""
    match rel:
        case Scan():
            return _prune_scan(rel, needed)
        case Input():
            return rel
        case Sql():
            return replace(rel, inputs={name: prune(inner) for name, inner in rel.inputs.items()})
        case Filter():
            used = {*needed, *columns_of(rel.predicate)}
            return replace(rel, input=_prune(rel.input, used))
        case Project():
            columns = {out: name for out, name in rel.columns.items() if out in needed}
            return replace(rel, columns=columns, input=_prune(rel.input, set(columns.values())))
        case Derive():
            return _prune_derive(rel, needed)
        case Stamped():
            return _prune_stamped(rel, needed)
        case Latest():
            return replace(rel, input=_prune_stamped(rel.input, needed))
        case AsOfJoin():
            return _prune_join(rel, needed)
        case WindowJoin():
            return _prune_windows(rel, needed)
        case WindowChanges():
            return replace(rel, right=_prune_window_rows(rel))
        case Union():
            return replace(rel, inputs=tuple(_exactly(i, needed) for i in rel.inputs))
        case Limit():
            return replace(rel, input=_prune(rel.input, needed))
        case _:
            assert_never(rel)


def _prune_scan(rel: Scan, needed: Collection[str]) -> Scan:
    # One column stays where none is needed: its rows still count.
    kept = [name for name in rel.columns if name in needed] or list(rel.columns)[:1]
    return replace(
        rel,
        columns={name: rel.columns[name] for name in kept},
        dtypes={name: rel.dtypes[name] for name in kept},
    )


def _prune_derive(rel: Derive, needed: Collection[str]) -> Derive:
    columns = {name: column for name, column in rel.columns.items() if name in needed}
    used = {name for expression, _ in columns.values() for name in columns_of(expression)}
    return replace(rel, columns=columns, input=_prune(rel.input, {*needed, *used}))


def _prune_stamped(rel: Stamped, needed: Collection[str]) -> Stamped:
    settled = (rel.event_time, rel.created_time, rel.op)
    own = {*rel.keys, *rel.tiebreak, *(name for name in settled if name is not None)}
    return replace(rel, input=_prune(rel.input, {*needed, *own}))


def _prune_join(rel: AsOfJoin, needed: Collection[str]) -> AsOfJoin:
    columns = {out: name for out, name in rel.columns.items() if out in needed}
    left = {*needed, *rel.keys, rel.left_time}
    right = _prune_stamped(rel.right, set(columns.values()))
    return replace(rel, left=_prune(rel.left, left), right=right, columns=columns)


def _prune_windows(rel: WindowJoin, needed: Collection[str]) -> WindowJoin:
    functions = {out: f for out, f in rel.functions.items() if out in needed}
    left = {*needed, *rel.keys, rel.left_time}
    found = replace(rel, left=_prune(rel.left, left), functions=functions)
    return replace(found, right=_prune_window_rows(found))


def _prune_window_rows(rel: WindowJoin | WindowChanges) -> Stamped:
    functions = rel.functions.values()
    read = {name for f in functions for name in (f.value, f.condition, f.bucket)}
    return _prune_stamped(rel.right, {n for n in (*read, rel.event_id) if n is not None})


def _exactly(rel: Rel, needed: Collection[str]) -> Rel:
    pruned = _prune(rel, needed)
    wanted = [name for name in rel.schema if name in needed]
    if list(pruned.schema) == wanted:
        return pruned
    return Project(input=pruned, columns={name: name for name in wanted})


PASSES: tuple[Callable[[Rel], Rel], ...] = (prune,)


def run_passes(rel: Rel) -> Rel:
    """`rel` after all passes."""
    for rewrite in PASSES:
        rel = rewrite(rel)
    return rel
