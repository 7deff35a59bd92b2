"""`verify`: the theorem, checked on the data at hand.

Entities are sampled from the sources, and some from the online store, so that keys are seen, too,
which have vanished from the sources. The online answer at T = now is compared, value for value and
status for status, with the offline answer at the same T, where the offline side may see what the
batch watermark has delivered (`known_until`). Every difference gets a cause.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore.compiler.program import program_of
from featurestore.compiler.rel import CREATED_US, EVENT_US, Project, Sql
from featurestore.compiler.resolve import select
from featurestore.compiler.scans import view_rel
from featurestore.compiler.typed import OnDemandUse
from featurestore.dtypes import to_arrow
from featurestore.engines.sql import quote
from featurestore.errors import CorruptRow, InvalidRequest, UnknownFeature, UnknownView
from featurestore.jobs.online_tables import online_tables
from featurestore.jobs.project import current_files
from featurestore.jobs.row_writer import newest_rows
from featurestore.jobs.store_identity import table_states
from featurestore.jobs.training import retrieve
from featurestore.jobs.verify_on_demand import Compared, compare
from featurestore.jobs.window_runs import newest_events
from featurestore.statuses import Status
from featurestore.stores.online.base import KeyFields
from featurestore.timeline import format_duration, format_instant
from featurestore.wire.columns import python_values
from featurestore.wire.keys import decode_key, key_prefix

if TYPE_CHECKING:
    from featurestore.compiler.rel import DataFiles
    from featurestore.compiler.typed import TypedView
    from featurestore.jobs.materialize import Context
    from featurestore.wire.response import OnlineResponse

STORE_SHARE_PERCENT = 20
"""Of the sampled keys, how many come from the online store instead of the source."""
KEYS_LISTED_MAX = 100_000
DIFFERENCES_MAX = 100
"""Differences that a report lists; all of them are counted."""
TIME_COLUMN = "verified_at"
TOLERANCE = 1e-9
"""How far two floats may be apart, relative to the greater, and still be the same."""

ReadOnline = Callable[[Sequence[str], Sequence[Mapping[str, Any]], int], "OnlineResponse"]
"""`(feature refs, entities, T in µs) → answer`, as the server computes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One value on which the two paths do not agree, and why."""

    view: str
    feature: str
    key: Mapping[str, Any]
    offline: Any
    online: Any
    offline_status: str
    online_status: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewReport:
    """One view: how many of its sampled values agree, and how far the store is behind."""

    view: str
    entities: int
    values: int
    equal: int
    watermark: str | None
    lag_us: int | None
    note: str = ""

    @property
    def lag(self) -> str:
        """The time since the watermark, for people."""
        return "—" if self.lag_us is None else format_duration(self.lag_us // 1_000_000 * 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """The result: exact counts, one line per view, and the first `DIFFERENCES_MAX` differences."""

    at: str
    views: tuple[ViewReport, ...]
    differences: tuple[Difference, ...]

    @property
    def values(self) -> int:
        """Values compared."""
        return sum(view.values for view in self.views)

    @property
    def equal(self) -> int:
        """Values that agree, status included."""
        return sum(view.equal for view in self.views)

    @property
    def rate(self) -> float:
        """Share of values that agree; 1.0 is exact. NaN where nothing was compared."""
        return self.equal / self.values if self.values else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`; the rate is None where nothing was compared."""
        return {
            "at": self.at,
            "values": self.values,
            "equal": self.equal,
            "rate": self.rate if self.values else None,
            "views": [asdict(view) for view in self.views],
            "differences": [asdict(difference) for difference in self.differences],
        }


@dataclass(frozen=True, slots=True)
class _Answers:
    """One path's answer: values and status names by feature, event times (µs) by entity."""

    values: Mapping[str, Sequence[Any]]
    statuses: Mapping[str, Sequence[str]]


def verify(
    context: Context,
    *,
    read_online: ReadOnline,
    service: str | None,
    samples: int,
    seed: int,
    now_us: int,
) -> VerifyReport:
    """Compare both paths for up to `samples` entities of each view of `service` (of all views, by
    default). Raises `UnknownService`, and what the back ends raise."""
    if samples < 1:
        raise InvalidRequest(f"samples must be positive, not {samples}")
    names, computed = sorted(context.repo.views), sorted(context.repo.on_demand)
    if service is not None:
        uses = select(context.repo, service)
        names = sorted({use.view.name for use in program_of(uses).joined})
        computed = sorted({use.view.name for use in uses if isinstance(use, OnDemandUse)})
    views = [context.repo.views[name] for name in names]
    sources = [view.source for view in views]
    files = current_files(context.repo, sources, context.root, context.offline)
    tables = online_tables(context.registry, views)
    fields = [table.field for table in tables.values()]
    states = table_states(context.registry, context.environment, fields)
    compared, checks = [], dict[str, _Check]()
    for view in views:
        table = tables.get(view.storage_hash)
        check = _Check(
            context,
            view,
            files,
            None if table is None else states[table.field].watermark_us,
            now_us=now_us,
            field=None if table is None else table.field,
        )
        compared.append(check.run(read_online, samples=samples, seed=seed))
        checks[view.name] = check
    for name in computed:
        found = compare(
            context,
            context.repo.on_demand[name],
            read_online=read_online,
            sample=lambda view: checks[view.name].sample(samples, seed),
            watermarks={view: check.watermark_us for view, check in checks.items()},
            same=_is_same,
            now_us=now_us,
        )
        compared.append(_on_demand_report(name, found, now_us))
    return VerifyReport(
        at=format_instant(now_us),
        views=tuple(report for report, _ in compared),
        differences=tuple(d for _, found in compared for d in found)[:DIFFERENCES_MAX],
    )


