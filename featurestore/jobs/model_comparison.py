"""A version of a model beside another one, by default the champion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.jobs.evaluations import judged, list_evaluations
from featurestore.jobs.models import Models, get
from featurestore.lifecycle.metrics import METRICS, PairedBootstrap, paired_bootstrap

if TYPE_CHECKING:
    from featurestore.jobs.evaluations import Evaluation
    from featurestore.lifecycle.models import ModelVersion

CONFIDENCE = 0.95
RESAMPLES = 500
SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelComparison:
    """A version beside another one, by default the champion.

    `metrics` as registered, by name, and `differences` are pairs: the champion's value first.
    Where both were evaluated `on` the same training set (and `split`), `paired` says of each metric
    there how much better the version is, and what is certain of that.
    """

    model: str
    champion: str
    metrics: Mapping[str, tuple[float | None, float | None]]
    differences: Mapping[str, tuple[Any, Any]]
    on: str | None = None
    split: str | None = None
    paired: tuple[PairedBootstrap, ...] = ()


def compare(models: Models, ref: str, champion: str | None = None) -> ModelComparison:
    """A version beside the one in production, or beside `champion`. Raises `RecordNotFound`."""
    new = get(models.registry, ref, environment=models.environment)
    old = get(models.registry, champion or f"{new.name}/production", environment=models.environment)
    names = sorted({*new.metrics, *old.metrics})
    common = _common(models, new, old)
    return ModelComparison(
        model=new.ref,
        champion=old.ref,
        metrics={name: (old.metrics.get(name), new.metrics.get(name)) for name in names},
        differences={name: pair for name, pair in _facts(old, new).items() if pair[0] != pair[1]},
        on=None if common is None else common[0].on,
        split=None if common is None else common[0].split,
        paired=() if common is None else _paired(models, *common),
    )


def _facts(old: ModelVersion, new: ModelVersion) -> dict[str, tuple[Any, Any]]:
    return {
        "flavor": (old.flavor, new.flavor),
        "artifact": (old.artifact.digest, new.artifact.digest),
        "size_bytes": (old.artifact.size, new.artifact.size),
        "training_set": (old.training_set, new.training_set),
        "run": (old.run, new.run),
        "service": (old.service_name, new.service_name),
        "service_version": (old.service_version, new.service_version),
        "inputs": (_inputs(old), _inputs(new)),
        "libraries": (dict(old.libraries), dict(new.libraries)),
        "author": (old.author, new.author),
    }


def _inputs(version: ModelVersion) -> list[list[str]] | None:
    return None if version.signature is None else version.signature.body()["inputs"]


def _common(
    models: Models, new: ModelVersion, old: ModelVersion
) -> tuple[Evaluation, Evaluation] | None:
    """The newest evaluations of both on one training set and split."""
    found = list_evaluations(models.registry, new.name)
    found += list_evaluations(models.registry, old.name) if old.name != new.name else ()
    of_old = {(e.on, e.split): e for e in found if e.model_id == old.id}
    for evaluation in reversed(found):
        where = evaluation.on, evaluation.split
        if evaluation.model_id == new.id != old.id and where in of_old:
            return evaluation, of_old[where]
    return None


def _paired(models: Models, new: Evaluation, old: Evaluation) -> tuple[PairedBootstrap, ...]:
    challenger, champion = (judged(models.artifacts, one) for one in (new, old))
    if not np.array_equal(challenger.truth, champion.truth):
        return ()
    return tuple(
        paired_bootstrap(
            name,
            challenger.truth,
            challenger.score,
            champion.score,
            confidence=CONFIDENCE,
            resamples=RESAMPLES,
            seed=SEED,
        )
        for name in sorted(new.metrics.keys() & old.metrics.keys() & METRICS.keys())
    )
