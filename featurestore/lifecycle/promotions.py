"""Promotion requests: the states that they go through, what an approval is bound to, who may
approve, and when a request is over.

A request is a chain of records, one for each state, under the alias `promotion/<id>`. Its evidence
says what was judged; an approval names the hash of it and is worth nothing for another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from featurestore.errors import IllegalTransition, InvalidRequest
from featurestore.fingerprint import fingerprint
from featurestore.records import StoredRecord
from featurestore.timeline import DAY_US, format_instant

PROMOTION = "promotion"
PROMOTION_LIFE_US = 7 * DAY_US
"""How long a request stays open by default."""
PROMOTION_LIFE_US_MAX = 90 * DAY_US
APPROVALS_MAX = 16


class State(Enum):
    """Where a request stands."""

    DRAFT = "DRAFT"
    CHECKS_RUNNING = "CHECKS_RUNNING"
    CHECKS_FAILED = "CHECKS_FAILED"
    PENDING_APPROVAL = "PENDING_APPROVAL"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    WITHDRAWN = "WITHDRAWN"
    APPLIED = "APPLIED"
    SUPERSEDED = "SUPERSEDED"


class Event(Enum):
    """What happens to a request."""

    CHECK = "check"
    PASS = "pass"  # noqa: S105 # no password
    FAIL = "fail"
    ENDORSE = "endorse"
    APPROVE = "approve"
    REJECT = "reject"
    WITHDRAW = "withdraw"
    EXPIRE = "expire"
    APPLY = "apply"
    SUPERSEDE = "supersede"
    BREAK_GLASS = "break the glass"


_CLOSABLE = {Event.WITHDRAW: State.WITHDRAWN, Event.EXPIRE: State.EXPIRED}
_NEXT: Mapping[State, Mapping[Event, State]] = {
    State.DRAFT: {
        Event.CHECK: State.CHECKS_RUNNING,
        Event.BREAK_GLASS: State.APPLIED,
        **_CLOSABLE,
    },
    State.CHECKS_RUNNING: {
        Event.CHECK: State.CHECKS_RUNNING,  # the process that ran them died
        Event.PASS: State.PENDING_APPROVAL,
        Event.FAIL: State.CHECKS_FAILED,
        **_CLOSABLE,
    },
    State.CHECKS_FAILED: {Event.CHECK: State.CHECKS_RUNNING, **_CLOSABLE},
    State.PENDING_APPROVAL: {
        Event.ENDORSE: State.PENDING_APPROVAL,
        Event.APPROVE: State.APPROVED,
        Event.REJECT: State.REJECTED,
        Event.CHECK: State.CHECKS_RUNNING,
        Event.SUPERSEDE: State.SUPERSEDED,
        **_CLOSABLE,
    },
    State.APPROVED: {
        Event.APPLY: State.APPLIED,
        Event.REJECT: State.REJECTED,
        Event.CHECK: State.CHECKS_RUNNING,
        Event.SUPERSEDE: State.SUPERSEDED,
        **_CLOSABLE,
    },
    State.APPLIED: {Event.SUPERSEDE: State.SUPERSEDED},
    State.REJECTED: {},
    State.EXPIRED: {},
    State.WITHDRAWN: {},
    State.SUPERSEDED: {},
}


def transition(state: State, event: Event) -> State:
    """Where `event` leads from `state`. Raises `IllegalTransition`, which says what is possible."""
    following = _NEXT[state]
    if event not in following:
        raise IllegalTransition(
            state=state.value, event=event.value, allowed=[one.value for one in following]
        )
    return following[event]


def is_open(state: State) -> bool:
    """Whether a request in this state can still lead to something."""
    return Event.EXPIRE in _NEXT[state]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a request was judged by. All are record ids but for the artifact's digest, the version
    that the environment has of the service, and the hash of the gates as declared; `champion` is
    the version that the request would replace."""

    model: str
    artifact: str
    training_set: str | None
    evaluations: tuple[str, ...]
    service: str | None
    service_version: str | None
    gates: str | None
    champion: str | None

    def body(self) -> dict[str, Any]:
        """As JSON; the order of evaluations means nothing."""
        return {
            "model": self.model,
            "artifact": self.artifact,
            "training_set": self.training_set,
            "evaluations": sorted(self.evaluations),
            "service": self.service,
            "service_version": self.service_version,
            "gates": self.gates,
            "champion": self.champion,
        }

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Evidence:
        """From a request's record."""
        return cls(**{**body, "evaluations": tuple(body["evaluations"])})

    @property
    def hash(self) -> str:
        """64 hex digits."""
        return fingerprint(self.body())

    def changes(self, other: Evidence) -> tuple[str, ...]:
        """In what `other` differs, for people."""
        before, after = self.body(), other.body()
        return tuple(name.replace("_", " ") for name in before if before[name] != after[name])


