"""Rows of a view that answers with the newest row of a key, into the online store.

What the batch side (`materialize`) and the stream side (`push`) have in common: which columns make
a stored row, how it is encoded, and who wins where two rows have the same times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from featurestore.compiler.online import row_tag
from featurestore.compiler.rel import (
    CREATED_US,
    DELETED,
    EVENT_US,
    Input,
    Latest,
    Project,
    Rel,
    Sql,
)
from featurestore.compiler.scans import (
    feature_column,
    undefined_column,
    undefined_conditions,
    view_rel,
)
from featurestore.dtypes import INT64, STRING
from featurestore.engines.sql import quote
from featurestore.errors import StoreUnavailable
from featurestore.stores.online.base import RowBatch, Tie
from featurestore.wire.keys import encode_keys, key_prefix
from featurestore.wire.rows import RowLayout, encode_rows

if TYPE_CHECKING:
    from featurestore.compiler.rel import DataFiles
    from featurestore.compiler.typed import TypedView
    from featurestore.jobs.materialize import Context

TIE_ROUNDS_MAX = 100
"""How often a tie is settled anew while other writers move the same row."""

Source = Callable[[], tuple[Mapping[str, "DataFiles"], int]]
"""The files of a view's source, and the instant (µs) up to which rows count as known."""


class RowWriter:
    """Writes the rows of `view` below the field of one online table. `source` is asked where a tie
    is to be settled."""

    def __init__(self, context: Context, view: TypedView, field: bytes, source: Source) -> None:
        self._context = context
        self._view = view
        self._field = field
        self._source = source
        self._prefix = key_prefix(context.repo.project, view.key_space)
        self._layout = RowLayout(
            tuple((feature.name, feature.dtype) for feature in view.features),
            row_tag(view.storage_hash),
        )

    def encode(self, batch: pa.RecordBatch) -> RowBatch:
        """The rows of `stored_rows` (or of the same columns) as they are stored."""
        keys = encode_keys([batch.column(key.name) for key in self._view.keys], self._prefix)
        rows = encode_rows(
            self._layout,
            batch.column(EVENT_US),
            batch.column(CREATED_US),
            [batch.column(feature_column(feature.name)) for feature in self._view.features],
            deleted=batch.column(DELETED),
        )
        reach = self._view.reach_us
        expire_at_us = None
        if reach is not None:
            expire_at_us = (batch.column(EVENT_US).to_numpy() + reach).tolist()
        return RowBatch(field=self._field, keys=keys, rows=rows, expire_at_us=expire_at_us)

    def write(self, batch: pa.RecordBatch, encoded: RowBatch) -> int:
        """Write a batch and what `encode` made of it; returns how many rows were news."""
        result = self._context.store.write(encoded)
        return result.written + self._settle(batch, result.ties)

    def _settle(self, batch: pa.RecordBatch, ties: Sequence[Tie]) -> int:
        """Rows whose times equal the stored ones but whose bytes differ: the source's `tiebreak`
        decides. The source is asked again for just these keys, because another run may have seen
        more of it than this one; compare-and-set keeps two such writers from crossing."""
        settled, store = 0, self._context.store
        for _ in range(TIE_ROUNDS_MAX):
            if not ties:
                return settled
            keys = batch.take([tie.index for tie in ties]).select([k.name for k in self._view.keys])
            files, now_us = self._source()
            newest = newest_rows(self._context, self._view, files, keys, known_until_us=now_us)
            if newest.num_rows == 0:
                return settled
            batch = newest.combine_chunks().to_batches()[0]
            wanted = self.encode(batch)
            result = store.write(wanted)
            crossed = []
            for tie in result.ties:
                expiry = wanted.expire_at_us
                swapped = store.replace(
                    wanted.field,
                    wanted.keys[tie.index],
                    expected=tie.stored,
                    row=wanted.rows[tie.index],
                    expire_at_us=None if expiry is None else expiry[tie.index],
                )
                settled += swapped
                crossed += [] if swapped else [tie]
            settled, ties = settled + result.written, crossed
        raise StoreUnavailable(
            f"{self._view.name}: other writers kept rewriting the same rows; run it again"
        )


def newest_rows(
    context: Context,
    view: TypedView,
    files: Mapping[str, DataFiles],
    keys: pa.RecordBatch,
    *,
    known_until_us: int,
) -> pa.Table:
    """The winning row, as the source has it, of each of `keys` (columns named as the view's join
    keys): keys, features, event and created time, deleted."""
    rows = view_rel(view, context.repo, files)
    latest = _stored_columns(view, Latest(input=rows, known_until_us=known_until_us))
    if not view.keys:
        return context.engine.stream(latest).read_all()
    wanted = Input(name="wanted_keys", dtypes={key.name: key.dtype for key in view.keys})
    matches = " AND ".join(f"l.{quote(k.name)} = w.{quote(k.name)}" for k in view.keys)
    query = f"SELECT l.* FROM latest l SEMI JOIN wanted w ON {matches}"
    rel = Sql(query=query, inputs={"latest": latest, "wanted": wanted}, dtypes=latest.schema)
    wanted_keys = pa.Table.from_batches([keys])
    return context.engine.stream(rel, inputs={"wanted_keys": wanted_keys}).read_all()


def _stored_columns(view: TypedView, latest: Latest) -> Project:
    """What a stored row is made of, and what is counted of it where the rows have that; the
    source's other columns need not be read."""
    keys = [key.name for key in view.keys]
    features = [feature_column(feature.name) for feature in view.features]
    counted = [name for name in counted_columns(view) if name in latest.schema]
    names = [*keys, *features, *counted, EVENT_US, CREATED_US, DELETED]
    return Project(input=latest, columns={name: name for name in names})


def counted_columns(view: TypedView) -> list[str]:
    """The columns, where there are, that say of which rows a feature is NULL for want of a
    result."""
    return [undefined_column(name) for name in undefined_conditions(view)]


def stored_rows(view: TypedView, latest: Latest, *, ordered: bool) -> Rel:
    """What a run reads: the columns that a stored row is made of, `ordered` by store key."""
    rel = _stored_columns(view, latest)
    order = []
    for place, key in enumerate(view.keys):
        if place < len(view.keys) - 1 and key.dtype != INT64:
            length = "strlen" if key.dtype == STRING else "octet_length"
            order.append(f"{length}({quote(key.name)})")
        order.append(quote(key.name))
    if not ordered or not order:
        return rel
    query = f"SELECT * FROM latest ORDER BY {', '.join(order)}"
    return Sql(query=query, inputs={"latest": rel}, dtypes=rel.schema)
