"""The parts of every step of a promotion: who acts, what it rests on, the commit that moves the
request, and trying again where another was first."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from featurestore.errors import CommitConflict, IllegalTransition, PermissionDenied
from featurestore.jobs import access
from featurestore.jobs.environments import environment_alias
from featurestore.jobs.promotion_records import EVALUATION, read, record_of
from featurestore.lifecycle.models import TARGETS, check_person, model_alias
from featurestore.lifecycle.promotions import Event, Promotion, State, expired_note, is_open
from featurestore.records import AliasIs, Record

if TYPE_CHECKING:
    from featurestore.jobs.models import Models
    from featurestore.permissions import Action

ATTEMPTS_MAX = 16
"""How often a step looks again when somebody else moved the request meanwhile."""
Step = TypeVar("Step")


def who_acts(models: Models, action: Action, name: str, by: str | None) -> str:
    """Who acts: whom the token proves; without access control whoever they say they are, or the
    author of this process."""
    resource = f"model/{name}" if action == "approve" else name
    who = access.admit(models.asker(), action, resource)
    access.note(models.registry, who, action, resource, detail="promotion")
    if by is None or by == who:
        return who
    if access.read_policy(models.registry).enforced:
        raise PermissionDenied(f"the token is {who}'s, not {by}'s", principal=who)
    return check_person(by)


def live(models: Models, request: str) -> Promotion:
    """A request that may go on. One whose time is over is closed here, and raises."""
    promotion = read(models.registry, request)
    now_us = models.clock.now_us()
    if promotion.at(now_us).state is State.EXPIRED and is_open(promotion.state):
        after = promotion.after(Event.EXPIRE, at_us=now_us)
        move(models, promotion, after, reason=f"promotion of {promotion.ref} expired")
        raise IllegalTransition(
            state=State.EXPIRED.value,
            event="anything",
            allowed=(),
            hint=f"Promotion {request}: {expired_note(promotion)}",
        )
    return promotion


def beliefs(models: Models, promotion: Promotion) -> list[AliasIs]:
    """What the evidence rests on: who is in the stages, what the environment has, what was
    evaluated last. Read before the evidence, so that what moves meanwhile is noticed."""
    names = (
        *(model_alias(promotion.name, stage, promotion.environment) for stage in TARGETS),
        environment_alias(promotion.environment),
        f"{EVALUATION}/{promotion.name}",
    )
    found = {name: models.registry.aliases(name).get(name) for name in names}
    return [AliasIs(name, None if at is None else at.target) for name, at in found.items()]


def move(models: Models, before: Promotion, after: Promotion, *also: Record, reason: str) -> None:
    record = record_of(after, before=before.record)
    models.registry.commit(
        requires=[AliasIs(before.alias, before.record)],
        records=[record, *also],
        aliases={before.alias: record.id},
        reason=reason,
    )


def check_unmoved(models: Models, before: Promotion) -> None:
    """Evidence that differs may be what somebody has just made of this very request, the new
    champion say. Raises `CommitConflict` where the request is no longer as it was read."""
    now = read(models.registry, before.id)
    if now.record != before.record:
        raise CommitConflict(before.alias, expected=before.record, found=now.record)


def retrying(step: Callable[[], Step]) -> Step:
    """A step again, where another was first: it reads anew what it decides by."""
    for _ in range(ATTEMPTS_MAX - 1):
        try:
            return step()
        except CommitConflict:
            continue
    return step()
