"""The theorem with on-demand views: random ones over random views, request inputs and one another
give the same online and historically, and both are what plain Python says.

The lives are those of `test_theorem`; here their views are read through what is computed from them.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pytest
from case_repository import TIME, Frame, arrow_frame, frame_dtypes, uses_of
from effort import FUZZ, examples, seeds
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from redis_servers import RedisServer, valkey_binary
from test_theorem import Life, begin, begin_on

from featurestore import FeatureStore
from featurestore.dtypes import BOOL, DATE, FLOAT64, INT64, STRING, TIMESTAMP, DType
from featurestore.statuses import Status
from featurestore.testing.compare import check_same_rows
from featurestore.testing.data import VALUES, Choose, seeded, to_array, to_rows
from featurestore.testing.oracle import Value, read_value, training_rows
from featurestore.timeline import DAY_US, ManualClock, to_datetime

T = TypeVar("T")
Of = Callable[[Any, int], Value]
"""What a value that is not NULL becomes at a time in µs."""
INPUTS = (INT64, FLOAT64, STRING, BOOL, TIMESTAMP, DATE)
MOST = 2**63
LARGE = 2**62
"""Only −2 to 1 times this fits an int64."""
DAY = "date_diff('day', TIMESTAMP '1970-01-01 00:00:00', request_time())"


@dataclass(frozen=True)
class Computed:
    """A feature: `column` (in full) is what it reads, `text` its expression ("" of a function)."""

    name: str
    dtype: DType
    column: str
    text: str
    of: Of

    def value(self, row: Mapping[str, Value], at_us: int) -> Value:
        value = row[self.column]
        if value is None:
            return True if self.text.endswith("IS NULL") else None
        return self.of(value, at_us)


@dataclass(frozen=True)
class OnDemand:
    name: str
    features: tuple[Computed, ...]

    @property
    def inputs(self) -> str:
        return ", ".join(sorted({f.column.partition("__")[0] for f in self.features}))

    def definition(self) -> str:
        if self.features[0].text:
            listed = ", ".join(f"Feature({f.name!r}, {f.text!r})" for f in self.features)
            return f"{self.name} = OnDemandFeatureView({self.name!r}, [{self.inputs}], [{listed}])"
        schema = {f.name: str(f.dtype) for f in self.features}
        parameters = ", ".join(dict.fromkeys(f.column for f in self.features))
        values = ", ".join(f"{f.name!r}: {f.column}" for f in self.features)
        return (
            f"@on_demand_feature_view(inputs=[{self.inputs}], schema={schema!r})\n"
            f"def {self.name}({parameters}):\n    return {{{values}}}"
        )


def whole(value: int) -> int | None:
    return value if -MOST <= value < MOST else None


def finite(value: float) -> float | None:
    return value + 0.0 if math.isfinite(value) else None


def forms(dtype: DType, column: str) -> list[tuple[DType, str, Of]]:
    """Expressions over a column of some type, each with its own type and the same in Python."""
    name = f'"{column}"'
    found: list[tuple[DType, str, Of]] = [(BOOL, f"{name} IS NULL", lambda _, __: False)]
    if not dtype.is_float and dtype.item is None:
        found.append((dtype, name, lambda v, _: v))
    if dtype.is_integer:
        found += [
            (INT64, f"CAST({name} AS BIGINT) + 1", lambda v, _: whole(v + 1)),
            (INT64, f"CAST({name} AS BIGINT) * {LARGE}", lambda v, _: whole(v * LARGE)),
            (INT64, f"CAST({name} AS BIGINT) * 0 + {DAY}", lambda _, at_us: at_us // DAY_US),
            (FLOAT64, f"7 / {name}", lambda v, _: None if v == 0 else 7.0 / float(v)),
            (STRING, f"CAST({name} AS VARCHAR)", lambda v, _: str(v)),
        ]
    if dtype.is_float:
        wide = f"CAST({name} AS DOUBLE)"
        found.append((FLOAT64, f"{wide} * 10", lambda v, _: finite(v * 10)))
    if dtype == STRING:
        found += [
            (INT64, f"length({name})", lambda v, _: len(v)),
            (STRING, f"{name} || '!'", lambda v, _: v + "!"),
        ]
    if dtype == BOOL:
        found.append((BOOL, f"NOT {name}", lambda v, _: not v))
    if dtype == TIMESTAMP:
        text = f"date_diff('day', {name}, request_time())"
        found.append((INT64, text, lambda v, at_us: at_us // DAY_US - v // DAY_US))
    if dtype == DATE:
        found.append((INT64, f"year({name})", lambda v, _: v.year))
    return found


def drawn(choose: Choose, columns: dict[str, DType]) -> Iterator[OnDemand]:
    """Some views; `columns` are what the first can read, and grow by what each makes."""
    for number in range(choose((2, 3, 4))):
        name, is_function = f"d{number}", choose((False, False, True))
        features = []
        for position in range(choose((1, 2, 4))):
            column = choose(sorted(columns))
            kept: tuple[DType, str, Of] = (columns[column], "", lambda v, _: v)
            dtype, text, of = kept if is_function else choose(forms(columns[column], column))
            features.append(Computed(f"f{position}", dtype, column, text, of))
        yield OnDemand(name, tuple(features))
        columns |= {f"{name}__{f.name}": f.dtype for f in features}


def write(folder: Path, views: Sequence[OnDemand], requests: Mapping[str, DType]) -> None:
    """Add the views and a service of them to the definitions of a life."""
    schema = {name: str(dtype) for name, dtype in requests.items()}
    lines = [
        "from featurestore import OnDemandFeatureView, RequestSource, on_demand_feature_view",
        f"r = RequestSource('r', {schema!r})",
        *(view.definition() for view in views),
        f"computed = FeatureService('computed', [{', '.join(v.name for v in views)}, v0])",
    ]
    path = folder / "definitions.py"
    path.write_text(path.read_text(encoding="utf-8") + "\n".join(lines) + "\n", encoding="utf-8")


def live(life: Life) -> None:
    """As in `test_theorem`, and compare what is computed."""
    choose = life.choose
    life.begin()
    columns = {
        f"v{number}__{name}": case.dtypes[name]
        for number, case in enumerate(life.cases)
        for name in case.features
    }
    requests = {f"q{number}": choose(INPUTS) for number in range(2)}
    columns |= {f"r__{name}": dtype for name, dtype in requests.items()}
    views = list(drawn(choose, columns))
    write(life.folder, views, requests)
    clock = ManualClock(life.moments_us[0])
    with FeatureStore(life.folder, clock=clock) as store:
        store.apply()
        for moment, now_us in enumerate(life.moments_us):
            life.land_before(moment)
            clock.advance(now_us - clock.now_us())
            life.materialize(store, now_us)
            for at_us in life.quiet_until(moment)[:3]:
                clock.advance(at_us - clock.now_us())
                compare(life, store, views, requests, at_us)


def compare(
    life: Life,
    store: FeatureStore,
    views: Sequence[OnDemand],
    requests: Mapping[str, DType],
    at_us: int,
) -> None:
    frame = life.entity_rows(at_us)
    sent = {name: [life.choose(VALUES[d]) for _ in frame] for name, d in requests.items()}
    answers = training_rows(frame, uses_of(life.cases, life.rows()))
    expected = []
    for number, answer in enumerate(answers):
        row = dict(answer)
        row |= {f"r__{n}": read_value(sent[n][number], d) for n, d in requests.items()}
        for view in views:
            row |= {f"{view.name}__{f.name}": f.value(row, at_us) for f in view.features}
        expected.append(row)
    names = [f"{view.name}__{f.name}" for view in views for f in view.features]
    names += [f"v0__{name}" for name in life.cases[0].features]
    wanted = [{"n": n, **{name: row[name] for name in names}} for n, row in enumerate(expected)]
    stored = [Status(row["v0__status"]).name for row in expected]
    statuses = {f"{view.name}__status": Status.PRESENT.name for view in views}
    with_statuses = [
        row | statuses | {"v0__status": status} for row, status in zip(wanted, stored, strict=True)
    ]
    asked: Any = {"sent": sent, "requests": requests, "names": names}
    dtypes = frame_dtypes(life.cases)
    check_same_rows(offline(store, frame, dtypes, **asked), with_statuses, life)
    check_same_rows(online(store, frame, stored=stored, **asked), wanted, life)


def offline(
    store: FeatureStore,
    frame: Frame,
    dtypes: Mapping[str, Any],
    *,
    sent: Mapping[str, Sequence[Value]],
    requests: Mapping[str, DType],
    names: Sequence[str],
) -> Frame:
    table = arrow_frame(frame, dtypes)
    for name, dtype in requests.items():
        table = table.append_column(name, to_array(sent[name], dtype))
    job = store.get_historical_features(
        table, "computed", full_feature_names=True, include_status=True
    )
    found = job.to_arrow()
    views = dict.fromkeys(name.partition("__")[0] for name in names)
    return numbered(found, [*names, *(f"{view}__status" for view in views)])


def online(
    store: FeatureStore,
    frame: Frame,
    *,
    stored: Sequence[str],
    sent: Mapping[str, Sequence[Value]],
    requests: Mapping[str, DType],
    names: Sequence[str],
) -> Frame:
    keys = [{name: value for name, value in row.items() if name != TIME} for row in frame]
    request = {
        name: [
            to_datetime(v) if v is not None and requests[name] == TIMESTAMP else v for v in values
        ]
        for name, values in sent.items()
    }
    answer = store.get_online_features("computed", keys, request=request, full_feature_names=True)
    found = answer.to_dict()
    for name in answer.feature_names:
        views = ["PRESENT"] * len(frame) if name.startswith("d") else stored
        statuses = [
            "NULL_VALUE" if status == "PRESENT" and value is None else status
            for value, status in zip(found[name], views, strict=True)
        ]
        assert answer.statuses[name] == statuses, (name, answer.statuses[name], statuses)
    return numbered(answer.to_arrow(), names)


def numbered(table: pa.Table, names: Sequence[str]) -> Frame:
    return [{"n": n, **row} for n, row in enumerate(to_rows(table.select(list(names))))]


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::featurestore.jobs.known_time.KnownTimeWarning"),
    pytest.mark.filterwarnings("ignore::featurestore.jobs.source_report.NullCreatedTimeWarning"),
]


@settings(max_examples=examples(3), phases=tuple(Phase) if FUZZ else (Phase.generate,))
@given(data=st.data())
def test_computed_online_is_computed_offline(data: st.DataObject) -> None:
    def choose(options: Sequence[T], /) -> T:
        return data.draw(st.sampled_from(options))

    with tempfile.TemporaryDirectory() as folder:
        live(begin(choose, Path(folder), views=2, rows_max=8))


@pytest.mark.parametrize("seed", seeds(3))
def test_more_rows(tmp_path: Path, seed: int) -> None:
    live(begin(seeded(seed), tmp_path, views=2, rows_max=20))


@pytest.mark.parametrize("seed", seeds(1))
def test_on_a_server_as_well(tmp_path: Path, seed: int) -> None:
    with RedisServer(valkey_binary()) as valkey:
        live(begin_on(valkey, seeded(seed), tmp_path, views=2, rows=10))
