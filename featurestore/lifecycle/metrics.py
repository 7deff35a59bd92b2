"""Metrics of predictions, each prepared once and then computed for any weights of the rows, so that
a bootstrap of a thousand resamples sorts once.

`truth` is what happened, `score` what the model said (for classes: the probability of the positive
one). Formulas are those of scikit-learn's functions of the same names; where one has no value (no
row of a class) it is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import InvalidRequest, suggest

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Weighted = Callable[[Floats], float]

POSITIVE_FROM = 0.5
"""A score from here on means the positive class."""
PROBABILITY_MIN = float(np.finfo(np.float64).eps)
"""Nearer to 0 or 1 a probability is taken for it, so that one wrong answer does not decide all."""


@dataclass(frozen=True, slots=True)
class Metric:
    """How a metric is computed, and which way is better."""

    prepare: Callable[[Floats, Floats], Weighted]
    higher_is_better: bool
    of_classes: bool


def metric_of(name: str) -> Metric:
    """The metric of that name. Raises `InvalidRequest`."""
    if name not in METRICS:
        raise InvalidRequest(f"there is no metric {name!r}.{suggest(name, METRICS)}")
    return METRICS[name]


def measure(name: str, truth: Floats, score: Floats) -> float:
    """The metric over all rows."""
    return metric_of(name).prepare(truth, score)(np.ones(len(truth)))


def _ratio(above: Any, below: Any) -> float:
    return float(above / below) if below else float("nan")


def _mean_of(values: Floats) -> Weighted:
    return lambda weight: _ratio(weight @ values, weight.sum())


def _auc(truth: Floats, score: Floats) -> Weighted:
    """The chance that a positive row has a higher score than a negative one; ties count half."""
    order = np.argsort(score, kind="stable")
    ranked, positive = score[order], (truth[order] > 0).astype(np.float64)
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(score) else order
    # Large arrays are given back to the system when they go, and made anew page by page; what a
    # bootstrap needs a thousand times is therefore kept.
    sorted_weight, ups, downs = (np.empty(len(score)) for _ in range(3))
    up, down, below = (np.empty(len(starts)) for _ in range(3))

    def weighted(weight: Floats) -> float:
        if not len(starts):
            return float("nan")
        np.take(weight, order, out=sorted_weight)
        np.multiply(sorted_weight, positive, out=ups)
        np.subtract(sorted_weight, ups, out=downs)
        np.add.reduceat(ups, starts, out=up)
        np.add.reduceat(downs, starts, out=down)
        np.cumsum(down, out=below)
        pairs = float(up.sum() * down.sum())
        np.subtract(below, np.multiply(down, 0.5, out=down), out=below)
        return _ratio(float(up @ below), pairs)

    return weighted


def _accuracy(truth: Floats, score: Floats) -> Weighted:
    return _mean_of(((score >= POSITIVE_FROM) == (truth > 0)).astype(np.float64))


def _log_loss(truth: Floats, score: Floats) -> Weighted:
    likely = np.clip(score, PROBABILITY_MIN, 1 - PROBABILITY_MIN)
    return _mean_of(-np.where(truth > 0, np.log(likely), np.log1p(-likely)))


def _brier(truth: Floats, score: Floats) -> Weighted:
    return _mean_of((score - (truth > 0)) ** 2)


def _rates(truth: Floats, score: Floats) -> tuple[Floats, Floats, Floats]:
    """Of each row: is it positive, was it said to be, and both."""
    positive, said = (truth > 0).astype(np.float64), (score >= POSITIVE_FROM).astype(np.float64)
    return positive, said, positive * said


def _precision(truth: Floats, score: Floats) -> Weighted:
    _, said, both = _rates(truth, score)
    return lambda weight: _ratio(weight @ both, weight @ said)


def _recall(truth: Floats, score: Floats) -> Weighted:
    positive, _, both = _rates(truth, score)
    return lambda weight: _ratio(weight @ both, weight @ positive)


def _f1(truth: Floats, score: Floats) -> Weighted:
    positive, said, both = _rates(truth, score)
    return lambda weight: _ratio(2 * (weight @ both), weight @ (positive + said))


def _mae(truth: Floats, score: Floats) -> Weighted:
    return _mean_of(np.abs(truth - score))


def _mse(truth: Floats, score: Floats) -> Weighted:
    return _mean_of((truth - score) ** 2)


def _rmse(truth: Floats, score: Floats) -> Weighted:
    squared = _mse(truth, score)
    return lambda weight: float(np.sqrt(squared(weight)))


def _r2(truth: Floats, score: Floats) -> Weighted:
    squared = (truth - score) ** 2

    def weighted(weight: Floats) -> float:
        total = weight.sum()
        mean = _ratio(weight @ truth, total)
        return 1.0 - _ratio(float(weight @ squared), float(weight @ (truth - mean) ** 2))

    return weighted


METRICS: Mapping[str, Metric] = {
    "auc": Metric(_auc, higher_is_better=True, of_classes=True),
    "accuracy": Metric(_accuracy, higher_is_better=True, of_classes=True),
    "precision": Metric(_precision, higher_is_better=True, of_classes=True),
    "recall": Metric(_recall, higher_is_better=True, of_classes=True),
    "f1": Metric(_f1, higher_is_better=True, of_classes=True),
    "log_loss": Metric(_log_loss, higher_is_better=False, of_classes=True),
    "brier": Metric(_brier, higher_is_better=False, of_classes=True),
    "mae": Metric(_mae, higher_is_better=False, of_classes=False),
    "mse": Metric(_mse, higher_is_better=False, of_classes=False),
    "rmse": Metric(_rmse, higher_is_better=False, of_classes=False),
    "r2": Metric(_r2, higher_is_better=True, of_classes=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedBootstrap:
    """How much better the challenger is than the champion on the same rows, signed so that more is
    better: `difference`, and the bound below which it is with a chance of `1 - confidence` only."""

    metric: str
    champion: float
    challenger: float
    difference: float
    lower: float
    confidence: float
    resamples: int
    rows: int
    seed: int


def paired_bootstrap(
    metric: str,
    truth: Floats,
    challenger: Floats,
    champion: Floats,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> PairedBootstrap:
    """Resample the rows, both models' predictions of a row together, and take the quantile
    `1 - confidence` of the difference (the percentile bootstrap, one-sided: Efron and Tibshirani,
    An Introduction to the Bootstrap, 1993). Resamples in which the metric has no value are left
    out; the bound is NaN where none has one."""
    kind, rows = metric_of(metric), len(truth)
    sign = 1.0 if kind.higher_is_better else -1.0
    new, old = kind.prepare(truth, challenger), kind.prepare(truth, champion)
    whole = np.ones(rows)
    random, found = np.random.default_rng(seed), np.empty(resamples)
    for n in range(resamples):
        weight = np.bincount(random.integers(0, rows, rows), minlength=rows).astype(np.float64)
        found[n] = sign * (new(weight) - old(weight))
    valid = found[~np.isnan(found)]
    lower = float(np.quantile(valid, 1 - confidence)) if len(valid) else float("nan")
    return PairedBootstrap(
        metric=metric,
        champion=old(whole),
        challenger=new(whole),
        difference=sign * (new(whole) - old(whole)),
        lower=lower,
        confidence=confidence,
        resamples=resamples,
        rows=rows,
        seed=seed,
    )
