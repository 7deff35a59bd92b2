"""Feature tests: literal rows, and what the features are for them at given times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

from featurestore.definitions.names import Definition, check_texts, locate, report, set_field
from featurestore.definitions.source import FileSource, Source
from featurestore.errors import TypeMismatch

TEST_TIME = "event_timestamp"
"""The key of an expectation that holds the time at which is asked."""
ROWS_PER_TEST_MAX = 10_000
"""Rows of a source, and expectations, that one test may write out."""


@dataclass(frozen=True, slots=True)
class FeatureTest(Definition):
    """An example that `featurestore test` holds the features against, offline and online.

    `features` is what is asked for, as in `get_historical_features`. `rows` are the rows of each
    file source (by object or name) under our column names; a column left out is NULL, a source
    left out has no rows, and SQL sources compute theirs. Each of `expect` is one entity row: its
    join keys, its `event_timestamp`, request inputs if there are any, and the values expected:
    `feature` or `view__feature`, and `view__status` for the name of a view's status. What is not
    named is not compared.

    Instants are `datetime`s or ISO text, decimals text or `Decimal`. Floats may differ by 1e-9 of
    their size.

    Raises `TypeMismatch` and plain `DefinitionError`; while a repository is loaded these are
    gathered.
    """

    kind: ClassVar[str] = "feature test"

    name: str
    features: Any
    _: KW_ONLY
    rows: Mapping[Source | str, Sequence[Mapping[str, Any]]] = field(
        default_factory=dict, hash=False
    )
    expect: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        locate(self)
        check_texts(self, "name")
        set_field(self, "rows", _rows_by_source(self))
        set_field(self, "expect", _dicts(self, "expect", self.expect))
        if not self.expect and self.valid:
            report(self, "expect is empty; write the values that the features have")
        for number, row in enumerate(self.expect):
            if TEST_TIME not in row:
                report(self, f"expect[{number}] has no {TEST_TIME!r}, the time at which is asked")

    @property
    def rows_by_source(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """`rows`, by the sources' names."""
        return {str(name): rows for name, rows in self.rows.items()}


def _rows_by_source(test: FeatureTest) -> dict[str, tuple[Mapping[str, Any], ...]]:
    given: Any = test.rows
    if not isinstance(given, Mapping):
        report(test, f"rows must map sources to their rows, not {given!r}", TypeMismatch)
        return {}
    found: dict[str, tuple[Mapping[str, Any], ...]] = {}
    for source, rows in given.items():
        name = source if isinstance(source, str) else getattr(source, "name", repr(source))
        if not isinstance(source, str | FileSource):
            report(test, f"rows are given for file sources, not for {name!r}", TypeMismatch)
        elif name in found:
            report(test, f"rows of {name!r} are given twice")
        else:
            found[name] = _dicts(test, f"rows of {name!r}", rows)
    return found


def _dicts(test: FeatureTest, what: str, given: Any) -> tuple[Mapping[str, Any], ...]:
    """`given` as dicts that are ours; a list alone is not enough to be sure of."""
    fine = (
        isinstance(given, Sequence)
        and not isinstance(given, str)
        and all(isinstance(row, Mapping) and all(isinstance(k, str) for k in row) for row in given)
    )
    if not fine:
        report(test, f"{what} must be a list of dicts of columns, not {given!r}", TypeMismatch)
        return ()
    if len(given) > ROWS_PER_TEST_MAX:
        limit = f"ROWS_PER_TEST_MAX = {ROWS_PER_TEST_MAX:,}"
        report(test, f"{what}: {len(given):,} rows, more than {limit}")
        return ()
    return tuple(dict(row) for row in given)
