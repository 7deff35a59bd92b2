"""Which online store the ledger speaks of.

A store carries an id, made when something is first written to it. The ledger's rows name the table
*in that store*, so a watermark is never believed about another store (the URL changed) or about one
that was wiped: it starts from nothing, as a new store does.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from featurestore.compiler.materialization import TableState, table_state
from featurestore.dtypes import STRING
from featurestore.errors import CommitConflict, InvalidSettings, StoreError
from featurestore.records import AliasIs, LedgerRow, Record
from featurestore.stores.online.base import FIELD_BYTES, KeyFields, RowBatch
from featurestore.wire.keys import key_prefix
from featurestore.wire.rows import RowLayout, encode_rows, row_decoder

if TYPE_CHECKING:
    from featurestore.stores.online.base import OnlineStore
    from featurestore.stores.registry.base import Registry

# No entity can have this name, so no lookup ever reads the key.
KEY_SPACE = "@store"
FIELD = bytes(FIELD_BYTES)
ID_DIGITS = 16
ATTEMPTS_MAX = 8
"""How often the id is noted anew while others note one for the same environment."""
_LAYOUT = RowLayout((("id", STRING),), 0)


def identify(store: OnlineStore, registry: Registry, *, project: str, environment: str) -> str:
    """The store's id (16 hex digits), given to it now if it has none, and noted as the one that
    `environment` serves from. Raises `StoreUnavailable`, `CommitConflict`."""
    found = _read(store, project)
    if found is None:
        _write(store, project, uuid.uuid4().hex[:ID_DIGITS])
        found = _read(store, project) or ""
    _note(registry, environment, found)
    return found


def adopt(
    open_store: Callable[[], OnlineStore], registry: Registry, *, project: str, environment: str
) -> None:
    """Note the store that `environment` serves from, where none is noted yet and another
    environment has filled it: what lies there already is then served without being written again.
    A store that can't be asked from here is noted by the first materialization."""
    noted = registry.aliases("store/")
    if not noted or _alias(environment) in noted:
        return
    with suppress(StoreError, InvalidSettings):
        found = _read(open_store(), project)
        if found is not None:
            _note(registry, environment, found)


def ledger_of(registry: Registry, environment: str, field: bytes) -> list[LedgerRow]:
    """The runs that wrote the table `field` of the store that the environment serves from."""
    name = _alias(environment)
    alias = registry.aliases(name).get(name)
    if alias is None:
        return []
    store_id = str(registry.record(alias.target).record.body["id"])
    return registry.ledger(table=table_name(store_id, field))


def table_states(
    registry: Registry, environment: str, fields: Iterable[bytes], *, at_us: int | None = None
) -> dict[bytes, TableState]:
    """What the ledger says (at `at_us`) of tables of the store that the environment serves from, by
    their fields. The registry is asked once; a table without runs has no watermark."""
    wanted = dict.fromkeys(fields, TableState())
    name = _alias(environment)
    alias = registry.aliases(name).get(name)
    if alias is None or not wanted:
        return wanted
    store_id = str(registry.record(alias.target).record.body["id"])
    names = {table_name(store_id, field): field for field in wanted}
    runs = registry.last_runs("table", list(names), with_watermark=True, at_us=at_us)
    return wanted | {names[table]: table_state([run]) for table, run in runs.items()}


def table_name(store_id: str, field: bytes) -> str:
    """How the ledger names a table: the store's id and the field, both in hex digits."""
    return f"{store_id}/{field.hex()}"


def _read(store: OnlineStore, project: str) -> str | None:
    ((row,),) = store.read([KeyFields(key_prefix(project, KEY_SPACE), (FIELD,))])
    return None if row is None else str(row_decoder(_LAYOUT)(row)[0][0])


def _write(store: OnlineStore, project: str, store_id: str) -> None:
    """Of two writers at once the first one wins: the other's row is a tie, and is left alone."""
    import pyarrow as pa

    zero = pa.array([0], pa.int64())
    rows = encode_rows(_LAYOUT, zero, zero, [pa.array([store_id])])
    store.write(RowBatch(field=FIELD, keys=[key_prefix(project, KEY_SPACE)], rows=rows))


def _note(registry: Registry, environment: str, store_id: str) -> None:
    """Two first runs at once note the same id; the one that comes second finds it there."""
    record = Record(kind="online_store", name=environment, body={"id": store_id})
    name = _alias(environment)
    for attempts_left in reversed(range(ATTEMPTS_MAX)):
        noted = registry.aliases(name).get(name)
        if noted is not None and noted.target == record.id:
            return
        try:
            registry.commit(
                requires=[AliasIs(name, None if noted is None else noted.target)],
                records=[record],
                aliases={name: record.id},
                reason="serve from this store",
            )
        except CommitConflict:
            if not attempts_left:
                raise


def _alias(environment: str) -> str:
    return f"store/{environment}"
