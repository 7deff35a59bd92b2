"""Gates: what a version of a model must prove before it is promoted. They stand beside the features
and change no version of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from datetime import timedelta
from typing import Any, ClassVar

from featurestore.definitions.names import (
    Definition,
    check_duration,
    check_texts,
    locate,
    report,
    set_field,
)
from featurestore.errors import TypeMismatch
from featurestore.fingerprint import fingerprint
from featurestore.timeline import parse_duration

RESAMPLES_MAX = 100_000
APPROVALS_MAX = 16
SKEW_SAMPLES_MAX = 100_000


@dataclass(frozen=True, slots=True)
class DataContract(Definition):
    """What data must be like. `of` is a source's name; without it, the training set of the model.

    `null_rate_max` and `ranges` (least, greatest; None: open) are by column, NULLs left out of
    ranges; in the rows no combination of the columns `unique` stands twice; the newest event is at
    most `age_max` old.

    Raises `TypeMismatch` and plain `DefinitionError`; while a repository is loaded these are
    gathered.
    """

    kind: ClassVar[str] = "data contract"

    _: KW_ONLY
    of: str | None = None
    rows_min: int = 0
    null_rate_max: Mapping[str, float] = field(default_factory=dict, hash=False)
    ranges: Mapping[str, tuple[float | None, float | None]] = field(
        default_factory=dict, hash=False
    )
    unique: Sequence[str] = ()
    age_max: str | timedelta | None = None

    @property
    def name(self) -> str:
        """What it is of, for errors."""
        return self.of or "training set"

    def __post_init__(self) -> None:
        locate(self)
        check_texts(self, "of")
        check_duration(self, "age_max")
        _check_count(self, "rows_min", least=0, most=None)
        _numbers(self, "null_rate_max", least=0.0, most=1.0)
        set_field(self, "ranges", _ranges(self))
        names: Any = self.unique
        named = [names] if isinstance(names, str) else names
        if not isinstance(named, Sequence) or not all(isinstance(n, str) for n in named):
            report(self, f"unique must be a list of columns, not {names!r}", TypeMismatch)
            named = ()
        set_field(self, "unique", tuple(named))

    @property
    def age_us_max(self) -> int | None:
        """`age_max` in µs."""
        return None if self.age_max is None else parse_duration(self.age_max)

    def body(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "of": self.of,
            "rows_min": self.rows_min,
            "null_rate_max": dict(self.null_rate_max),
            "ranges": {name: list(bounds) for name, bounds in self.ranges.items()},
            "unique": list(self.unique),
            "age_us_max": self.age_us_max,
        }


@dataclass(frozen=True, slots=True)
class Gates(Definition):
    """The gates of the model `model`.

    It is judged on `evaluate_on`, a training set (`"flights"`, or a split of it: `"flights/test"`).
    Metrics there must be at least `minimum` or at most `maximum`; no worse than the champion's by
    more than `no_worse`, with `confidence` by a paired bootstrap of `resamples`; and in every slice
    (value of the column) of at least `slice_rows_min` rows at least `slices`. A single prediction
    takes at most `latency_ms_max` in 99 of 100 cases; the artifact has at most `size_bytes_max`.
    `contracts` hold for the data; of `skew_samples` entities the online and the offline path agree
    on at least `skew_rate_min` of the values. `approvals` people must consent to production.

    Raises `TypeMismatch` and plain `DefinitionError`; while a repository is loaded these are
    gathered.
    """

    kind: ClassVar[str] = "gates"

    model: str
    _: KW_ONLY
    evaluate_on: str | None = None
    minimum: Mapping[str, float] = field(default_factory=dict, hash=False)
    maximum: Mapping[str, float] = field(default_factory=dict, hash=False)
    no_worse: Mapping[str, float] = field(default_factory=dict, hash=False)
    confidence: float = 0.95
    resamples: int = 1_000
    seed: int = 0
    slices: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)
    slice_rows_min: int = 30
    latency_ms_max: float | None = None
    size_bytes_max: int | None = None
    contracts: DataContract | Sequence[DataContract] = ()
    skew_rate_min: float | None = None
    skew_samples: int = 200
    approvals: int = 1

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model

    def __post_init__(self) -> None:
        locate(self)
        check_texts(self, "model", "evaluate_on")
        for name in ("minimum", "maximum"):
            _numbers(self, name)
        _numbers(self, "no_worse", least=0.0)
        set_field(self, "slices", _slices(self))
        _check_number(self, "confidence", least=0.5, most=0.9999)
        _check_number(self, "latency_ms_max", least=0.0)
        _check_number(self, "skew_rate_min", least=0.0, most=1.0)
        _check_count(self, "resamples", least=100, most=RESAMPLES_MAX)
        _check_count(self, "seed", least=0, most=None)
        _check_count(self, "slice_rows_min", least=1, most=None)
        _check_count(self, "skew_samples", least=1, most=SKEW_SAMPLES_MAX)
        _check_count(self, "approvals", least=1, most=APPROVALS_MAX)
        if self.size_bytes_max is not None:
            _check_count(self, "size_bytes_max", least=1, most=None)
        given: Any = self.contracts
        contracts = (given,) if isinstance(given, DataContract) else given
        if not isinstance(contracts, Sequence) or not all(
            isinstance(one, DataContract) for one in contracts
        ):
            report(self, f"contracts must be DataContract(…), not {given!r}", TypeMismatch)
            contracts = ()
        set_field(self, "contracts", tuple(contracts))
        if self.judges and self.evaluate_on is None and self.valid:
            report(self, 'evaluate_on is missing; name a training set, "flights/test"')

    @property
    def judges(self) -> bool:
        """Whether there is a gate that looks at predictions."""
        wanted = self.minimum, self.maximum, self.no_worse, self.slices
        return any(wanted) or self.latency_ms_max is not None

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics that a gate names, in name order."""
        sliced = [name for bounds in self.slices.values() for name in bounds]
        return tuple(sorted({*self.minimum, *self.maximum, *self.no_worse, *sliced}))

    @property
    def all_contracts(self) -> tuple[DataContract, ...]:
        """`contracts` as a tuple."""
        given: Any = self.contracts
        return tuple(given)

    @property
    def fingerprint(self) -> str:
        """The hash of all that they ask: a part of the evidence of a promotion."""
        return fingerprint(self.body())

    def body(self) -> dict[str, Any]:
        """As JSON."""
        left_out = ("file", "line", "valid", "contracts", "slices")
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        return {
            **{k: dict(v) if isinstance(v, Mapping) else v for k, v in plain.items() if k != "_"},
            "slices": {column: dict(bounds) for column, bounds in self.slices.items()},
            "contracts": [contract.body() for contract in self.all_contracts],
        }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _inside(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _bounds(least: float | None, most: float | None) -> str:
    if least is None:
        return "a number"
    return f"at least {least:g}" if most is None else f"{least:g} to {most:g}"


def _check_number(
    definition: Definition, name: str, *, least: float | None = None, most: float | None = None
) -> None:
    value = getattr(definition, name)
    if value is None:
        return
    if not _is_number(value) or not _inside(value, least, most):
        report(definition, f"{name} must be {_bounds(least, most)}, not {value!r}", TypeMismatch)


def _check_count(definition: Definition, name: str, *, least: int, most: int | None) -> None:
    value = getattr(definition, name)
    fine = isinstance(value, int) and not isinstance(value, bool) and _inside(value, least, most)
    if not fine:
        wanted = f"a whole number, {_bounds(least, most)}"
        report(definition, f"{name} must be {wanted}, not {value!r}", TypeMismatch)


def _numbers(
    definition: Definition, name: str, *, least: float | None = None, most: float | None = None
) -> None:
    """Settle a mapping of names to numbers as a plain dict; report what is something else."""
    given: Any = getattr(definition, name)
    fine = isinstance(given, Mapping) and all(
        isinstance(key, str) and _is_number(value) and _inside(value, least, most)
        for key, value in given.items()
    )
    if not fine:
        wanted = (
            f"map names to numbers, {_bounds(least, most)}"
            if least is not None
            else ("map names to numbers")
        )
        report(definition, f"{name} must {wanted}, not {given!r}", TypeMismatch)
    set_field(definition, name, dict(given) if fine else {})


def _slices(gates: Gates) -> dict[str, dict[str, float]]:
    given: Any = gates.slices
    fine = isinstance(given, Mapping) and all(
        isinstance(column, str)
        and isinstance(bounds, Mapping)
        and all(isinstance(k, str) and _is_number(v) for k, v in bounds.items())
        for column, bounds in given.items()
    )
    if not fine:
        example = '{"carrier": {"auc": 0.6}}'
        report(gates, f"slices must be like {example}, not {given!r}", TypeMismatch)
        return {}
    return {column: dict(bounds) for column, bounds in given.items()}


def _ranges(contract: DataContract) -> dict[str, tuple[float | None, float | None]]:
    given: Any = contract.ranges
    found: dict[str, tuple[float | None, float | None]] = {}
    for column, bounds in given.items() if isinstance(given, Mapping) else [("", given)]:
        fine = (
            isinstance(bounds, Sequence)
            and not isinstance(bounds, str)
            and len(bounds) == 2
            and all(bound is None or _is_number(bound) for bound in bounds)
        )
        if not fine:
            example = '{"temp": (-60, 60)}'
            report(contract, f"ranges must be like {example}, not {given!r}", TypeMismatch)
            return {}
        found[str(column)] = (bounds[0], bounds[1])
    return found
