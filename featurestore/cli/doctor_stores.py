"""What `doctor` asks of the stores: whether they answer, take writes, are of a tested version, what
their clocks say, and whether what is served is complete and fresh."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from featurestore.cli.doctor import Check, Finding, State
from featurestore.dtypes import INT64
from featurestore.masking import mask_url
from featurestore.stores.online.base import Examined, KeyFields, RowBatch, ServerFacts
from featurestore.timeline import DAY_US, SECOND_US, format_duration
from featurestore.wire.layout import RowLayout
from featurestore.wire.rows import encode_rows, key_encoder, key_prefix

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedView
    from featurestore.store import FeatureStore

SKEW_US_WARNING, SKEW_US_PROBLEM = SECOND_US, 60 * SECOND_US
"""By how much a clock may be off: rows of a writer that is ahead are not served until then."""
ROUND_TRIP_MS_SLOW = 5.0
MEMORY_FULL_PERCENT = 85
TESTED = {"redis": (7, 0), "valkey": (9, 0), "PostgreSQL": (14, 0)}
"""The oldest versions that we test with (or, of Postgres, that its makers still mend)."""
PROBE_FIELD = b"doctor\x00\x00"
_PINGS = 5


def definitions(store: FeatureStore) -> Iterator[Finding]:
    """Whether the files of the repository make sense. Raises `InvalidRepository`."""
    repo = store.repo
    yield Finding(
        check="definitions",
        state="ok",
        what=f"{len(repo.views)} views, {len(repo.services)} services",
    )


def online(store: FeatureStore) -> Iterator[Finding]:
    """The online store: reachable, writable, how far away, what its server says."""
    where = mask_url(store.settings.online.url)
    opened = store.online_store
    opened.ping()
    taken = []
    for _ in range(_PINGS):
        started = time.perf_counter()
        opened.ping()
        taken.append((time.perf_counter() - started) * 1_000)
    median = statistics.median(taken)
    slow = median > ROUND_TRIP_MS_SLOW
    yield Finding(
        check="online",
        state="warning" if slow else "ok",
        what=f"answers in {median:.2f} ms",
        where=where,
        to_do="bring server and store closer together" if slow else "",
    )
    if isinstance(opened, Examined):
        facts = opened.facts(store.clock.now_us)
        yield _version("online", facts.product, facts.version, where)
        yield from _clock("online", facts.asked_us, facts.clock_us, where)
        yield from _memory(facts, where)
    _probe(store)
    yield Finding(check="online", state="ok", what="takes and gives back a row", where=where)


def _probe(store: FeatureStore) -> None:
    """Write a row, read it, remove it. Raises what the store raises."""
    import pyarrow as pa

    layout = RowLayout((("probe", INT64),), 0, "doctor")
    now_us = store.clock.now_us()
    (row,) = encode_rows(layout, [now_us], [now_us], [pa.array([1])], pa.array([False]))
    key = key_encoder([INT64], key_prefix(store.settings.project.name, "doctor"))((now_us,))
    opened = store.online_store
    opened.write(RowBatch(field=PROBE_FIELD, keys=[key], rows=[row]))
    try:
        ((found,),) = opened.read([KeyFields(key, (PROBE_FIELD,))])
    finally:
        opened.delete(PROBE_FIELD, key, expected=row)
    assert found == row, "the online store does not give back what it took"  # noqa: S101


def _memory(facts: ServerFacts, where: str) -> Iterator[Finding]:
    if facts.eviction not in (None, "noeviction"):
        yield Finding(
            check="online",
            state="problem",
            what=f"maxmemory-policy is {facts.eviction}: rows vanish when memory is short",
            where=where,
            to_do="CONFIG SET maxmemory-policy noeviction; rows expire by themselves",
        )
    if facts.limit_bytes and facts.used_bytes is not None:
        percent = 100 * facts.used_bytes // facts.limit_bytes
        full = percent >= MEMORY_FULL_PERCENT
        yield Finding(
            check="online",
            state="warning" if full else "ok",
            what=f"{percent} % of maxmemory is used",
            where=where,
            to_do="give it more memory, or featurestore sweep" if full else "",
        )


def registry(store: FeatureStore) -> Iterator[Finding]:
    """The registry: reachable, writable, of our schema, its clock. Raises `SchemaTooNew`."""
    where = mask_url(store.settings.registry.url)
    ask: Any = getattr(store.registry, "facts", None)
    if ask is None:
        store.registry.aliases("env/")
        yield Finding(check="registry", state="ok", what="answers", where=where)
        return
    facts: dict[str, Any] = ask(store.clock.now_us)
    what = f"takes writes, schema {facts['schema']}"
    yield Finding(check="registry", state="ok", what=what, where=where)
    yield _version("registry", facts["product"], facts["version"], where)
    yield from _clock("registry", facts["asked_us"], facts["clock_us"], where)


def _version(check: str, product: str, found: str, where: str) -> Finding:
    least = TESTED.get(product)
    here = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    old = least is not None and here < least
    return Finding(
        check=check,
        state="warning" if old else "ok",
        what=f"{product} {found}",
        where=where,
        to_do=f"upgrade to {'.'.join(map(str, least))} or later" if old and least else "",
    )


def _clock(check: str, ours_us: int, theirs_us: int | None, where: str) -> Iterator[Finding]:
    if theirs_us is None:
        return
    off_us = abs(ours_us - theirs_us)
    state: State = "ok"
    if off_us > SKEW_US_WARNING:
        state = "problem" if off_us > SKEW_US_PROBLEM else "warning"
    side = "ahead of" if ours_us > theirs_us else "behind"
    yield Finding(
        check=check,
        state=state,
        what=f"our clock is {off_us / SECOND_US:.3f} s {side} the server's",
        where=where,
        to_do="" if state == "ok" else "run NTP (chrony, systemd-timesyncd) on both machines",
    )


def serving(store: FeatureStore) -> Iterator[Finding]:
    """Whether every service of the folder is served, as it stands there."""
    environment = store.settings.project.environment
    served = store.registry.aliases(f"serving/{environment}/")
    missing = [
        name for name in store.repo.services if f"serving/{environment}/{name}" not in served
    ]
    if missing:
        yield Finding(
            check="serving",
            state="warning",
            what=f"not served: {', '.join(sorted(missing))}",
            where=f"env/{environment}",
            to_do="featurestore apply, then featurestore materialize",
        )
    waiting = store.plan().changes
    if waiting:
        yield Finding(
            check="serving",
            state="warning",
            what=f"{len(waiting)} changes of the folder are not applied",
            where=f"env/{environment}",
            to_do="featurestore plan, then featurestore apply",
        )
    if not missing and not waiting:
        yield Finding(check="serving", state="ok", what=f"all {len(served)} plans are there")


def freshness(store: FeatureStore) -> Iterator[Finding]:
    """When each view was last materialized, beside its ttl."""
    for name, view in sorted(store.repo.views.items()):
        yield _fresh(store, name, view)


def _fresh(store: FeatureStore, name: str, view: TypedView) -> Finding:
    run = store.registry.last_runs("view", [name]).get(name)
    if run is None:
        what, late = "never materialized", True
    else:
        age_us = store.clock.now_us() - run.finished_at_us
        late = age_us > min(view.ttl_us or DAY_US, DAY_US)
        what = f"materialized {format_duration(age_us // SECOND_US * SECOND_US)} ago"
    return Finding(
        check="freshness",
        state="warning" if late else "ok",
        what=what,
        where=name,
        to_do="featurestore materialize, on a schedule (docs/guides/operations.md)" if late else "",
    )


STORE_CHECKS: Mapping[str, Check] = {
    "definitions": definitions,
    "online": online,
    "registry": registry,
    "serving": serving,
    "freshness": freshness,
}
