"""Which online table holds the rows of a view: records `online_table:<view>@…`, and the alias that
names the current one.

A table is one (view storage hash, generation). The first use of a storage hash makes generation 0;
`materialize --replace` fills the next one beside it and then moves the alias. A table that was
given up comes back as a new generation, never as the old one, whose rows may be gone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.compiler.changes import online_alias
from featurestore.compiler.online import field_id
from featurestore.errors import CommitConflict, CorruptPlan
from featurestore.jobs.environments import environment_aliases
from featurestore.records import AliasIs, Record
from featurestore.timeline import SECOND_US
from featurestore.wire.plans import ServingPlan

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedView
    from featurestore.records import Alias, StoredRecord
    from featurestore.stores.registry.base import Registry

ATTEMPTS_MAX = 32
"""How often a commit is tried anew while others move the same aliases."""
SERVED_LATELY_US = 60 * SECOND_US
"""How long rows that are no longer served stay for servers that have not seen it yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineTable:
    """An online table: its `field` below each entity key (8 bytes), and its record's id."""

    generation: int
    field: bytes
    record_id: str


def table_record(view: str, storage_hash: str, generation: int) -> Record:
    """The record of a table; without parents, for versions of a view may share it."""
    body = {
        "storage_hash": storage_hash,
        "generation": generation,
        "field": field_id(storage_hash, generation).hex(),
    }
    return Record(kind="online_table", name=view, body=body)


def online_tables(registry: Registry, views: Iterable[TypedView]) -> dict[str, OnlineTable]:
    """The current tables of those of `views` that have one, by storage hash."""
    aliases = registry.aliases("online/")
    wanted = {view.storage_hash: online_alias(view) for view in views}
    targets = {h: aliases[name].target for h, name in wanted.items() if name in aliases}
    by_id = {stored.id: stored for stored in registry.records(ids=sorted(targets.values()))}
    return {storage_hash: _table(by_id[target]) for storage_hash, target in targets.items()}


def current_tables(registry: Registry) -> dict[str, OnlineTable]:
    """The current tables of all views and environments, by alias."""
    aliases = registry.aliases("online/")
    by_id = {
        one.id: one for one in registry.records(ids=sorted({a.target for a in aliases.values()}))
    }
    return {name: _table(by_id[alias.target]) for name, alias in aliases.items()}


def ensure_online_tables(registry: Registry, views: Sequence[TypedView]) -> dict[str, OnlineTable]:
    """The same, after making the tables that are missing.

    Raises `CommitConflict` where others keep moving the same aliases.
    """
    for _ in range(ATTEMPTS_MAX - 1):
        with suppress(CommitConflict):
            return _ensure_once(registry, views)
    return _ensure_once(registry, views)


def add_generation(registry: Registry, view: TypedView) -> OnlineTable:
    """A new table beside those that the view's storage has, to be filled before its alias moves."""
    record = _next(registry.records(kind="online_table", name=view.name), view)
    registry.commit(records=[record], reason="new generation")
    return _table(registry.record(record.id))


def fields_in_use(registry: Registry) -> set[bytes]:
    """The fields that must stay: of current tables, of generations newer than those (they may be
    filled just now), and of all that the serving plans in force read."""
    by_id = {stored.id: _body(stored) for stored in registry.records(kind="online_table")}
    aliases = registry.aliases("online/")
    current = {by_id[a.target][0]: by_id[a.target][1] for a in aliases.values()}
    fields = {
        field_id(storage_hash, generation)
        for storage_hash, generation in by_id.values()
        if generation >= current.get(storage_hash, generation + 1)
    }
    for plan in plans_in_force(registry):
        fields |= {lookup.field for lookup in plan.lookups}
    return fields


def fields_lately_served(registry: Registry, *, since_us: int) -> set[bytes]:
    """The fields that serving plans read which were in force after `since_us` (µs) and no longer
    are: servers may still answer from them."""
    names = {stored.record.name for stored in registry.records(kind="serving_plan")}
    fields = set[bytes]()
    for environment in environment_aliases(registry):
        for name in names:
            moves = registry.history(f"serving/{environment}/{name}")
            replaced = [m.previous for m in moves if m.at_us > since_us and m.previous is not None]
            for stored in registry.records(ids=sorted(set(replaced))):
                # A plan that can't be read is served by nobody.
                with suppress(CorruptPlan):
                    plan = ServingPlan.from_bytes(registry.blob(str(stored.record.body["blob"])))
                    fields |= {lookup.field for lookup in plan.lookups}
    return fields


