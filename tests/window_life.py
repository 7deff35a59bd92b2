"""The life of a repository of windowed views: rows land in files and are pushed, some twice, runs
of all kinds come in between, the process begins anew, a view is added; and at many instants all
that can be asked is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from case_repository import TIME, arrow_frame
from window_repository import (
    CREATED,
    EVENT,
    EVENT_ID,
    Raw,
    Source,
    View,
    check_answer,
    check_on_demand,
    keys_of,
    land_rows,
    latest_view,
    make_source,
    make_view,
    write_definitions,
)
from window_spans import enters_us, leaves_us

from featurestore import FeatureStore
from featurestore.dtypes import DType
from featurestore.testing.data import ORIGINS_US, Choose, to_array, to_rows
from featurestore.testing.oracle import Row, Value
from featurestore.timeline import ManualClock
from featurestore.windows import reach_us
from featurestore.wire.window_layout import BEHIND_US

LMDB = "map_size_mb = 16"
PAUSE_MS = 60_000
"""Nothing happens beside what the life does."""
BY_FILE = ((False, False, False, True), (True, False))
"""Whether a row lands in a file; in the beginning, more of them do."""


@dataclass
class Life:
    """What has happened to a repository by now. `views` are there from the beginning; those of
    `bootstrapped` are added while the stream goes on."""

    folder: Path
    choose: Choose
    source: Source
    views: list[View]
    bootstrapped: list[View]
    moments_us: Sequence[int]
    online: str = LMDB
    project: str = "cases"
    waiting: list[int] = field(default_factory=list)
    landed: list[Raw] = field(default_factory=list)
    there: list[Raw] = field(default_factory=list)
    pushed: list[list[Raw]] = field(default_factory=list)
    watermark_us: int | None = None
    clock: ManualClock = field(init=False)
    store: FeatureStore = field(init=False)
    story: list[str] = field(default_factory=list)
    """What happened, and when: shown where something differs."""

    def begin(self) -> None:
        self.clock = ManualClock(self.moments_us[0])
        self.waiting = list(range(len(self.source.case.rows)))
        land_rows(self.folder, self.source, "none", [])
        self.define()

    def define(self) -> None:
        """Write the definitions, and apply them in a process that knows them."""
        write_definitions(
            self.folder, self.source, self.views, project=self.project, online=self.online
        )
        self.store = self.open()
        self.store.apply()

    def open(self) -> FeatureStore:
        overrides = {"offline.threads": 1, "push.commit_interval_ms": PAUSE_MS}
        return FeatureStore(self.folder, clock=self.clock, overrides=overrides)

    def rows(self, view: View) -> list[Row]:
        """All that is in files or was pushed, as the view reads it."""
        return self.source.rows_of(view, self.there)

    # --- what happens -----------------------------------------------------------------------------

    def live(self) -> None:
        """Live through all moments, and compare at each."""
        self.begin()
        try:
            self.live_through()
        except AssertionError as error:
            text = (self.folder / "definitions.py").read_text()
            raise AssertionError("\n".join([str(error), text, *self.story])) from error
        finally:
            self.store.close()

    def live_through(self) -> None:
        asked: list[dict[str, Value]] = []
        for moment, now_us in enumerate(self.moments_us):
            self.clock.advance(now_us - self.clock.now_us())
            if self.bootstrapped and moment and self.choose((True, False)):
                self.bootstrap()
            self.happen()
            instants = self.instants(moment)
            frame = [row for at_us in instants for row in self.entity_rows(at_us)]
            asked += frame
            if moment + 1 == len(self.moments_us):
                # What was asked before is asked again: late rows have changed some of it.
                self.check(asked, self.offline(asked))
            elif self.choose((False, False, False, True)):
                self.check(frame, self.offline(frame))
            for at_us in instants:
                self.clock.advance(at_us - self.clock.now_us())
                now = [row for row in frame if row[TIME] == at_us]
                self.check(now, self.online_answers(now))

    def happen(self) -> None:
        """Rows arrive, and what they need to be readable, in any order."""
        landing = self.landing()
        steps = [self.push] * self.choose((1, 2, 0))
        if landing or self.unread() or self.choose((False,) * 5 + (True,)):
            steps.insert(self.choose(range(len(steps) + 1)), self.materialize)
        if landing:
            at = self.choose(range(steps.index(self.materialize) + 1))
            steps.insert(at, lambda: self.land(landing))
        again = self.choose((True, False))
        if self.pushed and again:
            steps.insert(self.choose(range(len(steps) + 1)), self.push_again)
        if self.choose((False,) * 5 + (True,)):
            steps.insert(self.choose(range(len(steps) + 1)), self.restart)
        for step in steps:
            step()

    def bootstrap(self) -> None:
        """A new view over what there is, while the stream goes on."""
        self.store.close()
        self.views.append(self.bootstrapped.pop())
        self.tell(f"add {self.views[-1].name}")
        self.define()
        if self.choose((True, False)):
            self.push()
        self.land(self.landing())
        self.store.materialize()
        self.watermark_us = self.clock.now_us()
        if self.choose((True, False)):
            self.push()

    def restart(self) -> None:
        self.tell("restart")
        self.store.close()
        self.store = self.open()

    def materialize(self) -> None:
        """Up to now, in one way or another."""
        now_us = self.clock.now_us()
        mode = self.choose(("incremental",) * 4 + ("replace", "interval"))
        self.tell(f"materialize {mode}")
        if mode == "interval" and self.moments_us[0] < now_us:
            start_us = self.choose([us for us in self.moments_us if us < now_us])
            self.store.materialize(start=start_us, end=now_us)
        self.store.materialize(replace=mode == "replace")
        self.watermark_us = now_us

    def tell(self, what: str, rows: Sequence[Raw] = ()) -> None:
        self.story += [f"{self.clock.now_us()} {what}", *(f"    {dict(row)}" for row in rows)]

    # --- files ------------------------------------------------------------------------------------

    def landing(self) -> list[int]:
        """Rows that land now: what would be too late the next time, and some more."""
        now_us, found = self.clock.now_us(), []
        for place in list(self.waiting):
            raw = self.source.case.rows[place]
            known, by_push = self.source.known_us(raw), self.pushable(raw)
            if known is not None and self.late(known):
                if not by_push:
                    self.waiting.remove(place)
            elif by_push:
                found += [place] if self.choose(BY_FILE[self.watermark_us is None]) else []
            elif self.choose(BY_FILE[self.watermark_us is None]) or (
                known is not None and known <= now_us - self.source.lateness_us
            ):
                found.append(place)
        return found

    def unread(self) -> bool:
        """Whether rows of files have become known since the last run."""
        watermark, now_us = self.watermark_us, self.clock.now_us()
        if watermark is None:
            return True
        known = [self.source.known_us(raw) for raw in self.landed]
        return any(us is not None and watermark < us <= now_us for us in known)

    def late(self, known: int) -> bool:
        """Whether the next run would not read a row that lands now."""
        watermark = self.watermark_us
        return watermark is not None and known <= watermark - self.source.lateness_us

    def land(self, places: Sequence[int]) -> None:
        rows = [self.source.case.rows[place] for place in places if place in self.waiting]
        self.waiting = [place for place in self.waiting if place not in places]
        self.tell("land", rows)
        land_rows(self.folder, self.source, f"{len(self.landed)}-{len(rows)}", rows)
        self.landed += rows
        self.there += rows

    # --- pushes -----------------------------------------------------------------------------------

    def pushable(self, raw: Raw) -> bool:
        """Whether a push can take the row, now or later."""
        if self.source.event_id is None:
            return False
        return raw[EVENT] is not None and raw[EVENT_ID] is not None

    def push(self) -> None:
        """Some of the rows that are known by now, in any order."""
        now_us, taken = self.clock.now_us(), list[Raw]()
        for place in sorted(self.waiting, key=lambda _: self.choose(range(8))):
            raw = self.source.case.rows[place]
            wanted = (
                self.pushable(raw) and raw[EVENT] <= now_us and self.choose((True, True, False))
            )
            due = wanted and (raw.get(CREATED) is None or raw[CREATED] <= now_us)
            if due and self.promised([*taken, raw]):
                taken.append(raw)
                self.waiting.remove(place)
        if taken:
            self.send(taken)
            self.there += [self.source.arrived(raw, now_us) for raw in taken]
            self.pushed.append(taken)

    def push_again(self) -> None:
        """A push that is sent twice: its rows count once. Those that have no created time but that
        of their arrival are versions of their own."""
        again, now_us = self.choose(self.pushed), self.clock.now_us()
        same = all(raw.get(CREATED) is not None for raw in again)
        if same or self.promised(again):
            self.send(again)
            self.there += [] if same else [self.source.arrived(raw, now_us) for raw in again]

    def send(self, rows: Sequence[Raw]) -> None:
        self.tell("push", rows)
        dtypes = self.source.case.dtypes
        if self.choose((True, False)):
            import pyarrow as pa

            table = {n: to_array([row[n] for row in rows], dtypes[n]) for n in dtypes}
            self.store.push("s0", pa.table(table))
        else:
            self.store.push("s0", [dict(row) for row in rows])

    def promised(self, fresh: Sequence[Raw]) -> bool:
        """Whether windows promise to count these rows, pushed now, as if they had always been
        there: see `_is_open`."""
        now_us = self.clock.now_us()
        arrived = [self.source.arrived(raw, now_us) for raw in fresh]
        for view in [*self.views, *self.bootstrapped]:
            if view.windows:
                old = [row for row in self.rows(view) if row.known_us <= now_us]
                new = self.source.rows_of(view, arrived)
                for event in {_event(row) for row in new}:
                    of_old, of_new = (
                        [r for r in rows if _event(r) == event] for rows in (old, new)
                    )
                    if of_old and not self._is_open(view, of_old, of_new):
                        return False
        return True

    def _is_open(self, view: View, old: list[Row], new: list[Row]) -> bool:
        """Whether an event with these versions takes these. A version has to come before the
        correction horizon after the newest one is over (it has to be known by then, but also to
        be pushed)."""
        history = self.source.history(view, [])
        before = {id(row) for row in history.versions(old)}
        after = {id(row) for row in history.versions([*old, *new])}
        if before == after:
            return self._is_remembered(view, [row for row in old if id(row) in before], new)
        newest = max(row.known_us for row in old if id(row) in before)
        horizon_us = max(view.horizon_us, BEHIND_US - 1)
        return newest >= self.clock.now_us() - horizon_us

    def _is_remembered(self, view: View, counting: list[Row], new: list[Row]) -> bool:
        """Whether the states know the event, so that they tell rows that come too late from the
        first ones: they need not if it was over before any window began."""
        if all(any(row.known_us == one.known_us for one in counting) for row in new):
            return True
        reach = reach_us(view.windows.values())
        since_us = None if reach is None else self.clock.now_us() - reach
        return since_us is None or any(row.known_us >= since_us for row in counting)

    # --- what is asked ----------------------------------------------------------------------------

    def instants(self, moment: int) -> list[int]:
        """This moment, and later ones, before the next, at which nothing more becomes known: just
        before and after an event enters or leaves a window."""
        now_us = self.moments_us[moment]
        ends = [self.moments_us[moment + 1]] if moment + 1 < len(self.moments_us) else []
        changes: set[int] = set()
        for view in self.views:
            for row in self.rows(view):
                ends += [row.known_us] if row.known_us > now_us else []
                for window in view.windows.values():
                    spans = (window.window_us, window.delay_us, window.hop_us)
                    enters = enters_us(row.event_us, window.delay_us)
                    leaves = leaves_us(row.event_us, *spans)
                    reach = None if leaves is None else row.event_us + sum(spans) + 1  # type: ignore[arg-type]
                    for at_us in (enters, leaves, reach):
                        changes |= set() if at_us is None else {at_us - 1, at_us}
                if view.ttl_us is not None:
                    changes |= {row.event_us + n * view.ttl_us + k for n in (1, 2) for k in (0, 1)}
        end_us = min(ends, default=None)
        later = sorted(us for us in changes if now_us < us and (end_us is None or us < end_us))
        return [now_us, *sorted({self.choose(later) for _ in range(4) if later})]

    def entity_rows(self, at_us: int) -> list[dict[str, Value]]:
        """All keys there are, and others, at one time."""
        names, keys = self.source.case.shape.keys, keys_of(self.source)
        return [dict(zip(names, key, strict=True)) | {TIME: at_us} for key in keys]

    def check(self, frame: Sequence[dict[str, Value]], found: Sequence[dict[str, Any]]) -> None:
        rows = {view.name: self.rows(view) for view in self.views}
        for asked, row in zip(frame, found, strict=True):
            check_on_demand(row, asked[TIME])
            for view in self.views:
                prefix = f"{view.name}__"
                part = {n.removeprefix(prefix): v for n, v in row.items() if n.startswith(prefix)}
                key = tuple(asked[name] for name in view.keys)
                check_answer(
                    self.source, view, rows[view.name], key=key, at_us=asked[TIME], found=part
                )

    def offline(self, frame: Sequence[dict[str, Value]]) -> list[dict[str, Any]]:
        dtypes: dict[str, DType] = {
            n: self.source.case.dtypes[n] for n in self.source.case.shape.keys
        }
        job = self.store.get_historical_features(
            arrow_frame(list(frame), dtypes),
            "everything",
            full_feature_names=True,
            include_status=True,
        )
        return to_rows(job.to_arrow())

    def online_answers(self, frame: Sequence[dict[str, Value]]) -> list[dict[str, Any]]:
        keys = [{name: value for name, value in row.items() if name != TIME} for row in frame]
        response = self.store.get_online_features("everything", keys, full_feature_names=True)
        assert response.request_time_us == frame[0][TIME]
        features = to_rows(response.to_arrow().select(list(response.feature_names)))
        return [
            row | {f"{name} status": status[n] for name, status in response.statuses.items()}
            for n, row in enumerate(features)
        ]


def _event(row: Row) -> tuple[Value, ...]:
    return (row.key, row.values[EVENT_ID])


def make_life(
    choose: Choose,
    folder: Path,
    *,
    grid_us: int,
    rows_max: int = 12,
    origins_us: Sequence[int] = ORIGINS_US,
) -> Life:
    """A life on a grid, with moments just when rows become known."""
    source = make_source(
        choose,
        rows_max=rows_max,
        grid_us=grid_us,
        origin_us=choose(origins_us),
        with_ids=choose((True, True, True, False)),
    )
    known = [us for raw in source.case.rows if (us := source.known_us(raw)) is not None]
    near = {choose(known or [choose(origins_us)]) + choose((0, 1, -1)) for _ in range(3)}
    moments = near | {choose(sorted(near)) + choose((grid_us, 3 * grid_us + 1, 40 * grid_us))}
    views = [make_view(choose, "w0", source, grid_us)]
    if views[0].keys != source.case.shape.keys or choose((True, False)):
        views.append(latest_view(choose, "l0", source, grid_us))
    more = [make_view(choose, "w1", source, grid_us)] if choose((False, False, True)) else []
    return Life(folder, choose, source, views, more, sorted(moments))
