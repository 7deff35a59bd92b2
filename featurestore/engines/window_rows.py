"""Events and requests as sorted arrays, and the requests that each event is seen by.

For one window an event counts at every T of one interval: from the instant it is in the window and
known, until it leaves the window or is replaced. Requests are sorted by (key, T), so the requests
that see it are a range of their places; that is all that the functions of `window_functions.py`
need to know of time. Nearly all events are **plain**: every request after their event time (and
delay) sees them until they leave. A request's plain events are then a range of the events sorted by
(key, event time). The others, which some request does not know yet or no longer, are **special**.

Everything here is a sort or a search: O((n + q) log n), whatever the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.windows import Spanned

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FOREVER = np.iinfo(np.int64).max
"""The instant at which an event is replaced that never is."""
_CODE_MAX = 1 << 62


@dataclass(frozen=True, slots=True)
class Span:
    """A window: what of it decides which events are in it. `window_us` None is a lifetime."""

    window_us: int | None
    delay_us: int
    hop_us: int

    @classmethod
    def of(cls, spanned: Spanned) -> Span:
        """The span of a function."""
        return cls(spanned.window_us, spanned.delay_us, spanned.hop_us)


class Places:
    """Where an instant of a group stands among sorted (group, instant)."""

    def __init__(self, groups: Ints, times: Ints, group_count: int) -> None:
        self._times = times
        self.starts: Ints = np.searchsorted(groups, np.arange(group_count + 1)).astype(np.int64)
        self._low = int(times.min()) if len(times) else 0
        self._high = int(times.max()) if len(times) else 0
        self._width = self._high - self._low + 2
        self._codes: Ints | None = None
        if group_count * self._width < _CODE_MAX:
            self._codes = groups * self._width + (times - self._low)

    def at(self, groups: Ints, times: Ints) -> Ints:
        """The first place of each group that is not before the instant."""
        if self._codes is None:
            return self._bisected(groups, times)
        within = np.clip(times, self._low, self._high + 1) - self._low
        return np.searchsorted(self._codes, groups * self._width + within).astype(np.int64)

    def _bisected(self, groups: Ints, times: Ints) -> Ints:
        """The same, where group and instant do not fit into one number."""
        low, high = self.starts[groups], self.starts[groups + 1]
        last = len(self._times) - 1
        while (open_ := low < high).any():
            middle = (low + high) >> 1
            before = open_ & (self._times[np.minimum(middle, last)] < times)
            low = np.where(before, middle + 1, low)
            high = np.where(open_ & ~before, middle, high)
        return low


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Requests sorted by (group, T), `rows` the positions of the left rows they are of."""

    groups: Ints
    times: Ints
    rows: Ints
    group_count: int

    @classmethod
    def sorted(cls, groups: Ints, times: Ints, rows: Ints) -> Requests:
        order = np.lexsort((times, groups))
        count = int(groups.max()) + 1 if len(groups) else 0
        return cls(groups=groups[order], times=times[order], rows=rows[order], group_count=count)

    def __len__(self) -> int:
        return len(self.rows)


