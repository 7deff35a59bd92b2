"""`blast`: what has seen a bad snapshot, or rows of a source within a bad interval."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidRequest
from featurestore.jobs.lineage import LEAVES, blast_of
from featurestore.jobs.lineage_refs import find
from featurestore.lifecycle.lineage import Blast, reached
from featurestore.records import Glance, Link, Transformation
from featurestore.timeline import format_instant

if TYPE_CHECKING:
    from featurestore.stores.registry.base import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A snapshot that holds, or may hold, bad rows; and why it is thought so."""

    id: str
    source: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BadData:
    """What has seen bad data: `blast` are the training sets that read one of `snapshots`, and the
    runs and models made of those. `maybe` read the source without a pin, so that it can't be told
    which of its rows they saw."""

    target: str
    from_us: int | None
    to_us: int | None
    at_us: int | None
    snapshots: tuple[Seen, ...] = ()
    blast: Blast = field(default_factory=Blast)
    maybe: Blast = field(default_factory=Blast)


def bad_data(
    registry: Registry,
    target: str,
    *,
    from_us: int | None = None,
    to_us: int | None = None,
    at_us: int | None = None,
) -> BadData:
    """What saw a snapshot (its id), or rows of a source with event times in `[from_us, to_us)`.

    A snapshot knows the least and the greatest event time of its rows; one that does not may hold
    any. SQL sources above are looked through: a snapshot of a source counts for what is read by a
    query over it, too. Raises `RecordNotFound`, `AmbiguousRecord`, `InvalidRequest` for anything
    else and for an empty interval.
    """
    with registry.session():
        return _bad_data(registry, target, from_us, to_us, at_us)


def _bad_data(
    registry: Registry, target: str, from_us: int | None, to_us: int | None, at_us: int | None
) -> BadData:
    asked = find(registry, target, at_us=at_us)
    if asked.column is not None or asked.kind not in ("snapshot", "source"):
        raise InvalidRequest(
            f"{target!r} is no snapshot and no source; blast asks who saw their rows"
        )
    if from_us is not None and to_us is not None and from_us >= to_us:
        raise InvalidRequest("the interval is empty: its end is not after its start")
    if asked.kind == "snapshot":
        snapshots, sources = list(asked.records), set[str]()
    else:
        sources = {stored.name for stored in asked.records}
        snapshots = [
            stored
            for name in sorted(sources)
            for stored in registry.glances(kind="snapshot", name=name, with_parents=False)
            if at_us is None or stored.created_at_us <= at_us
        ]
    seen = [found for stored in snapshots if (found := _seen(stored, from_us, to_us))]
    ids = [found.id for found in seen]
    how = _made_of(ids, _below(registry, ids, at_us)) if ids else {}
    loose = _loose(registry, asked.ids, sources, at_us) if sources else {}
    return BadData(
        target=target,
        from_us=from_us,
        to_us=to_us,
        at_us=at_us,
        snapshots=tuple(seen),
        blast=blast_of(registry, how, at_us=at_us),
        maybe=blast_of(registry, {i: h for i, h in loose.items() if i not in how}, at_us=at_us),
    )


def _seen(stored: Glance, from_us: int | None, to_us: int | None) -> Seen | None:
    body: Mapping[str, Any] = stored.body
    first, last = body.get("min_event_time_us"), body.get("max_event_time_us")
    if first is None or last is None:
        why = "the event times of its rows are not known"
    elif (to_us is not None and first >= to_us) or (from_us is not None and last < from_us):
        return None
    else:
        why = f"event times {format_instant(first)} to {format_instant(last)}"
    return Seen(id=stored.id, source=stored.name, why=why)


def _below(registry: Registry, ids: Sequence[str], at_us: int | None) -> list[Link]:
    """What leads from these records to training sets, runs and models."""
    return registry.walk(ids, direction="down", at_us=at_us, past=(*LEAVES, "service"))


def _made_of(ids: Collection[str], links: Iterable[Link]) -> dict[str, Transformation]:
    """The training sets, runs and models that were made of these records."""
    kinds = ("training_set:", "run:", "model:")
    return {i: how for i, how in reached(ids, links).items() if i.startswith(kinds)}


def _loose(
    registry: Registry, ids: Sequence[str], sources: Set[str], at_us: int | None
) -> dict[str, Transformation]:
    """The training sets below `ids` that read one of `sources` without a pin, and what is made of
    them."""
    links = _below(registry, ids, at_us)
    sets = [i for i in _made_of(ids, links) if i.startswith("training_set:")]
    loose = [
        stored.id
        for stored in registry.glances(ids=sets, with_parents=False)
        if not sources.isdisjoint(stored.body.get("unpinned", ()))
    ]
    if not loose:
        return {}
    found: dict[str, Transformation] = dict.fromkeys(loose, "DIRECT")
    return found | _made_of(loose, links)