class _Check:
    """One view's comparison."""

    def __init__(
        self,
        context: Context,
        view: TypedView,
        files: Mapping[str, DataFiles],
        watermark_us: int | None,
        *,
        now_us: int,
        field: bytes | None,
    ) -> None:
        self._context = context
        self._field = field
        self._view = view
        self._features = [feature.name for feature in view.features]
        self._refs = [f"{view.name}:{name}" for name in self._features]
        self._keys = [key.name for key in view.keys]
        self._files = files
        self.watermark_us = watermark_us
        self._now_us = now_us

    def run(
        self, read_online: ReadOnline, *, samples: int, seed: int
    ) -> tuple[ViewReport, list[Difference]]:
        if self.watermark_us is None:
            return self._report(0, 0, note="not materialized"), []
        keys = self.sample(samples, seed)
        offline = self._offline(keys, self.watermark_us)
        try:
            response = self._online(read_online, keys)
        except (CorruptRow, UnknownView, UnknownFeature) as error:
            values = keys.num_rows * len(self._features)
            return self._report(keys.num_rows, values, note=str(error)), []
        online = _Answers(
            {name: response.to_dict()[self._column(name)] for name in self._features},
            {name: response.statuses[self._column(name)] for name in self._features},
        )
        unequal = [
            (row, name)
            for name in self._features
            for row in range(keys.num_rows)
            if not _is_same(offline.values[name][row], online.values[name][row])
            or offline.statuses[name][row] != online.statuses[name][row]
        ]
        values = keys.num_rows * len(self._features)
        differences = self._explain(keys, offline, response, online, unequal[:DIFFERENCES_MAX])
        return self._report(keys.num_rows, values, values - len(unequal)), differences

    def _column(self, feature: str) -> str:
        return f"{self._view.name}__{feature}"

    def _report(self, entities: int, values: int, equal: int = 0, note: str = "") -> ViewReport:
        known = self.watermark_us
        return ViewReport(
            view=self._view.name,
            entities=entities,
            values=values,
            equal=equal,
            watermark=None if known is None else format_instant(known),
            lag_us=None if known is None else self._now_us - known,
            note=note,
        )

    def sample(self, samples: int, seed: int) -> pa.Table:
        """Distinct keys of the source, chosen by a seeded hash, so that the choice is the same for
        any order of rows and number of threads."""
        rows = view_rel(self._view, self._context.repo, self._files, features=())
        if not self._keys:
            return pa.table({"one row": [True]}).select([])
        names = ", ".join(quote(name) for name in self._keys)
        sample = Sql(
            query=f"SELECT DISTINCT {names} FROM v "
            f"ORDER BY hash({names}, {seed:d}) LIMIT {samples:d}",
            inputs={"v": Project(input=rows, columns={name: name for name in self._keys})},
            dtypes={key.name: key.dtype for key in self._view.keys},
        )
        of_source = self._context.engine.stream(sample).read_all()
        held = self._held(max(1, samples * STORE_SHARE_PERCENT // 100), seed)
        known = {tuple(row.values()) for row in of_source.to_pylist()}
        gone = [tuple(row.values()) not in known for row in held.to_pylist()]
        extra = held.filter(pa.array(gone, pa.bool_()))
        return pa.concat_tables([extra, of_source]).slice(0, samples)

    def _held(self, count: int, seed: int) -> pa.Table:
        """Keys that the online store has a row of, so that those are seen, too, which have vanished
        from the source: of the first `KEYS_LISTED_MAX`, as many as `count` by chance."""
        view, store = self._view, self._context.store
        dtypes = [key.dtype for key in view.keys]
        prefix = key_prefix(self._context.repo.project, view.key_space)
        listed = dict[bytes, None]()
        for step in store.scan(prefix):
            listed |= dict.fromkeys(step)
            if len(listed) >= KEYS_LISTED_MAX:
                break
        candidates = random.Random(seed).sample(list(listed), min(count, len(listed)))  # noqa: S311 - no secret
        fields = () if self._field is None else (self._field,)
        rows = store.read([KeyFields(key, fields) for key in candidates])
        found = [
            k for k, of in zip(candidates, rows, strict=True) if any(r is not None for r in of)
        ]
        values = [decode_key(key, dtypes, prefix) for key in found]
        columns = [
            pa.array([row[i] for row in values], to_arrow(dtype)) for i, dtype in enumerate(dtypes)
        ]
        return pa.table(columns, names=self._keys)

    def _offline(self, keys: pa.Table, known_until_us: int) -> _Answers:
        now = pa.array([self._now_us] * keys.num_rows, pa.timestamp("us", tz="UTC"))
        job = retrieve(
            keys.append_column(TIME_COLUMN, now),
            self._refs,
            repo=self._context.repo,
            root=self._context.root,
            offline=self._context.offline,
            engine=self._context.engine,
            as_of="known",
            known_until_us=known_until_us,
            full_feature_names=True,
            include_status=True,
            event_timestamp=TIME_COLUMN,
        )
        table = job.to_arrow()
        of_view = table.column(f"{self._view.name}__status").to_pylist()
        values = {name: python_values(table.column(self._column(name))) for name in self._features}
        return _Answers(
            values,
            {
                name: [
                    Status.NULL_VALUE.name if value is None and status == "PRESENT" else status
                    for value, status in zip(column, of_view, strict=True)
                ]
                for name, column in values.items()
            },
        )

    def _online(self, read_online: ReadOnline, keys: pa.Table) -> OnlineResponse:
        return read_online(self._refs, keys.to_pylist(), self._now_us)

    def _explain(
        self,
        keys: pa.Table,
        offline: _Answers,
        response: OnlineResponse,
        online: _Answers,
        unequal: Sequence[tuple[int, str]],
    ) -> list[Difference]:
        """A cause for each difference, from the times of the rows that answered on either side."""
        if not unequal:
            return []
        wanted = keys.take(sorted({row for row, _ in unequal})).combine_chunks().to_batches()[0]
        find = newest_events if self._view.is_windowed else newest_rows
        newest = find(
            self._context,
            self._view,
            self._files,
            wanted,
            known_until_us=self.watermark_us or self._now_us,
        )
        times = {
            tuple(row[name] for name in self._keys): (row[EVENT_US], row[CREATED_US])
            for row in newest.select([*self._keys, EVENT_US, CREATED_US]).to_pylist()
        }
        rows = keys.to_pylist()
        online_us = response.event_times[self._view.name]
        return [
            Difference(
                view=self._view.name,
                feature=name,
                key=rows[row],
                offline=offline.values[name][row],
                online=online.values[name][row],
                offline_status=offline.statuses[name][row],
                online_status=online.statuses[name][row],
                cause=_cause(times.get(tuple(rows[row].values())), online_us[row]),
            )
            for row, name in unequal
        ]


def _is_same(offline: Any, online: Any) -> bool:
    """Exactly; but sums of floats may have been added up in another order."""
    if isinstance(offline, float) and isinstance(online, float):
        return math.isclose(offline, online, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if isinstance(offline, dict) and isinstance(online, dict):
        return [*offline] == [*online] and all(_is_same(offline[k], online[k]) for k in offline)
    return bool(offline == online)


def _on_demand_report(
    view: str, found: Compared, now_us: int
) -> tuple[ViewReport, list[Difference]]:
    known = found.watermark_us
    keys = [] if found.keys is None else found.keys.to_pylist()
    report = ViewReport(
        view=view,
        entities=len(keys),
        values=found.values,
        equal=0 if found.note else found.values - len(found.unequal),
        watermark=None if known is None else format_instant(known),
        lag_us=None if known is None else now_us - known,
        note=found.note,
    )
    return report, [
        Difference(
            view=view,
            feature=feature,
            key=keys[row],
            offline=there[0],
            online=here[0],
            offline_status=there[1],
            online_status=here[1],
            cause="what it is computed from differs, or it is computed from something else: a "
            "clock, a random number, another version of a package",
        )
        for row, feature, there, here in found.unequal[:DIFFERENCES_MAX]
    ]


def _cause(offline: tuple[int, int] | None, online_us: int | None) -> str:
    if offline is None:
        return "online only: the source no longer has this row; run materialize --replace"
    event_us, created_us = offline
    known = format_instant(max(event_us, created_us))
    if online_us is None:
        return (
            f"offline only: a row known since {known} was not written; its file landed more than "
            "the source's lateness after that, or the store lost it; run materialize --replace"
        )
    if online_us < event_us:
        return (
            f"online is older: it holds the row of {format_instant(online_us)}, the source has "
            f"one of {format_instant(event_us)}, known since {known}, which landed late"
        )
    if online_us > event_us:
        return (
            f"online is newer: its row of {format_instant(online_us)} is not in the source any "
            "more; run materialize --replace"
        )
    return (
        f"restated: both rows are of {format_instant(event_us)}, but the source's values changed "
        "in place; run materialize --replace"
    )
