"""Running the feature tests of a repository: each is a small project of its own, whose sources are
the test's rows, asked in both ways.

Offline, all expectations are one entity frame. Online, the clock goes to each of their times in
turn; what is known by then is materialized, and the store is asked.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from featurestore.compiler import hashing
from featurestore.compiler.program import program_of
from featurestore.compiler.selection import select
from featurestore.compiler.typed import Metadata, TypedRepo, TypedService, Use, ViewUse
from featurestore.config import (
    OfflineSettings,
    OnlineSettings,
    ProjectSettings,
    RegistrySettings,
    Settings,
)
from featurestore.definitions.feature_test import TEST_TIME, FeatureTest
from featurestore.dtypes import DType
from featurestore.errors import FeatureStoreError, InvalidRequest, suggest
from featurestore.jobs import literal_rows
from featurestore.statuses import Status
from featurestore.store import FeatureStore
from featurestore.timeline import ManualClock, format_instant, to_us
from featurestore.wire.columns import python_rows

FLOAT_TOLERANCE = 1e-9
"""By how much of its size a float may differ from what is expected."""
_SERVICE = "feature_test"
_STATUS = "__status"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One value that is not what was expected, in the expectation of that number."""

    path: str
    number: int
    at: str
    column: str
    expected: Any
    found: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TestOutcome:
    """What became of one test: it passed, or it has mismatches, or an error."""

    name: str
    file: str
    line: int
    values: int
    mismatches: tuple[Mismatch, ...] = ()
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether every value was as expected, in both paths."""
        return not self.mismatches and not self.error


def run_all(repo: TypedRepo, tests: Sequence[FeatureTest]) -> Iterator[TestOutcome]:
    """Run `tests` against the definitions of `repo`, one after the other."""
    for test in tests:
        try:
            values, found = _run(repo, test)
        except FeatureStoreError as error:
            yield _outcome(test, 0, error=str(error))
        else:
            yield _outcome(test, values, mismatches=tuple(found))


def _outcome(test: FeatureTest, values: int, **more: Any) -> TestOutcome:
    return TestOutcome(name=test.name, file=test.file, line=test.line, values=values, **more)


def _run(repo: TypedRepo, test: FeatureTest) -> tuple[int, list[Mismatch]]:
    with tempfile.TemporaryDirectory(prefix="featurestore-test-") as name:
        root = Path(name)
        own = literal_rows.with_literal_rows(repo, test.rows_by_source, root)
        example = _Example(own, _uses(repo, own, test.features), test)
        clock = ManualClock(min(example.times_us))
        with FeatureStore(_settings(root), clock=clock, definitions=example.repo) as store:
            found = list(example.compare("offline", example.offline(store)))
            found += example.compare("online", example.online(store, clock))
    return 2 * sum(len(row) for row in example.wanted), found


def _uses(repo: TypedRepo, own: TypedRepo, features: Any) -> tuple[Use, ...]:
    """What is asked for, as uses of the views of `own`, the project of the test."""
    found: list[Use] = []
    for use in select(repo, features):
        if isinstance(use, ViewUse):
            found.append(replace(use, view=own.views[use.view.name]))
        else:
            found.append(replace(use, view=own.on_demand[use.view.name]))
    return tuple(found)


def _settings(root: Path) -> Settings:
    return Settings(
        root=root,
        project=ProjectSettings(name="feature-test"),
        registry=RegistrySettings(),
        offline=OfflineSettings(threads=1),
        online=OnlineSettings(map_size_mb=8),
    )


class _Example:
    """A test's expectations read against the types of what it asks for."""

    def __init__(self, repo: TypedRepo, uses: tuple[Use, ...], test: FeatureTest) -> None:
        service = TypedService(
            name=_SERVICE,
            uses=uses,
            version=hashing.service_version(_SERVICE, uses),
            metadata=Metadata(),
        )
        self.repo = replace(repo, services={_SERVICE: service})
        self._uses = uses
        program = program_of(uses)
        self._views = sorted({use.view.name for use in program.joined})
        self._inputs = {one.name: one.dtype for one in program.requests}
        self._keys = {
            column: key.dtype
            for use in program.joined
            for column, key in zip(use.key_columns, use.view.keys, strict=True)
        }
        self._outputs = _output_dtypes(uses)
        self.times_us = [to_us(row[TEST_TIME]) for row in test.expect]
        self.entities = [self._entity(n, row) for n, row in enumerate(test.expect)]
        self.inputs = [self._request(n, row) for n, row in enumerate(test.expect)]
        self.wanted = [dict(self._expected(n, row)) for n, row in enumerate(test.expect)]

    def offline(self, store: FeatureStore) -> list[dict[str, Any]]:
        """The historical answer to each expectation, by `view__feature` and `view__status`."""
        import pyarrow as pa

        rows = [e | r for e, r in zip(self.entities, self.inputs, strict=True)]
        frame = literal_rows.table(rows, self._inputs | self._keys, what="expect")
        times = pa.array(self.times_us, pa.int64()).cast(pa.timestamp("us", tz="UTC"))
        job = store.get_historical_features(
            frame.append_column(TEST_TIME, times),
            _SERVICE,
            full_feature_names=True,
            include_status=True,
        )
        found: list[dict[str, Any]] = python_rows(job.to_arrow())
        return found

    def online(self, store: FeatureStore, clock: ManualClock) -> list[dict[str, Any]]:
        """The online answer to each expectation when the clock stands at its time."""
        store.apply()
        found: list[dict[str, Any]] = [{} for _ in self.entities]
        for at_us in sorted(set(self.times_us)):
            clock.advance(at_us - clock.now_us())
            if self._views:
                store.materialize(self._views)
            numbers = [n for n, other in enumerate(self.times_us) if other == at_us]
            answer = store.get_online_features(
                _SERVICE,
                [self.entities[n] for n in numbers],
                request=[self.inputs[n] for n in numbers],
                full_feature_names=True,
            )
            rows = python_rows(answer.to_arrow())
            for place, number in enumerate(numbers):
                found[number] = rows[place] | self._statuses(answer.statuses, place)
        return found

    def compare(self, path: str, found: Sequence[Mapping[str, Any]]) -> Iterator[Mismatch]:
        """What differs from the expectations in one path."""
        for number, (wanted, row) in enumerate(zip(self.wanted, found, strict=True)):
            for column, value in wanted.items():
                got = row[column]
                dtype = self._outputs.get(column)
                if dtype is not None:
                    got = literal_rows.literal(got, dtype)
                if not _same(value, got):
                    yield Mismatch(
                        path=path,
                        number=number,
                        at=format_instant(self.times_us[number]),
                        column=column,
                        expected=value,
                        found=got,
                    )

    def _statuses(self, statuses: Mapping[str, Sequence[str]], place: int) -> dict[str, str]:
        """Statuses of views out of those of values, where a NULL has one of its own."""
        found = {}
        for use in self._uses:
            name = statuses[f"{use.name}__{use.features[0].name}"][place]
            null = name == Status.NULL_VALUE.name
            found[use.name + _STATUS] = Status.PRESENT.name if null else name
        return found

    def _entity(self, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
        missing = [key for key in self._keys if key not in row]
        if missing:
            raise InvalidRequest(f"expect[{number}] lacks the join keys {', '.join(missing)}")
        return {key: row[key] for key in self._keys}

    def _request(self, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
        missing = [name for name in self._inputs if name not in row]
        if missing:
            raise InvalidRequest(f"expect[{number}] lacks the request inputs {', '.join(missing)}")
        found = {}
        for name, dtype in self._inputs.items():
            try:
                found[name] = literal_rows.column([row[name]], dtype)[0].as_py()
            except ValueError as error:
                raise InvalidRequest(f"expect[{number}], {name!r}: {error}") from None
        return found

    def _expected(self, number: int, row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Full column name and plain value of everything that a row expects."""
        short = _full_names(self._uses)
        for name, value in row.items():
            if name in self._keys or name in self._inputs or name == TEST_TIME:
                continue
            full = short.get(name, [name])
            if len(full) > 1:
                raise InvalidRequest(
                    f"expect[{number}]: {name!r} may be {' or '.join(full)}; write it in full"
                )
            if full[0] not in self._outputs:
                close = suggest(name, [*short, *self._outputs])
                raise InvalidRequest(f"expect[{number}]: {name!r} is not asked for.{close}")
            dtype = self._outputs[full[0]]
            try:
                plain = value if dtype is None else literal_rows.literal(value, dtype)
            except ValueError as error:
                raise InvalidRequest(f"expect[{number}], {name!r}: {error}") from None
            yield full[0], getattr(plain, "name", plain)


def _full_names(uses: Sequence[Use]) -> dict[str, list[str]]:
    """Short name of each feature → the full names that it may stand for."""
    names: dict[str, list[str]] = {}
    for use in uses:
        for feature in use.features:
            names.setdefault(feature.name, []).append(f"{use.name}__{feature.name}")
    return names


def _output_dtypes(uses: Sequence[Use]) -> dict[str, DType | None]:
    """Full name of each output → its type; None for statuses, which are names."""
    features = {f"{use.name}__{f.name}": f.dtype for use in uses for f in use.features}
    return features | {use.name + _STATUS: None for use in uses}


def _same(expected: Any, found: Any) -> bool:
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(_same, expected, found))
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() == found.keys() and all(_same(expected[k], found[k]) for k in found)
    if isinstance(expected, float) and isinstance(found, float):
        return math.isclose(expected, found, rel_tol=FLOAT_TOLERANCE, abs_tol=FLOAT_TOLERANCE)
    if isinstance(expected, Decimal) and isinstance(found, Decimal):
        return expected == found
    return type(expected) is type(found) and bool(expected == found)
