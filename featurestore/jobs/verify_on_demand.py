"""`verify` of on-demand views: the same comparison, as far as it can be made.

What a request would bring nobody knows, so a view that reads request inputs, over whatever way, is
named and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore.compiler.program import program_of
from featurestore.compiler.selection import named
from featurestore.dtypes import to_arrow
from featurestore.errors import CorruptRow, UnknownFeature, UnknownView
from featurestore.jobs.training import retrieve
from featurestore.wire.columns import python_values

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedOnDemandView, TypedView, ViewUse
    from featurestore.jobs.materialize import Context
    from featurestore.wire.response import OnlineResponse

TIME_COLUMN = "verified_at"

ReadOnline = Callable[[Sequence[str], Sequence[Mapping[str, Any]], int], "OnlineResponse"]
Sample = Callable[["TypedView"], pa.Table]
"""Keys of a view, under the names of its join keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What came of one view: `unequal` are (row of `keys`, feature, offline, online), the answers
    each a value and a status. `note` says why nothing was compared, if so."""

    keys: pa.Table | None = None
    values: int = 0
    unequal: tuple[tuple[int, str, tuple[Any, str], tuple[Any, str]], ...] = ()
    watermark_us: int | None = None
    note: str = ""


def compare(
    context: Context,
    view: TypedOnDemandView,
    *,
    read_online: ReadOnline,
    sample: Sample,
    watermarks: Mapping[str, int | None],
    same: Callable[[Any, Any], bool],
    now_us: int,
) -> Compared:
    """Both paths for sampled keys at `now_us`; `watermarks` are those of stored views, by name,
    and `same` says whether two values count as one."""
    program = program_of([named(view, view.features)])
    if program.requests:
        listed = ", ".join(one.name for one in program.requests)
        return Compared(note=f"not compared: what requests bring ({listed}) is not known here")
    known = {watermarks.get(use.view.name) for use in program.joined}
    if None in known:
        return Compared(note="not materialized")
    if len(known) > 1:
        return Compared(
            note="not compared: its inputs were materialized at different times; run materialize"
        )
    (until_us,) = known or {now_us}
    keys = _keys(program.joined, sample)
    refs = [f"{view.name}:{feature.name}" for feature in view.features]
    count = keys.num_rows * len(refs)
    try:
        response = read_online(refs, keys.to_pylist(), now_us)
    except (CorruptRow, UnknownView, UnknownFeature) as error:
        return Compared(keys=keys, values=count, watermark_us=until_us, note=str(error))
    offline = _offline(context, keys, refs, until_us, now_us)
    values, statuses = response.to_dict(), response.statuses
    unequal = []
    for feature in view.features:
        column = f"{view.name}__{feature.name}"
        for row, value in enumerate(offline[column]):
            there = (value, "NULL_VALUE" if value is None else "PRESENT")
            here = (values[column][row], statuses[column][row])
            if there[1] != here[1] or not same(there[0], here[0]):
                unequal.append((row, feature.name, there, here))
    return Compared(keys=keys, values=count, unequal=tuple(unequal), watermark_us=until_us)


def _keys(joined: Sequence[ViewUse], sample: Sample) -> pa.Table:
    """One column per key column of the caller: keys of each input, side by side as they come, the
    fewer of them again and again."""
    columns: dict[str, tuple[pa.DataType, list[Any]]] = {}
    for use in joined:
        if not use.key_columns or all(column in columns for column in use.key_columns):
            continue
        found = sample(use.view)
        for column, key in zip(use.key_columns, use.view.keys, strict=True):
            columns.setdefault(column, (to_arrow(key.dtype), found.column(key.name).to_pylist()))
    if any(not values for _, values in columns.values()):
        return pa.table({name: pa.array([], kind) for name, (kind, _) in columns.items()})
    rows = max((len(values) for _, values in columns.values()), default=1)
    if not columns:
        return pa.table({"one row": [True]}).select([])
    return pa.table(
        {
            name: pa.array([values[row % len(values)] for row in range(rows)], kind)
            for name, (kind, values) in columns.items()
        }
    )


def _offline(
    context: Context, keys: pa.Table, refs: Sequence[str], until_us: int | None, now_us: int
) -> dict[str, list[Any]]:
    now = pa.array([now_us] * keys.num_rows, pa.timestamp("us", tz="UTC"))
    job = retrieve(
        keys.append_column(TIME_COLUMN, now),
        list(refs),
        repo=context.repo,
        root=context.root,
        offline=context.offline,
        engine=context.engine,
        known_until_us=until_us,
        full_feature_names=True,
        event_timestamp=TIME_COLUMN,
    )
    table = job.to_arrow()
    return {name: python_values(table.column(name)) for name in job.features}
