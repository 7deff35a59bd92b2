"""Gates as pure rules: a bound, what was found, and whether that is enough, with the evidence.

What is not there can't pass: a gate whose evaluation, champion or data are missing fails and says
what to do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from featurestore.errors import GateFailed
from featurestore.lifecycle.metrics import measure, metric_of, paired_bootstrap
from featurestore.timeline import format_duration

if TYPE_CHECKING:
    import numpy as np

    from featurestore.definitions.gates import DataContract, Gates
    from featurestore.lifecycle.metrics import Floats

GateKind = Literal[
    "evaluation", "metric", "champion", "slice", "latency", "size", "contract", "skew", "signature"
]
SLICES_MAX = 1_000
"""Slices of one column. More mean that the column is a key, and each slice a handful of rows."""
SLICES_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """One gate: what it asks, whether it holds, why, and the numbers behind it."""

    name: str
    kind: GateKind
    passed: bool
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with null for what is no finite number."""
        return asdict(self) | {"evidence": _plain(self.evidence)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def check_passed(results: Iterable[GateResult], *, what: str, request: str = "") -> None:
    """Raises `GateFailed`, with what each failed gate says."""
    failed = [one for one in results if not one.passed]
    if failed:
        said = "; ".join(f"{one.name}: {one.message}" for one in failed)
        hint = f" (featurestore models show {request})" if request else ""
        raise GateFailed(
            f"{what} did not pass {len(failed)} of its gates: {said}{hint}",
            failed=[one.name for one in failed],
            request=request,
        )


def missing(name: str, kind: GateKind, message: str) -> GateResult:
    """A gate that can't be judged."""
    return GateResult(name=name, kind=kind, passed=False, message=message)


# --- metrics --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A model's predictions on the rows of an evaluation; `slices` are columns of those rows."""

    evaluation: str
    truth: Floats
    score: Floats
    slices: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)


def bound_gate(metric: str, bound: float, judged: Judged, *, at_least: bool) -> GateResult:
    """A metric over all rows against its bound."""
    found = measure(metric, judged.truth, judged.score)
    passed = found >= bound if at_least else found <= bound  # NaN passes neither
    sign = "≥" if at_least else "≤"
    return GateResult(
        name=f"{metric} {sign} {bound:g}",
        kind="metric",
        passed=passed,
        message=f"{metric} is {found:.6g}, {'' if passed else 'not '}{sign} {bound:g}",
        evidence={
            "metric": metric,
            "found": found,
            "bound": bound,
            "at_least": at_least,
            "rows": len(judged.truth),
            "evaluation": judged.evaluation,
        },
    )


def champion_gate(
    metric: str, delta: float, challenger: Judged, champion: Judged, gates: Gates
) -> GateResult:
    """No worse than the champion by more than `delta`, with the confidence that the gates state."""
    name = f"{metric} no worse than the champion's by {delta:g}"
    found = paired_bootstrap(
        metric,
        challenger.truth,
        challenger.score,
        champion.score,
        confidence=gates.confidence,
        resamples=gates.resamples,
        seed=gates.seed,
    )
    passed = found.lower >= -delta
    return GateResult(
        name=name,
        kind="champion",
        passed=passed,
        message=(
            f"{metric} is {found.challenger:.6g}, the champion's {found.champion:.6g}; with "
            f"{found.confidence:.4g} confidence better by at least {found.lower:.6g}, "
            f"{'' if passed else 'not '}≥ {-delta:g}"
        ),
        evidence=asdict(found)
        | {
            "delta": delta,
            "evaluation": challenger.evaluation,
            "champion_evaluation": champion.evaluation,
        },
    )


def slice_gate(
    column: str, metric: str, bound: float, judged: Judged, *, rows_min: int
) -> GateResult:
    """A metric in every slice that has rows enough; a slice without a value (no row of a class) is
    counted and judged no further."""
    import numpy as np

    at_least = metric_of(metric).higher_is_better
    name = f"{metric} {'≥' if at_least else '≤'} {bound:g} in every {column}"
    values = judged.slices.get(column)
    if values is None:
        return missing(name, "slice", f"the evaluation has no column {column!r}")
    distinct, codes = np.unique(values, return_inverse=True)
    if len(distinct) > SLICES_MAX:
        count = f"{len(distinct):,} values, over SLICES_MAX = {SLICES_MAX:,}"
        return missing(name, "slice", f"{column!r} has {count}; slice by something coarser")
    found, left_out = list[tuple[float, str, int]](), 0
    for code, value in enumerate(distinct):
        rows = codes == code
        result = measure(metric, judged.truth[rows], judged.score[rows])
        if rows.sum() < rows_min or math.isnan(result):
            left_out += 1
        else:
            found.append((result, str(value), int(rows.sum())))
    found.sort(reverse=not at_least)
    bad = [one for one in found if (one[0] < bound if at_least else one[0] > bound)]
    worst = f"{found[0][1]} has {found[0][0]:.6g}" if found else "none has rows enough"
    return GateResult(
        name=name,
        kind="slice",
        passed=bool(found) and not bad,
        message=f"{len(found) - len(bad)} of {len(found)} slices; the worst: {worst}",
        evidence={
            "column": column,
            "metric": metric,
            "bound": bound,
            "slices": len(found),
            "slices_left_out": left_out,
            "rows_min": rows_min,
            "worst": [list(one) for one in found[:SLICES_SHOWN]],
            "evaluation": judged.evaluation,
        },
    )


