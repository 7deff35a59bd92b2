"""Aggregations: what happened to an entity within a window of time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, cast

from featurestore import dtypes
from featurestore.aggregates import AGGREGATES, checked_parameters
from featurestore.definitions.names import (
    Definition,
    check_mapping,
    check_name,
    check_texts,
    locate,
    name_problem,
    read_dtype,
    report,
    set_field,
)
from featurestore.dtypes import DType
from featurestore.errors import InvalidName, TypeMismatch, UnknownReference, suggest
from featurestore.timeline import format_duration, parse_duration
from featurestore.windows import HOP_AUTO, HOP_EXACT, HOPS_PER_WINDOW_MAX, LIFETIME, auto_hop_us

Duration = str | timedelta
ROWS = "*"
"""The column of `count` that counts rows."""
SERIES_MAX = 32
"""So many windows one aggregation has at most."""


@dataclass(frozen=True, slots=True)
class WindowFeature:
    """One feature of an aggregation: one of its windows (`window_us` None: lifetime). A `hop_us`
    of 0 is exact."""

    name: str
    window_us: int | None
    hop_us: int


@dataclass(frozen=True, slots=True)
class Aggregation(Definition):
    """`function` over `column` (or an SQL expression over the source's columns; `"*"` for `count`)
    of the rows within a window.

    At T a window covers the rows known at T with `floor(T − delay − window, hop) ≤ event time <
    T − delay`. `window` is a duration or `"lifetime"`; `windows` makes a feature of each. `hop` is
    `"auto"` (5 min for windows below 12 h, 1 h below 12 d, else 1 d), a duration or `"exact"`.
    `where` is a condition over the source's columns. `by` (a column or expression: string, integer
    or bool) makes the value a map: from each value of `by` among the rows in the window that count
    (NULL has no entry) to the function over those rows. `n` is for `first_n`, `last_n` and `top_k`,
    `q` (0 to 1) for `approx_quantile`, `error` for the approximate functions.

    A feature is named `{column}_{function}_{window}` (`count_24h` for `"*"`), with a `by` column
    `{column}_{function}_by_{by}_{window}`; `name` replaces that, and with `windows` is followed by
    `_{window}`.

    Raises `InvalidName`, `TypeMismatch`, `UnknownReference` (an unknown function) and plain
    `DefinitionError`; while a repository is loaded these are gathered.
    """

    kind: ClassVar[str] = "aggregation"

    column: str
    function: str
    window: Duration | None = None
    _: KW_ONLY
    windows: Sequence[Duration] | None = None
    delay: Duration | int = 0
    hop: Duration = HOP_AUTO
    where: str | None = None
    by: str | None = None
    name: str | None = None
    dtype: str | DType | None = None
    n: int | None = None
    q: float | None = None
    error: float | None = None
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        locate(self)
        check_texts(self, "where", "by", "description")
        check_mapping(self, "tags")
        _check_column(self)
        _check_function(self)
        _check_dtype(self)
        _check_delay(self)
        _check_windows(self)
        if self.valid:
            for feature in self.features:
                if problem := name_problem(feature.name):
                    hint = "; give it a name=…" if self.name is None else ""
                    report(self, f"{problem}{hint}", InvalidName)
                    break

    @property
    def title(self) -> str:
        """What errors call it: its name, or what it is of."""
        return f"{self.function} of {self.column!r}" if self.name is None else repr(self.name)

    @property
    def parameters(self) -> dict[str, int | float]:
        """`n`, `q` and `error`, as far as the function has them, with their defaults."""
        return checked_parameters(self.function, {"n": self.n, "q": self.q, "error": self.error})

    @property
    def delay_us(self) -> int:
        """`delay` in µs."""
        return 0 if self.delay == 0 else parse_duration(cast(Duration, self.delay), zero=True)

    @property
    def declared_dtype(self) -> DType | None:
        """`dtype`, parsed."""
        return None if self.dtype is None else dtypes.parse(str(self.dtype))

    @property
    def features(self) -> tuple[WindowFeature, ...]:
        """One feature for each window, in order."""
        return tuple(self._features())

    def _features(self) -> Iterator[WindowFeature]:
        for window in _windows(self):
            text = _window_text(window)
            window_us = None if text == LIFETIME else parse_duration(window)
            yield WindowFeature(self._name(text), window_us, _hop_us(self, window_us))

    def _name(self, window: str) -> str:
        if self.name is not None:
            return self.name if self.windows is None else f"{self.name}_{window}"
        column = "" if self.column == ROWS else f"{self.column}_"
        by = "" if self.by is None else f"by_{self.by}_"
        return f"{column}{self.function}_{by}{window}"


def _windows(aggregation: Aggregation) -> tuple[Duration, ...]:
    if aggregation.windows is not None:
        return tuple(aggregation.windows)
    return () if aggregation.window is None else (aggregation.window,)


def _window_text(window: Duration) -> str:
    """As it was written, without spaces."""
    if isinstance(window, timedelta):
        return format_duration(parse_duration(window))
    return "".join(window.split())


def _hop_us(aggregation: Aggregation, window_us: int | None) -> int:
    if aggregation.hop == HOP_AUTO:
        return auto_hop_us(window_us)
    return 0 if aggregation.hop == HOP_EXACT else parse_duration(aggregation.hop)


def _check_column(aggregation: Aggregation) -> None:
    given: Any = aggregation.column
    if not isinstance(given, str) or not given:
        message = f'column is a column, an SQL expression or "*", not {given!r}'
        report(aggregation, message, TypeMismatch)
        set_field(aggregation, "column", ROWS)
    if aggregation.name is not None:
        check_name(aggregation, aggregation.name)


def _check_function(aggregation: Aggregation) -> None:
    given: Any = aggregation.function
    if not isinstance(given, str) or given not in AGGREGATES:
        close = suggest(str(given), AGGREGATES)
        known = f" The functions are {', '.join(AGGREGATES)}." if not close else ""
        message = f"there is no function {given!r}.{close}{known}"
        report(aggregation, message, UnknownReference)
        set_field(aggregation, "function", "count")
        return
    try:
        _ = aggregation.parameters
    except ValueError as error:
        report(aggregation, str(error))


def _check_dtype(aggregation: Aggregation) -> None:
    if aggregation.dtype is not None:
        found = read_dtype(aggregation, aggregation.dtype, what="dtype", maps=True)
        set_field(aggregation, "dtype", None if found is None else str(found))


def _check_delay(aggregation: Aggregation) -> None:
    given: Any = aggregation.delay
    if given == 0 and not isinstance(given, bool):
        set_field(aggregation, "delay", 0)
        return
    negative = isinstance(given, str) and given.strip().startswith("-")
    negative |= isinstance(given, timedelta) and given < timedelta(0)
    negative |= isinstance(given, int) and given < 0
    if negative:
        message = f"delay {given!r} is negative; a window would see what has not happened yet"
    else:
        try:
            parse_duration(given, zero=True)
        except ValueError as error:
            message = f"delay: {error}"
        else:
            return
    report(aggregation, message)
    set_field(aggregation, "delay", 0)


def _check_windows(aggregation: Aggregation) -> None:
    series: Any = aggregation.windows
    if (aggregation.window is None) == (series is None):
        report(aggregation, "give either window or windows")
        set_field(aggregation, "windows", None)
    elif series is not None:
        listed = isinstance(series, Sequence) and not isinstance(series, str)
        if not listed or not series or len(series) > SERIES_MAX:
            message = f"windows lists 1 to {SERIES_MAX} durations, not {series!r}"
            report(aggregation, message, TypeMismatch)
            set_field(aggregation, "windows", ())
        else:
            set_field(aggregation, "windows", tuple(series))
    sound = _check_hop(aggregation)
    for window in _windows(aggregation):
        problem = _window_problem(aggregation, window) if sound else None
        if problem is not None:
            report(aggregation, problem)
    if not aggregation.valid:
        set_field(aggregation, "window", None)
        set_field(aggregation, "windows", ())


def _check_hop(aggregation: Aggregation) -> bool:
    if aggregation.hop in (HOP_AUTO, HOP_EXACT):
        return True
    try:
        parse_duration(aggregation.hop)
    except ValueError as error:
        report(aggregation, f'hop is "auto", "exact" or a duration: {error}')
        return False
    return True


def _window_problem(aggregation: Aggregation, window: Duration) -> str | None:
    if isinstance(window, str) and window.strip() == LIFETIME:
        return None
    try:
        window_us = parse_duration(window)
    except ValueError as error:
        return f'window is a duration or "lifetime": {error}'
    hop_us = _hop_us(aggregation, window_us)
    if window_us < hop_us:
        hint = 'say hop="exact", or a shorter hop'
        return f"window {window!r} is shorter than its hop of {format_duration(hop_us)}; {hint}"
    if hop_us and window_us > HOPS_PER_WINDOW_MAX * hop_us:
        hint = f"more than {HOPS_PER_WINDOW_MAX:,}; use a longer hop, or a lifetime window"
        count = f"{window_us // hop_us:,} hops of {format_duration(hop_us)}"
        return f"window {window!r} has {count}, {hint}"
    return None
