"""Promotion requests as the registry keeps them: what one is judged by, the records of its states
and decisions, and how they are read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.errors import RecordNotFound
from featurestore.fingerprint import fingerprint
from featurestore.jobs.models import Models, read_version, service_version_in, target_at
from featurestore.lifecycle.models import ModelVersion, model_alias, parents_by_role
from featurestore.lifecycle.promotions import PROMOTION, Evidence, Promotion
from featurestore.records import Edge, Record

if TYPE_CHECKING:
    from featurestore.definitions.gates import Gates
    from featurestore.stores.registry.base import Registry

EVALUATIONS_LISTED_MAX = 200
"""Of a version, in the record of a request."""
APPROVAL = "approval"
BREAK_GLASS = "break_glass"
EVALUATION = "evaluation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the repository declares about a model's promotions: the hash of its gates (None: there
    are none), and how many must approve of production."""

    gates: str | None = None
    approvals: int = 1

    @classmethod
    def of(cls, gates: Gates | None) -> Rules:
        """From what the repository declares for the model."""
        return cls() if gates is None else cls(gates=gates.fingerprint, approvals=gates.approvals)

    def approvals_for(self, to: str) -> int:
        """Staging needs nobody's consent."""
        return self.approvals if to == "production" else 0


def read(registry: Registry, request: str, *, now_us: int | None = None) -> Promotion:
    """A request as it stands, at an instant if one is given. Raises `RecordNotFound`."""
    alias = f"{PROMOTION}/{request}"
    found = registry.aliases(alias).get(alias)
    if found is None:
        known = [name.partition("/")[2] for name in registry.aliases(f"{PROMOTION}/")]
        raise RecordNotFound(f"promotion {request}", known=known)
    promotion = Promotion.of(registry.record(found.target))
    return promotion if now_us is None else promotion.at(now_us)


def list_promotions(
    registry: Registry,
    name: str | None = None,
    *,
    environment: str | None = None,
    now_us: int | None = None,
) -> tuple[Promotion, ...]:
    """The requests (of one model, of one environment) as they stand, oldest first."""
    # Every state moved the request's alias, so the last record of a request is where it stands.
    states = map(Promotion.of, registry.records(kind=PROMOTION, name=name))
    found = {promotion.id: promotion for promotion in states}
    chosen = [
        promotion if now_us is None else promotion.at(now_us)
        for promotion in found.values()
        if environment in (None, promotion.environment)
    ]
    return tuple(sorted(chosen, key=lambda promotion: (promotion.opened_at_us, promotion.id)))


def states_of(registry: Registry, request: str) -> tuple[Promotion, ...]:
    """All states that a request went through, oldest first."""
    newest = read(registry, request)
    chain, before = [newest], registry.record(newest.record).record
    while (above := parents_by_role(before).get(PROMOTION)) is not None:
        stored = registry.record(above)
        chain.append(Promotion.of(stored))
        before = stored.record
    return tuple(reversed(chain))


def evidence_of(models: Models, promotion: Promotion, rules: Rules) -> Evidence:
    """What the request would be judged by now."""
    version = read_version(models.registry, promotion.model)
    return Evidence(
        model=version.id,
        artifact=version.artifact.digest,
        training_set=version.training_set,
        evaluations=_judged_by(evaluations_of(models.registry, version)),
        service=version.service_name,
        service_version=service_version_in(
            models.registry, promotion.environment, version.service_name
        ),
        gates=rules.gates,
        champion=champion_of(models.registry, promotion.name, promotion.environment),
    )


def _judged_by(evaluations: list[str]) -> tuple[str, ...]:
    """The newest ones, and a hash of those before where a record could not list them all."""
    older = evaluations[:-EVALUATIONS_LISTED_MAX]
    listed = evaluations[-EVALUATIONS_LISTED_MAX:]
    return (*listed, *((f"older: {fingerprint(older)}",) if older else ()))


def champion_of(registry: Registry, name: str, environment: str) -> str | None:
    """The id of the version in production."""
    return target_at(registry, model_alias(name, "production", environment), None)


def evaluations_of(registry: Registry, version: ModelVersion) -> list[str]:
    """The ids of a version's evaluations, oldest first."""
    return [
        stored.id
        for stored in registry.records(kind=EVALUATION, name=version.name)
        if parents_by_role(stored.record).get("model") == version.id
    ]


def record_of(promotion: Promotion, *, before: str | None = None) -> Record:
    parents = [Edge(parent=promotion.model, role="model")]
    if before:
        parents.append(Edge(parent=before, role=PROMOTION))
    if promotion.report is not None:
        parents.append(Edge(parent=promotion.report, role="gate_report"))
    if promotion.evidence is not None:
        listed = [one for one in promotion.evidence.evaluations if "@" in one]
        parents += [Edge(parent=one, role=EVALUATION) for one in listed]
    return Record(
        kind=PROMOTION, name=promotion.name, body=promotion.body(), parents=tuple(parents)
    )


def decision_of(
    promotion: Promotion,
    who: str,
    evidence: Evidence | None,
    *,
    decision: str,
    reason: str,
    at_us: int,
) -> Record:
    body: Mapping[str, object] = {
        "request": promotion.id,
        "by": who,
        "decision": decision,
        "evidence_hash": None if evidence is None else evidence.hash,
        "reason": reason,
        "at_us": at_us,
    }
    parents = (
        Edge(parent=promotion.model, role="model"),
        Edge(parent=promotion.record, role=PROMOTION),
    )
    return Record(kind=APPROVAL, name=promotion.name, body=body, parents=parents)


def glass_record(request: Promotion, *, champion: str | None, at_us: int) -> Record:
    """The event that somebody broke the glass."""
    body = {
        "request": request.id,
        "by": request.requester,
        "reason": request.reason,
        "to": request.to,
        "environment": request.environment,
        "champion": champion,
        "at_us": at_us,
    }
    parents = (Edge(parent=request.model, role="model"),)
    return Record(kind=BREAK_GLASS, name=request.name, body=body, parents=parents)


def move_reason(promotion: Promotion) -> str:
    """What the history of a stage says of the commit that applied a request; it names the request,
    so that no two are the same."""
    glass = "break-glass: " if promotion.break_glass else ""
    return f"{glass}{promotion.reason} (promotion {promotion.id})"