class Windows:
    """One part of the work: some requests, and the events of their keys.

    `groups`, `events`, `known` and `until` (int64) of the events may come in any order; `order` is
    the one in which the arrays of this object, and of the columns, stand.
    """

    def __init__(
        self,
        requests: Requests,
        *,
        groups: Ints,
        events: Ints,
        known: Ints,
        until: Ints | None,
        delays_us: Sequence[int],
    ) -> None:
        self.requests = requests
        self.order = _sorted_order(groups, events)
        self.groups = groups[self.order]
        self.events = events[self.order]
        self._known = known[self.order]
        self._until = None if until is None else until[self.order]
        self._asked = Places(requests.groups, requests.times, requests.group_count)
        self._spans: dict[tuple[str, Span], Any] = {}
        self.plain, self.special = self._split(sorted(set(delays_us)))

    @property
    def all_plain(self) -> bool:
        """Whether there is nothing special."""
        return len(self.plain) == len(self.events)

    def _split(self, delays_us: Sequence[int]) -> tuple[Ints, Ints]:
        """The indices of plain and of special events; those that no request sees are neither."""
        everything = np.arange(len(self.events))
        late = self._known > self.events + (delays_us[0] + 1)
        if self._until is not None:
            late |= self._until != FOREVER
        if not late.any():
            return everything, everything[:0]
        index = np.flatnonzero(late)
        groups, events, known = self.groups[index], self.events[index], self._known[index]
        dies = self._dies(index)
        ends = self._asked.starts[groups + 1]
        odd = dies < ends
        for delay in delays_us:
            due = events + (delay + 1)
            odd |= self._asked.at(groups, np.maximum(known, due)) != self._asked.at(groups, due)
        seen = self._asked.at(groups, np.maximum(known, events + (delays_us[0] + 1))) < dies
        keep = np.ones(len(self.events), dtype=bool)
        keep[index[odd]] = False
        return np.flatnonzero(keep), index[odd & seen]

    def _dies(self, index: Ints) -> Ints:
        """The first request that sees each event replaced."""
        groups = self.groups[index]
        if self._until is None:
            return self._asked.starts[groups + 1]
        return self._asked.at(groups, self._until[index])

    @cached_property
    def _plain_places(self) -> Places:
        return Places(self.groups[self.plain], self.events[self.plain], self.requests.group_count)

    def ranges(self, span: Span) -> tuple[Ints, Ints]:
        """For each request the range of its plain events, as positions in `plain`."""
        if ("ranges", span) not in self._spans:
            asked, places = self.requests, self._plain_places
            ends = asked.times - span.delay_us
            high = places.at(asked.groups, ends)
            if span.window_us is None:
                low = places.starts[asked.groups]
            else:
                starts = ends - span.window_us
                if span.hop_us:
                    starts -= starts % span.hop_us
                low = places.at(asked.groups, starts)
            self._spans["ranges", span] = low, high
        found: tuple[Ints, Ints] = self._spans["ranges", span]
        return found

    def seen(self, span: Span) -> tuple[Ints, Ints]:
        """For each special event the range of the requests that see it."""
        if ("seen", span) not in self._spans:
            self._spans["seen", span] = self._seen_by(self.special, span)
        found: tuple[Ints, Ints] = self._spans["seen", span]
        return found

    def all_seen(self, span: Span) -> tuple[Ints, Ints, Ints]:
        """For plain and special events: their index, and the range of the requests that see
        them. Those that none sees are left out."""
        if ("all", span) not in self._spans:
            index = np.concatenate([self.plain, self.special])
            first, last = self._seen_by(index, span)
            kept = first < last
            self._spans["all", span] = index[kept], first[kept], last[kept]
        found: tuple[Ints, Ints, Ints] = self._spans["all", span]
        return found

    def _seen_by(self, index: Ints, span: Span) -> tuple[Ints, Ints]:
        groups, events = self.groups[index], self.events[index]
        first = self._asked.at(groups, np.maximum(self._known[index], events + span.delay_us + 1))
        last = self._dies(index)
        if span.window_us is not None:
            hop = max(span.hop_us, 1)
            leaves = events - events % hop + (hop + span.delay_us + span.window_us)
            last = np.minimum(last, self._asked.at(groups, leaves))
        return first, np.maximum(first, last)


def _sorted_order(groups: Ints, events: Ints) -> Ints:
    if len(groups) == 0:
        return np.zeros(0, dtype=np.int64)
    width = int(events.max()) - int(events.min()) + 1
    if (int(groups.max()) + 1) * width < _CODE_MAX:
        codes = groups * width + (events - events.min())
        return np.argsort(codes, kind="stable")
    return np.lexsort((events, groups))
