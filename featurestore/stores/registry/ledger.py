"""The ledger of materialization runs: appended to, read whole, or asked for the newest run of each
table or view, which takes as long however many runs there were.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from featurestore.errors import InvalidRecord
from featurestore.records import LedgerRow
from featurestore.stores.registry import schema, writes

By = Literal["table", "view"]


def insert(connection: Connection, project: str, rows: Sequence[LedgerRow]) -> None:
    """Append runs. The same run twice is a no-op; another run under its id is `InvalidRecord`."""
    table = schema.materialization
    for row in rows:
        query = connection.execute(
            sa.select(table).where(table.c.project == project, table.c.run_id == row.run_id)
        )
        there = query.mappings().first()
        if there is None:
            values = {"project": project, **dataclasses.asdict(row)}
            connection.execute(sa.insert(table), values)
        elif _row(there) != row:
            raise InvalidRecord(f"The ledger has another run {row.run_id!r}; use a new run id")


def read(
    connection: Connection, project: str, *, table: str | None, view: str | None
) -> list[LedgerRow]:
    """The runs (of a table, of a view), oldest first."""
    runs = schema.materialization
    query = sa.select(runs).where(runs.c.project == project).order_by(runs.c.seq)
    if table is not None:
        query = query.where(runs.c.table == table)
    if view is not None:
        query = query.where(runs.c.view == view)
    return [_row(row) for row in connection.execute(query).mappings()]


def last(
    connection: Connection,
    project: str,
    by: By,
    names: Sequence[str],
    *,
    with_watermark: bool,
    at_us: int | None,
) -> dict[str, LedgerRow]:
    """The newest run of each of these tables or views that has one."""
    runs = schema.materialization
    query = _last(connection.dialect.name, by, with_watermark, at_us is not None)
    given = {"project": project} | ({} if at_us is None else {"at_us": at_us})
    found: dict[str, LedgerRow] = {}
    for some in writes.chunks(names):
        keys = connection.scalars(query, {**given, "names": json.dumps(list(some))})
        rows = connection.execute(sa.select(runs).where(runs.c.seq.in_(keys.all()))).mappings()
        found.update((row[by], _row(row)) for row in rows)
    return found


@lru_cache
def _last(dialect: str, by: By, with_watermark: bool, dated: bool) -> sa.Select[Any]:
    """The keys of those runs. Names come as one value, JSON, so that the statement stays the same;
    of each, the index is read from its end."""
    names = sa.bindparam("names", type_=sa.Text())
    if dialect == "postgresql":
        wanted = sa.func.json_array_elements_text(sa.cast(names, sa.JSON)).table_valued("value")
    else:
        wanted = sa.func.json_each(names).table_valued("value")
    runs = schema.materialization
    here = [runs.c.project == sa.bindparam("project"), runs.c[by] == wanted.c.value]
    here += [runs.c.watermark_us.is_not(None)] if with_watermark else []
    at_us = sa.bindparam("at_us", type_=sa.BigInteger())
    here += [runs.c.finished_at_us <= at_us] if dated else []
    newest = sa.select(runs.c.seq).where(*here).order_by(runs.c.seq.desc()).limit(1)
    key = newest.correlate(wanted).scalar_subquery().label("seq")
    keys = sa.select(key).select_from(wanted).subquery("keys")
    return sa.select(keys.c.seq).where(keys.c.seq.is_not(None))


def _row(row: Mapping[Any, Any]) -> LedgerRow:
    return LedgerRow(**{field.name: row[field.name] for field in dataclasses.fields(LedgerRow)})