# --- budgets --------------------------------------------------------------------------------------


def latency_gate(limit_ms: float, latency: Mapping[str, float], evaluation: str) -> GateResult:
    """The 99th percentile of single predictions against the budget."""
    found = float(latency["p99_ms"])
    return GateResult(
        name=f"latency p99 ≤ {limit_ms:g} ms",
        kind="latency",
        passed=found <= limit_ms,
        message=f"a single prediction took {found:.4g} ms in 99 of 100 cases",
        evidence={**latency, "limit_ms": limit_ms, "evaluation": evaluation},
    )


def size_gate(limit: int, size: int) -> GateResult:
    """The artifact's bytes against the budget."""
    return GateResult(
        name=f"size ≤ {limit:,} bytes",
        kind="size",
        passed=size <= limit,
        message=f"the artifact has {size:,} bytes",
        evidence={"size_bytes": size, "limit_bytes": limit},
    )


# --- data -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """What a contract asks about data: counts by column, least and greatest values as floats,
    rows that repeat the unique columns, the newest event (µs)."""

    columns: tuple[str, ...]
    rows: int
    nulls: Mapping[str, int]
    ranges: Mapping[str, tuple[float | None, float | None]]
    repeated: int = 0
    newest_us: int | None = None


def contract_gates(
    contract: DataContract, facts: DataFacts, *, now_us: int
) -> tuple[GateResult, ...]:
    """Each promise of a contract as a gate of its own."""
    where = contract.of or "training set"
    results = [_rows_gate(where, contract.rows_min, facts)] if contract.rows_min else []
    results += [_null_gate(where, c, limit, facts) for c, limit in contract.null_rate_max.items()]
    results += [_range_gate(where, c, bounds, facts) for c, bounds in contract.ranges.items()]
    if contract.unique:
        results.append(_unique_gate(where, contract.unique, facts))
    if contract.age_us_max is not None:
        results.append(_age_gate(where, contract.age_us_max, facts, now_us))
    return tuple(results)


def _contract(name: str, passed: bool, message: str, **evidence: Any) -> GateResult:
    return GateResult(name=name, kind="contract", passed=passed, message=message, evidence=evidence)


def _rows_gate(where: str, least: int, facts: DataFacts) -> GateResult:
    message = f"{facts.rows:,} rows"
    return _contract(
        f"{where}: at least {least:,} rows",
        facts.rows >= least,
        message,
        rows=facts.rows,
        rows_min=least,
    )


def _null_gate(where: str, column: str, limit: float, facts: DataFacts) -> GateResult:
    name = f"{where}: at most {limit:.4g} of {column} NULL"
    if column not in facts.columns:
        return missing(name, "contract", f"there is no column {column!r}")
    nulls = facts.nulls[column]
    rate = nulls / facts.rows if facts.rows else 0.0
    message = f"{nulls:,} of {facts.rows:,} are NULL ({rate:.4g})"
    return _contract(name, rate <= limit, message, column=column, null_rate=rate, limit=limit)


def _range_gate(
    where: str, column: str, bounds: tuple[float | None, float | None], facts: DataFacts
) -> GateResult:
    low, high = bounds
    shown = f"{'−∞' if low is None else f'{low:g}'} to {'∞' if high is None else f'{high:g}'}"
    name = f"{where}: {column} from {shown}"
    if column not in facts.columns:
        return missing(name, "contract", f"there is no column {column!r}")
    least, most = facts.ranges[column]
    fine = (low is None or least is None or least >= low) and (
        high is None or most is None or most <= high
    )
    found = "there are no values" if least is None else f"values from {least:g} to {most:g}"
    return _contract(name, fine, found, column=column, found=[least, most], bounds=[low, high])


def _unique_gate(where: str, columns: Sequence[str], facts: DataFacts) -> GateResult:
    name = f"{where}: {', '.join(columns)} unique"
    absent = [column for column in columns if column not in facts.columns]
    if absent:
        return missing(name, "contract", f"there is no column {absent[0]!r}")
    message = f"{facts.repeated:,} rows repeat others"
    return _contract(name, facts.repeated == 0, message, repeated=facts.repeated)


def _age_gate(where: str, limit_us: int, facts: DataFacts, now_us: int) -> GateResult:
    name = f"{where}: newest event at most {format_duration(limit_us)} old"
    if facts.newest_us is None:
        return missing(name, "contract", "there are no events")
    age_us = now_us - facts.newest_us
    shown = format_duration(age_us // 1_000_000 * 1_000_000)
    return _contract(name, age_us <= limit_us, f"it is {shown} old", age_us=age_us, limit=limit_us)


def skew_gate(limit: float, *, equal: int, values: int, causes: Sequence[str]) -> GateResult:
    """The share of values on which the online and the offline path agree."""
    name = f"online and offline agree on at least {limit:.6g}"
    if not values:
        return missing(name, "skew", "nothing was compared; run: featurestore materialize")
    rate = equal / values
    return GateResult(
        name=name,
        kind="skew",
        passed=rate >= limit,
        message=f"{equal:,} of {values:,} values agree ({rate:.4%})",
        evidence={"rate": rate, "values": values, "equal": equal, "causes": list(causes)},
    )
