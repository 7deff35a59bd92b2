"""Which changes of definitions need a reason, and which are refused: they would take something away
from a model that is in use, or change what a model in production was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from featurestore.compiler.change_plan import Affected, Category
from featurestore.compiler.change_text import through_text
from featurestore.errors import DestructiveChange, ProductionImpact
from featurestore.lifecycle.models import PROD, TARGETS
from featurestore.records import Edge, Record

PRODUCTION = "production"
MODELS_SHOWN_MAX = 10
"""In the message of a refusal."""
NAMES_KEPT_MAX = 50
"""Of each list in the record of a change that touched models in production."""


def in_use(aliases: Iterable[str]) -> tuple[str, ...]:
    """Those of a model's aliases by which it is in use, in whatever environment."""
    return tuple(name for name in aliases if _stage(name) in TARGETS)


def stages_in(aliases: Iterable[str], environment: str) -> tuple[str, ...]:
    """The stages in which a model is in use in one environment: `model/delay/production` is of
    `prod`, `env/staging/model/delay/production` of `staging`."""
    prefix = model_prefix(environment)
    return tuple(_stage(name) for name in in_use(aliases) if name.startswith(prefix))


def model_prefix(environment: str) -> str:
    """What the aliases of an environment's models begin with."""
    return "model/" if environment == PROD else f"env/{environment}/model/"


def _stage(alias: str) -> str:
    """The stage in `…model/<name>/<stage>`; empty in `model/<name>`, the newest version."""
    *_, kind, _name, stage = ("", "", *alias.split("/"))
    return stage if kind == "model" else ""


def check_allowed(
    affected: Iterable[Affected], environment: str, *, reason: str | None
) -> tuple[Affected, ...]:
    """The models in production that a change of `environment` touches, which `reason` allows.

    Raises `DestructiveChange` where something goes that a model in use pins, whatever the reason,
    and `ProductionImpact` where something breaks below a model in production and no reason is
    given.
    """
    models = [one for one in affected if one.kind == "model"]
    losing = [
        one
        for one in models
        if one.category == Category.REMOVAL and stages_in(one.aliases, environment)
    ]
    if losing:
        raise DestructiveChange(
            f"Environment {environment!r}: models in use need what would be removed: "
            f"{_shown(losing)}. Keep these definitions, or archive the models first",
            models=[one.label for one in losing],
        )
    live = tuple(one for one in models if PRODUCTION in stages_in(one.aliases, environment))
    if live and not (reason or "").strip():
        raise ProductionImpact(
            f"Environment {environment!r}: models in production were trained on what would change: "
            f"{_shown(live)}. If that is meant, say why: --allow-production-impact REASON",
            models=[one.label for one in live],
        )
    return live


def impact_record(
    environment: str, target: str, models: Iterable[Affected], *, reason: str, action: str
) -> Record:
    """What is kept of a change that touched models in production: what was done, and why."""
    models = list(models)
    return Record(
        kind="production_impact",
        name=environment,
        body={
            "action": action,
            "reason": reason,
            "models": [one.label for one in models[:NAMES_KEPT_MAX]],
            "through": sorted({name for one in models for name in one.through})[:NAMES_KEPT_MAX],
        },
        parents=(
            Edge(parent=target, role="repo"),
            *(Edge(parent=one.id, role="model") for one in models),
        ),
    )


def _shown(models: Sequence[Affected]) -> str:
    """`delay v3 (production): landings.arr_delay`, for each."""
    parts = [f"{_in_use(one)}: {through_text(one)}" for one in models[:MODELS_SHOWN_MAX]]
    more = len(models) - MODELS_SHOWN_MAX
    return "; ".join([*parts, *([f"{more:,} more"] if more > 0 else [])])


def _in_use(one: Affected) -> str:
    return f"{one.label} ({', '.join(alias.rpartition('/')[2] for alias in one.aliases)})"