def drop_unused_tables(registry: Registry) -> list[str]:
    """Remove the aliases of tables that no environment's views and no serving plan need any more,
    so that a sweep frees their rows; returns the aliases removed.

    Raises `CommitConflict` where an environment moved meanwhile; try again later.
    """
    environments = environment_aliases(registry)
    online = registry.aliases("online/")
    serving = registry.aliases("serving/") | registry.aliases("pinned/")
    needed = {use.storage_hash for plan in plans_in_force(registry) for use in plan.lookups}
    for environment in environments.values():
        parents = registry.record(environment.target).record.parents
        ids = [edge.parent for edge in parents if edge.role == "view"]
        needed |= {stored.record.body["storage_hash"] for stored in registry.records(ids=ids)}
    tables = registry.records(ids=sorted({alias.target for alias in online.values()}))
    hashes = {stored.id: _body(stored)[0] for stored in tables}
    unused = [name for name, alias in online.items() if hashes[alias.target] not in needed]
    if unused:
        seen = [*environments.values(), *serving.values(), *(online[name] for name in unused)]
        registry.commit(
            requires=[AliasIs(alias.name, alias.target) for alias in seen],
            aliases=dict.fromkeys(unused),
            reason="no view needs them",
        )
    return unused


def plans_in_force(registry: Registry) -> list[ServingPlan]:
    """The serving plans of all environments that are in force, and those that are pinned.

    Raises `CorruptPlan`.
    """
    return _plans(registry, registry.aliases("serving/") | registry.aliases("pinned/"))


def pinned_plans(registry: Registry, environment: str) -> list[ServingPlan]:
    """The plans of service versions that models in use pin. Raises `CorruptPlan`."""
    return _plans(registry, registry.aliases(f"pinned/{environment}/"))


def serving_plans(registry: Registry, environment: str | None = None) -> dict[str, ServingPlan]:
    """The serving plans in force, by alias; of all environments by default.

    Raises `CorruptPlan`.
    """
    prefix = "serving/" if environment is None else f"serving/{environment}/"
    aliases = registry.aliases(prefix)
    return dict(zip(aliases, _plans(registry, aliases), strict=True))


def _plans(registry: Registry, aliases: Mapping[str, Alias]) -> list[ServingPlan]:
    """The plans that aliases point to, in their order."""
    ids = sorted({alias.target for alias in aliases.values()})
    blobs = {stored.id: str(stored.record.body["blob"]) for stored in registry.records(ids=ids)}
    found = {digest: registry.blob(digest) for digest in set(blobs.values())}
    plans = {digest: ServingPlan.from_bytes(data) for digest, data in found.items()}
    return [plans[blobs[alias.target]] for alias in aliases.values()]


def _ensure_once(registry: Registry, views: Sequence[TypedView]) -> dict[str, OnlineTable]:
    tables = online_tables(registry, views)
    missing = [view for view in views if view.storage_hash not in tables]
    if not missing:
        return tables
    there: dict[str, list[StoredRecord]] = defaultdict(list)
    for stored in registry.records(kind="online_table"):
        there[stored.record.name].append(stored)
    records = {online_alias(view): _next(there[view.name], view) for view in missing}
    registry.commit(
        requires=[AliasIs(alias, None) for alias in records],
        records=list(records.values()),
        aliases={alias: record.id for alias, record in records.items()},
        reason="new online tables",
    )
    return online_tables(registry, views)


def _next(there: Iterable[StoredRecord], view: TypedView) -> Record:
    """The record of the generation after all that there ever were of the view (`there`)."""
    bodies = map(_body, there)
    last = max((g for storage_hash, g in bodies if storage_hash == view.storage_hash), default=-1)
    return table_record(view.name, view.storage_hash, last + 1)


def _body(stored: StoredRecord) -> tuple[str, int]:
    body: Mapping[str, object] = stored.record.body
    return str(body["storage_hash"]), int(str(body["generation"]))


def _table(stored: StoredRecord) -> OnlineTable:
    storage_hash, generation = _body(stored)
    return OnlineTable(
        generation=generation,
        field=field_id(storage_hash, generation),
        record_id=stored.id,
    )