@dataclass(frozen=True, slots=True)
class Approval:
    """Somebody's consent to one state of the evidence."""

    by: str
    at_us: int
    evidence: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """A request to put a model version into a stage of an environment.

    `record` is the id of its newest state (empty before it is written), `report` that of the gate
    report. Instants are µs, UTC.
    """

    id: str
    name: str
    number: int
    model: str
    source: str
    to: str
    environment: str
    requester: str
    reason: str
    expires_at_us: int
    approvals_needed: int
    state: State = State.DRAFT
    evidence: Evidence | None = None
    report: str | None = None
    approvals: tuple[Approval, ...] = ()
    break_glass: bool = False
    note: str = ""
    record: str = ""
    at_us: int = 0
    by: str = ""
    opened_at_us: int = field(default=0)

    @property
    def alias(self) -> str:
        """`promotion/<id>`."""
        return f"{PROMOTION}/{self.id}"

    @property
    def ref(self) -> str:
        """The version that it is about: `delay/3`."""
        return f"{self.name}/{self.number}"

    def after(self, event: Event, *, note: str = "", **changes: Any) -> Promotion:
        """The request after `event`. A new check voids what was approved. Raises
        `IllegalTransition`."""
        if event is Event.CHECK:
            changes = {"approvals": (), "evidence": None, "report": None} | changes
        return replace(self, state=transition(self.state, event), note=note, **changes)

    def at(self, now_us: int) -> Promotion:
        """As it stands at that instant: expired, if it was open and its time is over."""
        if is_open(self.state) and now_us >= self.expires_at_us:
            return replace(self, state=State.EXPIRED)
        return self

    @property
    def evidence_hash(self) -> str | None:
        """Of what it was judged by last; None before that."""
        return None if self.evidence is None else self.evidence.hash

    @property
    def valid_approvals(self) -> tuple[Approval, ...]:
        """Those of the evidence as it was judged last, one for each who gave it."""
        wanted = self.evidence_hash
        return tuple({a.by: a for a in self.approvals if a.evidence == wanted}.values())

    @property
    def is_approved(self) -> bool:
        """Whether as many as are needed have approved."""
        return len(self.valid_approvals) >= self.approvals_needed

    def body(self) -> dict[str, Any]:
        """What its record holds; the model's name apart."""
        return {
            "request": self.id,
            "number": self.number,
            "model": self.model,
            "from": self.source,
            "to": self.to,
            "environment": self.environment,
            "requester": self.requester,
            "reason": self.reason,
            "opened_at_us": self.opened_at_us,
            "expires_at_us": self.expires_at_us,
            "approvals_needed": self.approvals_needed,
            "state": self.state.value,
            "evidence": None if self.evidence is None else self.evidence.body(),
            "evidence_hash": self.evidence_hash,
            "report": self.report,
            "approvals": [[a.by, a.at_us, a.evidence, a.reason] for a in self.approvals],
            "break_glass": self.break_glass,
            "note": self.note,
            "at_us": self.at_us,
        }

    @classmethod
    def of(cls, stored: StoredRecord) -> Promotion:
        """From the record of one of its states."""
        body = stored.record.body
        evidence = body["evidence"]
        return cls(
            id=body["request"],
            name=stored.record.name,
            number=int(body["number"]),
            model=body["model"],
            source=body["from"],
            to=body["to"],
            environment=body["environment"],
            requester=body["requester"],
            reason=body["reason"],
            opened_at_us=int(body["opened_at_us"]),
            expires_at_us=int(body["expires_at_us"]),
            approvals_needed=int(body["approvals_needed"]),
            state=State(body["state"]),
            evidence=None if evidence is None else Evidence.of(evidence),
            report=body["report"],
            approvals=tuple(Approval(*each) for each in body["approvals"]),
            break_glass=bool(body["break_glass"]),
            note=body["note"],
            record=stored.id,
            at_us=stored.created_at_us,
            by=stored.author,
        )


def approval_problem(promotion: Promotion, by: str, now: Evidence) -> str | None:
    """Why `by` can't approve the request while the evidence is `now`; None where they can."""
    if by == promotion.requester:
        return f"{by} asked for it, and nobody approves their own request"
    if promotion.evidence is None:
        return "its checks have not run"
    if changed := promotion.evidence.changes(now):
        return (
            f"the evidence changed after its checks ({', '.join(changed)}); run them again: "
            f"featurestore models check {promotion.id}"
        )
    if any(approval.by == by for approval in promotion.valid_approvals):
        return f"{by} has approved it already"
    return None


def check_life(life_us: int) -> int:
    """How long a request stays open. Raises `InvalidRequest`."""
    if not 0 < life_us <= PROMOTION_LIFE_US_MAX:
        raise InvalidRequest(
            "a promotion request stays open for more than 0 and at most "
            f"{PROMOTION_LIFE_US_MAX // DAY_US} days (PROMOTION_LIFE_US_MAX)"
        )
    return life_us


def expired_note(promotion: Promotion) -> str:
    """Why an expired request leads to nothing more."""
    return f"it was open until {format_instant(promotion.expires_at_us)}; ask again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What applying a request does, in one commit: the requests in their new states, and where the
    stages' aliases go."""

    promotions: tuple[Promotion, ...]
    stages: Mapping[str, str]


def apply_promotion(
    promotion: Promotion, *, event: Event, champion: str | None, others: Iterable[Promotion]
) -> Applied:
    """What putting the version of `promotion` into its stage changes, where `champion` is there now
    and `others` are the model's other requests of the environment.

    The champion is archived when it leaves production. Requests for the same stage that were
    applied or judged before are superseded: they were judged against the champion that is gone.
    """
    over = [
        other.after(Event.SUPERSEDE, note=f"{promotion.ref} was applied by {promotion.id}")
        for other in others
        if other.id != promotion.id
        and other.to == promotion.to
        and Event.SUPERSEDE in _NEXT[other.state]
    ]
    stages = {promotion.to: promotion.model}
    if promotion.to == "production" and champion not in (None, promotion.model):
        stages["archived"] = str(champion)
    done = promotion.after(event, note=promotion.note)
    return Applied(promotions=(done, *over), stages=stages)
